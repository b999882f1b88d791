// Where tests take their numbers from: an integer generator whose floats are put together from bits, so that the same
// seed gives the same inputs with every compiler and library; and arrays at any misalignment between red zones.
#pragma once

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <span>
#include <string_view>
#include <type_traits>
#include <vector>

namespace adamant::test {

template <typename Real>
using Bits = std::conditional_t<sizeof(Real) == 2, std::uint16_t,
                                std::conditional_t<sizeof(Real) == 4, std::uint32_t, std::uint64_t>>;

// What a NaN is stored as.
template <typename Real>
inline constexpr Bits<Real> kCanonicalNan = static_cast<Bits<Real>>(sizeof(Real) == 4 ? 0x7FC00000ULL
                                                                                      : 0x7FF8000000000000ULL);

// splitmix64.
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed) {}

  std::uint64_t bits() {
    std::uint64_t z = (state_ += 0x9E3779B97F4A7C15ULL);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ULL;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBULL;
    return z ^ (z >> 31);
  }
  // In [0, bound).
  std::int64_t below(std::int64_t bound) {
    return static_cast<std::int64_t>(bits() % static_cast<std::uint64_t>(bound));
  }
  bool one_in(std::int64_t n) { return below(n) == 0; }
  // In [0, 1).
  double fraction() { return static_cast<double>(bits() >> 11) * 0x1p-53; }

  // Any sign and mantissa, the exponent uniform in [lowest, highest]: magnitudes in [2^lowest, 2^(highest+1)).
  template <typename Real>
  Real spread(int lowest, int highest) {
    constexpr int kMantissa = sizeof(Real) == 4 ? 23 : 52;
    constexpr int kBias = sizeof(Real) == 4 ? 127 : 1023;
    const auto exponent = static_cast<std::uint64_t>(kBias + lowest + below(highest - lowest + 1));
    const std::uint64_t random = bits();
    const std::uint64_t mantissa = random >> (64 - kMantissa);
    const std::uint64_t sign = random & 1;
    return std::bit_cast<Real>(
        static_cast<Bits<Real>>((sign << (sizeof(Real) * 8 - 1)) | (exponent << kMantissa) | mantissa));
  }

 private:
  std::uint64_t state_;
};

// The seed of this run: --gtest_random_seed, or a fixed one. (UnitTest::random_seed() knows the flag only when
// shuffling.)
inline std::uint64_t run_seed() {
  return 20240607ULL + static_cast<std::uint64_t>(static_cast<std::uint32_t>(GTEST_FLAG_GET(random_seed)));
}

// A seed of its own for everything that has a name.
inline std::uint64_t seed_of(std::string_view name) {
  std::uint64_t hash = 0xcbf29ce484222325ULL;
  for (const char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3ULL;
  return hash;
}

template <typename Real>
std::vector<Real> spread_values(std::int64_t count, std::uint64_t seed, int lowest, int highest) {
  Random random(seed);
  std::vector<Real> values(static_cast<std::size_t>(count));
  for (Real& value : values) value = random.spread<Real>(lowest, highest);
  return values;
}

// Elements at a chosen offset from a 64-byte boundary, between two red zones that nobody may write to.
template <typename Real>
class Fenced {
 public:
  explicit Fenced(std::int64_t count, std::int64_t offset = 0)
      : count_(count),
        bytes_((static_cast<std::size_t>(2 * kZone + count + offset)) * sizeof(Real)),
        memory_(static_cast<std::byte*>(::operator new (bytes_, std::align_val_t{64}))),
        first_(reinterpret_cast<Real*>(memory_.get()) + kZone + offset) {
    std::memset(memory_.get(), kPattern, bytes_);
    for (std::int64_t i = 0; i < count_; ++i) first_[i] = Real{};
  }
  Fenced(const std::vector<Real>& values, std::int64_t offset = 0)
      : Fenced(static_cast<std::int64_t>(values.size()), offset) {
    fill(values);
  }

  Real* data() const { return first_; }
  std::int64_t count() const { return count_; }
  std::span<Real> span() const { return {first_, static_cast<std::size_t>(count_)}; }
  std::vector<Real> values() const { return {first_, first_ + count_}; }
  Real& operator[](std::int64_t i) const { return first_[i]; }
  void fill(const std::vector<Real>& values) const {
    if (!values.empty()) std::memcpy(first_, values.data(), values.size() * sizeof(Real));
  }

  // Whether both red zones are as they were.
  bool zones_untouched() const {
    const auto* const begin = memory_.get();
    const auto* const end = begin + bytes_;
    const auto* const first = reinterpret_cast<const std::byte*>(first_);
    const auto* const last = reinterpret_cast<const std::byte*>(first_ + count_);
    const auto intact = [](const std::byte* from, const std::byte* to) {
      for (; from != to; ++from) {
        if (*from != std::byte{kPattern}) return false;
      }
      return true;
    };
    return intact(begin, first) && intact(last, end);
  }

 private:
  static constexpr std::int64_t kZone = 64;  // elements: wider than any vector, and keeps 64-byte boundaries
  static constexpr unsigned char kPattern = 0xA5;
  struct Free {
    void operator()(std::byte* memory) const { ::operator delete (memory, std::align_val_t{64}); }
  };

  std::int64_t count_;
  std::size_t bytes_;
  std::unique_ptr<std::byte[], Free> memory_;
  Real* first_;
};

// An error as the largest of many is looked for: a NaN would be larger than none.
inline double infinite_if_nan(double error) { return error == error ? error : HUGE_VAL; }

// Whether two arrays hold the same bits, and where not.
template <typename Real>
testing::AssertionResult same_bits(std::span<const Real> left, std::span<const Real> right) {
  if (left.size() != right.size())
    return testing::AssertionFailure() << left.size() << " elements and " << right.size();
  for (std::size_t i = 0; i < left.size(); ++i) {
    if (std::bit_cast<Bits<Real>>(left[i]) != std::bit_cast<Bits<Real>>(right[i])) {
      testing::AssertionResult failure = testing::AssertionFailure()
                                         << "element " << i << " of " << left.size() << ": ";
      if constexpr (std::is_floating_point_v<Real>) failure << std::hexfloat << left[i] << " and " << right[i] << ", ";
      return failure << std::hex << std::bit_cast<Bits<Real>>(left[i]) << " and "
                     << std::bit_cast<Bits<Real>>(right[i]);
    }
  }
  return testing::AssertionSuccess();
}
template <typename Real>
testing::AssertionResult same_bits(const std::vector<Real>& left, const std::vector<Real>& right) {
  return same_bits(std::span<const Real>(left), std::span<const Real>(right));
}

}  // namespace adamant::test
