// Promises P1 and P3 on a device: the rules and their per-step scalars, compiled by nvcc, give the bits that the CPU
// backend gives, for every rule and storage combination; and the PTX of the updates holds no instruction that could
// round otherwise. Needs a GPU, or an emulator that ADAMANT_EMULATOR names (run_device_test.sh). The kernels here are
// the plainest there could be; those of the CUDA backend have tests of their own.
#include <gtest/gtest.h>

#include <cuda_runtime.h>

#include <bit>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <iterator>
#include <limits>
#include <memory>
#include <regex>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "adamant/adamant.hpp"
#include "host/scalars.hpp"
#include "kernels/apply.hpp"
#include "kernels/rule_list.hpp"
#include "kernels/storage.hpp"
#include "tests/device.hpp"
#include "tests/inputs.hpp"

namespace adamant::test {

template <typename Rule, typename Storage>
__global__ void rule_scalars(const typename Rule::Options* options, const std::int64_t* steps, int count,
                             kernels::Scalars* scalars) {
  using Step = typename Rule::template Step<typename Storage::Real>;
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i >= count) return;
  const Step step = Step::at_step(*options, steps[i]);
  memcpy(scalars[i].bytes, &step, sizeof step);
}

// Where one element's parameter, gradient and states are: arrays of `count` elements one after the other.
template <typename Rule, typename Storage>
__global__ void rule_update(const kernels::Scalars* scalars, typename Storage::Real gradient_scale, int count,
                            typename Storage::Parameter* parameter, const typename Storage::Gradient* gradient,
                            typename Storage::State* states) {
  using Real = typename Storage::Real;
  using Step = typename Rule::template Step<Real>;
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i >= count) return;
  Step step;
  memcpy(&step, scalars->bytes, sizeof step);
  Element<Real, Rule::kSlots> element;
  element.parameter = parameter[i];
  for (int slot = 0; slot < Rule::kSlots; ++slot) element.state[slot] = states[slot * count + i];
  element = kernels::apply<Rule, Real>(step, gradient_scale, element, gradient[i]);
  parameter[i] = element.parameter;
  for (int slot = 0; slot < Rule::kSlots; ++slot) states[slot * count + i] = element.state[slot];
}

namespace {

constexpr int kBlock = 128;
int blocks(int count) { return (count + kBlock - 1) / kBlock; }

// A copy of host elements in device memory.
template <typename T>
class DeviceArray {
 public:
  explicit DeviceArray(const std::vector<T>& values) : count_(values.size()) {
    void* data = nullptr;
    EXPECT_EQ(cudaMalloc(&data, bytes() + 1), cudaSuccess);
    data_.reset(static_cast<T*>(data));
    write(values);
  }
  T* get() const { return data_.get(); }
  void write(const std::vector<T>& values) {
    EXPECT_EQ(cudaMemcpy(data_.get(), values.data(), bytes(), cudaMemcpyHostToDevice), cudaSuccess);
  }
  std::vector<T> read() const {
    std::vector<T> values(count_);
    EXPECT_EQ(cudaMemcpy(values.data(), data_.get(), bytes(), cudaMemcpyDeviceToHost), cudaSuccess);
    return values;
  }

