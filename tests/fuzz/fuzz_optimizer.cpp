// Any bytes as a sequence of calls to an Optimizer, mistakes among them, against a model. The model knows from the
// documentation which calls are to be refused, and keeps what everything has to be: names, groups, options, freezes,
// step counts, pointers, and every bit of parameters, gradients and states, which only a step, a zeroing or a load may
// change. A step is checked twice: against the textbook in double with promise P4's bound, where that holds, and bit
// for bit against an Optimizer that has this tensor alone.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <functional>
#include <iterator>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "adamant/adamant.hpp"
#include "host/measure.hpp"
#include "host/reference.hpp"
#include "host/text.hpp"
#include "tests/fuzz/fuzzing.hpp"

namespace adamant::fuzz {
namespace {

// --- What an input says

class Bytes {
 public:
  Bytes(const std::uint8_t* data, std::size_t size) : data_(data, size) {}

  bool empty() const { return at_ == data_.size(); }
  std::uint8_t next() { return empty() ? std::uint8_t{0} : data_[at_++]; }
  std::size_t below(std::size_t bound) { return next() % bound; }
  bool one_in(std::size_t n) { return below(n) == n - 1; }  // what comes after the end is no mistake

 private:
  std::span<const std::uint8_t> data_;
  std::size_t at_ = 0;
};

// splitmix64: many numbers from a byte.
class Numbers {
 public:
  explicit Numbers(std::uint64_t seed) : state_(seed) {}
  std::uint64_t bits() {
    std::uint64_t z = (state_ += 0x9E3779B97F4A7C15ULL);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ULL;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBULL;
    return z ^ (z >> 31);
  }

 private:
  std::uint64_t state_;
};

template <typename Real>
using Bits = std::conditional_t<sizeof(Real) == 4, std::uint32_t, std::uint64_t>;

template <typename Real>
Real number_of_kind(std::size_t kind, Numbers& numbers) {
  constexpr int kMantissa = sizeof(Real) == 4 ? 23 : 52;
  const std::uint64_t bits = numbers.bits();
  const auto ordinary =
      static_cast<Real>(std::ldexp(1.0 + static_cast<double>(bits >> 12) * 0x1p-52, -4 + static_cast<int>(bits % 6)) *
                        ((bits & 64) != 0 ? -1.0 : 1.0));
  switch (kind) {
    case 0: return ordinary;
    case 1: return Real{0};
    case 2: return std::bit_cast<Real>(static_cast<Bits<Real>>(bits));  // NaN and infinity among them
    case 3: return std::bit_cast<Real>(static_cast<Bits<Real>>(bits >> (65 - kMantissa)));  // subnormal
    default: return bits % 5 == 0 ? std::bit_cast<Real>(static_cast<Bits<Real>>(numbers.bits())) : ordinary;
  }
}

// --- Options, as the model has them

struct Settings {
  std::string method;
  std::map<std::string, double> values;  // flags as 0 and 1, epsilon_placement as its enumerator

