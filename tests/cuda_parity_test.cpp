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
#include "kernels/storage_types.hpp"
#include "kernels/tuning.hpp"
#include "tests/device.hpp"
#include "tests/folder.hpp"
#include "tests/inputs.hpp"
#include "tests/methods.hpp"
#include "tests/storages.hpp"

namespace adamant::test {
namespace {

constexpr int kSteps = 4;

// An array in device memory at any offset, in elements, from a 256-byte boundary, between elements that nobody may
// write to.
class FencedOnDevice {
 public:
  template <typename T>
  FencedOnDevice(host::DeviceMemory& memory, const std::vector<T>& values, std::int64_t offset)
      : before_((kZone + offset) * static_cast<std::int64_t>(sizeof(T))),
        after_(kZone * static_cast<std::int64_t>(sizeof(T))),
        all_(memory, std::span<const std::byte>(padded(values))) {}

  void* data() const { return all_.data() + before_; }
  template <typename T>
  void write(const std::vector<T>& values) {
    all_.write(padded(values));
  }
  std::vector<std::byte> read() const {
    const std::vector<std::byte> all = all_.read();
    return {all.begin() + before_, all.end() - after_};
  }
  bool zones_untouched() const {
    const std::vector<std::byte> all = all_.read();
    const auto intact = [](std::byte each) { return each == kPattern; };
    return std::all_of(all.begin(), all.begin() + before_, intact) &&
           std::all_of(all.end() - after_, all.end(), intact);
  }

