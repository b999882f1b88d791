// What a step does to gradients, on the CPU: scale, clipping, the global norm, gradients that are not finite and the
// dynamic loss scale, each against an oracle of its own. tests/cuda_control_test.cpp has the same on a device.
#include "tests/control.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "tests/methods.hpp"
#include "tests/refusal.hpp"

namespace adamant::test {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInfinity = std::numeric_limits<double>::infinity();

const std::vector<std::int64_t> kCounts{70, 5000, 0, 129, 1, 4096, 33, 2};

// Its parameters become what it was given as gradients, with the sign turned round, when they were zero before.
Method reader(bool maximize = false) { return GradientDescent{.learning_rate = 1.0, .maximize = maximize}; }

// What a step made of the gradient of every element.
std::vector<std::vector<double>> effective_gradients(ControlModel& model) {
  model.clear_parameters();
  model.optimizer.step();
  std::vector<std::vector<double>> all;
  for (std::size_t i = 0; i < model.shapes.size(); ++i) {
    all.push_back(model.parameter(i));
    for (double& value : all.back()) value = -value;
  }
  return all;
}

bool is_double(const ControlModel& model, std::size_t tensor) {
  return model.shapes[tensor].parameter == DataType::float64;
}

// --- Scale

TEST(GradientScale, of_a_power_of_two_gives_the_bits_of_gradients_divided_beforehand) {
  for (const Case& c : one_case_per_rule()) {
    for (const double scale : {1024.0, 2.0, 0x1p-6}) {
      ControlModel divided(c.make(), Device::cpu(), mixed(kCounts));
      ControlModel by_value(c.make(), Device::cpu(), mixed(kCounts));
      ControlModel by_pointer(c.make(), Device::cpu(), mixed(kCounts));
      by_value.optimizer.set_control({.gradient_scale = scale});
      const auto there = static_cast<float>(scale);
      by_pointer.optimizer.set_control({.gradient_scale_pointer = &there});
      for (std::uint64_t step = 1; step <= 3; ++step) {
        divided.set_gradients(step);
        by_value.set_gradients(step, -4, 2, scale);
        by_pointer.set_gradients(step, -4, 2, scale);
        for (ControlModel* model : {&divided, &by_value, &by_pointer}) model->optimizer.step();
      }
      const std::string expected = divided.everything();
      EXPECT_TRUE(by_value.everything() == expected) << c.name << ", " << scale;
      EXPECT_TRUE(by_pointer.everything() == expected) << c.name << ", " << scale;
    }
  }
}

TEST(GradientScale, of_any_value_is_a_factor_that_is_rounded_once) {
  float there = 0;
  ControlModel by_value(reader(), Device::cpu(), mixed(kCounts));
  ControlModel by_pointer(reader(), Device::cpu(), mixed(kCounts));
  by_pointer.optimizer.set_control({.gradient_scale_pointer = &there});
  for (const float scale : {3.0F, 0.1F, 1234.5678F, 65536.0F, 1e-5F}) {
    by_value.optimizer.set_control({.gradient_scale = static_cast<double>(scale)});
    there = scale;  // read by every step
    for (ControlModel* model : {&by_value, &by_pointer}) {
      const auto got = effective_gradients(*model);
      const double factor = 1.0 / static_cast<double>(scale);
      for (std::size_t i = 0; i < got.size(); ++i) {
        for (std::size_t k = 0; k < got[i].size(); ++k) {
          const double gradient = model->gradients[i][k];
          // The product of two floats is exact in double.
          const double expected =
              is_double(*model, i)
                  ? gradient * factor
                  : static_cast<double>(static_cast<float>(gradient * static_cast<double>(static_cast<float>(factor))));
          ASSERT_EQ(got[i][k], expected) << scale << ", tensor " << i << ", element " << k;
        }
      }
    }
  }
}

// --- Clipping

struct Clipping {
  std::optional<double> norm, value;
  double scale = 1;
};

// The factor of clip_grad_norm_ and the bounds of clip_grad_value_, in that order; every gradient but for two
// roundings.
void expect_clipped(ControlModel& model, const Clipping& clipping, bool maximize) {
  const long double norm = exact_norm(model) / clipping.scale;
  long double factor = 1 / static_cast<long double>(clipping.scale);
  if (clipping.norm) factor *= std::min(1.0L, static_cast<long double>(*clipping.norm) / (norm + 1e-6L));
  const auto got = effective_gradients(model);
  int clipped = 0;
  for (std::size_t i = 0; i < got.size(); ++i) {
    const long double rounding = is_double(model, i) ? 0x1p-50L : 0x1p-23L;
    for (std::size_t k = 0; k < got[i].size(); ++k) {
      long double expected = (maximize ? -1 : 1) * factor * static_cast<long double>(model.gradients[i][k]);
      if (model.shapes[i].frozen) expected = 0;
      if (clipping.value) {
        const long double most = is_double(model, i) ? *clipping.value : static_cast<float>(*clipping.value);
        if (std::fabs(expected) > most) ++clipped;
        expected = std::clamp(expected, -most, most);
      }
      ASSERT_LE(std::fabs(static_cast<long double>(got[i][k]) - expected), std::fabs(expected) * rounding)
          << "tensor " << i << ", element " << k << ": " << got[i][k] << ", expected " << expected;
    }
  }
  if (clipping.value) {
    EXPECT_GT(clipped, 10);
  }
  if (clipping.norm) {
    EXPECT_NEAR(model.optimizer.report().gradient_norm, static_cast<double>(norm), 1e-14 * static_cast<double>(norm))
        << "before clipping, of the divided gradients";
  }
}

TEST(Clipping, is_by_the_norm_of_all_tensors_of_whatever_type_and_then_by_value) {
  for (const bool maximize : {false, true}) {
    // Of the norm, which is some hundreds, and of elements between 2^-4 and 8.
    for (const Clipping& c : std::vector<Clipping>{{100.0, {}},
                                                   {1e9, {}},
                                                   {{}, 0.7},
                                                   {100.0, 0.7},
                                                   {25.0, 0.2},
                                                   {25.0, 0.2, 3.0},
                                                   {1e9, 1.5, 0.5},
                                                   {0.125, {}, 1024.0}}) {
      ControlModel model(reader(maximize), Device::cpu(), mixed(kCounts));
      model.optimizer.set_control({.gradient_scale = c.scale, .clip_norm = c.norm, .clip_value = c.value});
      expect_clipped(model, c, maximize);
      model.set_gradients(5);
      expect_clipped(model, c, maximize);
    }
  }
}

TEST(Clipping, leaves_gradients_that_are_small_enough_as_they_are_bit_for_bit) {
  ControlModel plain(Adam{}, Device::cpu(), mixed(kCounts));
  ControlModel clipped(Adam{}, Device::cpu(), mixed(kCounts));
  clipped.optimizer.set_control({.clip_norm = 1e4, .clip_value = 8.0});
  for (ControlModel* model : {&plain, &clipped}) model->optimizer.step();
  EXPECT_TRUE(plain.everything() == clipped.everything());
}

TEST(Clipping, adds_a_millionth_to_the_norm_as_PyTorch_does) {
  ControlModel model(reader(), Device::cpu(), {shape(70, DataType::float32), shape(9, DataType::float64)});
  model.set_gradients(1, -24, -22);
  model.optimizer.set_control({.clip_norm = 1e-6});
  ASSERT_LT(exact_norm(model), 1e-5L);
  expect_clipped(model, {1e-6, {}}, false);
  model.spoil(0, 0, 0);
  for (auto& values : model.gradients) std::fill(values.begin(), values.end(), 0.0);
  model.bring_gradients();
  expect_clipped(model, {1e-6, {}}, false);
}

TEST(Clipping, does_not_count_frozen_tensors) {
  std::vector<Shape> shapes = mixed(kCounts);
  shapes[1].frozen = true;
  shapes[3].frozen = true;
  ControlModel model(reader(), Device::cpu(), shapes);
  for (double& value : model.gradients[1]) value *= 1024;
  model.bring_gradients();
  model.optimizer.set_control({.clip_norm = 20.0});
  expect_clipped(model, {20.0, {}}, false);
}

TEST(Clipping, of_a_norm_that_is_not_a_number_makes_every_gradient_one_as_in_PyTorch) {
  ControlModel model(reader(), Device::cpu(), mixed(kCounts));
  model.optimizer.set_control({.clip_norm = 20.0});
  model.spoil(0, 3, kNan);
  for (const auto& values : effective_gradients(model)) {
    for (const double value : values) ASSERT_TRUE(std::isnan(value));
  }
  model.set_gradients(0);
  model.spoil(0, 3, kInfinity);  // the norm is infinite, and min(1, c / norm) zero
  const auto got = effective_gradients(model);
  for (std::size_t i = 0; i < got.size(); ++i) {
    for (std::size_t k = 0; k < got[i].size(); ++k) {
      if (i == 0 && k == 3) {
        EXPECT_TRUE(std::isnan(got[i][k]));
      } else {
        ASSERT_EQ(got[i][k], 0.0);
      }
    }
  }
}

// --- The norm

// Another order shows in one norm of five or so, so there are many.
TEST(Trap20NormBits, are_those_of_the_promised_order_for_every_type_size_and_alignment) {
  const std::vector<std::int64_t> counts{0, 1, 7, 1023, 1024, 1025, 4095, 4096, 4097, 5121, 8192, 8193, 12289, 3, 64};
  for (std::size_t first_type = 0; first_type < std::size(kGradientTypes); ++first_type) {
    for (const int offset : {0, 1, 3}) {
      ControlModel model(reader(), Device::cpu(), mixed(counts, first_type, offset), {.threads = 1});
      model.optimizer.set_control({.measure_norm = true});
      for (std::uint64_t seed = 0; seed < 3; ++seed) {
        model.set_gradients(seed, -14, 3);
        model.optimizer.step();
        EXPECT_EQ(model.optimizer.report().gradient_norm, norm_in_order(model)) << first_type << ", " << offset;
        EXPECT_NEAR(model.optimizer.report().gradient_norm, static_cast<double>(exact_norm(model)), 1e-11);
      }
    }
  }
  for (const DataType type : kGradientTypes) {
    for (const std::int64_t count : counts) {  // alone, where the sum of tensors is that of one
      ControlModel model(reader(), Device::cpu(), {shape(count, type)}, {.threads = 1});
      model.optimizer.set_control({.measure_norm = true});
      for (std::uint64_t seed = 0; seed < 5; ++seed) {
        model.set_gradients(seed, -14, 3);
        model.optimizer.step();
        EXPECT_EQ(model.optimizer.report().gradient_norm, norm_in_order(model)) << name(type) << ", " << count;
      }
    }
  }
}

TEST(Trap20NormBits, do_not_depend_on_threads_instructions_or_tiles) {
  const std::vector<std::int64_t> counts{40000, 7, 12289, 30001, 4096, 20000};
  std::vector<double> norms;
  for (const SimdLevel simd : simd_levels()) {
    for (const int threads : {1, 2, 3, 7}) {
      for (const std::int64_t tile : {kChunk, 16 * kChunk}) {
        ControlModel model(reader(), Device::cpu(), mixed(counts), {.threads = threads, .tile = tile, .simd = simd});
        model.optimizer.set_control({.measure_norm = true});
        model.optimizer.step();
        if (norms.empty()) norms.push_back(norm_in_order(model));
        norms.push_back(model.optimizer.report().gradient_norm);
        ASSERT_EQ(norms.front(), norms.back()) << name(simd) << ", " << threads << " threads, tiles of " << tile;
      }
    }
  }
  EXPECT_GE(norms.size(), 9U);
}

TEST(Trap20NormBits, of_more_tensors_than_a_node_adds_up_are_those_of_the_promised_order) {
  std::vector<std::int64_t> counts;
  for (int i = 0; i < 4097; ++i) counts.push_back(i % 5);  // types go round by four
  ControlModel model(reader(), Device::cpu(), mixed(counts, 1));
  model.optimizer.set_control({.measure_norm = true});
  for (std::uint64_t seed = 0; seed < 12; ++seed) {
    model.set_gradients(seed, -14, 3);
    model.optimizer.step();
    EXPECT_EQ(model.optimizer.report().gradient_norm, norm_in_order(model)) << seed;
  }
}

TEST(Trap20NormBits, of_a_tensor_with_more_chunks_than_a_node_adds_up_are_those_of_the_promised_order) {
  constexpr std::int64_t kCount = (std::int64_t{1} << 24) + 3 * kChunk + 17;
  std::vector<float> parameter(kCount), gradient = spread_values<float>(kCount, 3, -8, 3);
  std::vector<float> other(50, 3.0F), other_gradient(50, 0.1F);
  Optimizer optimizer(GradientDescent{});
  optimizer.add({.name = "large", .parameter = parameter, .gradient = gradient});
  optimizer.add({.name = "small", .parameter = other, .gradient = other_gradient});
  optimizer.set_control({.measure_norm = true});
  const auto sum_of = [](const std::vector<float>& values) {
    return sum_in_order(std::ssize(values), [&](std::int64_t i) {
      const double value = values[static_cast<std::size_t>(i)];
      return value * value;
    });
  };
  for (int i = 0; i < 6; ++i) {
    gradient[0] = 1000.0F * static_cast<float>(i);  // other roundings everywhere above it
    optimizer.step();
    const double sums[] = {sum_of(gradient), sum_of(other_gradient)};
    EXPECT_EQ(optimizer.report().gradient_norm, std::sqrt(sum_in_order(2, [&](std::int64_t k) { return sums[k]; })));
  }
}

TEST(GradientNorm, is_reported_when_it_was_measured_and_changes_nothing) {
  ControlModel plain(Adam{}, Device::cpu(), mixed(kCounts));
  ControlModel measured(Adam{}, Device::cpu(), mixed(kCounts));
  EXPECT_TRUE(std::isnan(measured.optimizer.report().gradient_norm)) << "before any step";
  for (ControlModel* model : {&plain, &measured}) model->optimizer.step();
  EXPECT_TRUE(std::isnan(measured.optimizer.report().gradient_norm)) << "not asked for";
  measured.optimizer.set_control({.measure_norm = true});
  for (ControlModel* model : {&plain, &measured}) model->optimizer.step();
  EXPECT_EQ(measured.optimizer.report().gradient_norm, norm_in_order(measured));
  EXPECT_EQ(measured.optimizer.device_report()->gradient_norm, norm_in_order(measured));
  EXPECT_TRUE(plain.everything() == measured.everything());
  measured.optimizer.set_control({.gradient_scale = 8, .measure_norm = true});
  measured.optimizer.step();
  EXPECT_EQ(measured.optimizer.report().gradient_norm, norm_in_order(measured) / 8) << "of the divided gradients";
  measured.optimizer.set_control({});
  measured.optimizer.step();
  EXPECT_TRUE(std::isnan(measured.optimizer.report().gradient_norm)) << "no longer";
}

TEST(GradientNorm, of_finite_gradients_whose_squares_overflow_is_infinite_and_no_reason_to_skip) {
  ControlModel model(reader(), Device::cpu(), {shape(70, DataType::float64), shape(70, DataType::float32)});
  model.set_gradients(0, -4, 2);
  model.spoil(0, 69, 1e200);
  model.optimizer.set_control({.non_finite = NonFinite::skip});
  model.optimizer.step();
  EXPECT_EQ(model.optimizer.report().gradient_norm, kInfinity);
  EXPECT_EQ(model.optimizer.report().skipped, 0);
}

TEST(GradientNorm, that_is_not_a_number_has_one_pattern_of_bits) {
  for (const double sign : {1.0, -1.0}) {
    ControlModel model(reader(), Device::cpu(), mixed(kCounts));
    model.optimizer.set_control({.measure_norm = true});
    model.spoil(0, 0, std::copysign(kNan, sign));
    model.optimizer.step();
    EXPECT_EQ(std::bit_cast<std::uint64_t>(model.optimizer.report().gradient_norm), test::kCanonicalNan<double>);
  }
}

// --- Gradients that are not finite

// Where the last tensor, or the first, has a gradient of each type.
struct Place {
  std::size_t first_type;
  bool at_end;
  double value;
};
std::vector<Place> places() {
  std::vector<Place> all;
  for (std::size_t type = 0; type < std::size(kGradientTypes); ++type) {
    for (const bool at_end : {false, true}) {
      for (const double value : {kNan, kInfinity, -kInfinity}) all.push_back({type, at_end, value});
    }
  }
  return all;
}
void spoil(ControlModel& model, const Place& place) {
  const std::size_t tensor = place.at_end ? model.shapes.size() - 1 : 0;
  model.spoil(tensor, place.at_end ? model.shapes[tensor].count - 1 : 0, place.value);
}
const std::vector<std::int64_t> kFewCounts{70, 4099, 1, 0, 18};

TEST(Propagated, non_finite_gradients_stay_in_their_element) {
  for (const Case& c : one_case_per_rule()) {
    for (const Place& place : places()) {
      ControlModel whole(c.make(), Device::cpu(), mixed(kFewCounts, place.first_type));
      ControlModel spoiled(c.make(), Device::cpu(), mixed(kFewCounts, place.first_type));
      for (ControlModel* model : {&whole, &spoiled}) {
        model->optimizer.set_control({.gradient_scale = 2, .clip_value = 100.0, .measure_norm = true});
      }
      spoil(spoiled, {place.first_type, place.at_end, kNan});
      for (int step = 0; step < 2; ++step) {
        for (ControlModel* model : {&whole, &spoiled}) model->optimizer.step();
      }
      EXPECT_EQ(spoiled.optimizer.report().skipped_steps, 0);
      std::size_t differing = 0;
      for (std::size_t i = 0; i < whole.shapes.size(); ++i) {
        const std::vector<double> expected = whole.parameter(i);
        const std::vector<double> got = spoiled.parameter(i);
        for (std::size_t k = 0; k < got.size(); ++k) {
          if (std::bit_cast<std::uint64_t>(expected[k]) == std::bit_cast<std::uint64_t>(got[k])) continue;
          ++differing;
          EXPECT_TRUE(std::isnan(got[k]));
          EXPECT_EQ(i, place.at_end ? whole.shapes.size() - 1 : 0);
          EXPECT_EQ(k, place.at_end ? got.size() - 1 : 0);
        }
      }
      EXPECT_EQ(differing, 1U) << c.name;
    }
  }
}

class Trap06Skipped : public testing::TestWithParam<Case> {};

// A run with a step that is skipped, and one that never had it.
TEST_P(Trap06Skipped, steps_change_no_parameter_state_or_step_count_wherever_the_gradient_is) {
  for (const Place& place : places()) {
    for (const int when : {0, 2}) {
      ControlModel whole(GetParam().make(), Device::cpu(), mixed(kFewCounts, place.first_type));
      ControlModel spoiled(GetParam().make(), Device::cpu(), mixed(kFewCounts, place.first_type));
      for (ControlModel* model : {&whole, &spoiled}) model->optimizer.set_control({.non_finite = NonFinite::skip});
      for (int step = 0; step < 3; ++step) {
        if (step == when) {
          spoiled.set_gradients(99);
          spoil(spoiled, place);
          const std::string before = spoiled.everything();
          for (int again = 1; again <= 2; ++again) {
            spoiled.optimizer.step();
            EXPECT_EQ(spoiled.optimizer.report().skipped, 1);
            EXPECT_EQ(spoiled.optimizer.report().skipped_steps, again);
          }
          ASSERT_TRUE(spoiled.everything() == before) << place.first_type << place.at_end << place.value << when;
        }
        for (ControlModel* model : {&whole, &spoiled}) {
          model->set_gradients(static_cast<std::uint64_t>(step));
          model->optimizer.step();
          EXPECT_EQ(model->optimizer.report().skipped, 0);
        }
      }
      EXPECT_TRUE(spoiled.everything() == whole.everything())
          << place.first_type << place.at_end << place.value << when;
      EXPECT_EQ(spoiled.optimizer.report().skipped_steps, 2);
    }
  }
}

TEST_P(Trap06Skipped, steps_are_those_whose_flag_is_anything_but_zero) {
  float found = 0;
  ControlModel model(GetParam().make(), Device::cpu(), mixed(kFewCounts));
  ControlModel whole(GetParam().make(), Device::cpu(), mixed(kFewCounts));
  model.optimizer.set_control({.found_non_finite = &found, .non_finite = NonFinite::skip});
  std::int64_t skipped = 0;
  std::uint64_t steps = 0;
  for (const float flag : {1.0F, 0.0F, 2.0F, -1.0F, -0.0F, 0.25F, std::numeric_limits<float>::denorm_min(),
                           std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(), 0.0F}) {
    found = flag;
    model.set_gradients(steps);
    model.optimizer.step();
    if (flag == 0.0F) {
      whole.set_gradients(steps++);
      whole.optimizer.step();
    } else {
      ++skipped;
    }
    EXPECT_EQ(model.optimizer.report().skipped, flag == 0.0F ? 0 : 1) << flag;
    EXPECT_EQ(model.optimizer.report().skipped_steps, skipped) << flag;
    ASSERT_TRUE(model.everything() == whole.everything()) << flag;
  }
  EXPECT_TRUE(std::isnan(model.optimizer.report().gradient_norm)) << "the flag spares the norm";
}

INSTANTIATE_TEST_SUITE_P(Rules, Trap06Skipped, testing::ValuesIn(one_case_per_rule()),
                         [](const auto& info) { return info.param.name; });

TEST(Skipped, steps_are_those_with_a_scale_in_memory_that_is_not_positive_and_finite) {
  float scale = 1;
  ControlModel model(Adam{}, Device::cpu(), mixed(kFewCounts));
  model.optimizer.set_control({.gradient_scale_pointer = &scale, .non_finite = NonFinite::skip});
  const std::string before = model.everything();
  for (const float bad :
       {0.0F, -0.0F, -1.0F, std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity(),
        std::numeric_limits<float>::quiet_NaN(), 1e-40F /* its inverse is no float32 */}) {
    scale = bad;
    model.optimizer.step();
    EXPECT_EQ(model.optimizer.report().skipped, 1) << bad;
    ASSERT_TRUE(model.everything() == before) << bad;
  }
  scale = std::numeric_limits<float>::max();
  model.optimizer.step();
  EXPECT_EQ(model.optimizer.report().skipped, 0);
  EXPECT_EQ(model.optimizer.report().skipped_steps, 7);
}

// By the flag or by the norm, and gradients are clipped beside a flag too.
TEST(Skipped, steps_are_those_with_a_flag_or_an_infinite_gradient_where_both_are_looked_at) {
  for (const bool clips : {true, false}) {
    for (const float flag : {0.0F, 1.0F}) {
      for (const bool infinite : {false, true}) {
        SCOPED_TRACE(testing::Message() << clips << ", " << flag << ", " << infinite);
        std::vector<float> parameter{1, 2};
        const std::vector<float> gradient{3, infinite ? std::numeric_limits<float>::infinity() : 4};
        Optimizer optimizer(GradientDescent{.learning_rate = 1});
        optimizer.add({.name = "x", .parameter = parameter, .gradient = gradient});
        StepControl control{.found_non_finite = &flag, .non_finite = NonFinite::skip, .measure_norm = !clips};
        if (clips) control.clip_norm = 2.5;  // half of what there is
        optimizer.set_control(control);
        optimizer.step();
        const bool skips = flag != 0 || infinite;
        EXPECT_EQ(optimizer.report().skipped, skips ? 1 : 0);
        EXPECT_NEAR(parameter[0], skips ? 1 : clips ? -0.5 : -2, 1e-6);
        EXPECT_NEAR(parameter[1], skips ? 2 : clips ? 0 : -2, 1e-6);
      }
    }
  }
}

// --- The loss scale

// GradScaler's update(), written from its documentation.
struct Scaler {
  float scale;
  double growth, backoff;
  int interval;
  int good = 0;
  std::int64_t skipped = 0;

