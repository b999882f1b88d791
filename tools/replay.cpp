// `adamant replay`.
#include "tools/replay.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <memory>
#include <span>
#include <stdexcept>

#include "host/checkpoint.hpp"
#include "host/convert.hpp"
#include "host/device_memory.hpp"
#include "host/reference.hpp"
#include "host/safetensors.hpp"
#include "kernels/storage_types.hpp"
#include "tools/commands.hpp"
#include "tools/run_options.hpp"
#include "tools/terminal.hpp"

namespace adamant::tools {
namespace {

namespace st = adamant::safetensors;

// Within how much of PyTorch's own float32 error a float32 result must be: the issue of a finite sample, not of method.
constexpr double kRootMeanSquareRatio = 1.1;
constexpr double kPercentile99Ratio = 1.5;
constexpr double kStateTolerance = 1e-5;

// Numbers rounded to a type, and back.
std::vector<std::byte> rounded(std::span<const double> values, DataType type) {
  if (type == DataType::float64) {
    const auto bytes = std::as_bytes(values);
    return {bytes.begin(), bytes.end()};
  }
  std::vector<float> singles(values.size());
  std::transform(values.begin(), values.end(), singles.begin(), [](double value) { return static_cast<float>(value); });
  return host::converted(std::as_bytes(std::span(singles)), DataType::float32, type);
}

std::vector<double> widened(std::span<const std::byte> bytes, DataType type) {
  const std::vector<std::byte> wide = host::converted(bytes, type, DataType::float64);
  std::vector<double> values(wide.size() / sizeof(double));
  if (!values.empty()) std::memcpy(values.data(), wide.data(), wide.size());
  return values;
}

// `allowed` says which types these may be; all of them are numbers.
std::vector<double> read_doubles(const st::File& file, const std::string& name, std::span<const DataType> allowed) {
  const st::Entry& entry = file.at(name);
  std::vector<std::string_view> names;
  for (const DataType type : allowed) {
    if (entry.type == host::file_type(type)) return widened(entry.data, type);
    names.push_back(st::type_name(host::file_type(type)));
  }
  const std::string last(names.back());
  names.pop_back();
  throw std::runtime_error(fmt::format("adamant: {}: tensor \"{}\" is {}; allowed: {} or {}", file.path().string(),
                                       name, st::type_name(entry.type), fmt::join(names, ", "), last));
}

constexpr std::array kOfTraces{DataType::float32, DataType::float64};
constexpr std::array kOfResults{DataType::bfloat16, DataType::float16, DataType::float32, DataType::float64};

std::string shape_text(const std::vector<std::int64_t>& shape) { return fmt::format("[{}]", fmt::join(shape, ", ")); }

[[noreturn]] void wrong_shape(const st::File& file, const st::Entry& entry, const std::string& allowed) {
  throw std::runtime_error(fmt::format("adamant: {}: tensor \"{}\" has shape {}; allowed: {}", file.path().string(),
                                       entry.name, shape_text(entry.shape), allowed));
}

void note_largest(std::vector<double>& largest, std::size_t i, double value) {
  if (std::fabs(value) > largest[i]) largest[i] = std::fabs(value);
}

// Where weight decay joins the gradient, and in RMSProp's buffer of quotients, a state takes up something else than the
// gradient, which can be zero while the state is not.
bool takes_up_more_than_gradients(const Method& method, std::string_view state) {
  const std::vector<Option> all = adamant::options(method);
  const bool decays = std::any_of(all.begin(), all.end(), [](const Option& option) {
    return option.name == "weight_decay" && option.value != "0";
  });
  return (decays && name(method) != "adamw") || (name(method) == "rmsprop" && state == "momentum_buffer");
}

// max |got - expected| / scale, element by element; an element that agrees is 0, one that differs from a scale of 0 is
// infinitely wrong.
double largest_relative(std::span<const double> got, std::span<const double> expected,
                        const std::vector<double>& scale) {
  double largest = 0;
  for (std::size_t i = 0; i < got.size(); ++i) {
    if (got[i] == expected[i] || (std::isnan(got[i]) && std::isnan(expected[i]))) continue;
    const double error = std::fabs(got[i] - expected[i]) / scale[i];
    if (!(error <= largest)) largest = std::isnan(error) ? INFINITY : error;
  }
  return largest;
}

std::vector<double> read_expected(const st::File& file, const std::string& name, std::size_t count) {
  const st::Entry& entry = file.at(name);
  if (entry.shape.size() != 1 || entry.shape[0] != static_cast<std::int64_t>(count)) {
    wrong_shape(file, entry, fmt::format("[{}], as many as the trace's param", count));
  }
  return read_doubles(file, name, kOfResults);
}

// Where the yardstick can tell anything: both of PyTorch's runs are finite. Throws std::runtime_error when the scale is
// not one there, which would make any error look small, and when no element is left, where anything would pass.
std::vector<std::size_t> elements_to_judge(const st::File& file, const std::vector<double>& expected,
                                           const std::vector<double>& pytorch, const std::vector<double>& scale) {
  std::vector<std::size_t> judged;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    if (!std::isfinite(expected[i]) || !std::isfinite(pytorch[i])) continue;
    if (!std::isfinite(scale[i]) || scale[i] < std::fabs(expected[i])) {
      throw std::runtime_error(
          fmt::format("adamant: {}: param_path_max[{}] = {} where param is {}; allowed: finite and at "
                      "least |param|",
                      file.path().string(), i, scale[i], expected[i]));
    }
    judged.push_back(i);
  }
  if (judged.empty() && !expected.empty()) {
    throw std::runtime_error(fmt::format(
        "adamant: {}: param or param_f32 is not finite anywhere; allowed: a yardstick with something to judge by",
        file.path().string()));
  }
  return judged;
}

std::vector<double> picked(const std::vector<double>& values, const std::vector<std::size_t>& indices) {
  std::vector<double> list;
  list.reserve(indices.size());
  for (const std::size_t i : indices) list.push_back(values[i]);
  return list;
}

void add_entry(std::vector<st::Entry>& entries, std::vector<std::vector<std::byte>>& storage, const std::string& name,
               DataType type, const std::vector<double>& values) {
  storage.push_back(rounded(values, type));  // they are of that type, so that nothing is rounded
  entries.push_back({name, host::file_type(type), {static_cast<std::int64_t>(values.size())}, storage.back()});
}

struct ReplayOptions : RunOptions {
  std::string trace;
  std::string out;
  std::string expect;
  double tolerance = kStateTolerance;
};

nlohmann::json to_json(const ReplayComparison& comparison) {
  nlohmann::json figures = nlohmann::json::array();
  for (const auto& figure : comparison.figures) {
    figures.push_back({{"tensor", figure.name},
                       {"figure", figure.what},
                       {"value", number(figure.value)},
                       {"allowed", number(figure.allowed)},
                       {"passed", figure.passed()}});
  }
  return {{"figures", figures}, {"notes", comparison.notes}, {"passed", comparison.passed()}};
}

bool run(ReplayOptions options) {
  // `--option name=value TRACE`: an --option takes all the words up to the next one, the trace among them.
  if (options.trace.empty() && !options.options.empty() && options.options.back().find('=') == std::string::npos) {
    options.trace = options.options.back();
    options.options.pop_back();
  }
  if (options.trace.empty())
    throw std::invalid_argument("adamant: replay: no trace is given; usage: adamant replay TRACE.safetensors ...");
  check_output("--out", options.out, {options.trace, options.expect, options.json_file});
  check_output("--json-file", options.json_file, {options.trace, options.expect});
  options.check_machine();
  const Method method = options.make_method();
  const Device device = options.make_device();
  const std::vector<kernels::StorageTypes> storages = options.all_storages();
  if (storages.size() != 1) throw std::invalid_argument("adamant: replay: --storage: one at a time");
  const std::string types = kernels::short_name(storages.front());
  const Trace trace = read_trace(options.trace);
  if (!options.expect.empty()) read_expected(st::File::open(options.expect), "param", trace.parameter.size());
  Progress progress("replay");
  const auto on_step = [&](std::int64_t done, std::int64_t steps) {
    progress.at(static_cast<double>(done) / static_cast<double>(steps), fmt::format("step {} of {}", done, steps));
  };
  const Replayed result = replay(trace, method, device, options.tuning(), storages.front(), on_step);
  nlohmann::json report{{"environment", environment()},         {"trace", options.trace},     {"method", name(method)},
                        {"options", describe(method)},          {"device", facts_of(device)}, {"dtype", options.type},
                        {"parameters", trace.parameter.size()}, {"steps", trace.steps},       {"storage", types}};
  std::optional<ReplayComparison> comparison;
  if (!options.expect.empty()) {
    const Replayed path =
        replay(trace, method, Device::cpu(), options.tuning(), kernels::plain_storage(DataType::float64), on_step);
    comparison = compare(result, path, options.expect, options.tolerance);
    report["expected"] = options.expect;
    report["comparison"] = to_json(*comparison);
  }
  if (!options.out.empty()) write(options.out, result, method, trace.steps);
  progress.clear();

  options.emit(report);
  if (!options.json) {
    fmt::print("{}: {} steps of {} on {} {} parameters, {}\n  {}\n", options.trace, trace.steps, name(method),
               trace.parameter.size(), options.storages.empty() ? std::string(name(options.data_type())) : types,
               describe(device), describe(method));
    if (comparison) {
      fmt::print("  against {}\n", options.expect);
      for (const auto& figure : comparison->figures) {
        fmt::print("  {:<16} {:<58} {:>11.4g}  allowed {:>10.4g}  {}\n", figure.name, figure.what, figure.value,
                   figure.allowed, figure.passed() ? "ok" : "FAILED");
      }
      for (const std::string& note : comparison->notes) fmt::print("  note: {}\n", note);
    }
    if (!options.out.empty()) fmt::print("  written to {}\n", options.out);
  }
  return !comparison || comparison->passed();
}

}  // namespace

