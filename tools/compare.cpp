// `adamant compare`: a method on a device against every instruction set of the CPU, bit by bit, and each of its steps
// against the textbook reference.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <optional>
#include <thread>

#include "host/device_memory.hpp"
#include "host/measure.hpp"
#include "host/reference.hpp"
#include "kernels/backend.hpp"
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

  // Those of the elements from `first` on.
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

 private:
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
    // Every variant that has other states than the defaults.
    const std::vector<Option> all = adamant::options(make_method(method));
    const auto has = [&](std::string_view name) {
      return std::any_of(all.begin(), all.end(), [&](const Option& option) { return option.name == name; });
    };
    if (has("amsgrad")) cases.push_back({method, {{"amsgrad", "true"}}});
    if (has("nesterov")) cases.push_back({method, {{"nesterov", "true"}, {"weight_decay", "0.01"}}});
    if (has("centered")) cases.push_back({method, {{"centered", "true"}, {"epsilon_placement", "outside_root"}}});
    if (has("centered")) cases.push_back({method, {{"centered", "true"}, {"momentum", "0.9"}}});
  }
  return cases;
}

// One optimizer with one tensor in the memory of its device.
template <typename Real>
struct Run {
  host::DeviceArray<Real> parameter;
  Optimizer optimizer;
  std::vector<const Real*> arrays;  // the parameter, then the states

  Run(host::DeviceMemory& memory, const Method& method, const Tuning& tuning, Real* gradient, std::int64_t count)
      : parameter(memory, count), optimizer(method, memory.device(), tuning), arrays{parameter.data()} {
    const TensorId tensor =
        optimizer.add({.name = "parameter", .parameter = {parameter.data(), count}, .gradient = {gradient, count}});
    for (const std::string& state : state_names(method)) {
      arrays.push_back(optimizer.state(tensor, state).template as<Real>());
    }
  }
};

// A part of the tensor, small enough for host memory.
struct Piece {
  std::int64_t first;
  std::int64_t count;
};

std::vector<Piece> pieces_of(std::int64_t count) {
  std::vector<Piece> pieces;
  for (std::int64_t first = 0; first < count; first += kPiece) {
    pieces.push_back({first, std::min(kPiece, count - first)});
  }
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
  bool passed() const { return of_bound ? *of_bound <= 1.0 : mismatches == 0; }
};

// Steps the whole tensor on the device, then piece after piece of it on the CPU with each instruction set, from the
// same start and with the same gradients: bits are compared at the end, where a difference of any step is still there,
// because each step reads what the one before wrote. Each step of the CPU is held against the reference meanwhile, so
// what has the CPU's bits is as good.
template <typename Real>
class Comparer {
 public:
  Comparer(const Case& to_run, const CompareOptions& options)
      : options_(options),
        method_(make_method(to_run.method, {to_run.options.begin(), to_run.options.end()})),
        textbook_(to_run.method, to_run.options),
        threads_(Optimizer(GradientDescent{}, Device::cpu(), options.tuning()).threads()),
        device_memory_(options.make_device()),
        gradient_(device_memory_, options.count),
        values_(static_cast<std::size_t>(std::min(kPiece, options.count))) {
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
    std::vector<Row> rows;
    for (const Level& level : levels_) rows.push_back({title_, device_label_, level.label, 0, 0, 0, {}, {}});
    Row against_reference{title_, levels_.back().label, "reference", 0, 0, 0, 0.0, {}};
    run_device(options_.steps, tick);
    for (const Piece& piece : pieces_of(options_.count)) check_piece(piece, rows, against_reference, tick);
    against_reference.mean_ulps /= static_cast<double>(std::max<std::int64_t>(1, samples_));
    rows.push_back(against_reference);
    return rows;
  }

 private:
  struct Level {
    std::string label;
    Tuning tuning;
  };
  using Runs = std::vector<std::unique_ptr<Run<Real>>>;
  static constexpr auto kNoTick = [] {};

  void fill(std::span<Real> values, std::int64_t first, std::int64_t step) const {
    Numbers(options_.seed, step).fill(values, first, threads_);
  }

  // Of an array on the device.
  void write_piece(Real* array, const Piece& piece, std::int64_t step) {
    const std::span<Real> values = std::span(values_).first(static_cast<std::size_t>(piece.count));
    fill(values, piece.first, step);
    device_memory_.write(array + piece.first, std::as_bytes(values));
  }

  template <typename Tick>
  void run_device(std::int64_t steps, const Tick& tick) {
    device_.reset();  // what it takes is needed again
    device_ = std::make_unique<Run<Real>>(device_memory_, method_, options_.tuning(), gradient_.data(), options_.count);
    const std::vector<Piece> pieces = pieces_of(options_.count);
    for (const Piece& piece : pieces) write_piece(device_->parameter.data(), piece, 0);
    for (std::int64_t step = 1; step <= steps; ++step) {
      for (const Piece& piece : pieces) {
        write_piece(gradient_.data(), piece, step);
        tick();
      }
      device_->optimizer.step();
    }
  }

