// Promise P4, for every rule: one step from any state errs by at most 0.5 ulp(x') + 16 roundings of the update's
// magnitude, a state by at most Textbook::state_units() roundings of its own. Searched by annealing over parameters,
// states, gradients, options and step counts together; --gtest_random_seed varies or repeats the search.
//
// What the promise does not reach, and the search therefore leaves out:
// - intermediates that over- or underflow: magnitudes stay within 2^+-30, or zero;
// - centered RMSProp where s - a a cancels (Result::cancels);
// - Adam with weight decay in the gradient, g near -lambda x, and a first moment too large for its second: the sum of g
//   and lambda x has then lost its digits, and no order of operations gets them back. See make_reachable().
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <string>
#include <vector>

#include "tests/single_tensor.hpp"

namespace adamant::test {
namespace {

// float64 scalars are themselves computed in double: two complements of powers, good to four roundings each, a root, a
// product and a quotient. Their roundings, which float32 never sees, come on top.
template <typename Real>
double allowed_update() {
  constexpr double kScalars = 9;
  return static_cast<double>(reference::Textbook<Exact<Real>>::kUpdateUnits) + (sizeof(Real) == 8 ? kScalars : 0);
}

template <typename Real>
struct Point {
  Real parameter;
  Real gradient;
  Real state[reference::kMostStates];
};

// Looks for the largest errors of one rule.
template <typename Real>
class Search {
 public:
  Search(Case c, std::uint64_t seed) : case_(std::move(c)), random_(seed) {}

  struct Worst {
    double update = 0;
    std::map<std::string, double> state;
    std::string update_at;
    std::map<std::string, std::string> state_at;
  };

  // One start: options at random, points at random, `generations` changes that are kept where they make the error of
  // the update, or of one state, larger, or not much smaller: the less the longer it goes on. The largest error of all
  // would hide those that are further from their bounds. Few long searches find more than many short ones.
  void anneal(int start, int generations) {
    target_ = start % (1 + std::ssize(state_names(case_.make()))) - 1;
    Setting setting{random_options(), random_step()};
    std::vector<Point<Real>> points;
    for (int i = 0; i < kPoints; ++i) points.push_back(random_point(setting));
    SingleTensor<Real> run(setting.method_case, std::vector<Real>(kPoints, Real{0}));
    std::vector<double> ratios = errors(run, setting, points);
    for (int generation = 0; generation < generations; ++generation) {
      const double loss = kMostLoss * (1 - static_cast<double>(generation) / generations);
      const auto is_kept = [&](double found, double before) {
        return found >= before * (1 - loss * random_.fraction());
      };
      Setting tried = setting;
      std::vector<Point<Real>> changed = points;
      const bool options_too = random_.one_in(5);
      if (options_too) {
        tried = changed_setting(setting);
        for (Point<Real>& point : changed) make_reachable(tried, point);
      } else {
        for (Point<Real>& point : changed) change(tried, point);
      }
      const std::vector<double> found = errors(run, tried, changed);
      if (options_too) {
        if (!is_kept(*std::max_element(found.begin(), found.end()), *std::max_element(ratios.begin(), ratios.end()))) {
          continue;
        }
        setting = tried;
        points = changed;
        ratios = found;
      } else {
        for (std::size_t i = 0; i < points.size(); ++i) {
          if (!is_kept(found[i], ratios[i])) continue;
          points[i] = changed[i];
          ratios[i] = found[i];
        }
      }
    }
  }

  const Worst& worst() const { return worst_; }

 private:
  static constexpr int kPoints = 48;
  static constexpr double kMostLoss = 0.15;

  struct Setting {
    Case method_case;
    std::int64_t t;
  };

  std::int64_t random_step() {
    const std::int64_t choices[] = {1, 2, 3, 10, 40};
    if (sizeof(Real) == 4 && random_.one_in(3)) return 1 + random_.below(1000000);
    return choices[random_.below(5)];
  }

