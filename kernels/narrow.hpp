// Conversions between float32 and the types of 16 bits, the same bits on every backend: exact one way, rounded to
// nearest even the other. A NaN that is to be narrowed must be canonical(), as all that a rule returns is: its upper
// half then is a bfloat16's canonical NaN, and takes no instructions of its own. Only integer operations, comparisons
// and one exact or correctly rounded addition, so that compilers vectorise them.
#pragma once

#include <cstdint>

#include "adamant/macros.hpp"
#include "adamant/types.hpp"

namespace adamant::kernels {

inline constexpr std::uint32_t kInfinityBits = 0x7F800000;
inline constexpr std::uint32_t kMagnitudeBits = 0x7FFFFFFF;
inline constexpr std::uint16_t kCanonicalFloat16Nan = 0x7E00;

ADAMANT_HOST_DEVICE std::uint32_t bits_of(float x) { return __builtin_bit_cast(std::uint32_t, x); }
ADAMANT_HOST_DEVICE float from_bits(std::uint32_t bits) { return __builtin_bit_cast(float, bits); }

ADAMANT_HOST_DEVICE std::uint16_t upper_half(std::uint32_t word) {
#if defined(__CUDA_ARCH__)
  // Not a shift: as half of a register it goes into another register without one.
  std::uint16_t half;
  asm("{.reg .b16 low; mov.b32 {low, %0}, %1;}" : "=h"(half) : "r"(word));
  return half;
#else
  return static_cast<std::uint16_t>(word >> 16);
#endif
}

// To the arithmetic type; exact.
template <typename Real>
ADAMANT_HOST_DEVICE Real widened(float x) {
  return static_cast<Real>(x);
}
template <typename Real>
ADAMANT_HOST_DEVICE Real widened(double x) {
  return static_cast<Real>(x);
}
template <typename Real>
ADAMANT_HOST_DEVICE Real widened(bfloat16 x) {
  return static_cast<Real>(from_bits(static_cast<std::uint32_t>(x.bits) << 16));
}
template <typename Real>
ADAMANT_HOST_DEVICE Real widened(float16 x) {
#if defined(__CUDA_ARCH__)
  float wide;
  asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(x.bits));
  return static_cast<Real>(wide);
#else
  // The exponent is moved to where a float32 has it. What was zero there is a subnormal: it gets an exponent, and the
  // one that it then has too much is taken off exactly.
  constexpr std::uint32_t kExponent = 0x7C00U << 13;
  const std::uint32_t sign = (static_cast<std::uint32_t>(x.bits) & 0x8000U) << 16;
  const std::uint32_t magnitude = (static_cast<std::uint32_t>(x.bits) & 0x7FFFU) << 13;
  const std::uint32_t exponent = magnitude & kExponent;
  const std::uint32_t moved = magnitude + ((127U - 15U) << 23);
  const std::uint32_t special = moved + ((128U - 16U) << 23);
  const std::uint32_t subnormal = bits_of(from_bits(moved + (1U << 23)) - from_bits(113U << 23));
  const std::uint32_t wide = exponent == kExponent ? special : exponent == 0 ? subnormal : moved;
  return static_cast<Real>(from_bits(wide | sign));
#endif
}

// From the arithmetic type to T, to nearest even.
template <typename T>
struct Narrow;
template <>
struct Narrow<float> {
  ADAMANT_HOST_DEVICE static float of(float x) { return x; }
};
template <>
struct Narrow<double> {
  ADAMANT_HOST_DEVICE static double of(double x) { return x; }
};
template <>
struct Narrow<bfloat16> {
  ADAMANT_HOST_DEVICE static bfloat16 of(float x) {
    const std::uint32_t bits = bits_of(x);
    return {upper_half(bits + 0x7FFFU + ((bits >> 16) & 1U))};
  }
};
template <>
struct Narrow<float16> {
  ADAMANT_HOST_DEVICE static float16 of(float x) {
#if defined(__CUDA_ARCH__)
    std::uint16_t narrow;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(narrow) : "f"(x));
    return {x != x ? kCanonicalFloat16Nan : narrow};
#else
    constexpr std::uint32_t kTooLarge = (127U + 16U) << 23;  // 2^16; rounding takes what is just below to infinity
    constexpr std::uint32_t kSmallestNormal = 113U << 23;
    constexpr std::uint32_t kHalf = 126U << 23;  // 0.5, whose ulp is the smallest subnormal of a float16
    const std::uint32_t bits = bits_of(x);
    const std::uint32_t magnitude = bits & kMagnitudeBits;
    const std::uint32_t subnormal = bits_of(from_bits(magnitude < kSmallestNormal ? magnitude : 0U) + 0.5F) - kHalf;
    const std::uint32_t normal = (magnitude - ((127U - 15U) << 23) + 0xFFFU + ((magnitude >> 13) & 1U)) >> 13;
    const std::uint32_t finite = magnitude < kSmallestNormal ? subnormal : normal;
    const std::uint32_t result = magnitude >= kTooLarge ? 0x7C00U : finite;
    const std::uint32_t with_sign = result | (bits & ~kMagnitudeBits) >> 16;
    return {static_cast<std::uint16_t>(magnitude > kInfinityBits ? kCanonicalFloat16Nan : with_sign)};
#endif
  }
};

// All ones where something is true: compilers vectorise a mask where they make a branch of a choice.
ADAMANT_HOST_DEVICE std::uint32_t mask_of(bool condition) { return 0U - static_cast<std::uint32_t>(condition); }

// To a bfloat16 up or down at random: up with the probability of how far `x` is above the one below, so that the mean
// is `x`. `random` is uniform in [0, 2^16). What is a bfloat16 stays as it is, infinities and the NaN too; nothing
// finite becomes infinite: above the largest there is nothing to round up to.
ADAMANT_HOST_DEVICE bfloat16 rounded_at_random(float x, std::uint32_t random) {
  constexpr std::uint32_t kLargest = 0x7F7F0000;
  std::uint32_t bits = bits_of(x);
#if defined(__CUDA_ARCH__)
  // A predicate, where the compiler would choose between `random` and 0 first.
  asm("{.reg .pred is_rounded; setp.lt.f32 is_rounded, %1, %2; @is_rounded add.u32 %0, %0, %3;}"
      : "+r"(bits)
      : "f"(__builtin_fabsf(x)), "f"(from_bits(kLargest)), "r"(random));
#else
  bits += random & mask_of((bits & kMagnitudeBits) < kLargest);
#endif
  return {upper_half(bits)};
}

}  // namespace adamant::kernels