 private:
  struct Free {
    void operator()(T* data) const { cudaFree(data); }
  };
  std::size_t bytes() const { return count_ * sizeof(T); }
  std::size_t count_;
  std::unique_ptr<T, Free> data_;
};

// Calls body.template operator()<Rule, Storage>(rule index, storage index) for every combination there is.
template <typename Body, typename... Rules, typename... Storages>
void for_each_combination(const Body& body, TypeList<Rules...> /*rules*/, TypeList<Storages...> /*storages*/) {
  int rule = 0;
  const auto with_rule = [&]<typename Rule>(std::type_identity<Rule>) {
    int storage = 0;
    (body.template operator()<Rule, Storages>(rule, storage++), ...);
    ++rule;
  };
  (with_rule(std::type_identity<Rules>{}), ...);
}
template <typename Body>
void for_each_combination(const Body& body) {
  for_each_combination(body, kernels::Rules{}, kernels::Storages{});
}

// Options that run as the rule, other than the defaults wherever a field may be.
template <typename Rule>
std::vector<typename Rule::Options> options_of() {
  using Options = typename Rule::Options;
  std::vector<Options> plain;
  for (const char* momentum : {"0", "0.8"}) {
    for (const char* flag : {"false", "true"}) {
      Method method{Options{}};
      for (const Option& option : options(method)) {
        if (option.name == "momentum") set_option(method, "momentum", momentum);
        if (option.name == "amsgrad" || option.name == "centered") set_option(method, option.name, flag);
      }
      const Options& made = std::get<Options>(method);
      const auto is_this = []<typename... Rules>(int variant, TypeList<Rules...>) {
        int index = 0;
        bool same = false;
        ((same = same || (index++ == variant && std::is_same_v<Rules, Rule>)), ...);
        return same;
      };
      if (is_this(made.variant(), typename Options::Variants{})) plain.push_back(made);
    }
  }
  std::vector<Options> all;
  for (const Options& options_now : plain) {
    all.push_back(options_now);
    Method changed{options_now};
    for (const auto& [name, value] :
         {std::pair{"weight_decay", "0.03"}, std::pair{"maximize", "true"}, std::pair{"learning_rate", "0.0031"},
          std::pair{"beta1", "0.37"}, std::pair{"beta2", "0.9973"}, std::pair{"decay", "0.41"},
          std::pair{"epsilon", "0.0123"}, std::pair{"epsilon_placement", "outside_root"},
          std::pair{"dampening", "0.3"}}) {
      for (const Option& option : options(changed)) {
        if (option.name == name) set_option(changed, name, value);
      }
    }
    all.push_back(std::get<Options>(changed));
    if constexpr (requires { options_now.nesterov; }) {
      if (options_now.momentum == 0.0) continue;
      all.push_back(options_now);
      all.back().nesterov = true;
    }
  }
  return all;
}

const std::vector<std::int64_t>& step_counts() {
  static const std::vector<std::int64_t> all{
      1, 2, 3, 10, 1000, 100003, (std::int64_t{1} << 31) + 1, std::int64_t{1} << 40, (std::int64_t{1} << 53) + 1};
  return all;
}

// All pairs of special values come first, then ordinary numbers, subnormals, and any bits at all.
template <typename Real>
std::vector<Real> special_values() {
  using Limits = std::numeric_limits<Real>;
  std::vector<Real> all{Real{0},
                        Limits::denorm_min(),
                        Limits::min() / 2,
                        Limits::min(),
                        std::sqrt(Limits::min()),
                        Limits::epsilon(),
                        Real{1},
                        std::sqrt(Limits::max()),
                        Limits::max(),
                        Limits::infinity(),
                        Limits::quiet_NaN(),
                        std::bit_cast<Real>(static_cast<Bits<Real>>(kCanonicalNan<Real> + 5))};  // another NaN
  const std::size_t positive = all.size();
  for (std::size_t i = 0; i < positive; ++i) all.push_back(-all[i]);
  return all;
}

enum class Part { first, second };

template <typename Real>
std::vector<Real> inputs(Part part, std::uint64_t seed) {
  constexpr int kMantissa = sizeof(Real) == 4 ? 23 : 52;
  const std::vector<Real> special = special_values<Real>();
  std::vector<Real> values;
  for (const Real first : special) {
    for (const Real second : special) values.push_back(part == Part::first ? first : second);
  }
  Random random(seed);
  for (int i = 0; i < 1500; ++i) {
    switch (random.below(8)) {
      case 0: values.push_back(std::bit_cast<Real>(static_cast<Bits<Real>>(random.bits()))); break;
      case 1: values.push_back(std::bit_cast<Real>(static_cast<Bits<Real>>(random.bits() >> (65 - kMantissa)))); break;
      default: values.push_back(random.spread<Real>(-30, 10));
    }
  }
  return values;
}

using DeviceRules = NeedsDevice;

std::vector<unsigned char> bytes_of(const kernels::Scalars& scalars) {
  std::vector<unsigned char> bytes(kernels::kScalarBytes);
  std::memcpy(bytes.data(), scalars.bytes, bytes.size());
  return bytes;
}

TEST_F(DeviceRules, compute_the_per_step_scalars_that_the_host_computes) {
  int combinations = 0;
  for_each_combination([&]<typename Rule, typename Storage>(int rule, int storage) {
    ++combinations;
    const DeviceArray<std::int64_t> steps(step_counts());
    const int count = static_cast<int>(step_counts().size());
    ASSERT_FALSE(options_of<Rule>().empty()) << "rule " << rule;
    for (const typename Rule::Options& options : options_of<Rule>()) {
      const DeviceArray<typename Rule::Options> device_options({options});
      DeviceArray<kernels::Scalars> scalars(std::vector<kernels::Scalars>(step_counts().size()));
      rule_scalars<Rule, Storage><<<blocks(count), kBlock>>>(device_options.get(), steps.get(), count, scalars.get());
      ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
      const std::vector<kernels::Scalars> actual = scalars.read();
      for (std::size_t i = 0; i < actual.size(); ++i) {
        const kernels::Scalars expected = host::scalars_at_step(rule, storage, Method{options}, step_counts()[i]);
        EXPECT_EQ(bytes_of(actual[i]), bytes_of(expected))
            << Rule::Options::kName << " rule " << rule << " storage " << storage << " t " << step_counts()[i];
      }
    }
  });
  EXPECT_EQ(combinations, static_cast<int>(kernels::Rules::kSize * kernels::Storages::kSize));
}

// Steps one tensor on both sides from the step count `first` on and compares everything after each step.
template <typename Rule, typename Storage>
void expect_equal_steps(const typename Rule::Options& options, std::int64_t first) {
  using Real = typename Storage::Real;
  const Method method{options};
  std::vector<Real> parameter = inputs<Real>(Part::first, 11);
  std::vector<Real> gradient = inputs<Real>(Part::second, 12);
  const auto size = parameter.size();
  const int count = static_cast<int>(size);

  Optimizer optimizer(method, Device::cpu(), {.threads = 1});
  const TensorId id =
      optimizer.add({.name = "x", .parameter = {parameter.data(), count}, .gradient = {gradient.data(), count}});
  const std::vector<std::string> names = state_names(method);
  ASSERT_EQ(names.size(), static_cast<std::size_t>(Rule::kSlots));
  std::vector<Real> states;
  for (std::size_t slot = 0; slot < names.size(); ++slot) {
    // States as a run leaves them: squares are not negative, everything else is anything.
    std::vector<Real> values = inputs<Real>(Part::second, 20 + slot);
    if (names[slot].find("sq") != std::string::npos) {
      for (Real& value : values) value = std::fabs(value);
    }
    if (first > 1) std::memcpy(optimizer.state(id, names[slot]).data(), values.data(), size * sizeof(Real));
    if (first == 1) values.assign(size, Real{0});
    states.insert(states.end(), values.begin(), values.end());
  }
  optimizer.set_step_count(id, first - 1);

  DeviceArray<Real> device_parameter(parameter);
  DeviceArray<Real> device_gradient(gradient);
  DeviceArray<Real> device_states(states);
  const DeviceArray<typename Rule::Options> device_options({options});
  const auto scale = static_cast<Real>(host::gradient_scale(method));
  for (std::int64_t t = first; t < first + 3; ++t) {
    const std::vector<Real> next = inputs<Real>(t % 2 == 0 ? Part::first : Part::second, static_cast<std::uint64_t>(t));
    gradient = next;
    device_gradient.write(next);
    optimizer.step();

    const DeviceArray<std::int64_t> step({t});
    DeviceArray<kernels::Scalars> scalars(std::vector<kernels::Scalars>(1));
    rule_scalars<Rule, Storage><<<1, 1>>>(device_options.get(), step.get(), 1, scalars.get());
    rule_update<Rule, Storage><<<blocks(count), kBlock>>>(scalars.get(), scale, count, device_parameter.get(),
                                                          device_gradient.get(), device_states.get());
    ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);

    ASSERT_TRUE(same_bits(device_parameter.read(), parameter)) << "parameter after step " << t;
    const std::vector<Real> all = device_states.read();
    for (std::size_t slot = 0; slot < names.size(); ++slot) {
      const Real* expected = optimizer.state(id, names[slot]).template as<Real>();
      ASSERT_TRUE(
          same_bits(std::span<const Real>(all.data() + slot * size, size), std::span<const Real>(expected, size)))
          << names[slot] << " after step " << t;
    }
  }
}

