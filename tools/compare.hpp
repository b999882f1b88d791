// How `adamant compare` judges one step of one element.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>
#include <type_traits>

#include "host/reference.hpp"

namespace adamant::tools {

using reference::Exact;

// What storing a result in a narrower type than the arithmetic's may put it off by, beyond what P4 allows.
template <typename Real>
struct StorageRounding {
  Exact<Real> parameter = 0;
  Exact<Real> state[reference::kMostStates] = {};
};

// The largest part that a step's results use of what promise P4 allows: up to 1 is within it. Infinity where one side
// is a NaN and the other is not. `one_ulp` is the spacing of `Real` at the exact parameter.
template <typename Real>
Exact<Real> part_of_bound(Real parameter, std::span<const Real> states,
                          const reference::Textbook<Exact<Real>>& textbook, const reference::Result<Exact<Real>>& exact,
                          Exact<Real> one_ulp, const StorageRounding<Real>& rounding = {}) {
  constexpr Exact<Real> kUnit = std::is_same_v<Real, float> ? Exact<Real>(0x1p-24) : Exact<Real>(0x1p-53);
  // Where a result is subnormal, or made of what is, no bound relative to it holds: a few of the smallest are allowed.
  constexpr Exact<Real> kSmallest = 16 * std::numeric_limits<Real>::denorm_min();
  constexpr Exact<Real> kNever = std::numeric_limits<Exact<Real>>::infinity();
  const auto one_is_nan = [](auto left, auto right) { return std::isnan(left) != std::isnan(right); };
  if (one_is_nan(parameter, exact.parameter)) return kNever;
  // What is beyond the half ulp that rounding the parameter itself may cost.
  const Exact<Real> beyond =
      std::fabs(static_cast<Exact<Real>>(parameter) - exact.parameter) - one_ulp / 2 - rounding.parameter - kSmallest;
  Exact<Real> part = beyond > 0 ? beyond / (textbook.kUpdateUnits * kUnit * exact.update_magnitude) : 0;
  for (std::size_t slot = 0; slot < states.size(); ++slot) {
    if (one_is_nan(states[slot], exact.state[slot])) return kNever;
    const Exact<Real> error =
        std::fabs(static_cast<Exact<Real>>(states[slot]) - exact.state[slot]) - rounding.state[slot];
    const Exact<Real> allowed = textbook.state_units(slot) * kUnit * exact.state_magnitude[slot];
    if (error > kSmallest) part = std::max(part, error / allowed);
  }
  return part;
}

}  // namespace adamant::tools
