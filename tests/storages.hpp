// Storage combinations for tests: which of them to run, numbers of any type, what 16 bits mean (an oracle that shares
// nothing with kernels/narrow.hpp), one tensor of a combination with its optimizer, and one with more than 2^32
// elements.
#pragma once

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <limits>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "adamant/adamant.hpp"
#include "host/cpu_backend.hpp"
#include "host/device_memory.hpp"
#include "host/method.hpp"
#include "host/plan.hpp"
#include "host/safetensors.hpp"
#include "kernels/storage.hpp"
#include "kernels/storage_types.hpp"
#include "tests/folder.hpp"
#include "tests/inputs.hpp"
#include "tests/methods.hpp"

namespace adamant::test {

// --- Which combinations

// Calls body(std::type_identity<Storage>{}) with the combination of that index in kernels::Storages.
template <typename Body, typename... Storages>
void with_storage(int storage, const Body& body, TypeList<Storages...> /*all*/) {
  int index = 0;
  const auto call = [&]<typename Storage>(std::type_identity<Storage> tag) {
    if (index++ == storage) body(tag);
  };
  (call(std::type_identity<Storages>{}), ...);
}
template <typename Body>
void with_storage(int storage, const Body& body) {
  with_storage(storage, body, kernels::Storages{});
}

inline std::vector<int> every_storage() {
  std::vector<int> all(kernels::storages().size());
  for (std::size_t i = 0; i < all.size(); ++i) all[i] = static_cast<int>(i);
  return all;
}

inline std::vector<int> storages_where(bool (*wanted)(const kernels::StorageTypes& types)) {
  std::vector<int> all = every_storage();
  std::erase_if(all, [&](int storage) { return !wanted(kernels::storages()[static_cast<std::size_t>(storage)]); });
  return all;
}
inline std::vector<int> storages_with_a_master() {
  return storages_where([](const kernels::StorageTypes& types) {
    return types.master == Master::float32 || types.master == Master::remainder;
  });
}

inline std::string storage_name(int storage) {
  std::string text = kernels::short_name(kernels::storages()[static_cast<std::size_t>(storage)]);
  for (char& letter : text) letter = letter == '/' ? '_' : letter;
  return text;
}

// --- What 16 bits mean

template <typename T>
struct Format;
template <>
struct Format<bfloat16> {
  static constexpr int kMantissa = 7;
  static constexpr int kBias = 127;
  static constexpr std::uint16_t kInfinity = 0x7F80;
  static constexpr std::uint16_t kNan = 0x7FC0;
};
template <>
struct Format<float16> {
  static constexpr int kMantissa = 10;
  static constexpr int kBias = 15;
  static constexpr std::uint16_t kInfinity = 0x7C00;
  static constexpr std::uint16_t kNan = 0x7E00;
};

// The number that a pattern without its sign stands for; infinity as the number that would come after the largest.
template <typename T>
double magnitude_of(std::uint16_t bits) {
  using F = Format<T>;
  const int exponent = bits >> F::kMantissa;
  const int mantissa = bits & ((1 << F::kMantissa) - 1);
  if (exponent == 0) return std::ldexp(mantissa, 1 - F::kBias - F::kMantissa);
  return std::ldexp(mantissa + (1 << F::kMantissa), exponent - F::kBias - F::kMantissa);
}

template <typename T>
double value_of(T x) {
  if constexpr (std::is_floating_point_v<T>) {
    return static_cast<double>(x);
  } else {
    const auto magnitude = static_cast<std::uint16_t>(x.bits & 0x7FFF);
    double value = magnitude_of<T>(magnitude);
    if (magnitude == Format<T>::kInfinity) value = HUGE_VAL;
    if (magnitude > Format<T>::kInfinity) value = std::nan("");
    return x.bits >> 15 != 0 ? -value : value;
  }
}

// The spacing of T's numbers at `x`: of the binade that |x| is in.
template <typename T>
double spacing(double x) {
  if constexpr (std::is_floating_point_v<T>) {
    const T at = static_cast<T>(std::fabs(x));
    return static_cast<double>(std::nextafter(at, std::numeric_limits<T>::infinity()) - at);
  } else {
    const int exponent = x == 0 ? -1000 : std::ilogb(x);
    return std::ldexp(1.0, std::max(exponent, 1 - Format<T>::kBias) - Format<T>::kMantissa);
  }
}

// The nearest T to a float32, ties to even, found by bisection among all patterns.
template <typename T>
T nearest(float x) {
  if constexpr (std::is_floating_point_v<T>) {
    return static_cast<T>(x);
  } else {
    if (x != x) return {Format<T>::kNan};
    const double size = std::fabs(static_cast<double>(x));
    const auto sign = static_cast<std::uint16_t>(std::signbit(x) ? 0x8000 : 0);
    if (size >= magnitude_of<T>(Format<T>::kInfinity)) {
      return {static_cast<std::uint16_t>(Format<T>::kInfinity | sign)};
    }
    std::uint16_t below = 0;
    std::uint16_t above = Format<T>::kInfinity;
    while (above - below > 1) {
      const auto middle = static_cast<std::uint16_t>((below + above) / 2);
      (magnitude_of<T>(middle) <= size ? below : above) = middle;
    }
    const double to_below = size - magnitude_of<T>(below);
    const double to_above = magnitude_of<T>(above) - size;
    const bool up = to_above < to_below || (to_above == to_below && below % 2 != 0);
    return {static_cast<std::uint16_t>((up ? above : below) | sign)};
  }
}

// --- Numbers

template <typename T>
std::vector<T> stored_values(std::int64_t count, std::uint64_t seed, int lowest, int highest) {
  if constexpr (std::is_floating_point_v<T>) {
    return spread_values<T>(count, seed, lowest, highest);
  } else {
    std::vector<T> values;
    for (const float value : spread_values<float>(count, seed, lowest, highest)) values.push_back(nearest<T>(value));
    return values;
  }
}

template <typename T>
std::vector<T> nearest_of(const std::vector<float>& values) {
  std::vector<T> result;
  result.reserve(values.size());
  for (const float value : values) result.push_back(nearest<T>(value));
  return result;
}

// All that tells rounding to T apart from anything else: every number of T, what is halfway between neighbours, the
// float32 on either side of each, and NaNs; in both signs.
template <typename T>
std::vector<float> telling_values() {
  std::vector<float> all;
  const auto with_neighbours = [&](double value) {
    // What is beyond the largest float32 is not converted: that would be undefined.
    const float x = value > std::numeric_limits<float>::max() ? HUGE_VALF : static_cast<float>(value);
    for (const float each : {x, std::nextafter(x, HUGE_VALF), std::nextafter(x, -HUGE_VALF)}) {
      all.push_back(each);
      all.push_back(-each);
    }
  };
  for (std::uint16_t bits = 0; bits <= Format<T>::kInfinity; ++bits) {
    const double value = magnitude_of<T>(bits);
    with_neighbours(value);  // of a bfloat16 infinity's value no float32 is left but infinity
    with_neighbours((value + magnitude_of<T>(static_cast<std::uint16_t>(bits + 1))) / 2);
  }
  for (const std::uint32_t nan : {0x7FC00000U, 0x7FFFFFFFU, 0x7F800001U, 0x7F808000U, 0x7F80FFFFU, 0xFFC00000U,
                                  0xFFFFFFFFU, 0xFF800001U, 0xFFFF8000U}) {
    all.push_back(std::bit_cast<float>(nan));
  }
  return all;
}

// --- What a backend makes of numbers

template <typename T>
std::vector<T> read_as(const safetensors::File& file, const std::string& name) {
  const safetensors::Entry& entry = file.at(name);
  std::vector<T> values(entry.data.size() / sizeof(T));
  if (!values.empty()) std::memcpy(values.data(), entry.data.data(), entry.data.size());
  return values;
}

// float32 as T: a master, stepped at a learning rate of 0.
template <typename T>
std::vector<T> narrowed_on(Device device, const std::vector<float>& values, Tuning tuning = {.threads = 1}) {
  host::DeviceMemory memory(device);
  const auto count = static_cast<std::int64_t>(values.size());
  const host::DeviceArray<T> parameter(memory, count);
  const host::DeviceArray<float> gradient(memory, count);
  Optimizer optimizer(GradientDescent{.learning_rate = 0}, device, tuning);
  const TensorId id =
      optimizer.add({.name = "x", .parameter = {parameter.data(), count}, .gradient = {gradient.data(), count}});
  memory.write(optimizer.state(id, "master").data(), std::as_bytes(std::span(values)));
  optimizer.step();
  return parameter.read();
}

// float32 as the bfloat16 states of a float32 parameter: Momentum's first step takes v = 0 + g.
inline std::vector<bfloat16> narrowed_to_state_on(Device device, const std::vector<float>& values,
                                                  Tuning tuning = {.threads = 1}) {
  host::DeviceMemory memory(device);
  const auto count = static_cast<std::int64_t>(values.size());
  const host::DeviceArray<float> parameter(memory, count);
  const host::DeviceArray<float> gradient(memory, std::span<const float>(values));
  Optimizer optimizer(Momentum{}, device, tuning);
  const TensorId id = optimizer.add({.name = "x",
                                     .parameter = {parameter.data(), count},
                                     .gradient = {gradient.data(), count},
                                     .state_type = DataType::bfloat16});
  optimizer.step();
  std::vector<bfloat16> state(values.size());
  memory.read(std::as_writable_bytes(std::span(state)), optimizer.state(id, "momentum_buffer").data());
  return state;
}

// T as float32 with the sign turned: gradients at a learning rate of 1, from a parameter of -0.
template <typename T>
std::vector<float> widened_and_negated_on(Device device, const std::vector<T>& values, Tuning tuning = {.threads = 1}) {
  host::DeviceMemory memory(device);
  const auto count = static_cast<std::int64_t>(values.size());
  const std::vector<float> zeros(values.size(), -0.0F);
  const host::DeviceArray<float> parameter(memory, std::span<const float>(zeros));
  const host::DeviceArray<T> gradient(memory, std::span<const T>(values));
  Optimizer optimizer(GradientDescent{.learning_rate = 1}, device, tuning);
  optimizer.add({.name = "x", .parameter = {parameter.data(), count}, .gradient = {gradient.data(), count}});
  optimizer.step();
  return parameter.read();
}

// float32 as a bfloat16 and its remainder: gradients at a learning rate of 1, from a parameter of -0; then another step
// that moves nothing and has to put the halves together and take them apart again.
struct Halves {
  std::vector<bfloat16> parameter;
  std::vector<std::uint16_t> remainder;
};
inline Halves halves_on(Device device, const std::vector<float>& values, Tuning tuning = {.threads = 1}) {
  host::DeviceMemory memory(device);
  const auto count = static_cast<std::int64_t>(values.size());
  std::vector<float> negated = values;
  for (float& value : negated) value = -value;
  const std::vector<bfloat16> zeros(values.size(), bfloat16{0x8000});
  const host::DeviceArray<bfloat16> parameter(memory, std::span<const bfloat16>(zeros));
  host::DeviceArray<float> gradient(memory, std::span<const float>(negated));
  Optimizer optimizer(GradientDescent{.learning_rate = 1}, device, tuning);
  optimizer.add({.name = "x",
                 .parameter = {parameter.data(), count},
                 .gradient = {gradient.data(), count},
                 .master = Master::remainder});
  optimizer.step();
  gradient.write(std::vector<float>(values.size(), 0.0F));
  optimizer.set_learning_rate(GroupId{}, 0);
  optimizer.step();
  const Folder folder;
  optimizer.save(folder.file("all"));
  const safetensors::File file = safetensors::File::open(folder.file("all"));
  return {parameter.read(), read_as<std::uint16_t>(file, "x.remainder")};
}

// What these can be asked for: of an infinity a step makes a NaN, because even no weight decay is 0 times it.
template <typename T>
std::vector<float> telling_values_of_updates() {
  std::vector<float> values = telling_values<T>();
  std::erase_if(values, [](float x) { return std::isinf(x); });
  return values;
}

// --- One tensor of a combination, on the CPU

// A float32 from the halves that a remainder leaves: the parameter is the upper half of the bits plus
// 0x8000, the remainder the lower half.
inline float joined(bfloat16 parameter, std::uint16_t remainder) {
  std::int32_t upper = parameter.bits;
  if (remainder >= 0x8000) --upper;
  return std::bit_cast<float>(static_cast<std::uint32_t>(upper) * 65536U + remainder);
}

template <typename Storage>
class StoredTensor {
 public:
  using Parameter = typename Storage::Parameter;
  using Gradient = typename Storage::Gradient;
  using State = typename Storage::State;
  using Real = typename Storage::Real;

