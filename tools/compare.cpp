// `adamant compare`: a method on a device against every instruction set of the CPU, bit by bit, and each of its steps
// against the textbook reference.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <set>
#include <stdexcept>
#include <thread>

#include "host/convert.hpp"
#include "host/device_memory.hpp"
#include "host/measure.hpp"
#include "host/method.hpp"
#include "host/reference.hpp"
#include "host/text.hpp"
#include "kernels/backend.hpp"
#include "kernels/narrow.hpp"
#include "kernels/rule_list.hpp"
#include "kernels/storage_types.hpp"
#include "tools/commands.hpp"
#include "tools/compare.hpp"
#include "tools/run_options.hpp"
#include "tools/terminal.hpp"

namespace adamant::tools {
namespace {

struct CompareOptions : RunOptions {
  std::int64_t count = 1 << 16;
  std::int64_t steps = 20;
  std::uint64_t seed = 1;
  std::optional<double> clip_norm;
  std::optional<double> clip_value;
  bool loss_scale = false;
  bool skip_non_finite = false;

  // Small, so that it changes on the way, and large against no gradient.
  static constexpr LossScale kLossScale{.initial = 8, .growth_interval = 3};

  bool conditions_gradients() const { return clip_norm || clip_value || loss_scale || skip_non_finite; }
  StepControl control() const {
    StepControl control{.clip_norm = clip_norm, .clip_value = clip_value, .measure_norm = true};
    if (loss_scale) control.loss_scale = kLossScale;
    if (skip_non_finite) control.non_finite = NonFinite::skip;
    return control;
  }
  // Whether the last gradient of that step is infinite, in a run that skips such steps.
  bool is_non_finite(std::int64_t step) const { return (loss_scale || skip_non_finite) && step % 4 == 2; }
};

// What has to be held in host memory at a time, whatever the size of the tensor: so many elements of it.
constexpr std::int64_t kPiece = std::int64_t{1} << 22;
// The reference is slow: of more elements than this, over all steps, it sees a part.
constexpr std::int64_t kMostSamples = std::int64_t{1} << 21;
// Fewer numbers than this are made in less time than it takes to start a thread.
constexpr std::int64_t kWorthAThread = std::int64_t{1} << 18;

// The finishing step of SplitMix64: every bit of the result depends on every bit of z.
std::uint64_t mixed(std::uint64_t z) {
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ULL;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBULL;
  return z ^ (z >> 31);
}

// The parameters that a run begins with (step 0), or the gradients of a step. Each number follows from its place alone,
// so that a piece of the tensor can be made again anywhere and at any time.
class Numbers {
 public:
  Numbers(std::uint64_t seed, std::int64_t step)
      : start_(mixed(mixed(seed) + static_cast<std::uint64_t>(step))), binades_(step == 0 ? 13 : 20) {}

  // Either sign, magnitudes over that many powers of two below 1; one in sixteen is zero.
  double at(std::int64_t element) const {
    const std::uint64_t bits = mixed(start_ + 0x9E3779B97F4A7C15ULL * static_cast<std::uint64_t>(element));
    if ((bits >> 58 & 15) == 0) return 0;
    const std::uint64_t exponent = 1022 - ((bits >> 52 & 63) * binades_ >> 6);
    return std::bit_cast<double>((bits >> 63 << 63) | exponent << 52 | (bits & 0xFFFFFFFFFFFFFULL));
  }

  // Those of the elements from `first` on, rounded to a type.
  void fill(std::byte* values, DataType type, std::int64_t first, std::int64_t count, int threads) const {
    const auto size = static_cast<std::size_t>(count);
    if (type == DataType::float64) return fill(std::span(reinterpret_cast<double*>(values), size), first, threads);
    if (type == DataType::float32) return fill(std::span(reinterpret_cast<float*>(values), size), first, threads);
    std::vector<float> wide(size);
    fill(std::span(wide), first, threads);
    const std::vector<std::byte> narrow = host::converted(std::as_bytes(std::span(wide)), DataType::float32, type);
    std::copy(narrow.begin(), narrow.end(), values);
  }

 private:
  template <typename Real>
  void fill(std::span<Real> values, std::int64_t first, int threads) const {
    const auto count = static_cast<std::int64_t>(values.size());
    const std::int64_t parts = std::clamp<std::int64_t>(count / kWorthAThread, 1, threads);
    const auto fill_part = [&, this](std::int64_t part) {
      for (std::int64_t i = count * part / parts; i < count * (part + 1) / parts; ++i) {
        values[static_cast<std::size_t>(i)] = static_cast<Real>(at(first + i));
      }
    };
    std::vector<std::jthread> others;
    for (std::int64_t part = 1; part < parts; ++part) others.emplace_back(fill_part, part);
    fill_part(0);
  }

