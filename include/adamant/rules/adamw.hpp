/// \file
/// AdamW: Adam with decoupled weight decay, and its AMSGrad variant.
///
///     m, s as Adam
///     x <- x - (eta lambda x + eta (m / (1 - beta1^t)) / (sqrt(s / (1 - beta2^t)) + epsilon))
///
/// Source: Loshchilov and Hutter 2019, algorithm 2, with PyTorch's convention that lambda is multiplied by eta; options
/// as torch.optim.AdamW. Decaying inside the one subtraction is PyTorch's result with one rounding of x instead of two;
/// but an infinite parameter becomes NaN.
#pragma once

#include "adamant/rules/adam.hpp"

namespace adamant {

template <bool kAmsgrad>
struct AdamWRule;

/// Options of AdamW. `amsgrad` decides how many state slots there are and is the same for all groups of an Optimizer.
struct AdamW {
  double learning_rate = 1e-3;  ///< eta >= 0
  double beta1 = 0.9;           ///< in [0, 1)
  double beta2 = 0.999;         ///< in [0, 1)
  double epsilon = 1e-8;        ///< >= 0; zero divides by zero where no gradient has come yet
  double weight_decay = 1e-2;   ///< lambda >= 0, takes eta lambda x off the parameter itself
  bool amsgrad = false;         ///< divide by the largest second moment so far
  bool maximize = false;        ///< ascend: the gradient's sign is turned before everything else; decay still shrinks x

  /// The method's name, for make_method() and in checkpoints.
  static constexpr std::string_view kName = "adamw";
  /// The rules, one for each set of states.
  using Variants = TypeList<AdamWRule<false>, AdamWRule<true>>;
  /// Index in Variants of the rule that these options need.
  ADAMANT_HOST_DEVICE int variant() const { return amsgrad ? 1 : 0; }
  /// Whether an Optimizer that was made for variant `made_as` can run these options.
  ADAMANT_HOST_DEVICE bool runs_as(int made_as) const { return made_as == variant(); }
  /// What in the options does not go together; empty when all does.
  ADAMANT_HOST_DEVICE const char* conflict() const { return ""; }

  /// Calls visit(name, field), or for a number visit(name, field, range), for each option in the order above.
  template <typename Self, typename Visitor>
  static void visit_fields(Self& self, Visitor&& visit) {
    visit("learning_rate", self.learning_rate, kNonNegative);
    visit("beta1", self.beta1, kBelowOne);
    visit("beta2", self.beta2, kBelowOne);
    visit("epsilon", self.epsilon, kNonNegative);
    visit("weight_decay", self.weight_decay, kNonNegative);
    visit("amsgrad", self.amsgrad);
    visit("maximize", self.maximize);
  }
};

/// The update of one element.
template <bool kAmsgrad>
struct AdamWRule {
  using Options = AdamW;                           ///< what a user sets
  static constexpr int kSlots = kAmsgrad ? 3 : 2;  ///< state arrays of a tensor
  /// PyTorch's names of the first kSlots states.
  static constexpr std::string_view kStateNames[] = {"exp_avg", "exp_avg_sq", "max_exp_avg_sq"};

  /// The scalars of one step, and the update that is made with them.
  template <typename Real>
  struct Step {
    AdamMoments<Real, kAmsgrad> moments;  ///< scalars of m, s and what they make
    Real decay;                           ///< eta lambda

    /// Scalars of a tensor's step number t, counted from 1.
    ADAMANT_HOST_DEVICE static Step at_step(const Options& options, std::int64_t t) {
      return {AdamMoments<Real, kAmsgrad>::at_step(options, t),
              static_cast<Real>(options.learning_rate * options.weight_decay)};
    }

    /// The element after the step.
    ADAMANT_HOST_DEVICE Element<Real, kSlots> operator()(Element<Real, kSlots> element, Real gradient) const {
      const Real x = element.parameter;
      const Real update = moments.advance(element, gradient);
      element.parameter = x - (decay * x + update);
      return element;
    }
  };
};

}  // namespace adamant