  explicit StoredTensor(const Method& method, const std::vector<Parameter>& initial, Tuning tuning = {.threads = 1})
      : optimizer(method, Device::cpu(), tuning), parameter(initial), gradient(parameter.count()) {
    id = optimizer.add({.name = "x",
                        .parameter = parameter.span(),
                        .gradient = gradient.span(),
                        .state_type = detail::kDataType<State>,
                        .master = Storage::Master::kMaster});
  }

  void step(const std::vector<Gradient>& g) {
    gradient.fill(g);
    optimizer.step();
  }

  std::span<State> state(const std::string& name) {
    return {static_cast<State*>(optimizer.state(id, name).data()), static_cast<std::size_t>(parameter.count())};
  }
  std::vector<std::string> states() const { return state_names(optimizer.options()); }

  // The numbers that the steps go on from, in full precision.
  std::vector<Real> full() {
    std::vector<Real> values;
    if constexpr (Storage::Master::kMaster == Master::float32) {
      const auto* const master = optimizer.state(id, "master").template as<float>();
      values.assign(master, master + parameter.count());
    } else if constexpr (Storage::Master::kMaster == Master::remainder) {
      const Folder folder;
      optimizer.save(folder.file("all"));
      const auto remainder = read_as<std::uint16_t>(safetensors::File::open(folder.file("all")), "x.remainder");
      for (std::size_t i = 0; i < remainder.size(); ++i) {
        values.push_back(joined(parameter[static_cast<std::int64_t>(i)], remainder[i]));
      }
    } else {
      for (const Parameter each : parameter.span()) values.push_back(static_cast<Real>(value_of(each)));
    }
    return values;
  }

