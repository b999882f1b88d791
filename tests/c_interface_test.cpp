// The C interface against the C++ one: the same bits, every mistake a status and a text that names the argument,
// structs of other sizes, the last error of each thread, and nothing of the C++ interface without its counterpart.
// c_interface.c is the same seen by a C compiler; allocation_test.cpp makes its allocations fail.
#include "adamant/adamant.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <new>
#include <regex>
#include <set>
#include <sstream>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "adamant/adamant.hpp"
#include "tests/folder.hpp"
#include "tests/inputs.hpp"
#include "tests/methods.hpp"

extern "C" const char* adamant_test_program_in_c(const char* checkpoint);

namespace adamant::test {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

struct Destroy {
  void operator()(adamant_optimizer* optimizer) const { adamant_destroy(optimizer); }
};
using Handle = std::unique_ptr<adamant_optimizer, Destroy>;

#define EXPECT_SUCCESS(call) EXPECT_EQ(call, ADAMANT_SUCCESS) << adamant_last_error()
#define ASSERT_SUCCESS(call) ASSERT_EQ(call, ADAMANT_SUCCESS) << adamant_last_error()

// The struct with its size and all else zero.
template <typename Struct>
Struct sized() {
  Struct all{};
  all.struct_size = sizeof all;
  return all;
}

std::vector<adamant_option> c_options(const Options& options) {
  std::vector<adamant_option> list;
  for (const auto& [name, value] : options) list.push_back({name.c_str(), 0.0, value.c_str()});
  return list;
}

Handle create(const std::string& method, const Options& options = {}, const adamant_settings* settings = nullptr) {
  const std::vector<adamant_option> list = c_options(options);
  adamant_optimizer* optimizer = nullptr;
  EXPECT_SUCCESS(adamant_create(method.c_str(), list.data(), list.size(), settings, &optimizer));
  return Handle(optimizer);
}

adamant_array c_array(const ConstArray& array) {
  return {const_cast<void*>(array.data()), array.count(), static_cast<int>(array.type()) + 1, 0};
}

adamant_tensor c_tensor(const char* name, const ConstArray& parameter, const ConstArray& gradient) {
  auto tensor = sized<adamant_tensor>();
  tensor.name = name;
  tensor.parameter = c_array(parameter);
  tensor.gradient = c_array(gradient);
  return tensor;
}

TEST(CInterface, compiles_and_runs_in_c) {
  const Folder folder;
  const char* const failure = adamant_test_program_in_c(folder.file("c.safetensors").c_str());
  EXPECT_EQ(failure, nullptr) << (failure == nullptr ? "" : failure);
}

// --- The same bits

template <typename Real>
std::vector<Real> values(std::int64_t count, std::uint64_t seed) {
  if constexpr (std::is_floating_point_v<Real>) return spread_values<Real>(count, seed, -4, 1);
  std::vector<Real> list;
  if constexpr (!std::is_floating_point_v<Real>) {
    for (const float value : spread_values<float>(count, seed, -4, 1)) {
      list.push_back({static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(value) >> 16)});
    }
  }
  return list;
}

template <typename Real>
std::string bytes_of(const std::vector<Real>& list) {
  return {reinterpret_cast<const char*>(list.data()), list.size() * sizeof(Real)};
}

std::string bytes_of(const void* data, std::int64_t bytes) {
  return {static_cast<const char*>(data), static_cast<std::size_t>(bytes)};
}

template <typename Real>
void expect_the_same_bits(const Case& c) {
  constexpr std::int64_t kCount = 1037;
  std::vector<Real> x = values<Real>(kCount, 1), y = x, gradient(kCount);
  Optimizer optimizer(c.make());
  const TensorId id = optimizer.add({.name = "x", .parameter = Array(x.data(), kCount), .gradient = gradient});
  const Handle handle = create(c.method, c.options);
  ASSERT_NE(handle, nullptr);
  const adamant_tensor tensor = c_tensor("x", Array(y.data(), kCount), gradient);
  std::int64_t c_id = -1;
  ASSERT_SUCCESS(adamant_add(handle.get(), &tensor, &c_id));
  for (std::uint64_t step = 0; step < 4; ++step) {
    const std::vector<Real> next = values<Real>(kCount, 100 + step);
    std::copy(next.begin(), next.end(), gradient.begin());  // it stays where it is
    optimizer.step();
    ASSERT_SUCCESS(adamant_step(handle.get(), nullptr));
    ASSERT_EQ(bytes_of(x), bytes_of(y)) << "step " << step;
  }
  std::vector<std::string> names = state_names(optimizer.options());
  std::int64_t count = 0;
  ASSERT_SUCCESS(adamant_state_count(handle.get(), &count));
  ASSERT_EQ(count, std::ssize(names));
  for (std::int64_t i = 0; i < count; ++i) {
    const char* name = nullptr;
    ASSERT_SUCCESS(adamant_state_name(handle.get(), i, &name));
    EXPECT_EQ(name, names[static_cast<std::size_t>(i)]);
  }
  if (!std::is_floating_point_v<Real>) names.emplace_back("master");
  for (const std::string& name : names) {
    const Array state = optimizer.state(id, name);
    adamant_array c_state{};
    ASSERT_SUCCESS(adamant_state(handle.get(), c_id, name.c_str(), &c_state));
    ASSERT_EQ(c_state.count, state.count());
    ASSERT_EQ(c_state.type, static_cast<int>(state.type()) + 1);
    const std::int64_t bytes = state.count() * size_in_bytes(state.type());
    EXPECT_EQ(bytes_of(state.data(), bytes), bytes_of(c_state.data, bytes)) << name;
  }
  std::int64_t steps = 0, state_bytes = 0;
  ASSERT_SUCCESS(adamant_step_count(handle.get(), c_id, nullptr, &steps));
  EXPECT_EQ(steps, 4);
  ASSERT_SUCCESS(adamant_state_bytes(handle.get(), &state_bytes));
  EXPECT_EQ(state_bytes, optimizer.state_bytes());
}

class CInterfaceBits : public testing::TestWithParam<Case> {};
TEST_P(CInterfaceBits, are_those_of_the_class) {
  expect_the_same_bits<float>(GetParam());
  expect_the_same_bits<double>(GetParam());
  expect_the_same_bits<bfloat16>(GetParam());
}
INSTANTIATE_TEST_SUITE_P(Methods, CInterfaceBits, testing::ValuesIn(cases()),
                         [](const auto& info) { return info.param.name; });

TEST(CInterface, takes_a_number_as_it_takes_its_text) {
  const adamant_option options[] = {{"beta1", 0.75, nullptr}, {"amsgrad", 1.0, nullptr}, {"beta1", 0.8, nullptr}};
  adamant_optimizer* optimizer = nullptr;
  ASSERT_SUCCESS(adamant_create("adam", options, 3, nullptr, &optimizer));
  const Handle handle(optimizer);
  const auto value = [&](int group, const char* option) {
    const char* text = nullptr;
    EXPECT_SUCCESS(adamant_get_option(optimizer, group, option, &text));
    return std::string(text == nullptr ? "" : text);
  };
  EXPECT_EQ(value(0, "beta1"), "0.8");  // the later one counts
  EXPECT_EQ(value(0, "amsgrad"), "true");
  std::int32_t group = -1;
  ASSERT_SUCCESS(adamant_add_group(optimizer, options, 2, &group));
  EXPECT_EQ(group, 1);
  EXPECT_EQ(value(1, "beta1"), "0.75");
  ASSERT_SUCCESS(adamant_set_option(optimizer, 1, "beta2", "0x1.8p-1", nullptr));
  EXPECT_EQ(value(1, "beta2"), "0.75");
  ASSERT_SUCCESS(adamant_set_option_number(optimizer, 1, "maximize", 1.0, nullptr));
  EXPECT_EQ(value(1, "maximize"), "true");
  ASSERT_SUCCESS(adamant_set_learning_rate(optimizer, 1, 0.25, nullptr));
  EXPECT_EQ(value(1, "learning_rate"), "0.25");
  ASSERT_SUCCESS(adamant_set_options(optimizer, 1, options, 3, nullptr));
  EXPECT_EQ(value(1, "beta1"), "0.8");
  EXPECT_EQ(value(1, "learning_rate"), "0.001");  // what is not named has its default
  EXPECT_EQ(value(0, "learning_rate"), "0.001");
}

// --- What can be asked

TEST(CInterface, lists_the_methods_and_their_options) {
  const std::vector<std::string> names = method_names();
  ASSERT_EQ(adamant_method_count(), std::ssize(names));
  for (std::int64_t i = 0; i < adamant_method_count(); ++i) {
    const char* name = nullptr;
    ASSERT_SUCCESS(adamant_method_name(i, &name));
    ASSERT_EQ(name, names[static_cast<std::size_t>(i)]);
    const Handle handle = create(name);
    const char* method = nullptr;
    ASSERT_SUCCESS(adamant_method(handle.get(), &method));
    EXPECT_STREQ(method, name);
    const std::vector<Option> list = options(make_method(name));
    std::int64_t count = 0;
    ASSERT_SUCCESS(adamant_option_count(handle.get(), &count));
    ASSERT_EQ(count, std::ssize(list));
    for (std::int64_t k = 0; k < count; ++k) {
      const Option& wanted = list[static_cast<std::size_t>(k)];
      const char *option = nullptr, *value = nullptr, *allowed = nullptr;
      ASSERT_SUCCESS(adamant_option_at(handle.get(), 0, k, &option, &value, &allowed));
      EXPECT_EQ(option, wanted.name);
      EXPECT_EQ(value, wanted.value);
      EXPECT_EQ(allowed, wanted.allowed);
      EXPECT_SUCCESS(adamant_option_at(handle.get(), 0, k, nullptr, nullptr, nullptr));
    }
  }
}