  std::uint64_t start_;
  std::uint64_t binades_;
};

// Which part of the elements the reference sees.
std::int64_t sampled_every(const CompareOptions& options) {
  const double all = static_cast<double>(options.count) * static_cast<double>(options.steps);
  return 1 + static_cast<std::int64_t>(all / static_cast<double>(kMostSamples));
}

// The methods to compare and their options: one as asked for, or every variant of each.
struct Case {
  std::string method;
  reference::Options options;
};

std::vector<Case> cases_of(const CompareOptions& options) {
  if (options.method != "all") return {{options.method, options.option_map()}};
  if (!options.options.empty()) throw std::invalid_argument("adamant: --option needs one --method");
  std::vector<Case> cases;
  for (const std::string& method : method_names()) {
    cases.push_back({method, {}});
    // Every variant.
    const std::vector<Option> all = adamant::options(make_method(method));
    const auto has = [&](std::string_view name) {
      return std::any_of(all.begin(), all.end(), [&](const Option& option) { return option.name == name; });
    };
    if (has("amsgrad")) cases.push_back({method, {{"amsgrad", "true"}}});
    if (has("nesterov")) cases.push_back({method, {{"nesterov", "true"}, {"weight_decay", "0.01"}}});
    if (!has("centered")) continue;
    cases.push_back({method, {{"centered", "true"}, {"epsilon_placement", "outside_root"}}});
    cases.push_back({method, {{"momentum", "0.9"}}});
    cases.push_back({method, {{"centered", "true"}, {"momentum", "0.9"}}});
  }
  std::set<int> rules;
  for (const Case& each : cases) rules.insert(host::rule_index(make_method(each.method, each.options)));
  if (rules.size() != kernels::Rules::kSize) throw std::logic_error("adamant: compare: a variant has no case here");
  return cases;
}

// Elements of a type that is known at run time only.
struct Elements {
  DataType type;
  const std::byte* data;

  std::size_t bytes(std::int64_t count) const { return static_cast<std::size_t>(count * size_in_bytes(type)); }
  double at(std::size_t i) const {
    return kernels::with_type(
        type, [&]<typename T>(T /*like*/) { return kernels::widened<double>(reinterpret_cast<const T*>(data)[i]); });
  }
  bool has_bits_of(const Elements& other, std::size_t i) const {
    const auto size = static_cast<std::size_t>(size_in_bytes(type));
    return std::memcmp(data + i * size, other.data + i * size, size) == 0;
  }
};

// One optimizer with one tensor in the memory of its device.
struct Run {
  std::shared_ptr<std::byte> parameter;
  Optimizer optimizer;
  std::vector<Elements> arrays;  // the parameter, the states, and the float32 master where there is one

  // `fill` is given the parameter's memory: masters are made of what it leaves there.
  template <typename Fill>
  Run(host::DeviceMemory& memory, const Method& method, const Tuning& tuning, const kernels::StorageTypes& types,
      const void* gradient, std::int64_t count, const CompareOptions& options, const Fill& fill)
      : parameter(memory.allocate(count * size_in_bytes(types.parameter))),
        optimizer(method, memory.device(), tuning),
        arrays{{types.parameter, parameter.get()}} {
    fill(parameter.get());
    if (options.conditions_gradients()) optimizer.set_control(options.control());
    const TensorId tensor = optimizer.add({.name = "parameter",
                                           .parameter = {static_cast<void*>(parameter.get()), types.parameter, count},
                                           .gradient = {gradient, types.gradient, count},
                                           .state_type = types.state,
                                           .master = types.master});
    const auto keep = [&](const std::string& name) {
      const Array state = optimizer.state(tensor, name);
      arrays.push_back({state.type(), static_cast<const std::byte*>(state.data())});
    };
    for (const std::string& state : state_names(method)) keep(state);
    if (types.master == Master::float32) keep("master");
  }
};

// A part of the tensor, small enough for host memory.
struct Piece {
  std::int64_t first;
  std::int64_t count;
};

// What depends on all gradients together, and random bits, which follow from an element's place, need the whole tensor.
std::int64_t piece_of(const CompareOptions& options, const kernels::StorageTypes& types) {
  if (options.conditions_gradients() || types.master == Master::stochastic) return std::max(options.count, kPiece);
  return kPiece;
}

std::vector<Piece> pieces_of(std::int64_t count, std::int64_t most) {
  std::vector<Piece> pieces;
  for (std::int64_t first = 0; first < count; first += most) pieces.push_back({first, std::min(most, count - first)});
  return pieces;
}

// An element before a step, to show what went into a difference.
struct Inputs {
  std::int64_t step;
  std::int64_t element;
  double parameter;
  double gradient;
  std::vector<double> states;
};

std::string to_text(const Inputs& inputs) {
  std::string text = fmt::format("step {}, element {}: parameter {:a} ({:.9g}), gradient {:a} ({:.9g})", inputs.step,
                                 inputs.element, inputs.parameter, inputs.parameter, inputs.gradient, inputs.gradient);
  for (const double state : inputs.states) text += fmt::format(", state {:a} ({:.9g})", state, state);
  return text;
}

struct Row {
  std::string method;
  std::string left;
  std::string right;
  std::int64_t mismatches = 0;
  double largest_ulps = 0;
  double mean_ulps = 0;
  std::optional<double> of_bound;  // against the reference: the largest part of what P4 allows
  std::optional<Inputs> first;
  std::string storage = {};
  bool passed() const { return of_bound ? *of_bound <= 1.0 : mismatches == 0; }
};

// What a run should make of gradients, from the definitions of StepControl: kept beside the run and held against its
// report after each step.
class ExpectedControl {
 public:
  explicit ExpectedControl(const CompareOptions& options) : options_(options) {}