  double at(const std::string& option) const {
    const auto found = values.find(option);
    return found == values.end() ? 0.0 : found->second;
  }
  bool has(const std::string& option) const { return values.contains(option); }
};

bool is_flag(std::string_view option) {
  return option == "maximize" || option == "nesterov" || option == "centered" || option == "amsgrad";
}
bool is_number(std::string_view option) { return !is_flag(option) && option != "epsilon_placement"; }

double value_of(std::string_view text) {
  if (text == "true" || text == "outside_root") return 1;
  if (text == "false" || text == "inside_root") return 0;
  const auto number = host::from_text<double>(text);
  require(number.has_value(), "an option's text is no value: " + std::string(text));
  return *number;
}
std::string text_of(std::string_view option, double value) {
  if (is_flag(option)) return value != 0 ? "true" : "false";
  if (option == "epsilon_placement") return value != 0 ? "outside_root" : "inside_root";
  return host::to_text(value);
}

Settings settings_of(const Method& method) {
  Settings settings{std::string(name(method)), {}};
  for (const Option& option : options(method)) settings.values[option.name] = value_of(option.value);
  return settings;
}

// A Method with these values, however wrong they are.
Method unchecked(const Settings& settings) {
  Method method = make_method(settings.method);
  std::visit(
      [&](auto& fields) {
        std::remove_cvref_t<decltype(fields)>::visit_fields(fields,
                                                            [&](std::string_view name, auto& field, const auto&...) {
                                                              const double value = settings.at(std::string(name));
                                                              using Field = std::remove_cvref_t<decltype(field)>;
                                                              if constexpr (std::is_same_v<Field, double>) {
                                                                field = value;
                                                              } else {
                                                                field = static_cast<Field>(value != 0);
                                                              }
                                                            });
      },
      method);
  return method;
}

reference::Options texts_of(const Settings& settings) {
  reference::Options texts;
  for (const auto& [option, value] : settings.values) texts[option] = text_of(option, value);
  return texts;
}

// From the ranges that README and option structs document.
bool acceptable(const Settings& settings) {
  for (const auto& [option, value] : settings.values) {
    if (!is_number(option)) continue;
    if (!(value >= 0)) return false;
    if (option == "learning_rate" || option == "weight_decay" || option == "epsilon") {
      if (value > static_cast<double>(std::numeric_limits<float>::max())) return false;
    } else if (option == "dampening") {
      if (value > 1) return false;
    } else if (value >= 1) {
      return false;
    }
  }
  return settings.at("nesterov") == 0 || (settings.at("momentum") > 0 && settings.at("dampening") == 0);
}

// Whether an Optimizer made for `made` runs them.
bool runs_as(const Settings& settings, const Settings& made) {
  if (settings.method != made.method) return false;
  if (settings.at("amsgrad") != made.at("amsgrad") || settings.at("centered") != made.at("centered")) return false;
  return settings.method != "rmsprop" || settings.at("momentum") == 0 || made.at("momentum") > 0;
}

double number_from(Bytes& bytes) {
  constexpr double kNumbers[] = {0.001, 0.5,  0.9, 0.999, 0.25,   1e-8,   0,
                                 1e-3,  0.01, 2,   0.3,   0.99,   -0.0,   1e-6,
                                 0.125, 0.75, 1,   1e-40, 1e-310, 5e-324, 3.4028234663852886e38};
  constexpr double kBad[] = {1e39, -1, -1e-300, std::numeric_limits<double>::infinity(),
                             std::numeric_limits<double>::quiet_NaN()};
  const std::size_t which = bytes.below(64);
  if (which < std::size(kNumbers)) return kNumbers[which];
  if (which >= 64 - std::size(kBad)) return kBad[63 - which];
  return static_cast<double>(bytes.next() + 256U * bytes.next()) * 0x1p-16;
}

// Changes some of the options, most often to what is allowed.
Settings changed(Settings settings, Bytes& bytes) {
  for (std::size_t changes = bytes.below(4); changes > 0; --changes) {
    auto which = settings.values.begin();
    std::advance(which, bytes.below(settings.values.size()));
    which->second = is_number(which->first) ? number_from(bytes) : static_cast<double>(bytes.below(2));
  }
  return settings;
}

// --- Tensors, as the model has them

std::string bytes_at(const void* data, std::int64_t bytes) {
  return bytes == 0 ? std::string() : std::string(static_cast<const char*>(data), static_cast<std::size_t>(bytes));
}
std::int64_t bytes_of(const ConstArray& array) { return array.count() * size_in_bytes(array.type()); }

template <typename Real>
std::vector<Real> values_in(const std::string& bytes) {
  std::vector<Real> values(bytes.size() / sizeof(Real));
  if (!bytes.empty()) std::memcpy(values.data(), bytes.data(), bytes.size());
  return values;
}

struct Tensor {
  TensorId id{};
  TensorSpec spec;
  bool frozen = false;
  std::int64_t steps = 0;
  std::string parameter;  // the bytes of everything
  std::string gradient;
  std::vector<std::string> states;
  std::vector<const void*> placed;  // where the states are; empty before they were asked for
};

// What a checkpoint holds.
struct Saved {
  bool parameters;
  std::vector<Settings> groups;
  std::vector<Tensor> tensors;
};

bool overlap(const ConstArray& left, const ConstArray& right) {
  const auto begin = [](const ConstArray& array) { return reinterpret_cast<std::uintptr_t>(array.data()); };
  const auto end = [&](const ConstArray& array) { return begin(array) + static_cast<std::uintptr_t>(bytes_of(array)); };
  return left.count() > 0 && right.count() > 0 && begin(left) < end(right) && begin(right) < end(left);
}

bool is_utf8_name(const std::string& name) { return name.find('\xff') == std::string::npos; }

// --- The promise of one step

using reference::Exact;

// Where tests/error_bound_test.cpp searches, and so P4 is known to hold: no intermediate over- or underflows.
bool moderate(const Settings& settings) {
  for (const auto& [option, value] : settings.values) {
    if (!is_number(option)) continue;
    if (option == "epsilon") {
      if (!(value >= 0x1p-27 && value < 0x1p5)) return false;
    } else if (option == "learning_rate" || option == "weight_decay") {
      if (value != 0 && !(value >= 0x1p-20 && value < 0x1p5)) return false;
    } else if (value != 0 && value != 1 && !(value >= 0x1p-10 && value <= 0.9999)) {
      return false;
    }
  }
  return true;
}
template <typename Real>
bool moderate(Real value) {
  const Real size = std::fabs(value);
  return size == 0 || (size >= Real{0x1p-30} && size < Real{0x1p30});
}

template <typename Real>
double ulp(Real x) {
  return measure::ulp(detail::kDataType<Real>, static_cast<double>(x));
}

template <typename Real>
struct StepOf {
  Settings settings;
  std::vector<std::string> names;  // of the states
  std::int64_t t;
  std::vector<Real> parameter, gradient, new_parameter;
  std::vector<std::vector<Real>> states, new_states;

  std::ptrdiff_t slot(std::string_view state) const {
    const auto found = std::find(names.begin(), names.end(), state);
    return found == names.end() ? -1 : found - names.begin();
  }

  bool within_reach_of_the_bound(std::size_t i) const {
    if (!moderate(parameter[i]) || !moderate(gradient[i])) return false;
    for (std::size_t s = 0; s < names.size(); ++s) {
      if (!moderate(states[s][i])) return false;
      if (names[s].find("sq") != std::string::npos && states[s][i] < 0) return false;
    }
    // Adam with the decay in the gradient: a first moment too large for its second (make_reachable() of the search).
    if (settings.method == "adam" && settings.at("weight_decay") > 0) {
      const double beta1 = settings.at("beta1");
      const double beta2 = settings.at("beta2");
      const double first = std::fabs(static_cast<double>(states[0][i]));
      const double second = std::sqrt(beta2 * static_cast<double>(states[1][i]) / (1 - beta2));
      if (beta1 > 0 && first > 2 * (1 - beta1) / beta1 * second) return false;
    }
    return true;
  }

