// Names and sizes of the plain types.
#include "adamant/types.hpp"

#include "adamant/tuning.hpp"
#include "host/cpu_update.hpp"
#include "host/text.hpp"

namespace adamant {

std::string_view name(DataType type) {
  switch (type) {
    case DataType::float64: return "float64";
    case DataType::bfloat16: return "bfloat16";
    case DataType::float16: return "float16";
    default: return "float32";
  }
}

std::int64_t size_in_bytes(DataType type) {
  switch (type) {
    case DataType::float64: return 8;
    case DataType::bfloat16:
    case DataType::float16: return 2;
    default: return 4;
  }
}

std::string_view name(Master master) {
  switch (master) {
    case Master::none: return "none";
    case Master::float32: return "float32";
    case Master::remainder: return "remainder";
    case Master::stochastic: return "stochastic";
    default: return "automatic";
  }
}

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
