// `adamant bench`: the throughput of every method over a range of sizes, beside the same-mix ceiling of the same run;
// on a CUDA device also of many tensors, and beside what a user would write without the library.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <stdexcept>
#include <vector>

#include "bench/gpu_throughput.hpp"
#include "bench/throughput.hpp"
#include "host/text.hpp"
#include "tools/bench_files.hpp"
#include "tools/commands.hpp"
#include "tools/run_options.hpp"
#include "tools/terminal.hpp"

namespace adamant::tools {
namespace {

constexpr std::int64_t kMostParameters = std::int64_t{1} << 40;
constexpr std::int64_t kMostTensors = 1000000;

// So many tensors of so many parameters each.
struct Shape {
  std::int64_t tensors = 1;
  std::int64_t count = 0;
};

std::optional<Shape> shape_from(const std::string& text) {
  const auto cross = text.find('x');
  if (cross == std::string::npos) return {};
  const auto tensors = host::from_text<std::int64_t>(std::string_view(text).substr(0, cross));
  const auto count = host::from_text<std::int64_t>(std::string_view(text).substr(cross + 1));
  if (!tensors || !count || *tensors < 2 || *tensors > kMostTensors || *count < 1 ||
      *count > kMostParameters / *tensors) {
    return {};
  }
  return Shape{*tensors, *count};
}

CLI::Validator is_shape() {
  return CLI::Validator(
      [](const std::string& text) {
        return shape_from(text) ? std::string()
                                : fmt::format(
                                      "\"{}\" is not TENSORSxPARAMETERS, from 2 to {} tensors and from 1 to {} "
                                      "parameters together",
                                      text, kMostTensors, kMostParameters);
      },
      "");
}

CLI::Validator is_pipeline() {
  return CLI::Validator(
      [](const std::string& text) {
        return bench::pipeline_from(text) ? std::string()
                                          : fmt::format("\"{}\" is none of update, clip and copy", text);
      },
      "");
}

// The types of a tensor, and what a step is made of.
struct Kind {
  host::StorageTypes storage;
  bench::Pipeline pipeline;
};

struct BenchOptions : RunOptions {
  std::vector<std::int64_t> sizes;
  std::vector<std::string> shapes;
  std::vector<std::string> pipelines;
  int repetitions = 15;
  double pin_rate = 0;  // GB/s; 0: not known
  BenchFiles files;

