// The values that benchmarks run on.
#pragma once

#include <cstdint>

#include "adamant/macros.hpp"

namespace adamant::bench {

// What element `i` of an array is filled with: of the size that training sees, either sign, never zero or subnormal,
// different for every element. (Zeros take less power to move and to compute with, and flatter.)
ADAMANT_HOST_DEVICE double realistic_value(std::int64_t i, double scale) {
  const auto mixed = static_cast<std::uint64_t>(i) * 0x9E3779B97F4A7C15ULL;
  const double unit = static_cast<double>(mixed >> 40) * 0x1p-24;
  return ((mixed & 1) != 0 ? 1.0 : -1.0) * scale * (0.1 + unit);
}

inline constexpr double kParameterScale = 1.0;
inline constexpr double kGradientScale = 1e-2;

}  // namespace adamant::bench
