// What every method must do, for every case of the table in float and double, on the CPU backend: against the textbook
// over long runs, and at zero, extreme, denormal and non-finite gradients.
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <vector>

#include "host/method.hpp"
#include "tests/single_tensor.hpp"

namespace adamant::test {
namespace {

constexpr std::int64_t kCount = 67;  // whole vectors of every width, and a tail

// A long run may leave the textbook's path by the roundings of x (Path::rounding), by kPathUpdate roundings of all
// updates together, and a state by kPathState roundings of the largest it has been: errors of a state live as long as
// its average remembers, which is why that is more than the 4 of one step. Each test records what it measured.
constexpr double kPathUpdate = 16;
constexpr double kPathState = 32;

class EveryMethod : public testing::TestWithParam<TypedCase> {
 protected:
  const Case& method_case() const { return GetParam().method_case; }
  DataType type() const { return GetParam().type; }
};

template <typename Real>
std::vector<Real> parameters(const Case& c) {
  return spread_values<Real>(kCount, seed_of(c.name), -4, 1);
}

template <typename Real>
std::vector<Real> gradients(const Case& c, std::int64_t t) {
  return spread_values<Real>(kCount, seed_of(c.name) + static_cast<std::uint64_t>(t) * 7919, -8, 2);
}

template <typename Real>
reference::Textbook<Exact<Real>> textbook_of(const Case& c) {
  return {c.method, c.options};
}

// Compares a run with its path; returns the worst errors in units of what is allowed beyond half an ulp a step.
template <typename Real>
void expect_on_path(SingleTensor<Real>& run, const Path<Real>& path, const reference::Textbook<Exact<Real>>& textbook,
                    double allowed_update, double allowed_state) {
  double worst_update = 0;
  double worst_state = 0;
  for (std::size_t i = 0; i < path.parameter.size(); ++i) {
    const Real x = run.parameter[static_cast<std::int64_t>(i)];
    const auto error = static_cast<double>(std::fabs(x - path.parameter[i]));
    const double excess = std::max(error - path.rounding(i), 0.0);
    ASSERT_LE(excess, allowed_update * kRounding<Real> * path.update[i])
        << "element " << i << ": " << x << " and by the textbook " << static_cast<double>(path.parameter[i]);
    if (path.update[i] > 0) worst_update = std::max(worst_update, excess / (kRounding<Real> * path.update[i]));
  }
  ASSERT_EQ(run.states(), textbook.state_names());
  for (std::size_t slot = 0; slot < textbook.state_names().size(); ++slot) {
    const std::span<Real> state = run.state(textbook.state_names()[slot]);
    for (std::size_t i = 0; i < state.size(); ++i) {
      const auto error = static_cast<double>(std::fabs(state[i] - path.state[slot][i]));
      const double unit = kRounding<Real> * path.largest_state[slot][i];
      ASSERT_LE(error, allowed_state * unit) << textbook.state_names()[slot] << "[" << i << "]: " << state[i]
                                             << " and by the textbook " << static_cast<double>(path.state[slot][i]);
      if (unit > 0) worst_state = std::max(worst_state, error / unit);
    }
  }
  testing::Test::RecordProperty("worst_update_in_roundings", std::to_string(worst_update));
  testing::Test::RecordProperty("worst_state_in_roundings", std::to_string(worst_state));
}

TEST_P(EveryMethod, zero_gradient_changes_only_what_weight_decay_changes) {
  with_type(type(), [&]<typename Real>(Real) {
    const auto initial = parameters<Real>(method_case());
    SingleTensor<Real> run(method_case(), initial);
    for (int t = 1; t <= 3; ++t) run.step(std::vector<Real>(kCount, Real{0}));
    if (method_case().number("weight_decay") == 0 || method_case().number("learning_rate") == 0) {
      EXPECT_TRUE(same_bits(run.parameter.values(), initial));
    } else {
      for (std::int64_t i = 0; i < kCount; ++i) {
        EXPECT_LT(std::fabs(run.parameter[i]), std::fabs(initial[static_cast<std::size_t>(i)]))
            << "weight decay shrinks, with maximize too";
      }
    }
    if (!has_coupled_decay(method_case())) {
      for (const std::string& name : run.states()) {
        for (const Real value : run.state(name)) EXPECT_EQ(value, Real{0}) << name;
      }
    }
  });
}

TEST_P(EveryMethod, first_step_is_the_textbook_s) {
  with_type(type(), [&]<typename Real>(Real) {
    const auto textbook = textbook_of<Real>(method_case());
    const auto initial = parameters<Real>(method_case());
    SingleTensor<Real> run(method_case(), initial);
    Path<Real> path(initial);
    const auto g = gradients<Real>(method_case(), 1);
    run.step(g);
    path.step(textbook, g, 1);
    expect_on_path(run, path, textbook, 16, 10);
    if (method_case().number("learning_rate") == 0) {
      EXPECT_TRUE(same_bits(run.parameter.values(), initial)) << "a learning rate of zero moves nothing";
    } else {
      EXPECT_FALSE(same_bits(run.parameter.values(), initial)) << "a step that moves nothing cannot be right";
    }
  });
}

TEST_P(EveryMethod, zero_gradient_after_others_is_the_textbook_s) {
  with_type(type(), [&]<typename Real>(Real) {
    const auto textbook = textbook_of<Real>(method_case());
    const auto initial = parameters<Real>(method_case());
    SingleTensor<Real> run(method_case(), initial);
    Path<Real> path(initial);
    for (int t = 1; t <= 8; ++t) {
      const auto g = t <= 4 ? gradients<Real>(method_case(), t) : std::vector<Real>(kCount, Real{0});
      run.step(g);
      path.step(textbook, g, t);
    }
    expect_on_path(run, path, textbook, kPathUpdate, kPathState);
  });
}

TEST_P(EveryMethod, three_hundred_steps_stay_on_the_textbook_s_path) {
  with_type(type(), [&]<typename Real>(Real) {
    const auto textbook = textbook_of<Real>(method_case());
    const auto initial = parameters<Real>(method_case());
    SingleTensor<Real> run(method_case(), initial);
    Path<Real> path(initial);
    for (int t = 1; t <= 300; ++t) {
      const auto g = gradients<Real>(method_case(), t);
      run.step(g);
      path.step(textbook, g, t);
    }
    expect_on_path(run, path, textbook, kPathUpdate, kPathState);
    EXPECT_EQ(run.optimizer.step_count(run.id), 300);
  });
}

TEST_P(EveryMethod, options_that_change_between_steps_take_effect_in_the_next_one) {
  with_type(type(), [&]<typename Real>(Real) {
    const auto initial = parameters<Real>(method_case());
    SingleTensor<Real> run(method_case(), initial);
    Path<Real> path(initial);
    Case now = method_case();
    const auto change = [&](const std::string& option, const std::string& value) {
      if (now.value(option).empty()) return;
      now.options[option] = value;
      run.optimizer.set_option(GroupId{}, option, value);
    };
    for (int t = 1; t <= 60; ++t) {
      const double rate = 0.001 * (1 + (t * 7) % 5);  // a schedule that changes every step
      now.options["learning_rate"] = std::to_string(rate);
      run.optimizer.set_learning_rate(GroupId{}, std::stod(now.options["learning_rate"]));
      if (t == 20) change("weight_decay", "0.07");
      if (t == 25) change("maximize", now.flag("maximize") ? "false" : "true");
      if (t == 30) change("epsilon", "0.015");
      if (t == 32) change("epsilon_placement", "outside_root");
      if (t == 34) change("epsilon_placement", "inside_root");
      if (t == 35) change("beta1", "0.75");
      if (t == 40) change("beta2", "0.96");
      if (t == 40) change("decay", "0.8");
      if (t == 45 && now.number("momentum") > 0) change("momentum", "0.35");
      if (t == 50 && !now.flag("nesterov")) change("dampening", "0.6");
      const auto g = gradients<Real>(method_case(), t);
      const auto textbook = textbook_of<Real>(now);
      run.step(g);
      path.step(textbook, g, t);
    }
    expect_on_path(run, path, textbook_of<Real>(now), kPathUpdate, kPathState);
  });
}

TEST_P(EveryMethod, extreme_gradients_err_within_the_bound_or_overflow_in_their_own_element) {
  with_type(type(), [&]<typename Real>(Real) {
    const auto textbook = textbook_of<Real>(method_case());
    const auto initial = parameters<Real>(method_case());
    for (const double size : {1e30, 1e-30}) {
      SCOPED_TRACE(size);
      auto g = gradients<Real>(method_case(), 1);
      for (std::size_t i = 0; i < g.size(); i += 3) g[i] = static_cast<Real>(i % 2 == 0 ? size : -size);
      SingleTensor<Real> run(method_case(), initial);
      SingleTensor<Real> plain(method_case(), initial);
      run.step(g);
      plain.step(gradients<Real>(method_case(), 1));
      for (std::size_t i = 0; i < g.size(); ++i) {
        SCOPED_TRACE(i);
        const Real x = run.parameter[static_cast<std::int64_t>(i)];
        if (i % 3 != 0) {
          EXPECT_EQ(measure::bits(x), measure::bits(plain.parameter[static_cast<std::int64_t>(i)]));
          continue;
        }
        const Exact<Real> zeros[reference::kMostStates] = {};
        const auto expected = textbook.step(initial[i], zeros, g[i], 1);
        bool overflows = false;
        for (std::size_t slot = 0; slot < textbook.state_names().size(); ++slot) {
          const Real state = run.state(textbook.state_names()[slot])[i];
          const auto exact = static_cast<double>(expected.state[slot]);
          if (std::fabs(exact) > static_cast<double>(std::numeric_limits<Real>::max())) {
            overflows = true;
            EXPECT_FALSE(std::isfinite(state));
          } else if (std::fabs(exact) < static_cast<double>(std::numeric_limits<Real>::min())) {
            EXPECT_LE(std::fabs(state), 2 * std::numeric_limits<Real>::min());
          } else if (overflows) {  // what is made with a root of the overflown one
            EXPECT_TRUE(std::isnan(state) || std::fabs(state - exact) <= std::fabs(exact)) << state;
          } else {
            EXPECT_NEAR(static_cast<double>(state), exact, 16 * kRounding<Real> * std::fabs(exact));
          }
        }
        if (overflows) {  // the root is infinite, so nothing is left of the update but AdamW's decay
          const double kept = method_case().method == "adamw"
                                  ? 1 - method_case().number("learning_rate") * method_case().number("weight_decay")
                                  : 1;
          EXPECT_TRUE(std::isnan(x) || std::fabs(x - initial[i] * kept) <= 2 * ulp<Real>(initial[i])) << x;
          continue;
        }
        const double allowed = 0.5 * ulp<Real>(static_cast<double>(expected.parameter)) +
                               16 * kRounding<Real> * static_cast<double>(expected.update_magnitude);
        EXPECT_LE(std::fabs(static_cast<double>(x - expected.parameter)), allowed) << x;
      }
    }
  });
}

// From parameters of zero, so that an update flushed to zero shows.
TEST_P(EveryMethod, denormal_gradients_are_not_flushed_to_zero) {
  with_type(type(), [&]<typename Real>(Real) {
    const auto textbook = textbook_of<Real>(method_case());
    std::vector<Real> g(kCount);
    for (std::size_t i = 0; i < g.size(); ++i) {  // the upper half of the denormals, both signs
      const auto steps = static_cast<Real>(1 + i) / kCount;
      g[i] = (i % 2 == 0 ? 1 : -1) * steps * std::numeric_limits<Real>::min();
      ASSERT_NE(g[i], 0);
    }
    const std::vector<Real> initial(kCount, Real{0});
    SingleTensor<Real> run(method_case(), initial);
    run.step(g);
    for (std::size_t i = 0; i < g.size(); ++i) {
      SCOPED_TRACE(i);
      const Exact<Real> zeros[reference::kMostStates] = {};
      const auto expected = textbook.step(0, zeros, g[i], 1);
      // The smallest denormal is a large part of these numbers, and the roots lose their g squared altogether. A first
      // moment keeps beta of g in its smallest denormals; the update scales what is left.
      const double scale = std::max(static_cast<double>(std::fabs(expected.parameter)),
                                    static_cast<double>(std::numeric_limits<Real>::denorm_min()));
      const double allowed = 0x1p-7 * scale + 4 * static_cast<double>(std::numeric_limits<Real>::denorm_min());
      EXPECT_NEAR(static_cast<double>(run.parameter[static_cast<std::int64_t>(i)]),
                  static_cast<double>(expected.parameter), allowed);
      if (method_case().method == "momentum") {
        EXPECT_EQ(std::fabs(run.state("momentum_buffer")[i]), std::fabs(g[i]));
      }
      if (method_case().method == "adam" || method_case().method == "adamw") {
        EXPECT_NEAR(static_cast<double>(run.state("exp_avg")[i]), static_cast<double>(expected.state[0]),
                    2 * static_cast<double>(std::numeric_limits<Real>::denorm_min()));
      }
    }
  });
}

TEST_P(EveryMethod, a_non_finite_gradient_stays_in_its_element_and_nan_is_canonical) {
  with_type(type(), [&]<typename Real>(Real) {
    const auto initial = parameters<Real>(method_case());
    // A quiet NaN with sign and payload, a signalling one, and both infinities.
    const Bits<Real> top = Bits<Real>{1} << (8 * sizeof(Real) - 1);
    const std::vector<Real> poisons = {
        std::bit_cast<Real>(static_cast<Bits<Real>>(kCanonicalNan<Real> | top | 0x1234U)),
        std::bit_cast<Real>(
            static_cast<Bits<Real>>(std::bit_cast<Bits<Real>>(std::numeric_limits<Real>::infinity()) | 1U)),
        std::numeric_limits<Real>::infinity(), -std::numeric_limits<Real>::infinity()};
    for (const int poisoned_step : {1, 3}) {
      for (const std::size_t first : {std::size_t{0}, std::size_t{13}, std::size_t{kCount - 4}}) {
        SCOPED_TRACE(testing::Message() << "step " << poisoned_step << ", elements from " << first);
        SingleTensor<Real> run(method_case(), initial);
        SingleTensor<Real> plain(method_case(), initial);
        for (int t = 1; t <= 5; ++t) {
          auto g = gradients<Real>(method_case(), t);
          plain.step(g);
          if (t == poisoned_step) {
            std::copy(poisons.begin(), poisons.end(), g.begin() + static_cast<std::ptrdiff_t>(first));
          }
          run.step(g);
          const std::vector<Real> got = run.everything();
          const std::vector<Real> expected = plain.everything();
          for (std::size_t i = 0; i < got.size(); ++i) {
            const std::size_t element = i % kCount;
            if (std::isnan(got[i])) {
              ASSERT_EQ(std::bit_cast<Bits<Real>>(got[i]), kCanonicalNan<Real>) << i;
            }
            if (t < poisoned_step || element < first || element >= first + poisons.size()) {
              ASSERT_EQ(measure::bits(got[i]), measure::bits(expected[i])) << i;
              continue;
            }
            const bool of_nan = element < first + 2;
            if (t == poisoned_step && of_nan) {
              ASSERT_TRUE(std::isnan(got[i])) << i;
            }
            if (t == poisoned_step) {
              ASSERT_FALSE(std::isfinite(got[i])) << i;
            }
            if (i < kCount) {
              ASSERT_FALSE(std::isfinite(got[i])) << "the parameter cannot recover: " << i;
            }
          }
        }
      }
    }
  });
}

TEST_P(EveryMethod, maximize_gives_the_bits_of_negated_gradients) {
  with_type(type(), [&]<typename Real>(Real) {
    const auto initial = parameters<Real>(method_case());
    const Case other = method_case().with({{"maximize", method_case().flag("maximize") ? "false" : "true"}});
    SingleTensor<Real> left(method_case(), initial);
    SingleTensor<Real> right(other, initial);
    for (int t = 1; t <= 20; ++t) {
      auto g = gradients<Real>(method_case(), t);
      left.step(g);
      for (Real& value : g) value = -value;
      right.step(g);
    }
    EXPECT_TRUE(same_bits(left.everything(), right.everything()));
  });
}

TEST_P(EveryMethod, states_carry_pytorch_s_names_in_the_textbook_s_order) {
  EXPECT_EQ(state_names(method_case().make()), textbook_of<float>(method_case()).state_names());
}

INSTANTIATE_TEST_SUITE_P(Table, EveryMethod, testing::ValuesIn(typed(cases())), test_name);

TEST(MethodTable, every_method_has_a_case_with_its_defaults_and_every_name_is_unique) {
  std::map<std::string, int> names;
  for (const Case& c : cases()) EXPECT_EQ(++names[c.name], 1) << c.name;
  for (const std::string& method : method_names()) EXPECT_EQ(names[method], 1) << method;
}

TEST(MethodTable, every_option_of_every_method_differs_from_its_default_in_some_case) {
  for (const std::string& method : method_names()) {
    for (const Option& option : options(make_method(method))) {
      EXPECT_TRUE(
          std::any_of(cases().begin(), cases().end(),
                      [&](const Case& c) { return c.method == method && c.value(option.name) != option.value; }))
          << method << " " << option.name;
    }
  }
}

// The defaults of the rules are those of docs/methods.md, which the textbook has written down a second time.
TEST(MethodTable, defaults_are_the_textbook_s) {
  for (const std::string& method : method_names()) {
    Options all;
    for (const Option& option : options(make_method(method))) all[option.name] = option.value;
    const reference::Textbook<double> written_out(method, all);
    const reference::Textbook<double> silent(method, {});
    ASSERT_EQ(written_out.state_names(), silent.state_names());
    const double state[reference::kMostStates] = {0.25, 0.5, 0.75};
    for (std::int64_t t = 1; t <= 3; ++t) {
      EXPECT_EQ(written_out.step(0.7, state, 0.3, t).parameter, silent.step(0.7, state, 0.3, t).parameter) << method;
    }
  }
}

// What a checkpoint holds of an option is to be read back, whatever option was accepted.
TEST(MethodText, numbers_in_hexadecimal_are_read_with_a_sign_before_them) {
  for (const double value : {0.0, -0.0, 0x1p-1074, 0x1.fffffep127, 0.1}) {
    const Method method = GradientDescent{.learning_rate = 0.5, .weight_decay = value};
    EXPECT_NO_THROW(validate(method));
    const Method read = make_method("gradient_descent", host::exact_options(method));
    EXPECT_EQ(std::bit_cast<std::uint64_t>(std::get<GradientDescent>(read).weight_decay),
              std::bit_cast<std::uint64_t>(value));
  }
  for (const std::string text : {"0x", "-0x", "0x-0", "-0x-0", "--0x0", "+0x0", "0x0x0", "-0x1"}) {
    EXPECT_THROW(make_method("gradient_descent", {{"weight_decay", text}}), std::invalid_argument) << text;
  }
}

// Rounding can leave s a little below a a; here it is put there by hand.
TEST(CenteredRMSProp, clamps_a_negative_variance_at_zero_where_pytorch_makes_a_nan) {
  for (const char* placement : {"inside_root", "outside_root"}) {
    for (const char* momentum : {"0", "0.5"}) {
      const Options options{
          {"centered", "true"}, {"epsilon_placement", placement}, {"epsilon", "0.0625"}, {"momentum", momentum}};
      SingleTensor<float> run({"centered", "rmsprop", options}, std::vector<float>(kCount, 1.0F));
      for (float& s : run.state("square_avg")) s = 0.5F;
      for (float& a : run.state("grad_avg")) a = 1.0F;
      run.step(std::vector<float>(kCount, 1.0F));
      EXPECT_LT(run.state("square_avg")[0], run.state("grad_avg")[0] * run.state("grad_avg")[0]);
      const double root = std::string(placement) == "inside_root" ? 0.25 : 0.0625;  // of epsilon alone
      for (std::int64_t i = 0; i < kCount; ++i) ASSERT_NEAR(run.parameter[i], 1 - 0.01 / root, 1e-7);
    }
  }
}

// Promise P3: what stands in for pow.
TEST(DecayPower, is_a_power_and_its_complement_without_cancellation) {
  for (const double beta : {0.0, 0.1, 0.5, 0.9, 0.99, 0.999, 0.9999, 0.999999, 1 - 0x1p-53}) {
    for (const std::int64_t t : {1, 2, 3, 7, 64, 1000, 65537, 1000000007}) {
      SCOPED_TRACE(testing::Message() << beta << "^" << t);
      const DecayPower got = decay_power(beta, t);
      const long double exact = std::pow(static_cast<long double>(beta), static_cast<long double>(t));
      const long double complement =
          -std::expm1(static_cast<long double>(t) * std::log1p(static_cast<long double>(beta) - 1));
      // Far below a rounding of float32, at every beta and t.
      EXPECT_NEAR(got.complement, static_cast<double>(complement), 16 * 0x1p-53 * static_cast<double>(complement));
      EXPECT_NEAR(got.power, static_cast<double>(exact),
                  0x1p-52 * static_cast<double>(t) * static_cast<double>(exact) + 0x1p-1000);
      if (t == 1) {
        EXPECT_EQ(got.complement, 1 - beta);
      }
    }
  }
  EXPECT_NEAR(decay_power(0.9, std::int64_t{1} << 62).complement, 1, 0x1p-50);
  EXPECT_EQ(decay_power(0.9, 0).power, 1);
  EXPECT_EQ(decay_power(0.9, 0).complement, 0);
  EXPECT_EQ(decay_power(0.0, 1).power, 0);
}

}  // namespace
}  // namespace adamant::test