TEST(CInterface, says_where_an_optimizer_runs) {
  EXPECT_EQ(adamant_version(), version());
  const std::vector<SimdLevel> levels = simd_levels();
  for (std::int32_t simd = ADAMANT_SIMD_BASELINE; simd <= ADAMANT_SIMD_AVX512; ++simd) {
    std::int32_t available = -1;
    ASSERT_SUCCESS(adamant_simd_available(simd, &available));
    const auto level = static_cast<SimdLevel>(simd - ADAMANT_SIMD_BASELINE);
    ASSERT_EQ(available, std::count(levels.begin(), levels.end(), level));
    if (available == 0) continue;
    auto settings = sized<adamant_settings>();
    settings.threads = 2;
    settings.simd = simd;
    settings.tile = 8192;
    const Handle handle = create("adam", {}, &settings);
    std::int32_t seen_simd = -1, threads = -1, device = -1, device_index = -1;
    EXPECT_SUCCESS(adamant_simd_level(handle.get(), &seen_simd));
    EXPECT_SUCCESS(adamant_threads(handle.get(), &threads));
    EXPECT_SUCCESS(adamant_device(handle.get(), &device, &device_index));
    EXPECT_SUCCESS(adamant_device(handle.get(), &device, nullptr));
    EXPECT_EQ(seen_simd, simd);
    EXPECT_EQ(threads, 2);
    EXPECT_EQ(device, ADAMANT_CPU);
    EXPECT_EQ(device_index, 0);
  }
  std::int32_t best = 0;
  EXPECT_SUCCESS(adamant_simd_available(ADAMANT_SIMD_BEST, &best));
  EXPECT_EQ(best, 1);
}

// An optimizer of two groups in the middle of a run.
class CInterfaceScene : public testing::Test {
 protected:
  CInterfaceScene() : handle(create("adam", {{"learning_rate", "0.5"}})) {
    EXPECT_SUCCESS(adamant_add_group(optimizer(), nullptr, 0, &group));
    adamant_tensor first = c_tensor("first", x, g);
    first.shape = shape;
    first.dimensions = 2;
    EXPECT_SUCCESS(adamant_add(optimizer(), &first, &first_id));
    adamant_tensor second = c_tensor("second", y, h);
    second.group = group;
    second.gradient_is_const = 1;
    EXPECT_SUCCESS(adamant_add(optimizer(), &second, &second_id));
    EXPECT_SUCCESS(adamant_step(optimizer(), nullptr));
  }
  adamant_optimizer* optimizer() const { return handle.get(); }

  std::int64_t steps_of(std::int64_t id) const {
    std::int64_t count = -1;
    EXPECT_SUCCESS(adamant_step_count(optimizer(), id, nullptr, &count));
    return count;
  }

  std::vector<float> x = std::vector<float>(6, 1.0F), g = std::vector<float>(6, 0.25F), other = g;
  std::vector<double> y = std::vector<double>(3, 1.0), h = std::vector<double>(3, 0.5);
  const std::int64_t shape[2] = {2, 3};
  std::int32_t group = -1;
  std::int64_t first_id = -1, second_id = -1;
  Folder folder;
  Handle handle;
};

TEST_F(CInterfaceScene, has_tensors_that_can_be_found_listed_and_read_back) {
  std::int32_t groups = -1;
  EXPECT_SUCCESS(adamant_group_count(optimizer(), &groups));
  EXPECT_EQ(groups, 2);
  std::int64_t found = -1;
  EXPECT_SUCCESS(adamant_find(optimizer(), "second", &found));
  EXPECT_EQ(found, second_id);
  std::size_t count = 0;
  EXPECT_SUCCESS(adamant_tensors(optimizer(), nullptr, 0, &count));
  EXPECT_EQ(count, 2U);
  std::int64_t ids[3] = {-1, -1, -1};
  EXPECT_SUCCESS(adamant_tensors(optimizer(), ids, 1, &count));
  EXPECT_EQ(count, 2U);
  EXPECT_EQ(ids[0], first_id);
  EXPECT_EQ(ids[1], -1);
  EXPECT_SUCCESS(adamant_tensors(optimizer(), ids, 3, &count));
  EXPECT_EQ(ids[1], second_id);
  EXPECT_EQ(ids[2], -1);

  auto given = sized<adamant_tensor>();
  ASSERT_SUCCESS(adamant_get_tensor(optimizer(), first_id, &given));
  EXPECT_STREQ(given.name, "first");
  EXPECT_EQ(given.parameter.data, x.data());
  EXPECT_EQ(given.parameter.count, 6);
  EXPECT_EQ(given.parameter.type, ADAMANT_FLOAT32);
  EXPECT_EQ(given.gradient.data, g.data());
  EXPECT_EQ(given.copy.data, nullptr);
  EXPECT_EQ(given.copy.type, 0);
  ASSERT_EQ(given.dimensions, 2U);
  EXPECT_EQ(given.shape[0], 2);
  EXPECT_EQ(given.shape[1], 3);
  EXPECT_EQ(given.group, 0);
  EXPECT_EQ(given.gradient_is_const, 0);
  ASSERT_SUCCESS(adamant_get_tensor(optimizer(), second_id, &given));
  EXPECT_EQ(given.parameter.type, ADAMANT_FLOAT64);
  EXPECT_EQ(given.group, group);
  EXPECT_EQ(given.gradient_is_const, 1);
  EXPECT_EQ(given.shape, nullptr);
  EXPECT_EQ(given.dimensions, 0U);

  EXPECT_SUCCESS(adamant_remove(optimizer(), second_id));
  EXPECT_EQ(adamant_find(optimizer(), "second", &found), ADAMANT_INVALID_ARGUMENT);
}

TEST_F(CInterfaceScene, has_every_field_of_a_tensor) {
  std::vector<float> wide(4, 1.0F), wide_gradient(4, 1.0F);
  std::vector<bfloat16> narrow(4), narrow_gradient(4), copy(4);
  adamant_tensor tensor = c_tensor("copied", wide, wide_gradient);
  tensor.copy = c_array(copy);
  tensor.zero_gradient = 1;
  std::int64_t copied = -1, kept = -1;
  ASSERT_SUCCESS(adamant_add(optimizer(), &tensor, &copied));
  tensor = c_tensor("kept", narrow, narrow_gradient);
  tensor.master = ADAMANT_MASTER_REMAINDER;
  tensor.state_type = ADAMANT_BFLOAT16;
  ASSERT_SUCCESS(adamant_add(optimizer(), &tensor, &kept));
  ASSERT_SUCCESS(adamant_step(optimizer(), nullptr));
  EXPECT_EQ(wide_gradient, std::vector<float>(4, 0.0F));
  EXPECT_NE(copy[0].bits, 0);
  auto given = sized<adamant_tensor>();
  ASSERT_SUCCESS(adamant_get_tensor(optimizer(), copied, &given));
  EXPECT_EQ(given.copy.data, copy.data());
  EXPECT_EQ(given.copy.type, ADAMANT_BFLOAT16);
  EXPECT_EQ(given.zero_gradient, 1);
  ASSERT_SUCCESS(adamant_get_tensor(optimizer(), kept, &given));
  EXPECT_EQ(given.master, ADAMANT_MASTER_REMAINDER);
  EXPECT_EQ(given.state_type, ADAMANT_BFLOAT16);
  adamant_array state{};
  ASSERT_SUCCESS(adamant_state(optimizer(), kept, "exp_avg", &state));
  EXPECT_EQ(state.type, ADAMANT_BFLOAT16);
}