  static std::string text(double value) {
    char buffer[40];
    std::snprintf(buffer, sizeof buffer, "%.17g", value);
    return buffer;
  }

  // Log-uniform in [2^lowest, 2^highest].
  double magnitude(int lowest, int highest) {
    return std::ldexp(1 + random_.fraction(), lowest + static_cast<int>(random_.below(highest - lowest)));
  }

  std::string random_value(const std::string& option, const std::string& allowed) {
    if (option == "learning_rate") return random_.one_in(20) ? "0" : text(magnitude(-20, 10));
    if (option == "weight_decay") return text(magnitude(-16, 4));
    if (option == "epsilon") return text(magnitude(-27, 4));
    if (allowed == "true or false") return random_.one_in(2) ? "true" : "false";
    if (option == "epsilon_placement") return random_.one_in(2) ? "inside_root" : "outside_root";
    // Fractions: anywhere, near one, around one half, powers of two.
    switch (random_.below(5)) {
      case 0: return option == "momentum" && case_.method == "rmsprop" ? "0.5" : "0";
      case 1: return text(1 - magnitude(-17, -1));
      case 2: return text(0.5 + (random_.fraction() - 0.5) * 0x1p-6);
      case 3: return text(std::ldexp(1.0, -1 - static_cast<int>(random_.below(6))));
      default: return text(0.001 + 0.998 * random_.fraction());
    }
  }

  // Any value of every option that does not change the variant; weight decay is on when the case has it.
  Case random_options() {
    Case c = case_;
    for (const Option& option : options(case_.make())) {
      if (random_.one_in(4)) c = changed_option(c, option);
    }
    if (!valid(c)) return case_;
    return c;
  }

  Case changed_option(const Case& c, const Option& option) {
    if (option.name == "amsgrad" || option.name == "centered") return c;
    if (option.name == "weight_decay" && case_.number("weight_decay") == 0) return c;
    if (option.name == "momentum" && case_.method == "rmsprop" && case_.number("momentum") == 0) return c;
    return c.with({{option.name, random_value(option.name, option.allowed)}});
  }

  static bool valid(const Case& c) {
    try {
      static_cast<void>(c.make());
      return true;
    } catch (const std::invalid_argument&) {
      return false;  // nesterov does not go with everything
    }
  }

  Setting changed_setting(const Setting& setting) {
    Setting tried = setting;
    const std::vector<Option> all = options(case_.make());
    const Case c = changed_option(setting.method_case, all[static_cast<std::size_t>(random_.below(std::ssize(all)))]);
    if (valid(c)) tried.method_case = c;
    if (random_.one_in(3)) tried.t = random_step();
    return tried;
  }

  Real random_number() {
    switch (random_.below(6)) {
      case 0: return std::ldexp(Real{1}, static_cast<int>(random_.below(40)) - 20);
      case 1: return random_.template spread<Real>(-30, 29);
      case 2: return Real{0};
      default: return random_.template spread<Real>(-4, 3);
    }
  }

  Point<Real> random_point(const Setting& setting) {
    Point<Real> point{random_number(), random_number(), {random_number(), random_number(), random_number()}};
    make_reachable(setting, point);
    return point;
  }

  // One or two numbers become others: new, a neighbour, rescaled, or one that cancels against the rest.
  void change(const Setting& setting, Point<Real>& point) {
    do {
      Real* const numbers[] = {&point.parameter, &point.gradient, &point.state[0], &point.state[1], &point.state[2]};
      Real& number = *numbers[random_.below(5)];
      switch (random_.below(7)) {
        case 0: number = random_number(); break;
        case 1: number = std::nextafter(number, random_.one_in(2) ? Real{1} : Real{-1}); break;
        case 2: number *= static_cast<Real>(random_.one_in(2) ? 2 : 0.5); break;
        case 3: number *= static_cast<Real>(1 + (random_.fraction() - 0.5) * 0.01); break;
        case 4: number *= static_cast<Real>(1 + (random_.fraction() - 0.5)); break;
        case 5: number = *numbers[random_.below(5)] * static_cast<Real>(random_.one_in(2) ? 1 : -1); break;
        default:
          point.gradient = static_cast<Real>(-setting.method_case.number("weight_decay") *
                                             static_cast<double>(point.parameter) * (1 + random_.fraction() * 0x1p-12));
      }
    } while (random_.one_in(2));
    for (Real* number : {&point.parameter, &point.gradient, &point.state[0], &point.state[1], &point.state[2]}) {
      const Real size = std::fabs(*number);
      if (!(size < 0x1p30) || (size < 0x1p-30 && size != 0)) *number = random_number();
    }
    make_reachable(setting, point);
  }

