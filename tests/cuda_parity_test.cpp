// Promises P1, P2 and P8 on a CUDA device: parameters, states and step counts are the CPU backend's, bit for bit, for
// every rule, type, size, misalignment, tile size, block shape and order of tiles. The CPU side is compiled by another
// compiler from the same rules; what the kernels were is looked at by the tests of captured graphs.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <deque>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "adamant/adamant.hpp"
#include "host/cpu_backend.hpp"
#include "host/device_memory.hpp"
#include "host/method.hpp"
#include "host/plan.hpp"
#include "kernels/backend.hpp"
#include "kernels/tuning.hpp"
#include "tests/device.hpp"
#include "tests/folder.hpp"
#include "tests/inputs.hpp"
#include "tests/methods.hpp"

namespace adamant::test {
namespace {

constexpr int kSteps = 4;

// An array in device memory at any offset from a 256-byte boundary, between elements that nobody may write to.
template <typename Real>
class FencedOnDevice {
 public:
  FencedOnDevice(host::DeviceMemory& memory, const std::vector<Real>& values, std::int64_t offset)
      : offset_(kZone + offset), count_(static_cast<std::int64_t>(values.size())), all_(memory, padded(values)) {}

  Real* data() const { return all_.data() + offset_; }
  std::int64_t count() const { return count_; }
  void write(const std::vector<Real>& values) { all_.write(padded(values)); }
  std::vector<Real> read() const {
    const std::vector<Real> all = all_.read();
    return {all.begin() + offset_, all.begin() + offset_ + count_};
  }
  bool zones_untouched() const {
    const std::vector<Real> all = all_.read();
    return same_bits(all, padded({all.begin() + offset_, all.begin() + offset_ + count_}));
  }