  void check_bound() const {
    if (!moderate(settings)) return;
    constexpr double kRounding = sizeof(Real) == 4 ? 0x1p-24 : 0x1p-53;
    constexpr double kScalars = sizeof(Real) == 4 ? 0 : 48;  // those of float64 are themselves rounded
    const reference::Textbook<Exact<Real>> textbook(settings.method, texts_of(settings));
    for (std::size_t i = 0; i < parameter.size(); ++i) {
      if (!within_reach_of_the_bound(i)) continue;
      Exact<Real> before[reference::kMostStates] = {};
      const auto& there = textbook.state_names();
      for (std::size_t s = 0; s < there.size(); ++s) before[s] = states[static_cast<std::size_t>(slot(there[s]))][i];
      const auto exact = textbook.step(parameter[i], before, gradient[i], t);
      for (std::size_t s = 0; s < there.size(); ++s) {
        if (exact.cancels && there[s] == "momentum_buffer") continue;
        const Real got = new_states[static_cast<std::size_t>(slot(there[s]))][i];
        const auto error = static_cast<double>(std::fabs(got - exact.state[s]));
        const double allowed = (static_cast<double>(textbook.state_units(s)) + kScalars) * kRounding *
                               static_cast<double>(exact.state_magnitude[s]);
        require(error <= allowed, describe(there[s], i) + " errs by " + host::to_text(error));
      }
      if (exact.cancels) continue;
      const auto error = static_cast<double>(std::fabs(new_parameter[i] - exact.parameter));
      const double allowed =
          0.5 * std::max(ulp<Real>(static_cast<Real>(exact.parameter)), ulp<Real>(new_parameter[i])) +
          (static_cast<double>(textbook.kUpdateUnits) + kScalars) * kRounding *
              static_cast<double>(exact.update_magnitude);
      require(error <= allowed, describe("parameter", i) + " errs by " + host::to_text(error));
    }
  }

  std::string describe(const std::string& what, std::size_t i) const {
    std::string text = settings.method + ", step " + host::to_text(t);
    for (const auto& [option, value] : settings.values) text += ", " + option + " " + host::to_text(value);
    text += ": x " + host::to_text(parameter[i]) + ", g " + host::to_text(gradient[i]);
    for (const auto& state : states) text += ", " + host::to_text(state[i]);
    return text + ": " + what;
  }

  void check_nan_is_canonical(const std::vector<Real>& values) const {
    constexpr auto kNan = static_cast<Bits<Real>>(sizeof(Real) == 4 ? 0x7FC00000ULL : 0x7FF8000000000000ULL);
    for (const Real value : values) {
      require(!std::isnan(value) || std::bit_cast<Bits<Real>>(value) == kNan, "a NaN that is not canonical");
    }
  }
};

// --- The run of one input

class Run {
 public:
  Run(const std::uint8_t* data, std::size_t size)
      : bytes_(data, size),
        made_(first_settings()),
        groups_{made_},
        tuning_(tuning()),
        optimizer_(unchecked(made_), Device::cpu(), tuning_) {
    state_names_ = reference::Textbook<double>(made_.method, texts_of(made_)).state_names();
  }

  void run() {
    check("constructor");
    for (int call = 0; call < kMostCalls && !bytes_.empty(); ++call) {
      const Call& chosen = kCalls[bytes_.below(std::size(kCalls))];
      (this->*chosen.make)();
      check(chosen.name);
    }
  }

 private:
  static constexpr int kMostCalls = 100;
  static constexpr std::int64_t kMostSteps = std::int64_t{1} << 62;  // that set_step_count() takes

  struct Call {
    const char* name;
    void (Run::*make)();
  };
  static const Call kCalls[26];

  Settings first_settings() {
    const std::vector<std::string> names = method_names();
    Settings settings = settings_of(make_method(names[bytes_.below(names.size())]));
    const Settings wanted = changed(settings, bytes_);
    if (acceptable(wanted)) return wanted;
    must_refuse("constructor", [&] { Optimizer optimizer(unchecked(wanted)); });
    return settings;
  }
  Tuning tuning() {
    const std::vector<SimdLevel> levels = simd_levels();
    return {.threads = 1 + static_cast<int>(bytes_.below(2)),
            .tile = bytes_.one_in(2) ? kChunk : 0,
            .simd = levels[bytes_.below(levels.size())]};
  }

  // --- Expectations

  template <typename Exception = std::invalid_argument>
  static void must_refuse(const std::string& what, const std::function<void()>& call) {
    try {
      call();
    } catch (const Exception& error) {
      const std::string_view said = error.what();
      require(said.starts_with("adamant: "), what + " said " + error.what());
      return;
    }
    violated(what + " was not refused");
  }
  // As the model says.
  template <typename Exception = std::invalid_argument>
  static bool expect(bool good, const std::string& what, const std::function<void()>& call) {
    if (!good) {
      must_refuse<Exception>(what, call);
      return false;
    }
    try {
      call();
    } catch (const std::exception& error) {
      violated(what + " was refused: " + error.what());
    }
    return true;
  }

  // Everything that can be seen is as the model has it.
  void check(const std::string& after) {
    const auto holds = [&](bool good, const std::string& what) {
      if (!good) violated("after " + after + ": " + what);
    };
    const std::vector<TensorId> ids = optimizer_.tensors();
    holds(ids.size() == tensors_.size(), "another number of tensors");
    std::int64_t state_bytes = 0;
    for (std::size_t i = 0; i < ids.size(); ++i) {
      const Tensor& tensor = tensors_[i];
      holds(ids[i] == tensor.id, "tensors in another order");
      const TensorSpec& spec = optimizer_.tensor(tensor.id);
      holds(spec.name == tensor.spec.name && spec.group == tensor.spec.group && spec.shape == tensor.spec.shape &&
                spec.parameter.data() == tensor.spec.parameter.data() &&
                spec.parameter.count() == tensor.spec.parameter.count() &&
                spec.gradient.data() == tensor.spec.gradient.data() &&
                spec.gradient.writable() == tensor.spec.gradient.writable(),
            "another spec of " + tensor.spec.name);
      holds(optimizer_.find(tensor.spec.name) == tensor.id, "find() finds another");
      holds(optimizer_.frozen(tensor.id) == tensor.frozen, "frozen() differs");
      holds(optimizer_.step_count(tensor.id) == tensor.steps, "another step count of " + tensor.spec.name);
      holds(bytes_at(spec.parameter.data(), bytes_of(spec.parameter)) == tensor.parameter, "a parameter has changed");
      holds(bytes_at(spec.gradient.data(), bytes_of(spec.gradient)) == tensor.gradient, "a gradient has changed");
      for (std::size_t slot = 0; slot < tensor.placed.size(); ++slot) {
        holds(bytes_at(tensor.placed[slot], bytes_of(spec.parameter)) == tensor.states[slot], "a state has changed");
      }
      state_bytes += static_cast<std::int64_t>(state_names_.size()) * ((bytes_of(spec.parameter) + 255) / 256 * 256);
    }
    holds(optimizer_.state_bytes() == state_bytes, "another number of state bytes");
    for (std::size_t group = 0; group < groups_.size(); ++group) {
      const Settings there = settings_of(optimizer_.options(GroupId{static_cast<std::int32_t>(group)}));
      holds(there.method == groups_[group].method && there.values == groups_[group].values, "other options");
    }
    must_refuse("options() of no group",
                [&] { optimizer_.options(GroupId{static_cast<std::int32_t>(groups_.size())}); });
  }