 private:
  static constexpr std::int64_t kZone = 64;  // a multiple of every vector, so that the offset decides the alignment
  static constexpr std::byte kPattern{0xB7};
  template <typename T>
  std::vector<std::byte> padded(const std::vector<T>& values) const {
    const auto bytes = std::as_bytes(std::span(values));
    std::vector<std::byte> all(static_cast<std::size_t>(before_), kPattern);
    all.insert(all.end(), bytes.begin(), bytes.end());
    all.insert(all.end(), static_cast<std::size_t>(after_), kPattern);
    return all;
  }
  std::int64_t before_;
  std::int64_t after_;
  host::DeviceArray<std::byte> all_;
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

// What is kept beside parameters, at random: also what no step would leave.
template <typename Storage>
std::vector<typename Storage::Kept> kept_values(std::int64_t count, std::uint64_t seed) {
  if constexpr (std::is_same_v<typename Storage::Kept, float>) {
    return spread_values<float>(count, seed, -4, 1);
  } else {
    std::vector<std::uint16_t> values(static_cast<std::size_t>(count));
    Random random(seed);
    for (std::uint16_t& value : values) value = static_cast<std::uint16_t>(random.bits());
    return values;
  }
}

// All arrays after kSteps steps of tensors of these sizes, then the step counts. Every other tensor has its gradient
// zeroed.
template <typename Storage>
std::vector<std::vector<std::byte>> run(Device device, const Case& c, const std::vector<std::int64_t>& sizes,
                                        const Shape& shape) {
  using Parameter = typename Storage::Parameter;
  using Gradient = typename Storage::Gradient;
  using State = typename Storage::State;
  const Method method = c.make();
  const int rule = host::rule_index(method);
  const auto slots = static_cast<int>(state_names(method).size());
  host::DeviceMemory memory(device);
  const auto backend = make_backend(device, rule, shape);
  backend->reserve(static_cast<std::int64_t>(sizes.size()), 1);
  backend->set_options(0, method, nullptr);
  kernels::Control control = kernels::plain_control();
  control.seed = {{17, 4}};
  backend->set_control(control, nullptr);
  std::vector<FencedOnDevice> arrays;  // parameter, gradient, what is kept and states of each tensor
  std::vector<kernels::TensorRow> rows;
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    const auto shift = static_cast<std::int64_t>(i);
    kernels::TensorRow row{};
    arrays.emplace_back(memory, stored_values<Parameter>(sizes[i], i + 1, -4, 1), (shape.offset + 3 * shift) % 16);
    row.parameter = arrays.back().data();
    arrays.emplace_back(memory, stored_values<Gradient>(sizes[i], 1000 + i, -8, 2),
                        (2 * shape.offset + 5 * shift) % 16);
    row.gradient = arrays.back().data();
    // What is the Optimizer's is always aligned; the kernel must not depend on it.
    arrays.emplace_back(memory, kept_values<Storage>(Storage::Master::kKeeps ? sizes[i] : 0, 2000 + i),
                        shape.offset == 0 ? 0 : (shape.offset + 2 + 3 * shift) % 8);
    row.kept = Storage::Master::kKeeps ? arrays.back().data() : nullptr;
    for (int slot = 0; slot < slots; ++slot) {
      arrays.emplace_back(memory, std::vector<State>(static_cast<std::size_t>(sizes[i])),
                          shape.offset == 0 ? 0 : (shape.offset + slot + shift) % 8);
      row.state[slot] = arrays.back().data();
    }
    row.count = sizes[i];
    row.slot = shift;
    row.storage = *kernels::find_storage({detail::kDataType<Parameter>, detail::kDataType<Gradient>,
                                          detail::kDataType<State>, Storage::Master::kMaster});
    row.identity = static_cast<std::uint32_t>(i + 5);
    row.zero_gradient = static_cast<std::int32_t>(i % 2);
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
  const auto of_tensor = static_cast<std::size_t>(slots) + 3;
  for (int t = 0; t < kSteps; ++t) {
    for (std::size_t i = 0; i < sizes.size(); ++i) {
      arrays[i * of_tensor + 1].write(
          stored_values<Gradient>(sizes[i], 1000 * static_cast<std::uint64_t>(t + 1) + i, -8, 2));
    }
    backend->step(nullptr);
  }
  std::vector<std::vector<std::byte>> results;
  for (std::size_t i = 0; i < arrays.size(); ++i) {
    EXPECT_TRUE(arrays[i].zones_untouched()) << "array " << i << " of " << of_tensor << " a tensor";
    results.push_back(arrays[i].read());
    if (i % of_tensor != 1 || i / of_tensor % 2 == 0) continue;
    EXPECT_TRUE(std::all_of(results.back().begin(), results.back().end(), [](std::byte b) { return b == std::byte{}; }))
        << "the gradient of tensor " << i / of_tensor << " is not zero";
  }
  std::vector<std::int64_t> counts(sizes.size());
  backend->read_step_counts(0, counts, nullptr);
  const auto bytes = std::as_bytes(std::span(counts));
  results.emplace_back(bytes.begin(), bytes.end());
  return results;
}

const std::vector<std::int64_t>& sizes() {
  static const std::vector<std::int64_t> all{0,    1,    2,    3,    4,    5,     31,    63,  64,
                                             65,   127,  128,  0,    255,  511,   512,   513, 1025,
                                             1028, 4095, 4096, 4097, 8191, 12289, 20000, 16,  0};
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

template <typename Storage>
void expect_parity(const Case& c, const std::vector<Shape>& shapes) {
  for (const Shape& shape : shapes) {
    const auto expected = run<Storage>(Device::cpu(), c, sizes(), shape);
    const auto got = run<Storage>(cuda_device(), c, sizes(), shape);
    ASSERT_EQ(expected.size(), got.size());
    for (std::size_t i = 0; i < expected.size(); ++i) {
      ASSERT_TRUE(expected[i] == got[i]) << c.name << ": array " << i << ", " << testing::PrintToString(shape);
    }
  }
}

class ParityOfEveryRule : public DeviceTestWithParam<TypedCase> {};

TEST_P(ParityOfEveryRule, holds_for_any_size_alignment_tile_block_and_order) {
  with_type(GetParam().type, []<typename Real>(Real) {
    expect_parity<kernels::Storage<Real, Real, Real, Real>>(GetParam().method_case, shapes());
  });
}

INSTANTIATE_TEST_SUITE_P(Rules, ParityOfEveryRule, testing::ValuesIn(typed(one_case_per_rule())), test_name);

class ParityOfEveryStorage : public DeviceTestWithParam<int> {};

// Those that the rules above have not met: every rule takes another two shapes, and all of them come up.
TEST_P(ParityOfEveryStorage, holds_for_any_size_alignment_tile_block_and_order) {
  with_storage(GetParam(), []<typename Storage>(std::type_identity<Storage>) {
    std::size_t next = 0;
    for (const Case& c : one_case_per_rule()) {
      const std::size_t first = next++ % shapes().size();
      expect_parity<Storage>(c, {shapes()[first], shapes()[(first + 3) % shapes().size()]});
      if (testing::Test::HasFatalFailure()) return;
    }
  });
}

std::vector<int> beside_plain_storages() {
  std::vector<int> all = every_storage();
  std::erase_if(all, [](int storage) {
    const kernels::StorageTypes& types = kernels::storages()[static_cast<std::size_t>(storage)];
    return types.parameter == types.gradient && types.gradient == types.state && types.master == Master::none;
  });
  return all;
}

INSTANTIATE_TEST_SUITE_P(Storages, ParityOfEveryStorage, testing::ValuesIn(beside_plain_storages()),
                         [](const auto& info) { return storage_name(info.param); });

// --- through the Optimizer
// ---------------------------------------------------------------------------------------------

// The same calls to an Optimizer on the CPU and to one on the device: tensors of all types that come, go, freeze,
// thaw, change group, gradient and step count, options that change, states saved on one and loaded on the other.
class Twins {
 public:
  Twins(const Case& c, std::uint64_t seed)
      : c_(c), random_(seed), on_cpu_(c.make()), on_device_(c.make(), cuda_device()), memory_(cuda_device()) {
    both([&](Optimizer& o) { o.set_control({.seed = seed}); });
  }

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
    const auto storage = static_cast<int>(random_.below(std::ssize(kernels::storages())));
    with_storage(storage, [&]<typename Storage>(std::type_identity<Storage>) { add_of<Storage>(); });
  }

  void expect_same() {
    for (const TensorId id : on_cpu_.tensors()) {
      const TensorSpec& spec = on_cpu_.tensor(id);
      ASSERT_EQ(on_cpu_.step_count(id), on_device_.step_count(id)) << spec.name;
      expect_same_bytes(spec.parameter, on_device_.tensor(id).parameter, spec.name);
      expect_same_bytes(spec.copy, on_device_.tensor(id).copy, "the copy of " + spec.name);
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
  template <typename T>
  Buffers& make_buffers(std::int64_t count, int lowest, int highest) {
    const std::vector<T> values = stored_values<T>(count, random_.bits(), lowest, highest);
    Buffers& made = buffers_.emplace_back();
    const auto bytes = std::as_bytes(std::span(values));
    made.on_cpu.assign(bytes.begin(), bytes.end());
    made.on_device = memory_.allocate(static_cast<std::int64_t>(bytes.size()));
    memory_.write(made.on_device.get(), bytes);
    return made;
  }
  static Array on_cpu(Buffers& buffers, DataType type, std::int64_t count) {
    return {static_cast<void*>(buffers.on_cpu.data()), type, count};
  }
  static Array on_device(Buffers& buffers, DataType type, std::int64_t count) {
    return {static_cast<void*>(buffers.on_device.get()), type, count};
  }

  // A tensor of that combination; where it has a float32 master, it may be the user's, and what is written a copy.
  template <typename Storage>
  void add_of() {
    using Parameter = typename Storage::Parameter;
    using Gradient = typename Storage::Gradient;
    constexpr Master kMaster = Storage::Master::kMaster;
    const std::int64_t count = random_.one_in(5) ? 0 : random_.below(random_.one_in(4) ? 9000 : 200);
    const bool is_copy = kMaster == Master::float32 && random_.one_in(2);
    const DataType type = is_copy ? DataType::float32 : detail::kDataType<Parameter>;
    Buffers& parameter = is_copy ? make_buffers<float>(count, -4, 1) : make_buffers<Parameter>(count, -4, 1);
    Buffers& gradient = make_buffers<Gradient>(count, -8, 2);
    TensorSpec spec{.name = std::to_string(names_++),
                    .group = GroupId{static_cast<std::int32_t>(random_.below(groups_))},
                    .state_type = detail::kDataType<typename Storage::State>};
    spec.master = is_copy ? Master::none : kMaster;
    spec.zero_gradient = random_.one_in(4);
    TensorSpec there = spec;
    spec.parameter = on_cpu(parameter, type, count);
    spec.gradient = on_cpu(gradient, detail::kDataType<Gradient>, count);
    there.parameter = on_device(parameter, type, count);
    there.gradient = on_device(gradient, detail::kDataType<Gradient>, count);
    if (is_copy && count > 0) {
      Buffers& copy = make_buffers<Parameter>(count, -4, 1);
      spec.copy = on_cpu(copy, detail::kDataType<Parameter>, count);
      there.copy = on_device(copy, detail::kDataType<Parameter>, count);
    }
    on_cpu_.add(spec);
    on_device_.add(there);
  }

  void remove() {
    const TensorId id = any();
    both([&](Optimizer& o) { o.remove(id); });
  }

  void point_elsewhere(TensorId id) {
    const ConstArray old = on_cpu_.tensor(id).gradient;
    kernels::with_type(old.type(), [&]<typename T>(T /*type*/) {
      Buffers& made = make_buffers<T>(old.count(), -8, 2);
      on_cpu_.set_gradient(id, on_cpu(made, old.type(), old.count()));
      on_device_.set_gradient(id, on_device(made, old.type(), old.count()));
    });
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
    if (here.count() == 0) return;
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

// 32 addresses fill the room that their table is rounded up to; the next byte is a tile's.
TEST_F(NeedsDevice, forgets_what_was_re_pointed_when_the_plan_becomes_shorter) {
  constexpr std::int64_t kTensors = 33;
  constexpr std::int64_t kCount = 5;
  const std::vector<float> values = spread_values<float>(kTensors * kCount, 1, -4, 1);
  host::DeviceMemory memory(cuda_device());
  const host::DeviceArray<float> parameters(memory, values);
  const host::DeviceArray<float> gradients(memory, values);
  std::vector<float> expected = values;
  Optimizer on_cpu(Adam{});
  Optimizer on_device(Adam{}, cuda_device());
  for (std::int64_t i = 0; i < kTensors; ++i) {
    const std::string name = std::to_string(i);
    on_cpu.add({.name = name,
                .parameter = {expected.data() + i * kCount, kCount},
                .gradient = {values.data() + i * kCount, kCount}});
    on_device.add({.name = name,
                   .parameter = {parameters.data() + i * kCount, kCount},
                   .gradient = {gradients.data() + i * kCount, kCount}});
  }
  const TensorId last{kTensors - 1};
  on_device.step();
  on_device.set_gradient(last, {gradients.data(), kCount});
  on_device.remove(last);
  for (int i = 0; i < 2; ++i) on_device.step();
  on_cpu.step();
  on_cpu.remove(last);
  for (int i = 0; i < 2; ++i) on_cpu.step();
  EXPECT_EQ(parameters.read(), expected);
}

class Trap22SameCalls : public DeviceTestWithParam<Case> {};

TEST_P(Trap22SameCalls, to_both_backends_give_the_same_bits) {
  for (int run = 0; run < 3; ++run) {
    Twins twins(GetParam(), run_seed() + seed_of(GetParam().name) + static_cast<unsigned>(run));
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

INSTANTIATE_TEST_SUITE_P(Rules, Trap22SameCalls, testing::ValuesIn(one_case_per_rule()),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace adamant::test