Trace read_trace(const std::filesystem::path& path) {
  const st::File file = st::File::open(path);
  const st::Entry& parameter = file.at("param");
  const st::Entry& gradients = file.at("grad");
  if (parameter.shape.size() != 1) wrong_shape(file, parameter, "[n]");
  if (gradients.shape.size() != 2 || gradients.shape[1] != parameter.shape[0]) {
    wrong_shape(file, gradients, fmt::format("[steps, {}], as many columns as param has elements", parameter.shape[0]));
  }
  return {read_doubles(file, "param", kOfTraces), read_doubles(file, "grad", kOfTraces), gradients.shape[0]};
}

Replayed replay(const Trace& trace, const Method& method, Device device, const Tuning& tuning,
                const kernels::StorageTypes& types, const OnStep& on_step) {
  const std::size_t n = trace.parameter.size();
  const auto count = static_cast<std::int64_t>(n);
  host::DeviceMemory memory(device);
  const auto parameter = memory.allocate(count * size_in_bytes(types.parameter));
  const auto gradient = memory.allocate(count * size_in_bytes(types.gradient));
  memory.write(parameter.get(), rounded(trace.parameter, types.parameter));
  Replayed result{types.parameter, {}, std::vector<double>(n), std::vector<double>(n), {}, {}};

  Optimizer optimizer(method, device, tuning);
  const TensorId tensor = optimizer.add({.name = "param",
                                         .parameter = {static_cast<void*>(parameter.get()), types.parameter, count},
                                         .gradient = {static_cast<const void*>(gradient.get()), types.gradient, count},
                                         .state_type = types.state,
                                         .master = types.master});
  const auto read = [&](const Array& array) {
    std::vector<std::byte> bytes(static_cast<std::size_t>(count * size_in_bytes(array.type())));
    memory.read(bytes, array.data());
    return widened(bytes, array.type());
  };
  const auto note_parameters = [&] {
    result.parameter = read(optimizer.tensor(tensor).parameter);
    for (std::size_t i = 0; i < n; ++i) note_largest(result.largest_parameter, i, result.parameter[i]);
  };
  for (const std::string& name : state_names(method)) {
    result.states.push_back({name, types.state, std::vector<double>(n), std::vector<double>(n),
                             takes_up_more_than_gradients(method, name)});
  }
  note_parameters();
  for (std::int64_t step = 0; step < trace.steps; ++step) {
    const std::span<const double> row(trace.gradients.data() + static_cast<std::size_t>(step) * n, n);
    for (std::size_t i = 0; i < n; ++i) note_largest(result.largest_gradient, i, row[i]);
    memory.write(gradient.get(), rounded(row, types.gradient));
    optimizer.step();
    note_parameters();
    for (State& state : result.states) {
      state.values = read(optimizer.state(tensor, state.name));
      for (std::size_t i = 0; i < n; ++i) note_largest(state.largest, i, state.values[i]);
    }
    on_step(step + 1, trace.steps);
  }
  if (types.master == Master::float32) result.master = read(optimizer.state(tensor, "master"));
  return result;
}

