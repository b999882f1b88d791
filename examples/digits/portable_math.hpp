// exp, log and random numbers that are the same on every machine; those of the standard library are not.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

/// exp(x) for x <= 0, which is all that a softmax with its largest logit subtracted asks for.
inline double exponential(double x) {
  if (!(x > -700.0)) return 0.0;  // below, the result would leave the normal numbers
  // x = k ln 2 + r with |r| <= ln 2 / 2, so that exp(x) = 2^k exp(r); ten terms of its series are right to 1e-9.
  const auto k = static_cast<std::int64_t>(x * 1.4426950408889634 - 0.5);
  const double r = x - static_cast<double>(k) * 0.6931471805599453;
  double sum = 1.0;
  for (int n = 9; n >= 1; --n) sum = 1.0 + r * sum / n;
  return sum * std::bit_cast<double>(static_cast<std::uint64_t>(k + 1023) << 52);
}

/// The natural logarithm of a normal x > 0.
inline double logarithm(double x) {
  // x = 2^k m with m in [1, 2), and log(m) = 2 artanh((m - 1) / (m + 1)) as a series in (m - 1) / (m + 1) <= 1/3.
  const auto bits = std::bit_cast<std::uint64_t>(x);
  const auto k = static_cast<std::int64_t>(bits >> 52) - 1023;
  const double m = std::bit_cast<double>((bits & 0xFFFFFFFFFFFFFULL) | (1023ULL << 52));
  const double s = (m - 1.0) / (m + 1.0);
  double sum = 0.0;
  for (int n = 21; n >= 1; n -= 2) sum = sum * s * s + 1.0 / n;
  return static_cast<double>(k) * 0.6931471805599453 + 2.0 * s * sum;
}

/// SplitMix64 (Steele, Lea and Flood 2014).
struct Random {
  std::uint64_t state;

  std::uint64_t next() {
    std::uint64_t z = (state += 0x9E3779B97F4A7C15ULL);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ULL;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBULL;
    return z ^ (z >> 31);
  }
  /// In [-1, 1), from 24 bits, which a float holds exactly.
  float symmetric() { return static_cast<float>(next() >> 40) * 0x1p-23F - 1.0F; }
  /// In [0, count).
  std::size_t below(std::size_t count) { return static_cast<std::size_t>((next() >> 32) * count >> 32); }
};

template <typename T>
void shuffle(std::vector<T>& items, Random& random) {
  for (std::size_t i = items.size(); i > 1; --i) std::swap(items[i - 1], items[random.below(i)]);
}
