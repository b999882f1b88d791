// Kernels of a step begin before the one in front of them has ended, but for the first: in front of it is one that lets
// others begin and then takes its time before it writes what the step reads.
#include <gtest/gtest.h>

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "adamant/adamant.hpp"
#include "host/device_memory.hpp"
#include "tests/device.hpp"
#include "tests/inputs.hpp"

namespace adamant::test {
namespace {

// Writes from * factor, late; by one block, beside which there is room for others.
__global__ void write_late(float* to, double* wide, const float* from, std::int64_t count, float factor) {
#if __CUDA_ARCH__ >= 900
  cudaGridDependencySynchronize();
  cudaTriggerProgrammaticLaunchCompletion();
  __nanosleep(200'000);  // many times what a kernel takes to begin
#endif
  for (std::int64_t i = threadIdx.x; i < count; i += blockDim.x) {
    to[i] = from[i] * factor;
    wide[i] = to[i];
  }
}

// Reads what the step in front of it writes, and waits for that, as a kernel that is launched so has to.
__global__ void copy_early(float* to, const float* from, std::int64_t count) {
#if __CUDA_ARCH__ >= 900
  cudaGridDependencySynchronize();
#endif
  for (std::int64_t i = threadIdx.x; i < count; i += blockDim.x) to[i] = from[i];
}

// The same without waiting, as kernels do that were compiled for an older device: it may end before what is in front of
// it, and reads nothing of that.
__global__ void copy_unaware(float* to, const float* from, std::int64_t count) {
  for (std::int64_t i = threadIdx.x; i < count; i += blockDim.x) to[i] = from[i];
}

using CudaDependentLaunch = NeedsDevice;

template <typename... Parameters, typename... Arguments>
void launch_early(void (*kernel)(Parameters...), cudaStream_t stream, Arguments... arguments) {
  cudaLaunchAttribute early{};
  early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  early.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(1);
  config.blockDim = dim3(256);
  config.stream = stream;
  config.attrs = &early;
  config.numAttrs = 1;
  EXPECT_EQ(cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...), cudaSuccess);
}

// Of two types, so that there are two norms and two updates.
TEST_F(CudaDependentLaunch, of_a_kernel_that_writes_late_is_waited_for_by_norm_scalars_and_update) {
  constexpr std::int64_t kCount = 30'000;
  constexpr int kSteps = 5;
  const std::vector<float> source = spread_values<float>(kCount, 1, -8, 2);
  const std::vector<float> first = spread_values<float>(kCount, 2, -4, 1);
  for (const bool clips : {false, true}) {
    for (const bool captured : {false, true}) {
      SCOPED_TRACE(std::string(clips ? "clipped" : "not clipped") + (captured ? ", captured" : ", eager"));
      std::vector<float> parameter = first;
      std::vector<float> gradient(source.size());
      std::vector<double> wide(first.begin(), first.end());
      std::vector<double> wide_gradient(source.size());
      Optimizer on_cpu(Adam{.learning_rate = 0.1});
      on_cpu.add({.name = "x", .parameter = parameter, .gradient = gradient});
      on_cpu.add({.name = "wide", .parameter = wide, .gradient = wide_gradient});
      host::DeviceMemory memory(cuda_device());
      const auto there_of = [&]<typename T>(const std::vector<T>& values) {
        return host::DeviceArray<T>(memory, std::span<const T>(values));
      };
      const auto from = there_of(source);
      const auto there = there_of(first);
      const auto gradient_there = there_of(std::vector<float>(source.size(), 1e30F));
      const auto wide_there = there_of(wide);
      const auto wide_gradient_there = there_of(std::vector<double>(source.size(), 1e30));
      const auto copy = there_of(std::vector<float>(source.size()));
      const auto unaware = there_of(std::vector<float>(source.size()));
      Optimizer on_device(Adam{.learning_rate = 0.1}, cuda_device());
      on_device.add({.name = "x", .parameter = {there.data(), kCount}, .gradient = {gradient_there.data(), kCount}});
      on_device.add(
          {.name = "wide", .parameter = {wide_there.data(), kCount}, .gradient = {wide_gradient_there.data(), kCount}});
      if (clips) {
        on_cpu.set_control({.clip_norm = 3.0});
        on_device.set_control({.clip_norm = 3.0});
      }
      cudaStream_t stream = nullptr;
      ASSERT_EQ(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), cudaSuccess);
      on_device.prepare(stream);
      ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
      if (captured) ASSERT_EQ(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), cudaSuccess);
      for (int step = 1; step <= kSteps; ++step) {
        launch_early(write_late, stream, gradient_there.data(), wide_gradient_there.data(), from.data(), kCount,
                     0.5F * step);
        // In a graph a step waits for this one alone.
        if (!captured && step % 2 == 0) launch_early(copy_unaware, stream, unaware.data(), from.data(), kCount);
        on_device.step(stream);
        launch_early(copy_early, stream, copy.data(), there.data(), kCount);
        for (std::size_t i = 0; i < gradient.size(); ++i) {
          gradient[i] = source[i] * (0.5F * step);
          wide_gradient[i] = gradient[i];
        }
        on_cpu.step();
      }
      if (captured) {
        cudaGraph_t graph = nullptr;
        cudaGraphExec_t ready = nullptr;
        ASSERT_EQ(cudaStreamEndCapture(stream, &graph), cudaSuccess);
        ASSERT_EQ(cudaGraphInstantiateWithFlags(&ready, graph, 0), cudaSuccess);
        EXPECT_EQ(cudaGraphLaunch(ready, stream), cudaSuccess);
        EXPECT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
        EXPECT_EQ(cudaGraphExecDestroy(ready), cudaSuccess);
        EXPECT_EQ(cudaGraphDestroy(graph), cudaSuccess);
      }
      EXPECT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
      EXPECT_TRUE(same_bits(there.read(), parameter));
      EXPECT_TRUE(same_bits(wide_there.read(), wide));
      EXPECT_TRUE(same_bits(copy.read(), parameter)) << "what a kernel behind the step reads";
      if (!captured) {
        EXPECT_TRUE(same_bits(unaware.read(), source));
      }
      EXPECT_EQ(cudaStreamDestroy(stream), cudaSuccess);
    }
  }
}

}  // namespace
}  // namespace adamant::test