  bool on_gpu() const { return make_device().kind == Device::Kind::cuda; }
  std::vector<Method> methods() const;
  // What is measured: one tensor of each size, then the shapes.
  std::vector<Shape> all_shapes() const;
  // Whether types and pipelines are what is compared: then nothing but the step and its ceiling is measured.
  bool by_storage() const { return !storages.empty() || !pipelines.empty(); }
  std::vector<Kind> kinds() const;
};

// Every storage in every pipeline that it can have. Throws std::invalid_argument when there is none.
std::vector<Kind> BenchOptions::kinds() const {
  std::vector<bench::Pipeline> all;
  for (const std::string& pipeline : pipelines) all.push_back(bench::pipeline_from(pipeline).value());
  if (all.empty()) all.push_back(bench::Pipeline::update);
  std::vector<Kind> list;
  for (const host::StorageTypes& storage : all_storages()) {
    for (const bench::Pipeline pipeline : all) {
      if (pipeline != bench::Pipeline::copy || bench::copy_type(storage)) list.push_back({storage, pipeline});
    }
  }
  if (list.empty()) {
    throw std::invalid_argument(
        "adamant: bench: --pipeline copy: a copy is made of a float32 parameter with float32 states and no master");
  }
  return list;
}

std::vector<Method> BenchOptions::methods() const {
  if (method != "all") return {make_method()};
  if (!options.empty()) throw std::invalid_argument("adamant: --option needs one --method");
  std::vector<Method> all;
  for (const std::string& name : method_names()) all.push_back(adamant::make_method(name));
  return all;
}

std::vector<Shape> BenchOptions::all_shapes() const {
  if (!on_gpu() && !shapes.empty()) {
    throw std::invalid_argument("adamant: bench: --shapes are measured on CUDA devices only; add --device cuda");
  }
  std::vector<Shape> all;
  for (const std::int64_t size : sizes) all.push_back({1, size});
  for (const std::string& shape : shapes) all.push_back(shape_from(shape).value());
  if (!all.empty()) return all;
  if (by_storage()) return {{1, on_gpu() ? 1 << 28 : 1 << 24}};
  if (!on_gpu()) return {{1, 1 << 16}, {1, 1 << 20}, {1, 1 << 24}, {1, 1 << 26}};
  return {{1, 1 << 20}, {1, 1 << 24}, {1, 1 << 28}, {1, 1000000000}, {200, 1 << 20}, {10000, 64}};
}

nlohmann::json to_json(const bench::GpuFacts& facts) {
  return {{"name", facts.name},
          {"compute_capability", facts.compute_capability},
          {"multiprocessors", facts.multiprocessors},
          {"memory_bytes", facts.memory_bytes},
          {"l2_bytes", facts.l2_bytes},
          {"driver", facts.driver.empty() ? nlohmann::json() : nlohmann::json(facts.driver)},
          {"cuda_driver", facts.cuda_driver},
          {"cuda_runtime", facts.cuda_runtime},
          {"cuda_compiler", facts.cuda_compiler},
          {"pin_rate_gigabytes_per_second", facts.pin_rate > 0 ? nlohmann::json(facts.pin_rate) : nlohmann::json()}};
}

nlohmann::json to_json(std::string_view method, const bench::Throughput& result) {
  return {{"method", method},
          {"count", result.count},
          {"bytes_per_parameter", result.bytes_per_parameter},
          {"bytes_read_per_parameter", result.moved.read},
          {"bytes_written_per_parameter", result.moved.written},
          {"streams_read", result.streams_read},
          {"streams_written", result.streams_written},
          {"repetitions", result.update.seconds.size()},
          {"seconds", result.update.seconds},
          {"median_seconds", result.update.median()},
          {"spread", result.update.spread()},
          {"gigabytes_per_second", result.update_gigabytes_per_second()},
          {"ceiling_variant", result.ceiling_variant},
          {"ceiling_looks", result.ceiling_looks},
          {"ceiling_seconds", result.ceiling.seconds},
          {"ceiling_gigabytes_per_second", result.ceiling_gigabytes_per_second()},
          {"fraction_of_ceiling", result.fraction_of_ceiling()}};
}

void add_cpu(nlohmann::json& json, const bench::Throughput& result) {
  json["threads"] = result.threads;
  json["simd"] = name(result.simd);
}

nlohmann::json median_or_null(const bench::Times& times) {
  return times.seconds.empty() ? nlohmann::json() : nlohmann::json(times.median());
}

void add_gpu(nlohmann::json& json, const bench::Throughput& result) {
  json["tensors"] = result.tensors;
  json["buffer_sets"] = result.buffer_sets;
  json["rotated_bytes"] = result.rotated_bytes;
  json["copy_seconds"] = result.copy.seconds;
  json["copy_gigabytes_per_second"] =
      result.copy.seconds.empty() ? nlohmann::json() : nlohmann::json(result.copy_gigabytes_per_second());
  json["graph_seconds"] = result.graph.seconds;
  json["graph_median_seconds"] = median_or_null(result.graph);
  json["one_tensor_seconds"] = result.one_tensor.seconds;
  json["times_one_tensor"] =
      result.one_tensor.seconds.empty() ? nlohmann::json() : nlohmann::json(ratio(result.update, result.one_tensor));
  json["host_seconds"] = result.host.seconds;
  json["host_median_seconds"] = median_or_null(result.host);
  json["baselines"] = nlohmann::json::array();
  for (const bench::BaselineTimes& baseline : result.baselines) {
    nlohmann::json entry{{"name", baseline.name}, {"agrees", baseline.disagreement.empty()}};
    if (baseline.disagreement.empty()) {
      entry["repetitions"] = baseline.times.seconds.size();
      entry["seconds"] = baseline.times.seconds;
      entry["median_seconds"] = baseline.times.median();
      entry["times_update"] = ratio(baseline.times, result.update);
    } else {
      entry["disagreement"] = baseline.disagreement;
    }
    json["baselines"].push_back(entry);
  }
  if (!result.no_baselines.empty()) json["no_baselines"] = result.no_baselines;
}

// --- The tables. The first eight columns of those of one tensor are the same on every device.

// Buffers of so many L2 caches leave next to nothing for the next run to find there.
constexpr double kEnoughCaches = 3;

constexpr std::array kBaselines{"thrust", "cub", "unfused"};

void print_head(const BenchOptions& options, const std::string& device, double pin_rate) {
  fmt::print(
      "One fused step on {}, {} parameters, median of {} runs, beside a kernel that only moves the same\n"
      "streams in the same read:write mix (the best of a sweep, in the same run, on the same buffers).\n",
      device, name(options.data_type()), options.repetitions);
  if (options.on_gpu()) {
    fmt::print(
        "Times are the device's own; runs go round several sets of buffers where one would stay in the L2 cache. {}\n"
        "{}: how many times as long the same step takes without this library.\n",
        pin_rate > 0 ? fmt::format("% pin: of {:.0f} GB/s.", pin_rate) : "The memory's pin rate is not known.",
        fmt::join(kBaselines, ", "));
  }
}

void print_columns_of_one_tensor(const BenchOptions& options) {
  fmt::print("\n{:<17} {:>12} {:>8} {:>10} {:>7} {:>8} {:>10} {:>10}", "method", "parameters", "bytes/p", "ms",
             "spread", "GB/s", "ceiling", "% ceiling");
  if (options.on_gpu()) {
    fmt::print(" {:>6} {:>8}", "% pin", "copy");
    for (const char* baseline : kBaselines) fmt::print(" {:>8}", baseline);
    fmt::print("  best ceiling variant\n");
  } else {
    fmt::print("  {}\n", options.pin_rate > 0 ? "% pin rate, best ceiling variant" : "best ceiling variant");
  }
}

void print_columns_of_shapes() {
  fmt::print("\n{:<15} {:<17} {:>10} {:>10} {:>10} {:>10} {:>8} {:>10}", "shape", "method", "us", "us graph", "us CPU",
             "/ 1 tensor", "GB/s", "% ceiling");
  for (const char* baseline : kBaselines) fmt::print(" {:>8}", baseline);
  fmt::print("\n");
}

std::string baseline_columns(const bench::Throughput& result) {
  std::string text;
  for (const std::string_view wanted : kBaselines) {
    const auto found = std::find_if(result.baselines.begin(), result.baselines.end(),
                                    [&](const bench::BaselineTimes& there) { return there.name == wanted; });
    const std::string column = found == result.baselines.end() ? "-"
                               : !found->disagreement.empty()
                                   ? "differs"
                                   : fmt::format("{:.2f}x", ratio(found->times, result.update));
    text += fmt::format(" {:>8}", column);
  }
  return text;
}

void print_row_of_one_tensor(const BenchOptions& options, std::string_view method, const bench::Throughput& result,
                             double pin_rate) {
  fmt::print("{:<17} {:>12} {:>8} {:>10.4f} {:>6.1f}% {:>8.2f} {:>10.2f} {:>9.1f}%", method, result.count,
             result.bytes_per_parameter, 1e3 * result.update.median(), 100 * result.update.spread(),
             result.update_gigabytes_per_second(), result.ceiling_gigabytes_per_second(),
             100 * result.fraction_of_ceiling());
  const std::string of_pins =
      pin_rate > 0 ? fmt::format("{:.1f}%", 100 * result.update_gigabytes_per_second() / pin_rate) : "";
  if (options.on_gpu()) {
    fmt::print(" {:>6} {:>8.2f}{}  {}", of_pins.empty() ? "-" : of_pins, result.copy_gigabytes_per_second(),
               baseline_columns(result), result.ceiling_variant);
  } else {
    fmt::print("  {}{}", of_pins.empty() ? "" : of_pins + ", ", result.ceiling_variant);
  }
}

void print_row_of_shape(std::string_view method, const bench::Throughput& result) {
  fmt::print("{:<15} {:<17} {:>10.2f} {:>10.2f} {:>10} {:>10.3f} {:>8.2f} {:>9.1f}%{}",
             fmt::format("{}x{}", result.tensors, result.count / result.tensors), method, 1e6 * result.update.median(),
             1e6 * result.graph.median(),
             result.host.seconds.empty() ? "-" : fmt::format("{:.2f}", 1e6 * result.host.median()),
             ratio(result.update, result.one_tensor), result.update_gigabytes_per_second(),
             100 * result.fraction_of_ceiling(), baseline_columns(result));
}

void print_head_by_storage(const BenchOptions& options, const std::string& device, double pin_rate) {
  fmt::print(
      "One step on {}, median of {} runs, beside kernels that only move the same bytes in the same read:write mix "
      "(the\n"
      "best of a sweep, in the same run; where the norm is taken, of one that reads the gradient and one that moves "
      "the\n"
      "rest). update: the update alone; clip: the norm of all gradients, clipping by it, and the update; copy: the\n"
      "update of a float32 parameter that also writes a copy of 16 bits. Bytes are those that must move.\n",
      device, options.repetitions);
  fmt::print("\n{:<37} {:<8} {:<17} {:>14} {:>9} {:>10} {:>7} {:>8} {:>10} {:>10}{}  best ceiling variant\n", "storage",
             "pipeline", "method", "parameters", "bytes/p", "ms", "spread", "GB/s", "ceiling", "% ceiling",
             pin_rate > 0 ? fmt::format(" {:>6}", "% pin") : "");
}

void print_row_by_storage(const Kind& kind, std::string_view method, const bench::Throughput& result, double pin_rate) {
  const double rate = result.update_gigabytes_per_second();
  fmt::print("{:<37} {:<8} {:<17} {:>14} {:>9} {:>10.4f} {:>6.1f}% {:>8.2f} {:>10.2f} {:>9.1f}%{}  {}",
             host::short_name(kind.storage), name(kind.pipeline), method,
             result.tensors == 1 ? fmt::format("{}", result.count)
                                 : fmt::format("{}x{}", result.tensors, result.count / result.tensors),
             fmt::format("{}+{}", result.moved.read, result.moved.written), 1e3 * result.update.median(),
             100 * result.update.spread(), rate, result.ceiling_gigabytes_per_second(),
             100 * result.fraction_of_ceiling(), pin_rate > 0 ? fmt::format(" {:>5.1f}%", 100 * rate / pin_rate) : "",
             result.ceiling_variant);
}

// What is going to be measured, as far as it is known before.
std::vector<BenchCase> planned(const BenchOptions& options) {
  std::vector<BenchCase> cases;
  for (const Method& method : options.methods()) {
    for (const Shape& shape : options.all_shapes()) {
      for (const Kind& kind : options.kinds()) {
        cases.push_back({.method = std::string(name(method)),
                         .storage = host::short_name(kind.storage),
                         .pipeline = std::string(name(kind.pipeline)),
                         .count = shape.count * shape.tensors,
                         .tensors = shape.tensors,
                         .device = options.on_gpu() ? "cuda" : "cpu"});
      }
    }
  }
  return cases;
}

// What is to be said of a row whose buffers are not much larger than the L2 cache.
std::string cache_note(const bench::Throughput& result, std::int64_t l2_bytes) {
  const double caches = static_cast<double>(result.rotated_bytes) / static_cast<double>(l2_bytes);
  return caches < kEnoughCaches ? fmt::format(" (buffers of {:.2g} L2 caches)", caches) : "";
}

// A spread that no quiet machine has.
constexpr double kBusy = 0.5;

bool run(BenchOptions& options) {
  check_output("--json-file", options.json_file);
  options.files.read(options);
  if (options.files.report()) return options.files.finish(*options.files.report(), options);
  const std::vector<Shape> shapes = options.all_shapes();
  const std::vector<Kind> kinds = options.kinds();
  const std::vector<Method> methods = options.methods();
  options.check_machine();
  const bool on_gpu = options.on_gpu();
  options.files.check_in_common(planned(options));
  const int index = options.make_device().index;
  double pin_rate = options.pin_rate;
  std::string device = "the CPU";
  std::int64_t l2_bytes = 0;
  nlohmann::json report{{"environment", environment()}, {"dtype", options.type}, {"results", nlohmann::json::array()}};
  if (on_gpu) {
    const bench::GpuFacts facts = bench::gpu_facts(index);
    report["device"] = to_json(facts);
    if (pin_rate == 0) pin_rate = facts.pin_rate;
    l2_bytes = facts.l2_bytes;
    device = fmt::format("{} ({})", facts.name, name(options.make_device()));
  }
  report["pin_rate_gigabytes_per_second"] = pin_rate > 0 ? nlohmann::json(pin_rate) : nlohmann::json();
  if (!options.json) {
    options.by_storage() ? print_head_by_storage(options, device, pin_rate) : print_head(options, device, pin_rate);
  }

  Progress progress("bench");
  const auto total = static_cast<double>(methods.size() * shapes.size() * kinds.size());
  double done = 0;
  double widest_spread = 0;
  bool columns_printed[] = {false, false};
  const auto measure = [&](const Kind& kind, const Method& method, const Shape& shape) {
    const bench::Request request{.method = method,
                                 .storage = kind.storage,
                                 .pipeline = kind.pipeline,
                                 .count = shape.count,
                                 .tensors = shape.tensors,
                                 .repetitions = options.repetitions,
                                 .device = options.make_device(),
                                 .tuning = options.tuning(),
                                 .only_ceiling = options.by_storage()};
    std::string label = shape.tensors == 1 ? fmt::format("{} at {}", name(method), shape.count)
                                           : fmt::format("{} at {}x{}", name(method), shape.tensors, shape.count);
    if (options.by_storage()) label += fmt::format(", {} of {}", name(kind.pipeline), host::short_name(kind.storage));
    const std::int64_t needed = bench::bytes_needed(request);
    const std::int64_t free = on_gpu ? bench::gpu_facts(index).free_bytes : memory_available();
    if (needed > free) {
      fmt::print(stderr, "adamant: {} needs {} and {} are free; left out\n", label, gibibytes(needed), gibibytes(free));
      nlohmann::json left_out{
          {"method", name(method)}, {"count", shape.count * shape.tensors}, {"bytes_needed", needed}};
      if (on_gpu) left_out["tensors"] = shape.tensors;
      left_out["storage"] = host::short_name(kind.storage);
      left_out["pipeline"] = name(kind.pipeline);
      report["left_out"].push_back(left_out);
      return;
    }
    const bench::Throughput result =
        bench::measure(request, [&](double fraction) { progress.at((done + fraction) / total, label); });
    ++done;
    widest_spread = std::max(widest_spread, result.update.spread());
    nlohmann::json entry = to_json(name(method), result);
    entry["storage"] = host::short_name(kind.storage);
    entry["pipeline"] = name(kind.pipeline);
    on_gpu ? add_gpu(entry, result) : add_cpu(entry, result);
    report["results"].push_back(entry);
    progress.clear();
    for (const bench::BaselineTimes& baseline : result.baselines) {
      if (baseline.disagreement.empty()) continue;
      fmt::print(stderr, "adamant: {} by {} is not timed, its result differs: {}\n", label, baseline.name,
                 baseline.disagreement);
    }
    if (options.json) return;
    if (options.by_storage()) {
      print_row_by_storage(kind, name(method), result, pin_rate);
      fmt::print("{}\n", on_gpu ? cache_note(result, l2_bytes) : "");
      return;
    }
    bool& printed = columns_printed[shape.tensors == 1 ? 0 : 1];
    if (!printed) shape.tensors == 1 ? print_columns_of_one_tensor(options) : print_columns_of_shapes();
    printed = true;
    if (shape.tensors == 1) {
      print_row_of_one_tensor(options, name(method), result, pin_rate);
    } else {
      print_row_of_shape(name(method), result);
    }
    fmt::print("{}\n", on_gpu ? cache_note(result, l2_bytes) : "");
  };
  for (const bool of_one_tensor : {true, false}) {
    for (const Method& method : methods) {
      for (const Shape& shape : shapes) {
        for (const Kind& kind : kinds) {
          if ((shape.tensors == 1) == of_one_tensor) measure(kind, method, shape);
        }
      }
    }
  }
  if (report["results"].empty()) {
    throw std::runtime_error("adamant: bench: nothing was measured, there is no memory for any of the sizes");
  }
  if (!options.json && widest_spread > kBusy) {
    fmt::print(
        "\nThe runs of a row differ by up to {:.0f}%: the machine was busy with something else. Measure again.\n",
        100 * widest_spread);
  }
  return options.files.finish(report, options);
}

}  // namespace

Command add_bench(CLI::App& program) {
  CLI::App* app = program.add_subcommand(
      "bench", "Throughput of one step: ms, GB/s, bytes per parameter, percent of the same-mix ceiling");
  auto options = std::make_shared<BenchOptions>();
  options->method = "all";
  app->add_option("--method", options->method, "a method, or all")->capture_default_str();
  app->add_option(
         "--sizes", options->sizes,
         "numbers of parameters of one tensor, separated by commas (default: 2^16, 2^20, 2^24 and 2^26, on a CUDA "
         "device 2^20, 2^24, 2^28 and 10^9)")
      ->delimiter(',')
      ->check(whole_number(1, kMostParameters));
  app->add_option(
         "--shapes", options->shapes,
         "on a CUDA device: TENSORSxPARAMETERS of each, separated by commas (default: 200x1048576,10000x64, and "
         "none where --sizes are given)")
      ->delimiter(',')
      ->check(is_shape());
  app->add_option("--pipeline", options->pipelines,
                  "update, clip (norm, clipping and update) or copy (an update that also writes a copy of 16 bits), "
                  "separated by commas: measures types and pipelines, and nothing but the step and its ceiling, as "
                  "--storage does (default then: 2^24 parameters, 2^28 on a CUDA device)")
      ->delimiter(',')
      ->check(is_pipeline());
  app->add_option("--repetitions", options->repetitions,
                  "timed runs of each; what is measured beside it and takes long gets fewer")
      ->capture_default_str()
      ->check(whole_number(1, 10000));
  app->add_option("--pin-rate", options->pin_rate,
                  "GB/s that the memory's pins carry at most, to print the percentage of it too: a weak ceiling "
                  "flatters (default "
                  "on a CUDA device: what memory clock and bus width give, which may be off for HBM)")
      ->check(CLI::PositiveNumber);
  options->add_to(*app);
  options->add_storages_to(*app);
  options->files.add_to(*app);
  return {app, [options] { return run(*options); }};
}

}  // namespace adamant::tools
