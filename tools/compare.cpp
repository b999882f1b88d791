// `adamant compare`: a method on every instruction set and device, step by step and bit by bit, and each of its steps
// against the textbook reference.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <optional>

#include "host/measure.hpp"
#include "host/reference.hpp"
#include "tools/commands.hpp"
#include "tools/compare.hpp"
#include "tools/run_options.hpp"
#include "tools/terminal.hpp"

namespace adamant::tools {
namespace {

struct CompareOptions : RunOptions {
  std::int64_t count = 1 << 16;
  std::int64_t steps = 20;
  std::uint64_t seed = 1;
};

// A small generator that gives the same numbers everywhere (SplitMix64).
struct Random {
  std::uint64_t state;
  std::uint64_t next() {
    std::uint64_t z = (state += 0x9E3779B97F4A7C15ULL);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ULL;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBULL;
    return z ^ (z >> 31);
  }
  double unit() { return static_cast<double>(next() >> 11) * 0x1p-53; }
  // Either sign, magnitudes over `decades` powers of ten up to 1; one in sixteen is zero.
  double spread(int decades) {
    const double magnitude = std::pow(10.0, -decades * unit());
    const std::uint64_t kind = next() % 32;
    return kind < 2 ? 0.0 : (kind % 2 == 0 ? magnitude : -magnitude);
  }
};

// The methods to compare and their options: one as asked for, or every variant of each.
struct Case {
  std::string method;
  reference::Options options;
};

std::vector<Case> cases_of(const CompareOptions& options) {
  if (options.method != "all") return {{options.method, options.option_map()}};
  if (!options.options.empty()) throw std::invalid_argument("adamant: --option needs one --method");
  std::vector<Case> cases;
  for (const std::string& method : method_names()) {
    cases.push_back({method, {}});
    // Every variant that has other states than the defaults.
    const std::vector<Option> all = adamant::options(make_method(method));
    const auto has = [&](std::string_view name) {
      return std::any_of(all.begin(), all.end(), [&](const Option& option) { return option.name == name; });
    };
    if (has("amsgrad")) cases.push_back({method, {{"amsgrad", "true"}}});
    if (has("nesterov")) cases.push_back({method, {{"nesterov", "true"}, {"weight_decay", "0.01"}}});
    if (has("centered")) cases.push_back({method, {{"centered", "true"}, {"epsilon_placement", "outside_root"}}});
    if (has("centered")) cases.push_back({method, {{"centered", "true"}, {"momentum", "0.9"}}});
  }
  return cases;
}

// One optimizer with a parameter array of its own.
template <typename Real>
struct Contestant {
  std::string label;
  std::vector<Real> parameter;
  Optimizer optimizer;
  TensorId tensor{};
  std::vector<std::span<const Real>> states;