  Runs begin(const Piece& piece, std::span<const Level> levels, std::vector<Real>& gradient) {
    Runs runs;
    gradient.resize(static_cast<std::size_t>(piece.count));
    for (const Level& level : levels) {
      runs.push_back(std::make_unique<Run<Real>>(host_memory_, method_, level.tuning, gradient.data(), piece.count));
      fill({runs.back()->parameter.data(), gradient.size()}, piece.first, 0);
    }
    return runs;
  }

  template <typename Tick>
  void check_piece(const Piece& piece, std::vector<Row>& rows, Row& against_reference, const Tick& tick) {
    const Runs runs = begin(piece, levels_, host_gradient_);
    for (std::int64_t step = 1; step <= options_.steps; ++step) {
      fill(host_gradient_, piece.first, step);
      const std::vector<Sample> samples = samples_of(*runs.back(), piece, step);
      for (const auto& run : runs) run->optimizer.step();
      for (const Sample& sample : samples) compare_with_reference(against_reference, *runs.back(), sample);
      samples_ += static_cast<std::int64_t>(samples.size());
      tick();
    }
    for (std::size_t array = 0; array < device_->arrays.size(); ++array) {
      std::span<const Real> left = read(array, piece);
      for (std::size_t level = 0; level < levels_.size(); ++level) {
        const std::span<const Real> right(runs[level]->arrays[array], left.size());
        if (std::memcmp(left.data(), right.data(), left.size_bytes()) == 0) continue;
        const std::size_t first = note_differences(rows[level], left, right);
        if (rows[level].first) continue;
        rows[level].first = first_difference(levels_[level], piece, first);
        left = read(array, piece);  // the search has read other steps into the same memory
      }
    }
  }

  // The same array on the device, of this piece.
  std::span<const Real> read(std::size_t array, const Piece& piece) {
    const std::span<Real> values = std::span(values_).first(static_cast<std::size_t>(piece.count));
    device_memory_.read(std::as_writable_bytes(values), device_->arrays[array] + piece.first);
    return values;
  }

  // Returns the first of them.
  std::size_t note_differences(Row& row, std::span<const Real> left, std::span<const Real> right) const {
    const measure::Difference difference = measure::difference(left, right);
    row.mismatches += difference.mismatches;
    for (std::size_t i = 0; i < left.size(); ++i) {
      const double ulps =
          std::fabs(static_cast<double>(left[i]) - static_cast<double>(right[i])) / ulp(static_cast<double>(left[i]));
      if (std::isnan(ulps)) continue;
      row.largest_ulps = std::max(row.largest_ulps, ulps);
      row.mean_ulps += ulps / static_cast<double>(options_.count);
    }
    return static_cast<std::size_t>(difference.first);
  }