  Optimizer optimizer;
  Fenced<Parameter> parameter;
  Fenced<Gradient> gradient;
  TensorId id{};
};

// --- Elements far out, on the CPU

// Momentum whose steps leave numbers between two bfloat16 that are known exactly: v <- 2^-8 v + g = 1 + 2^-8 and
// x <- x - 2^-9 v = 1 - 2^-9 - 2^-17, from x = v = g = 1, half way or nearly so.
inline constexpr float kStateBetween = 1 + 0x1p-8F;
inline constexpr float kParameterBetween = 1 - 0x1p-9F - 0x1p-17F;
inline Momentum between() { return {.learning_rate = 0x1p-9, .momentum = 0x1p-8}; }

// Address space, of which the pages that are touched become memory.
template <typename T>
class Reserved {
 public:
  explicit Reserved(std::int64_t count) : bytes_(static_cast<std::size_t>(count) * sizeof(T)) {
    void* const memory =
        ::mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    data_ = memory == MAP_FAILED ? nullptr : static_cast<T*>(memory);
  }
  ~Reserved() {
    if (data_ != nullptr) ::munmap(data_, bytes_);
  }
  Reserved(const Reserved&) = delete;
  Reserved& operator=(const Reserved&) = delete;
  T* data() const { return data_; }