  Contestant(std::string name, const Method& method, Device device, Tuning tuning, std::vector<Real> initial,
             std::vector<Real>& gradient)
      : label(std::move(name)), parameter(std::move(initial)), optimizer(method, device, tuning) {
    tensor = optimizer.add({.name = "parameter",
                            .parameter = {parameter.data(), parameter.size()},
                            .gradient = {gradient.data(), gradient.size()}});
    for (const std::string& state : state_names(method)) {
      const Array view = optimizer.state(tensor, state);
      states.emplace_back(view.as<Real>(), static_cast<std::size_t>(view.count()));
    }
  }
};

// An element before a step, to show what went into a difference.
struct Inputs {
  std::int64_t step;
  std::int64_t element;
  double parameter;
  double gradient;
  std::vector<double> states;
};

std::string to_text(const Inputs& inputs) {
  std::string text = fmt::format("step {}, element {}: parameter {:a} ({:.9g}), gradient {:a} ({:.9g})", inputs.step,
                                 inputs.element, inputs.parameter, inputs.parameter, inputs.gradient, inputs.gradient);
  for (const double state : inputs.states) text += fmt::format(", state {:a} ({:.9g})", state, state);
  return text;
}

struct Row {
  std::string method;
  std::string left;
  std::string right;
  std::int64_t mismatches = 0;
  double largest_ulps = 0;
  double mean_ulps = 0;
  std::optional<double> of_bound;  // against the reference: the largest part of what P4 allows
  std::optional<Inputs> first;
  bool passed() const { return of_bound ? *of_bound <= 1.0 : mismatches == 0; }
};

template <typename Real>
Inputs inputs_of(const std::vector<Real>& parameter, const std::vector<std::vector<Real>>& states,
                 const std::vector<Real>& gradient, std::int64_t step, std::size_t i) {
  Inputs inputs{
      step, static_cast<std::int64_t>(i), static_cast<double>(parameter[i]), static_cast<double>(gradient[i]), {}};
  for (const auto& state : states) inputs.states.push_back(static_cast<double>(state[i]));
  return inputs;
}

template <typename Real>
class Comparer {
 public:
  Comparer(const Case& to_run, const CompareOptions& options)
      : options_(options),
        method_(make_method(to_run.method, {to_run.options.begin(), to_run.options.end()})),
        textbook_(to_run.method, to_run.options),
        gradient_(static_cast<std::size_t>(options.count)),
        random_{options.seed} {
    title_ = to_run.method;
    for (const auto& [name, value] : to_run.options) title_ += fmt::format(" {}={}", name, value);
    std::vector<Real> initial(gradient_.size());
    for (Real& x : initial) x = static_cast<Real>(random_.spread(4));
    const Tuning tuning = options.tuning();
    add(name(options.make_device()), options.make_device(), tuning, initial);
    for (const SimdLevel level : simd_levels()) {
      Tuning other = tuning;
      other.simd = level;
      other.threads = 1;
      other.tile = kChunk;
      add(fmt::format("cpu {} 1 thread", name(level)), Device::cpu(), other, initial);
    }
  }

  // Calls tick() after every step.
  template <typename Tick>
  std::vector<Row> run(const Tick& tick) {
    for (std::size_t i = 1; i < contestants_.size(); ++i) {
      rows_.push_back({title_, contestants_[0]->label, contestants_[i]->label, 0, 0, 0, {}, {}});
    }
    Row against_reference{title_, contestants_[0]->label, "reference", 0, 0, 0, 0.0, {}};
    for (std::int64_t step = 1; step <= options_.steps; ++step) {
      for (Real& g : gradient_) g = static_cast<Real>(random_.spread(6));
      const std::vector<Real> parameter = contestants_[0]->parameter;
      std::vector<std::vector<Real>> states;
      for (const auto& state : contestants_[0]->states) states.emplace_back(state.begin(), state.end());
      for (auto& contestant : contestants_) contestant->optimizer.step();
      for (std::size_t i = 1; i < contestants_.size(); ++i)
        compare_bits(rows_[i - 1], *contestants_[i], parameter, states, step);
      compare_reference(against_reference, parameter, states, step);
      tick();
    }
    against_reference.mean_ulps /= static_cast<double>(std::max<std::int64_t>(1, options_.count * options_.steps));
    rows_.push_back(against_reference);
    return rows_;
  }

 private:
  void add(std::string label, Device device, const Tuning& tuning, const std::vector<Real>& initial) {
    if (device.kind == Device::Kind::cpu && contestants_.empty()) {
      const Optimizer probe(GradientDescent{}, device, tuning);
      label += fmt::format(" {} {} threads", name(probe.simd()), probe.threads());
    }
    contestants_.push_back(
        std::make_unique<Contestant<Real>>(std::move(label), method_, device, tuning, initial, gradient_));
  }