 private:
  static constexpr std::int64_t kZone = 64;  // a multiple of every vector, so that the offset decides the alignment
  std::vector<Real> padded(const std::vector<Real>& values) const {
    std::vector<Real> all(static_cast<std::size_t>(offset_ + count_ + kZone), Real{-77});
    std::copy(values.begin(), values.end(), all.begin() + offset_);
    return all;
  }
  std::int64_t offset_;
  std::int64_t count_;
  host::DeviceArray<Real> all_;
};

// --- through the backends themselves, which tests may shape
// -----------------------------------------------------------

struct Shape {
  std::int64_t tile = kChunk;
  std::int64_t packed = kernels::kPackedTile;
  int threads = 0;
  std::optional<std::uint64_t> shuffled = {};  // the order of tiles, by this seed
  int offset = 0;                              // of the first parameter; the others follow with other offsets
  friend void PrintTo(const Shape& s, std::ostream* out) {
    *out << "tile " << s.tile << ", packed up to " << s.packed << ", " << s.threads << " threads, offset " << s.offset
         << (s.shuffled ? ", shuffled" : "");
  }
};

std::unique_ptr<kernels::Backend> make_backend(Device device, int rule, const Shape& shape) {
  if (device.kind == Device::Kind::cpu) return host::make_cpu_backend(rule, host::update_tables().front(), 1);
  return kernels::make_cuda_backend(device.index, rule, {}, {.threads = shape.threads});
}

// Parameters and states after kSteps steps of tensors of these sizes, one array a tensor, then the step counts.
template <typename Real>
std::vector<std::vector<Real>> run(Device device, const Case& c, const std::vector<std::int64_t>& sizes,
                                   const Shape& shape) {
  const Method method = c.make();
  const int rule = host::rule_index(method);
  const auto slots = static_cast<int>(state_names(method).size());
  host::DeviceMemory memory(device);
  const auto backend = make_backend(device, rule, shape);
  backend->reserve(static_cast<std::int64_t>(sizes.size()), 1);
  backend->set_options(0, method, nullptr);
  std::vector<FencedOnDevice<Real>> arrays;  // parameter, gradient and states of each tensor
  std::vector<kernels::TensorRow> rows;
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    const auto shift = static_cast<std::int64_t>(i);
    arrays.emplace_back(memory, spread_values<Real>(sizes[i], i + 1, -4, 1), (shape.offset + 3 * shift) % 16);
    arrays.emplace_back(memory, spread_values<Real>(sizes[i], 1000 + i, -8, 2), (2 * shape.offset + 5 * shift) % 16);
    kernels::TensorRow row{};
    row.parameter = arrays[arrays.size() - 2].data();
    row.gradient = arrays.back().data();
    for (int slot = 0; slot < slots; ++slot) {
      // States of the Optimizer are always aligned; the kernel must not depend on it.
      arrays.emplace_back(memory, std::vector<Real>(static_cast<std::size_t>(sizes[i])),
                          shape.offset == 0 ? 0 : (shape.offset + slot + shift) % 8);
      row.state[slot] = arrays.back().data();
    }
    row.count = sizes[i];
    row.slot = shift;
    row.storage =
        *host::find_storage({detail::kDataType<Real>, detail::kDataType<Real>, detail::kDataType<Real>, Master::none});
    rows.push_back(row);
  }
  kernels::StepPlan plan = host::make_plan(rows, shape.tile, shape.packed);
  if (shape.shuffled) {
    Random random(*shape.shuffled);
    const auto shuffle = [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = end - 1; i > begin; --i) {
        std::swap(plan.tiles[static_cast<std::size_t>(i)],
                  plan.tiles[static_cast<std::size_t>(begin + random.below(i - begin + 1))]);
      }
    };
    for (const kernels::TileRange& range : plan.ranges) {
      shuffle(range.begin, range.begin + range.whole);
      shuffle(range.begin + range.whole, range.end);
    }
  }
  backend->set_plan(std::move(plan));
  const auto of_tensor = static_cast<std::size_t>(slots) + 2;
  for (int t = 0; t < kSteps; ++t) {
    for (std::size_t i = 0; i < sizes.size(); ++i) {
      FencedOnDevice<Real>& gradient = arrays[i * of_tensor + 1];
      gradient.write(spread_values<Real>(sizes[i], 1000 * static_cast<std::uint64_t>(t + 1) + i, -8, 2));
    }
    backend->step(nullptr);
  }
  std::vector<std::vector<Real>> results;
  for (std::size_t i = 0; i < arrays.size(); ++i) {
    EXPECT_TRUE(arrays[i].zones_untouched()) << "array " << i << " of " << of_tensor << " a tensor";
    if (i % of_tensor != 1) results.push_back(arrays[i].read());
  }
  std::vector<std::int64_t> counts(sizes.size());
  backend->read_step_counts(0, counts, nullptr);
  results.emplace_back(counts.begin(), counts.end());
  return results;
}

const std::vector<std::int64_t>& sizes() {
  static const std::vector<std::int64_t> all{0,   1,    2,    3,    4,    5,    31,   63,   64,   65,    127,   128, 0,
                                             255, 1023, 1024, 1025, 1028, 4095, 4096, 4097, 8191, 12289, 20000, 16,  0};
  return all;
}

const std::vector<Shape>& shapes() {
  static const std::vector<Shape> all{{},
                                      {.threads = 32, .offset = 1},
                                      {.threads = 64, .shuffled = 1, .offset = 2},
                                      {.tile = 2 * kChunk, .threads = 128, .offset = 4},
                                      {.tile = 16 * kChunk, .packed = 0, .offset = 3},
                                      {.packed = kChunk, .shuffled = 2, .offset = 5},
                                      {.tile = 4 * kChunk, .packed = 64, .threads = 96, .shuffled = 3, .offset = 7}};
  return all;
}

class ParityOfEveryRule : public DeviceTestWithParam<TypedCase> {};

TEST_P(ParityOfEveryRule, holds_for_any_size_alignment_tile_block_and_order) {
  const Case& c = GetParam().method_case;
  with_type(GetParam().type, [&]<typename Real>(Real) {
    for (const Shape& shape : shapes()) {
      const auto expected = run<Real>(Device::cpu(), c, sizes(), shape);
      const auto got = run<Real>(cuda_device(), c, sizes(), shape);
      ASSERT_EQ(expected.size(), got.size());
      for (std::size_t i = 0; i < expected.size(); ++i) {
        ASSERT_TRUE(same_bits(expected[i], got[i])) << "array " << i << ", " << testing::PrintToString(shape);
      }
    }
  });
}