TEST_F(CInterfaceScene, freezes_moves_and_repoints_tensors) {
  std::int32_t frozen = -1;
  EXPECT_SUCCESS(adamant_freeze(optimizer(), first_id, nullptr));
  EXPECT_SUCCESS(adamant_frozen(optimizer(), first_id, &frozen));
  EXPECT_EQ(frozen, 1);
  const std::vector<float> before = x;
  EXPECT_SUCCESS(adamant_prepare(optimizer(), nullptr));
  EXPECT_SUCCESS(adamant_step(optimizer(), nullptr));
  EXPECT_EQ(x, before);
  EXPECT_EQ(steps_of(first_id), 1);
  EXPECT_EQ(steps_of(second_id), 2);
  EXPECT_SUCCESS(adamant_thaw(optimizer(), first_id, nullptr));
  EXPECT_SUCCESS(adamant_frozen(optimizer(), first_id, &frozen));
  EXPECT_EQ(frozen, 0);

  EXPECT_SUCCESS(adamant_set_group(optimizer(), first_id, group, nullptr));
  const adamant_array repointed = c_array(other);
  EXPECT_SUCCESS(adamant_set_gradient(optimizer(), first_id, &repointed, 0, nullptr));
  auto given = sized<adamant_tensor>();
  EXPECT_SUCCESS(adamant_get_tensor(optimizer(), first_id, &given));
  EXPECT_EQ(given.group, group);
  EXPECT_EQ(given.gradient.data, other.data());
  EXPECT_SUCCESS(adamant_set_step_count(optimizer(), first_id, 41, nullptr));
  EXPECT_SUCCESS(adamant_step(optimizer(), nullptr));
  EXPECT_EQ(steps_of(first_id), 42);

  // The second gradient is const until it is said not to be.
  EXPECT_EQ(adamant_zero_gradients(optimizer(), nullptr), ADAMANT_INVALID_ARGUMENT);
  const adamant_array second = c_array(h);
  EXPECT_SUCCESS(adamant_set_gradient(optimizer(), second_id, &second, 0, nullptr));
  EXPECT_SUCCESS(adamant_zero_gradients(optimizer(), nullptr));
  EXPECT_EQ(other, std::vector<float>(6, 0.0F));
  EXPECT_EQ(h, std::vector<double>(3, 0.0));
  EXPECT_SUCCESS(adamant_set_gradient(optimizer(), second_id, &second, 1, nullptr));
  EXPECT_EQ(adamant_zero_gradients(optimizer(), nullptr), ADAMANT_INVALID_ARGUMENT);
}

TEST_F(CInterfaceScene, sets_and_reads_back_the_control) {
  auto seen = sized<adamant_step_control>();
  EXPECT_SUCCESS(adamant_get_control(optimizer(), &seen));
  auto plain = sized<adamant_step_control>();
  plain.gradient_scale = 1.0;
  EXPECT_EQ(std::memcmp(&seen, &plain, sizeof seen), 0);

  const float scale = 4.0F, found = 0.0F;
  auto control = sized<adamant_step_control>();
  control.gradient_scale_pointer = &scale;
  control.found_non_finite = &found;
  control.clip_norm = 0.5;
  control.clip_value = 0.25;
  control.non_finite = ADAMANT_SKIP;
  control.measure_norm = 1;
  control.seed = 0x123456789ABCDEF0;
  EXPECT_SUCCESS(adamant_set_control(optimizer(), &control, nullptr));
  EXPECT_SUCCESS(adamant_get_control(optimizer(), &seen));
  control.gradient_scale = 1.0;
  EXPECT_EQ(std::memcmp(&seen, &control, sizeof seen), 0);

  control = sized<adamant_step_control>();
  control.gradient_scale = 2.0;
  control.measure_norm = 1;
  EXPECT_SUCCESS(adamant_set_control(optimizer(), &control, nullptr));
  EXPECT_SUCCESS(adamant_step(optimizer(), nullptr));
  auto report = sized<adamant_step_report>();
  EXPECT_SUCCESS(adamant_report(optimizer(), nullptr, &report));
  EXPECT_DOUBLE_EQ(report.gradient_norm, std::sqrt(6 * 0.125 * 0.125 + 3 * 0.25 * 0.25));
  EXPECT_EQ(report.loss_scale, 1.0F);

  control = sized<adamant_step_control>();
  control.loss_scale_is_kept = 1;
  EXPECT_SUCCESS(adamant_set_control(optimizer(), &control, nullptr));
  EXPECT_SUCCESS(adamant_get_control(optimizer(), &seen));
  EXPECT_EQ(seen.loss_scale_initial, LossScale{}.initial);
  EXPECT_EQ(seen.loss_scale_growth, LossScale{}.growth);
  EXPECT_EQ(seen.loss_scale_backoff, LossScale{}.backoff);
  EXPECT_EQ(seen.loss_scale_growth_interval, LossScale{}.growth_interval);
  control.loss_scale_initial = 8.0;
  control.loss_scale_growth = 3.0;
  control.loss_scale_backoff = 0.25;
  control.loss_scale_growth_interval = 7;
  EXPECT_SUCCESS(adamant_set_control(optimizer(), &control, nullptr));
  EXPECT_SUCCESS(adamant_get_control(optimizer(), &seen));
  control.gradient_scale = 1.0;
  EXPECT_EQ(std::memcmp(&seen, &control, sizeof seen), 0);
}

TEST_F(CInterfaceScene, reports_on_steps_here_and_in_device_memory) {
  auto control = sized<adamant_step_control>();
  control.loss_scale_is_kept = 1;
  control.loss_scale_initial = 16.0;
  ASSERT_SUCCESS(adamant_set_control(optimizer(), &control, nullptr));
  g[2] = std::numeric_limits<float>::infinity();
  ASSERT_SUCCESS(adamant_step(optimizer(), nullptr));
  auto report = sized<adamant_step_report>();
  ASSERT_SUCCESS(adamant_report(optimizer(), nullptr, &report));
  EXPECT_EQ(report.skipped, 1);
  EXPECT_EQ(report.skipped_steps, 1);
  EXPECT_EQ(report.loss_scale, 8.0F);
  EXPECT_EQ(report.good_steps, 0);
  EXPECT_EQ(steps_of(first_id), 1);
  g[2] = 0.0F;
  ASSERT_SUCCESS(adamant_step(optimizer(), nullptr));
  const adamant_device_step_report* there = nullptr;
  const float* scale = nullptr;
  ASSERT_SUCCESS(adamant_device_report(optimizer(), &there));
  ASSERT_SUCCESS(adamant_loss_scale(optimizer(), &scale));
  EXPECT_EQ(there->skipped, 0);
  EXPECT_EQ(there->skipped_steps, 1);
  EXPECT_EQ(there->good_steps, 1);
  EXPECT_EQ(there->loss_scale, 8.0F);
  EXPECT_EQ(scale, &there->loss_scale);
  ASSERT_SUCCESS(adamant_report(optimizer(), nullptr, &report));
  EXPECT_EQ(report.gradient_norm, there->gradient_norm);
}

// --- Checkpoints

TEST_F(CInterfaceScene, has_checkpoints_that_the_class_loads_and_the_other_way_round) {
  const std::string path = folder.file("x.safetensors");
  ASSERT_SUCCESS(adamant_save(optimizer(), path.c_str(), nullptr, nullptr));
  std::vector<float> x2(6);
  std::vector<double> y2(3);
  Optimizer same(Adam{});
  const GroupId same_group = same.add_group(Adam{});
  same.add({.name = "first", .parameter = x2, .gradient = g, .shape = {2, 3}});
  const TensorId second = same.add({.name = "second", .parameter = y2, .gradient = h, .group = same_group});
  same.load(path);
  EXPECT_EQ(options(same.options())[0].value, "0.5");
  same.step();
  EXPECT_SUCCESS(adamant_step(optimizer(), nullptr));
  EXPECT_EQ(bytes_of(x), bytes_of(x2));
  EXPECT_EQ(bytes_of(y), bytes_of(y2));

  same.step();
  same.freeze(second);
  same.save(path);
  ASSERT_SUCCESS(adamant_load(optimizer(), path.c_str(), nullptr, nullptr));
  std::int32_t frozen = 0;
  EXPECT_SUCCESS(adamant_frozen(optimizer(), second_id, &frozen));
  EXPECT_EQ(frozen, 1);
  same.step();
  EXPECT_SUCCESS(adamant_step(optimizer(), nullptr));
  EXPECT_EQ(bytes_of(x), bytes_of(x2));
  EXPECT_EQ(bytes_of(y), bytes_of(y2));
  EXPECT_EQ(steps_of(first_id), 4);
}

TEST_F(CInterfaceScene, heeds_what_saving_and_loading_are_told) {
  const std::string path = folder.file("x.safetensors");
  auto save = sized<adamant_save_options>();
  save.without_parameters = 1;
  ASSERT_SUCCESS(adamant_save(optimizer(), path.c_str(), &save, nullptr));
  const std::vector<float> marked(6, 77.0F);
  x = marked;  // where it is
  ASSERT_SUCCESS(adamant_load(optimizer(), path.c_str(), nullptr, nullptr));
  EXPECT_EQ(x, marked);

  ASSERT_SUCCESS(adamant_save(optimizer(), path.c_str(), nullptr, nullptr));
  // Another optimizer: the second tensor is missing there, and the first is kept in another type.
  const Handle fresh = create("adam");
  std::vector<bfloat16> narrow(6), gradient(6);
  adamant_tensor tensor = c_tensor("first", narrow, gradient);
  tensor.shape = shape;
  tensor.dimensions = 2;
  ASSERT_SUCCESS(adamant_add(fresh.get(), &tensor, nullptr));
  auto load = sized<adamant_load_options>();
  const char* const names[] = {"first"};
  const auto text_of_failure = [&] {
    EXPECT_EQ(adamant_load(fresh.get(), path.c_str(), &load, nullptr), ADAMANT_NOT_LOADED);
    return std::string(adamant_last_error());
  };
  load.change_types = names;
  load.change_types_count = 1;
  EXPECT_NE(text_of_failure().find("second"), std::string::npos);
  load.allow_extra = 1;
  load.change_types_count = 0;
  EXPECT_NE(text_of_failure().find("first"), std::string::npos);
  load.change_types_count = 1;
  EXPECT_SUCCESS(adamant_load(fresh.get(), path.c_str(), &load, nullptr));
  EXPECT_EQ(narrow[0].bits, std::bit_cast<std::uint32_t>(77.0F) >> 16);
  std::vector<float> late(2), late_gradient(2);
  tensor = c_tensor("late", late, late_gradient);
  ASSERT_SUCCESS(adamant_add(fresh.get(), &tensor, nullptr));
  EXPECT_NE(text_of_failure().find("late"), std::string::npos);
  load.allow_missing = 1;
  EXPECT_SUCCESS(adamant_load(fresh.get(), path.c_str(), &load, nullptr));
}

