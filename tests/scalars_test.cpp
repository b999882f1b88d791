// Promise P3: the few scalars that a step computes from options and step count, held against their closed forms in long
// double. Their bits on a device are in cuda_rules_test.cpp.
#include <gtest/gtest.h>

#include <bit>
#include <cfloat>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "adamant/adamant.hpp"
#include "tests/inputs.hpp"

namespace adamant::test {
namespace {

using Exact = long double;
static_assert(LDBL_MANT_DIG >= 64, "the closed forms need more precision than double");

constexpr double kUnit = 0x1p-53;  // half an ulp of 1 in double

const std::vector<double>& decays() {
  static const std::vector<double> all{0.0, 0.3, 0.5, 0.9, 0.99, 0.999, 0.9999, 0.99999, 1 - 1e-10, 1 - 0x1p-53};
  return all;
}

// Every early step and some around every power of two to 2^62.
const std::vector<std::int64_t>& steps() {
  static const std::vector<std::int64_t> all = [] {
    std::vector<std::int64_t> list;
    for (std::int64_t t = 0; t <= 10000; ++t) list.push_back(t);
    for (int k = 14; k <= 62; ++k) {
      const std::int64_t power = std::int64_t{1} << k;
      for (const std::int64_t t : {power - 1, power, power + 1, power + power / 3}) list.push_back(t);
    }
    return list;
  }();
  return all;
}

struct ExactPower {
  Exact power;
  Exact complement;
  Exact logarithm;  // of the power
};

ExactPower exact_power(double beta, std::int64_t t) {
  if (beta == 0.0 || t == 0) {
    const Exact power = t == 0 ? 1.0L : 0.0L;
    return {power, 1.0L - power, 0.0L};
  }
  const Exact logarithm = static_cast<Exact>(t) * log1pl(static_cast<Exact>(beta) - 1.0L);
  return {expl(logarithm), -expm1l(logarithm), logarithm};
}

double relative_error(double value, Exact exact) {
  if (exact == 0.0L) return value == 0.0 ? 0.0 : std::numeric_limits<double>::infinity();
  return infinite_if_nan(static_cast<double>(fabsl((static_cast<Exact>(value) - exact) / exact)));
}

TEST(DecayPower, has_a_complement_within_four_roundings_of_one_minus_beta_to_the_t) {
  for (const double beta : decays()) {
    double largest = 0.0;
    std::int64_t at = 0;
    for (const std::int64_t t : steps()) {
      const double error = relative_error(decay_power(beta, t).complement, exact_power(beta, t).complement);
      if (error > largest) {
        largest = error;
        at = t;
      }
    }
    EXPECT_LE(largest, 4 * kUnit) << "beta " << beta << ", t " << at << ": " << largest / kUnit << " roundings";
  }
}

// The condition of the function itself: a power with logarithm -L moves by L times a relative change of its base.
TEST(DecayPower, is_within_four_roundings_times_one_plus_its_logarithm_of_beta_to_the_t) {
  for (const double beta : decays()) {
    double largest = 0.0;
    std::int64_t at = 0;
    for (const std::int64_t t : steps()) {
      const ExactPower exact = exact_power(beta, t);
      if (exact.power < 1e-300L) {
        EXPECT_LE(decay_power(beta, t).power, 1.0001e-300) << "beta " << beta << ", t " << t;
        continue;
      }
      const double error =
          relative_error(decay_power(beta, t).power, exact.power) / (1.0 - static_cast<double>(exact.logarithm));
      if (error > largest) {
        largest = error;
        at = t;
      }
    }
    EXPECT_LE(largest, 4 * kUnit) << "beta " << beta << ", t " << at << ": " << largest / kUnit << " roundings";
  }
}

TEST(DecayPower, and_its_complement_add_up_to_one) {
  for (const double beta : decays()) {
    for (const std::int64_t t : steps()) {
      const DecayPower result = decay_power(beta, t);
      EXPECT_NEAR(result.power + result.complement, 1.0, 8 * kUnit) << "beta " << beta << ", t " << t;
    }
  }
}

// Neighbouring steps take different squarings, so up to their rounding.
TEST(DecayPower, never_falls_back_from_one_step_to_a_later_one) {
  for (const double beta : decays()) {
    DecayPower before = decay_power(beta, 0);
    for (const std::int64_t t : steps()) {
      const DecayPower now = decay_power(beta, t);
      ASSERT_GE(now.complement, before.complement * (1 - 8 * kUnit)) << "beta " << beta << ", t " << t;
      ASSERT_LE(now.complement, 1.0 + 4 * kUnit) << "beta " << beta << ", t " << t;
      ASSERT_GE(now.power, 0.0) << "beta " << beta << ", t " << t;
      before = now;
    }
  }
}

TEST(DecayPower, is_exact_at_the_first_step_and_at_none) {
  for (const double beta : decays()) {
    EXPECT_EQ(decay_power(beta, 0).power, 1.0);
    EXPECT_EQ(decay_power(beta, 0).complement, 0.0);
    EXPECT_EQ(decay_power(beta, 1).complement, 1.0 - beta);
    EXPECT_NEAR(decay_power(beta, 1).power, beta, kUnit);
  }
}

TEST(DecayPower, still_moves_where_a_step_count_in_double_would_stand_still) {
  constexpr double kSlow = 1 - 0x1p-53;
  constexpr std::int64_t kFirst = std::int64_t{1} << 53;
  EXPECT_NEAR(decay_power(kSlow, kFirst).complement, 1 - std::exp(-1.0), 1e-15);
  EXPECT_GT(decay_power(kSlow, kFirst + 4).complement, decay_power(kSlow, kFirst).complement);
  EXPECT_EQ(decay_power(0.999, std::int64_t{1} << 62).complement, 1.0);
}

// Adam takes its bias corrections from these, which square both decays in one loop of their own.
TEST(DecayComplements, are_those_of_the_powers_in_bits) {
  for (const std::int64_t t : steps()) {
    for (const double beta1 : decays()) {
      for (const double beta2 : decays()) {
        const auto both = DecayComplements::at(beta1, beta2, t);
        ASSERT_EQ(std::bit_cast<std::uint64_t>(both.first),
                  std::bit_cast<std::uint64_t>(decay_power(beta1, t).complement))
            << "beta1 " << beta1 << ", beta2 " << beta2 << ", t " << t;
        ASSERT_EQ(std::bit_cast<std::uint64_t>(both.second),
                  std::bit_cast<std::uint64_t>(decay_power(beta2, t).complement))
            << "beta1 " << beta1 << ", beta2 " << beta2 << ", t " << t;
      }
    }
  }
}

TEST(StepCount, goes_on_beyond_what_a_double_or_32_bits_can_count) {
  for (const int power : {24, 31, 32, 53, 62}) {
    float parameter = 1.0F;
    float gradient = 0.5F;
    Optimizer optimizer{Adam{}};
    const TensorId id = optimizer.add({.name = "x", .parameter = {&parameter, 1}, .gradient = {&gradient, 1}});
    const std::int64_t first = std::int64_t{1} << power;
    optimizer.set_step_count(id, first);
    for (int step = 1; step <= 3; ++step) {
      optimizer.step();
      EXPECT_EQ(optimizer.step_count(id), first + step);
    }
  }
}

// --- the scalars of every rule ---------------------------------------------------------------------------------------

template <typename Real>
double ulp_of(Real value) {
  const Real size = std::fabs(value);
  const Real next = std::nextafter(size, std::numeric_limits<Real>::infinity());
  return static_cast<double>(next) - static_cast<double>(size);
}

// How far a scalar may be from its closed form, in ulps: to float it is rounded once, from a double that is off by a
// few roundings; in double those roundings are all there is.
template <typename Real>
constexpr double kUlps = sizeof(Real) == 4 ? 0.5 + 0x1p-20 : 8.0;

template <typename Real>
testing::AssertionResult near(const char* what_text, const char* /*exact_text*/, Real value, Exact exact) {
  const double error = static_cast<double>(fabsl(static_cast<Exact>(value) - exact)) / ulp_of(value);
  if (error <= kUlps<Real>) return testing::AssertionSuccess();
  return testing::AssertionFailure() << what_text << " is " << value << ", " << error << " ulps from its closed form";
}

// decay * old + weight * value, each factor as the sum of its parts.
template <typename Real>
void expect_sum(const RunningSum<Real>& sum, double decay, Exact weight) {
  EXPECT_TRUE(sum.keep == Real{0} || sum.keep == Real{1}) << sum.keep;
  EXPECT_LE(std::fabs(sum.change), Real{0.5}) << "the end with the larger weight is the one kept";
  EXPECT_PRED_FORMAT2(near<Real>, sum.change, static_cast<Exact>(decay) - static_cast<Exact>(sum.keep));
  EXPECT_PRED_FORMAT2(near<Real>, sum.high, weight);
  const Exact together = static_cast<Exact>(sum.high) + static_cast<Exact>(sum.low);
  EXPECT_LE(static_cast<double>(fabsl(together - weight)),
            static_cast<double>(weight) * (sizeof(Real) == 4 ? 0x1p-47 : 0x1p-53));
}

const std::vector<std::int64_t>& some_steps() {
  static const std::vector<std::int64_t> all{1,
                                             2,
                                             3,
                                             4,
                                             5,
                                             7,
                                             10,
                                             11,
                                             31,
                                             32,
                                             33,
                                             100,
                                             999,
                                             1000,
                                             1001,
                                             10000,
                                             123457,
                                             std::int64_t{1} << 20,
                                             (std::int64_t{1} << 31) - 1,
                                             std::int64_t{1} << 31,
                                             (std::int64_t{1} << 32) + 1,
                                             std::int64_t{1} << 40,
                                             (std::int64_t{1} << 53) + 1,
                                             std::int64_t{1} << 62};
  return all;
}

template <typename Real>
class StepScalars : public testing::Test {};
using Reals = testing::Types<float, double>;
class RealName {
 public:
  template <typename Real>
  static std::string GetName(int /*index*/) {
    return sizeof(Real) == 4 ? "float32" : "float64";
  }
};
TYPED_TEST_SUITE(StepScalars, Reals, RealName);

TYPED_TEST(StepScalars, of_gradient_descent_are_its_options_rounded_once) {
  const GradientDescent options{.learning_rate = 3e-4, .weight_decay = 0.1};
  for (const std::int64_t t : some_steps()) {
    const auto step = GradientDescentRule::Step<TypeParam>::at_step(options, t);
    EXPECT_PRED_FORMAT2(near<TypeParam>, step.learning_rate, static_cast<Exact>(options.learning_rate));
    EXPECT_PRED_FORMAT2(near<TypeParam>, step.weight_decay, static_cast<Exact>(options.weight_decay));
  }
}

TYPED_TEST(StepScalars, of_momentum_take_the_whole_gradient_on_the_first_step_only) {
  for (const double beta : {0.0, 0.3, 0.5, 0.9, 0.999}) {
    for (const double dampening : {0.0, 0.3, 0.9, 1.0}) {
      for (const std::int64_t t : some_steps()) {
        const Momentum options{.learning_rate = 0.03, .momentum = beta, .dampening = dampening, .weight_decay = 0.1};
        const auto step = MomentumRule::Step<TypeParam>::at_step(options, t);
        EXPECT_PRED_FORMAT2(near<TypeParam>, step.learning_rate, static_cast<Exact>(options.learning_rate));
        EXPECT_PRED_FORMAT2(near<TypeParam>, step.weight_decay, static_cast<Exact>(options.weight_decay));
        EXPECT_EQ(step.look_ahead, TypeParam{0});
        if (t == 1) {
          expect_sum<TypeParam>(step.velocity, 0.0, 1.0L);
        } else {
          expect_sum<TypeParam>(step.velocity, beta, 1.0L - static_cast<Exact>(dampening));
        }
      }
    }
    if (beta > 0.0) {
      const Momentum options{.momentum = beta, .nesterov = true};
      const auto step = MomentumRule::Step<TypeParam>::at_step(options, 2);
      EXPECT_PRED_FORMAT2(near<TypeParam>, step.look_ahead, static_cast<Exact>(beta));
    }
  }
}

template <typename Rule, typename Real>
void expect_rmsprop_scalars(RMSProp options) {
  for (const double decay : {0.0, 0.3, 0.5, 0.9, 0.99, 0.999}) {
    for (const auto placement : {EpsilonPlacement::inside_root, EpsilonPlacement::outside_root}) {
      for (const std::int64_t t : some_steps()) {
        options.decay = decay;
        options.epsilon_placement = placement;
        const auto step = Rule::template Step<Real>::at_step(options, t);
        EXPECT_PRED_FORMAT2(near<Real>, step.learning_rate, static_cast<Exact>(options.learning_rate));
        EXPECT_PRED_FORMAT2(near<Real>, step.weight_decay, static_cast<Exact>(options.weight_decay));
        const bool inside = placement == EpsilonPlacement::inside_root;
        EXPECT_PRED_FORMAT2(near<Real>, inside ? step.epsilon_inside : step.epsilon_outside,
                            static_cast<Exact>(options.epsilon));
        EXPECT_EQ(inside ? step.epsilon_outside : step.epsilon_inside, Real{0});
        expect_sum<Real>(step.average, decay, 1.0L - static_cast<Exact>(decay));
        expect_sum<Real>(step.buffer, options.momentum, 1.0L);
      }
    }
  }
}

TYPED_TEST(StepScalars, of_rmsprop_put_epsilon_in_one_place_and_zero_in_the_other) {
  expect_rmsprop_scalars<RMSPropRule<false, false>, TypeParam>({.weight_decay = 0.1});
  expect_rmsprop_scalars<RMSPropRule<false, true>, TypeParam>({.learning_rate = 3e-4, .momentum = 0.9});
  expect_rmsprop_scalars<RMSPropRule<true, false>, TypeParam>({.epsilon = 1e-8, .centered = true});
  expect_rmsprop_scalars<RMSPropRule<true, true>, TypeParam>({.momentum = 0.3, .centered = true});
}

template <typename Rule, typename Real>
void expect_adam_scalars(typename Rule::Options options) {
  for (const double beta1 : {0.0, 0.5, 0.9, 0.99}) {
    for (const double beta2 : {0.0, 0.9, 0.999, 0.9999, 1 - 1e-10}) {
      for (const std::int64_t t : some_steps()) {
        SCOPED_TRACE("beta1 " + std::to_string(beta1) + " beta2 " + std::to_string(beta2) + " t " + std::to_string(t));
        options.beta1 = beta1;
        options.beta2 = beta2;
        const auto step = Rule::template Step<Real>::at_step(options, t);
        const Exact root = sqrtl(exact_power(beta2, t).complement);
        EXPECT_PRED_FORMAT2(near<Real>, step.moments.rate,
                            static_cast<Exact>(options.learning_rate) * root / exact_power(beta1, t).complement);
        EXPECT_PRED_FORMAT2(near<Real>, step.moments.epsilon, static_cast<Exact>(options.epsilon) * root);
        expect_sum<Real>(step.moments.first, beta1, 1.0L - static_cast<Exact>(beta1));
        expect_sum<Real>(step.moments.second, beta2, 1.0L - static_cast<Exact>(beta2));
      }
    }
  }
}

TYPED_TEST(StepScalars, of_adam_fold_both_bias_corrections_into_rate_and_epsilon) {
  expect_adam_scalars<AdamRule<false>, TypeParam>({});
  expect_adam_scalars<AdamRule<true>, TypeParam>({.learning_rate = 0.03, .epsilon = 1e-3, .amsgrad = true});
  const auto step = AdamRule<false>::Step<TypeParam>::at_step({.weight_decay = 0.1}, 1);
  EXPECT_PRED_FORMAT2(near<TypeParam>, step.weight_decay, static_cast<Exact>(0.1));
}

TYPED_TEST(StepScalars, of_adamw_are_those_of_adam_and_the_product_of_rate_and_decay) {
  expect_adam_scalars<AdamWRule<false>, TypeParam>({});
  expect_adam_scalars<AdamWRule<true>, TypeParam>({.learning_rate = 0.03, .epsilon = 1e-3, .amsgrad = true});
  for (const double rate : {1e-3, 3e-4, 0.1}) {
    for (const double decay : {0.0, 1e-2, 0.3}) {
      const auto step = AdamWRule<false>::Step<TypeParam>::at_step({.learning_rate = rate, .weight_decay = decay}, 7);
      EXPECT_PRED_FORMAT2(near<TypeParam>, step.decay, static_cast<Exact>(rate) * static_cast<Exact>(decay));
    }
  }
}

}  // namespace
}  // namespace adamant::test