  // --- Choices

  Tensor* any_tensor() {
    return tensors_.empty() || bytes_.one_in(16) ? nullptr : &tensors_[bytes_.below(tensors_.size())];
  }
  // Of a tensor, or of none.
  TensorId id_of(const Tensor* tensor) {
    constexpr std::int64_t kNone[] = {-1, 1 << 20, std::numeric_limits<std::int64_t>::min()};
    if (tensor != nullptr) return tensor->id;
    const std::size_t which = bytes_.below(std::size(kNone) + removed_.size());
    return which < std::size(kNone) ? TensorId{kNone[which]} : removed_[which - std::size(kNone)];
  }
  GroupId any_group() {
    constexpr std::int32_t kNone[] = {-1, 100, std::numeric_limits<std::int32_t>::min()};
    if (bytes_.one_in(16)) return GroupId{kNone[bytes_.below(std::size(kNone))]};
    return GroupId{static_cast<std::int32_t>(bytes_.below(groups_.size()))};
  }
  bool exists(GroupId group) const {
    const auto index = static_cast<std::int32_t>(group);
    return index >= 0 && static_cast<std::size_t>(index) < groups_.size();
  }
  Settings& settings(GroupId group) { return groups_[static_cast<std::size_t>(group)]; }

  // Memory of the caller's, kept until the end of the run.
  void* memory(std::int64_t bytes) {
    memory_.push_back(std::make_unique<std::byte[]>(static_cast<std::size_t>(bytes)));
    return memory_.back().get();
  }
  void fill(void* data, DataType type, std::int64_t count) {
    const std::size_t kind = bytes_.below(6);
    Numbers numbers(bytes_.next());
    for (std::int64_t i = 0; i < count; ++i) {
      if (type == DataType::float32) {
        static_cast<float*>(data)[i] = number_of_kind<float>(kind == 5 ? 0 : kind, numbers);
      } else {
        static_cast<double*>(data)[i] = number_of_kind<double>(kind == 5 ? 0 : kind, numbers);
      }
    }
  }
  // New elements, now and then not at the beginning of their memory.
  void* elements(DataType type, std::int64_t count) {
    const std::int64_t size = size_in_bytes(type);
    const auto shift = static_cast<std::int64_t>(bytes_.below(4));
    void* const data = static_cast<std::byte*>(memory((count + shift) * size)) + shift * size;
    fill(data, type, count);
    return data;
  }
  void read_gradients() {
    for (Tensor& tensor : tensors_) {
      tensor.gradient = bytes_at(tensor.spec.gradient.data(), bytes_of(tensor.spec.gradient));
    }
  }

  // --- What may be given

  static bool array_is_good(const ConstArray& array) {
    if (array.type() != DataType::float32 && array.type() != DataType::float64) return false;
    const auto size = static_cast<std::uintptr_t>(size_in_bytes(array.type()));
    // The counts that a run asks for are small, or so large that no states of them fit.
    if (array.count() < 0 || array.count() > (std::int64_t{1} << 40)) return false;
    if (array.count() == 0) return true;
    return array.data() != nullptr && reinterpret_cast<std::uintptr_t>(array.data()) % size == 0;
  }
  bool gradient_is_good(const ConstArray& gradient, const Array& parameter) const {
    if (!array_is_good(gradient) || gradient.type() != parameter.type() || gradient.count() != parameter.count()) {
      return false;
    }
    return std::none_of(tensors_.begin(), tensors_.end(),
                        [&](const Tensor& tensor) { return overlap(tensor.spec.parameter, gradient); });
  }
  bool spec_is_good(const TensorSpec& spec) const {
    if (spec.name.empty() || !array_is_good(spec.parameter) || !gradient_is_good(spec.gradient, spec.parameter)) {
      return false;
    }
    if (!exists(spec.group) || overlap(spec.parameter, spec.gradient)) return false;
    if (!spec.shape.empty()) {
      if (spec.shape.size() > 64) return false;
      std::int64_t product = 1;
      for (const std::int64_t size : spec.shape) {
        if (size < 0 || __builtin_mul_overflow(product, size, &product)) return false;
      }
      if (product != spec.parameter.count()) return false;
    }
    return std::none_of(tensors_.begin(), tensors_.end(), [&](const Tensor& tensor) {
      return tensor.spec.name == spec.name || overlap(tensor.spec.parameter, spec.parameter) ||
             overlap(tensor.spec.gradient, spec.parameter);
    });
  }

  // --- The calls

