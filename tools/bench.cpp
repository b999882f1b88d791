// `adamant bench`: the throughput of every method over sizes, shapes, types and threads, beside the same-mix ceiling of
// the same run; on a CUDA device also beside what a user would write without the library. docs/benchmark.md says how it
// is measured and what the JSON holds.
#include <fmt/chrono.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <map>
#include <memory>
#include <new>
#include <nlohmann/json.hpp>
#include <optional>
#include <stdexcept>
#include <thread>
#include <vector>

#include "adamant/version.hpp"
#include "bench/bed.hpp"
#include "bench/gpu_bed.hpp"
#include "bench/machine.hpp"
#include "bench/shapes.hpp"
#include "bench/throughput.hpp"
#include "host/cpu_backend.hpp"
#include "tools/bench_files.hpp"
#include "tools/commands.hpp"
#include "tools/run_options.hpp"
#include "tools/terminal.hpp"

namespace adamant::tools {
namespace {

using bench::Shape;

std::string names_of_networks() {
  std::vector<std::string> names;
  for (const Shape& network : bench::networks()) names.push_back(network.name);
  return fmt::format("{}", fmt::join(names, ", "));
}

CLI::Validator is_shape() {
  return CLI::Validator(
      [](const std::string& text) {
        return bench::shape_from(text)
                   ? std::string()
                   : fmt::format(
                         "unknown shape \"{}\"; allowed: {}, or TENSORSxPARAMETERS with 2 to {} tensors and 1 to {} "
                         "parameters together",
                         text, names_of_networks(), bench::kMostTensors, bench::kMostParameters);
      },
      "");
}

CLI::Validator is_pipeline() {
  return CLI::Validator(
      [](const std::string& text) {
        return bench::pipeline_from(text) ? std::string()
                                          : fmt::format("unknown pipeline \"{}\"; allowed: update, clip, copy", text);
      },
      "");
}

// The types of a tensor, and what a step is made of.
struct Kind {
  kernels::StorageTypes storage;
  bench::Pipeline pipeline;
};

struct BenchOptions : RunOptions {
  std::vector<std::int64_t> sizes;
  std::vector<std::string> shapes;
  std::vector<std::string> pipelines;
  std::vector<int> thread_counts;  // empty: all of them
  bool scaling = false;            // one thread, twice as many, and so on to all
  bool hot = false;
  bool quick = false;
  bool full = false;
  int repetitions = 0;  // 0: as many as is usual
  double pin_rate = 0;  // GB/s; 0: not known
  BenchFiles files;