INSTANTIATE_TEST_SUITE_P(Rules, ParityOfEveryRule, testing::ValuesIn(typed(one_case_per_rule())), test_name);

// --- through the Optimizer
// ---------------------------------------------------------------------------------------------

// The same calls to an Optimizer on the CPU and to one on the device: tensors of both types that come, go, freeze,
// thaw, change group, gradient and step count, options that change, states saved on one and loaded on the other.
class Twins {
 public:
  Twins(const Case& c, std::uint64_t seed)
      : c_(c), random_(seed), on_cpu_(c.make()), on_device_(c.make(), cuda_device()), memory_(cuda_device()) {}

  void anything() {
    switch (random_.below(12)) {
      case 0:
      case 1: add(); break;
      case 2:
        if (random_.one_in(3)) remove();
        break;
      case 3: {
        const TensorId id = any();
        const bool frozen = on_cpu_.frozen(id);
        both([&](Optimizer& o) { frozen ? o.thaw(id) : o.freeze(id); });
        break;
      }
      case 4: {
        const auto group = GroupId{static_cast<std::int32_t>(random_.below(groups_))};
        const TensorId id = any();
        both([&](Optimizer& o) { o.set_group(id, group); });
        break;
      }
      case 5: {
        Method options = on_cpu_.options();
        set_option(options, "learning_rate", "0.01");
        both([&](Optimizer& o) { o.add_group(options); });
        ++groups_;
        break;
      }
      case 6: {
        const auto group = GroupId{static_cast<std::int32_t>(random_.below(groups_))};
        const double rate = 0.1 * random_.fraction();
        both([&](Optimizer& o) { o.set_learning_rate(group, rate); });
        break;
      }
      case 7: {
        const TensorId id = any();
        const std::int64_t count = random_.below(1000);
        both([&](Optimizer& o) { o.set_step_count(id, count); });
        break;
      }
      case 8: point_elsewhere(any()); break;
      case 9: swap_checkpoints(); break;
      default: both([](Optimizer& o) { o.step(); });
    }
  }

  void add() {
    const bool is_float = random_.one_in(2);
    is_float ? add_of<float>() : add_of<double>();
  }

  void expect_same() {
    for (const TensorId id : on_cpu_.tensors()) {
      const TensorSpec& spec = on_cpu_.tensor(id);
      ASSERT_EQ(on_cpu_.step_count(id), on_device_.step_count(id)) << spec.name;
      expect_same_bytes(spec.parameter, on_device_.tensor(id).parameter, spec.name);
      for (const std::string& state : state_names(c_.make())) {
        expect_same_bytes(on_cpu_.state(id, state), on_device_.state(id, state), spec.name + "." + state);
      }
    }
  }

 private:
  struct Buffers {
    std::vector<std::byte> on_cpu;
    std::shared_ptr<std::byte> on_device;
  };

  template <typename Action>
  void both(const Action& action) {
    action(on_cpu_);
    action(on_device_);
  }

  TensorId any() {
    if (on_cpu_.tensors().empty()) add();
    const std::vector<TensorId> all = on_cpu_.tensors();
    return all[static_cast<std::size_t>(random_.below(static_cast<std::int64_t>(all.size())))];
  }

  // The same numbers in host and in device memory, kept for as long as this object lives.
  template <typename Real>
  Buffers& make_buffers(std::int64_t count, int lowest, int highest) {
    const std::vector<Real> values = spread_values<Real>(count, random_.bits(), lowest, highest);
    Buffers& made = buffers_.emplace_back();
    const auto bytes = std::as_bytes(std::span(values));
    made.on_cpu.assign(bytes.begin(), bytes.end());
    made.on_device = memory_.allocate(static_cast<std::int64_t>(bytes.size()));
    memory_.write(made.on_device.get(), bytes);
    return made;
  }