  void add() {
    constexpr std::int64_t kCounts[] = {1, 3, 8, 17, 0, 33, 5, 70};
    static const std::string kNames[] = {"a",
                                         "b",
                                         "c",
                                         "d",
                                         "weights",
                                         "layer.0.bias",
                                         "\xc3\xa9t\xc3\xa9",
                                         "a\"\\\n\x01",
                                         "a.exp_avg",
                                         "b.momentum_buffer",
                                         "c.square_avg",
                                         "a.step"};
    if (tensors_.size() == 12) return;
    const DataType type = bytes_.one_in(3) ? DataType::float64 : DataType::float32;
    std::int64_t count = kCounts[bytes_.below(std::size(kCounts))];
    if (bytes_.one_in(64)) count = 4099;
    TensorSpec spec;
    spec.name = kNames[bytes_.below(std::size(kNames))];
    spec.parameter = Array(elements(type, count), type, count);
    void* const gradient = elements(type, count);
    spec.gradient = bytes_.one_in(16) ? ConstArray(static_cast<const void*>(gradient), type, count)
                                      : ConstArray(Array(gradient, type, count));
    spec.group = any_group();
    if (bytes_.one_in(3)) spec.shape = {count};
    if (bytes_.one_in(4)) mistake(spec, type, count);
    add(std::move(spec));
  }
  // Something that may be wrong with it; the model knows whether it is.
  void mistake(TensorSpec& spec, DataType type, std::int64_t count) {
    constexpr std::int64_t kLarge = std::numeric_limits<std::int64_t>::max();
    // The types that the model steps, and two that there are not.
    constexpr DataType kModelled[] = {DataType::float32, DataType::float64, DataType{4}, DataType{255}};
    constexpr std::int64_t kWrong[] = {-1, kLarge / 4, kLarge / 4 + 1, kLarge / 2, kLarge};
    const Tensor* other = tensors_.empty() ? nullptr : &tensors_[bytes_.below(tensors_.size())];
    if (other != nullptr && other->spec.parameter.count() == 0) other = nullptr;  // overlaps nothing: no mistake
    switch (bytes_.below(18)) {
      case 0: spec.name.clear(); break;
      case 1: spec.name = std::string(1 + bytes_.below(3), '\xff'); break;  // not UTF-8: save() will not have it
      case 2: spec.name = "__metadata__"; break;
      case 3: spec.parameter = Array(static_cast<void*>(nullptr), type, count); break;
      case 4: spec.gradient = ConstArray(static_cast<const void*>(nullptr), type, count); break;
      case 5:
        spec.parameter = Array(static_cast<std::byte*>(spec.parameter.data()) + 1 + bytes_.below(3), type, count);
        break;
      case 6: spec.gradient = ConstArray(spec.gradient.data(), type, count + 1); break;
      case 7: spec.gradient = ConstArray(spec.gradient.data(), kModelled[bytes_.below(4)], count); break;
      case 8:
        spec.parameter = Array(spec.parameter.data(), static_cast<DataType>(4 + bytes_.next() % 252), count);
        break;
      case 9: {
        const std::int64_t wrong = kWrong[bytes_.below(std::size(kWrong))];
        spec.shape.clear();
        spec.parameter = Array(spec.parameter.data(), type, wrong);
        spec.gradient = ConstArray(spec.gradient.data(), type, wrong);
        break;
      }
      case 10: spec.gradient = spec.parameter; break;
      case 11:
        if (other != nullptr) spec.parameter = Array(other->spec.parameter.data(), type, count);
        break;
      case 12:
        if (other != nullptr) spec.gradient = ConstArray(other->spec.parameter.data(), type, count);
        break;
      case 13:
        if (other != nullptr) spec.parameter = Array(const_cast<void*>(other->spec.gradient.data()), type, count);
        break;
      case 14:  // gradients may be shared
        if (other != nullptr && other->spec.parameter.count() >= count && other->spec.gradient.type() == type) {
          spec.gradient = ConstArray(other->spec.gradient.data(), type, count);
        }
        break;
      case 15: spec.shape = {count, 1 + static_cast<std::int64_t>(bytes_.below(2))}; break;
      case 16: spec.shape.assign(63 + bytes_.below(3), count == 1 ? 1 : 2); break;
      default: spec.shape = {-1, -count}; break;
    }
  }
  void add(TensorSpec spec) {
    const bool good = spec_is_good(spec);
    Tensor tensor;
    if (!expect(good, "add", [&] { tensor.id = optimizer_.add(spec); })) return;
    tensor.parameter = bytes_at(spec.parameter.data(), bytes_of(spec.parameter));
    tensor.gradient = bytes_at(spec.gradient.data(), bytes_of(spec.gradient));
    tensor.states.assign(state_names_.size(), std::string(tensor.parameter.size(), '\0'));
    tensor.spec = std::move(spec);
    tensors_.push_back(std::move(tensor));
  }

  void remove() {
    Tensor* const tensor = any_tensor();
    const TensorId id = id_of(tensor);
    if (!expect(tensor != nullptr, "remove", [&] { optimizer_.remove(id); })) return;
    removed_.push_back(id);
    tensors_.erase(tensors_.begin() + (tensor - tensors_.data()));
  }
  void freeze() {
    Tensor* const tensor = any_tensor();
    if (expect(tensor != nullptr, "freeze", [&] { optimizer_.freeze(id_of(tensor)); })) tensor->frozen = true;
  }
  void thaw() {
    Tensor* const tensor = any_tensor();
    if (expect(tensor != nullptr, "thaw", [&] { optimizer_.thaw(id_of(tensor)); })) tensor->frozen = false;
  }
  void set_group() {
    Tensor* const tensor = any_tensor();
    const GroupId group = any_group();
    if (expect(tensor != nullptr && exists(group), "set_group", [&] { optimizer_.set_group(id_of(tensor), group); })) {
      tensor->spec.group = group;
    }
  }
  void set_gradient() {
    Tensor* const tensor = any_tensor();
    if (tensor == nullptr) {
      must_refuse("set_gradient of no tensor", [&] { optimizer_.set_gradient(id_of(tensor), ConstArray()); });
      return;
    }
    const DataType type = tensor->spec.parameter.type();
    const std::int64_t count = tensor->spec.parameter.count();
    ConstArray gradient(Array(elements(type, count), type, count));
    switch (bytes_.below(16)) {
      case 12: gradient = tensor->spec.parameter; break;
      case 13: gradient = ConstArray(gradient.data(), type, count + 1); break;
      case 14: gradient = ConstArray(static_cast<const void*>(nullptr), type, count); break;
      case 15: gradient = tensors_[bytes_.below(tensors_.size())].spec.gradient; break;
      default: break;
    }
    if (!expect(gradient_is_good(gradient, tensor->spec.parameter), "set_gradient",
                [&] { optimizer_.set_gradient(tensor->id, gradient); })) {
      return;
    }
    tensor->spec.gradient = gradient;
    read_gradients();
  }
  // The caller computes others, in place.
  void new_gradients() {
    for (const Tensor& tensor : tensors_) {
      const ConstArray& gradient = tensor.spec.gradient;
      fill(const_cast<void*>(gradient.data()), gradient.type(), gradient.count());
    }
    read_gradients();
  }
  void zero_gradients() {
    const bool good = std::all_of(tensors_.begin(), tensors_.end(), [](const Tensor& tensor) {
      return tensor.spec.gradient.writable() || tensor.spec.gradient.count() == 0;
    });
    if (!expect(good, "zero_gradients", [&] { optimizer_.zero_gradients(); })) return;
    for (Tensor& tensor : tensors_) tensor.gradient.assign(tensor.gradient.size(), '\0');
  }

