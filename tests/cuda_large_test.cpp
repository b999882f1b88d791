// A tensor of more than 2^32 elements on a device, of which only a few tiles are stepped: those where 32 bits of an
// element's index or of its address run out. The memory is asked for without being filled; an emulator has only what is
// touched of it, a GPU all 17 GB of each array.
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <ostream>
#include <string>
#include <utility>
#include <vector>

#include "adamant/adamant.hpp"
#include "host/cpu_backend.hpp"
#include "host/method.hpp"
#include "kernels/backend.hpp"
#include "kernels/rule_list.hpp"
#include "kernels/step_plan.hpp"
#include "kernels/storage_types.hpp"
#include "kernels/tuning.hpp"
#include "tests/device.hpp"
#include "tests/inputs.hpp"
#include "tests/storages.hpp"

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

std::vector<kernels::Tile> tiles() {
  std::vector<kernels::Tile> all;
  for (const Segment& segment : segments()) {
    for (std::int64_t first = segment.begin; first < segment.end; first += kTile) all.push_back({first, 0});
  }
  return all;
}

// An array of kCount elements between two zones, `offset` elements off the alignment that it could have.
template <typename T>
class LargeArray {
 public:
  explicit LargeArray(std::int64_t offset, Device device = cuda_device()) {
    void* memory = nullptr;
    const std::size_t bytes = static_cast<std::size_t>(kCount + 2 * kZone + offset) * sizeof(T);
    if (device == Device::cpu()) {
      memory = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
      error_ = memory == MAP_FAILED ? cudaErrorMemoryAllocation : cudaSuccess;
      if (error_ == cudaSuccess) memory_ = {static_cast<T*>(memory), [bytes](T* p) { ::munmap(p, bytes); }};
    } else {
      error_ = cudaMalloc(&memory, bytes);
      if (error_ != cudaSuccess) cudaGetLastError();
      memory_ = {static_cast<T*>(memory), [](T* p) { cudaFree(p); }};
    }
    first_ = memory_.get() + kZone + offset;
  }
  cudaError_t error() const { return error_; }
  T* data() const { return first_; }

  // The elements of a segment and the zones around it.
  static std::int64_t size(const Segment& segment) { return segment.end - segment.begin + 2 * kZone; }
  void write(const Segment& segment, const std::vector<T>& values) const {
    ASSERT_EQ(static_cast<std::int64_t>(values.size()), size(segment));
    ASSERT_EQ(cudaMemcpy(first_ + segment.begin - kZone, values.data(), values.size() * sizeof(T), cudaMemcpyDefault),
              cudaSuccess);
  }
  std::vector<T> read(const Segment& segment) const {
    std::vector<T> values(static_cast<std::size_t>(size(segment)));
    EXPECT_EQ(cudaMemcpy(values.data(), first_ + segment.begin - kZone, values.size() * sizeof(T), cudaMemcpyDefault),
              cudaSuccess);
    return values;
  }