  bool on_gpu() const { return make_device().kind == Device::Kind::cuda; }
  std::vector<Method> methods() const;
  // What is measured: one tensor of each size, then the shapes.
  std::vector<Shape> all_shapes() const;
  std::vector<int> all_thread_counts() const;
  int all_repetitions() const;
  // Whether types and pipelines are what is compared: then nothing but the step, its graph and its ceiling is measured.
  bool by_storage() const { return full || !storages.empty() || !pipelines.empty(); }
  std::vector<Kind> kinds() const;
};

// Every storage in every pipeline that it can have. Throws std::invalid_argument when there is none.
std::vector<Kind> BenchOptions::kinds() const {
  std::vector<bench::Pipeline> all;
  for (const std::string& pipeline : pipelines) all.push_back(bench::pipeline_from(pipeline).value());
  if (all.empty()) all.push_back(bench::Pipeline::update);
  if (full && pipelines.empty()) all = {bench::Pipeline::update, bench::Pipeline::clip, bench::Pipeline::copy};
  const bool every = full && storages.empty() && type == "f32";
  std::vector<Kind> list;
  for (const kernels::StorageTypes& storage : every ? storages_from({"all"}) : all_storages()) {
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
  constexpr std::int64_t kMillion = 1 << 20;
  std::vector<std::int64_t> counts = sizes;
  std::vector<std::string> names = shapes;
  if (sizes.empty() && shapes.empty()) {
    if (full) return bench::all_shapes();
    if (quick) {
      counts = {kMillion / 16, kMillion};
      names = {"10000x64"};
    } else if (by_storage()) {
      counts = {on_gpu() ? 256 * kMillion : 16 * kMillion};
    } else if (on_gpu()) {
      counts = {kMillion, 16 * kMillion, 256 * kMillion, 1000000000};
      names = {"200x1048576", "10000x64"};
    } else {
      counts = {kMillion / 16, kMillion, 16 * kMillion, 64 * kMillion};
      names = {"10000x64", "resnet-50"};
    }
  }
  std::vector<Shape> all;
  all.reserve(counts.size() + names.size());
  for (const std::int64_t count : counts) all.push_back(bench::one_tensor(count));
  for (const std::string& name : names) all.push_back(bench::shape_from(name).value());
  return all;
}

std::vector<int> BenchOptions::all_thread_counts() const {
  const bool several = scaling || thread_counts.size() > 1;
  if (several && on_gpu()) {
    throw std::invalid_argument("adamant: bench: --scaling and several --threads are of the CPU; add --device cpu");
  }
  if (!scaling) return thread_counts.empty() ? std::vector<int>{0} : thread_counts;
  const int all = Optimizer(GradientDescent{}, Device::cpu()).threads();
  std::vector<int> counts;
  for (int count = 1; count < all; count *= 2) counts.push_back(count);
  counts.push_back(all);
  return counts;
}

int BenchOptions::all_repetitions() const {
  constexpr int kUsual = 15;
  constexpr int kQuick = 5;
  return repetitions > 0 ? repetitions : quick ? kQuick : kUsual;
}

// Those that are not the method's defaults, by their names.
std::map<std::string, std::string> changed_options(const Method& method) {
  std::map<std::string, std::string> changed;
  const std::vector<Option> usual = adamant::options(adamant::make_method(name(method)));
  const std::vector<Option> all = adamant::options(method);
  for (std::size_t i = 0; i < all.size(); ++i) {
    if (all[i].value != usual[i].value) changed[all[i].name] = all[i].value;
  }
  return changed;
}

std::string method_text(const Method& method) {
  return BenchCase{.method = std::string(name(method)), .options = options_text(changed_options(method))}.method_text();
}

nlohmann::json number_or_null(double value) { return value > 0 ? nlohmann::json(value) : nlohmann::json(); }
nlohmann::json or_null(const std::optional<double>& value) { return value ? nlohmann::json(*value) : nlohmann::json(); }

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
          {"pin_rate_gigabytes_per_second", number_or_null(facts.pin_rate)},
          {"most_clock_megahertz", number_or_null(facts.most_clock_megahertz)},
          {"most_memory_clock_megahertz", number_or_null(facts.most_memory_clock_megahertz)}};
}

nlohmann::json machine() {
  const bench::CpuClocks clocks = bench::cpu_clocks();
  const std::string cpu = bench::cpu_name();
  return {{"cpu", cpu.empty() ? nlohmann::json() : nlohmann::json(cpu)},
          {"cpus", std::thread::hardware_concurrency()},
          {"cache_bytes", bench::cpu_cache_bytes()},
          {"memory_available_bytes", bench::free_bytes(Device::cpu())},
          {"least_clock_megahertz", or_null(clocks.least)},
          {"most_clock_megahertz", or_null(clocks.most)},
          {"governor", clocks.governor.empty() ? nlohmann::json() : nlohmann::json(clocks.governor)}};
}

// As they are now.
nlohmann::json clocks(const std::optional<bench::GpuFacts>& gpu) {
  nlohmann::json json{{"cpu_megahertz", or_null(bench::cpu_clocks().now)}};
  if (!gpu) return json;
  const bench::GpuClocks of_gpu = bench::gpu_clocks(gpu->pci_bus);
  json["gpu_megahertz"] = or_null(of_gpu.multiprocessors);
  json["gpu_memory_megahertz"] = or_null(of_gpu.memory);
  return json;
}

nlohmann::json median_or_null(const bench::Times& times) {
  return times.seconds.empty() ? nlohmann::json() : nlohmann::json(times.median());
}

nlohmann::json copy_rate(const bench::Throughput& result, const bench::Times& copy) {
  return copy.seconds.empty() ? nlohmann::json() : nlohmann::json(result.copy_gigabytes_per_second(copy));
}

nlohmann::json to_json(std::string_view method, const bench::Throughput& result) {
  return {
      {"method", method},
      {"count", result.count},
      {"tensors", result.tensors},
      {"buffer_sets", result.buffer_sets},
      {"rotated_bytes", result.rotated_bytes},
      {"copy_seconds", result.copy.seconds},
      {"copy_gigabytes_per_second", copy_rate(result, result.copy)},
      {"plain_copy_seconds", result.plain_copy.seconds},
      {"plain_copy_gigabytes_per_second", copy_rate(result, result.plain_copy)},
      {"one_tensor_seconds", result.one_tensor.seconds},
      {"times_one_tensor",
       result.one_tensor.seconds.empty() ? nlohmann::json() : nlohmann::json(ratio(result.update, result.one_tensor))},
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

void add_gpu(nlohmann::json& json, const bench::Throughput& result) {
  json["graph_seconds"] = result.graph.seconds;
  json["graph_median_seconds"] = median_or_null(result.graph);
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

// Buffers of so many caches leave next to nothing for the next run to find there.
constexpr double kEnoughCaches = 3;

constexpr std::array kBaselines{"thrust", "cub", "unfused"};

// What every table and row needs to know.
struct Scene {
  const BenchOptions& options;
  std::vector<int> threads;
  std::optional<bench::GpuFacts> gpu;
  double pin_rate = 0;
  std::int64_t cache_bytes = 0;

  std::string device() const {
    return gpu ? fmt::format("{} ({})", gpu->name, name(options.make_device())) : "the CPU";
  }
};

std::string of_buffers(const Scene& scene) {
  const char* const cache = scene.gpu ? "the L2 cache" : "the caches";
  return scene.options.hot ? fmt::format("Runs stay on one set of buffers, which {} may hold.", cache)
                           : fmt::format("Runs go round several sets of buffers where one would stay in {}.", cache);
}

void print_head(const Scene& scene) {
  fmt::print(
      "One fused step on {}, {} parameters, median of {} runs, beside a kernel that only moves the same\n"
      "streams in the same read:write mix (the best of a sweep, in the same run, on the same buffers).\n"
      "{}{}\n",
      scene.device(), name(scene.options.data_type()), scene.options.all_repetitions(), of_buffers(scene),
      scene.gpu ? " Times are the device's own." : "");
  if (scene.gpu) {
    fmt::print("{} {}: how many times as long the same step takes without this library.\n",
               scene.pin_rate > 0 ? fmt::format("% pin: of {:.0f} GB/s.", scene.pin_rate)
                                  : "The memory's pin rate is not known.",
               fmt::join(kBaselines, ", "));
  }
}

void print_columns_of_one_tensor(const Scene& scene) {
  fmt::print("\n{:<17} {:>12} {:>8} {:>10} {:>7} {:>8} {:>10} {:>10}", "method", "parameters", "bytes/p", "ms",
             "spread", "GB/s", "ceiling", "% ceiling");
  if (scene.gpu || scene.pin_rate > 0) fmt::print(" {:>6}", "% pin");
  fmt::print(" {:>8} {:>8}", "memcpy", "copy");
  if (scene.gpu) {
    for (const char* baseline : kBaselines) fmt::print(" {:>8}", baseline);
  }
  fmt::print("  best ceiling variant\n");
}

void print_columns_of_shapes(const Scene& scene) {
  fmt::print("\n{:<15} {:<17} {:>11}", "shape", "method", "us");
  if (scene.gpu) fmt::print(" {:>10} {:>10}", "us graph", "us CPU");
  fmt::print(" {:>10} {:>8} {:>10}", "/ 1 tensor", "GB/s", "% ceiling");
  if (scene.gpu) {
    for (const char* baseline : kBaselines) fmt::print(" {:>8}", baseline);
  }
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

void print_row_of_one_tensor(const Scene& scene, std::string_view method, const bench::Throughput& result) {
  const double rate = result.update_gigabytes_per_second();
  fmt::print("{:<17} {:>12} {:>8} {:>10.4f} {:>6.1f}% {:>8.2f} {:>10.2f} {:>9.1f}%", method, result.count,
             result.bytes_per_parameter, 1e3 * result.update.median(), 100 * result.update.spread(), rate,
             result.ceiling_gigabytes_per_second(), 100 * result.fraction_of_ceiling());
  if (scene.pin_rate > 0) {
    fmt::print(" {:>5.1f}%", 100 * rate / scene.pin_rate);
  } else if (scene.gpu) {
    fmt::print(" {:>6}", "-");
  }
  fmt::print(" {:>8.2f} {:>8.2f}{}  {}", result.copy_gigabytes_per_second(result.copy),
             result.copy_gigabytes_per_second(result.plain_copy), scene.gpu ? baseline_columns(result) : "",
             result.ceiling_variant);
}

void print_row_of_shape(const Scene& scene, const Shape& shape, std::string_view method,
                        const bench::Throughput& result) {
  fmt::print("{:<15} {:<17} {:>11.2f}", shape.name, method, 1e6 * result.update.median());
  if (scene.gpu) {
    fmt::print(" {:>10.2f} {:>10}", 1e6 * result.graph.median(),
               result.host.seconds.empty() ? "-" : fmt::format("{:.2f}", 1e6 * result.host.median()));
  }
  fmt::print(" {:>10.3f} {:>8.2f} {:>9.1f}%{}", ratio(result.update, result.one_tensor),
             result.update_gigabytes_per_second(), 100 * result.fraction_of_ceiling(),
             scene.gpu ? baseline_columns(result) : "");
}

void print_head_by_storage(const Scene& scene) {
  fmt::print(
      "One step on {}, median of {} runs, beside kernels that only move the same bytes in the same read:write mix "
      "(the\n"
      "best of a sweep, in the same run; where the norm is taken, of one that reads the gradient and one that moves "
      "the\n"
      "rest). update: the update alone; clip: the norm of all gradients, clipping by it, and the update; copy: the\n"
      "update of a float32 parameter that also writes a copy of 16 bits. Bytes are those that must move. {}\n",
      scene.device(), scene.options.all_repetitions(), of_buffers(scene));
  fmt::print("\n{:<37} {:<8} {:<17} {:>14} {:>9} {:>10} {:>7} {:>8} {:>10} {:>10}{}  best ceiling variant\n", "storage",
             "pipeline", "method", "parameters", "bytes/p", "ms", "spread", "GB/s", "ceiling", "% ceiling",
             scene.pin_rate > 0 ? fmt::format(" {:>6}", "% pin") : "");
}

void print_row_by_storage(const Scene& scene, const Kind& kind, const Shape& shape, std::string_view method,
                          const bench::Throughput& result) {
  const double rate = result.update_gigabytes_per_second();
  fmt::print("{:<37} {:<8} {:<17} {:>14} {:>9} {:>10.4f} {:>6.1f}% {:>8.2f} {:>10.2f} {:>9.1f}%{}  {}",
             kernels::short_name(kind.storage), name(kind.pipeline), method, shape.name,
             fmt::format("{}+{}", result.moved.read, result.moved.written), 1e3 * result.update.median(),
             100 * result.update.spread(), rate, result.ceiling_gigabytes_per_second(),
             100 * result.fraction_of_ceiling(),
             scene.pin_rate > 0 ? fmt::format(" {:>5.1f}%", 100 * rate / scene.pin_rate) : "", result.ceiling_variant);
}

// What is to be said of a row whose buffers are not much larger than the caches.
std::string cache_note(const Scene& scene, const bench::Throughput& result) {
  const double caches = static_cast<double>(result.rotated_bytes) / static_cast<double>(scene.cache_bytes);
  if (scene.options.hot || caches >= kEnoughCaches) return "";
  return fmt::format(" (buffers of {:.2g} {})", caches, scene.gpu ? "L2 caches" : "times the caches");
}

// With several numbers of threads a row has a column for each.
void print_head_of_scaling(const Scene& scene) {
  fmt::print(
      "One step on {} with so many threads: GB/s, median of {} runs, and percent of the best that as many "
      "threads\nmove in the same read:write mix. {}\n\n{:<17} {:>14}",
      scene.device(), scene.options.all_repetitions(), of_buffers(scene), "method", "parameters");
  for (const int threads : scene.threads)
    fmt::print(" {:>15}", fmt::format("{} thread{}", threads, threads == 1 ? "" : "s"));
  fmt::print("{}\n", scene.options.by_storage() ? "  storage, pipeline" : "");
}

// A spread that no quiet machine has.
constexpr double kBusy = 0.5;

// The number of parameters, to two digits, that `free` bytes hold where `count` need `needed`.
std::int64_t count_that_fits(std::int64_t count, std::int64_t needed, std::int64_t free) {
  const double most = static_cast<double>(count) * static_cast<double>(free) / static_cast<double>(needed);
  if (most < 1) return 0;
  const double unit = std::pow(10.0, std::max(0.0, std::floor(std::log10(most)) - 1));
  return static_cast<std::int64_t>(std::floor(most / unit) * unit);
}

// One run of the subcommand: what is measured goes into the table as it comes, and into the report.
class Bench {
 public:
  explicit Bench(const BenchOptions& options)
      : options_(options),
        shapes_(options.all_shapes()),
        kinds_(options.kinds()),
        methods_(options.methods()),
        scene_{options, options.all_thread_counts(), {}, options.pin_rate, 0},
        total_(static_cast<double>(methods_.size() * shapes_.size() * kinds_.size() * scene_.threads.size())) {
    for (const int threads : scene_.threads) {
      RunOptions with = options;
      with.threads = threads;
      with.check_machine();
    }
    const Device device = options.make_device();
    if (options.on_gpu()) scene_.gpu = bench::gpu_facts(device.index);
    if (scene_.gpu && scene_.pin_rate == 0) scene_.pin_rate = scene_.gpu->pin_rate;
    scene_.cache_bytes = bench::cache_bytes(device);
    options.files.check_in_common(planned());
  }

  // Returns the report. Throws Interrupted after it has written what there is.
  nlohmann::json run() {
    report_ = {{"adamant", version()},
               {"started", fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(std::chrono::system_clock::now()))},
               {"environment", environment()},
               {"machine", machine()},
               {"dtype", options_.type},
               {"hot", options_.hot},
               {"pin_rate_gigabytes_per_second", number_or_null(scene_.pin_rate)},
               {"results", nlohmann::json::array()}};
    if (scene_.gpu) report_["device"] = to_json(*scene_.gpu);
    report_["clocks"]["before"] = clocks(scene_.gpu);
    if (!options_.json) {
      for (const Method& method : methods_) {
        if (!changed_options(method).empty()) fmt::print("{}.\n", method_text(method));
      }
      scaling()               ? print_head_of_scaling(scene_)
      : options_.by_storage() ? print_head_by_storage(scene_)
                              : print_head(scene_);
    }
    measure_all();
    report_["clocks"]["after"] = clocks(scene_.gpu);
    report_["complete"] = !interruption_.asked();
    if (interruption_.asked()) {
      options_.files.write(report_, options_);
      throw Interrupted(
          fmt::format("adamant: bench: interrupted; {} of {} results are there", report_["results"].size(), total_));
    }
    if (report_["results"].empty()) {
      throw std::runtime_error("adamant: bench: nothing was measured, there is no memory for any of the sizes");
    }
    if (!options_.json && widest_spread_ > kBusy) {
      fmt::print("\nThe spread of a row is up to {:.0f}%: the machine was busy with something else. Measure again.\n",
                 100 * widest_spread_);
    }
    return report_;
  }

 private:
  bool scaling() const { return scene_.threads.size() > 1; }

  // What is going to be measured.
  std::vector<BenchCase> planned() const {
    std::vector<BenchCase> cases;
    for (const int threads : threads_of_rows()) {
      for (const Method& method : methods_) {
        for (const Shape& shape : shapes_) {
          for (const Kind& kind : kinds_) {
            cases.push_back({.method = std::string(name(method)),
                             .options = options_text(changed_options(method)),
                             .storage = kernels::short_name(kind.storage),
                             .pipeline = std::string(name(kind.pipeline)),
                             .count = shape.total(),
                             .tensors = shape.tensors(),
                             .shape = shape.name,
                             .device = options_.on_gpu() ? "cuda" : "cpu",
                             .threads = threads,
                             .hot = options_.hot});
            cases.back().forget_plain_shape();
          }
        }
      }
    }
    return cases;
  }

  // As rows have them: of the CPU, whose number is known where all are asked for.
  std::vector<int> threads_of_rows() const {
    if (options_.on_gpu()) return {0};
    std::vector<int> counts;
    for (const int threads : scene_.threads) {
      Tuning tuning = options_.tuning();
      tuning.threads = threads;
      counts.push_back(Optimizer(GradientDescent{}, Device::cpu(), tuning).threads());
    }
    return counts;
  }

  void measure_all() {
    for (const bool of_one_tensor : {true, false}) {
      for (const Method& method : methods_) {
        for (const Shape& shape : shapes_) {
          if ((shape.tensors() == 1) != of_one_tensor) continue;
          for (const Kind& kind : kinds_) measure_threads(kind, method, shape);
        }
      }
    }
  }

  // With each number of threads.
  void measure_threads(const Kind& kind, const Method& method, const Shape& shape) {
    std::string columns;
    for (const int threads : scene_.threads) {
      if (interruption_.asked()) break;
      const auto result = measure(kind, method, shape, threads);
      if (options_.json) continue;
      if (!scaling()) {
        if (result) print_row(kind, method, shape, *result);
        continue;
      }
      columns += fmt::format(" {:>15}", result ? fmt::format("{:.2f} {:>6.1f}%", result->update_gigabytes_per_second(),
                                                             100 * result->fraction_of_ceiling())
                                               : "-");
    }
    if (columns.empty()) return;
    fmt::print(
        "{:<17} {:>14}{}{}\n", name(method), shape.name, columns,
        options_.by_storage() ? fmt::format("  {}, {}", kernels::short_name(kind.storage), name(kind.pipeline)) : "");
    flush_output();
  }

  std::optional<bench::Throughput> measure(const Kind& kind, const Method& method, const Shape& shape, int threads) {
    Tuning tuning = options_.tuning();
    tuning.threads = threads;
    bench::Request request{.method = method,
                           .storage = kind.storage,
                           .pipeline = kind.pipeline,
                           .shape = shape,
                           .repetitions = options_.all_repetitions(),
                           .device = options_.make_device(),
                           .tuning = tuning,
                           .hot = options_.hot};
    request.only_ceiling = options_.by_storage() && !(options_.full && request.is_plain_float32());
    std::string label = fmt::format("{} at {}", method_text(method), shape.name);
    if (options_.by_storage())
      label += fmt::format(", {} of {}", name(kind.pipeline), kernels::short_name(kind.storage));
    if (scaling()) label += fmt::format(", {} threads", threads);
    nlohmann::json entry{{"storage", kernels::short_name(kind.storage)},
                         {"pipeline", name(kind.pipeline)},
                         {"shape", shape.name},
                         {"options", changed_options(method)}};
    auto result = measure(request, label, entry);
    ++done_;
    progress_.clear();
    if (!result) return std::nullopt;
    widest_spread_ = std::max(widest_spread_, result->update.spread());
    entry.update(to_json(name(method), *result));
    scene_.gpu ? add_gpu(entry, *result) : add_cpu(entry, *result);
    report_["results"].push_back(entry);
    for (const bench::BaselineTimes& baseline : result->baselines) {
      if (baseline.disagreement.empty()) continue;
      fmt::print(stderr, "adamant: {} by {} is not timed, its result differs: {}\n", label, baseline.name,
                 baseline.disagreement);
    }
    return result;
  }

  // None where there is no memory for it, which is said, or where it was interrupted too early.
  std::optional<bench::Throughput> measure(const bench::Request& request, const std::string& label,
                                           nlohmann::json left_out) {
    const std::int64_t count = request.shape.total();
    const std::int64_t needed = bench::bytes_needed(request);
    const std::int64_t free = bench::free_bytes(request.device);
    if (needed <= free) {
      try {
        return bench::measure(
            request, [&](double fraction) { progress_.at((done_ + fraction) / total_, label); },
            [&] { return interruption_.asked(); });
      } catch (const std::bad_alloc&) {  // somebody else took it in the meantime
      }
    }
    progress_.clear();
    const std::int64_t fits = count_that_fits(count, needed, free);
    fmt::print(stderr, "adamant: {} needs {} and {} are free; left out (about {} parameters fit)\n", label,
               gibibytes(needed), gibibytes(free), fits);
    left_out.update({{"method", name(request.method)},
                     {"count", count},
                     {"tensors", request.shape.tensors()},
                     {"bytes_needed", needed},
                     {"bytes_free", free},
                     {"count_that_fits", fits}});
    report_["left_out"].push_back(left_out);
    return std::nullopt;
  }

  void print_row(const Kind& kind, const Method& method, const Shape& shape, const bench::Throughput& result) {
    if (options_.by_storage()) {
      print_row_by_storage(scene_, kind, shape, name(method), result);
    } else if (shape.tensors() == 1) {
      if (!columns_of_one_tensor_) print_columns_of_one_tensor(scene_);
      columns_of_one_tensor_ = true;
      print_row_of_one_tensor(scene_, name(method), result);
    } else {
      if (!columns_of_shapes_) print_columns_of_shapes(scene_);
      columns_of_shapes_ = true;
      print_row_of_shape(scene_, shape, name(method), result);
    }
    fmt::print("{}\n", cache_note(scene_, result));
    flush_output();
  }

  const BenchOptions& options_;
  std::vector<Shape> shapes_;
  std::vector<Kind> kinds_;
  std::vector<Method> methods_;
  Scene scene_;
  nlohmann::json report_;
  Interruption interruption_;
  Progress progress_{"bench"};
  double total_;
  double done_ = 0;
  double widest_spread_ = 0;
  bool columns_of_one_tensor_ = false;
  bool columns_of_shapes_ = false;
};

bool run(BenchOptions& options) {
  check_output("--json-file", options.json_file);
  options.files.read(options);
  if (options.files.report()) return options.files.finish(*options.files.report(), options);
  const nlohmann::json report = Bench(options).run();
  return options.files.finish(report, options);
}

}  // namespace

Command add_bench(CLI::App& program) {
  CLI::App* app = program.add_subcommand(
      "bench", "Throughput of one step: ms, GB/s, bytes per parameter, percent of the same-mix ceiling");
  auto options = std::make_shared<BenchOptions>();
  options->method = "all";
  app->add_option("--method", options->method, "a method, or all")->capture_default_str();
  app->add_option("--sizes", options->sizes,
                  "numbers of parameters of one tensor, separated by commas (default: 2^16, 2^20, 2^24 and 2^26, on a "
                  "CUDA device 2^20, 2^24, 2^28 and 10^9)")
      ->delimiter(',')
      ->check(whole_number(1, bench::kMostParameters));
  app->add_option(
         "--shapes", options->shapes,
         fmt::format("several tensors, separated by commas: TENSORSxPARAMETERS of each, or the parameters of {} "
                     "(default: 10000x64 and resnet-50, on a CUDA device 200x1048576 and 10000x64; none where "
                     "--sizes are given)",
                     names_of_networks()))
      ->delimiter(',')
      ->check(is_shape());
  app->add_option("--pipeline", options->pipelines,
                  "update, clip (norm, clipping and update) or copy (an update that also writes a copy of 16 bits), "
                  "separated by commas: measures types and pipelines, and nothing but the step and its ceiling, as "
                  "--storage does (default then: 2^24 parameters, 2^28 on a CUDA device)")
      ->delimiter(',')
      ->check(is_pipeline());
  app->add_option("--repetitions", options->repetitions,
                  "timed runs of each (default: 15, with --quick 5); what is measured beside it and takes long gets "
                  "fewer")
      ->check(whole_number(1, 10000));
  CLI::Option* const threads =
      app->add_option("--threads", options->thread_counts,
                      "CPU threads (default, and 0: all); several, separated by commas, are measured one after the "
                      "other")
          ->delimiter(',')
          ->check(whole_number(0, host::kMostThreads));
  app->add_flag("--scaling", options->scaling, "with 1, 2, 4 ... and all CPU threads")->excludes(threads);
  app->add_flag("--hot", options->hot,
                "stay on one set of buffers, which a cache may hold (default: go round several, so that none does)");
  CLI::Option* const quick =
      app->add_flag("--quick", options->quick, "a few small sizes and few repetitions, in seconds");
  app->add_flag("--full", options->full,
                "every storage, pipeline, shape and size from 2^10 to 10^9, as far as there is memory: hours; what is "
                "given besides stands in for all of its kind")
      ->excludes(quick);
  app->add_option("--pin-rate", options->pin_rate,
                  "GB/s that the memory's pins carry at most, to print the percentage of it too: a weak ceiling "
                  "flatters (default on a CUDA device: what memory clock and bus width give, which may be off for HBM)")
      ->check(positive_number());
  options->add_to(*app);
  options->add_storages_to(*app);
  options->files.add_to(*app);
  return {app, [options] { return run(*options); }};
}

}  // namespace adamant::tools