  void compare_bits(Row& row, const Contestant<Real>& other, const std::vector<Real>& parameter,
                    const std::vector<std::vector<Real>>& states, std::int64_t step) {
    const auto look = [&](std::span<const Real> left, std::span<const Real> right) {
      const measure::Difference difference = measure::difference(left, right);
      row.mismatches += difference.mismatches;
      if (difference.first >= 0 && !row.first) {
        row.first = inputs_of(parameter, states, gradient_, step, static_cast<std::size_t>(difference.first));
      }
      if (difference.mismatches == 0) return;
      for (std::size_t i = 0; i < left.size(); ++i) {
        const double ulps =
            std::fabs(static_cast<double>(left[i]) - static_cast<double>(right[i])) / ulp(static_cast<double>(left[i]));
        row.largest_ulps = std::max(row.largest_ulps, ulps);
        row.mean_ulps += ulps / (static_cast<double>(left.size()) * static_cast<double>(options_.steps));
      }
    };
    look(contestants_[0]->parameter, other.parameter);
    for (std::size_t slot = 0; slot < states.size(); ++slot) look(contestants_[0]->states[slot], other.states[slot]);
  }

  void compare_reference(Row& row, const std::vector<Real>& parameter, const std::vector<std::vector<Real>>& states,
                         std::int64_t step) {
    const Contestant<Real>& ours = *contestants_[0];
    for (std::size_t i = 0; i < parameter.size(); ++i) {
      Exact<Real> before[reference::kMostStates] = {};
      for (std::size_t slot = 0; slot < states.size(); ++slot) before[slot] = states[slot][i];
      const auto exact = textbook_.step(parameter[i], before, gradient_[i], step);
      if (exact.cancels) continue;
      const Exact<Real> error = std::fabs(static_cast<Exact<Real>>(ours.parameter[i]) - exact.parameter);
      const Exact<Real> one_ulp = ulp(static_cast<double>(exact.parameter));
      const double ulps = static_cast<double>(error / one_ulp);
      Real after[reference::kMostStates] = {};
      for (std::size_t slot = 0; slot < states.size(); ++slot) after[slot] = ours.states[slot][i];
      const Exact<Real> part =
          part_of_bound<Real>(ours.parameter[i], {after, states.size()}, textbook_, exact, one_ulp);
      if (!std::isnan(ulps)) {
        row.largest_ulps = std::max(row.largest_ulps, ulps);
        row.mean_ulps += ulps;
      }
      if (static_cast<double>(part) > *row.of_bound) {
        row.of_bound = static_cast<double>(part);
        row.first = inputs_of(parameter, states, gradient_, step, i);
      }
    }
  }

  static double ulp(double x) {
    return std::is_same_v<Real, float> ? measure::ulp_float32(x) : measure::ulp_float64(x);
  }

