/// \file
/// The arithmetic that every rule is written in: square root, moving average, and powers of a decay rate. Only + - * /,
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

/// \copydoc square_root(float)
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

/// beta^t and 1 - beta^t for beta in [0, 1) and t >= 0, by repeated squaring in double.
///
/// The complement is carried along as 1 - ab = (1-a) + a(1-b), a sum of non-negative terms: at beta = 0.9999 and t = 1
/// a subtraction from 1 would have lost four digits, this loses none.
ADAMANT_HOST_DEVICE DecayPower decay_power(double beta, std::int64_t t) {
  DecayPower result{1.0, 0.0};
  DecayPower square{beta, 1.0 - beta};
  for (std::int64_t bits = t; bits > 0; bits >>= 1) {
    if ((bits & 1) != 0) {
      result.complement = result.complement + result.power * square.complement;
      result.power = result.power * square.power;
    }
    square.complement = square.complement + square.power * square.complement;
    square.power = square.power * square.power;
  }
  return result;
}

/// The exponential moving average beta * average + (1 - beta) * value.
///
/// Written as an interpolation from the end with the larger weight, which needs one constant instead of two that do not
/// sum to one: beta = 0.999 rounded to float would bias a long average by 1.3e-5. docs/numerics.md has the figures.
/// The choice of the end compares scalars of the arithmetic type because compilers vectorise that as it stands; a bool
/// they turn into one loop per value or not at all.
template <typename Real>
struct MovingAverage {
  Real beta;    ///< only compared with 1/2
  Real weight;  ///< of the end with the smaller weight, at most 1/2

  /// Scalars for a decay rate beta in [0, 1).
  ADAMANT_HOST_DEVICE static MovingAverage with_decay(double beta) {
    return {static_cast<Real>(beta), static_cast<Real>(beta >= 0.5 ? 1.0 - beta : beta)};
  }

  ADAMANT_HOST_DEVICE Real operator()(Real average, Real value) const {
    const Real heavy = beta >= Real{0.5} ? average : value;
    const Real light = beta >= Real{0.5} ? value : average;
    return heavy + weight * (light - heavy);
  }
};

}  // namespace adamant
