// The update of one element on every backend: scale the gradient, apply the rule, make a NaN the one canonical NaN.
#pragma once

#include <limits>

#include "adamant/rule.hpp"
#include "kernels/step_control.hpp"

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
ADAMANT_HOST_DEVICE double gradient_sign(const Options& options) {
  return options.maximize ? -1.0 : 1.0;
}

// What one step does to every gradient of a tensor.
template <typename Real>
struct Conditions {
  Real gradient_factor;  // sign, scale and clipping by norm
  Real clip_value;       // infinity where none was asked for

  ADAMANT_HOST_DEVICE static Conditions of(const Decision& decision, double gradient_sign) {
    return {static_cast<Real>(decision.gradient_factor * gradient_sign), static_cast<Real>(decision.clip_value)};
  }
};

template <typename Rule, typename Real>
ADAMANT_HOST_DEVICE Element<Real, Rule::kSlots> apply(const typename Rule::template Step<Real>& step,
                                                      const Conditions<Real>& conditions,
                                                      Element<Real, Rule::kSlots> element, Real gradient) {
  Real g = gradient * conditions.gradient_factor;
  g = g > conditions.clip_value ? conditions.clip_value : g;
  g = g < -conditions.clip_value ? -conditions.clip_value : g;
  element = step(element, g);
  element.parameter = canonical(element.parameter);
  for (int slot = 0; slot < Rule::kSlots; ++slot) element.state[slot] = canonical(element.state[slot]);
  return element;
}

}  // namespace adamant::kernels
