// What a step enqueues, as a CUDA graph shows it: which kernels, how many blocks of them, and what waits for what.
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "adamant/adamant.hpp"
#include "host/device_memory.hpp"
#include "kernels/rule_list.hpp"
#include "kernels/tuning.hpp"
#include "tests/demangled.hpp"
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
  int architecture;                   // for which it was compiled, 90 for 9.0
  std::vector<std::size_t> behind{};  // other launches
  bool begins_early = false;          // before one of those has ended
};

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
  std::map<cudaGraphNode_t, std::size_t> numbers;
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
    cudaFuncAttributes attributes{};
    EXPECT_EQ(cudaFuncGetAttributes(&attributes, launch.func), cudaSuccess);
    numbers[node] = launches.size();
    launches.push_back({name == nullptr ? "" : demangled(name), launch.gridDim.x, launch.blockDim.x,
                        std::min(attributes.ptxVersion, attributes.binaryVersion)});
  }
  EXPECT_EQ(cudaGraphGetEdges(graph, nullptr, nullptr, nullptr, &count), cudaSuccess);
  std::vector<cudaGraphNode_t> from(count);
  std::vector<cudaGraphNode_t> to(count);
  std::vector<cudaGraphEdgeData> edges(count);
  EXPECT_EQ(cudaGraphGetEdges(graph, from.data(), to.data(), edges.data(), &count), cudaSuccess);
  for (std::size_t i = 0; i < count; ++i) {
    Launch& later = launches.at(numbers.at(to[i]));
    later.behind.push_back(numbers.at(from[i]));
    later.begins_early = later.begins_early || edges[i].type == cudaGraphDependencyTypeProgrammatic;
  }
  EXPECT_EQ(cudaGraphDestroy(graph), cudaSuccess);
  EXPECT_EQ(cudaStreamDestroy(stream), cudaSuccess);
  return launches;
}

// An optimizer of tensors on the device and their memory.
class Tensors {
 public:
  explicit Tensors(const Method& method, const Tuning& tuning = {}) : optimizer(method, Device::cuda(0), tuning) {}

  // One array serves the parameters of all tensors of a call, one their gradients.
  template <typename Parameter, typename Gradient = Parameter>
  void add(std::int64_t number, std::int64_t count) {
    auto* parameter = allocate<Parameter>(number * count);
    auto* gradient = allocate<Gradient>(number * count);
    for (std::int64_t i = 0; i < number; ++i, parameter += count, gradient += count) {
      optimizer.add({.name = std::to_string(arrays_.size()) + "." + std::to_string(i),
                     .parameter = {parameter, count},
                     .gradient = {gradient, count}});
    }
  }

 private:
  template <typename T>
  T* allocate(std::int64_t count) {
    arrays_.push_back(memory_.allocate(count * static_cast<std::int64_t>(sizeof(T))));
    return reinterpret_cast<T*>(arrays_.back().get());
  }

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
            "float, adamant::kernels::NoMaster> >(adamant::kernels::UpdateArguments)");

  tensors.add<double>(3, 5000);
  tensors.add<float>(3, 5000);
  launches = launches_of_a_step(tensors.optimizer);
  ASSERT_EQ(launches.size(), 3U);
  EXPECT_NE(launches[1].kernel.find("Storage<float, float, float, float, "), std::string::npos) << launches[1].kernel;
  EXPECT_NE(launches[2].kernel.find("Storage<double, double, double, double, "), std::string::npos)
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
  EXPECT_EQ(launches[1].blocks, 625U) << "two tensors a warp";
}

// So many of a thread's vectors make kPasses passes.
TEST_F(CudaLaunches, of_one_tensor_have_a_block_for_every_2048_elements_of_a_tile) {
  struct Shape {
    std::int64_t count;
    unsigned blocks;
  };
  for (const auto& [count, blocks] :
       {Shape{1, 1}, Shape{64, 1}, Shape{512, 1}, Shape{513, 2}, Shape{4096, 2}, Shape{4097, 3}, Shape{8192, 4},
        Shape{8192 + 512, 5}, Shape{8192 + 513, 6}, Shape{1 << 20, 512}}) {
    Tensors tensors(GradientDescent{});
    tensors.add<float>(1, count);
    const std::vector<Launch> launches = launches_of_a_step(tensors.optimizer);
    ASSERT_EQ(launches.size(), 2U);
    EXPECT_EQ(launches[0].blocks, 1U);
    EXPECT_EQ(launches[1].blocks, blocks) << count << " elements";
    EXPECT_EQ(launches[1].threads, 256U);
  }
}