  template <typename Real>
  void add_of() {
    const std::int64_t count = random_.one_in(5) ? 0 : random_.below(random_.one_in(4) ? 9000 : 200);
    Buffers& parameter = make_buffers<Real>(count, -4, 1);
    Buffers& gradient = make_buffers<Real>(count, -8, 2);
    const auto group = GroupId{static_cast<std::int32_t>(random_.below(groups_))};
    const std::string name = std::to_string(names_++);
    constexpr DataType kType = detail::kDataType<Real>;
    on_cpu_.add({.name = name,
                 .parameter = {static_cast<void*>(parameter.on_cpu.data()), kType, count},
                 .gradient = {static_cast<const void*>(gradient.on_cpu.data()), kType, count},
                 .group = group});
    on_device_.add({.name = name,
                    .parameter = {static_cast<void*>(parameter.on_device.get()), kType, count},
                    .gradient = {static_cast<const void*>(gradient.on_device.get()), kType, count},
                    .group = group});
  }

  void remove() {
    const TensorId id = any();
    both([&](Optimizer& o) { o.remove(id); });
  }

  void point_elsewhere(TensorId id) {
    const Array parameter = on_cpu_.tensor(id).parameter;
    Buffers& made = parameter.type() == DataType::float32 ? make_buffers<float>(parameter.count(), -8, 2)
                                                          : make_buffers<double>(parameter.count(), -8, 2);
    on_cpu_.set_gradient(id, {static_cast<const void*>(made.on_cpu.data()), parameter.type(), parameter.count()});
    on_device_.set_gradient(id, {static_cast<const void*>(made.on_device.get()), parameter.type(), parameter.count()});
  }

  // What each has becomes what the other had, which must be the same.
  void swap_checkpoints() {
    on_cpu_.save(folder_.file("cpu"));
    on_device_.save(folder_.file("device"));
    ASSERT_EQ(contents(folder_.file("cpu")), contents(folder_.file("device")));
    both([](Optimizer& o) { o.step(); });
    on_cpu_.load(folder_.file("device"));
    on_device_.load(folder_.file("cpu"));
  }

  void expect_same_bytes(const Array& here, const Array& there, const std::string& what) {
    const auto bytes = static_cast<std::size_t>(here.count() * size_in_bytes(here.type()));
    std::vector<std::byte> read(bytes);
    memory_.read(read, there.data());
    ASSERT_EQ(std::memcmp(read.data(), here.data(), bytes), 0) << what << " of " << here.count() << " elements";
  }

  const Case c_;
  Random random_;
  Optimizer on_cpu_;
  Optimizer on_device_;
  host::DeviceMemory memory_;
  std::deque<Buffers> buffers_;
  Folder folder_;
  std::int64_t groups_ = 1;
  int names_ = 0;
};

class Trap22SameCalls : public DeviceTestWithParam<TypedCase> {};

TEST_P(Trap22SameCalls, to_both_backends_give_the_same_bits) {
  for (int run = 0; run < 3; ++run) {
    Twins twins(GetParam().method_case, run_seed() + seed_of(GetParam().method_case.name) + static_cast<unsigned>(run));
    for (int i = 0; i < 5; ++i) twins.add();
    for (int call = 0; call < 60; ++call) {
      SCOPED_TRACE(testing::Message() << "run " << run << ", call " << call);
      twins.anything();
      if (testing::Test::HasFatalFailure()) return;
      twins.expect_same();
      if (testing::Test::HasFatalFailure()) return;
    }
  }
}

std::vector<TypedCase> rules_once() {
  std::vector<TypedCase> all;
  for (const Case& c : one_case_per_rule()) all.push_back({c, DataType::float32});
  return all;
}
INSTANTIATE_TEST_SUITE_P(Rules, Trap22SameCalls, testing::ValuesIn(rules_once()), test_name);

}  // namespace
}  // namespace adamant::test
