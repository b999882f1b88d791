/// \file
/// Gradient descent with momentum (the heavy ball), Nesterov's form included.
///
///     v <- beta v + (1 - tau) g       v = g on a tensor's first step
///     x <- x - eta v                  nesterov: x <- x - eta (g + beta v)
///                                     with weight decay: g <- g + lambda x first
///
/// Source: Polyak 1964; Sutskever et al. 2013; options as torch.optim.SGD. With momentum = 0 dampening still scales the
/// gradient, as the equation says, where torch.optim.SGD leaves the buffer and the dampening out. An infinite parameter
/// becomes NaN without weight decay too, where torch.optim.SGD keeps it.
#pragma once

#include "adamant/arithmetic.hpp"
#include "adamant/rule.hpp"

namespace adamant {

struct MomentumRule;

/// Options of momentum. Defaults give v <- 0.9 v + g; x <- x - 0.01 v.
struct Momentum {
  double learning_rate = 1e-2;  ///< eta >= 0
  double momentum = 0.9;        ///< beta in [0, 1)
  double dampening = 0.0;       ///< tau in [0, 1]; the first step of a tensor takes v = g whatever it is, as PyTorch
  double weight_decay = 0.0;    ///< lambda >= 0, added to the gradient as lambda x
  bool nesterov = false;        ///< look ahead; needs momentum > 0 and dampening = 0, as in PyTorch
  bool maximize = false;        ///< ascend: the gradient's sign is turned before everything else

  /// The method's name, for make_method() and in checkpoints.
  static constexpr std::string_view kName = "momentum";
  /// The rules, one for each set of states.
  using Variants = TypeList<MomentumRule>;
  /// Index in Variants of the rule that these options need.
  ADAMANT_HOST_DEVICE int variant() const { return 0; }
  /// Whether an Optimizer that was made for variant `made_as` can run these options.
  ADAMANT_HOST_DEVICE bool runs_as(int made_as) const { return made_as == variant(); }
  /// What in the options does not go together; empty when all does.
  ADAMANT_HOST_DEVICE const char* conflict() const {
    return nesterov && (momentum <= 0.0 || dampening != 0.0) ? "nesterov = true needs momentum > 0 and dampening = 0"
                                                             : "";
  }

  /// Calls visit(name, field), or for a number visit(name, field, range), for each option in the order above.
  template <typename Self, typename Visitor>
  static void visit_fields(Self& self, Visitor&& visit) {
    visit("learning_rate", self.learning_rate, kNonNegative);
    visit("momentum", self.momentum, kBelowOne);
    visit("dampening", self.dampening, kFraction);
    visit("weight_decay", self.weight_decay, kNonNegative);
    visit("nesterov", self.nesterov);
    visit("maximize", self.maximize);
  }
};

/// The update of one element.
struct MomentumRule {
  using Options = Momentum;         ///< what a user sets
  static constexpr int kSlots = 1;  ///< state arrays of a tensor
  /// PyTorch's names of the first kSlots states.
  static constexpr std::string_view kStateNames[] = {"momentum_buffer"};

  /// The scalars of one step, and the update that is made with them.
  template <typename Real>
  struct Step {
    Real learning_rate;         ///< eta
    Real weight_decay;          ///< lambda
    Real look_ahead;            ///< beta with nesterov, which is above zero, else zero
    RunningSum<Real> velocity;  ///< beta and 1 - tau; v = g on the first step

    /// Scalars of a tensor's step number t, counted from 1.
    ADAMANT_HOST_DEVICE static Step at_step(const Options& options, std::int64_t t) {
      return {static_cast<Real>(options.learning_rate), static_cast<Real>(options.weight_decay),
              static_cast<Real>(options.nesterov ? options.momentum : 0.0),
              t == 1 ? RunningSum<Real>::with(0.0, 1.0)
                     : RunningSum<Real>::with(options.momentum, 1.0 - options.dampening)};
    }

    /// The element after the step.
    ADAMANT_HOST_DEVICE Element<Real, kSlots> operator()(Element<Real, kSlots> element, Real gradient) const {
      const Real x = element.parameter;
      const Real g = gradient + weight_decay * x;
      const Real v = velocity(element.state[0], g);
      const Real ahead = g + look_ahead * v;
      element.parameter = x - learning_rate * (look_ahead > Real{0} ? ahead : v);
      element.state[0] = v;
      return element;
    }
  };
};

}  // namespace adamant