// --- Mistakes

class CInterfaceMistake : public CInterfaceScene {
 protected:
  // The text of the mistake, which has its status and these parts.
  static void expect(const char* what, adamant_status status, adamant_status wanted,
                     const std::vector<std::string>& parts) {
    SCOPED_TRACE(what);
    EXPECT_EQ(status, wanted);
    const std::string text = adamant_last_error();
    EXPECT_TRUE(text.starts_with("adamant: ")) << text;
    for (const std::string& part : parts) EXPECT_NE(text.find(part), std::string::npos) << text << " lacks " << part;
  }
  // What there is to see.
  std::string seen() {
    std::string all = bytes_of(x) + bytes_of(g) + bytes_of(y) + bytes_of(h);
    for (const std::int64_t id : {first_id, second_id}) {
      auto tensor = sized<adamant_tensor>();
      EXPECT_SUCCESS(adamant_get_tensor(optimizer(), id, &tensor));
      all += std::to_string(tensor.group) + bytes_of(&tensor.gradient, sizeof tensor.gradient);
      all += std::to_string(steps_of(id));
      for (const char* state : {"exp_avg", "exp_avg_sq"}) {
        adamant_array array{};
        EXPECT_SUCCESS(adamant_state(optimizer(), id, state, &array));
        all += bytes_of(array.data, array.count * (array.type == ADAMANT_FLOAT64 ? 8 : 4));
      }
    }
    for (std::int32_t i = 0; i <= group; ++i) {
      const char* value = nullptr;
      EXPECT_SUCCESS(adamant_get_option(optimizer(), i, "learning_rate", &value));
      all += value;
    }
    auto control = sized<adamant_step_control>();
    EXPECT_SUCCESS(adamant_get_control(optimizer(), &control));
    return all + bytes_of(&control, sizeof control);
  }
};

#define MISTAKE(call, ...) expect(#call, call, ADAMANT_INVALID_ARGUMENT, __VA_ARGS__)

TEST_F(CInterfaceMistake, of_a_null_pointer_names_the_parameter) {
  const std::string before = seen();
  adamant_optimizer* const none = nullptr;
  adamant_optimizer* made = nullptr;
  const char* text = nullptr;
  std::int32_t i32 = 0;
  std::int64_t i64 = 0;
  std::size_t size = 0;
  const adamant_tensor tensor = c_tensor("new", x, g);
  const auto control = sized<adamant_step_control>();
  adamant_array array = c_array(g);
  const adamant_option no_name[] = {{nullptr, 1.0, nullptr}};
  auto load = sized<adamant_load_options>();
  const std::string path = folder.file("x");

  MISTAKE(adamant_method_name(0, nullptr), {"name: null pointer"});
  MISTAKE(adamant_simd_available(ADAMANT_SIMD_BEST, nullptr), {"available: null pointer"});
  MISTAKE(adamant_create(nullptr, nullptr, 0, nullptr, &made), {"method: null pointer"});
  MISTAKE(adamant_create("adam", nullptr, 1, nullptr, &made), {"options: null pointer with a count of 1"});
  MISTAKE(adamant_create("adam", no_name, 1, nullptr, &made), {"options[0]: name: null pointer"});
  MISTAKE(adamant_create("adam", nullptr, 0, nullptr, nullptr), {"optimizer: null pointer"});

  const std::vector<std::string> handle_is_null{"optimizer: null pointer"};
  MISTAKE(adamant_add_group(none, nullptr, 0, &i32), handle_is_null);
  MISTAKE(adamant_group_count(none, &i32), handle_is_null);
  MISTAKE(adamant_add(none, &tensor, &i64), handle_is_null);
  MISTAKE(adamant_remove(none, first_id), handle_is_null);
  MISTAKE(adamant_find(none, "first", &i64), handle_is_null);
  MISTAKE(adamant_tensors(none, nullptr, 0, &size), handle_is_null);
  auto given = sized<adamant_tensor>();
  MISTAKE(adamant_get_tensor(none, first_id, &given), handle_is_null);
  MISTAKE(adamant_freeze(none, first_id, nullptr), handle_is_null);
  MISTAKE(adamant_thaw(none, first_id, nullptr), handle_is_null);
  MISTAKE(adamant_frozen(none, first_id, &i32), handle_is_null);
  MISTAKE(adamant_set_group(none, first_id, 0, nullptr), handle_is_null);
  MISTAKE(adamant_set_gradient(none, first_id, &array, 0, nullptr), handle_is_null);
  MISTAKE(adamant_method(none, &text), handle_is_null);
  MISTAKE(adamant_option_count(none, &i64), handle_is_null);
  MISTAKE(adamant_option_at(none, 0, 0, &text, &text, &text), handle_is_null);
  MISTAKE(adamant_get_option(none, 0, "beta1", &text), handle_is_null);
  MISTAKE(adamant_set_options(none, 0, nullptr, 0, nullptr), handle_is_null);
  MISTAKE(adamant_set_option(none, 0, "beta1", "0.5", nullptr), handle_is_null);
  MISTAKE(adamant_set_option_number(none, 0, "beta1", 0.5, nullptr), handle_is_null);
  MISTAKE(adamant_set_learning_rate(none, 0, 0.5, nullptr), handle_is_null);
  MISTAKE(adamant_set_control(none, &control, nullptr), handle_is_null);
  auto seen_control = sized<adamant_step_control>();
  MISTAKE(adamant_get_control(none, &seen_control), handle_is_null);
  auto report = sized<adamant_step_report>();
  MISTAKE(adamant_report(none, nullptr, &report), handle_is_null);
  const adamant_device_step_report* device_report = nullptr;
  MISTAKE(adamant_device_report(none, &device_report), handle_is_null);
  const float* scale = nullptr;
  MISTAKE(adamant_loss_scale(none, &scale), handle_is_null);
  MISTAKE(adamant_prepare(none, nullptr), handle_is_null);
  MISTAKE(adamant_step(none, nullptr), handle_is_null);
  MISTAKE(adamant_zero_gradients(none, nullptr), handle_is_null);
  MISTAKE(adamant_step_count(none, first_id, nullptr, &i64), handle_is_null);
  MISTAKE(adamant_set_step_count(none, first_id, 1, nullptr), handle_is_null);
  MISTAKE(adamant_state_count(none, &i64), handle_is_null);
  MISTAKE(adamant_state_name(none, 0, &text), handle_is_null);
  MISTAKE(adamant_state(none, first_id, "exp_avg", &array), handle_is_null);
  MISTAKE(adamant_state_bytes(none, &i64), handle_is_null);
  MISTAKE(adamant_save(none, path.c_str(), nullptr, nullptr), handle_is_null);
  MISTAKE(adamant_load(none, path.c_str(), nullptr, nullptr), handle_is_null);
  MISTAKE(adamant_device(none, &i32, &i32), handle_is_null);
  MISTAKE(adamant_simd_level(none, &i32), handle_is_null);
  MISTAKE(adamant_threads(none, &i32), handle_is_null);
  adamant_destroy(none);

  MISTAKE(adamant_add_group(optimizer(), nullptr, 0, nullptr), {"group: null pointer"});
  MISTAKE(adamant_add_group(optimizer(), nullptr, 2, &i32), {"options: null pointer with a count of 2"});
  MISTAKE(adamant_group_count(optimizer(), nullptr), {"count: null pointer"});
  MISTAKE(adamant_add(optimizer(), nullptr, &i64), {"tensor: null pointer"});
  MISTAKE(adamant_find(optimizer(), nullptr, &i64), {"name: null pointer"});
  MISTAKE(adamant_find(optimizer(), "first", nullptr), {"tensor: null pointer"});
  MISTAKE(adamant_tensors(optimizer(), nullptr, 0, nullptr), {"count: null pointer"});
  MISTAKE(adamant_tensors(optimizer(), nullptr, 5, &size), {"tensors: null pointer with a count of 5"});
  MISTAKE(adamant_get_tensor(optimizer(), first_id, nullptr), {"given: null pointer"});
  MISTAKE(adamant_frozen(optimizer(), first_id, nullptr), {"frozen: null pointer"});
  MISTAKE(adamant_set_gradient(optimizer(), first_id, nullptr, 0, nullptr), {"gradient: null pointer"});
  MISTAKE(adamant_method(optimizer(), nullptr), {"method: null pointer"});
  MISTAKE(adamant_option_count(optimizer(), nullptr), {"count: null pointer"});
  MISTAKE(adamant_get_option(optimizer(), 0, nullptr, &text), {"option: null pointer"});
  MISTAKE(adamant_get_option(optimizer(), 0, "beta1", nullptr), {"value: null pointer"});
  MISTAKE(adamant_set_options(optimizer(), 0, nullptr, 1, nullptr), {"options: null pointer with a count of 1"});
  MISTAKE(adamant_set_option(optimizer(), 0, nullptr, "1", nullptr), {"option: null pointer"});
  MISTAKE(adamant_set_option(optimizer(), 0, "beta1", nullptr, nullptr), {"value: null pointer"});
  MISTAKE(adamant_set_option_number(optimizer(), 0, nullptr, 1, nullptr), {"option: null pointer"});
  MISTAKE(adamant_set_control(optimizer(), nullptr, nullptr), {"control: null pointer"});
  MISTAKE(adamant_get_control(optimizer(), nullptr), {"control: null pointer"});
  MISTAKE(adamant_report(optimizer(), nullptr, nullptr), {"report: null pointer"});
  MISTAKE(adamant_device_report(optimizer(), nullptr), {"report: null pointer"});
  MISTAKE(adamant_loss_scale(optimizer(), nullptr), {"loss_scale: null pointer"});
  MISTAKE(adamant_step_count(optimizer(), first_id, nullptr, nullptr), {"count: null pointer"});
  MISTAKE(adamant_state_count(optimizer(), nullptr), {"count: null pointer"});
  MISTAKE(adamant_state_name(optimizer(), 0, nullptr), {"name: null pointer"});
  MISTAKE(adamant_state(optimizer(), first_id, nullptr, &array), {"name: null pointer"});
  MISTAKE(adamant_state(optimizer(), first_id, "exp_avg", nullptr), {"state: null pointer"});
  MISTAKE(adamant_state_bytes(optimizer(), nullptr), {"bytes: null pointer"});
  MISTAKE(adamant_save(optimizer(), nullptr, nullptr, nullptr), {"path: null pointer"});
  MISTAKE(adamant_load(optimizer(), nullptr, nullptr, nullptr), {"path: null pointer"});
  load.change_types_count = 1;
  MISTAKE(adamant_load(optimizer(), path.c_str(), &load, nullptr), {"change_types: null pointer with a count of 1"});
  const char* const no_names[] = {"first", nullptr};
  load.change_types = no_names;
  load.change_types_count = 2;
  MISTAKE(adamant_load(optimizer(), path.c_str(), &load, nullptr), {"change_types[1]: null pointer"});
  MISTAKE(adamant_device(optimizer(), nullptr, &i32), {"device: null pointer"});
  MISTAKE(adamant_simd_level(optimizer(), nullptr), {"simd: null pointer"});
  MISTAKE(adamant_threads(optimizer(), nullptr), {"threads: null pointer"});
  EXPECT_EQ(made, nullptr);
  EXPECT_EQ(text, nullptr);
  EXPECT_EQ(seen(), before);
}