  void add_group() {
    if (groups_.size() == 6) return;
    const Settings wanted = changed(bytes_.one_in(4) ? made_ : groups_.back(), bytes_);
    GroupId group{};
    if (!expect(acceptable(wanted) && runs_as(wanted, made_), "add_group",
                [&] { group = optimizer_.add_group(unchecked(wanted)); })) {
      return;
    }
    require(group == GroupId{static_cast<std::int32_t>(groups_.size())}, "add_group gave another number");
    groups_.push_back(wanted);
  }
  void set_options() {
    const GroupId group = any_group();
    const Settings wanted = changed(exists(group) ? settings(group) : made_, bytes_);
    if (expect(exists(group) && acceptable(wanted) && runs_as(wanted, made_), "set_options",
               [&] { optimizer_.set_options(group, unchecked(wanted)); })) {
      settings(group) = wanted;
    }
  }
  void set_other_method() {
    const std::vector<std::string> names = method_names();
    const std::string other = names[bytes_.below(names.size())];
    if (other == made_.method) return;
    must_refuse("options of another method", [&] { optimizer_.set_options(GroupId{}, make_method(other)); });
    must_refuse("a group of another method", [&] { optimizer_.add_group(make_method(other)); });
  }
  std::string any_option() {
    if (bytes_.one_in(16)) return bytes_.one_in(2) ? "" : "Learning_rate";
    auto which = made_.values.begin();
    std::advance(which, bytes_.below(made_.values.size()));
    return which->first;
  }
  void set_option_by_number() {
    const GroupId group = any_group();
    const std::string option = any_option();
    const double value = bytes_.one_in(3) ? static_cast<double>(bytes_.below(2)) : number_from(bytes_);
    const bool is_value = is_number(option) || (is_flag(option) && (value == 0 || value == 1));
    set_one_option(group, option, is_flag(option) ? std::fabs(value) : value, is_value,
                   [&] { optimizer_.set_option(group, option, value); });
  }
  void set_option_by_text() {
    static const std::string kNone[] = {"",    " 1",  "1 ",   "0x", "0x-0", "-0x",   "0x0x1",
                                        "1,5", "yes", "True", "1e", "+0.5", "inside"};
    const GroupId group = any_group();
    const std::string option = any_option();
    if (bytes_.one_in(8)) {
      const std::string& text = kNone[bytes_.below(std::size(kNone))];
      must_refuse("set_option to " + text, [&] { optimizer_.set_option(group, option, std::string_view(text)); });
      return;
    }
    const double value = is_number(option) ? number_from(bytes_) : static_cast<double>(bytes_.below(2));
    const std::string text =
        is_number(option) && bytes_.one_in(4) ? host::hexadecimal_text(value) : text_of(option, value);
    set_one_option(group, option, value, true, [&] { optimizer_.set_option(group, option, std::string_view(text)); });
  }
  void set_one_option(GroupId group, const std::string& option, double value, bool is_value,
                      const std::function<void()>& call) {
    bool good = exists(group) && made_.has(option) && is_value;
    Settings wanted = exists(group) ? settings(group) : made_;
    if (good) {
      wanted.values[option] = value;
      good = acceptable(wanted) && runs_as(wanted, made_);
    }
    if (expect(good, "set_option " + option + " " + host::to_text(value), call)) settings(group) = wanted;
  }
  void set_learning_rate() {
    const GroupId group = any_group();
    const double value = number_from(bytes_);
    set_one_option(group, "learning_rate", value, true, [&] { optimizer_.set_learning_rate(group, value); });
  }
  void set_step_count() {
    // Short of the end, because the steps that follow are taken again from a count that is set.
    constexpr std::int64_t kCounts[] = {
        0, 1, 2, 9, 1000, 1 << 20, std::int64_t{1} << 53, kMostSteps - kMostCalls, kMostSteps + 1, -1};
    Tensor* const tensor = any_tensor();
    const std::int64_t count = kCounts[bytes_.below(std::size(kCounts))];
    if (expect(tensor != nullptr && count >= 0 && count <= kMostSteps, "set_step_count",
               [&] { optimizer_.set_step_count(id_of(tensor), count); })) {
      tensor->steps = count;
    }
  }

  void prepare() {
    expect(true, "prepare", [&] { optimizer_.prepare(); });
    place_states();
  }
  // Asks where the states are. They must have stayed where they were.
  void place_states() {
    for (Tensor& tensor : tensors_) {
      std::vector<const void*> placed;
      for (const std::string& name : state_names_) {
        const Array state = optimizer_.state(tensor.id, name);
        require(state.count() == tensor.spec.parameter.count() && state.type() == tensor.spec.parameter.type(),
                "a state of another size or type");
        require(state.count() == 0 || reinterpret_cast<std::uintptr_t>(state.data()) % 256 == 0, "a misaligned state");
        placed.push_back(state.data());
      }
      require(tensor.placed.empty() || tensor.placed == placed, "a state has moved");
      tensor.placed = std::move(placed);
    }
  }
  void write_state() {
    Tensor* const tensor = any_tensor();
    if (tensor == nullptr || state_names_.empty()) {
      must_refuse("state of no tensor or name", [&] { optimizer_.state(id_of(tensor), "exp_avgs"); });
      return;
    }
    place_states();
    const std::size_t slot = bytes_.below(state_names_.size());
    const DataType type = tensor->spec.parameter.type();
    fill(const_cast<void*>(tensor->placed[slot]), type, tensor->spec.parameter.count());
    tensor->states[slot] = bytes_at(tensor->placed[slot], bytes_of(tensor->spec.parameter));
  }

