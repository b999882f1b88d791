/// \file
/// The list of methods: the one line that a new method adds.
#pragma once

#include <variant>

#include "adamant/rule.hpp"
#include "adamant/rules/adam.hpp"
#include "adamant/rules/adamw.hpp"
#include "adamant/rules/gradient_descent.hpp"
#include "adamant/rules/momentum.hpp"
#include "adamant/rules/rmsprop.hpp"

namespace adamant {

/// A method and its options, chosen at compile time (`Adam{.learning_rate = 3e-4}`) or at run time (make_method()).
using Method = std::variant<GradientDescent,  //
                            Momentum,         //
                            RMSProp,          //
                            Adam,             //
                            AdamW>;

}  // namespace adamant