TEST_F(CInterfaceMistake, in_a_tensor_names_the_tensor_and_the_field) {
  const std::string before = seen();
  std::vector<float> parameter(4), gradient(4);
  std::vector<bfloat16> copy(4);
  std::int64_t id = -7;
  const auto refuse = [&](const std::function<void(adamant_tensor&)>& change, const std::vector<std::string>& parts) {
    adamant_tensor tensor = c_tensor("w", parameter, gradient);
    change(tensor);
    expect("adamant_add", adamant_add(optimizer(), &tensor, &id), ADAMANT_INVALID_ARGUMENT, parts);
    EXPECT_EQ(id, -7);
  };
  refuse([](auto& t) { t.name = nullptr; }, {"tensor: name: null pointer"});
  refuse([](auto& t) { t.name = ""; }, {"needs a name"});
  refuse([](auto& t) { t.name = "first"; }, {"\"first\"", "name"});
  refuse([](auto& t) { t.parameter.type = 0; }, {"tensor \"w\": parameter: type: 0", "ADAMANT_FLOAT32 (1)"});
  refuse([](auto& t) { t.parameter.type = 5; }, {"tensor \"w\": parameter: type: 5"});
  refuse([](auto& t) { t.parameter.type = 257; }, {"tensor \"w\": parameter: type: 257"});
  refuse([](auto& t) { t.parameter.reserved = 1; }, {"tensor \"w\": parameter: reserved: 1"});
  refuse([](auto& t) { t.parameter.data = nullptr; }, {"tensor \"w\": parameter: null pointer"});
  refuse([](auto& t) { t.parameter.count = -1; }, {"tensor \"w\": parameter: ", "negative"});
  refuse([](auto& t) { t.parameter.data = static_cast<char*>(t.parameter.data) + 1; }, {"parameter: ", "not aligned"});
  refuse([](auto& t) { t.gradient.type = -1; }, {"tensor \"w\": gradient: type: -1"});
  refuse([](auto& t) { t.gradient.count = 3; }, {"tensor \"w\": gradient: count 3"});
  refuse([](auto& t) { t.gradient.type = ADAMANT_FLOAT64; }, {"tensor \"w\": gradient: "});
  refuse([&](auto& t) { t.gradient.data = parameter.data(); }, {"tensor \"w\": gradient: shares memory"});
  refuse([&](auto& t) { t.parameter.data = x.data(); }, {"tensor \"w\": parameter: shares memory", "\"first\""});
  refuse(
      [&](auto& t) {
        t.copy = c_array(copy);
        t.copy.type = 0;
      },
      {"tensor \"w\": copy: type: 0"});
  refuse([&](auto& t) { t.copy = c_array(gradient); }, {"tensor \"w\": copy: "});
  refuse([](auto& t) { t.dimensions = 1; }, {"shape: null pointer with a count of 1"});
  refuse(
      [&](auto& t) {
        t.shape = shape;
        t.dimensions = 65;
      },
      {"tensor \"w\": dimensions: 65", "64"});
  refuse(
      [&](auto& t) {
        t.shape = shape;
        t.dimensions = 2;
      },
      {"tensor \"w\": shape: ", "6"});
  refuse([](auto& t) { t.group = 2; }, {"tensor \"w\": group: group 2"});
  refuse([](auto& t) { t.group = -1; }, {"tensor \"w\": group: group -1"});
  refuse([](auto& t) { t.state_type = 9; }, {"tensor \"w\": state_type: 9"});
  refuse([](auto& t) { t.state_type = ADAMANT_FLOAT64; }, {"tensor \"w\": state_type: "});
  refuse([](auto& t) { t.master = 5; }, {"tensor \"w\": master: 5"});
  refuse([](auto& t) { t.master = -1; }, {"tensor \"w\": master: -1"});
  refuse([](auto& t) { t.master = ADAMANT_MASTER_REMAINDER; }, {"tensor \"w\": master: "});
  refuse([](auto& t) { t.zero_gradient = 2; }, {"tensor \"w\": zero_gradient: 2"});
  refuse([](auto& t) { t.gradient_is_const = -1; }, {"tensor \"w\": gradient_is_const: -1"});
  refuse([](auto& t) { t.zero_gradient = t.gradient_is_const = 1; }, {"tensor \"w\": zero_gradient: "});
  refuse([](auto& t) { t.reserved = 3; }, {"tensor \"w\": reserved: 3"});
  EXPECT_EQ(seen(), before);
}