  // Of the next step, whose gradients have this sum of squares as they are in memory.
  struct Step {
    bool skipped;
    double factor;
  };
  // `taken` is what the run reports after the step. Its norm may be off by a few roundings, and is what the factor is
  // then made of: what it does to the step is judged more closely than that.
  Step next(std::int64_t step, long double sum_of_squares, const StepReport& taken, Row& row) {
    const double scale = scale_;
    const bool skipped = options_.is_non_finite(step);
    const auto norm = static_cast<double>(std::sqrt(sum_of_squares) / static_cast<long double>(scale));
    skipped_ += skipped ? 1 : 0;
    if (options_.loss_scale) follow(skipped);
    const double off = skipped || norm == taken.gradient_norm
                           ? 0.0
                           : std::fabs(taken.gradient_norm - norm) / (norm * std::numeric_limits<double>::epsilon());
    row.largest_ulps = std::max(row.largest_ulps, off);
    const bool agrees = off <= kNormRoundings && taken.skipped == (skipped ? 1 : 0) &&
                        taken.skipped_steps == skipped_ && taken.loss_scale == scale_ && taken.good_steps == good_;
    row.mismatches += agrees ? 0 : 1;
    double factor = 1 / scale;
    if (options_.clip_norm) factor *= std::min(1.0, *options_.clip_norm / (taken.gradient_norm + 1e-6));
    return {skipped, factor};
  }
  // So many of the steps so far were not taken.
  std::int64_t skipped_steps() const { return skipped_; }

 private:
  static constexpr double kNormRoundings = 32;

  void follow(bool skipped) {
    constexpr LossScale kScale = CompareOptions::kLossScale;
    if (skipped) {
      scale_ = static_cast<float>(scale_ * kScale.backoff);
      good_ = 0;
    } else if (++good_ == kScale.growth_interval) {
      scale_ = static_cast<float>(scale_ * kScale.growth);
      good_ = 0;
    }
  }

  const CompareOptions& options_;
  float scale_ = options_.loss_scale ? static_cast<float>(CompareOptions::kLossScale.initial) : 1.0F;
  std::int32_t good_ = 0;
  std::int64_t skipped_ = 0;
};

// Steps the whole tensor on the device, then piece after piece of it on the CPU with each instruction set, from the
// same start and with the same gradients: bits are compared at the end, where a difference of any step is still there,
// because each step reads what the one before wrote. Each step of the CPU is held against the reference meanwhile, so
// what has the CPU's bits is as good. Where a full-precision number is kept in two parts, it is a run in float32 with
// the same gradients that is held against the reference, and the parts must be those of its numbers.
template <typename Real>
class Comparer {
 public:
  Comparer(const Case& to_run, const kernels::StorageTypes& types, const CompareOptions& options)
      : options_(options),
        types_(types),
        piece_(piece_of(options, types)),
        method_(make_method(to_run.method, {to_run.options.begin(), to_run.options.end()})),
        textbook_(to_run.method, to_run.options),
        threads_(Optimizer(GradientDescent{}, Device::cpu(), options.tuning()).threads()),
        device_memory_(options.make_device()),
        gradient_(device_memory_.allocate(options.count * size_in_bytes(types.gradient))) {
    title_ = to_run.method;
    for (const auto& [name, value] : to_run.options) title_ += fmt::format(" {}={}", name, value);
    device_label_ = name(device_memory_.device());
    const bool on_cpu = device_memory_.device().kind == Device::Kind::cpu;
    if (on_cpu) {
      const Optimizer probe(GradientDescent{}, Device::cpu(), options.tuning());
      device_label_ += fmt::format(" {} {} threads", name(probe.simd()), probe.threads());
    }
    for (const SimdLevel level : simd_levels()) {
      // Beside a run on the CPU they do everything in another way than that; beside another device they shall be quick.
      Tuning other = options.tuning();
      other.simd = level;
      if (on_cpu) other.threads = 1;
      other.tile = kChunk;
      levels_.push_back(
          {on_cpu ? fmt::format("cpu {} 1 thread", name(level)) : fmt::format("cpu {}", name(level)), other});
    }
  }

