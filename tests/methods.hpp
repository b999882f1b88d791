// The table of cases that most tests are generated from: every method with its defaults, and every variant and option
// worth testing. A method that is added to include/adamant/rules.hpp is here with its defaults by itself.
#pragma once

#include <gtest/gtest.h>

#include <cstddef>
#include <map>
#include <ostream>
#include <string>
#include <string_view>
#include <vector>

#include "adamant/adamant.hpp"

namespace adamant::test {

using Options = std::map<std::string, std::string>;

struct Case {
  std::string name;    // of letters, digits and _; unique
  std::string method;  // as make_method() knows it
  Options options;     // what differs from the defaults

  Method make() const { return make_method(method, options); }
  Case with(const Options& changes) const {
    Case changed = *this;
    for (const auto& [option, value] : changes) changed.options[option] = value;
    return changed;
  }
  // The value in force, the default where the case does not say.
  std::string value(std::string_view option) const {
    for (const Option& there : adamant::options(make())) {
      if (there.name == option) return there.value;
    }
    return {};
  }
  double number(std::string_view option) const {
    const std::string text = value(option);
    return text.empty() ? 0.0 : std::stod(text);
  }
  bool flag(std::string_view option) const { return value(option) == "true"; }
  friend void PrintTo(const Case& c, std::ostream* out) { *out << c.name; }
};

// Weight decay that is part of the gradient, not of the parameter.
inline bool has_coupled_decay(const Case& c) { return c.method != "adamw" && c.number("weight_decay") > 0; }

inline std::vector<Case> make_cases() {
  std::vector<Case> cases;
  for (const std::string& method : method_names()) cases.push_back({method, method, {}});
  const auto add = [&](std::string method, const std::string& what, Options options) {
    cases.push_back({method + "_" + what, std::move(method), std::move(options)});
  };

  for (const std::string& method : method_names()) {  // what every method has
    add(method, "learning_rate_0", {{"learning_rate", "0"}});
    add(method, "weight_decay", {{"weight_decay", "0.1"}});
    add(method, "maximize", {{"maximize", "true"}});
    add(method, "weight_decay_maximize", {{"weight_decay", "0.03"}, {"maximize", "true"}, {"learning_rate", "0.003"}});
  }

  add("momentum", "0", {{"momentum", "0"}});
  add("momentum", "0_5", {{"momentum", "0.5"}});
  add("momentum", "0_3", {{"momentum", "0.3"}});
  add("momentum", "0_99", {{"momentum", "0.99"}});
  add("momentum", "dampening", {{"dampening", "0.4"}});
  add("momentum", "dampening_1", {{"dampening", "1"}});
  add("momentum", "dampening_as_average", {{"momentum", "0.95"}, {"dampening", "0.95"}});
  add("momentum", "nesterov", {{"nesterov", "true"}});
  add("momentum", "nesterov_0_3", {{"nesterov", "true"}, {"momentum", "0.3"}});
  add("momentum", "nesterov_all",
      {{"nesterov", "true"}, {"momentum", "0.8"}, {"weight_decay", "0.02"}, {"maximize", "true"}});
  add("momentum", "dampening_all",
      {{"dampening", "0.3"}, {"momentum", "0.7"}, {"weight_decay", "0.02"}, {"maximize", "true"}});

  add("rmsprop", "outside_root", {{"epsilon_placement", "outside_root"}});
  add("rmsprop", "pytorch", {{"epsilon_placement", "outside_root"}, {"decay", "0.99"}, {"epsilon", "1e-8"}});
  add("rmsprop", "large_epsilon_inside", {{"epsilon", "0.25"}});
  add("rmsprop", "large_epsilon_outside", {{"epsilon", "0.25"}, {"epsilon_placement", "outside_root"}});
  add("rmsprop", "decay_0", {{"decay", "0"}});
  add("rmsprop", "decay_0_3", {{"decay", "0.3"}});
  add("rmsprop", "decay_0_999", {{"decay", "0.999"}});
  add("rmsprop", "centered", {{"centered", "true"}});
  add("rmsprop", "centered_outside_root", {{"centered", "true"}, {"epsilon_placement", "outside_root"}});
  add("rmsprop", "centered_decay_0_3", {{"centered", "true"}, {"decay", "0.3"}});
  add("rmsprop", "momentum", {{"momentum", "0.9"}});
  add("rmsprop", "momentum_0_3", {{"momentum", "0.3"}});
  add("rmsprop", "centered_momentum", {{"centered", "true"}, {"momentum", "0.9"}});
  add("rmsprop", "momentum_all",
      {{"momentum", "0.8"}, {"weight_decay", "0.02"}, {"maximize", "true"}, {"epsilon_placement", "outside_root"}});
  add("rmsprop", "all",
      {{"momentum", "0.8"},
       {"centered", "true"},
       {"weight_decay", "0.02"},
       {"maximize", "true"},
       {"decay", "0.97"},
       {"epsilon", "1e-3"},
       {"epsilon_placement", "outside_root"}});

  for (const std::string method : {"adam", "adamw"}) {
    add(method, "betas_0_0", {{"beta1", "0"}, {"beta2", "0"}});
    add(method, "betas_0_5_0_9", {{"beta1", "0.5"}, {"beta2", "0.9"}});
    add(method, "betas_0_3_0_4", {{"beta1", "0.3"}, {"beta2", "0.4"}});
    add(method, "betas_0_9_0_9999", {{"beta1", "0.9"}, {"beta2", "0.9999"}});
    add(method, "betas_0_99_0_95", {{"beta1", "0.99"}, {"beta2", "0.95"}});
    add(method, "large_epsilon", {{"epsilon", "0.25"}});
    add(method, "amsgrad", {{"amsgrad", "true"}});
    add(method, "amsgrad_betas_0_5_0_9", {{"amsgrad", "true"}, {"beta1", "0.5"}, {"beta2", "0.9"}});
    add(method, "no_decay", {{"weight_decay", "0"}});
    add(method, "all",
        {{"amsgrad", "true"},
         {"weight_decay", "0.05"},
         {"maximize", "true"},
         {"beta1", "0.8"},
         {"beta2", "0.97"},
         {"epsilon", "1e-3"},
         {"learning_rate", "0.01"}});
  }
  return cases;
}

inline const std::vector<Case>& cases() {
  static const std::vector<Case> all = make_cases();
  return all;
}

// One case per rule (a method and its variant): what decides which compiled loop runs.
inline std::vector<Case> one_case_per_rule() {
  std::map<std::string, Case> by_states;
  for (const Case& c : cases()) {
    std::string key = c.method;
    for (const std::string& state : state_names(c.make())) key += " " + state;
    by_states.emplace(key, c);
  }
  std::vector<Case> rules;
  for (const auto& [key, c] : by_states) {
    // Every term of the formula takes part.
    Options all{{"weight_decay", "0.02"}, {"maximize", "true"}};
    if (c.method == "momentum") all["dampening"] = "0.25";
    if (c.method == "rmsprop" && c.number("momentum") > 0) all["momentum"] = "0.8";
    Case rule = c.with(all);
    rule.name = c.name + "_sweep";
    rules.push_back(rule);
  }
  return rules;
}

// A case and the type of its tensors: the parameter of most parametrised tests.
struct TypedCase {
  Case method_case;
  DataType type;
  friend void PrintTo(const TypedCase& c, std::ostream* out) { *out << c.method_case.name << " " << name(c.type); }
};

inline std::vector<TypedCase> typed(const std::vector<Case>& list) {
  std::vector<TypedCase> all;
  for (const Case& c : list) {
    all.push_back({c, DataType::float32});
    all.push_back({c, DataType::float64});
  }
  return all;
}

inline std::string test_name(const testing::TestParamInfo<TypedCase>& info) {
  return info.param.method_case.name + "_" + std::string(name(info.param.type));
}

// Calls body(Real{}) with float or double.
template <typename Body>
void with_type(DataType type, const Body& body) {
  if (type == DataType::float32) {
    body(float{});
  } else {
    body(double{});
  }
}

}  // namespace adamant::test