TEST_F(CInterfaceMistake, in_a_value_names_it_and_what_is_allowed) {
  const std::string before = seen();
  const char* text = nullptr;
  std::int32_t i32 = 0;
  std::int64_t i64 = 0;
  adamant_array array = c_array(other);
  MISTAKE(adamant_method_name(-1, &text), {"index: -1; allowed: 0 to "});
  MISTAKE(adamant_method_name(adamant_method_count(), &text), {"index: "});
  MISTAKE(adamant_simd_available(4, &i32), {"simd: 4"});
  MISTAKE(adamant_simd_available(-1, &i32), {"simd: -1"});
  MISTAKE(adamant_remove(optimizer(), 17), {"no tensor with id 17"});
  MISTAKE(adamant_find(optimizer(), "third", &i64), {"\"third\""});
  auto given = sized<adamant_tensor>();
  MISTAKE(adamant_get_tensor(optimizer(), 17, &given), {"17"});
  MISTAKE(adamant_freeze(optimizer(), 17, nullptr), {"17"});
  MISTAKE(adamant_thaw(optimizer(), 17, nullptr), {"17"});
  MISTAKE(adamant_frozen(optimizer(), 17, &i32), {"17"});
  MISTAKE(adamant_set_group(optimizer(), 17, 0, nullptr), {"17"});
  MISTAKE(adamant_set_group(optimizer(), first_id, 5, nullptr), {"\"first\"", "group 5"});
  MISTAKE(adamant_set_gradient(optimizer(), 17, &array, 0, nullptr), {"17"});
  MISTAKE(adamant_set_gradient(optimizer(), first_id, &array, 2, nullptr), {"is_const: 2"});
  array.type = 7;
  MISTAKE(adamant_set_gradient(optimizer(), first_id, &array, 0, nullptr), {"\"first\"", "gradient: type: 7"});
  array.type = ADAMANT_FLOAT64;
  MISTAKE(adamant_set_gradient(optimizer(), first_id, &array, 0, nullptr), {"\"first\"", "float64"});
  MISTAKE(adamant_option_at(optimizer(), 0, 7, &text, &text, &text), {"index: 7; allowed: 0 to 6"});
  MISTAKE(adamant_option_at(optimizer(), 3, 0, &text, &text, &text), {"group 3"});
  MISTAKE(adamant_get_option(optimizer(), 0, "gamma", &text), {"no option \"gamma\"", "beta1"});
  MISTAKE(adamant_get_option(optimizer(), 3, "beta1", &text), {"group 3"});
  MISTAKE(adamant_set_option(optimizer(), 0, "gamma", "1", nullptr), {"\"gamma\"", "beta1"});
  MISTAKE(adamant_set_option(optimizer(), 0, "beta1", "much", nullptr), {"beta1", "much"});
  MISTAKE(adamant_set_option(optimizer(), 9, "beta1", "0.5", nullptr), {"group 9"});
  MISTAKE(adamant_set_option_number(optimizer(), 0, "beta1", 1.0, nullptr), {"beta1 = 1", "< 1"});
  MISTAKE(adamant_set_option_number(optimizer(), 0, "amsgrad", 0.5, nullptr), {"amsgrad = 0.5"});
  MISTAKE(adamant_set_option_number(optimizer(), 0, "amsgrad", 1, nullptr), {"amsgrad"});
  MISTAKE(adamant_set_learning_rate(optimizer(), 0, kNan, nullptr), {"learning_rate = nan"});
  const adamant_option wrong[] = {{"beta1", 0.5, nullptr}, {"beta2", -1.0, nullptr}};
  MISTAKE(adamant_set_options(optimizer(), 0, wrong, 2, nullptr), {"beta2 = -1"});
  MISTAKE(adamant_set_options(optimizer(), 4, wrong, 1, nullptr), {"group 4"});
  MISTAKE(adamant_add_group(optimizer(), wrong, 2, &i32), {"beta2 = -1"});
  MISTAKE(adamant_step_count(optimizer(), 17, nullptr, &i64), {"17"});
  MISTAKE(adamant_set_step_count(optimizer(), first_id, -1, nullptr), {"\"first\"", "step count -1"});
  MISTAKE(adamant_state_name(optimizer(), 2, &text), {"index: 2; allowed: 0 to 1"});
  const Handle without_states = create("gradient_descent");
  MISTAKE(adamant_state_name(without_states.get(), 0, &text), {"index: 0; there are none"});
  MISTAKE(adamant_state(optimizer(), first_id, "exp", &array), {"\"exp\"", "exp_avg_sq"});
  MISTAKE(adamant_state(optimizer(), 17, "exp_avg", &array), {"17"});
  MISTAKE(adamant_zero_gradients(optimizer(), nullptr), {"\"second\"", "gradient", "const"});
  EXPECT_EQ(seen(), before);
}

TEST_F(CInterfaceMistake, in_the_control_names_the_field) {
  const std::string before = seen();
  const float scale = 1.0F;
  const auto refuse = [&](const std::function<void(adamant_step_control&)>& change,
                          const std::vector<std::string>& parts) {
    auto control = sized<adamant_step_control>();
    change(control);
    expect("adamant_set_control", adamant_set_control(optimizer(), &control, nullptr), ADAMANT_INVALID_ARGUMENT, parts);
  };
  refuse([](auto& c) { c.gradient_scale = -1.0; }, {"control: gradient_scale: -1"});
  refuse([](auto& c) { c.gradient_scale = kNan; }, {"control: gradient_scale: nan"});
  refuse([](auto& c) { c.gradient_scale = std::numeric_limits<double>::denorm_min(); }, {"control: gradient_scale: "});
  refuse(
      [&](auto& c) {
        c.gradient_scale = 2.0;
        c.gradient_scale_pointer = &scale;
      },
      {"control: gradient_scale: "});
  refuse([](auto& c) { c.clip_norm = -2.0; }, {"control: clip_norm: -2"});
  refuse([](auto& c) { c.clip_value = -0.5; }, {"control: clip_value: -0.5"});
  refuse([](auto& c) { c.non_finite = 2; }, {"control: non_finite: 2"});
  refuse([](auto& c) { c.non_finite = 256; }, {"control: non_finite: 256"});
  refuse([](auto& c) { c.measure_norm = -1; }, {"control: measure_norm: -1"});
  refuse([](auto& c) { c.loss_scale_is_kept = 3; }, {"control: loss_scale_is_kept: 3"});
  refuse([](auto& c) { c.loss_scale_initial = 8; }, {"control: loss_scale_is_kept: 0"});
  refuse([](auto& c) { c.loss_scale_growth = 8; }, {"control: loss_scale_is_kept: 0"});
  refuse([](auto& c) { c.loss_scale_backoff = 0.5; }, {"control: loss_scale_is_kept: 0"});
  refuse([](auto& c) { c.loss_scale_growth_interval = 5; }, {"control: loss_scale_is_kept: 0"});
  refuse([](auto& c) { c.loss_scale_is_kept = 1, c.loss_scale_growth = 0.5; }, {"control: loss_scale.growth: 0.5"});
  refuse([](auto& c) { c.loss_scale_is_kept = 1, c.loss_scale_backoff = 2; }, {"control: loss_scale.backoff: 2"});
  refuse([](auto& c) { c.loss_scale_is_kept = 1, c.loss_scale_growth_interval = -4; }, {"growth_interval: -4"});
  refuse([](auto& c) { c.loss_scale_is_kept = 1, c.gradient_scale = 2; }, {"control: loss_scale: "});
  EXPECT_EQ(seen(), before);
}

TEST_F(CInterfaceMistake, in_the_settings_makes_no_optimizer) {
  auto* const marked = reinterpret_cast<adamant_optimizer*>(this);
  adamant_optimizer* made = marked;
  const auto refuse = [&](const char* method, const std::function<void(adamant_settings&)>& change,
                          const std::vector<std::string>& parts, adamant_status status = ADAMANT_INVALID_ARGUMENT) {
    auto settings = sized<adamant_settings>();
    change(settings);
    made = marked;
    expect("adamant_create", adamant_create(method, nullptr, 0, &settings, &made), status, parts);
    EXPECT_EQ(made, nullptr);
  };
  refuse("sgd", [](auto&) {}, {"\"sgd\"", "gradient_descent, momentum"});
  refuse("adam", [](auto& s) { s.device = 2; }, {"settings: device: 2"});
  refuse("adam", [](auto& s) { s.device = -1; }, {"settings: device: -1"});
  refuse("adam", [](auto& s) { s.device = ADAMANT_CUDA, s.device_index = -3; }, {"cuda:-3"});
  refuse("adam", [](auto& s) { s.device_index = 1; }, {"device_index: 1; allowed: 0 where device is ADAMANT_CPU"});
  refuse("adam", [](auto& s) { s.threads = -1; }, {"threads = -1"});
  refuse("adam", [](auto& s) { s.tile = 100; }, {"tile = 100"});
  refuse("adam", [](auto& s) { s.simd = 4; }, {"settings: simd: 4"});
  refuse("adam", [](auto& s) { s.allocate = [](std::size_t, void*, void*) -> void* { return nullptr; }; },
         {"allocator"});
  refuse("adam", [](auto& s) { s.release = [](void*, std::size_t, void*, void*) {}; }, {"allocator"});
  refuse(
      "adam", [](auto& s) { s.device = ADAMANT_CUDA, s.device_index = 1000000; }, {"cuda:1000000"},
      ADAMANT_UNAVAILABLE);
}

TEST_F(CInterfaceMistake, of_a_file_has_a_status_of_its_own) {
  const std::string before = seen();
  const std::string nowhere = folder.file("no/such/folder");
  expect("save", adamant_save(optimizer(), nowhere.c_str(), nullptr, nullptr), ADAMANT_NOT_SAVED, {nowhere});
  EXPECT_EQ(adamant_last_error_number(), ENOENT);
  expect("load", adamant_load(optimizer(), nowhere.c_str(), nullptr, nullptr), ADAMANT_NOT_LOADED, {nowhere});
  EXPECT_EQ(adamant_last_error_number(), 0);
  const std::string path = folder.file("x");
  auto save = sized<adamant_save_options>();
  save.without_parameters = 2;
  MISTAKE(adamant_save(optimizer(), path.c_str(), &save, nullptr), {"what: without_parameters: 2"});
  save = sized<adamant_save_options>();
  save.reserved = 1;
  MISTAKE(adamant_save(optimizer(), path.c_str(), &save, nullptr), {"what: reserved: 1"});
  EXPECT_FALSE(std::filesystem::exists(path));
  auto load = sized<adamant_load_options>();
  load.allow_missing = -1;
  MISTAKE(adamant_load(optimizer(), path.c_str(), &load, nullptr), {"allowed: allow_missing: -1"});
  load = sized<adamant_load_options>();
  load.allow_extra = 7;
  MISTAKE(adamant_load(optimizer(), path.c_str(), &load, nullptr), {"allowed: allow_extra: 7"});
  EXPECT_EQ(seen(), before);
}