  // Calls tick() 2 * steps * pieces times.
  template <typename Tick>
  std::vector<Row> run(const Tick& tick) {
    const auto row = [&](const std::string& left, const std::string& right) {
      Row made{title_, left, right, 0, 0, 0, {}, {}};
      made.storage = kernels::short_name(types_);
      return made;
    };
    std::vector<Row> rows;
    for (const Level& level : levels_) rows.push_back(row(device_label_, level.label));
    Row against_twin = row(levels_.back().label, kTwin);
    Row against_control = row(levels_.back().label, "step control");
    Row against_reference = row(has_twin() ? kTwin : levels_.back().label, "reference");
    against_reference.of_bound = 0.0;
    run_device(options_.steps, tick);
    for (const Piece& piece : pieces_of(options_.count, piece_)) {
      check_piece(piece, rows, against_twin, against_control, against_reference, tick);
    }
    against_reference.mean_ulps /= static_cast<double>(std::max<std::int64_t>(1, samples_));
    if (has_twin()) rows.push_back(against_twin);
    if (options_.conditions_gradients()) rows.push_back(against_control);
    rows.push_back(against_reference);
    return rows;
  }

 private:
  struct Level {
    std::string label;
    Tuning tuning;
  };
  using Runs = std::vector<std::unique_ptr<Run>>;
  static constexpr auto kNoTick = [] {};
  static constexpr const char* kTwin = "float32 run";

  // The run in float32 with the same gradients.
  bool has_twin() const { return types_.master == Master::float32 || types_.master == Master::remainder; }
  kernels::StorageTypes twin_types() const {
    return {DataType::float32, DataType::float32, types_.state, Master::none};
  }

  // The parameters of step 0, or the gradients of a step.
  void fill(std::byte* values, DataType type, const Piece& piece, std::int64_t step) const {
    Numbers(options_.seed, step).fill(values, type, piece.first, piece.count, threads_);
    if (step == 0 || !options_.is_non_finite(step) || piece.first + piece.count != options_.count) return;
    constexpr float kInfinity = std::numeric_limits<float>::infinity();
    const std::vector<std::byte> infinity =
        host::converted(std::as_bytes(std::span(&kInfinity, 1)), DataType::float32, type);
    std::copy(infinity.begin(), infinity.end(), values + (piece.count - 1) * size_in_bytes(type));
  }

  // Of an array on the device.
  void write_piece(std::byte* array, DataType type, const Piece& piece, std::int64_t step) {
    values_.resize(static_cast<std::size_t>(piece.count * size_in_bytes(type)));
    fill(values_.data(), type, piece, step);
    device_memory_.write(array + piece.first * size_in_bytes(type), values_);
  }

  template <typename Tick>
  void run_device(std::int64_t steps, const Tick& tick) {
    device_.reset();  // what it takes is needed again
    const std::vector<Piece> pieces = pieces_of(options_.count, piece_);
    device_ = std::make_unique<Run>(device_memory_, method_, options_.tuning(), types_, gradient_.get(), options_.count,
                                    options_, [&](std::byte* parameter) {
                                      for (const Piece& piece : pieces)
                                        write_piece(parameter, types_.parameter, piece, 0);
                                    });
    for (std::int64_t step = 1; step <= steps; ++step) {
      for (const Piece& piece : pieces) {
        write_piece(gradient_.get(), types_.gradient, piece, step);
        tick();
      }
      device_->optimizer.step();
    }
  }

  std::unique_ptr<Run> begin(const Piece& piece, const Tuning& tuning, const kernels::StorageTypes& types,
                             const std::vector<std::byte>& gradient) {
    return std::make_unique<Run>(
        host_memory_, method_, tuning, types, gradient.data(), piece.count, options_, [&](std::byte* parameter) {
          fill(parameter, types_.parameter, piece, 0);
          if (types == types_) return;
          const auto wide =
              host::converted(std::vector(parameter, parameter + piece.count * size_in_bytes(types_.parameter)),
                              types_.parameter, types.parameter);
          std::copy(wide.begin(), wide.end(), parameter);
        });
  }

  std::vector<std::byte> room_for(const Piece& piece, DataType type) const {
    return std::vector<std::byte>(static_cast<std::size_t>(piece.count * size_in_bytes(type)));
  }

