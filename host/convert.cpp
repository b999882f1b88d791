#include "host/convert.hpp"

#include <cstring>

#include "kernels/apply.hpp"
#include "kernels/storage.hpp"
#include "kernels/storage_types.hpp"

namespace adamant::host {
namespace {

template <typename To, typename From>
std::vector<std::byte> converted(std::span<const std::byte> values) {
  const std::size_t count = values.size() / sizeof(From);
  std::vector<std::byte> result(count * sizeof(To));
  for (std::size_t i = 0; i < count; ++i) {
    From from;
    std::memcpy(&from, values.data() + i * sizeof(From), sizeof(From));
    To to;
    if constexpr (std::is_same_v<To, double>) {
      to = kernels::canonical(kernels::widened<double>(from));
    } else {
      to = kernels::Narrow<To>::of(kernels::canonical(kernels::widened<float>(from)));
    }
    std::memcpy(result.data() + i * sizeof(To), &to, sizeof(To));
  }
  return result;
}

template <typename Storage>
void make_master_of(void* kept, const void* parameter, std::int64_t count) {
  if constexpr (std::is_same_v<typename Storage::Master, kernels::FloatMaster>) {
    const auto* const from = static_cast<const typename Storage::Parameter*>(parameter);
    auto* const to = static_cast<float*>(kept);
    for (std::int64_t i = 0; i < count; ++i) to[i] = kernels::canonical(kernels::widened<float>(from[i]));
  }
}

template <typename... Storages>
void make_master_of(int storage, void* kept, const void* parameter, std::int64_t count,
                    TypeList<Storages...> /*storages*/) {
  int index = 0;
  ((storage == index++ ? make_master_of<Storages>(kept, parameter, count) : void()), ...);
}

}  // namespace

void make_master(int storage, void* kept, const void* parameter, std::int64_t count) {
  make_master_of(storage, kept, parameter, count, kernels::Storages{});
}

bool is_convertible(DataType from, DataType to) {
  if (from == to) return true;
  const auto is_wide = [](DataType type) { return type == DataType::float64; };
  const auto is_narrow = [](DataType type) { return type == DataType::bfloat16 || type == DataType::float16; };
  return !(is_wide(from) && is_narrow(to)) && !(is_narrow(from) && is_wide(to));
}

std::vector<std::byte> converted(std::span<const std::byte> values, DataType from, DataType to) {
  return kernels::with_type(from, [&]<typename From>(From /*like*/) {
    return kernels::with_type(to, [&]<typename To>(To /*like*/) { return converted<To, From>(values); });
  });
}

SplitParameter split(std::span<const std::byte> values, DataType parameter, Master master) {
  if (master != Master::remainder) {
    SplitParameter result{converted(values, DataType::float32, parameter), {}};
    if (master == Master::float32) result.kept.assign(values.begin(), values.end());
    return result;
  }
  const std::size_t count = values.size() / sizeof(float);
  SplitParameter result{std::vector<std::byte>(count * sizeof(bfloat16)),
                        std::vector<std::byte>(count * sizeof(std::uint16_t))};
  for (std::size_t i = 0; i < count; ++i) {
    float value;
    std::memcpy(&value, values.data() + i * sizeof value, sizeof value);
    bfloat16 upper{};
    std::uint16_t lower = 0;
    kernels::RemainderMaster::split(value, 0, upper, lower);
    std::memcpy(result.parameter.data() + i * sizeof upper, &upper, sizeof upper);
    std::memcpy(result.kept.data() + i * sizeof lower, &lower, sizeof lower);
  }
  return result;
}

std::vector<std::byte> joined_with_remainder(std::span<const std::byte> parameter,
                                             std::span<const std::byte> remainder) {
  const std::size_t count = parameter.size() / sizeof(bfloat16);
  std::vector<std::byte> result(count * sizeof(float));
  for (std::size_t i = 0; i < count; ++i) {
    bfloat16 upper{};
    std::uint16_t lower = 0;
    std::memcpy(&upper, parameter.data() + i * sizeof upper, sizeof upper);
    std::memcpy(&lower, remainder.data() + i * sizeof lower, sizeof lower);
    const auto value = kernels::RemainderMaster::full<float>(upper, lower);
    std::memcpy(result.data() + i * sizeof value, &value, sizeof value);
  }
  return result;
}

}  // namespace adamant::host