// --- Sizes of structs

// Bytes with room for a struct of a size that this library does not know.
template <typename Struct>
struct Sizeable {
  alignas(Struct) unsigned char bytes[8192] = {};
  Struct* as_struct() { return reinterpret_cast<Struct*>(bytes); }
  Struct* of_size(std::size_t size) {
    std::memcpy(bytes, &size, sizeof size);
    return as_struct();
  }
};

// What is given to `call` may be larger if the rest is zero, and ends at a multiple of the alignment.
template <typename Struct, typename Call>
void expect_sizes_to_be_heeded(const char* parameter, const Struct& valid, const Call& call) {
  SCOPED_TRACE(parameter);
  const std::string named = std::string(parameter) + ": ";
  Sizeable<Struct> memory;
  std::memcpy(memory.bytes, &valid, sizeof valid);
  for (const std::size_t size : {std::size_t{0}, std::size_t{1}, std::size_t{4}, sizeof valid - 1, sizeof valid - 4,
                                 sizeof valid + 4, std::size_t{4104}, ~std::size_t{0}, ~std::size_t{7}}) {
    EXPECT_EQ(call(memory.of_size(size)), ADAMANT_INVALID_ARGUMENT) << size;
    const std::string text = adamant_last_error();
    EXPECT_NE(text.find(named + "struct_size: " + std::to_string(size) + "; allowed: "), std::string::npos) << text;
    EXPECT_NE(text.find(std::to_string(sizeof valid)), std::string::npos) << text;
  }
  for (const std::size_t size : {sizeof valid, sizeof valid + 8, std::size_t{4096}}) {
    EXPECT_EQ(call(memory.of_size(size)), ADAMANT_SUCCESS) << size << adamant_last_error();
  }
}

template <typename Struct, typename Call>
void expect_bytes_beyond_to_be_refused(const char* parameter, const Struct& valid, const Call& call) {
  Sizeable<Struct> memory;
  std::memcpy(memory.bytes, &valid, sizeof valid);
  memory.bytes[sizeof valid + 9] = 1;
  EXPECT_EQ(call(memory.of_size(sizeof valid + 8)), ADAMANT_SUCCESS) << adamant_last_error();
  EXPECT_EQ(call(memory.of_size(sizeof valid + 16)), ADAMANT_INVALID_ARGUMENT);
  const std::string text = adamant_last_error();
  EXPECT_NE(text.find(std::string(parameter) + ": byte " + std::to_string(sizeof valid + 9)), std::string::npos)
      << text;
}

TEST_F(CInterfaceScene, heeds_the_sizes_of_structs_that_it_reads) {
  const std::string path = folder.file("x");
  const auto create_with = [](const adamant_settings* settings) {
    adamant_optimizer* made = nullptr;
    const adamant_status status = adamant_create("adam", nullptr, 0, settings, &made);
    adamant_destroy(made);
    return status;
  };
  const auto add = [&](const adamant_tensor* tensor) {
    std::int64_t id = -1;
    const adamant_status status = adamant_add(optimizer(), tensor, &id);
    return status == ADAMANT_SUCCESS ? adamant_remove(optimizer(), id) : status;
  };
  const auto control = [&](const adamant_step_control* c) { return adamant_set_control(optimizer(), c, nullptr); };
  const auto save = [&](const adamant_save_options* o) { return adamant_save(optimizer(), path.c_str(), o, nullptr); };
  const auto load = [&](const adamant_load_options* o) { return adamant_load(optimizer(), path.c_str(), o, nullptr); };
  std::vector<float> parameter(4), gradient(4);
  const adamant_tensor tensor = c_tensor("w", parameter, gradient);
  const auto both = [](const char* name, const auto& valid, const auto& call) {
    expect_sizes_to_be_heeded(name, valid, call);
    expect_bytes_beyond_to_be_refused(name, valid, call);
  };
  both("settings", sized<adamant_settings>(), create_with);
  both("tensor", tensor, add);
  both("control", sized<adamant_step_control>(), control);
  both("what", sized<adamant_save_options>(), save);
  both("allowed", sized<adamant_load_options>(), load);
}

TEST_F(CInterfaceScene, takes_what_an_older_caller_does_not_have_for_its_default) {
  // As if the control ended before clip_value, whatever lies behind.
  Sizeable<adamant_step_control> control;
  std::memset(control.bytes, 0xFF, sizeof control.bytes);
  auto valid = sized<adamant_step_control>();
  valid.clip_norm = 0.5;
  std::memcpy(control.bytes, &valid, offsetof(adamant_step_control, clip_value));
  ASSERT_SUCCESS(
      adamant_set_control(optimizer(), control.of_size(offsetof(adamant_step_control, clip_value)), nullptr));
  auto seen = sized<adamant_step_control>();
  ASSERT_SUCCESS(adamant_get_control(optimizer(), &seen));
  valid.gradient_scale = 1.0;
  EXPECT_EQ(std::memcmp(&seen, &valid, sizeof seen), 0);
  // A tensor that ended before its name has none.
  Sizeable<adamant_tensor> tensor;
  std::memset(tensor.bytes, 0xFF, sizeof tensor.bytes);
  EXPECT_EQ(adamant_add(optimizer(), tensor.of_size(8), nullptr), ADAMANT_INVALID_ARGUMENT);
  EXPECT_NE(std::string(adamant_last_error()).find("tensor: name: null pointer"), std::string::npos);
}

TEST_F(CInterfaceScene, fills_structs_as_far_as_the_caller_knows_them) {
  const auto get_tensor = [&](adamant_tensor* t) { return adamant_get_tensor(optimizer(), first_id, t); };
  const auto get_control = [&](adamant_step_control* c) { return adamant_get_control(optimizer(), c); };
  const auto report = [&](adamant_step_report* r) { return adamant_report(optimizer(), nullptr, r); };
  expect_sizes_to_be_heeded("given", sized<adamant_tensor>(), get_tensor);
  expect_sizes_to_be_heeded("control", sized<adamant_step_control>(), get_control);
  expect_sizes_to_be_heeded("report", sized<adamant_step_report>(), report);

  Sizeable<adamant_tensor> memory;
  std::memset(memory.bytes, 0xAB, sizeof memory.bytes);
  constexpr std::size_t kShort = offsetof(adamant_tensor, gradient);
  ASSERT_SUCCESS(get_tensor(memory.of_size(kShort)));
  EXPECT_STREQ(memory.as_struct()->name, "first");
  EXPECT_EQ(memory.as_struct()->parameter.data, x.data());
  EXPECT_EQ(memory.as_struct()->struct_size, kShort);
  for (std::size_t i = kShort; i < sizeof memory.bytes; ++i) ASSERT_EQ(memory.bytes[i], 0xAB) << i;
  constexpr std::size_t kLong = sizeof(adamant_tensor) + 16;
  ASSERT_SUCCESS(get_tensor(memory.of_size(kLong)));
  EXPECT_EQ(memory.as_struct()->struct_size, kLong);
  for (std::size_t i = sizeof(adamant_tensor); i < kLong; ++i) ASSERT_EQ(memory.bytes[i], 0) << i;
  EXPECT_EQ(memory.bytes[kLong], 0xAB);
}

// A field that is added in a padding would be garbage to who was compiled before.
template <typename Struct, typename... Fields>
constexpr bool kHasNoPadding = sizeof(Struct) == (sizeof(Fields) + ...);
using Pointer = void*;
using Int = std::int32_t;
static_assert(kHasNoPadding<adamant_option, Pointer, double, Pointer>);
static_assert(kHasNoPadding<adamant_array, Pointer, std::int64_t, Int, Int>);
static_assert(kHasNoPadding<adamant_settings, std::size_t, Int[4], std::int64_t, Pointer[3]>);
static_assert(kHasNoPadding<adamant_tensor, std::size_t, Pointer, adamant_array[3], Pointer, std::size_t, Int[6]>);
static_assert(kHasNoPadding<adamant_step_control, std::size_t, double, Pointer[2], double[5], Int[4], std::uint64_t>);
static_assert(kHasNoPadding<adamant_step_report, std::size_t, double, std::int64_t, float, Int[3]>);
static_assert(kHasNoPadding<adamant_save_options, std::size_t, Int[2]>);
static_assert(kHasNoPadding<adamant_load_options, std::size_t, Int[2], Pointer, std::size_t>);

// --- The last error