  // Second moments are not negative. With weight decay in the gradient, an error of u (|g| + |lambda x|) in their sum d
  // is one of (1-beta2) 2 d of that in s, which divides all of m: this stays within twice what the magnitude of the
  // update counts for d as long as m <= 2 (1-beta1)/beta1 sqrt(beta2 s / (1-beta2)). With the default betas, where the
  // limit is 7.02 sqrt(s), gradients cannot make m larger than 7.27 sqrt(s).
  void make_reachable(const Setting& setting, Point<Real>& point) const {
    const std::vector<std::string> names = state_names(case_.make());
    for (std::size_t slot = 0; slot < names.size(); ++slot) {
      if (reference::is_squared(names[slot])) point.state[slot] = std::fabs(point.state[slot]);
    }
    if (case_.method == "momentum" && setting.t == 1) point.state[0] = 0;  // the first step takes v = g
    if (!names.empty() && names.front() == "exp_avg" && has_coupled_decay(setting.method_case)) {
      const double beta1 = setting.method_case.number("beta1");
      const double beta2 = setting.method_case.number("beta2");
      const double most =
          beta1 == 0 ? static_cast<double>(std::fabs(point.state[0]))
                     : 2 * (1 - beta1) / beta1 * std::sqrt(beta2 * static_cast<double>(point.state[1]) / (1 - beta2));
      if (std::fabs(point.state[0]) > most) point.state[0] = static_cast<Real>(std::copysign(most, point.state[0]));
    }
  }

  // What a search wants large: the error of its target at each point, in units of what is allowed.
  std::vector<double> errors(SingleTensor<Real>& run, const Setting& setting, const std::vector<Point<Real>>& points) {
    const reference::Textbook<Exact<Real>> textbook(setting.method_case.method, setting.method_case.options);
    const std::vector<std::string>& names = textbook.state_names();
    run.optimizer.set_options(GroupId{}, setting.method_case.make());
    run.optimizer.set_step_count(run.id, setting.t - 1);
    std::vector<std::span<Real>> states;
    for (const std::string& name : names) states.push_back(run.state(name));
    for (std::size_t i = 0; i < points.size(); ++i) {
      run.parameter[static_cast<std::int64_t>(i)] = points[i].parameter;
      run.gradient[static_cast<std::int64_t>(i)] = points[i].gradient;
      for (std::size_t slot = 0; slot < names.size(); ++slot) states[slot][i] = points[i].state[slot];
    }
    run.optimizer.step();

    std::vector<double> ratios(points.size(), 0.0);
    for (std::size_t i = 0; i < points.size(); ++i) {
      Exact<Real> before[reference::kMostStates];
      for (int slot = 0; slot < reference::kMostStates; ++slot) before[slot] = points[i].state[slot];
      const auto exact = textbook.step(points[i].parameter, before, points[i].gradient, setting.t);
      for (std::size_t slot = 0; slot < names.size(); ++slot) {
        if (exact.cancels && names[slot] == "momentum_buffer") continue;
        const auto error = static_cast<double>(std::fabs(states[slot][i] - exact.state[slot]));
        const double unit = kRounding<Real> * static_cast<double>(exact.state_magnitude[slot]);
        const double ratio = error == 0 ? 0 : infinite_if_nan(error / unit);
        if (ratio > worst_.state[names[slot]]) {
          worst_.state[names[slot]] = ratio;
          worst_.state_at[names[slot]] = describe(setting, points[i]);
        }
        if (target_ == static_cast<std::int64_t>(slot))
          ratios[i] = ratio / static_cast<double>(textbook.state_units(slot));
      }
      if (exact.cancels) continue;
      const Real x = run.parameter[static_cast<std::int64_t>(i)];
      const auto error = static_cast<double>(std::fabs(x - exact.parameter));
      const double excess = error - 0.5 * std::max(ulp<Real>(static_cast<double>(exact.parameter)), ulp<Real>(x));
      const double unit = kRounding<Real> * static_cast<double>(exact.update_magnitude);
      const double ratio = excess <= 0 ? 0 : infinite_if_nan(excess / unit);
      if (ratio > worst_.update) {
        worst_.update = ratio;
        worst_.update_at = describe(setting, points[i]);
      }
      if (target_ < 0) ratios[i] = ratio / allowed_update<Real>();
    }
    return ratios;
  }

