// Promises P1 and P3 on a device with every kind of number: the kernels' per-step scalars are the host's, and what they
// make of zeros, subnormals, the largest numbers, infinities and NaNs in every pairing is what the CPU backend makes,
// for every rule and storage combination. Needs a GPU, or an emulator that ADAMANT_EMULATOR names (run_device_test.sh).
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "adamant/adamant.hpp"
#include "host/device_memory.hpp"
#include "host/scalars.hpp"
#include "kernels/apply.hpp"
#include "kernels/launch.hpp"
#include "kernels/rule_list.hpp"
#include "kernels/storage.hpp"
#include "tests/device.hpp"
#include "tests/folder.hpp"
#include "tests/inputs.hpp"

namespace adamant::test {
namespace {

using host::DeviceArray;
using host::DeviceMemory;

// Calls body.template operator()<Rule, Storage>(rule index, storage index) for every combination there is.
template <typename Body, typename... Rules, typename... Storages>
void for_each_combination(const Body& body, TypeList<Rules...> /*rules*/, TypeList<Storages...> /*storages*/) {
  int rule = 0;
  const auto with_rule = [&]<typename Rule>(std::type_identity<Rule>) {
    int storage = 0;
    (body.template operator()<Rule, Storages>(rule, storage++), ...);
    ++rule;
  };
  (with_rule(std::type_identity<Rules>{}), ...);
}
template <typename Body>
void for_each_combination(const Body& body) {
  for_each_combination(body, kernels::Rules{}, kernels::Storages{});
}

// Options that run as the rule, other than the defaults wherever a field may be.
template <typename Rule>
std::vector<typename Rule::Options> options_of() {
  using Options = typename Rule::Options;
  std::vector<Options> plain;
  for (const char* momentum : {"0", "0.8"}) {
    for (const char* flag : {"false", "true"}) {
      Method method{Options{}};
      for (const Option& option : options(method)) {
        if (option.name == "momentum") set_option(method, "momentum", momentum);
        if (option.name == "amsgrad" || option.name == "centered") set_option(method, option.name, flag);
      }
      const Options& made = std::get<Options>(method);
      const auto is_this = []<typename... Rules>(int variant, TypeList<Rules...>) {
        int index = 0;
        bool same = false;
        ((same = same || (index++ == variant && std::is_same_v<Rules, Rule>)), ...);
        return same;
      };
      if (is_this(made.variant(), typename Options::Variants{})) plain.push_back(made);
    }
  }
  std::vector<Options> all;
  for (const Options& options_now : plain) {
    all.push_back(options_now);
    Method changed{options_now};
    for (const auto& [name, value] :
         {std::pair{"weight_decay", "0.03"}, std::pair{"maximize", "true"}, std::pair{"learning_rate", "0.0031"},
          std::pair{"beta1", "0.37"}, std::pair{"beta2", "0.9973"}, std::pair{"decay", "0.41"},
          std::pair{"epsilon", "0.0123"}, std::pair{"epsilon_placement", "outside_root"},
          std::pair{"dampening", "0.3"}}) {
      for (const Option& option : options(changed)) {
        if (option.name == name) set_option(changed, name, value);
      }
    }
    all.push_back(std::get<Options>(changed));
    if constexpr (requires { options_now.nesterov; }) {
      if (options_now.momentum == 0.0) continue;
      all.push_back(options_now);
      all.back().nesterov = true;
    }
  }
  return all;
}

const std::vector<std::int64_t>& step_counts() {
  static const std::vector<std::int64_t> all{
      1, 2, 3, 10, 1000, 100003, (std::int64_t{1} << 31) + 1, std::int64_t{1} << 40, (std::int64_t{1} << 53) + 1};
  return all;
}

// All pairs of special values come first, then ordinary numbers, subnormals, and any bits at all.
template <typename Real>
std::vector<Real> special_values() {
  using Limits = std::numeric_limits<Real>;
  std::vector<Real> all{Real{0},
                        Limits::denorm_min(),
                        Limits::min() / 2,
                        Limits::min(),
                        std::sqrt(Limits::min()),
                        Limits::epsilon(),
                        Real{1},
                        std::sqrt(Limits::max()),
                        Limits::max(),
                        Limits::infinity(),
                        Limits::quiet_NaN(),
                        std::bit_cast<Real>(static_cast<Bits<Real>>(kCanonicalNan<Real> + 5))};  // another NaN
  const std::size_t positive = all.size();
  for (std::size_t i = 0; i < positive; ++i) all.push_back(-all[i]);
  return all;
}

enum class Part { first, second };

template <typename Real>
std::vector<Real> inputs(Part part, std::uint64_t seed) {
  constexpr int kMantissa = sizeof(Real) == 4 ? 23 : 52;
  const std::vector<Real> special = special_values<Real>();
  std::vector<Real> values;
  for (const Real first : special) {
    for (const Real second : special) values.push_back(part == Part::first ? first : second);
  }
  Random random(seed);
  for (int i = 0; i < 1501; ++i) {
    switch (random.below(8)) {
      case 0: values.push_back(std::bit_cast<Real>(static_cast<Bits<Real>>(random.bits()))); break;
      case 1: values.push_back(std::bit_cast<Real>(static_cast<Bits<Real>>(random.bits() >> (65 - kMantissa)))); break;
      default: values.push_back(random.spread<Real>(-30, 10));
    }
  }
  return values;
}

using CudaRules = NeedsDevice;

template <typename T>
DeviceArray<T> on_device(DeviceMemory& memory, const std::vector<T>& values) {
  return DeviceArray<T>(memory, std::span<const T>(values));
}

std::vector<unsigned char> bytes_of(const kernels::Scalars& scalars) {
  std::vector<unsigned char> bytes(kernels::kScalarBytes);
  std::memcpy(bytes.data(), scalars.bytes, bytes.size());
  return bytes;
}

// A row for each of the options at each of the step counts: their scalars from one launch.
template <typename Rule, typename Storage>
void expect_equal_scalars(int rule, int storage) {
  DeviceMemory memory(Device::cuda(0));
  std::vector<Method> methods;
  std::vector<std::int64_t> steps;
  for (const typename Rule::Options& options : options_of<Rule>()) {
    for (const std::int64_t t : step_counts()) {
      methods.emplace_back(options);
      steps.push_back(t);
    }
  }
  ASSERT_FALSE(methods.empty());
  std::vector<std::int64_t> counts = steps;  // of steps taken
  for (std::int64_t& count : counts) --count;
  std::vector<kernels::OptionBytes> options;
  for (const Method& method : methods) options.push_back(kernels::option_bytes(rule, method));
  const DeviceArray<std::int64_t> device_counts = on_device(memory, counts);
  const DeviceArray<kernels::OptionBytes> device_options = on_device(memory, options);
  std::vector<kernels::DeviceRow> rows(methods.size());
  for (std::size_t i = 0; i < rows.size(); ++i) {
    rows[i].step_count = device_counts.data() + i;
    rows[i].options = device_options.data() + i;
    rows[i].storage = storage;
  }
  const DeviceArray<kernels::DeviceRow> device_rows = on_device(memory, rows);
  const DeviceArray<kernels::RowScalars> scalars(memory, device_rows.count());
  kernels::Control control = kernels::plain_control();
  control.gradient_scale = 3.0;
  control.clip_value = 0.7;
  const std::vector<StepReport> reports(2, kernels::first_report());
  const DeviceArray<kernels::Control> device_control = on_device(memory, std::vector{control});
  const DeviceArray<kernels::Measured> measured(memory, 1);
  const DeviceArray<StepReport> device_reports = on_device(memory, reports);
  const DeviceArray<void*> gradients(memory, device_rows.count());
  const kernels::DeviceTables tables{.rows = device_rows.data(),
                                     .gradients = gradients.data(),
                                     .tiles = nullptr,
                                     .scalars = scalars.data(),
                                     .control = device_control.data(),
                                     .measured = measured.data(),
                                     .report = device_reports.data(),
                                     .next_report = device_reports.data() + 1,
                                     .first_step_count = device_counts.data(),
                                     .first_options = device_options.data(),
                                     .row_count = device_rows.count(),
                                     .tile_count = 0,
                                     .tile_size = 0};
  kernels::DeviceTables without_norm = tables;
  without_norm.measured = nullptr;
  EXPECT_EQ(kernels::launch_scalars(rule, without_norm, true, nullptr), cudaErrorInvalidValue);
  ASSERT_EQ(kernels::launch_scalars(rule, tables, false, nullptr), cudaSuccess);

  const std::vector<kernels::RowScalars> actual = scalars.read();
  for (std::size_t i = 0; i < actual.size(); ++i) {
    SCOPED_TRACE("t " + std::to_string(steps[i]));
    EXPECT_EQ(bytes_of(actual[i].step), bytes_of(host::scalars_at_step(rule, storage, methods[i], steps[i])));
    kernels::Conditions<typename Storage::Real> conditions;
    std::memcpy(&conditions, actual[i].conditions, sizeof conditions);
    EXPECT_EQ(conditions.gradient_factor,
              static_cast<typename Storage::Real>(1.0 / 3.0 * host::gradient_sign(methods[i])));
    EXPECT_EQ(conditions.clip_value, static_cast<typename Storage::Real>(0.7));
    EXPECT_EQ(actual[i].skip, 0);
    EXPECT_EQ(actual[i].step_count, steps[i]);
  }
  EXPECT_EQ(device_counts.read(), counts) << "the update commits them, not the scalars";
}

TEST_F(CudaRules, compute_the_per_step_scalars_that_the_host_computes) {
  int combinations = 0;
  for_each_combination([&]<typename Rule, typename Storage>(int rule, int storage) {
    SCOPED_TRACE(std::string(Rule::Options::kName) + " rule " + std::to_string(rule) + " storage " +
                 std::to_string(storage));
    ++combinations;
    expect_equal_scalars<Rule, Storage>(rule, storage);
  });
  EXPECT_EQ(combinations, static_cast<int>(kernels::Rules::kSize * kernels::Storages::kSize));
}

template <typename T, typename Real>
std::vector<T> narrowed(const std::vector<Real>& values) {
  std::vector<T> result;
  result.reserve(values.size());
  for (const Real value : values) result.push_back(kernels::Narrow<T>::of(kernels::canonical(value)));
  return result;
}

template <typename T>
bool same_bytes(const std::vector<T>& left, std::span<const T> right) {
  return left.size() == right.size() && std::memcmp(left.data(), right.data(), right.size_bytes()) == 0;
}

// Steps one tensor on both sides from the step count `first` on and compares everything after each step.
template <typename Rule, typename Storage>
void expect_equal_steps(const typename Rule::Options& options, std::int64_t first) {
  using Real = typename Storage::Real;
  using Parameter = typename Storage::Parameter;
  using Gradient = typename Storage::Gradient;
  using State = typename Storage::State;
  const Method method{options};
  std::vector<Parameter> parameter = narrowed<Parameter>(inputs<Real>(Part::first, 11));
  std::vector<Gradient> gradient = narrowed<Gradient>(inputs<Real>(Part::second, 12));
  const auto count = static_cast<std::int64_t>(parameter.size());
  DeviceMemory memory(Device::cuda(0));
  const DeviceArray<Parameter> device_parameter = on_device(memory, parameter);
  DeviceArray<Gradient> device_gradient = on_device(memory, gradient);

  Optimizer cpu(method, Device::cpu(), {.threads = 1});
  Optimizer cuda(method, Device::cuda(0));
  TensorSpec spec{.name = "x", .state_type = detail::kDataType<State>, .master = Storage::Master::kMaster};
  spec.parameter = parameter;
  spec.gradient = gradient;
  const TensorId id = cpu.add(spec);
  spec.parameter = {device_parameter.data(), count};
  spec.gradient = {device_gradient.data(), count};
  const TensorId device_id = cuda.add(spec);
  const std::vector<std::string> names = state_names(method);
  ASSERT_EQ(names.size(), static_cast<std::size_t>(Rule::kSlots));
  for (std::size_t slot = 0; slot < names.size() && first > 1; ++slot) {
    // States as a run leaves them: squares are not negative, everything else is anything.
    std::vector<Real> values = inputs<Real>(Part::second, 20 + slot);
    if (names[slot].find("sq") != std::string::npos) {
      for (Real& value : values) value = std::fabs(value);
    }
    const std::vector<State> stored = narrowed<State>(values);
    const std::span<const std::byte> bytes = std::as_bytes(std::span(stored));
    std::memcpy(cpu.state(id, names[slot]).data(), bytes.data(), bytes.size());
    memory.write(cuda.state(device_id, names[slot]).data(), bytes);
  }
  cpu.set_step_count(id, first - 1);
  cuda.set_step_count(device_id, first - 1);

  for (std::int64_t t = first; t < first + 3; ++t) {
    const std::vector<Gradient> next =
        narrowed<Gradient>(inputs<Real>(t % 2 == 0 ? Part::first : Part::second, static_cast<std::uint64_t>(t)));
    std::copy(next.begin(), next.end(), gradient.begin());
    device_gradient.write(next);
    cpu.step();
    cuda.step();
    ASSERT_TRUE(same_bytes(device_parameter.read(), std::span<const Parameter>(parameter))) << "after step " << t;
    for (const std::string& state : names) {
      std::vector<State> actual(parameter.size());
      memory.read(std::as_writable_bytes(std::span(actual)), cuda.state(device_id, state).data());
      const auto* const expected = static_cast<const State*>(cpu.state(id, state).data());
      ASSERT_TRUE(same_bytes(actual, std::span<const State>(expected, actual.size()))) << state << " after step " << t;
    }
    ASSERT_EQ(cuda.step_count(device_id), t);
  }
  // Masters and remainders too, and everything else that a run goes on from.
  const Folder folder;
  cpu.save(folder.file("cpu"));
  cuda.save(folder.file("cuda"));
  ASSERT_EQ(contents(folder.file("cpu")), contents(folder.file("cuda")));
}

TEST_F(CudaRules, step_parameters_and_states_to_the_bits_of_the_cpu_backend) {
  for_each_combination([&]<typename Rule, typename Storage>(int rule, int storage) {
    if (HasFatalFailure()) return;
    for (const typename Rule::Options& options : options_of<Rule>()) {
      for (const std::int64_t first : {std::int64_t{1}, std::int64_t{1000}, std::int64_t{1} << 40}) {
        SCOPED_TRACE(std::string(Rule::Options::kName) + " rule " + std::to_string(rule) + " storage " +
                     std::to_string(storage) + " from step " + std::to_string(first));
        expect_equal_steps<Rule, Storage>(options, first);
      }
    }
  });
}

}  // namespace
}  // namespace adamant::test