  void update(bool found) {
    if (found) {
      scale = static_cast<float>(scale * backoff);
      good = 0;
      ++skipped;
    } else if (++good == interval) {
      good = 0;
      const auto grown = static_cast<float>(scale * growth);
      if (std::isfinite(grown)) scale = grown;
    }
  }
};

TEST(LossScales, go_the_way_of_PyTorchs_GradScaler) {
  Random random(11);
  for (const LossScale& of :
       std::vector<LossScale>{{},
                              {.initial = 65536, .growth_interval = 3},
                              {.initial = 1000, .growth = 1.7, .backoff = 0.3, .growth_interval = 2},
                              {.initial = 0x1p126, .growth_interval = 1},
                              {.initial = 3, .growth = 1e30, .backoff = 0.9, .growth_interval = 4},
                              {.initial = 0x1p-120, .growth_interval = 5}}) {
    ControlModel model(reader(), Device::cpu(), {shape(5, DataType::float32), shape(3, DataType::float16)});
    model.optimizer.set_control({.loss_scale = of});
    Scaler expected{static_cast<float>(of.initial), of.growth, of.backoff, of.growth_interval};
    ASSERT_EQ(*model.optimizer.loss_scale(), expected.scale);
    for (int step = 0; step < 100; ++step) {
      const bool bad = random.one_in(5);
      model.set_gradients(static_cast<std::uint64_t>(step));
      if (bad) model.spoil(1, 2, kInfinity);
      const float in_force = *model.optimizer.loss_scale();
      const auto got = effective_gradients(model);
      const auto factor = static_cast<float>(1.0 / static_cast<double>(in_force));
      EXPECT_EQ(got[0][0], bad ? 0.0 : static_cast<double>(static_cast<float>(model.gradients[0][0]) * factor));
      expected.update(bad);
      const StepReport report = model.optimizer.report();
      ASSERT_EQ(report.loss_scale, expected.scale) << "step " << step << " from " << of.initial;
      ASSERT_EQ(*model.optimizer.loss_scale(), expected.scale);
      ASSERT_EQ(report.good_steps, expected.good) << step;
      ASSERT_EQ(report.skipped_steps, expected.skipped) << step;
      ASSERT_EQ(report.skipped, bad ? 1 : 0);
    }
  }
}

TEST(LossScales, stay_as_they_are_in_steps_of_no_tensor) {
  ControlModel model(Adam{}, Device::cpu(), mixed(kFewCounts));
  model.optimizer.set_control({.loss_scale = LossScale{.growth_interval = 1}});
  for (const TensorId tensor : model.optimizer.tensors()) model.optimizer.freeze(tensor);
  const std::string before = text_of(model.optimizer.report());
  model.optimizer.step();
  EXPECT_EQ(text_of(model.optimizer.report()), before);
}

TEST(LossScales, heed_the_users_flag_as_well) {
  float found = 1;
  ControlModel model(Adam{}, Device::cpu(), mixed(kFewCounts));
  model.optimizer.set_control({.found_non_finite = &found, .loss_scale = LossScale{.growth_interval = 2}});
  model.optimizer.step();
  EXPECT_EQ(*model.optimizer.loss_scale(), 32768.0F);
  EXPECT_EQ(model.optimizer.step_count(TensorId{0}), 0);
  found = 0;
  for (int step = 0; step < 2; ++step) model.optimizer.step();
  EXPECT_EQ(*model.optimizer.loss_scale(), 65536.0F);
  EXPECT_EQ(model.optimizer.step_count(TensorId{0}), 2);
}

TEST(LossScales, are_saved_and_go_on_after_a_load) {
  const Folder folder;
  const StepControl control{.clip_norm = 10.0, .loss_scale = LossScale{.initial = 512, .growth_interval = 3}};
  ControlModel first(Adam{}, Device::cpu(), mixed(kFewCounts));
  first.optimizer.set_control(control);
  for (std::uint64_t step = 0; step < 5; ++step) {
    first.set_gradients(step);
    if (step == 2) first.spoil(0, 0, kNan);
    first.optimizer.step();
  }
  first.optimizer.save(folder.file("run"));
  ControlModel second(Adam{}, Device::cpu(), mixed(kFewCounts));
  second.optimizer.set_control(control);
  second.optimizer.load(folder.file("run"));
  EXPECT_EQ(second.optimizer.report().good_steps, 2);
  EXPECT_EQ(second.optimizer.report().skipped_steps, 1);
  EXPECT_EQ(*second.optimizer.loss_scale(), 256.0F);
  for (std::uint64_t step = 5; step < 9; ++step) {
    for (ControlModel* model : {&first, &second}) {
      model->set_gradients(step);
      model->optimizer.step();
    }
    EXPECT_EQ(text_of(first.optimizer.report()), text_of(second.optimizer.report())) << step;
  }
  EXPECT_TRUE(first.everything() == second.everything());
}

TEST(LossScales, stay_as_they_are_until_they_are_turned_off_or_begin_with_another_value) {
  ControlModel model(Adam{}, Device::cpu(), mixed(kFewCounts));
  model.optimizer.set_control({.loss_scale = LossScale{.initial = 512}});
  model.spoil(0, 0, kNan);
  model.optimizer.step();
  model.optimizer.set_control({.clip_norm = 1.0, .loss_scale = LossScale{.initial = 512, .backoff = 0.25}});
  EXPECT_EQ(*model.optimizer.loss_scale(), 256.0F);
  EXPECT_EQ(model.optimizer.report().skipped_steps, 1);
  model.optimizer.set_control({.clip_norm = 1.0, .loss_scale = LossScale{.initial = 4, .backoff = 0.25}});
  EXPECT_EQ(*model.optimizer.loss_scale(), 4.0F);
  EXPECT_EQ(model.optimizer.report().skipped_steps, 0);
  model.optimizer.set_control({});
  EXPECT_EQ(*model.optimizer.loss_scale(), 1.0F) << "what the next step divides by";
  EXPECT_EQ(model.optimizer.report().skipped_steps, 0);
  model.set_gradients(1);
  model.optimizer.step();
  EXPECT_EQ(*model.optimizer.loss_scale(), 1.0F);
  model.optimizer.set_control({.loss_scale = LossScale{.initial = 4}});
  EXPECT_EQ(*model.optimizer.loss_scale(), 4.0F);
  EXPECT_EQ(model.optimizer.report().skipped_steps, 0);
}

// --- Bad input

TEST(BadControl, is_refused_by_name_and_changes_nothing) {
  const float somewhere[2] = {1, 1};
  const float* const odd = reinterpret_cast<const float*>(reinterpret_cast<const char*>(somewhere) + 2);
  std::vector<std::pair<StepControl, std::string>> mistakes{
      {{.gradient_scale = 2, .gradient_scale_pointer = somewhere}, "gradient_scale: "},
      {{.gradient_scale = 2, .loss_scale = LossScale{}}, "loss_scale: "},
      {{.gradient_scale_pointer = somewhere, .loss_scale = LossScale{}}, "loss_scale: "},
      {{.gradient_scale_pointer = odd}, "gradient_scale_pointer: "},
      {{.found_non_finite = odd}, "found_non_finite: "},
      // Nobody would read it.
      {{.found_non_finite = somewhere}, "found_non_finite: nothing is skipped"},
      {{.found_non_finite = somewhere, .clip_norm = 1.0}, "found_non_finite: nothing is skipped"},
      {{.non_finite = static_cast<NonFinite>(2)}, "non_finite: "},
      {{.loss_scale = LossScale{.initial = 1e39}}, "loss_scale.initial: "},
      {{.loss_scale = LossScale{.initial = 1e-50}}, "loss_scale.initial: "},
      // Its inverse is no float32: every step would be skipped.
      {{.loss_scale = LossScale{.initial = 1e-40}}, "loss_scale.initial: 1e-40; allowed: "},
      // Its inverse is 0 as a float32: gradients would vanish.
      {{.gradient_scale = 1e60}, "gradient_scale: 1e+60; allowed: "},
      {{.gradient_scale = 1e-60}, "gradient_scale: 1e-60; allowed: "},
      {{.clip_value = 1e-60}, "clip_value: 1e-60; allowed: "},
      {{.loss_scale = LossScale{.growth = 1}}, "loss_scale.growth: "},
      {{.loss_scale = LossScale{.backoff = 1}}, "loss_scale.backoff: "},
      {{.loss_scale = LossScale{.growth_interval = 0}}, "loss_scale.growth_interval: "},
      {{.loss_scale = LossScale{.growth_interval = -7}}, "loss_scale.growth_interval: "},
  };
  for (const double bad : {0.0, -0.0, -1.0, kNan, kInfinity, -kInfinity}) {
    mistakes.push_back({{.gradient_scale = bad}, "gradient_scale: "});
    mistakes.push_back({{.clip_norm = bad}, "clip_norm: "});
    mistakes.push_back({{.clip_value = bad}, "clip_value: "});
    mistakes.push_back({{.loss_scale = LossScale{.initial = bad}}, "loss_scale.initial: "});
    mistakes.push_back({{.loss_scale = LossScale{.growth = bad}}, "loss_scale.growth: "});
    mistakes.push_back({{.loss_scale = LossScale{.backoff = bad}}, "loss_scale.backoff: "});
  }
  const StepControl in_force{.clip_norm = 7.0, .clip_value = 3.0, .loss_scale = LossScale{.initial = 64}, .seed = 5};
  ControlModel whole(Adam{}, Device::cpu(), mixed(kFewCounts));
  ControlModel mistaken(Adam{}, Device::cpu(), mixed(kFewCounts));
  for (ControlModel* model : {&whole, &mistaken}) {
    model->optimizer.set_control(in_force);
    model->optimizer.step();
  }
  const std::string report = text_of(mistaken.optimizer.report());
  for (const auto& [mistake, field] : mistakes) {
    const StepControl& control = mistake;  // clang 14 captures no structured binding
    expect_refusal([&] { mistaken.optimizer.set_control(control); }, {"adamant: control: " + field});
    EXPECT_EQ(text_of(mistaken.optimizer.report()), report) << field;
    EXPECT_EQ(mistaken.optimizer.control().clip_norm, 7.0) << field;
    EXPECT_EQ(mistaken.optimizer.control().seed, 5U) << field;
  }
  for (ControlModel* model : {&whole, &mistaken}) model->optimizer.step();
  EXPECT_TRUE(whole.everything() == mistaken.everything());
  EXPECT_EQ(text_of(whole.optimizer.report()), text_of(mistaken.optimizer.report()));
}

}  // namespace
}  // namespace adamant::test