  static std::string describe(const Setting& setting, const Point<Real>& point) {
    std::string all = setting.method_case.method + ", step " + std::to_string(setting.t) + ",";
    for (const Option& option : options(setting.method_case.make())) all += " " + option.name + "=" + option.value;
    char numbers[200];
    std::snprintf(numbers, sizeof numbers, "; x %a g %a states %a %a %a", static_cast<double>(point.parameter),
                  static_cast<double>(point.gradient), static_cast<double>(point.state[0]),
                  static_cast<double>(point.state[1]), static_cast<double>(point.state[2]));
    return all + numbers;
  }

  Case case_;
  Random random_;
  std::int64_t target_ = -1;  // a state; or less than none: the update
  Worst worst_;
};

// The rules with and without weight decay.
std::vector<Case> searched_cases() {
  std::vector<Case> all;
  for (const Case& c : one_case_per_rule()) {
    Case plain = c.with({{"weight_decay", "0"}, {"maximize", "false"}});
    plain.name = c.name + "_without_decay";
    all.push_back(plain);
    all.push_back(c);
  }
  return all;
}

class ErrorBound : public testing::TestWithParam<TypedCase> {
 protected:
  static void search(int starts, int generations) {
    const Case& c = GetParam().method_case;
    with_type(GetParam().type, [&]<typename Real>(Real) {
      const std::uint64_t seed = run_seed();
      Search<Real> search(c, seed ^ seed_of(c.name));
      for (int start = 0; start < starts; ++start) search.anneal(start, generations);
      const reference::Textbook<Exact<Real>> textbook(c.method, c.options);
      const auto& worst = search.worst();
      std::string line = "update " + std::to_string(worst.update);
      EXPECT_LE(worst.update, allowed_update<Real>()) << worst.update_at << "\nseed " << seed;
      for (std::size_t slot = 0; slot < textbook.state_names().size(); ++slot) {
        const std::string& state = textbook.state_names()[slot];
        const auto found = worst.state.find(state);
        ASSERT_NE(found, worst.state.end()) << "a search that finds no error is not looking";
        line += ", " + state + " " + std::to_string(found->second);
        EXPECT_LE(found->second, static_cast<double>(textbook.state_units(slot)))
            << worst.state_at.at(state) << "\nseed " << seed;
      }
      RecordProperty("worst_in_roundings", line);
      std::printf("  worst error in roundings: %s\n", line.c_str());
      EXPECT_GT(worst.update, 0.5) << "a search that finds no error is not looking";
    });
  }
};

TEST_P(ErrorBound, of_one_step_is_kept_in_a_search) { search(4, 400); }

TEST_P(ErrorBound, Full_of_one_step_is_kept_in_a_long_search) { search(5, 6000); }

INSTANTIATE_TEST_SUITE_P(Rules, ErrorBound, testing::ValuesIn(typed(searched_cases())), test_name);

}  // namespace
}  // namespace adamant::test
