// adamant/cuda.hpp: arrays and streams of CUDA's own types, stepped where they are.
#include <gtest/gtest.h>

#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include "adamant/adamant.hpp"
#include "adamant/cuda.hpp"
#include "tests/device.hpp"
#include "tests/inputs.hpp"

namespace adamant::test {
namespace {

using CudaHeader = NeedsDevice;

template <typename T>
std::vector<T> host(const thrust::device_vector<T>& vector) {
  std::vector<T> values(vector.size());
  EXPECT_EQ(cudaMemcpy(values.data(), thrust::raw_pointer_cast(vector.data()), values.size() * sizeof(T),
                       cudaMemcpyDeviceToHost),
            cudaSuccess);
  return values;
}

template <typename T>
void expect_the_bits_of_the_cpu(std::int64_t count) {
  std::vector<T> parameter = spread_values<T>(count, 1, -4, 1);
  const std::vector<T> gradient = spread_values<T>(count, 2, -8, 2);
  thrust::device_vector<T> device_parameter(parameter.begin(), parameter.end());
  const thrust::device_vector<T> device_gradient(gradient.begin(), gradient.end());
  thrust::device_vector<T> spanned(parameter.begin(), parameter.end());
  const cuda::std::span<T> span(thrust::raw_pointer_cast(spanned.data()), spanned.size());
  const cuda::std::span<const T> gradient_span(thrust::raw_pointer_cast(device_gradient.data()),
                                               device_gradient.size());

  Optimizer on_cpu(Adam{.weight_decay = 0.1});
  on_cpu.add({.name = "x", .parameter = parameter, .gradient = gradient});
  Optimizer on_device(Adam{.weight_decay = 0.1}, Device::cuda(0));
  on_device.add({.name = "vector", .parameter = array(device_parameter), .gradient = array(device_gradient)});
  on_device.add({.name = "span", .parameter = array(span), .gradient = array(gradient_span)});
  cudaStream_t raw = nullptr;
  ASSERT_EQ(cudaStreamCreateWithFlags(&raw, cudaStreamNonBlocking), cudaSuccess);
  // What Thrust has filled, it filled in the default stream, for which this stream does not wait.
  ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  for (int step = 0; step < 3; ++step) {
    on_cpu.step();
    on_device.step(stream(cuda::stream_ref(raw)));
  }
  ASSERT_EQ(cudaStreamSynchronize(raw), cudaSuccess);
  EXPECT_TRUE(same_bits(host(device_parameter), parameter));
  EXPECT_TRUE(same_bits(host(spanned), parameter));
  EXPECT_EQ(cudaStreamDestroy(raw), cudaSuccess);
}

TEST_F(CudaHeader, steps_device_vectors_and_spans_in_a_stream_with_the_bits_of_the_cpu) {
  for (const std::int64_t count : {0, 1, 1000, 10000}) {
    expect_the_bits_of_the_cpu<float>(count);
    expect_the_bits_of_the_cpu<double>(count);
  }
}

TEST_F(CudaHeader, copies_nothing) {
  const std::vector<float> values = spread_values<float>(100, 1, -4, 1);
  thrust::device_vector<float> vector(values.begin(), values.end());
  float* const data = thrust::raw_pointer_cast(vector.data());
  EXPECT_EQ(array(vector).data(), data);
  EXPECT_EQ(array(std::as_const(vector)).data(), data);
  EXPECT_EQ(array(cuda::std::span<float>(data, 100)).data(), data);
  EXPECT_EQ(array(cuda::std::span<const float, 100>(data, 100)).data(), data);
  EXPECT_EQ(array(vector).count(), 100);
}

// What was given as const stays as it is, what was not may be set to zero.
TEST(CudaHeaderTypes, keep_const_const) {
  using Vector = thrust::device_vector<float>;
  static_assert(std::is_same_v<decltype(array(std::declval<Vector&>())), Array>);
  static_assert(std::is_same_v<decltype(array(std::declval<const Vector&>())), ConstArray>);
  static_assert(std::is_same_v<decltype(array(cuda::std::span<double>())), Array>);
  static_assert(std::is_same_v<decltype(array(cuda::std::span<const double>())), ConstArray>);
  EXPECT_FALSE(array(cuda::std::span<const float>()).writable());
  EXPECT_TRUE(ConstArray(array(cuda::std::span<float>())).writable());
}

template <typename T>
concept ToArray = requires {
  array(std::declval<T>());
};

TEST(CudaHeaderTypes, are_refused_where_the_elements_would_be_gone_or_are_none_of_ours) {
  static_assert(ToArray<thrust::device_vector<float>&>);
  static_assert(!ToArray<thrust::device_vector<float>>);
  static_assert(!ToArray<const thrust::device_vector<float>>);
  static_assert(!ToArray<thrust::device_vector<int>&>);
  static_assert(!ToArray<cuda::std::span<int>>);
}

}  // namespace
}  // namespace adamant::test