  // What went into the first step that gave an element another value than the CPU's: everything is done once more, with
  // one step, with two, and so on.
  Inputs first_difference(const Level& level, const Piece& piece, std::size_t i) {
    std::vector<Real> gradient;
    const Runs runs = begin(piece, {&level, 1}, gradient);
    const Run<Real>& cpu = *runs.front();
    for (std::int64_t step = 1;; ++step) {
      fill(gradient, piece.first, step);
      Inputs inputs{step,
                    piece.first + static_cast<std::int64_t>(i),
                    static_cast<double>(cpu.arrays[0][i]),
                    static_cast<double>(gradient[i]),
                    {}};
      for (std::size_t slot = 1; slot < cpu.arrays.size(); ++slot) {
        inputs.states.push_back(static_cast<double>(cpu.arrays[slot][i]));
      }
      runs.front()->optimizer.step();
      run_device(step, kNoTick);
      bool differs = false;
      for (std::size_t array = 0; array < cpu.arrays.size(); ++array) {
        differs = differs || measure::bits(read(array, piece)[i]) != measure::bits(cpu.arrays[array][i]);
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

  std::vector<Sample> samples_of(const Run<Real>& run, const Piece& piece, std::int64_t step) const {
    const std::int64_t every = sampled_every(options_);
    std::vector<Sample> samples;
    // Others at every step.
    for (std::int64_t i = (step + every - piece.first % every) % every; i < piece.count; i += every) {
      const auto at = static_cast<std::size_t>(i);
      samples.push_back({at, step, piece.first + i, host_gradient_[at], {}});
      for (std::size_t array = 0; array < run.arrays.size(); ++array) {
        samples.back().before.at(array) = run.arrays[array][at];
      }
    }
    return samples;
  }

  void compare_with_reference(Row& row, const Run<Real>& run, const Sample& sample) {
    const std::size_t slots = run.arrays.size() - 1;
    std::array<Exact<Real>, reference::kMostStates> before{};
    std::array<Real, reference::kMostStates> after{};
    for (std::size_t slot = 0; slot < slots; ++slot) {
      before.at(slot) = sample.before.at(slot + 1);
      after.at(slot) = run.arrays[slot + 1][sample.i];
    }
    const auto exact = textbook_.step(sample.before[0], before.data(), sample.gradient, sample.step);
    if (exact.cancels) return;
    const Real parameter = run.arrays[0][sample.i];
    const Exact<Real> error = std::fabs(static_cast<Exact<Real>>(parameter) - exact.parameter);
    const Exact<Real> one_ulp = ulp(static_cast<double>(exact.parameter));
    const auto ulps = static_cast<double>(error / one_ulp);
    const Exact<Real> part = part_of_bound<Real>(parameter, std::span(after).first(slots), textbook_, exact, one_ulp);
    if (!std::isnan(ulps)) {
      row.largest_ulps = std::max(row.largest_ulps, ulps);
      row.mean_ulps += ulps;
    }
    if (static_cast<double>(part) > *row.of_bound) {
      row.of_bound = static_cast<double>(part);
      row.first = Inputs{
          sample.step, sample.element, static_cast<double>(sample.before[0]), static_cast<double>(sample.gradient), {}};
      for (std::size_t slot = 0; slot < slots; ++slot) {
        row.first->states.push_back(static_cast<double>(sample.before.at(slot + 1)));
      }
    }
  }

  static double ulp(double x) {
    return std::is_same_v<Real, float> ? measure::ulp_float32(x) : measure::ulp_float64(x);
  }

  const CompareOptions& options_;
  Method method_;
  reference::Textbook<Exact<Real>> textbook_;
  int threads_;
  std::string title_;
  std::string device_label_;
  std::vector<Level> levels_;
  host::DeviceMemory host_memory_{Device::cpu()};
  host::DeviceMemory device_memory_;
  host::DeviceArray<Real> gradient_;   // on the device
  std::unique_ptr<Run<Real>> device_;  // the whole tensor
  std::vector<Real> values_;           // of a piece of an array of the device, on its way
  std::vector<Real> host_gradient_;    // of a piece
  std::int64_t samples_ = 0;
};

nlohmann::json to_json(const Row& row) {
  nlohmann::json json{{"method", row.method},
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
void check_memory(const Case& to_run, const CompareOptions& options) {
  const Method method = make_method(to_run.method, {to_run.options.begin(), to_run.options.end()});
  const auto levels = static_cast<std::int64_t>(simd_levels().size());
  const auto arrays = static_cast<std::int64_t>(state_names(method).size()) + 1;
  const std::int64_t size = size_in_bytes(options.data_type());
  const std::int64_t of_tensor = options.count * size * (arrays + 1);
  const std::int64_t of_piece = std::min(kPiece, options.count) * size * (levels * arrays + 3);
  const auto check = [&](std::int64_t needed, std::int64_t available, const std::string& where) {
    if (needed <= available) return;
    throw std::invalid_argument(fmt::format("adamant: compare: {} at --count {} needs {}{} and {} are free",
                                            to_run.method, options.count, gibibytes(needed), where,
                                            gibibytes(available)));
  };
  const Device device = options.make_device();
  if (device.kind == Device::Kind::cpu) return check(of_tensor + of_piece, memory_available(), "");
  check(of_tensor, kernels::cuda_memory_available(device.index), " of " + name(device));
  check(of_piece, memory_available(), "");
}

bool run(const CompareOptions& options) {
  check_output("--json-file", options.json_file);
  options.check_machine();
  const std::vector<Case> cases = cases_of(options);
  for (const Case& to_run : cases) check_memory(to_run, options);
  Progress progress("compare");
  const std::int64_t every = sampled_every(options);
  nlohmann::json report{{"environment", environment()},
                        {"device", facts_of(options.make_device())},
                        {"dtype", options.type},
                        {"count", options.count},
                        {"steps", options.steps},
                        {"seed", options.seed},
                        {"reference_sees_one_element_in", every},
                        {"rows", nlohmann::json::array()}};
  if (!options.json) {
    fmt::print(
        "{} steps of {} {} parameters, seed {}, on {}.\nTwo runs agree when no bit differs at the end; with the "
        "textbook reference each step agrees when its error, beyond half\nan ulp of the parameter, is within the "
        "promised bound (100 %). Ulps of a parameter near zero are many; the bound\nknows how large the update "
        "was.\n{}\n",
        options.steps, options.count, name(options.data_type()), options.seed, describe(options.make_device()),
        every == 1 ? "" : fmt::format("The reference sees one element in {}, others at each step.\n", every));
    fmt::print("{:<58} {:<24} {:<24} {:>10} {:>9} {:>9} {:>8}\n", "method", "left", "right", "mismatches", "max ulp",
               "mean ulp", "% bound");
  }
  bool passed = true;
  double done = 0;
  const double all = 2.0 * static_cast<double>(options.steps) * static_cast<double>(pieces_of(options.count).size()) *
                     static_cast<double>(cases.size());
  for (const Case& to_run : cases) {
    const auto tick = [&] { progress.at(++done / all, to_run.method); };
    const std::vector<Row> rows = options.data_type() == DataType::float32
                                      ? Comparer<float>(to_run, options).run(tick)
                                      : Comparer<double>(to_run, options).run(tick);
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
  options->add_to(*app);
  return {app, [options] { return run(*options); }};
}

}  // namespace adamant::tools