  void step() {
    expect(true, "step", [&] { optimizer_.step(); });
    place_states();
    for (Tensor& tensor : tensors_) {
      if (tensor.frozen) continue;
      if (tensor.spec.parameter.type() == DataType::float32) {
        follow<float>(tensor);
      } else {
        follow<double>(tensor);
      }
    }
  }
  // What the step has made of a tensor, checked and taken over.
  template <typename Real>
  void follow(Tensor& tensor) {
    const Array& parameter = tensor.spec.parameter;
    StepOf<Real> step{settings(tensor.spec.group), state_names_, ++tensor.steps, {}, {}, {}, {}, {}};
    step.parameter = values_in<Real>(tensor.parameter);
    step.gradient = values_in<Real>(tensor.gradient);
    for (const std::string& state : tensor.states) step.states.push_back(values_in<Real>(state));
    tensor.parameter = bytes_at(parameter.data(), bytes_of(parameter));
    for (std::size_t slot = 0; slot < tensor.states.size(); ++slot) {
      tensor.states[slot] = bytes_at(tensor.placed[slot], bytes_of(parameter));
      step.new_states.push_back(values_in<Real>(tensor.states[slot]));
      step.check_nan_is_canonical(step.new_states.back());
    }
    step.new_parameter = values_in<Real>(tensor.parameter);
    step.check_nan_is_canonical(step.new_parameter);
    step.check_bound();
    check_alone(tensor, step);
  }
  template <typename Real>
  void check_alone(const Tensor& tensor, const StepOf<Real>& step) {
    Optimizer alone(unchecked(made_), Device::cpu(), {.threads = 1, .tile = kChunk, .simd = SimdLevel::baseline});
    alone.set_options(GroupId{}, unchecked(step.settings));
    std::vector<Real> parameter = step.parameter;
    const TensorId id = alone.add({.name = "alone", .parameter = parameter, .gradient = step.gradient});
    alone.set_step_count(id, step.t - 1);
    for (std::size_t slot = 0; slot < state_names_.size(); ++slot) {
      std::copy(step.states[slot].begin(), step.states[slot].end(),
                alone.state(id, state_names_[slot]).template as<Real>());
    }
    alone.step();
    const std::int64_t bytes = static_cast<std::int64_t>(parameter.size() * sizeof(Real));
    require(bytes_at(parameter.data(), bytes) == tensor.parameter, "a parameter steps otherwise in company");
    for (std::size_t slot = 0; slot < state_names_.size(); ++slot) {
      require(bytes_at(alone.state(id, state_names_[slot]).data(), bytes) == tensor.states[slot],
              "a state steps otherwise in company");
    }
  }

  void find_nobody() {
    must_refuse("find", [&] { optimizer_.find("nobody"); });
    must_refuse("state", [&] { optimizer_.state(id_of(nullptr), "exp_avg"); });
    must_refuse("tensor", [&] { optimizer_.tensor(id_of(nullptr)); });
    must_refuse("step_count", [&] { optimizer_.step_count(id_of(nullptr)); });
    must_refuse("frozen", [&] { optimizer_.frozen(id_of(nullptr)); });
  }
  void move() {
    Optimizer elsewhere(std::move(optimizer_));
    if (bytes_.one_in(2)) optimizer_ = Optimizer(Momentum{});
    optimizer_ = std::move(elsewhere);
  }

  // --- Checkpoints

  static std::filesystem::path path() { return folder() / "checkpoint.safetensors"; }

  // Whether every array has a name of its own, in UTF-8.
  bool can_be_saved(bool parameters) const {
    std::set<std::string> names{"__metadata__"};
    for (const Tensor& tensor : tensors_) {
      if (!is_utf8_name(tensor.spec.name)) return false;
      if (parameters && !names.insert(tensor.spec.name).second) return false;
      for (const std::string& state : state_names_) {
        if (!names.insert(tensor.spec.name + "." + state).second) return false;
      }
    }
    return true;
  }

  void save() {
    const bool parameters = !bytes_.one_in(4);
    const std::string before = file();
    if (!expect(can_be_saved(parameters), "save", [&] { optimizer_.save(path(), {.parameters = parameters}); })) {
      require(file() == before, "a save that was refused has changed the file");
      return;
    }
    place_states();
    saved_ = Saved{parameters, groups_, tensors_};
    load_elsewhere();
  }
  void save_where_it_cannot() {
    if (!can_be_saved(true)) return;
    must_refuse<NotSaved>("save in no folder", [&] { optimizer_.save(folder() / "none" / "file"); });
    must_refuse<NotSaved>("save over a folder", [&] { optimizer_.save(folder()); });
    // Whether that prepared or not is not said.
  }
  static std::string file() {
    std::ifstream stream(path(), std::ios::binary);
    return {std::istreambuf_iterator<char>(stream), {}};
  }
  static void put_file(const std::string& bytes) {
    std::ofstream stream(path(), std::ios::binary | std::ios::trunc);
    stream << bytes;
  }