 private:
  std::size_t bytes_;
  T* data_ = nullptr;
};

// A bfloat16 tensor of more than 2^32 elements, of which there are only the chunks on both sides of 2^31 and of 2^32.
template <typename Storage>
class FarOut {
 public:
  static constexpr std::int64_t kCount = (std::int64_t{1} << 32) + kChunk;
  static constexpr std::int64_t kChunks[] = {(std::int64_t{1} << 31) - kChunk, std::int64_t{1} << 31,
                                             (std::int64_t{1} << 32) - kChunk, std::int64_t{1} << 32};

  // Steps them with between() from ones, the second step of a run, through the CPU backend, which is to measure the
  // norm and to set the gradients to zero. Then calls body(element) with each element that is there.
  template <typename Body>
  void step(std::uint32_t seed, const host::UpdateTable& loops, const Body& body) const {
    for (const auto& array : {parameter.data(), gradient.data()}) ASSERT_NE(array, nullptr);
    ASSERT_NE(kept.data(), nullptr);
    ASSERT_NE(state.data(), nullptr);
    for (const std::int64_t first : kChunks) {
      std::fill_n(parameter.data() + first, kChunk, bfloat16{0x3F80});
      std::fill_n(gradient.data() + first, kChunk, bfloat16{0x3F80});
      std::fill_n(kept.data() + first, kChunk, 0);
      std::fill_n(state.data() + first, kChunk, nearest<typename Storage::State>(1));
    }
    kernels::TensorRow row{};
    row.parameter = parameter.data();
    row.gradient = gradient.data();
    row.kept = kept.data();
    row.state[0] = state.data();
    row.count = kCount;
    row.storage = *kernels::find_storage(
        {DataType::bfloat16, DataType::bfloat16, detail::kDataType<typename Storage::State>, Storage::Master::kMaster});
    row.zero_gradient = 1;
    kernels::StepPlan plan = host::make_plan({row}, kChunk, 0);
    plan.norm = host::make_norm_plan(plan.rows);
    const auto is_not_there = [](const auto& part) {
      return std::count(std::begin(kChunks), std::end(kChunks), part.first) == 0;
    };
    std::erase_if(plan.tiles, is_not_there);
    std::erase_if(plan.norm.leaves, is_not_there);
    plan.ranges.at(0).whole = plan.ranges.at(0).end = std::ssize(plan.tiles);
    plan.norm.ranges.at(0).end = std::ssize(plan.norm.leaves);
    kernels::Control control = kernels::plain_control();
    control.measures = 1;
    control.seed = {{seed, 0}};
    const Method method = between();
    const auto backend = host::make_cpu_backend(host::rule_index(method), loops, 1);
    backend->reserve(1, 1);
    backend->set_first_options(0, method);
    backend->set_step_count(0, 1, nullptr);
    backend->set_control(control, nullptr);
    backend->set_plan(std::move(plan));
    backend->step(nullptr);
    EXPECT_EQ(backend->read_report(nullptr).gradient_norm, std::sqrt(std::size(kChunks) * kChunk));
    for (const std::int64_t first : kChunks) {
      for (std::int64_t i = first; i < first + kChunk; ++i) {
        ASSERT_EQ(gradient.data()[i].bits, 0) << i;
        body(i);
        if (testing::Test::HasFatalFailure()) return;
      }
    }
  }

  const Reserved<bfloat16> parameter{kCount};
  const Reserved<bfloat16> gradient{kCount};
  const Reserved<std::uint16_t> kept{kCount};
  const Reserved<typename Storage::State> state{kCount};
};

}  // namespace adamant::test
