/// \file
/// Adam, with its AMSGrad variant.
///
///     m <- beta1 m + (1 - beta1) g
///     s <- beta2 s + (1 - beta2) g^2
///     x <- x - eta (m / (1 - beta1^t)) / (sqrt(s / (1 - beta2^t)) + epsilon)
///     amsgrad: the largest s so far stands in the root     with weight decay: g <- g + lambda x first
///
/// Source: Kingma and Ba 2015, algorithm 1; Reddi et al. 2018 (AMSGrad); options as torch.optim.Adam.
/// No deviation where the parameter is finite. The bias corrections are folded into two scalars, which is the same
/// function with less rounding:
/// eta sqrt(1 - beta2^t) / (1 - beta1^t) * m / (sqrt(s) + epsilon sqrt(1 - beta2^t)).
#pragma once

#include "adamant/arithmetic.hpp"
#include "adamant/rule.hpp"

namespace adamant {

template <bool kAmsgrad>
struct AdamRule;

/// Options of Adam. `amsgrad` decides how many state slots there are and is the same for all groups of an Optimizer.
struct Adam {
  double learning_rate = 1e-3;  ///< eta >= 0
  double beta1 = 0.9;           ///< in [0, 1)
  double beta2 = 0.999;         ///< in [0, 1)
  double epsilon = 1e-8;        ///< >= 0; zero divides by zero where no gradient has come yet
  double weight_decay = 0.0;    ///< lambda >= 0, added to the gradient as lambda x; see AdamW for the decoupled decay
  bool amsgrad = false;         ///< divide by the largest second moment so far
  bool maximize = false;        ///< ascend: the gradient's sign is turned before everything else

  /// The method's name, for make_method() and in checkpoints.
  static constexpr std::string_view kName = "adam";
  /// The rules, one for each set of states.
  using Variants = TypeList<AdamRule<false>, AdamRule<true>>;
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

/// The moments that Adam and AdamW share, and the update they make of them.
template <typename Real, bool kAmsgrad>
struct AdamMoments {
  static constexpr int kSlots = kAmsgrad ? 3 : 2;  ///< state arrays of a tensor

  Real rate;                ///< eta sqrt(1 - beta2^t) / (1 - beta1^t)
  Real epsilon;             ///< epsilon sqrt(1 - beta2^t)
  RunningSum<Real> first;   ///< beta1: of m
  RunningSum<Real> second;  ///< beta2: of s

  /// Scalars of a tensor's step number t, counted from 1, for the options of Adam or AdamW.
  template <typename Options>
  ADAMANT_HOST_DEVICE static AdamMoments at_step(const Options& options, std::int64_t t) {
    const auto corrections = DecayComplements::at(options.beta1, options.beta2, t);
    const double root2 = square_root(corrections.second);
    return {static_cast<Real>(options.learning_rate * root2 / corrections.first),
            static_cast<Real>(options.epsilon * root2), RunningSum<Real>::average(options.beta1),
            RunningSum<Real>::average(options.beta2)};
  }

  /// Advances the moments in `element` by a gradient and returns what is to be subtracted from the parameter.
  ADAMANT_HOST_DEVICE Real advance(Element<Real, kSlots>& element, Real g) const {
    const Real m = first(element.state[0], g);
    const Real s = second(element.state[1], g * g);
    element.state[0] = m;
    element.state[1] = s;
    Real divisor = s;
    if constexpr (kAmsgrad) {
      divisor = element.state[2] >= s ? element.state[2] : s;  // a NaN in s wins, as torch.maximum
      element.state[2] = divisor;
    }
    return rate * (m / (square_root(divisor) + epsilon));
  }
};

/// The update of one element.
template <bool kAmsgrad>
struct AdamRule {
  using Options = Adam;                            ///< what a user sets
  static constexpr int kSlots = kAmsgrad ? 3 : 2;  ///< state arrays of a tensor
  /// PyTorch's names of the first kSlots states.
  static constexpr std::string_view kStateNames[] = {"exp_avg", "exp_avg_sq", "max_exp_avg_sq"};

  /// The scalars of one step, and the update that is made with them.
  template <typename Real>
  struct Step {
    AdamMoments<Real, kAmsgrad> moments;  ///< scalars of m, s and what they make
    Real weight_decay;                    ///< lambda

    /// Scalars of a tensor's step number t, counted from 1.
    ADAMANT_HOST_DEVICE static Step at_step(const Options& options, std::int64_t t) {
      return {AdamMoments<Real, kAmsgrad>::at_step(options, t), static_cast<Real>(options.weight_decay)};
    }

    /// The element after the step.
    ADAMANT_HOST_DEVICE Element<Real, kSlots> operator()(Element<Real, kSlots> element, Real gradient) const {
      const Real x = element.parameter;
      const Real update = moments.advance(element, gradient + weight_decay * x);
      element.parameter = x - update;
      return element;
    }
  };
};

}  // namespace adamant