TEST_F(DeviceRules, step_parameters_and_states_to_the_bits_of_the_cpu_backend) {
  for_each_combination([&]<typename Rule, typename Storage>(int rule, int storage) {
    if (HasFatalFailure()) return;
    for (const typename Rule::Options& options : options_of<Rule>()) {
      for (const std::int64_t first : {std::int64_t{1}, std::int64_t{1000}, std::int64_t{1} << 40}) {
        SCOPED_TRACE(std::string(Rule::Options::kName) + " rule " + std::to_string(rule) + " storage " +
                     std::to_string(storage) + " from step " + std::to_string(first));
        expect_equal_steps<Rule, Storage>(options, first);
      }
    }
  });
}

// --- what nvcc made --------------------------------------------------------------------------------------------------

struct Kernel {
  std::string name;  // mangled
  std::string body;
};

// The kernels of this file's PTX whose name holds `part`.
std::vector<Kernel> ptx_kernels(const std::string& part) {
  std::ifstream file(ADAMANT_PTX_FILE);
  const std::string text{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  static const std::regex entry(R"(\.entry\s+(\w+))");
  std::vector<Kernel> kernels;
  for (std::sregex_iterator it(text.begin(), text.end(), entry), end; it != end; ++it) {
    const auto begin = static_cast<std::size_t>(it->position());
    const std::size_t close = text.find("\n}", begin);
    if ((*it)[1].str().find(part) != std::string::npos) {
      kernels.push_back({(*it)[1].str(), text.substr(begin, close - begin)});
    }
  }
  return kernels;
}

// The arithmetic type, from the mangled name of the kernel's Storage argument.
bool is_double(const Kernel& kernel) { return kernel.name.find("7StorageId") != std::string::npos; }

std::string first_match(const std::string& text, const char* pattern) {
  std::smatch match;
  return std::regex_search(text, match, std::regex(pattern)) ? match.str() : "";
}

TEST(DevicePtx, holds_every_update_and_every_scalar_kernel) {
  const std::size_t combinations = kernels::Rules::kSize * kernels::Storages::kSize;
  EXPECT_EQ(ptx_kernels("rule_update").size(), combinations) << ADAMANT_PTX_FILE;
  EXPECT_EQ(ptx_kernels("rule_scalars").size(), combinations);
}

TEST(DevicePtx, of_every_kernel_rounds_every_operation_by_itself_and_to_nearest) {
  for (const char* part : {"rule_update", "rule_scalars"}) {
    for (const Kernel& kernel : ptx_kernels(part)) {
      EXPECT_EQ(first_match(kernel.body, R"(\bfma\.[^;]*)"), "") << kernel.name;
      EXPECT_EQ(first_match(kernel.body, R"(\bmad\.[^;]*f(32|64)[^;]*)"), "") << kernel.name;
      EXPECT_EQ(first_match(kernel.body, R"([a-z]+\.(approx|full|ftz|sat)[^;]*)"), "") << kernel.name;
      EXPECT_EQ(first_match(kernel.body, R"([a-z]+\.r[a-z0-9.]*\.ftz[^;]*)"), "") << kernel.name;
      // Without .rn, ptxas may fuse a multiplication with an addition.
      EXPECT_EQ(first_match(kernel.body, R"(\b(add|sub|mul)\.f(32|64)[^;]*)"), "") << kernel.name;
      EXPECT_EQ(first_match(kernel.body, R"(\b(add|sub|mul|div|sqrt)\.r[zmp][^;]*)"), "") << kernel.name;
      EXPECT_EQ(first_match(kernel.body, R"(\b(div|sqrt)\.(?!rn\.)(?![su](16|32|64))[^;]*)"), "") << kernel.name;
      EXPECT_EQ(first_match(kernel.body, R"(\bcall\b[^;]*)"), "") << kernel.name;
    }
  }
}

TEST(DevicePtx, of_a_float_update_has_no_double_in_it_and_of_a_double_update_no_float) {
  std::size_t roots = 0;
  for (const Kernel& kernel : ptx_kernels("rule_update")) {
    const bool wide = is_double(kernel);
    EXPECT_EQ(first_match(kernel.body, wide ? R"([a-z.]+\.f32[^;]*)" : R"([a-z0-9.]+\.f64[^;]*)"), "") << kernel.name;
    EXPECT_NE(first_match(kernel.body, wide ? R"(mul\.rn\.f64)" : R"(mul\.rn\.f32)"), "") << kernel.name;
    const bool root = !first_match(kernel.body, wide ? R"(sqrt\.rn\.f64)" : R"(sqrt\.rn\.f32)").empty();
    const bool division = !first_match(kernel.body, wide ? R"(div\.rn\.f64)" : R"(div\.rn\.f32)").empty();
    EXPECT_EQ(root, division) << kernel.name;
    roots += root ? 1 : 0;
  }
  EXPECT_GT(roots, 0U);
}

}  // namespace
}  // namespace adamant::test
