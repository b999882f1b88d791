// The update of one element on every backend: scale the gradient, apply the rule, make a NaN the one canonical NaN.
#pragma once

#include <limits>

#include "adamant/rule.hpp"

namespace adamant::kernels {

// CPUs hand on the NaN they were given and GPUs make their own: storing one pattern keeps the bits the same. It is a
// constant of its own because device code may not call quiet_NaN(), and a call leaves a weak symbol where nothing is
// optimised.
template <typename Real>
inline constexpr Real kCanonicalNan = std::numeric_limits<Real>::quiet_NaN();

template <typename Real>
ADAMANT_HOST_DEVICE Real canonical(Real x) {
  return x != x ? Real{kCanonicalNan<Real>} : x;
}

// What the gradient is multiplied by before the rule sees it: -1 to ascend.
template <typename Options>
ADAMANT_HOST_DEVICE double gradient_scale(const Options& options) {
  return options.maximize ? -1.0 : 1.0;
}

template <typename Rule, typename Real>
ADAMANT_HOST_DEVICE Element<Real, Rule::kSlots> apply(const typename Rule::template Step<Real>& step,
                                                      Real gradient_scale, Element<Real, Rule::kSlots> element,
                                                      Real gradient) {
  element = step(element, gradient * gradient_scale);
  element.parameter = canonical(element.parameter);
  for (int slot = 0; slot < Rule::kSlots; ++slot) element.state[slot] = canonical(element.state[slot]);
  return element;
}

}  // namespace adamant::kernels
