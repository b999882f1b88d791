/// \file
/// Gradient descent.
///
///     x <- x - eta g                  with weight decay: g <- g + lambda x first
///
/// Source: Cauchy 1847; options as torch.optim.SGD without momentum. No deviation where the parameter is finite.
#pragma once

#include "adamant/rule.hpp"

namespace adamant {

struct GradientDescentRule;

/// Options of gradient descent. Defaults give x <- x - 0.01 g.
struct GradientDescent {
  double learning_rate = 1e-2;  ///< eta >= 0
  double weight_decay = 0.0;    ///< lambda >= 0, added to the gradient as lambda x
  bool maximize = false;        ///< ascend: the gradient's sign is turned before everything else

  /// The method's name, for make_method() and in checkpoints.
  static constexpr std::string_view kName = "gradient_descent";
  /// The rules, one for each set of states.
  using Variants = TypeList<GradientDescentRule>;
  /// Index in Variants of the rule that these options need.
  ADAMANT_HOST_DEVICE int variant() const { return 0; }
  /// Whether an Optimizer that was made for variant `made_as` can run these options.
  ADAMANT_HOST_DEVICE bool runs_as(int made_as) const { return made_as == variant(); }
  /// What in the options does not go together; empty when all does.
  ADAMANT_HOST_DEVICE const char* conflict() const { return ""; }

  /// Calls visit(name, field), or for a number visit(name, field, range), for each option in the order above.
  template <typename Self, typename Visitor>
  static void visit_fields(Self& self, Visitor&& visit) {
    visit("learning_rate", self.learning_rate, kNonNegative);
    visit("weight_decay", self.weight_decay, kNonNegative);
    visit("maximize", self.maximize);
  }
};

/// The update of one element.
struct GradientDescentRule {
  using Options = GradientDescent;  ///< what a user sets
  static constexpr int kSlots = 0;  ///< state arrays of a tensor
  /// PyTorch's names of the first kSlots states.
  static constexpr std::string_view kStateNames[] = {""};

  /// The scalars of one step, and the update that is made with them.
  template <typename Real>
  struct Step {
    Real learning_rate;  ///< eta
    Real weight_decay;   ///< lambda

    /// Scalars of a tensor's step number t, counted from 1.
    ADAMANT_HOST_DEVICE static Step at_step(const Options& options, std::int64_t /*t*/) {
      return {static_cast<Real>(options.learning_rate), static_cast<Real>(options.weight_decay)};
    }

    /// The element after the step.
    ADAMANT_HOST_DEVICE Element<Real, kSlots> operator()(Element<Real, kSlots> element, Real gradient) const {
      const Real x = element.parameter;
      const Real g = gradient + weight_decay * x;
      element.parameter = x - learning_rate * g;
      return element;
    }
  };
};

}  // namespace adamant
