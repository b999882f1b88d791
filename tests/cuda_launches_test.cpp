// What a step enqueues, as a CUDA graph shows it: which kernels, and how many blocks of them.
#include <cuda_runtime_api.h>
#include <cxxabi.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "adamant/adamant.hpp"
#include "host/device_memory.hpp"
#include "kernels/rule_list.hpp"
#include "kernels/tuning.hpp"
#include "tests/device.hpp"
#include "tests/methods.hpp"

namespace adamant::test {
namespace {

using host::DeviceArray;
using host::DeviceMemory;

struct Launch {
  std::string kernel;  // as C++ writes it
  unsigned blocks;
  unsigned threads;
};

std::string demangled(const char* name) {
  const std::unique_ptr<char, decltype(&std::free)> text(abi::__cxa_demangle(name, nullptr, nullptr, nullptr),
                                                         &std::free);
  return text == nullptr ? name : text.get();
}

// The kernels that one step enqueues; anything else that it enqueues is a failure.
std::vector<Launch> launches_of_a_step(Optimizer& optimizer) {
  cudaStream_t stream = nullptr;
  cudaGraph_t graph = nullptr;
  EXPECT_EQ(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), cudaSuccess);
  optimizer.prepare(stream);
  EXPECT_EQ(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal), cudaSuccess);
  optimizer.step(stream);
  EXPECT_EQ(cudaStreamEndCapture(stream, &graph), cudaSuccess);
  std::size_t count = 0;
  EXPECT_EQ(cudaGraphGetNodes(graph, nullptr, &count), cudaSuccess);
  std::vector<cudaGraphNode_t> nodes(count);
  EXPECT_EQ(cudaGraphGetNodes(graph, nodes.data(), &count), cudaSuccess);
  std::vector<Launch> launches;
  for (const cudaGraphNode_t node : nodes) {
    cudaGraphNodeType type{};
    EXPECT_EQ(cudaGraphNodeGetType(node, &type), cudaSuccess);
    EXPECT_EQ(type, cudaGraphNodeTypeKernel);
    if (type != cudaGraphNodeTypeKernel) continue;
    cudaKernelNodeParams launch{};
    const char* name = nullptr;
    EXPECT_EQ(cudaGraphKernelNodeGetParams(node, &launch), cudaSuccess);
    EXPECT_EQ(cudaFuncGetName(&name, launch.func), cudaSuccess);
    EXPECT_EQ(launch.gridDim.y * launch.gridDim.z * launch.blockDim.y * launch.blockDim.z, 1U);
    EXPECT_EQ(launch.sharedMemBytes, 0U);
    launches.push_back({name == nullptr ? "" : demangled(name), launch.gridDim.x, launch.blockDim.x});
  }
  EXPECT_EQ(cudaGraphDestroy(graph), cudaSuccess);
  EXPECT_EQ(cudaStreamDestroy(stream), cudaSuccess);
  return launches;
}

// An optimizer of tensors on the device and their memory.
class Tensors {
 public:
  explicit Tensors(const Method& method) : optimizer(method, Device::cuda(0)) {}

  // One array serves all tensors of a call, parameters and gradients.
  template <typename Real>
  void add(std::int64_t number, std::int64_t count) {
    const std::shared_ptr<std::byte> array =
        memory_.allocate(2 * number * count * static_cast<std::int64_t>(sizeof(Real)));
    arrays_.push_back(array);
    Real* at = reinterpret_cast<Real*>(array.get());
    for (std::int64_t i = 0; i < number; ++i, at += 2 * count) {
      optimizer.add({.name = std::to_string(arrays_.size()) + "." + std::to_string(i),
                     .parameter = {at, count},
                     .gradient = {at + count, count}});
    }
  }

 private:
  DeviceMemory memory_{Device::cuda(0)};
  std::vector<std::shared_ptr<std::byte>> arrays_;

 public:
  Optimizer optimizer;  // goes first
};

using CudaLaunches = NeedsDevice;

TEST_F(CudaLaunches, of_a_step_are_the_scalars_and_one_update_for_each_combination_of_types) {
  Tensors tensors(Adam{.amsgrad = true});
  for (const std::int64_t count : {0, 5, 64, 5000, 10000}) tensors.add<float>(3, count);
  std::vector<Launch> launches = launches_of_a_step(tensors.optimizer);
  ASSERT_EQ(launches.size(), 2U);
  EXPECT_EQ(launches[0].kernel,
            "void adamant::kernels::scalars<adamant::AdamRule<true> >(adamant::kernels::DeviceTables)");
  EXPECT_EQ(launches[1].kernel,
            "void adamant::kernels::update<adamant::AdamRule<true>, adamant::kernels::Storage<float, float, float, "
            "float> >(adamant::kernels::UpdateArguments)");

  tensors.add<double>(3, 5000);
  tensors.add<float>(3, 5000);
  launches = launches_of_a_step(tensors.optimizer);
  ASSERT_EQ(launches.size(), 3U);
  EXPECT_NE(launches[1].kernel.find("Storage<float, float, float, float>"), std::string::npos) << launches[1].kernel;
  EXPECT_NE(launches[2].kernel.find("Storage<double, double, double, double>"), std::string::npos)
      << launches[2].kernel;
}

TEST_F(CudaLaunches, of_every_rule_run_kernels_of_its_own) {
  std::set<std::string> names;
  for (const Case& c : one_case_per_rule()) {
    Tensors tensors(c.make());
    tensors.add<float>(1, 100);
    for (const Launch& launch : launches_of_a_step(tensors.optimizer)) names.insert(launch.kernel);
  }
  EXPECT_EQ(names.size(), 2 * kernels::Rules::kSize);
}

TEST_F(CudaLaunches, of_ten_thousand_small_tensors_are_two_with_few_blocks) {
  Tensors tensors(Adam{});
  tensors.add<float>(10000, 64);
  const std::vector<Launch> launches = launches_of_a_step(tensors.optimizer);
  ASSERT_EQ(launches.size(), 2U);
  EXPECT_EQ(launches[0].threads, static_cast<unsigned>(kernels::kScalarThreads));
  EXPECT_EQ(launches[0].blocks, 157U) << "a tensor a thread";
  EXPECT_EQ(launches[1].threads, 256U);
  EXPECT_LE(launches[1].blocks, 1250U) << "a tensor a warp";
}

TEST_F(CudaLaunches, of_one_tensor_have_a_block_for_every_4096_elements) {
  for (const std::int64_t count : {1, 64, 1024, 1025, 4096, 4097, 8192, 8192 + 1024, 8192 + 1025, 1 << 20}) {
    Tensors tensors(GradientDescent{});
    tensors.add<float>(1, count);
    const std::vector<Launch> launches = launches_of_a_step(tensors.optimizer);
    ASSERT_EQ(launches.size(), 2U);
    EXPECT_EQ(launches[0].blocks, 1U);
    EXPECT_EQ(launches[1].blocks, static_cast<unsigned>((count + 4095) / 4096)) << count << " elements";
    EXPECT_EQ(launches[1].threads, 256U);
  }
}

}  // namespace
}  // namespace adamant::test
