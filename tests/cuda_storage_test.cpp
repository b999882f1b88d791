// Storage types on a CUDA device: conversions, remainders and random rounding against the same oracles as the CPU's,
// through the compiled kernels. That every combination steps to the CPU's bits is said by the tests of parity and of
// rules.
#include <gtest/gtest.h>

#include <bit>
#include <cstdint>
#include <span>
#include <vector>

#include "tests/device.hpp"
#include "tests/storages.hpp"

namespace adamant::test {
namespace {

using CudaStorage = NeedsDevice;
using Trap18TiesOnADevice = NeedsDevice;

template <typename T>
void expect_all_patterns_to_be_widened() {
  std::vector<T> patterns;
  std::vector<float> negated;
  for (std::uint32_t bits = 0; bits < 65536; ++bits) {
    patterns.push_back({static_cast<std::uint16_t>(bits)});
    const double value = -value_of(patterns.back());
    negated.push_back(value == value ? static_cast<float>(value) : std::bit_cast<float>(kCanonicalNan<float>));
  }
  EXPECT_TRUE(same_bits(negated, widened_and_negated_on(cuda_device(), patterns)));
}

TEST_F(CudaStorage, widens_all_65536_patterns_exactly) {
  expect_all_patterns_to_be_widened<bfloat16>();
  expect_all_patterns_to_be_widened<float16>();
}

template <typename T>
void expect_parameters_to_round() {
  const std::vector<float> values = telling_values_of_updates<T>();
  EXPECT_TRUE(same_bits(nearest_of<T>(values), narrowed_on<T>(cuda_device(), values)));
}

TEST_F(CudaStorage, rounds_to_nearest_even_with_canonical_nans_subnormals_and_overflow) {
  expect_parameters_to_round<bfloat16>();
  expect_parameters_to_round<float16>();
  std::vector<float> values = telling_values_of_updates<bfloat16>();
  const std::vector<bfloat16> states = narrowed_to_state_on(cuda_device(), values);
  for (float& value : values) value = 0.0F + value;
  EXPECT_TRUE(same_bits(nearest_of<bfloat16>(values), states));
}

TEST_F(CudaStorage, makes_masters_that_hold_the_canonical_nan_whatever_nan_the_parameter_is) {
  const std::vector<bfloat16> values{{0x7FC1}, {0xFF81}, {0x3F80}, {0xFFC0}};
  host::DeviceMemory memory(cuda_device());
  const host::DeviceArray<bfloat16> parameter(memory, std::span<const bfloat16>(values));
  const host::DeviceArray<bfloat16> gradient(memory, 4);
  Optimizer optimizer(Momentum{}, cuda_device());
  const TensorId id =
      optimizer.add({.name = "x", .parameter = {parameter.data(), 4}, .gradient = {gradient.data(), 4}});
  std::vector<std::uint32_t> master(4);
  memory.read(std::as_writable_bytes(std::span(master)), optimizer.state(id, "master").data());
  EXPECT_EQ(master, (std::vector<std::uint32_t>{0x7FC00000, 0x7FC00000, 0x3F800000, 0x7FC00000}));
}

// Two steps of momentum, parameters and states of bfloat16 that are rounded at random: parameters of every kind, each
// with gradients of every exponent.
struct RoundedAtRandom {
  std::vector<bfloat16> parameter;
  std::vector<bfloat16> state;
};
RoundedAtRandom rounded_at_random_on(Device device) {
  std::vector<bfloat16> parameters;
  std::vector<bfloat16> gradients;
  for (const int parameter : {0x0000, 0x8001, 0x3F80, 0x7F7F, 0xFF7F, 0x7F80, 0x7FC1}) {
    for (int exponent = 0; exponent < 512; ++exponent) {  // and sign
      // 0x12: the second state is 1.75 times as large and may lie between the largest bfloat16 and infinity.
      for (const int fraction : {0x00, 0x01, 0x12, 0x7F}) {
        parameters.push_back({static_cast<std::uint16_t>(parameter)});
        gradients.push_back({static_cast<std::uint16_t>(exponent << 7 | fraction)});
      }
    }
  }
  host::DeviceMemory memory(device);
  const auto count = static_cast<std::int64_t>(parameters.size());
  const host::DeviceArray<bfloat16> parameter(memory, std::span<const bfloat16>(parameters));
  const host::DeviceArray<bfloat16> gradient(memory, std::span<const bfloat16>(gradients));
  Optimizer optimizer(Momentum{.learning_rate = 1, .momentum = 0.75}, device);
  const TensorId id = optimizer.add({.name = "x",
                                     .parameter = {parameter.data(), count},
                                     .gradient = {gradient.data(), count},
                                     .state_type = DataType::bfloat16,
                                     .master = Master::stochastic});
  for (int step = 0; step < 2; ++step) optimizer.step();
  std::vector<bfloat16> state(parameters.size());
  memory.read(std::as_writable_bytes(std::span(state)), optimizer.state(id, "momentum_buffer").data());
  return {parameter.read(), state};
}

TEST_F(CudaStorage, rounds_at_random_as_the_cpu_does_and_makes_no_infinity_of_what_is_next_to_it) {
  const RoundedAtRandom expected = rounded_at_random_on(Device::cpu());
  const RoundedAtRandom there = rounded_at_random_on(cuda_device());
  EXPECT_TRUE(same_bits(expected.parameter, there.parameter));
  EXPECT_TRUE(same_bits(expected.state, there.state));
}

TEST_F(Trap18TiesOnADevice, come_back_as_do_the_halves_of_every_kind_of_float32) {
  std::vector<float> values = telling_values_of_updates<bfloat16>();
  for (std::uint32_t lower = 0; lower < 65536; ++lower) values.push_back(std::bit_cast<float>(0x3F810000U | lower));
  const Halves halves = halves_on(cuda_device(), values);
  for (std::size_t i = 0; i < values.size(); ++i) {
    const std::uint32_t bits = values[i] == values[i] ? std::bit_cast<std::uint32_t>(values[i]) : kCanonicalNan<float>;
    ASSERT_EQ(std::bit_cast<std::uint32_t>(joined(halves.parameter[i], halves.remainder[i])), bits);
    ASSERT_EQ(halves.remainder[i], bits & 0xFFFF);
  }
}

// A master is made by a kernel of its own.
template <typename T>
void expect_masters_of_all_patterns() {
  std::vector<T> patterns;
  for (std::uint32_t bits = 0; bits < 65536; ++bits) {
    if ((bits & 0x7FFF) <= Format<T>::kInfinity) patterns.push_back({static_cast<std::uint16_t>(bits)});
  }
  host::DeviceMemory memory(cuda_device());
  const auto count = static_cast<std::int64_t>(patterns.size());
  const host::DeviceArray<T> parameter(memory, std::span<const T>(patterns));
  const host::DeviceArray<float> gradient(memory, count);
  Optimizer optimizer(GradientDescent{}, cuda_device());
  const TensorId id =
      optimizer.add({.name = "x", .parameter = {parameter.data(), count}, .gradient = {gradient.data(), count}});
  std::vector<float> master(patterns.size());
  memory.read(std::as_writable_bytes(std::span(master)), optimizer.state(id, "master").data());
  for (std::size_t i = 0; i < master.size(); ++i) {
    const auto expected = static_cast<float>(value_of(patterns[i]));
    ASSERT_EQ(std::bit_cast<std::uint32_t>(master[i]), std::bit_cast<std::uint32_t>(expected)) << i;
  }
}

TEST_F(CudaStorage, makes_masters_of_what_parameters_hold) {
  expect_masters_of_all_patterns<bfloat16>();
  expect_masters_of_all_patterns<float16>();
}

}  // namespace
}  // namespace adamant::test