  const CompareOptions& options_;
  Method method_;
  reference::Textbook<Exact<Real>> textbook_;
  std::vector<Real> gradient_;
  Random random_;
  std::string title_;
  std::vector<std::unique_ptr<Contestant<Real>>> contestants_;
  std::vector<Row> rows_;
};

nlohmann::json to_json(const Row& row) {
  nlohmann::json json{{"method", row.method},
                      {"left", row.left},
                      {"right", row.right},
                      {"mismatching_values", row.mismatches},
                      {"largest_error_ulps", number(row.largest_ulps)},
                      {"mean_error_ulps", number(row.mean_ulps)},
                      {"passed", row.passed()}};
  if (row.of_bound) json["largest_part_of_bound"] = number(*row.of_bound);
  if (row.first) {
    nlohmann::json states = nlohmann::json::array();
    for (const double state : row.first->states) states.push_back(number(state));
    json[row.of_bound ? "largest_error_inputs" : "first_difference"] = {{"step", row.first->step},
                                                                        {"element", row.first->element},
                                                                        {"parameter", number(row.first->parameter)},
                                                                        {"gradient", number(row.first->gradient)},
                                                                        {"states", states}};
  }
  return json;
}

// Throws std::invalid_argument, with what is needed, when memory does not hold the arrays of a case.
void check_memory(const Case& to_run, const CompareOptions& options) {
  const Method method = make_method(to_run.method, {to_run.options.begin(), to_run.options.end()});
  const auto contestants = static_cast<std::int64_t>(simd_levels().size()) + 1;
  const auto arrays = static_cast<std::int64_t>(state_names(method).size()) + 1;
  const std::int64_t needed = options.count * size_in_bytes(options.data_type()) * ((contestants + 1) * arrays + 2);
  if (needed > memory_available()) {
    throw std::invalid_argument(fmt::format("adamant: compare: {} at --count {} needs {} and {} are free",
                                            to_run.method, options.count, gibibytes(needed),
                                            gibibytes(memory_available())));
  }
}

bool run(const CompareOptions& options) {
  check_output("--json-file", options.json_file);
  options.check_machine();
  const std::vector<Case> cases = cases_of(options);
  for (const Case& to_run : cases) check_memory(to_run, options);
  Progress progress("compare");
  nlohmann::json report{{"environment", environment()}, {"dtype", options.type}, {"count", options.count},
                        {"steps", options.steps},       {"seed", options.seed},  {"rows", nlohmann::json::array()}};
  if (!options.json) {
    fmt::print(
        "{} steps of {} {} parameters, seed {}. Two runs agree when no bit differs; with the textbook reference each\n"
        "step agrees when its error, beyond half an ulp of the parameter, is within the promised bound (100 %).\nUlps "
        "of a parameter near zero are many; the bound knows how large the update was.\n\n",
        options.steps, options.count, name(options.data_type()), options.seed);
    fmt::print("{:<58} {:<24} {:<24} {:>10} {:>9} {:>9} {:>8}\n", "method", "left", "right", "mismatches", "max ulp",
               "mean ulp", "% bound");
  }
  bool passed = true;
  double done = 0;
  for (const Case& to_run : cases) {
    const auto tick = [&] {
      progress.at(++done / static_cast<double>(cases.size() * static_cast<std::size_t>(options.steps)), to_run.method);
    };
    const std::vector<Row> rows = options.data_type() == DataType::float32
                                      ? Comparer<float>(to_run, options).run(tick)
                                      : Comparer<double>(to_run, options).run(tick);
    progress.clear();
    for (const Row& row : rows) {
      passed = passed && row.passed();
      report["rows"].push_back(to_json(row));
      if (options.json) continue;
      fmt::print("{:<58} {:<24} {:<24} {:>10} {:>9.3g} {:>9.3g} {:>8} {}\n", row.method, row.left, row.right,
                 row.of_bound ? "-" : fmt::format("{}", row.mismatches), row.largest_ulps, row.mean_ulps,
                 row.of_bound ? fmt::format("{:.0f} %", 100 * *row.of_bound) : "-", row.passed() ? "ok" : "FAILED");
      if (!row.passed() && row.first)
        fmt::print("    {} {}\n", row.of_bound ? "worst at" : "first at", to_text(*row.first));
    }
  }
  report["passed"] = passed;
  options.emit(report);
  return passed;
}

}  // namespace

Command add_compare(CLI::App& program) {
  CLI::App* app = program.add_subcommand(
      "compare",
      "Hold a method's backends and instruction sets against each other, and against the textbook reference");
  auto options = std::make_shared<CompareOptions>();
  options->method = "all";
  app->add_option("--method", options->method, "a method, or all with their variants")->capture_default_str();
  app->add_option("--count", options->count, "parameters")
      ->capture_default_str()
      ->check(whole_number(0, std::uint64_t{1} << 40));
  app->add_option("--steps", options->steps, "steps")
      ->capture_default_str()
      ->check(whole_number(1, std::uint64_t{1} << 40));
  app->add_option("--seed", options->seed, "of the parameters and gradients")
      ->capture_default_str()
      ->check(whole_number(0, std::numeric_limits<std::uint64_t>::max()));
  options->add_to(*app);
  return {app, [options] { return run(*options); }};
}

}  // namespace adamant::tools
