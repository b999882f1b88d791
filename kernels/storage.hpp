// The types in which parameter, gradient and state are stored, and the list of combinations that are supported: adding
// one is a line. Storage is an axis of load and store; the arithmetic in between is Real.
#pragma once

#include <cstdint>

#include "adamant/rule.hpp"
#include "adamant/types.hpp"

namespace adamant::kernels {

template <typename ParameterType, typename GradientType, typename StateType, typename RealType>
struct Storage {
  using Parameter = ParameterType;
  using Gradient = GradientType;
  using State = StateType;
  using Real = RealType;
};

using Storages = TypeList<Storage<float, float, float, float>,  //
                          Storage<double, double, double, double>>;

}  // namespace adamant::kernels
