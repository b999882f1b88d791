// What the Optimizer does with many tensors and groups: step counts, late and frozen tensors, groups, gradients that
// move, states by name. And the traps of docs/traps.md, each a test that bears its number.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <list>
#include <map>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "host/plan.hpp"
#include "tests/single_tensor.hpp"

namespace adamant::test {
namespace {

constexpr std::int64_t kCount = 37;

std::vector<float> values_of(std::uint64_t seed) { return spread_values<float>(kCount, seed, -4, 1); }
std::vector<float> gradient_of(std::uint64_t seed, int t) {
  return spread_values<float>(kCount, seed * 1000 + static_cast<std::uint64_t>(t), -6, 1);
}

// A tensor of an Optimizer that has several.
struct Member {
  explicit Member(std::uint64_t number, std::int64_t count = kCount)
      : seed(number),
        parameter(count == kCount ? values_of(number) : spread_values<float>(count, number, -4, 1)),
        gradient(count) {}
  TensorSpec spec(GroupId group = {}) const {
    return {
        .name = "t" + std::to_string(seed), .parameter = parameter.span(), .gradient = gradient.span(), .group = group};
  }
  std::uint64_t seed;
  Fenced<float> parameter;
  Fenced<float> gradient;
};

std::vector<float> everything(Optimizer& optimizer, TensorId id) {
  const Array parameter = optimizer.tensor(id).parameter;
  const float* const first = parameter.as<float>();
  std::vector<float> all(first, first + parameter.count());
  for (const std::string& name : state_names(optimizer.options())) {
    const float* const state = optimizer.state(id, name).as<float>();
    if (parameter.count() > 0) all.insert(all.end(), state, state + parameter.count());
  }
  return all;
}

// A late joiner and a frozen tensor take the very steps that they would take alone.
class EveryRule : public testing::TestWithParam<Case> {};

TEST_P(EveryRule, tensors_that_join_late_or_freeze_match_optimizers_of_their_own_bit_for_bit) {
  const Case& c = GetParam();
  Optimizer together(c.make());
  std::list<Member> members;
  std::map<std::uint64_t, TensorId> ids;
  std::map<std::uint64_t, int> own_steps;
  std::list<SingleTensor<float>> alone;
  std::map<std::uint64_t, SingleTensor<float>*> alone_by_seed;
  const auto join = [&](std::uint64_t seed) {
    members.emplace_back(seed);
    ids[seed] = together.add(members.back().spec());
    alone.emplace_back(c, values_of(seed));
    alone_by_seed[seed] = &alone.back();
  };
  join(1);
  join(2);
  for (int t = 1; t <= 12; ++t) {
    if (t == 4) join(3);
    if (t == 5) together.freeze(ids[2]);
    if (t == 8) together.thaw(ids[2]);
    if (t == 9) join(4);
    if (t == 10) together.freeze(ids[4]);  // before it has taken part more than once
    EXPECT_EQ(together.frozen(ids[2]), t >= 5 && t < 8);
    for (const Member& member : members) {
      member.gradient.fill(gradient_of(member.seed, t));
      if (!together.frozen(ids[member.seed])) {
        alone_by_seed[member.seed]->step(gradient_of(member.seed, t));
        ++own_steps[member.seed];
      }
    }
    together.step();
  }
  EXPECT_EQ(own_steps, (std::map<std::uint64_t, int>{{1, 12}, {2, 9}, {3, 9}, {4, 1}}));
  for (const auto& [seed, id] : ids) {
    EXPECT_EQ(together.step_count(id), own_steps[seed]) << seed;
    EXPECT_TRUE(same_bits(everything(together, id), alone_by_seed[seed]->everything())) << seed;
  }
}

TEST_P(EveryRule, empty_tensors_in_every_position_change_nothing_and_are_counted) {
  const Case& c = GetParam();
  SingleTensor<float> expected(c, values_of(1));
  expected.step(gradient_of(1, 1));
  expected.step(gradient_of(1, 2));
  for (unsigned mask = 0; mask < 8; ++mask) {  // an empty tensor before, between and after two others
    Optimizer optimizer(c.make());
    std::list<Member> members;
    std::vector<TensorId> ids;
    std::uint64_t number = 1;
    const auto add = [&](std::int64_t count) {
      members.emplace_back(count == 0 ? 100 + number++ : number++, count);
      ids.push_back(optimizer.add(members.back().spec()));
      members.back().parameter.fill(count == 0 ? std::vector<float>{} : values_of(1));
    };
    if ((mask & 1) != 0) add(0);
    add(kCount);
    if ((mask & 2) != 0) add(0);
    add(kCount);
    if ((mask & 4) != 0) add(0);
    for (int t = 1; t <= 2; ++t) {
      for (const Member& member : members)
        member.gradient.fill(member.gradient.count() == 0 ? std::vector<float>{} : gradient_of(1, t));
      optimizer.step();
    }
    for (const TensorId id : ids) {
      EXPECT_EQ(optimizer.step_count(id), 2);
      if (optimizer.tensor(id).parameter.count() == 0) continue;
      EXPECT_TRUE(same_bits(everything(optimizer, id), expected.everything())) << "mask " << mask;
    }
  }
}

TEST_P(EveryRule, method_by_name_gives_the_bits_of_the_method_by_type) {
  const Case& c = GetParam();
  std::string text;
  std::visit(
      [&](auto typed) {  // the options struct, filled field by field from the text of the case
        Method method = typed;
        for (const Option& option : options(c.make())) set_option(method, option.name, option.value);
        SingleTensor<float> by_type(std::get<decltype(typed)>(method), values_of(1));
        SingleTensor<float> by_name(make_method(c.method, c.options), values_of(1));
        for (int t = 1; t <= 3; ++t) {
          by_type.step(gradient_of(1, t));
          by_name.step(gradient_of(1, t));
        }
        EXPECT_TRUE(same_bits(by_type.everything(), by_name.everything()));
        text = name(method);
      },
      make_method(c.method));
  EXPECT_EQ(text, c.method);
}

INSTANTIATE_TEST_SUITE_P(Rules, EveryRule, testing::ValuesIn(one_case_per_rule()),
                         [](const testing::TestParamInfo<Case>& info) { return info.param.name; });

TEST(Optimizer, options_written_as_a_struct_are_those_written_as_text) {
  SingleTensor<float> by_type(AdamW{.learning_rate = 3e-4, .beta1 = 0.8, .weight_decay = 0.1, .amsgrad = true},
                              values_of(1));
  SingleTensor<float> by_name(
      make_method("adamw", {{"learning_rate", "3e-4"}, {"beta1", "0.8"}, {"weight_decay", "0.1"}, {"amsgrad", "true"}}),
      values_of(1));
  by_type.step(gradient_of(1, 1));
  by_name.step(gradient_of(1, 1));
  EXPECT_TRUE(same_bits(by_type.everything(), by_name.everything()));
}

TEST(Optimizer, groups_follow_their_own_options) {
  Optimizer together(Adam{.learning_rate = 1e-3});
  const GroupId fast = together.add_group(Adam{.learning_rate = 0.1, .beta1 = 0.5});
  const GroupId decayed = together.add_group(Adam{.weight_decay = 0.2});
  EXPECT_NE(fast, GroupId{});
  Member a(1), b(2), c(3), d(4);
  const TensorId ids[] = {together.add(a.spec()), together.add(b.spec(fast)), together.add(c.spec(decayed)),
                          together.add(d.spec(fast))};
  SingleTensor<float> alone[] = {{Adam{.learning_rate = 1e-3}, values_of(1)},
                                 {Adam{.learning_rate = 0.1, .beta1 = 0.5}, values_of(2)},
                                 {Adam{.weight_decay = 0.2}, values_of(3)},
                                 {Adam{.learning_rate = 0.1, .beta1 = 0.5}, values_of(4)}};
  const Member* members[] = {&a, &b, &c, &d};
  for (int t = 1; t <= 6; ++t) {
    if (t == 3) {  // one group changes, the others do not
      together.set_learning_rate(fast, 0.02);
      alone[1].optimizer.set_learning_rate(GroupId{}, 0.02);
      alone[3].optimizer.set_learning_rate(GroupId{}, 0.02);
      together.set_option(decayed, "beta2", "0.9");
      alone[2].optimizer.set_option(GroupId{}, "beta2", 0.9);
    }
    for (int i = 0; i < 4; ++i) {
      members[i]->gradient.fill(gradient_of(members[i]->seed, t));
      alone[i].step(gradient_of(members[i]->seed, t));
    }
    together.step();
  }
  for (int i = 0; i < 4; ++i) EXPECT_TRUE(same_bits(everything(together, ids[i]), alone[i].everything())) << i;
  EXPECT_EQ(std::get<Adam>(together.options(fast)).learning_rate, 0.02);
  EXPECT_EQ(std::get<Adam>(together.options(decayed)).beta2, 0.9);
  EXPECT_EQ(std::get<Adam>(together.options()).learning_rate, 1e-3);
}

TEST(Optimizer, a_tensor_that_changes_its_group_keeps_its_state_and_step_count) {
  Optimizer optimizer(Adam{.learning_rate = 1e-3});
  const GroupId other = optimizer.add_group(Adam{.learning_rate = 0.05, .weight_decay = 0.1});
  const Member member(1);
  const TensorId id = optimizer.add(member.spec());
  SingleTensor<float> alone(Adam{.learning_rate = 1e-3}, values_of(1));
  for (int t = 1; t <= 6; ++t) {
    if (t == 4) {
      optimizer.set_group(id, other);
      alone.optimizer.set_options(GroupId{}, Adam{.learning_rate = 0.05, .weight_decay = 0.1});
    }
    member.gradient.fill(gradient_of(1, t));
    alone.step(gradient_of(1, t));
    optimizer.step();
  }
  EXPECT_EQ(optimizer.tensor(id).group, other);
  EXPECT_EQ(optimizer.step_count(id), 6);
  EXPECT_TRUE(same_bits(everything(optimizer, id), alone.everything()));
}

TEST(Optimizer, a_removed_tensor_is_left_alone_and_the_others_go_on) {
  Optimizer optimizer(Adam{});
  const Member a(1), b(2), c(3);
  const TensorId first = optimizer.add(a.spec());
  const TensorId second = optimizer.add(b.spec());
  const TensorId third = optimizer.add(c.spec());
  SingleTensor<float> alone(Adam{}, values_of(3));
  for (int t = 1; t <= 5; ++t) {
    if (t == 3) optimizer.remove(second);
    const std::vector<float> before = b.parameter.values();
    for (const Member* member : {&a, &b, &c}) member->gradient.fill(gradient_of(member->seed, t));
    alone.step(gradient_of(3, t));
    optimizer.step();
    EXPECT_EQ(static_cast<bool>(same_bits(before, b.parameter.values())), t >= 3) << t;
  }
  EXPECT_TRUE(same_bits(everything(optimizer, third), alone.everything()));
  EXPECT_EQ(optimizer.tensors(), (std::vector<TensorId>{first, third}));
  EXPECT_THROW(optimizer.step_count(second), std::invalid_argument);
  EXPECT_THROW(optimizer.find("t2"), std::invalid_argument);

  // The name, the memory, and not the state, are free again.
  const TensorId again = optimizer.add(b.spec());
  EXPECT_NE(again, second);
  EXPECT_EQ(optimizer.find("t2"), again);
  EXPECT_EQ(optimizer.step_count(again), 0);
  for (int i = 0; i < kCount; ++i) ASSERT_EQ(optimizer.state(again, "exp_avg").as<float>()[i], 0.0F);
  EXPECT_EQ(optimizer.tensors(), (std::vector<TensorId>{first, third, again}));
}

TEST(Optimizer, all_tensors_can_be_removed_or_frozen_and_a_step_is_still_a_step) {
  Optimizer optimizer(Momentum{});
  optimizer.step();  // nothing to do
  const Member a(1);
  const TensorId id = optimizer.add(a.spec());
  optimizer.freeze(id);
  optimizer.freeze(id);  // twice is once
  optimizer.step();
  EXPECT_EQ(optimizer.step_count(id), 0);
  EXPECT_TRUE(same_bits(a.parameter.values(), values_of(1)));
  optimizer.thaw(id);
  optimizer.step();
  EXPECT_EQ(optimizer.step_count(id), 1);
  optimizer.remove(id);
  optimizer.step();
  EXPECT_TRUE(optimizer.tensors().empty());
  EXPECT_EQ(optimizer.state_bytes(), 0);
}

TEST(Optimizer, a_gradient_can_be_re_pointed_between_steps_also_while_frozen_or_unprepared) {
  Optimizer optimizer(Adam{});
  const Member member(1), bystander(2);
  const TensorId id = optimizer.add(member.spec());
  optimizer.add(bystander.spec());
  SingleTensor<float> alone(Adam{}, values_of(1));
  const Fenced<float> others[] = {Fenced<float>(gradient_of(1, 1)), Fenced<float>(gradient_of(1, 2), 5),
                                  Fenced<float>(gradient_of(1, 3), 11)};
  for (int t = 1; t <= 3; ++t) {
    if (t == 2) optimizer.freeze(id);
    optimizer.set_gradient(id, std::span<const float>(others[t - 1].span()));
    if (t == 2) optimizer.thaw(id);
    EXPECT_EQ(optimizer.tensor(id).gradient.data(), others[t - 1].data());
    alone.step(gradient_of(1, t));
    optimizer.step();
  }
  EXPECT_TRUE(same_bits(everything(optimizer, id), alone.everything()));
  EXPECT_TRUE(same_bits(member.gradient.values(), std::vector<float>(kCount, 0.0F)));
}

TEST(Optimizer, may_zero_an_array_that_was_given_by_its_type_and_not_one_that_was_given_as_const) {
  std::vector<float> x(3, 1.0F), g(3, 1.0F);
  const ConstArray writable(static_cast<void*>(g.data()), DataType::float32, 3);
  const ConstArray read_only(static_cast<const void*>(g.data()), DataType::float32, 3);
  EXPECT_TRUE(writable.writable());
  EXPECT_FALSE(read_only.writable());
  EXPECT_EQ(ConstArray(nullptr, DataType::float16, 0).type(), DataType::float16);
  Optimizer optimizer(GradientDescent{.learning_rate = 0.5});
  optimizer.add({.name = "x", .parameter = x, .gradient = writable, .zero_gradient = true});
  optimizer.step();
  EXPECT_EQ(x, std::vector<float>(3, 0.5F));
  EXPECT_EQ(g, std::vector<float>(3, 0.0F));
}

TEST(Optimizer, zero_gradients_clears_all_frozen_ones_too_and_nothing_else) {
  Optimizer optimizer(Momentum{});
  const Member a(1), b(2), empty(3, 0);
  Fenced<double> wide_parameter(5), wide_gradient(5);
  const TensorId first = optimizer.add(a.spec());
  const TensorId second = optimizer.add(b.spec());
  optimizer.add(empty.spec());
  optimizer.add({.name = "wide", .parameter = wide_parameter.span(), .gradient = wide_gradient.span()});
  for (const Member* member : {&a, &b}) member->gradient.fill(gradient_of(member->seed, 1));
  wide_gradient.fill({1, 2, 3, 4, 5});
  optimizer.step();
  optimizer.freeze(second);
  const std::vector<float> before = everything(optimizer, first);
  optimizer.zero_gradients();
  for (const Member* member : {&a, &b}) {
    EXPECT_TRUE(same_bits(member->gradient.values(), std::vector<float>(kCount, 0.0F)));
    EXPECT_TRUE(member->gradient.zones_untouched());
  }
  EXPECT_TRUE(same_bits(wide_gradient.values(), std::vector<double>(5, 0.0)));
  EXPECT_TRUE(wide_gradient.zones_untouched());
  EXPECT_TRUE(same_bits(everything(optimizer, first), before));
  EXPECT_EQ(optimizer.step_count(first), 1);
}

TEST(Optimizer, state_bytes_are_known_before_anything_is_allocated) {
  const auto padded = [](std::int64_t bytes) { return (bytes + 255) / 256 * 256; };
  for (const Case& c : one_case_per_rule()) {
    Optimizer optimizer(c.make());
    const auto slots = static_cast<std::int64_t>(state_names(c.make()).size());
    EXPECT_EQ(optimizer.state_bytes(), 0);
    const Member a(1, 63), b(2, 64), e(4, 65), empty(3, 0), large(5, 300001);
    const Fenced<double> parameter(33), gradient(33);
    optimizer.add(a.spec());
    optimizer.add(empty.spec());
    optimizer.add(b.spec());
    optimizer.add(e.spec());
    optimizer.add({.name = "wide", .parameter = parameter.span(), .gradient = gradient.span()});
    const std::int64_t expected = slots * (padded(63 * 4) + padded(64 * 4) + padded(65 * 4) + padded(33 * 8));
    EXPECT_EQ(optimizer.state_bytes(), expected) << c.name;
    optimizer.add(large.spec());  // states so large that each may begin anywhere in a page
    const std::int64_t all = optimizer.state_bytes();
    EXPECT_GE(all, expected + slots * padded(300001 * 4));
    EXPECT_LE(all, expected + slots * (padded(300001 * 4) + 4096));
    optimizer.prepare();
    EXPECT_EQ(optimizer.state_bytes(), all) << c.name;
    std::map<std::uintptr_t, std::int64_t> parts;  // aligned, and apart from each other
    for (const TensorId id : optimizer.tensors()) {
      for (const std::string& name : state_names(c.make())) {
        const Array state = optimizer.state(id, name);
        EXPECT_EQ(state.type(), optimizer.tensor(id).parameter.type());
        EXPECT_EQ(state.count(), optimizer.tensor(id).parameter.count());
        if (state.count() == 0) continue;
        const auto address = reinterpret_cast<std::uintptr_t>(state.data());
        EXPECT_EQ(address % 256, 0U);
        EXPECT_TRUE(parts.emplace(address, state.count() * size_in_bytes(state.type())).second);
      }
    }
    for (auto part = parts.begin(); part != parts.end() && std::next(part) != parts.end(); ++part) {
      EXPECT_LE(part->first + static_cast<std::uintptr_t>(part->second), std::next(part)->first);
    }
  }
}

// Streams that begin close to each other in a page hold each other up on some processors.
TEST(Optimizer, states_of_a_large_tensor_begin_far_apart_in_a_page_and_far_from_its_beginning) {
  constexpr std::int64_t kPage = 4096;
  constexpr std::int64_t kCount = std::int64_t{1} << 18;
  for (const Case& c : one_case_per_rule()) {
    const Method method = c.make();
    Optimizer optimizer(method);
    std::vector<float> parameter(kCount);
    const std::vector<float> gradient(kCount);
    const TensorId id = optimizer.add({.name = "large", .parameter = parameter, .gradient = gradient});
    std::vector<std::int64_t> begins{0, kPage};
    for (const std::string_view state : state_names(method)) {
      const auto address = reinterpret_cast<std::uintptr_t>(optimizer.state(id, state).data());
      EXPECT_EQ(address % 256, 0U);
      begins.push_back(static_cast<std::int64_t>(address % kPage));
    }
    std::sort(begins.begin(), begins.end());
    const auto gaps = static_cast<std::int64_t>(begins.size()) - 1;
    for (std::size_t i = 1; i < begins.size(); ++i) {
      EXPECT_GE(begins[i] - begins[i - 1], kPage / gaps / 256 * 256) << c.name;
    }
  }
}

TEST(Optimizer, states_begin_at_zero_can_be_written_and_stay_where_they_are_when_tensors_join) {
  Optimizer optimizer(Adam{});
  const Member a(1), b(2);
  const TensorId first = optimizer.add(a.spec());
  const Array m = optimizer.state(first, "exp_avg");
  for (int i = 0; i < kCount; ++i) EXPECT_EQ(m.as<float>()[i], 0.0F);
  EXPECT_EQ(m.as<double>(), nullptr);
  for (int i = 0; i < kCount; ++i) m.as<float>()[i] = 2.0F;
  optimizer.add(b.spec());
  optimizer.step();
  EXPECT_EQ(optimizer.state(first, "exp_avg").data(), m.data());
  for (int i = 0; i < kCount; ++i) EXPECT_FLOAT_EQ(m.as<float>()[i], 1.8F);
  optimizer.remove(optimizer.find("t2"));
  optimizer.step();
  EXPECT_EQ(optimizer.state(first, "exp_avg").data(), m.data());
}

TEST(Optimizer, a_step_count_that_is_set_decides_the_next_bias_correction) {
  const Case c{"adam", "adam", {}};
  const reference::Textbook<double> textbook("adam", {});
  for (const std::int64_t count :
       {std::int64_t{0}, std::int64_t{1}, std::int64_t{9}, std::int64_t{12345}, std::int64_t{1} << 40}) {
    SingleTensor<float> run(c, values_of(1));
    run.optimizer.set_step_count(run.id, count);
    EXPECT_EQ(run.optimizer.step_count(run.id), count);
    const std::vector<float> g = gradient_of(1, 1);
    run.step(g);
    EXPECT_EQ(run.optimizer.step_count(run.id), count + 1);
    const double zeros[reference::kMostStates] = {};
    for (std::int64_t i = 0; i < kCount; ++i) {
      const auto at = static_cast<std::size_t>(i);
      const auto expected = textbook.step(values_of(1)[at], zeros, g[at], count + 1);
      EXPECT_NEAR(run.parameter[i], expected.parameter,
                  0.5 * measure::ulp(DataType::float32, expected.parameter) + 0x1p-20 * expected.update_magnitude);
    }
  }
}

TEST(Optimizer, the_first_step_of_momentum_takes_the_gradient_whatever_the_dampening_and_later_ones_do_not) {
  SingleTensor<float> run(Momentum{.dampening = 0.75}, values_of(1));
  run.step(gradient_of(1, 1));
  for (std::size_t i = 0; i < kCount; ++i) EXPECT_EQ(run.state("momentum_buffer")[i], gradient_of(1, 1)[i]);
  run.step(gradient_of(1, 2));
  for (std::size_t i = 0; i < kCount; ++i) {
    EXPECT_NEAR(run.state("momentum_buffer")[i], 0.9 * gradient_of(1, 1)[i] + 0.25 * gradient_of(1, 2)[i], 1e-6);
  }
  run.optimizer.set_step_count(run.id, 0);  // begins anew: what the buffer holds is forgotten
  run.step(gradient_of(1, 3));
  for (std::size_t i = 0; i < kCount; ++i) EXPECT_EQ(run.state("momentum_buffer")[i], gradient_of(1, 3)[i]);
}

TEST(Optimizer, float_and_double_tensors_mix) {
  for (const Case& c : one_case_per_rule()) {
    Optimizer optimizer(c.make(), Device::cpu(), {.threads = 2, .tile = kChunk});
    std::list<Fenced<float>> narrow;
    std::list<Fenced<double>> wide;
    std::vector<TensorId> ids;
    for (int i = 0; i < 6; ++i) {  // alternating, so that neither type's tensors stand together
      if (i % 2 == 0) {
        narrow.emplace_back(values_of(1));
        narrow.emplace_back(gradient_of(1, 1));
        ids.push_back(optimizer.add({.name = std::to_string(i),
                                     .parameter = std::prev(narrow.end(), 2)->span(),
                                     .gradient = narrow.back().span()}));
      } else {
        wide.emplace_back(spread_values<double>(kCount, 7, -4, 1));
        wide.emplace_back(spread_values<double>(kCount, 8, -6, 1));
        ids.push_back(optimizer.add({.name = std::to_string(i),
                                     .parameter = std::prev(wide.end(), 2)->span(),
                                     .gradient = wide.back().span()}));
      }
    }
    SingleTensor<float> narrow_alone(c, values_of(1));
    SingleTensor<double> wide_alone(c, spread_values<double>(kCount, 7, -4, 1));
    for (int t = 0; t < 3; ++t) {
      optimizer.step();
      narrow_alone.step(gradient_of(1, 1));
      wide_alone.step(spread_values<double>(kCount, 8, -6, 1));
    }
    for (auto tensor = narrow.begin(); tensor != narrow.end(); std::advance(tensor, 2)) {
      EXPECT_TRUE(same_bits(tensor->values(), narrow_alone.parameter.values())) << c.name;
    }
    for (auto tensor = wide.begin(); tensor != wide.end(); std::advance(tensor, 2)) {
      EXPECT_TRUE(same_bits(tensor->values(), wide_alone.parameter.values())) << c.name;
    }
    for (const std::string& state : state_names(c.make())) {
      EXPECT_EQ(optimizer.state(ids[0], state).type(), DataType::float32);
      EXPECT_EQ(optimizer.state(ids[1], state).type(), DataType::float64);
      EXPECT_TRUE(same_bits(std::span<const double>(optimizer.state(ids[5], state).as<double>(), kCount),
                            std::span<const double>(wide_alone.state(state))));
    }
  }
}

TEST(Optimizer, rmsprop_s_momentum_may_pass_through_zero_in_an_optimizer_made_with_one) {
  SingleTensor<float> run(RMSProp{.momentum = 0.5}, values_of(1));
  Path<float> path(values_of(1));
  for (int t = 1; t <= 9; ++t) {
    const double momentum = t <= 3 ? 0.5 : (t <= 6 ? 0.0 : 0.7);
    run.optimizer.set_option(GroupId{}, "momentum", momentum);
    // The textbook's method without momentum has no buffer: its smallest one stands in for zero.
    const reference::Textbook<double> textbook("rmsprop",
                                               {{"momentum", momentum == 0 ? "1e-300" : std::to_string(momentum)}});
    run.step(gradient_of(1, t));
    path.step(textbook, gradient_of(1, t), t);
  }
  for (std::size_t i = 0; i < kCount; ++i) EXPECT_NEAR(run.state("momentum_buffer")[i], path.state[1][i], 1e-5);
}

TEST(Optimizer, moves_with_all_it_holds) {
  Optimizer original(Adam{});
  const Member member(1);
  const TensorId id = original.add(member.spec());
  SingleTensor<float> alone(Adam{}, values_of(1));
  for (int t = 1; t <= 4; ++t) {
    member.gradient.fill(gradient_of(1, t));
    alone.step(gradient_of(1, t));
    if (t <= 2) {
      original.step();
      continue;
    }
    if (t == 3) {
      Optimizer moved(std::move(original));
      original = Optimizer(GradientDescent{});
      original = std::move(moved);
    }
    original.step();
  }
  EXPECT_EQ(original.find("t1"), id);
  EXPECT_TRUE(same_bits(everything(original, id), alone.everything()));
}

TEST(Optimizer, two_of_them_run_in_two_threads) {
  const std::vector<float> initial = spread_values<float>(50000, 1, -4, 1);
  const std::vector<float> g = spread_values<float>(50000, 2, -6, 1);
  SingleTensor<float> expected(AdamW{}, initial);
  for (int t = 0; t < 20; ++t) expected.step(g);
  std::array<std::vector<float>, 2> results;
  std::vector<std::thread> threads;
  for (std::vector<float>& result : results) {
    threads.emplace_back([&] {
      SingleTensor<float> run(AdamW{}, initial, {.threads = 2, .tile = kChunk});
      for (int t = 0; t < 20; ++t) run.step(g);
      result = run.everything();
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const std::vector<float>& result : results) EXPECT_TRUE(same_bits(result, expected.everything()));
}

TEST(Optimizer, ten_thousand_tensors_of_64_are_added_stepped_and_removed_in_no_time) {
  constexpr int kTensors = 10000;
  const auto begin = std::chrono::steady_clock::now();
  const auto initial = spread_values<float>(64 * kTensors, 1, -4, 1);
  const Fenced<float> parameter(initial);
  const Fenced<float> gradient(spread_values<float>(64 * kTensors, 2, -6, 1));
  Optimizer optimizer(Adam{});
  for (int i = 0; i < kTensors; ++i) {
    optimizer.add({.name = "tensor " + std::to_string(i),
                   .parameter = {parameter.data() + 64 * i, 64},
                   .gradient = {gradient.data() + 64 * i, 64}});
  }
  for (int t = 0; t < 10; ++t) optimizer.step();
  SingleTensor<float> as_one(Adam{}, initial);
  for (int t = 0; t < 10; ++t) as_one.step(gradient.values());
  EXPECT_TRUE(same_bits(parameter.values(), as_one.parameter.values()));
  for (const TensorId id : optimizer.tensors()) {
    ASSERT_EQ(optimizer.step_count(id), 10);
    optimizer.remove(id);
  }
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
  RecordProperty("seconds", std::to_string(seconds.count()));
  EXPECT_LT(seconds.count(), 20) << "nothing here may take time with the square of the number of tensors";
}

TEST(Optimizer, says_what_it_was_made_of) {
  Optimizer optimizer(make_method("rmsprop", {{"centered", "true"}}), Device::cpu(), {.threads = 3});
  EXPECT_EQ(optimizer.device(), Device::cpu());
  EXPECT_EQ(optimizer.threads(), 3);
  EXPECT_EQ(name(optimizer.device()), "cpu");
  EXPECT_EQ(name(optimizer.options()), "rmsprop");
  EXPECT_EQ(state_names(optimizer.options()), (std::vector<std::string>{"square_avg", "grad_avg"}));
  EXPECT_GE(Optimizer(Adam{}).threads(), 1);
  const Member member(1);
  const TensorId id = optimizer.add(member.spec());
  EXPECT_EQ(optimizer.tensor(id).name, "t1");
  EXPECT_EQ(optimizer.tensor(id).parameter.data(), member.parameter.data());
  EXPECT_EQ(optimizer.tensor(id).gradient.count(), kCount);
}

// --- The traps of docs/traps.md that a CPU can fall into
// ------------------------------------------------------------------

TEST(Trap01Indexing, tiles_of_a_tensor_beyond_2_to_the_33_cover_every_element_once) {
  const std::int64_t count = (std::int64_t{1} << 33) + 12345;
  const std::int64_t tile = 16 * kChunk;
  kernels::TensorRow row{};
  row.count = count;
  const kernels::StepPlan plan = host::make_plan({row}, tile, 0);
  std::int64_t next = 0;
  for (const kernels::Tile& t : plan.tiles) {
    ASSERT_EQ(t.first, next);
    next += std::min(tile, count - t.first);
  }
  EXPECT_EQ(next, count);
}

TEST(Trap01Indexing, sizes_of_states_beyond_2_to_the_32_bytes_are_counted_in_64_bits) {
  Optimizer optimizer(Adam{});
  const std::int64_t count = std::int64_t{1} << 33;
  auto* const parameter = reinterpret_cast<float*>(std::uintptr_t{1} << 40);  // never read: nothing is prepared
  auto* const gradient = reinterpret_cast<float*>(std::uintptr_t{1} << 41);
  optimizer.add({.name = "huge", .parameter = {parameter, count}, .gradient = {gradient, count}});
  EXPECT_GE(optimizer.state_bytes(), 2 * 4 * count);
  EXPECT_LE(optimizer.state_bytes(), 2 * 4 * count + 65536) << "room to align in, and no more";
}

TEST(Trap02EmptyTensors, a_list_of_nothing_but_empty_tensors_is_stepped_and_counted) {
  Optimizer optimizer(Adam{});
  const TensorId a = optimizer.add({.name = "a",
                                    .parameter = Array(static_cast<float*>(nullptr), 0),
                                    .gradient = Array(static_cast<float*>(nullptr), 0)});
  const TensorId b = optimizer.add({.name = "b",
                                    .parameter = Array(static_cast<double*>(nullptr), 0),
                                    .gradient = Array(static_cast<double*>(nullptr), 0)});
  optimizer.step();
  optimizer.zero_gradients();
  EXPECT_EQ(optimizer.step_count(a), 1);
  EXPECT_EQ(optimizer.step_count(b), 1);
  EXPECT_EQ(optimizer.state(a, "exp_avg").count(), 0);
}

TEST(Trap03TestsThatCannotFail, the_comparison_of_these_tests_sees_one_flipped_bit_and_a_skipped_step) {
  SingleTensor<float> stepped(Adam{}, values_of(1));
  SingleTensor<float> skipped(Adam{}, values_of(1));
  stepped.step(gradient_of(1, 1));
  EXPECT_FALSE(same_bits(stepped.parameter.values(), skipped.parameter.values()));
  skipped.step(gradient_of(1, 1));
  EXPECT_TRUE(same_bits(stepped.everything(), skipped.everything()));
  skipped.parameter[5] = std::nextafter(skipped.parameter[5], 1.0F);
  EXPECT_FALSE(same_bits(stepped.everything(), skipped.everything()));
  EXPECT_FALSE(same_bits(std::vector<float>{0.0F}, std::vector<float>{-0.0F}));
  Fenced<float> fenced(3);
  EXPECT_TRUE(fenced.zones_untouched());
  fenced.data()[3] = 1;
  EXPECT_FALSE(fenced.zones_untouched());
}

TEST(Trap06UninitialisedState, memory_that_was_used_before_begins_at_zero) {
  for (int round = 0; round < 4; ++round) {
    Optimizer optimizer(Adam{.amsgrad = true});
    const Member member(1, 5000);
    const TensorId id = optimizer.add(member.spec());
    for (const char* name : {"exp_avg", "exp_avg_sq", "max_exp_avg_sq"}) {
      const Array state = optimizer.state(id, name);
      for (int i = 0; i < 5000; ++i) ASSERT_EQ(state.as<float>()[i], 0.0F);
      std::fill_n(state.as<float>(), 5000, 3.0F);  // what the allocator may hand out next
    }
  }
}

TEST(Trap07OneCounterForAll, the_last_tensor_of_a_list_does_not_decide_for_the_others) {
  Optimizer together(Momentum{.dampening = 0.5});
  const Member early(1), late(2);
  const TensorId first = together.add(early.spec());
  SingleTensor<float> first_alone(Momentum{.dampening = 0.5}, values_of(1));
  SingleTensor<float> second_alone(Momentum{.dampening = 0.5}, values_of(2));
  TensorId second{};
  for (int t = 1; t <= 3; ++t) {
    if (t == 2) second = together.add(late.spec());  // its first step is the other's second
    early.gradient.fill(gradient_of(1, t));
    late.gradient.fill(gradient_of(2, t));
    first_alone.step(gradient_of(1, t));
    if (t >= 2) second_alone.step(gradient_of(2, t));
    together.step();
  }
  EXPECT_TRUE(same_bits(everything(together, first), first_alone.everything()));
  EXPECT_TRUE(same_bits(everything(together, second), second_alone.everything()));
  EXPECT_EQ(together.step_count(first), 3);
  EXPECT_EQ(together.step_count(second), 2);
}

TEST(Trap08WeightDecay, reaches_every_place_where_the_gradient_stands_and_the_gradient_itself_is_not_written) {
  for (const Case& c : one_case_per_rule()) {
    if (c.method == "adamw") continue;
    const double lambda = 0.25;  // a power of two, and numbers of few bits: g + lambda x is exact
    std::vector<float> x(kCount), g(kCount), decayed(kCount);
    for (std::size_t i = 0; i < kCount; ++i) {
      x[i] = static_cast<float>(i % 7) - 3.0F;
      g[i] = static_cast<float>(i % 5) - 1.5F;
      decayed[i] = g[i] + 0.25F * x[i];
    }
    const Options plain{{"maximize", "false"}, {"weight_decay", "0"}};
    SingleTensor<float> with(c.with(plain).with({{"weight_decay", "0.25"}}), x);
    SingleTensor<float> without(c.with(plain), x);
    ASSERT_EQ(c.with({{"weight_decay", "0.25"}}).number("weight_decay"), lambda);
    with.step(g);
    without.step(decayed);
    EXPECT_TRUE(same_bits(with.everything(), without.everything())) << c.name;
    EXPECT_TRUE(same_bits(with.gradient.values(), g)) << c.name;
  }
}

TEST(Trap08WeightDecay, comes_after_maximize_has_turned_the_gradient) {
  SingleTensor<float> run(GradientDescent{.learning_rate = 0.5, .weight_decay = 0.5, .maximize = true}, {8.0F});
  run.step({2.0F});
  EXPECT_EQ(run.parameter[0], 8.0F - 0.5F * (-2.0F + 0.5F * 8.0F));
}

TEST(Trap10LearningRateZero, is_a_step_that_moves_nothing_and_makes_no_nan) {
  for (const std::string& method : method_names()) {
    SingleTensor<float> run(make_method(method, {{"learning_rate", "0"}}), values_of(1));
    for (int t = 1; t <= 3; ++t) run.step(gradient_of(1, t));
    EXPECT_TRUE(same_bits(run.parameter.values(), values_of(1))) << method;
    EXPECT_EQ(run.optimizer.step_count(run.id), 3);
  }
}

TEST(Trap12Alignment, views_into_one_flat_buffer_at_any_offset_are_stepped_in_place) {
  const std::vector<float> initial = spread_values<float>(1000, 1, -4, 1);
  const Fenced<float> parameter(initial);
  const Fenced<float> gradient(spread_values<float>(1000, 2, -6, 1));
  Optimizer optimizer(Adam{});
  std::int64_t at = 0;
  for (std::int64_t count = 1; at + count <= 1000; at += count++) {
    optimizer.add({.name = std::to_string(at),
                   .parameter = {parameter.data() + at, count},
                   .gradient = {gradient.data() + at, count}});
  }
  ASSERT_EQ(at, 990);
  optimizer.step();
  SingleTensor<float> as_one(Adam{}, initial);
  as_one.step(gradient.values());
  for (std::int64_t i = 0; i < 1000; ++i) {
    ASSERT_EQ(measure::bits(parameter[i]),
              measure::bits(i < at ? as_one.parameter[i] : initial[static_cast<std::size_t>(i)]))
        << i;
  }
}

TEST(Trap14StepInLowPrecision, counts_beyond_2_to_the_53_still_advance_by_one) {
  SingleTensor<float> run(Adam{}, values_of(1));
  for (const std::int64_t count :
       {std::int64_t{256}, std::int64_t{2048}, std::int64_t{1} << 24, (std::int64_t{1} << 53) + 1}) {
    run.optimizer.set_step_count(run.id, count);
    run.step(gradient_of(1, 1));
    EXPECT_EQ(run.optimizer.step_count(run.id), count + 1);
  }
}

TEST(Trap15EpsilonZero, divides_by_zero_only_where_no_gradient_has_come_yet) {
  for (const char* method : {"adam", "adamw", "rmsprop"}) {
    SingleTensor<float> run(make_method(method, {{"epsilon", "0"}}), {1.0F, 1.0F});
    run.step({0.0F, 0.5F});
    EXPECT_EQ(std::bit_cast<std::uint32_t>(run.parameter[0]), 0x7FC00000U) << method;
    EXPECT_TRUE(std::isfinite(run.parameter[1])) << method;
    EXPECT_LT(run.parameter[1], 1.0F) << method;
  }
}

TEST(Trap21Errors, a_gradient_is_never_written_by_a_step) {
  for (const Case& c : cases()) {
    SingleTensor<float> run(c, values_of(1));
    run.step(gradient_of(1, 1));
    EXPECT_TRUE(same_bits(run.gradient.values(), gradient_of(1, 1))) << c.name;
    EXPECT_TRUE(run.gradient.zones_untouched()) << c.name;
  }
}

}  // namespace
}  // namespace adamant::test
