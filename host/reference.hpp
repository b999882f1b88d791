// The textbook reference: the equations of every method in scalar loops of double (or long double), written from the
// papers. It shares no code with the rules and includes none of their headers: tests and `adamant compare` hold both
// backends against it.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

namespace adamant::reference {

// Options by name as in a configuration file: "learning_rate" -> "1e-3", "nesterov" -> "true". What is not named has
// the default of the method's definition.
using Options = std::map<std::string, std::string>;

inline constexpr int kMostStates = 3;

// Exact enough to judge `Real` by.
template <typename Real>
using Exact = std::conditional_t<sizeof(Real) == 4, double, long double>;

// Whether a state under this name of PyTorch's is made of squared gradients.
bool is_squared(std::string_view state);

// The result of one step on one element, and how large it could have been: every sum taken over absolute values. The
// error bound (promise P4) is stated in terms of the latter.
template <typename Real>
struct Result {
  Real parameter;
  Real state[kMostStates];
  Real update_magnitude;
  Real state_magnitude[kMostStates];
  // No bound holds: centered RMSProp's variance is less than three quarters of s; or, in Adam, more than half of the
  // gradient and its weight decay cancel, whose difference may be most of s and beside which m may be large.
  bool cancels;
};

// One method with its options, ready to step elements. Options and equations are those of `Real`; what is written
// "beta^t" in the equation is std::pow here.
template <typename Real>
class Textbook {
 public:
  // Throws std::invalid_argument for a method, an option or a value that the equations do not have.
  Textbook(std::string_view method, const Options& options);

  // The states under PyTorch's names, in the order of Result::state.
  const std::vector<std::string>& state_names() const { return state_names_; }

  // What promise P4 allows a step's results to be off by, in units of half an ulp of one (2^-24 for float32): the
  // update of its magnitude, each state of its own. Where weight decay joins the gradient the sum of both is rounded,
  // and squared for some states; and RMSProp's momentum buffer sums quotients by a root of the state: these states are
  // allowed more.
  static constexpr Real kUpdateUnits = 16;
  Real state_units(std::size_t slot) const;

  // Step number `t`, counted from 1, of one element.
  Result<Real> step(Real parameter, const Real* state, Real gradient, std::int64_t t) const;

 private:
  // The paper's letters; what a method does not have stays zero.
  struct Letters {
    Real eta, lambda, beta, tau, gamma, mu, epsilon, beta1, beta2;
    bool nesterov, outside_root, centered, amsgrad, maximize;
  };

  Result<Real> gradient_descent(Real x, Real g) const;
  Result<Real> momentum(Real x, const Real* state, Real g, std::int64_t t) const;
  Result<Real> rmsprop(Real x, const Real* state, Real g) const;
  Result<Real> adam(Real x, const Real* state, Real g, std::int64_t t, bool decoupled) const;

  std::string method_;
  Letters letters_{};
  std::vector<std::string> state_names_;
};

}  // namespace adamant::reference
