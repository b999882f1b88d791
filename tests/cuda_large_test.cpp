// A tensor of more than 2^32 elements on a device, of which only a few tiles are stepped: those where 32 bits of an
// element's index or of its address run out. The memory is asked for without being filled; an emulator has only what is
// touched of it, a GPU all 17 GB of each array.
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <ostream>
#include <string>
#include <utility>
#include <vector>

#include "adamant/adamant.hpp"
#include "kernels/backend.hpp"
#include "kernels/rule_list.hpp"
#include "kernels/step_plan.hpp"
#include "kernels/tuning.hpp"
#include "tests/device.hpp"
#include "tests/inputs.hpp"

namespace adamant::test {
namespace {

constexpr std::int64_t kTile = kernels::kDeviceTile;
constexpr std::int64_t kCount = (std::int64_t{1} << 32) + kTile + 3;
constexpr std::int64_t kZone = 64;  // elements on both sides of what is stepped

struct Segment {
  std::int64_t begin;  // a multiple of kTile
  std::int64_t end;
};

// The first tile; the two tiles where the address, in bytes, or the index passes 2^31 and 2^32; the last tile, of three
// elements.
std::vector<Segment> segments() {
  std::vector<Segment> all{{0, kTile}};
  for (const int bits : {29, 30, 31}) {
    const std::int64_t middle = std::int64_t{1} << bits;
    all.push_back({middle - kTile, middle + kTile});
  }
  all.push_back({(std::int64_t{1} << 32) - kTile, kCount});
  return all;
}

// An array of kCount elements on the device between two zones, `offset` elements off the alignment that it could have.
class LargeArray {
 public:
  explicit LargeArray(std::int64_t offset) {
    void* memory = nullptr;
    const auto count = static_cast<std::size_t>(kCount + 2 * kZone + offset);
    error_ = cudaMalloc(&memory, count * sizeof(float));
    if (error_ != cudaSuccess) cudaGetLastError();
    memory_.reset(static_cast<float*>(memory));
    first_ = memory_.get() + kZone + offset;
  }
  cudaError_t error() const { return error_; }
  float* data() const { return first_; }

  // The elements of a segment and the zones around it.
  static std::int64_t size(const Segment& segment) { return segment.end - segment.begin + 2 * kZone; }
  void write(const Segment& segment, const std::vector<float>& values) const {
    ASSERT_EQ(static_cast<std::int64_t>(values.size()), size(segment));
    ASSERT_EQ(cudaMemcpy(first_ + segment.begin - kZone, values.data(), values.size() * sizeof(float),
                         cudaMemcpyHostToDevice),
              cudaSuccess);
  }
  std::vector<float> read(const Segment& segment) const {
    std::vector<float> values(static_cast<std::size_t>(size(segment)));
    EXPECT_EQ(cudaMemcpy(values.data(), first_ + segment.begin - kZone, values.size() * sizeof(float),
                         cudaMemcpyDeviceToHost),
              cudaSuccess);
    return values;
  }