  template <typename Tick>
  void check_piece(const Piece& piece, std::vector<Row>& rows, Row& against_twin, Row& against_control,
                   Row& against_reference, const Tick& tick) {
    host_gradient_ = room_for(piece, types_.gradient);
    std::vector<std::byte> twin_gradient = has_twin() ? room_for(piece, DataType::float32) : std::vector<std::byte>();
    Runs runs;
    for (const Level& level : levels_) runs.push_back(begin(piece, level.tuning, types_, host_gradient_));
    if (has_twin()) runs.push_back(begin(piece, levels_.back().tuning, twin_types(), twin_gradient));
    const Run& checked = *runs.back();
    const Elements gradient{types_.gradient, host_gradient_.data()};
    ExpectedControl control(options_);
    for (std::int64_t step = 1; step <= options_.steps; ++step) {
      fill(host_gradient_.data(), types_.gradient, piece, step);
      if (has_twin()) {
        const auto wide = host::converted(host_gradient_, types_.gradient, DataType::float32);
        std::copy(wide.begin(), wide.end(), twin_gradient.begin());
      }
      std::vector<Sample> samples = samples_of(checked, gradient, piece, step - control.skipped_steps());
      for (const auto& run : runs) run->optimizer.step();
      bool skipped = false;
      if (options_.conditions_gradients()) {
        long double squares = 0;
        for (std::size_t i = 0; i < static_cast<std::size_t>(piece.count); ++i) {
          squares += static_cast<long double>(gradient.at(i)) * static_cast<long double>(gradient.at(i));
        }
        const auto expected = control.next(step, squares, checked.optimizer.report(), against_control);
        skipped = expected.skipped;
        for (Sample& sample : samples) sample.gradient = conditioned(sample.gradient, expected.factor);
      }
      for (const Sample& sample : samples) {
        skipped ? expect_unchanged(against_reference, checked, sample)
                : compare_with_reference(against_reference, checked, sample);
      }
      samples_ += static_cast<std::int64_t>(samples.size());
      tick();
    }
    if (has_twin()) compare_with_twin(against_twin, *runs[levels_.size() - 1], checked, piece);
    for (std::size_t level = 0; level < levels_.size() && options_.conditions_gradients(); ++level) {
      rows[level].mismatches += same(device_->optimizer.report(), runs[level]->optimizer.report()) ? 0 : 1;
    }
    for (std::size_t array = 0; array < device_->arrays.size(); ++array) {
      Elements left = read(array, piece);
      for (std::size_t level = 0; level < levels_.size(); ++level) {
        const Elements right = runs[level]->arrays[array];
        if (std::memcmp(left.data, right.data, left.bytes(piece.count)) == 0) continue;
        const std::size_t first = note_differences(rows[level], left, right, piece.count);
        if (rows[level].first) continue;
        rows[level].first = first_difference(levels_[level], piece, first);
        left = read(array, piece);  // the search has read other steps into the same memory
      }
    }
  }

  static bool same(const StepReport& left, const StepReport& right) {
    return measure::bits(left.gradient_norm) == measure::bits(right.gradient_norm) &&
           left.skipped_steps == right.skipped_steps && left.loss_scale == right.loss_scale &&
           left.good_steps == right.good_steps && left.skipped == right.skipped;
  }

  // The same array on the device, of this piece.
  Elements read(std::size_t array, const Piece& piece) {
    const Elements from = device_->arrays[array];
    values_.resize(from.bytes(piece.count));
    device_memory_.read(values_, from.data + piece.first * size_in_bytes(from.type));
    return {from.type, values_.data()};
  }

  // Returns the first of them.
  std::size_t note_differences(Row& row, const Elements& left, const Elements& right, std::int64_t count) const {
    std::optional<std::size_t> first;
    for (std::size_t i = 0; i < static_cast<std::size_t>(count); ++i) {
      if (left.has_bits_of(right, i)) continue;
      ++row.mismatches;
      if (!first) first = i;
      const double ulps = std::fabs(left.at(i) - right.at(i)) / measure::ulp(left.type, left.at(i));
      if (std::isnan(ulps)) continue;
      row.largest_ulps = std::max(row.largest_ulps, ulps);
      row.mean_ulps += ulps / static_cast<double>(options_.count);
    }
    return first.value_or(0);
  }

  // What is kept of a number in two parts must be the parts of the float32 run's number, and the states its states.
  void compare_with_twin(Row& row, const Run& run, const Run& twin, const Piece& piece) const {
    const Elements whole = twin.arrays[0];
    const host::SplitParameter parts =
        host::split({whole.data, whole.bytes(piece.count)}, types_.parameter, types_.master);
    std::vector<Elements> expected = twin.arrays;
    expected[0] = {types_.parameter, parts.parameter.data()};
    if (types_.master == Master::float32) expected.push_back(whole);
    for (std::size_t array = 0; array < expected.size(); ++array) {
      note_differences(row, expected[array], run.arrays[array], piece.count);
    }
  }