 private:
  cudaError_t error_;
  std::shared_ptr<T> memory_;
  T* first_;
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
  std::vector<LargeArray<float>> arrays;  // parameter, gradient, states
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
      before.back().push_back(spread_values<float>(LargeArray<float>::size(segment), ++seed, -6, 2));
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
  plan.tiles = tiles();
  plan.ranges.push_back({.storage = 0, .begin = 0, .whole = std::ssize(plan.tiles) - 1, .end = std::ssize(plan.tiles)});
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

// What a step with a norm makes of every array of a bfloat16 tensor, by array and segment. Random bits depend on where
// in its tensor an element is: on the CPU, too, it is one of kCount, in memory that is only reserved.
void step_of_16_bits(Master master, Device device, std::vector<std::vector<std::uint16_t>>& results,
                     StepReport& report) {
  constexpr int kStates = 2;
  const Method method = Adam{};
  const int rule = host::rule_index(method);
  const int storage = *kernels::find_storage({DataType::bfloat16, DataType::bfloat16, DataType::bfloat16, master});
  std::vector<LargeArray<std::uint16_t>> arrays;  // parameter, gradient, what is kept, states
  for (int i = 0; i < 3 + kStates; ++i) {
    arrays.emplace_back(0, device);
    if (arrays.back().error() == cudaErrorMemoryAllocation) {
      GTEST_SKIP() << name(device) << " has not the memory for arrays of " << kCount << " 16-bit numbers";
    }
    ASSERT_EQ(arrays.back().error(), cudaSuccess);
  }
  std::uint64_t seed = 1;
  for (const Segment& segment : segments()) {
    for (std::size_t i = 0; i < arrays.size(); ++i) {
      std::vector<std::uint16_t> values;
      for (const bfloat16 value : stored_values<bfloat16>(arrays[i].size(segment), ++seed, -6, 2)) {
        values.push_back(i == 4 ? value.bits & 0x7FFF : value.bits);  // a mean of squares is not negative
      }
      arrays[i].write(segment, values);
    }
  }

  const std::unique_ptr<kernels::Backend> backend = device == Device::cpu()
                                                        ? host::make_cpu_backend(rule, host::update_tables().front(), 1)
                                                        : kernels::make_cuda_backend(device.index, rule);
  kernels::StepPlan plan;
  plan.tile_size = kTile;
  plan.rows.push_back({.parameter = arrays[0].data(),
                       .gradient = arrays[1].data(),
                       .kept = master == Master::remainder ? arrays[2].data() : nullptr,
                       .state = {arrays[3].data(), arrays[4].data()},
                       .count = kCount,
                       .slot = 0,
                       .group = 0,
                       .storage = storage,
                       .identity = 3,
                       .zero_gradient = 1});
  plan.tiles = tiles();
  const std::int64_t count = std::ssize(plan.tiles);
  plan.ranges.push_back({.storage = storage, .begin = 0, .whole = count - 1, .end = count});
  for (const kernels::Tile& tile : plan.tiles) {
    plan.norm.leaves.push_back({.first = tile.first, .row = 0, .value = std::ssize(plan.norm.leaves), .parent = 0});
  }
  plan.norm.ranges.push_back({.gradient_type = 2, .begin = 0, .end = count});  // the index of bfloat16
  plan.norm.nodes.push_back({.begin = 0, .count = count, .value = count, .parent = -1});
  plan.norm.values = count + 1;
  kernels::Control control = kernels::plain_control();
  control.clip_norm = 5;
  control.measures = 1;
  control.seed = {{17, 4}};
  backend->reserve(1, 1);
  backend->set_options(0, method, nullptr);
  backend->set_control(control, nullptr);
  backend->set_plan(plan);
  backend->step(nullptr);
  report = backend->read_report(nullptr);
  for (const LargeArray<std::uint16_t>& array : arrays) {
    for (const Segment& segment : segments()) results.push_back(array.read(segment));
  }
}

class CudaLarge16Bits : public DeviceTestWithParam<Master> {};

TEST_P(CudaLarge16Bits, are_stepped_where_32_bits_run_out_and_nowhere_else) {
  std::vector<std::vector<std::uint16_t>> expected;
  std::vector<std::vector<std::uint16_t>> got;
  StepReport expected_report{};
  StepReport report{};
  step_of_16_bits(GetParam(), Device::cpu(), expected, expected_report);
  step_of_16_bits(GetParam(), cuda_device(), got, report);
  if (IsSkipped() || HasFatalFailure()) return;
  EXPECT_GT(report.gradient_norm, 0);
  EXPECT_EQ(report.gradient_norm, expected_report.gradient_norm);
  for (std::size_t i = 0; i < expected.size(); ++i) {
    EXPECT_TRUE(same_bits(got[i], expected[i]))
        << "array " << i / segments().size() << ", segment " << i % segments().size();
  }
}

INSTANTIATE_TEST_SUITE_P(Kept, CudaLarge16Bits, testing::Values(Master::remainder, Master::stochastic),
                         [](const auto& info) { return std::string(name(info.param)); });

}  // namespace
}  // namespace adamant::test