 private:
  struct Free {
    void operator()(float* memory) const { cudaFree(memory); }
  };
  cudaError_t error_;
  std::unique_ptr<float, Free> memory_;
  float* first_;
};

struct LargeCase {
  std::string name;
  Method method;
  int rule;
  std::int64_t offset;
  friend void PrintTo(const LargeCase& c, std::ostream* out) { *out << c.name; }
};

template <typename Options>
LargeCase large_case(std::string name, const Options& options, std::int64_t offset) {
  return {std::move(name), options, kernels::first_rule<Options>(static_cast<const Method*>(nullptr)), offset};
}

class CudaLarge : public NeedsDevice, public testing::WithParamInterface<LargeCase> {};

TEST_P(CudaLarge, tensors_are_stepped_where_32_bits_run_out_and_nowhere_else) {
  const auto& [case_name, method, rule, offset] = GetParam();
  const std::vector<std::string> states = state_names(method);
  std::vector<LargeArray> arrays;  // parameter, gradient, states
  for (std::size_t i = 0; i < 2 + states.size(); ++i) {
    arrays.emplace_back(offset);
    const cudaError_t error = arrays.back().error();
    if (error == cudaErrorMemoryAllocation) {
      GTEST_SKIP() << "the device has not the memory for " << 2 + states.size() << " arrays of " << kCount << " floats";
    }
    ASSERT_EQ(error, cudaSuccess) << cudaGetErrorString(error);
  }
  std::vector<std::vector<std::vector<float>>> before;  // by segment and array
  std::uint64_t seed = 1;
  for (const Segment& segment : segments()) {
    before.emplace_back();
    for (std::size_t i = 0; i < arrays.size(); ++i) {
      before.back().push_back(spread_values<float>(LargeArray::size(segment), ++seed, -6, 2));
      // States as they are before the first step, but not in the zones.
      for (std::int64_t j = 0; i >= 2 && j < segment.end - segment.begin; ++j)
        before.back()[i][static_cast<std::size_t>(kZone + j)] = 0.0F;
      arrays[i].write(segment, before.back()[i]);
    }
  }

  const std::unique_ptr<kernels::Backend> backend = kernels::make_cuda_backend(0, rule);
  kernels::StepPlan plan;
  plan.tile_size = kTile;
  plan.rows.push_back({.parameter = arrays[0].data(),
                       .gradient = arrays[1].data(),
                       .kept = nullptr,
                       .state = {},
                       .count = kCount,
                       .slot = 0,
                       .group = 0,
                       .storage = 0,
                       .identity = 0,
                       .zero_gradient = 0});
  for (std::size_t i = 0; i < states.size(); ++i) plan.rows[0].state[i] = arrays[2 + i].data();
  for (const Segment& segment : segments()) {
    for (std::int64_t first = segment.begin; first < segment.end; first += kTile) plan.tiles.push_back({first, 0});
  }
  const auto tiles = static_cast<std::int64_t>(plan.tiles.size());
  plan.ranges.push_back({.storage = 0, .begin = 0, .whole = tiles - 1, .end = tiles});
  backend->reserve(1, 1);
  backend->set_options(0, method, nullptr);
  backend->set_plan(plan);
  backend->step(nullptr);
  std::vector<std::int64_t> steps(1);
  backend->read_step_counts(0, steps, nullptr);
  EXPECT_EQ(steps[0], 1);

  for (std::size_t s = 0; s < segments().size(); ++s) {
    const Segment segment = segments()[s];
    SCOPED_TRACE("elements " + std::to_string(segment.begin) + " to " + std::to_string(segment.end));
    const std::int64_t count = segment.end - segment.begin;
    std::vector<std::vector<float>> expected = before[s];
    Optimizer cpu(method, Device::cpu(), {.threads = 1});
    const TensorId id = cpu.add({.name = "segment",
                                 .parameter = {expected[0].data() + kZone, count},
                                 .gradient = {expected[1].data() + kZone, count}});
    cpu.step();
    for (std::size_t i = 0; i < states.size(); ++i) {
      const float* const state = cpu.state(id, states[i]).as<float>();
      std::copy(state, state + count, expected[2 + i].begin() + kZone);
    }
    ASSERT_NE(expected[0], before[s][0]);
    for (std::size_t i = 0; i < arrays.size(); ++i) {
      EXPECT_TRUE(same_bits(arrays[i].read(segment), expected[i]))
          << (i == 0   ? "parameter"
              : i == 1 ? "gradient"
                       : states[i - 2])
          << ", counted from " << kZone << " elements before the segment";
    }
  }
}

INSTANTIATE_TEST_SUITE_P(OfEveryAccess, CudaLarge,
                         testing::Values(large_case("gradient_descent", GradientDescent{}, 0),
                                         large_case("gradient_descent_misaligned", GradientDescent{}, 1),
                                         large_case("adam", Adam{}, 0), large_case("adam_misaligned", Adam{}, 1)),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace adamant::test