  // What went into the first step that gave an element another value than the CPU's: everything is done once more, with
  // one step, with two, and so on.
  Inputs first_difference(const Level& level, const Piece& piece, std::size_t i) {
    std::vector<std::byte> bytes = room_for(piece, types_.gradient);
    const Elements gradient{types_.gradient, bytes.data()};
    const std::unique_ptr<Run> cpu = begin(piece, level.tuning, types_, bytes);
    for (std::int64_t step = 1;; ++step) {
      fill(bytes.data(), types_.gradient, piece, step);
      Inputs inputs{step, piece.first + static_cast<std::int64_t>(i), cpu->arrays[0].at(i), gradient.at(i), {}};
      for (std::size_t slot = 1; slot < cpu->arrays.size(); ++slot) inputs.states.push_back(cpu->arrays[slot].at(i));
      cpu->optimizer.step();
      run_device(step, kNoTick);
      bool differs = false;
      for (std::size_t array = 0; array < cpu->arrays.size(); ++array) {
        differs = differs || !read(array, piece).has_bits_of(cpu->arrays[array], i);
      }
      if (differs && step < options_.steps) run_device(options_.steps, kNoTick);  // as it was
      if (differs || step == options_.steps) return inputs;
    }
  }

  // An element before a step of the CPU.
  struct Sample {
    std::size_t i;  // within the piece
    std::int64_t step;
    std::int64_t element;
    Real gradient;
    std::array<Real, 1 + reference::kMostStates> before;  // the parameter, then the states
  };

  std::size_t slots() const { return textbook_.state_names().size(); }

  std::vector<Sample> samples_of(const Run& run, const Elements& gradient, const Piece& piece,
                                 std::int64_t step) const {
    const std::int64_t every = sampled_every(options_);
    std::vector<Sample> samples;
    // Others at every step.
    for (std::int64_t i = (step + every - piece.first % every) % every; i < piece.count; i += every) {
      const auto at = static_cast<std::size_t>(i);
      samples.push_back({at, step, piece.first + i, static_cast<Real>(gradient.at(at)), {}});
      for (std::size_t array = 0; array <= slots(); ++array) {
        samples.back().before.at(array) = static_cast<Real>(run.arrays[array].at(at));
      }
    }
    return samples;
  }

  // As StepControl says: one factor, which is rounded once; then the clipping by value.
  Real conditioned(Real gradient, double factor) const {
    const Real scaled = gradient * static_cast<Real>(factor);
    if (!options_.clip_value) return scaled;
    const auto limit = static_cast<Real>(*options_.clip_value);
    return std::clamp(scaled, -limit, limit);
  }

  static void note_worst(Row& row, const Sample& sample, std::size_t slots, double part) {
    if (part <= *row.of_bound) return;
    row.of_bound = part;
    row.first = Inputs{
        sample.step, sample.element, static_cast<double>(sample.before[0]), static_cast<double>(sample.gradient), {}};
    for (std::size_t slot = 0; slot < slots; ++slot) {
      row.first->states.push_back(static_cast<double>(sample.before.at(slot + 1)));
    }
  }

  // A skipped step leaves everything as it was.
  void expect_unchanged(Row& row, const Run& run, const Sample& sample) const {
    for (std::size_t array = 0; array <= slots(); ++array) {
      if (measure::bits(static_cast<Real>(run.arrays[array].at(sample.i))) != measure::bits(sample.before.at(array))) {
        note_worst(row, sample, slots(), std::numeric_limits<double>::infinity());
      }
    }
  }

  // What storing a result costs beyond P4: at random a whole ulp of the narrower type, to nearest half of one.
  Exact<Real> rounding_of(DataType type, Real got, Exact<Real> exact) const {
    if (type != DataType::bfloat16 && type != DataType::float16) return 0;
    const double larger = std::max(std::fabs(static_cast<double>(got)), std::fabs(static_cast<double>(exact)));
    return (types_.master == Master::stochastic ? 1.0 : 0.5) * measure::ulp(type, larger);
  }

  void compare_with_reference(Row& row, const Run& run, const Sample& sample) {
    std::array<Exact<Real>, reference::kMostStates> before{};
    std::array<Real, reference::kMostStates> after{};
    for (std::size_t slot = 0; slot < slots(); ++slot) {
      before.at(slot) = sample.before.at(slot + 1);
      after.at(slot) = static_cast<Real>(run.arrays[slot + 1].at(sample.i));
    }
    const auto exact = textbook_.step(sample.before[0], before.data(), sample.gradient, sample.step);
    if (exact.cancels) return;
    const auto parameter = static_cast<Real>(run.arrays[0].at(sample.i));
    StorageRounding<Real> rounding;
    rounding.parameter = rounding_of(run.arrays[0].type, parameter, exact.parameter);
    for (std::size_t slot = 0; slot < slots(); ++slot) {
      rounding.state[slot] = rounding_of(run.arrays[slot + 1].type, after.at(slot), exact.state[slot]);
    }
    const Exact<Real> error = std::fabs(static_cast<Exact<Real>>(parameter) - exact.parameter);
    const Exact<Real> one_ulp = measure::ulp(detail::kDataType<Real>, static_cast<double>(exact.parameter));
    const auto ulps =
        static_cast<double>(error) / measure::ulp(run.arrays[0].type, static_cast<double>(exact.parameter));
    const Exact<Real> part =
        part_of_bound<Real>(parameter, std::span(after).first(slots()), textbook_, exact, one_ulp, rounding);
    if (!std::isnan(ulps)) {
      row.largest_ulps = std::max(row.largest_ulps, ulps);
      row.mean_ulps += ulps;
    }
    note_worst(row, sample, slots(), static_cast<double>(part));
  }

