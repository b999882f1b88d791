/// \file
/// Gradient descent.
///
///     x <- x - eta g                  with weight decay: g <- g + lambda x first
///
/// Source: Cauchy 1847; options as torch.optim.SGD without momentum. No deviation.
#pragma once

#include "adamant/rule.hpp"

namespace adamant {

struct GradientDescentRule;

/// Options of gradient descent. Defaults give x <- x - 0.01 g.
struct GradientDescent {
  double learning_rate = 1e-2;  ///< eta >= 0
  double weight_decay = 0.0;    ///< lambda >= 0, added to the gradient as lambda x
  bool maximize = false;        ///< ascend: the gradient's sign is turned before everything else

  static constexpr std::string_view kName = "gradient_descent";
  using Variants = TypeList<GradientDescentRule>;
  ADAMANT_HOST_DEVICE int variant() const { return 0; }
  ADAMANT_HOST_DEVICE bool runs_as(int made_as) const { return made_as == variant(); }
  ADAMANT_HOST_DEVICE const char* conflict() const { return ""; }

  template <typename Self, typename Visitor>
  static void visit_fields(Self& self, Visitor&& visit) {
    visit("learning_rate", self.learning_rate, kNonNegative);
    visit("weight_decay", self.weight_decay, kNonNegative);
    visit("maximize", self.maximize);
  }
};

/// The update of one element.
struct GradientDescentRule {
  using Options = GradientDescent;
  static constexpr int kSlots = 0;
  static constexpr std::string_view kStateNames[] = {""};

  template <typename Real>
  struct Step {
    Real learning_rate;
    Real weight_decay;

    ADAMANT_HOST_DEVICE static Step at_step(const Options& options, std::int64_t /*t*/) {
      return {static_cast<Real>(options.learning_rate), static_cast<Real>(options.weight_decay)};
    }

    ADAMANT_HOST_DEVICE Element<Real, kSlots> operator()(Element<Real, kSlots> element, Real gradient) const {
      const Real x = element.parameter;
      const Real g = gradient + weight_decay * x;
      element.parameter = x - learning_rate * g;
      return element;
    }
  };
};

}  // namespace adamant