TEST(CInterface, keeps_the_last_error_of_each_thread) {
  const char* name = nullptr;
  EXPECT_EQ(adamant_method_name(-1, &name), ADAMANT_INVALID_ARGUMENT);
  const std::string here = adamant_last_error();
  EXPECT_NE(here.find("-1"), std::string::npos);
  std::thread([&] {
    EXPECT_STREQ(adamant_last_error(), "");
    EXPECT_EQ(adamant_last_error_number(), 0);
    EXPECT_EQ(adamant_method_name(-2, &name), ADAMANT_INVALID_ARGUMENT);
    EXPECT_NE(std::string(adamant_last_error()).find("-2"), std::string::npos);
  }).join();
  EXPECT_EQ(adamant_last_error(), here);
  EXPECT_SUCCESS(adamant_method_name(0, &name));
  EXPECT_EQ(adamant_last_error(), here);  // a success leaves it
}

// --- The allocator

struct Books {
  int allocations = 0, releases = 0;
  std::size_t bytes = 0;
  std::function<void()> fails;  // by throwing; by nothing: there is no memory
};

void* allocate(std::size_t bytes, void* stream, void* user) {
  auto& books = *static_cast<Books*>(user);
  EXPECT_EQ(stream, nullptr);
  if (books.fails) {
    books.fails();
    return nullptr;
  }
  ++books.allocations;
  books.bytes += bytes;
  return ::operator new (bytes, std::align_val_t{256});
}

void release(void* memory, std::size_t bytes, void* /*stream*/, void* user) {
  auto& books = *static_cast<Books*>(user);
  ++books.releases;
  books.bytes -= bytes;
  ::operator delete (memory, std::align_val_t{256});
}

TEST(CInterface, takes_memory_from_the_callers_allocator_and_lets_nothing_that_is_thrown_out) {
  Books books;
  auto settings = sized<adamant_settings>();
  settings.allocate = allocate;
  settings.release = release;
  settings.user = &books;
  Handle handle = create("adam", {}, &settings);
  std::vector<float> x(10), g(10);
  const adamant_tensor tensor = c_tensor("x", x, g);
  ASSERT_SUCCESS(adamant_add(handle.get(), &tensor, nullptr));
  // Whatever comes out of it, and so of the library, is a status.
  struct Failure {
    std::function<void()> fails;
    adamant_status status;
    const char* text;
    int number = 0;
  };
  const std::error_code no_space(ENOSPC, std::generic_category());
  for (const Failure& failure : std::vector<Failure>{
           {[] {}, ADAMANT_OUT_OF_MEMORY, "adamant: out of memory"},
           {[] { throw std::bad_alloc(); }, ADAMANT_OUT_OF_MEMORY, "adamant: out of memory"},
           {[] { throw OutOfMemory("the cpu has not"); }, ADAMANT_OUT_OF_MEMORY, "the cpu has not"},
           {[] { throw OutOfDeviceMemory("cuda:0 has not"); }, ADAMANT_OUT_OF_DEVICE_MEMORY, "cuda:0 has not"},
           {[] { throw std::invalid_argument("wrong"); }, ADAMANT_INVALID_ARGUMENT, "wrong"},
           {[] { throw Unavailable("not here"); }, ADAMANT_UNAVAILABLE, "not here"},
           {[&] { throw NotSaved(no_space, "not saved"); }, ADAMANT_NOT_SAVED, "not saved", ENOSPC},
           {[&] { throw DurabilityUnsure(no_space, "unsure"); }, ADAMANT_DURABILITY_UNSURE, "unsure", ENOSPC},
           {[] { throw NotLoaded("not loaded"); }, ADAMANT_NOT_LOADED, "not loaded"},
           {[] { throw CudaError("failed", 98, false); }, ADAMANT_CUDA_ERROR, "failed", 98},
           {[] { throw CudaError("failed for good", 700, true); }, ADAMANT_CUDA_ERROR_STICKY, "failed for good", 700},
           {[] { throw std::runtime_error("strange"); }, ADAMANT_INTERNAL_ERROR, "strange"},
           {[] { throw 7; }, ADAMANT_INTERNAL_ERROR, "no std::exception"}}) {
    books.fails = failure.fails;
    EXPECT_EQ(adamant_step(handle.get(), nullptr), failure.status) << failure.text;
    EXPECT_NE(std::string(adamant_last_error()).find(failure.text), std::string::npos) << adamant_last_error();
    EXPECT_EQ(adamant_last_error_number(), failure.number) << failure.text;
  }
  books.fails = nullptr;
  EXPECT_SUCCESS(adamant_step(handle.get(), nullptr));
  EXPECT_GE(books.allocations, 1);
  EXPECT_GE(books.bytes, 2 * 10 * sizeof(float));
  handle.reset();
  EXPECT_EQ(books.releases, books.allocations);
  EXPECT_EQ(books.bytes, 0U);
}

// --- Nothing of the C++ interface without its counterpart

std::string source(const std::string& path) { return contents(std::filesystem::path(ADAMANT_SOURCE_DIR) / path); }

std::string without_comments(const std::string& text) { return std::regex_replace(text, std::regex("//[^\n]*"), ""); }

// The functions that the C header declares.
std::set<std::string> declared() {
  const std::string text = without_comments(source("include/adamant/adamant.h"));
  const std::regex function(R"(\n[^\n ][^\n(;]*\b(adamant_[a-z_]+)\([^;{]*\);)");
  std::set<std::string> names;
  for (std::sregex_iterator at(text.begin(), text.end(), function), end; at != end; ++at) names.insert((*at)[1]);
  return names;
}

// The public functions of a class, as its header declares them.
std::set<std::string> members_of_optimizer() {
  std::string text = without_comments(source("include/adamant/optimizer.hpp"));
  const std::size_t begin = text.find("class ADAMANT_API Optimizer {");
  text = text.substr(begin, text.find(" private:", begin) - begin);
  std::set<std::string> names;
  std::istringstream stream(text.substr(text.find("public:")));
  for (std::string declaration; std::getline(stream, declaration, ';');) {
    const std::regex first_name(R"(^[^(]*?(~?[A-Za-z_]+=?)\()");
    std::smatch match;
    if (std::regex_search(declaration, match, first_name)) names.insert(match[1]);
  }
  return names;
}

TEST(CInterface, has_a_counterpart_of_every_member_of_the_class) {
  // Where it is not called as the member is.
  const std::map<std::string, std::vector<std::string>> elsewhere{
      {"Optimizer", {"adamant_create"}},
      {"~Optimizer", {"adamant_destroy"}},
      {"operator=", {}},
      {"tensor", {"adamant_get_tensor"}},
      {"options", {"adamant_method", "adamant_option_count", "adamant_option_at", "adamant_get_option"}},
      {"groups", {"adamant_group_count"}},
      {"set_option", {"adamant_set_option", "adamant_set_option_number"}},
      {"control", {"adamant_get_control"}},
      {"simd", {"adamant_simd_level"}},
  };
  // What goes with it: functions of the library, and lists of what the class has as a range or a map.
  std::set<std::string> wanted{"adamant_version",      "adamant_last_error",  "adamant_last_error_number",
                               "adamant_method_count", "adamant_method_name", "adamant_simd_available",
                               "adamant_state_count",  "adamant_state_name"};
  const std::set<std::string> members = members_of_optimizer();
  EXPECT_GE(members.size(), 30U);
  for (const std::string& member : members) {
    const auto found = elsewhere.find(member);
    if (found == elsewhere.end()) {
      wanted.insert("adamant_" + member);
    } else {
      wanted.insert(found->second.begin(), found->second.end());
    }
  }
  for (const auto& [member, functions] : elsewhere) EXPECT_TRUE(members.contains(member)) << member;
  EXPECT_EQ(declared(), wanted);
}

// A field that is added to one of these does not compile here until it has been thought of: in host/c_interface.cpp.
TEST(CInterface, knows_every_field_of_what_the_class_is_given) {
  [[maybe_unused]] const auto& [name, parameter, gradient, group, shape, state_type, master, copy, zero_gradient] =
      TensorSpec{};
  [[maybe_unused]] const auto& [gradient_scale, gradient_scale_pointer, found_non_finite, non_finite, clip_norm,
                                clip_value, loss_scale, measure_norm, seed] = StepControl{};
  [[maybe_unused]] const auto& [initial, growth, backoff, growth_interval] = LossScale{};
  [[maybe_unused]] const auto& [gradient_norm, skipped_steps, scale, good_steps, skipped] = StepReport{};
  [[maybe_unused]] const auto& [threads, tile, simd] = Tuning{};
  [[maybe_unused]] const auto& [allocate_with, release_with, user] = Allocator{};
  [[maybe_unused]] const auto& [parameters] = SaveOptions{};
  [[maybe_unused]] const auto& [allow_missing, allow_extra, change_types] = LoadOptions{};
  [[maybe_unused]] const auto& [kind, index] = Device{};
  [[maybe_unused]] const auto& [option, value, allowed] = Option{};
}

TEST(CInterface, is_listed_function_by_function_in_the_version_script) {
  const std::string script = std::regex_replace(source("cmake/exports.map.in"), std::regex("#[^\n]*"), "");
  const std::regex name(R"(\badamant_[a-z_]+)");
  const std::set<std::string> listed{std::sregex_token_iterator(script.begin(), script.end(), name),
                                     std::sregex_token_iterator()};
  EXPECT_EQ(listed, declared());
}

}  // namespace
}  // namespace adamant::test
