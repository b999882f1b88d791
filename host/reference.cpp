#include "host/reference.hpp"

#include <cmath>
#include <optional>
#include <stdexcept>

#include "host/text.hpp"

namespace adamant::reference {
namespace {

// The options of each method and the defaults of its definition; flags are 0 and 1.
const std::map<std::string, std::map<std::string, double>, std::less<>> kDefaults{
    {"gradient_descent", {{"learning_rate", 1e-2}, {"weight_decay", 0}, {"maximize", 0}}},
    {"momentum",
     {{"learning_rate", 1e-2},
      {"momentum", 0.9},
      {"dampening", 0},
      {"weight_decay", 0},
      {"nesterov", 0},
      {"maximize", 0}}},
    {"rmsprop",
     {{"learning_rate", 1e-2},
      {"decay", 0.9},
      {"epsilon", 1e-6},
      {"momentum", 0},
      {"weight_decay", 0},
      {"epsilon_placement", 0},  // 0 inside the root, 1 outside
      {"centered", 0},
      {"maximize", 0}}},
    {"adam",
     {{"learning_rate", 1e-3},
      {"beta1", 0.9},
      {"beta2", 0.999},
      {"epsilon", 1e-8},
      {"weight_decay", 0},
      {"amsgrad", 0},
      {"maximize", 0}}},
    {"adamw",
     {{"learning_rate", 1e-3},
      {"beta1", 0.9},
      {"beta2", 0.999},
      {"epsilon", 1e-8},
      {"weight_decay", 1e-2},
      {"amsgrad", 0},
      {"maximize", 0}}},
};

double parse(const std::string& name, const std::string& text) {
  if (text == "true" || text == "outside_root") return 1;
  if (text == "false" || text == "inside_root") return 0;
  if (const std::optional<double> number = host::number_from_text(text)) return *number;
  throw std::invalid_argument("reference: option " + name + " = " + host::in_quotes(text) + " is not a value");
}

}  // namespace

template <typename Real>
Textbook<Real>::Textbook(std::string_view method, const Options& options) : method_(method) {
  const auto found = kDefaults.find(method);
  if (found == kDefaults.end()) throw std::invalid_argument("reference: no method " + host::in_quotes(method));
  std::map<std::string, double> values = found->second;
  for (const auto& [name, text] : options) {
    if (!values.contains(name)) throw std::invalid_argument("reference: no option " + host::in_quotes(name));
    values[name] = parse(name, text);
  }
  letters_ = {.eta = Real(values["learning_rate"]),
              .lambda = Real(values["weight_decay"]),
              .beta = Real(values["momentum"]),
              .tau = Real(values["dampening"]),
              .gamma = Real(values["decay"]),
              .mu = Real(values["momentum"]),
              .epsilon = Real(values["epsilon"]),
              .beta1 = Real(values["beta1"]),
              .beta2 = Real(values["beta2"]),
              .nesterov = values["nesterov"] != 0,
              .outside_root = values["epsilon_placement"] != 0,
              .centered = values["centered"] != 0,
              .amsgrad = values["amsgrad"] != 0,
              .maximize = values["maximize"] != 0};
  if (method == "momentum") state_names_ = {"momentum_buffer"};
  if (method == "rmsprop") {
    state_names_ = {"square_avg"};
    if (letters_.mu > 0) state_names_.emplace_back("momentum_buffer");
    if (letters_.centered) state_names_.emplace_back("grad_avg");
  }
  if (method == "adam" || method == "adamw") {
    state_names_ = {"exp_avg", "exp_avg_sq"};
    if (letters_.amsgrad) state_names_.emplace_back("max_exp_avg_sq");
  }
}

bool is_squared(std::string_view state) { return state.ends_with("_sq") || state == "square_avg"; }

template <typename Real>
Real Textbook<Real>::state_units(std::size_t slot) const {
  const std::string& state = state_names_[slot];
  if (method_ == "rmsprop" && state == "momentum_buffer") return Real{10};
  if (letters_.lambda == 0 || method_ == "adamw") return Real{4};
  return is_squared(state) ? Real{10} : Real{7};
}

template <typename Real>
Result<Real> Textbook<Real>::step(Real x, const Real* state, Real g, std::int64_t t) const {
  if (letters_.maximize) g = -g;
  if (method_ == "gradient_descent") return gradient_descent(x, g);
  if (method_ == "momentum") return momentum(x, state, g, t);
  if (method_ == "rmsprop") return rmsprop(x, state, g);
  if (method_ == "adam" || method_ == "adamw") return adam(x, state, g, t, method_ == "adamw");
  throw std::logic_error("reference: no equation for " + method_);
}

// x <- x - eta (g + lambda x)
template <typename Real>
Result<Real> Textbook<Real>::gradient_descent(Real x, Real g) const {
  const Real eta = letters_.eta;
  const Real lambda = letters_.lambda;
  Result<Real> result{};
  result.parameter = x - eta * (g + lambda * x);
  result.update_magnitude = eta * (std::fabs(g) + lambda * std::fabs(x));
  return result;
}

// v <- beta v + (1 - tau) g, v = g on the first step;  x <- x - eta v, or x - eta (g + beta v)
template <typename Real>
Result<Real> Textbook<Real>::momentum(Real x, const Real* state, Real g, std::int64_t t) const {
  const Real eta = letters_.eta;
  const Real beta = letters_.beta;
  const Real lambda = letters_.lambda;
  const Real kept = t == 1 ? Real{0} : beta;
  const Real taken = t == 1 ? Real{1} : 1 - letters_.tau;
  const Real decayed = g + lambda * x;
  const Real decayed_magnitude = std::fabs(g) + lambda * std::fabs(x);
  const Real v = kept * state[0] + taken * decayed;
  const Real v_magnitude = kept * std::fabs(state[0]) + taken * decayed_magnitude;
  Result<Real> result{};
  result.state[0] = v;
  result.state_magnitude[0] = v_magnitude;
  result.parameter = x - eta * (letters_.nesterov ? decayed + beta * v : v);
  result.update_magnitude = eta * (letters_.nesterov ? decayed_magnitude + beta * v_magnitude : v_magnitude);
  return result;
}

// s <- gamma s + (1 - gamma) g^2;  x <- x - eta g / sqrt(s + epsilon), and its variants
template <typename Real>
Result<Real> Textbook<Real>::rmsprop(Real x, const Real* state, Real g) const {
  const Real eta = letters_.eta;
  const Real gamma = letters_.gamma;
  const Real mu = letters_.mu;
  const Real lambda = letters_.lambda;
  const Real epsilon = letters_.epsilon;
  const Real decayed = g + lambda * x;
  const Real decayed_magnitude = std::fabs(g) + lambda * std::fabs(x);
  Result<Real> result{};
  const Real s = gamma * state[0] + (1 - gamma) * decayed * decayed;
  result.state[0] = s;
  result.state_magnitude[0] = gamma * std::fabs(state[0]) + (1 - gamma) * decayed_magnitude * decayed_magnitude;
  int next = mu > 0 ? 2 : 1;
  Real variance = s;
  if (letters_.centered) {
    const Real a = gamma * state[next] + (1 - gamma) * decayed;
    result.state[next] = a;
    result.state_magnitude[next] = gamma * std::fabs(state[next]) + (1 - gamma) * decayed_magnitude;
    variance = s - a * a;
    result.cancels = variance < 3 * s / 4;
    if (variance < 0) variance = 0;
  }
  const Real root = letters_.outside_root ? std::sqrt(variance) + epsilon : std::sqrt(variance + epsilon);
  if (mu > 0) {
    const Real b = mu * state[1] + decayed / root;
    const Real b_magnitude = mu * std::fabs(state[1]) + decayed_magnitude / root;
    result.state[1] = b;
    result.state_magnitude[1] = b_magnitude;
    result.parameter = x - eta * b;
    result.update_magnitude = eta * b_magnitude;
  } else {
    result.parameter = x - eta * decayed / root;
    result.update_magnitude = eta * decayed_magnitude / root;
  }
  return result;
}

// v <- beta1 v + (1 - beta1) g;  s <- beta2 s + (1 - beta2) g^2;
// x <- x - eta (v / (1 - beta1^t)) / (sqrt(s / (1 - beta2^t)) + epsilon)
template <typename Real>
Result<Real> Textbook<Real>::adam(Real x, const Real* state, Real g, std::int64_t t, bool decoupled) const {
  const Real eta = letters_.eta;
  const Real beta1 = letters_.beta1;
  const Real beta2 = letters_.beta2;
  const Real lambda = letters_.lambda;
  const Real coupled_decay = decoupled ? Real{0} : lambda;
  const Real decoupled_decay = decoupled ? lambda : Real{0};
  const Real correction1 = 1 - std::pow(beta1, static_cast<Real>(t));
  const Real correction2 = 1 - std::pow(beta2, static_cast<Real>(t));
  const Real decayed = g + coupled_decay * x;
  const Real decayed_magnitude = std::fabs(g) + coupled_decay * std::fabs(x);
  Result<Real> result{};
  result.cancels = coupled_decay > 0 && std::fabs(decayed) < decayed_magnitude / 2;
  const Real v = beta1 * state[0] + (1 - beta1) * decayed;
  const Real s = beta2 * state[1] + (1 - beta2) * decayed * decayed;
  const Real v_magnitude = beta1 * std::fabs(state[0]) + (1 - beta1) * decayed_magnitude;
  const Real s_magnitude = beta2 * std::fabs(state[1]) + (1 - beta2) * decayed_magnitude * decayed_magnitude;
  result.state[0] = v;
  result.state[1] = s;
  result.state_magnitude[0] = v_magnitude;
  result.state_magnitude[1] = s_magnitude;
  Real second = s;
  if (letters_.amsgrad) {
    second = std::isnan(s) || s > state[2] ? s : state[2];
    result.state[2] = second;
    result.state_magnitude[2] = s_magnitude > state[2] ? s_magnitude : state[2];
  }
  const Real denominator = std::sqrt(second / correction2) + letters_.epsilon;
  result.parameter = x - (eta * decoupled_decay * x + eta * (v / correction1) / denominator);
  result.update_magnitude = eta * decoupled_decay * std::fabs(x) + eta * (v_magnitude / correction1) / denominator;
  return result;
}

template class Textbook<double>;
template class Textbook<long double>;

}  // namespace adamant::reference