void write(const std::filesystem::path& path, const Replayed& result, const Method& method, std::int64_t steps) {
  std::vector<st::Entry> entries;
  std::vector<std::vector<std::byte>> storage;
  storage.reserve(result.states.size() + 2);  // entries look into it
  add_entry(entries, storage, "param", result.type, result.parameter);
  for (const State& state : result.states) add_entry(entries, storage, state.name, state.type, state.values);
  if (!result.master.empty()) add_entry(entries, storage, "master", DataType::float32, result.master);
  st::write(path, entries,
            {{"method", std::string(name(method))}, {"options", describe(method)}, {"steps", std::to_string(steps)}});
}

bool ReplayComparison::passed() const {
  return std::all_of(figures.begin(), figures.end(), [](const Figure& figure) { return figure.passed(); });
}

ReplayComparison compare(const Replayed& result, const Replayed& path, const std::filesystem::path& expected_path,
                         double tolerance) {
  const st::File file = st::File::open(expected_path);
  const std::size_t n = result.parameter.size();
  const std::vector<double> expected = read_expected(file, "param", n);
  ReplayComparison comparison;
  const bool has_yardstick = file.find("param_f32") != nullptr && file.find("param_path_max") != nullptr;
  if (has_yardstick && result.type == DataType::float32) {
    const std::vector<double> pytorch = read_expected(file, "param_f32", n);
    const std::vector<double> scale = read_expected(file, "param_path_max", n);
    const std::vector<std::size_t> judged = elements_to_judge(file, expected, pytorch, scale);
    const std::vector<double> judged_expected = picked(expected, judged);
    const std::vector<double> judged_scale = picked(scale, judged);
    const auto ours = measure::errors_in_ulps(picked(result.parameter, judged), judged_expected, judged_scale);
    const auto theirs = measure::errors_in_ulps(picked(pytorch, judged), judged_expected, judged_scale);
    if (judged.size() != n) {
      std::int64_t differ = 0;
      for (std::size_t i = 0; i < n; ++i) {
        differ += !std::isfinite(expected[i]) && std::isfinite(result.parameter[i]) ? 1 : 0;
      }
      comparison.figures.push_back(
          {"param", static_cast<double>(differ), 0.0, "elements that are finite and should be NaN or infinite"});
      comparison.notes.push_back(
          fmt::format("param: {} elements are left out of the yardstick, because the float64 or "
                      "the float32 run is not finite there",
                      n - judged.size()));
    }
    comparison.figures.push_back(
        {"param", ours.root_mean_square, kRootMeanSquareRatio * theirs.root_mean_square,
         fmt::format("root mean square, ulps ({:.3f} of the float32 run's {:.4g})",
                     ours.root_mean_square / theirs.root_mean_square, theirs.root_mean_square)});
    comparison.figures.push_back({"param", ours.percentile_99, kPercentile99Ratio * theirs.percentile_99,
                                  fmt::format("99th percentile, ulps ({:.3f} of the float32 run's {:.4g})",
                                              ours.percentile_99 / theirs.percentile_99, theirs.percentile_99)});
    comparison.notes.push_back(
        fmt::format("param: mean {:.4g}, largest {:.4g} ulps, at element {}; the float32 run's "
                    "largest is {:.4g}",
                    ours.mean, ours.largest, ours.largest_at, theirs.largest));
  } else {
    std::vector<double> scale(n);
    for (std::size_t i = 0; i < n; ++i) scale[i] = std::max(std::fabs(expected[i]), path.largest_parameter[i]);
    comparison.figures.push_back({"param", largest_relative(result.parameter, expected, scale), tolerance,
                                  "largest error relative to the largest |param| on the way"});
  }
  for (std::size_t slot = 0; slot < result.states.size(); ++slot) {
    const State& state = result.states[slot];
    if (file.find(state.name) == nullptr) {
      comparison.notes.push_back(fmt::format("{}: not in the file", state.name));
      continue;
    }
    const std::vector<double> values = read_expected(file, state.name, n);
    std::vector<double> strict(n);
    std::vector<double> scale(n);
    const bool on_the_way = state.takes_up_more_than_gradients;
    for (std::size_t i = 0; i < n; ++i) {
      const double g = result.largest_gradient[i];
      strict[i] = std::max(std::fabs(values[i]), reference::is_squared(state.name) ? g * g : g);
      scale[i] = on_the_way ? std::max(strict[i], path.states[slot].largest[i]) : strict[i];
    }
    comparison.figures.push_back({state.name, largest_relative(state.values, values, scale), tolerance,
                                  on_the_way ? "largest error relative to largest |state| on the way or |gradient|"
                                             : "largest error relative to |state| or largest |gradient|"});
    if (on_the_way) {
      comparison.notes.push_back(fmt::format("{}: relative to the last |state| or the largest |gradient| {:.2g}",
                                             state.name, largest_relative(state.values, values, strict)));
    }
  }
  for (const st::Entry& entry : file.entries()) {
    const bool known = entry.name.starts_with("param") || entry.name == "master" ||
                       std::any_of(result.states.begin(), result.states.end(),
                                   [&](const State& state) { return state.name == entry.name; });
    if (!known) {
      comparison.figures.push_back(
          {entry.name, INFINITY, tolerance, "a state that this method and variant does not have"});
    }
  }
  return comparison;
}

Command add_replay(CLI::App& program) {
  CLI::App* app = program.add_subcommand(
      "replay", "Apply a trace of gradients and write where the method ends, or hold that against a file");
  auto options = std::make_shared<ReplayOptions>();
  app->add_option("trace", options->trace, "safetensors file with `param` [n] and `grad` [steps, n]")
      ->check(not_empty())
      ->type_name("TRACE.safetensors");
  app->add_option("--method", options->method, "gradient_descent, momentum, rmsprop, adam or adamw")->required();
  app->add_option("--out", options->out, "write `param` and the states here, as safetensors")
      ->type_name("FILE")
      ->check(not_empty());
  app->add_option("--expect", options->expect,
                  "compare with this safetensors file: by the yardstick of a float32 run when it has `param_f32` and "
                  "`param_path_max`, else by --tolerance")
      ->type_name("FILE")
      ->check(not_empty());
  app->add_option("--tolerance", options->tolerance, "largest relative error allowed; 0 asks for equal values")
      ->capture_default_str()
      ->check(non_negative_number());
  options->add_to(*app);
  options->add_threads_to(*app);
  options->add_storages_to(*app);
  return {app, [options] { return run(*options); }};
}

}  // namespace adamant::tools