  // Into an Optimizer of the same method that has the tensors in another order, and no groups yet.
  void load_elsewhere() {
    Optimizer other(unchecked(made_), Device::cpu(), {.threads = 1});
    std::vector<std::pair<TensorId, const Tensor*>> there;
    for (auto tensor = saved_->tensors.rbegin(); tensor != saved_->tensors.rend(); ++tensor) {
      TensorSpec spec = tensor->spec;
      spec.parameter = Array(memory(bytes_of(spec.parameter)), spec.parameter.type(), spec.parameter.count());
      spec.group = GroupId{};
      there.emplace_back(other.add(spec), &*tensor);
    }
    expect(true, "load elsewhere", [&] { other.load(path()); });
    for (const auto& [id, tensor] : there) {
      const TensorSpec& spec = other.tensor(id);
      const std::string parameter = bytes_at(spec.parameter.data(), bytes_of(spec.parameter));
      require(parameter == (saved_->parameters ? tensor->parameter : std::string(parameter.size(), '\0')),
              "a parameter was loaded otherwise");
      for (std::size_t slot = 0; slot < state_names_.size(); ++slot) {
        require(bytes_at(other.state(id, state_names_[slot]).data(), bytes_of(spec.parameter)) == tensor->states[slot],
                "a state was loaded otherwise");
      }
      require(other.step_count(id) == tensor->steps && other.frozen(id) == tensor->frozen &&
                  spec.group == tensor->spec.group,
              "step count, freeze or group was loaded otherwise");
    }
    for (std::size_t group = 0; group < groups_.size(); ++group) {
      const Settings loaded = settings_of(other.options(GroupId{static_cast<std::int32_t>(group)}));
      require(loaded.values == groups_[group].values, "options were loaded otherwise");
    }
    // Of another method.
    const std::vector<std::string> names = method_names();
    const std::string method = names[bytes_.below(names.size())];
    if (method == made_.method) return;
    Optimizer foreign(make_method(method));
    must_refuse<NotLoaded>("load into another method", [&] { foreign.load(path()); });
  }

  void load() {
    const LoadOptions allowed{.allow_missing = bytes_.one_in(2), .allow_extra = bytes_.one_in(2)};
    if (!saved_) {
      must_refuse<NotLoaded>("load of no file", [&] { optimizer_.load(folder() / "none"); });
      return;
    }
    const auto in_file = [&](const std::string& name) {
      const auto found = std::find_if(saved_->tensors.begin(), saved_->tensors.end(),
                                      [&](const Tensor& tensor) { return tensor.spec.name == name; });
      return found == saved_->tensors.end() ? nullptr : &*found;
    };
    bool good = true;
    std::size_t common = 0;
    for (const Tensor& tensor : tensors_) {
      const Tensor* const there = in_file(tensor.spec.name);
      if (there == nullptr) {
        good = good && allowed.allow_missing;
        continue;
      }
      ++common;
      good = good && there->spec.parameter.type() == tensor.spec.parameter.type() &&
             there->spec.parameter.count() == tensor.spec.parameter.count();
    }
    good = good && (common == saved_->tensors.size() || allowed.allow_extra);
    if (!expect<NotLoaded>(good, "load", [&] { optimizer_.load(path(), allowed); })) return;
    for (std::size_t group = 0; group < saved_->groups.size(); ++group) {
      if (group == groups_.size()) groups_.emplace_back();
      groups_[group] = saved_->groups[group];
    }
    for (Tensor& tensor : tensors_) {
      const Tensor* const there = in_file(tensor.spec.name);
      if (there == nullptr) continue;
      if (saved_->parameters) tensor.parameter = there->parameter;
      tensor.states = there->states;
      tensor.steps = there->steps;
      tensor.frozen = there->frozen;
      tensor.spec.group = there->spec.group;
    }
    place_states();
  }

  // A file with anything changed is refused as a whole. (Only where arrays that belong to nobody are allowed may one of
  // those be damaged.)
  void load_damaged() {
    if (!saved_) return;
    const std::string whole = file();
    std::string damaged = whole;
    const std::size_t at = (bytes_.next() + 256U * bytes_.next()) % whole.size();
    switch (bytes_.below(4)) {
      case 0: damaged.resize(at); break;
      case 1: damaged += static_cast<char>(bytes_.next()); break;
      default: damaged[at] = static_cast<char>(damaged[at] ^ (1 << bytes_.below(8))); break;
    }
    put_file(damaged);
    must_refuse<NotLoaded>("load of a damaged file, at byte " + host::to_text(at),
                           [&] { optimizer_.load(path(), {.allow_missing = true}); });
    put_file(whole);
  }

  Bytes bytes_;
  Settings made_;
  std::vector<Settings> groups_;
  Tuning tuning_;
  std::vector<std::string> state_names_;
  std::vector<std::unique_ptr<std::byte[]>> memory_;
  std::vector<Tensor> tensors_;
  std::vector<TensorId> removed_;
  std::optional<Saved> saved_;
  Optimizer optimizer_;
};

const Run::Call Run::kCalls[] = {{"add", &Run::add},
                                 {"step", &Run::step},
                                 {"add", &Run::add},
                                 {"step", &Run::step},
                                 {"new gradients", &Run::new_gradients},
                                 {"remove", &Run::remove},
                                 {"freeze", &Run::freeze},
                                 {"thaw", &Run::thaw},
                                 {"set_group", &Run::set_group},
                                 {"set_gradient", &Run::set_gradient},
                                 {"zero_gradients", &Run::zero_gradients},
                                 {"add_group", &Run::add_group},
                                 {"set_options", &Run::set_options},
                                 {"set_options of another method", &Run::set_other_method},
                                 {"set_option by number", &Run::set_option_by_number},
                                 {"set_option by text", &Run::set_option_by_text},
                                 {"set_learning_rate", &Run::set_learning_rate},
                                 {"set_step_count", &Run::set_step_count},
                                 {"prepare", &Run::prepare},
                                 {"writing a state", &Run::write_state},
                                 {"find of nobody", &Run::find_nobody},
                                 {"moving the Optimizer", &Run::move},
                                 {"save", &Run::save},
                                 {"save where it cannot", &Run::save_where_it_cannot},
                                 {"load", &Run::load},
                                 {"load of a damaged file", &Run::load_damaged}};

}  // namespace
}  // namespace adamant::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  adamant::fuzz::Run(data, size).run();
  return 0;
}