TEST_F(CudaLaunches, have_no_more_blocks_than_a_grid_may_have) {
  Tensors tensors(GradientDescent{}, {.tile = 1 << 30});
  tensors.add<float>(5000, 600);  // in as many tiles, each of 2^19 times what a block takes
  const std::vector<Launch> launches = launches_of_a_step(tensors.optimizer);
  ASSERT_EQ(launches.size(), 2U);
  EXPECT_EQ(launches[1].blocks, 5000U << 18);
}

TEST_F(CudaLaunches, of_larger_elements_have_more_blocks_and_of_smaller_ones_fewer) {
  static_assert(kernels::kPasses == 2 && kernels::kUpdateThreads == 256);
  Tensors tensors(GradientDescent{});
  tensors.add<float>(3, 4096);
  tensors.add<double>(3, 4096);
  tensors.add<float, bfloat16>(3, 4096);
  const std::vector<Launch> launches = launches_of_a_step(tensors.optimizer);
  ASSERT_EQ(launches.size(), 4U);
  EXPECT_EQ(launches[1].blocks, 3 * 2U) << launches[1].kernel;
  EXPECT_EQ(launches[2].blocks, 3 * 4U) << launches[2].kernel << ": two elements an access";
  EXPECT_EQ(launches[3].blocks, 3 * 1U) << launches[3].kernel << ": eight elements an access";
}

TEST_F(CudaLaunches, of_a_clipped_step_are_a_norm_for_each_type_of_gradient_the_scalars_and_the_updates) {
  Tensors tensors(Momentum{});
  tensors.add<float, bfloat16>(1, 100);
  tensors.add<double>(2, 0);
  tensors.add<float>(3, 50000);
  tensors.add<bfloat16>(1, 100);
  tensors.optimizer.set_control({.clip_norm = 1.0});
  const std::vector<Launch> launches = launches_of_a_step(tensors.optimizer);
  const std::vector<std::string> parts{"::gradient_norm<float>",
                                       "::gradient_norm<double>",
                                       "::gradient_norm<adamant::bfloat16>",
                                       "::scalars<adamant::MomentumRule>",
                                       "Storage<float, float, float, ",
                                       "Storage<double, double, double, ",
                                       "Storage<float, adamant::bfloat16, float, ",
                                       "Storage<adamant::bfloat16, adamant::bfloat16, float, "};
  ASSERT_EQ(launches.size(), parts.size());
  for (std::size_t i = 0; i < parts.size(); ++i) {
    EXPECT_NE(launches[i].kernel.find(parts[i]), std::string::npos) << launches[i].kernel << " is not " << parts[i];
    EXPECT_EQ(launches[i].behind, i == 0 ? std::vector<std::size_t>{} : std::vector<std::size_t>{i - 1})
        << launches[i].kernel;
  }
  const std::vector<unsigned> blocks{5, 1, 1};  // 39 chunks, 2 and 2: eight a block, the empty tensors' among them
  for (std::size_t i = 0; i < blocks.size(); ++i) {
    EXPECT_EQ(launches[i].blocks, blocks[i]) << launches[i].kernel;
    EXPECT_EQ(launches[i].threads, static_cast<unsigned>(kernels::kNormThreads));
  }
  tensors.optimizer.set_control({});
  EXPECT_EQ(launches_of_a_step(tensors.optimizer).size(), parts.size() - blocks.size());
}

TEST_F(CudaLaunches, of_a_step_are_such_as_begin_before_the_kernel_before_has_ended) {
  Tensors tensors(Adam{});
  tensors.add<float>(1, 5000);
  tensors.add<double>(1, 5000);
  tensors.optimizer.set_control({.clip_norm = 1.0});
  const std::vector<Launch> launches = launches_of_a_step(tensors.optimizer);
  ASSERT_EQ(launches.size(), 5U);
  for (std::size_t i = 1; i < launches.size(); ++i) {
    EXPECT_EQ(launches[i].behind, std::vector<std::size_t>{i - 1}) << launches[i].kernel;
  }
  if (is_emulated()) GTEST_SKIP() << "an emulator ends a kernel before the next begins";
  for (std::size_t i = 0; i < launches.size(); ++i) {
    EXPECT_EQ(launches[i].begins_early, i > 0 && launches[i].architecture >= 90) << launches[i].kernel;
  }
}

}  // namespace
}  // namespace adamant::test
