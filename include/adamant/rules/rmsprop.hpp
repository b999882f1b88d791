/// \file
/// RMSProp, with its centered and momentum variants.
///
///     s <- gamma s + (1 - gamma) g^2
///     x <- x - eta g / sqrt(s + epsilon)                   epsilon inside the root (default), or sqrt(s) + epsilon
///     centered:  a <- gamma a + (1 - gamma) g, and max(s - a^2, 0) takes the place of s in the root
///     momentum:  b <- mu b + g / root;  x <- x - eta b     with weight decay: g <- g + lambda x first
///
/// Source: Tieleman and Hinton 2012, lecture 6.5; Graves 2013 (centered); options as torch.optim.RMSprop.
/// Deviations from PyTorch: gamma defaults to 0.9 and epsilon to 1e-6 inside the root; the centered variance is clamped
/// at zero, where PyTorch takes the root of a negative number; an infinite parameter becomes NaN without weight decay
/// too.
#pragma once

#include "adamant/arithmetic.hpp"
#include "adamant/rule.hpp"

namespace adamant {

template <bool kCentered, bool kMomentum>
struct RMSPropRule;

/// Where epsilon stands in the denominator of RMSProp.
enum class EpsilonPlacement {
  inside_root,   ///< sqrt(s + epsilon)
  outside_root,  ///< sqrt(s) + epsilon, as PyTorch
};

/// Options of RMSProp. Defaults give s <- 0.9 s + 0.1 g^2; x <- x - 0.01 g / sqrt(s + 1e-6).
///
/// `centered` and whether `momentum` is zero decide how many state slots there are: all groups of an Optimizer have the
/// `centered` it was made with, and a momentum above zero needs an Optimizer that was made with one.
struct RMSProp {
  double learning_rate = 1e-2;  ///< eta >= 0
  double decay = 0.9;           ///< gamma in [0, 1), PyTorch's alpha
  double epsilon = 1e-6;        ///< >= 0; zero divides by zero where no gradient has come yet
  double momentum = 0.0;        ///< mu in [0, 1)
  double weight_decay = 0.0;    ///< lambda >= 0, added to the gradient as lambda x
  /// Inside the root or outside of it, as in PyTorch.
  EpsilonPlacement epsilon_placement = EpsilonPlacement::inside_root;
  bool centered = false;  ///< divide by the standard deviation instead of the root mean square
  bool maximize = false;  ///< ascend: the gradient's sign is turned before everything else

  /// The method's name, for make_method() and in checkpoints.
  static constexpr std::string_view kName = "rmsprop";
  /// The rules, one for each set of states.
  using Variants =
      TypeList<RMSPropRule<false, false>, RMSPropRule<false, true>, RMSPropRule<true, false>, RMSPropRule<true, true>>;
  /// Index in Variants of the rule that these options need.
  ADAMANT_HOST_DEVICE int variant() const { return (centered ? 2 : 0) + (momentum > 0.0 ? 1 : 0); }
  /// Whether an Optimizer that was made for variant `made_as` can run these options: a momentum of zero also runs with
  /// a buffer, so that a schedule may pass through it.
  ADAMANT_HOST_DEVICE bool runs_as(int made_as) const { return made_as == variant() || made_as == (variant() | 1); }
  /// What in the options does not go together; empty when all does.
  ADAMANT_HOST_DEVICE const char* conflict() const { return ""; }

  /// Calls visit(name, field), or for a number visit(name, field, range), for each option in the order above.
  template <typename Self, typename Visitor>
  static void visit_fields(Self& self, Visitor&& visit) {
    visit("learning_rate", self.learning_rate, kNonNegative);
    visit("decay", self.decay, kBelowOne);
    visit("epsilon", self.epsilon, kNonNegative);
    visit("momentum", self.momentum, kBelowOne);
    visit("weight_decay", self.weight_decay, kNonNegative);
    visit("epsilon_placement", self.epsilon_placement);
    visit("centered", self.centered);
    visit("maximize", self.maximize);
  }
};

/// The update of one element.
template <bool kCentered, bool kMomentum>
struct RMSPropRule {
  using Options = RMSProp;                                                      ///< what a user sets
  static constexpr int kSlots = 1 + (kMomentum ? 1 : 0) + (kCentered ? 1 : 0);  ///< state arrays of a tensor
  static constexpr int kBuffer = 1;                           ///< slot of the momentum buffer, where there is one
  static constexpr int kGradientAverage = kMomentum ? 2 : 1;  ///< slot of the mean gradient, where there is one
  /// PyTorch's names of the first kSlots states.
  static constexpr std::string_view kStateNames[] = {"square_avg", kMomentum ? "momentum_buffer" : "grad_avg",
                                                     "grad_avg"};

  /// The scalars of one step, and the update that is made with them.
  template <typename Real>
  struct Step {
    Real learning_rate;        ///< eta
    Real epsilon_inside;       ///< epsilon, or zero where it stands outside the root
    Real epsilon_outside;      ///< epsilon, or zero where it stands inside
    Real weight_decay;         ///< lambda
    RunningSum<Real> average;  ///< gamma: of s and a
    RunningSum<Real> buffer;   ///< mu: of b

    /// Scalars of a tensor's step number t, counted from 1.
    ADAMANT_HOST_DEVICE static Step at_step(const Options& options, std::int64_t /*t*/) {
      const bool inside = options.epsilon_placement == EpsilonPlacement::inside_root;
      return {static_cast<Real>(options.learning_rate),          static_cast<Real>(inside ? options.epsilon : 0.0),
              static_cast<Real>(inside ? 0.0 : options.epsilon), static_cast<Real>(options.weight_decay),
              RunningSum<Real>::average(options.decay),          RunningSum<Real>::with(options.momentum, 1.0)};
    }

    /// The element after the step.
    ADAMANT_HOST_DEVICE Element<Real, kSlots> operator()(Element<Real, kSlots> element, Real gradient) const {
      const Real x = element.parameter;
      const Real g = gradient + weight_decay * x;
      const Real s = average(element.state[0], g * g);
      element.state[0] = s;
      Real variance = s;
      if constexpr (kCentered) {
        const Real a = average(element.state[kGradientAverage], g);
        element.state[kGradientAverage] = a;
        const Real difference = s - a * a;
        variance = difference < Real{0} ? Real{0} : difference;  // keeps a NaN
      }
      const Real root = square_root(variance + epsilon_inside) + epsilon_outside;
      if constexpr (kMomentum) {
        const Real b = buffer(element.state[kBuffer], g / root);
        element.state[kBuffer] = b;
        element.parameter = x - learning_rate * b;
      } else {
        element.parameter = x - learning_rate * (g / root);
      }
      return element;
    }
  };
};

}  // namespace adamant
