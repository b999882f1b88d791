/// \file
/// The arithmetic that every rule is written in: square root, running sum, and powers of a decay rate. Only + - * /,
/// square root, comparison and rounding conversions, so that a CPU and a GPU give the same bits. No `pow`, no `fma`.
#pragma once

#include <cstdint>

#include "adamant/macros.hpp"

namespace adamant {

/// Correctly rounded square root.
ADAMANT_HOST_DEVICE float square_root(float x) {
#if defined(__CUDA_ARCH__)
  return __fsqrt_rn(x);
#else
  return __builtin_sqrtf(x);
#endif
}

/// Correctly rounded square root, in double.
ADAMANT_HOST_DEVICE double square_root(double x) {
#if defined(__CUDA_ARCH__)
  return __dsqrt_rn(x);
#else
  return __builtin_sqrt(x);
#endif
}

/// A power of a decay rate together with its complement, `power + complement == 1` to within a few roundings.
struct DecayPower {
  double power;       ///< beta^t
  double complement;  ///< 1 - beta^t, computed without cancellation
};

namespace detail {
/// Repeated squaring of a decay rate, a bit of t at a time from the lowest.
struct Squaring {
  DecayPower result{1.0, 0.0};
  DecayPower square;

  ADAMANT_HOST_DEVICE explicit Squaring(double beta) : square{beta, 1.0 - beta} {}
  ADAMANT_HOST_DEVICE void next(bool is_set) {
    if (is_set) {
      result.complement = result.complement + result.power * square.complement;
      result.power = result.complement < 0.5 ? 1.0 - result.complement : result.power * square.power;
    }
    square.complement = square.complement + square.power * square.complement;
    square.power = square.complement < 0.5 ? 1.0 - square.complement : square.power * square.power;
  }
};
}  // namespace detail

/// beta^t and 1 - beta^t for beta in [0, 1) and t >= 0, by repeated squaring in double.
///
/// The complement is carried along as 1 - ab = (1-a) + a(1-b), a sum of non-negative terms: at beta = 0.9999 and t = 1
/// a subtraction from 1 would have lost four digits, this loses none. Squaring doubles a power's relative error, so as
/// long as the complement is the smaller of the two the power is taken from it: then the complement errs by at most
/// 5 * 2^-53 of itself for the usual decays, and 16 * 2^-53 for any, where it would err by some t * 2^-53.
ADAMANT_HOST_DEVICE DecayPower decay_power(double beta, std::int64_t t) {
  detail::Squaring squaring(beta);
  for (std::int64_t bits = t; bits > 0; bits >>= 1) squaring.next((bits & 1) != 0);
  return squaring.result;
}

/// 1 - beta^t of two decay rates, as decay_power() has them. In one loop, because each is a chain of operations that
/// wait for one another, and on a device the two take the time of one.
struct DecayComplements {
  double first;   ///< 1 - beta1^t
  double second;  ///< 1 - beta2^t

  /// For beta1 and beta2 in [0, 1) and t >= 0.
  ADAMANT_HOST_DEVICE static DecayComplements at(double beta1, double beta2, std::int64_t t) {
    detail::Squaring squaring1(beta1);
    detail::Squaring squaring2(beta2);
    for (std::int64_t bits = t; bits > 0; bits >>= 1) {
      squaring1.next((bits & 1) != 0);
      squaring2.next((bits & 1) != 0);
    }
    return {squaring1.result.complement, squaring2.result.complement};
  }
};

/// The running sum decay * old + weight * value that every state is: an exponential moving average when weight is
/// 1 - decay.
///
/// Two rounded constants would not sum to one: 0.999 as a float biases a long average by 1.3e-5. So the sum is written
/// as the end with the larger weight, unrounded, plus small terms: keep is 0 or 1, and what decay and weight lose in
/// rounding is made up for by `change` (decay less keep) and `low` (weight less high). It rounds once at the scale of
/// the result. One half itself keeps nothing: 0.5 is exact as a float, and an oscillating average would cancel.
/// docs/numerics.md has the alternatives and their figures.
template <typename Real>
struct RunningSum {
  Real keep;    ///< 0 or 1, the end of [0, 1] that decay is nearer to
  Real change;  ///< decay - keep
  Real high;    ///< weight, rounded
  Real low;     ///< what rounding the weight has lost

  /// Scalars for a decay in [0, 1) and a weight.
  ADAMANT_HOST_DEVICE static RunningSum with(double decay, double weight) {
    const double keep = decay > 0.5 ? 1.0 : 0.0;
    const Real high = static_cast<Real>(weight);
    return {static_cast<Real>(keep), static_cast<Real>(decay - keep), high,
            static_cast<Real>(weight - static_cast<double>(high))};
  }
  /// Scalars of an exponential moving average.
  ADAMANT_HOST_DEVICE static RunningSum average(double decay) { return with(decay, 1.0 - decay); }

  /// decay * old + weight * value
  ADAMANT_HOST_DEVICE Real operator()(Real old, Real value) const {
    return keep * old + ((change * old + low * value) + high * value);
  }
};

}  // namespace adamant
