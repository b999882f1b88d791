// Names and sizes of the plain types.
#include "adamant/types.hpp"

#include "adamant/tuning.hpp"
#include "host/cpu_update.hpp"
#include "host/text.hpp"

namespace adamant {

std::string_view name(DataType type) { return type == DataType::float32 ? "float32" : "float64"; }

std::int64_t size_in_bytes(DataType type) { return type == DataType::float32 ? 4 : 8; }

std::string name(Device device) {
  return device.kind == Device::Kind::cpu ? "cpu" : "cuda:" + host::to_text(device.index);
}

std::string_view name(SimdLevel level) {
  switch (level) {
    case SimdLevel::avx512: return "avx512";
    case SimdLevel::avx2: return "avx2";
    default: return "baseline";
  }
}

std::vector<SimdLevel> simd_levels() {
  std::vector<SimdLevel> levels;
  for (const host::UpdateTable& table : host::update_tables()) levels.push_back(table.level);
  return levels;
}

}  // namespace adamant