  const CompareOptions& options_;
  kernels::StorageTypes types_;
  std::int64_t piece_;
  Method method_;
  reference::Textbook<Exact<Real>> textbook_;
  int threads_;
  std::string title_;
  std::string device_label_;
  std::vector<Level> levels_;
  host::DeviceMemory host_memory_{Device::cpu()};
  host::DeviceMemory device_memory_;
  std::shared_ptr<std::byte> gradient_;   // on the device
  std::unique_ptr<Run> device_;           // the whole tensor
  std::vector<std::byte> values_;         // of a piece of an array of the device, on its way
  std::vector<std::byte> host_gradient_;  // of a piece
  std::int64_t samples_ = 0;
};

nlohmann::json to_json(const Row& row) {
  nlohmann::json json{{"method", row.method},
                      {"storage", row.storage},
                      {"left", row.left},
                      {"right", row.right},
                      {"mismatching_values", row.mismatches},
                      {"largest_error_ulps", number(row.largest_ulps)},
                      {"mean_error_ulps", number(row.mean_ulps)},
                      {"passed", row.passed()}};
  if (row.of_bound) json["largest_part_of_bound"] = number(*row.of_bound);
  if (row.first) {
    nlohmann::json states = nlohmann::json::array();
    for (const double state : row.first->states) states.push_back(number(state));
    json[row.of_bound ? "largest_error_inputs" : "first_difference"] = {{"step", row.first->step},
                                                                        {"element", row.first->element},
                                                                        {"parameter", number(row.first->parameter)},
                                                                        {"gradient", number(row.first->gradient)},
                                                                        {"states", states}};
  }
  return json;
}

// Throws std::invalid_argument, with what is needed, when memory does not hold the arrays of a case: the whole tensor
// on the device, and in host memory a piece of it for each instruction set.
void check_memory(const Case& to_run, const kernels::StorageTypes& types, const CompareOptions& options) {
  const Method method = make_method(to_run.method, {to_run.options.begin(), to_run.options.end()});
  const auto levels = static_cast<std::int64_t>(simd_levels().size());
  const std::int64_t kept = kernels::kept_size(types.master);
  const std::int64_t of_states = static_cast<std::int64_t>(state_names(method).size()) * size_in_bytes(types.state);
  const std::int64_t of_element = size_in_bytes(types.parameter) + of_states + kept;
  const std::int64_t gradient = size_in_bytes(types.gradient);
  // The float32 run, its gradient and its parts.
  const std::int64_t twin = kept == 0 ? 0 : of_states + 20;
  const std::int64_t of_tensor = options.count * (of_element + gradient);
  const std::int64_t of_piece =
      std::min(piece_of(options, types), options.count) * (levels * of_element + 3 * gradient + twin);
  const auto check = [&](std::int64_t needed, std::int64_t available, const std::string& where) {
    if (needed <= available) return;
    throw std::invalid_argument(fmt::format("adamant: compare: {} at --count {} needs {}{} and {} are free",
                                            to_run.method, options.count, gibibytes(needed), where,
                                            gibibytes(available)));
  };
  const Device device = options.make_device();
  if (device.kind == Device::Kind::cpu) return check(of_tensor + of_piece, host::memory_available(), "");
  check(of_tensor, kernels::cuda_memory_available(device.index), " of " + name(device));
  check(of_piece, host::memory_available(), "");
}

// "clip norm 1, loss scale": what is done to gradients; empty where nothing is.
std::string describe_control(const CompareOptions& options) {
  std::vector<std::string> parts;
  if (options.loss_scale) parts.emplace_back("a loss scale");
  if (options.clip_norm) parts.push_back(fmt::format("norm clipped to {}", *options.clip_norm));
  if (options.clip_value) parts.push_back(fmt::format("values clipped to {}", *options.clip_value));
  if (options.skip_non_finite || options.loss_scale) parts.emplace_back("every fourth step not finite, and skipped");
  return host::joined(parts);
}

std::vector<Row> rows_of(const Case& to_run, const kernels::StorageTypes& types, const CompareOptions& options,
                         const std::function<void()>& tick) {
  return types.parameter == DataType::float64 ? Comparer<double>(to_run, types, options).run(tick)
                                              : Comparer<float>(to_run, types, options).run(tick);
}

bool run(const CompareOptions& options) {
  check_output("--json-file", options.json_file);
  const std::vector<kernels::StorageTypes> storages = options.all_storages();
  options.check_machine();
  const std::vector<Case> cases = cases_of(options);
  double ticks = 0;
  for (const kernels::StorageTypes& types : storages) {
    for (const Case& to_run : cases) check_memory(to_run, types, options);
    ticks += 2.0 * static_cast<double>(options.steps) *
             static_cast<double>(pieces_of(options.count, piece_of(options, types)).size() * cases.size());
  }
  Progress progress("compare");
  const std::int64_t every = sampled_every(options);
  nlohmann::json report{{"environment", environment()},
                        {"device", facts_of(options.make_device())},
                        {"dtype", options.type},
                        {"storages", nlohmann::json::array()},
                        {"count", options.count},
                        {"steps", options.steps},
                        {"seed", options.seed},
                        {"control", describe_control(options)},
                        {"reference_sees_one_element_in", every},
                        {"rows", nlohmann::json::array()}};
  for (const kernels::StorageTypes& types : storages) report["storages"].push_back(kernels::short_name(types));
  const bool of_one_type = options.storages.empty();
  if (!options.json) {
    fmt::print(
        "{} steps of {} {}parameters, seed {}, on {}.\nTwo runs agree when no bit differs at the end; with the "
        "textbook reference each step agrees when its error, beyond half\nan ulp of the parameter, is within the "
        "promised bound (100 %). Ulps of a parameter near zero are many; the bound\nknows how large the update "
        "was.\n{}{}\n",
        options.steps, options.count, of_one_type ? fmt::format("{} ", name(options.data_type())) : "", options.seed,
        describe(options.make_device()),
        every == 1 ? "" : fmt::format("The reference sees one element in {}, others at each step.\n", every),
        options.conditions_gradients() ? fmt::format("With {}.\n", describe_control(options)) : "");
    if (!of_one_type) {
      fmt::print(
          "What a narrower type rounds off comes on top of the bound. Where a master or a remainder keeps the float32 "
          "number, a\nfloat32 run with the same gradients is held against the reference, and the stored parts against "
          "its numbers.\n\n");
    }
    fmt::print("{:<58} {:<24} {:<24} {:>10} {:>9} {:>9} {:>8}\n", "method", "left", "right", "mismatches", "max ulp",
               "mean ulp", "% bound");
  }
  bool passed = true;
  double done = 0;
  for (const kernels::StorageTypes& types : storages) {
    if (!options.json && !of_one_type) fmt::print("{}\n", kernels::short_name(types));
    for (const Case& to_run : cases) {
      const std::vector<Row> rows =
          rows_of(to_run, types, options, [&] { progress.at(++done / ticks, to_run.method); });
      progress.clear();
      for (const Row& row : rows) {
        passed = passed && row.passed();
        report["rows"].push_back(to_json(row));
        if (options.json) continue;
        fmt::print("{:<58} {:<24} {:<24} {:>10} {:>9.3g} {:>9.3g} {:>8} {}\n", row.method, row.left, row.right,
                   row.of_bound ? "-" : fmt::format("{}", row.mismatches), row.largest_ulps, row.mean_ulps,
                   row.of_bound ? fmt::format("{:.0f} %", 100 * *row.of_bound) : "-", row.passed() ? "ok" : "FAILED");
        if (!row.passed() && row.first)
          fmt::print("    {} {}\n", row.of_bound ? "worst at" : "first at", to_text(*row.first));
      }
    }
  }
  report["passed"] = passed;
  options.emit(report);
  return passed;
}

}  // namespace

Command add_compare(CLI::App& program) {
  CLI::App* app = program.add_subcommand(
      "compare",
      "Hold a method's backends and instruction sets against each other, and against the textbook reference");
  auto options = std::make_shared<CompareOptions>();
  options->method = "all";
  app->add_option("--method", options->method, "a method, or all with their variants")->capture_default_str();
  app->add_option("--count", options->count, "parameters")
      ->capture_default_str()
      ->check(whole_number(0, std::uint64_t{1} << 40));
  app->add_option("--steps", options->steps, "steps")
      ->capture_default_str()
      ->check(whole_number(1, std::uint64_t{1} << 40));
  app->add_option("--seed", options->seed, "of the parameters and gradients")
      ->capture_default_str()
      ->check(whole_number(0, std::numeric_limits<std::uint64_t>::max()));
  app->add_option("--clip-norm", options->clip_norm, "clip the global norm of the gradients to this")
      ->check(positive_number());
  app->add_option("--clip-value", options->clip_value, "then clip each gradient to this")->check(positive_number());
  app->add_flag("--skip-non-finite", options->skip_non_finite,
                "make the last gradient of every fourth step infinite, and skip such a step");
  app->add_flag("--loss-scale", options->loss_scale,
                "divide gradients by a loss scale that begins at 8, grows after three steps and skips as above");
  options->add_to(*app);
  options->add_threads_to(*app);
  options->add_storages_to(*app);
  return {app, [options] { return run(*options); }};
}

}  // namespace adamant::tools
