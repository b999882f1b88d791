// How far two results are from each other: bits, ulps, and the yardstick of the PyTorch traces.
#pragma once

#include <bit>
#include <cstdint>
#include <span>

#include "adamant/types.hpp"

namespace adamant::measure {

// The spacing of numbers of a type at the magnitude of x: for a power of two the spacing above it.
double ulp(DataType type, double x);

// Bits of a number, to compare with: +0 differs from -0, and a NaN equals one of the same pattern.
inline std::uint32_t bits(float x) { return std::bit_cast<std::uint32_t>(x); }
inline std::uint64_t bits(double x) { return std::bit_cast<std::uint64_t>(x); }

// Two arrays of the same type and length, bit by bit.
struct Difference {
  std::int64_t mismatches = 0;
  std::int64_t first = -1;  // index of the first mismatch
};
template <typename Real>
Difference difference(std::span<const Real> left, std::span<const Real> right) {
  Difference result;
  for (std::size_t i = 0; i < left.size(); ++i) {
    if (bits(left[i]) == bits(right[i])) continue;
    if (result.mismatches++ == 0) result.first = static_cast<std::int64_t>(i);
  }
  return result;
}

// A distribution of errors.
struct Errors {
  double root_mean_square = 0;
  double mean = 0;
  double percentile_99 = 0;
  double largest = 0;
  std::int64_t largest_at = -1;
};

// |got - expected| / the spacing of float32 at scale, each in double. Equal infinities and two NaNs are no error;
// anything else that is not finite is an infinite one.
Errors errors_in_ulps(std::span<const double> got, std::span<const double> expected, std::span<const double> scale);

}  // namespace adamant::measure
