// `adamant bench`: the throughput of every method over a range of sizes, beside the same-mix ceiling of the same run.
#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <vector>

#include "bench/throughput.hpp"
#include "tools/commands.hpp"
#include "tools/run_options.hpp"
#include "tools/terminal.hpp"

namespace adamant::tools {
namespace {

struct BenchOptions : RunOptions {
  std::vector<std::int64_t> sizes{1 << 16, 1 << 20, 1 << 24, 1 << 26};
  int repetitions = 15;
  double pin_rate = 0;  // GB/s; 0: not known
};

nlohmann::json to_json(std::string_view method, const bench::Throughput& result) {
  return {{"method", method},
          {"count", result.count},
          {"bytes_per_parameter", result.bytes_per_parameter},
          {"streams_read", result.streams_read},
          {"streams_written", result.streams_written},
          {"threads", result.threads},
          {"simd", name(result.simd)},
          {"seconds", result.update.seconds},
          {"median_seconds", result.update.median()},
          {"spread", result.update.spread()},
          {"gigabytes_per_second", result.update_gigabytes_per_second()},
          {"ceiling_variant", result.ceiling_variant},
          {"ceiling_seconds", result.ceiling.seconds},
          {"ceiling_gigabytes_per_second", result.ceiling_gigabytes_per_second()},
          {"fraction_of_ceiling", result.fraction_of_ceiling()}};
}

// A spread that no quiet machine has.
constexpr double kBusy = 0.5;

bool run(const BenchOptions& options) {
  check_output("--json-file", options.json_file);
  options.check_machine();
  std::vector<Method> methods;
  if (options.method == "all") {
    if (!options.options.empty()) throw std::invalid_argument("adamant: --option needs one --method");
    for (const std::string& method : method_names()) methods.push_back(make_method(method));
  } else {
    methods.push_back(options.make_method());
  }
  nlohmann::json report{
      {"environment", environment()},
      {"dtype", options.type},
      {"pin_rate_gigabytes_per_second", options.pin_rate > 0 ? nlohmann::json(options.pin_rate) : nlohmann::json()},
      {"results", nlohmann::json::array()}};
  if (!options.json) {
    fmt::print(
        "One fused step on the CPU, {} parameters, median of {} runs, beside a kernel that only moves the same\n"
        "streams in the same read:write mix (the best of a sweep, in the same run, on the same buffers).\n\n",
        name(options.data_type()), options.repetitions);
    fmt::print("{:<17} {:>12} {:>8} {:>10} {:>7} {:>8} {:>10} {:>10}  {}\n", "method", "parameters", "bytes/p", "ms",
               "spread", "GB/s", "ceiling", "% ceiling",
               options.pin_rate > 0 ? "% pin rate, best ceiling variant" : "best ceiling variant");
  }
  Progress progress("bench");
  const auto total = static_cast<double>(methods.size() * options.sizes.size());
  double done = 0;
  double widest_spread = 0;
  for (const Method& method : methods) {
    for (const std::int64_t count : options.sizes) {
      const bench::Request request{.method = method,
                                   .type = options.data_type(),
                                   .count = count,
                                   .repetitions = options.repetitions,
                                   .tuning = options.tuning()};
      const std::string label = fmt::format("{} at {}", name(method), count);
      const std::int64_t needed = bench::bytes_needed(request);
      if (needed > memory_available()) {
        fmt::print(stderr, "adamant: {} needs {} and {} are free; left out\n", label, gibibytes(needed),
                   gibibytes(memory_available()));
        report["left_out"].push_back({{"method", name(method)}, {"count", count}, {"bytes_needed", needed}});
        continue;
      }
      const bench::Throughput result =
          bench::measure(request, [&](double fraction) { progress.at((done + fraction) / total, label); });
      ++done;
      widest_spread = std::max(widest_spread, result.update.spread());
      report["results"].push_back(to_json(name(method), result));
      if (!options.json) {
        progress.clear();
        fmt::print("{:<17} {:>12} {:>8} {:>10.4f} {:>6.1f}% {:>8.2f} {:>10.2f} {:>9.1f}%  {}{}\n", name(method), count,
                   result.bytes_per_parameter, 1e3 * result.update.median(), 100 * result.update.spread(),
                   result.update_gigabytes_per_second(), result.ceiling_gigabytes_per_second(),
                   100 * result.fraction_of_ceiling(),
                   options.pin_rate > 0
                       ? fmt::format("{:.1f}%, ", 100 * result.update_gigabytes_per_second() / options.pin_rate)
                       : "",
                   result.ceiling_variant);
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
  options.emit(report);
  return true;
}

}  // namespace

Command add_bench(CLI::App& program) {
  CLI::App* app = program.add_subcommand(
      "bench", "Throughput of one step: ms, GB/s, bytes per parameter, percent of the same-mix ceiling");
  auto options = std::make_shared<BenchOptions>();
  options->method = "all";
  app->add_option("--method", options->method, "a method, or all")->capture_default_str();
  app->add_option("--sizes", options->sizes, "numbers of parameters, separated by commas")
      ->delimiter(',')
      ->capture_default_str()
      ->check(whole_number(1, std::uint64_t{1} << 40));
  app->add_option("--repetitions", options->repetitions, "timed runs of each")
      ->capture_default_str()
      ->check(whole_number(1, 10000));
  app->add_option(
         "--pin-rate", options->pin_rate,
         "GB/s that the memory's pins carry at most, to print the percentage of it too: a weak ceiling flatters")
      ->check(CLI::PositiveNumber);
  options->add_to(*app);
  return {app, [options] { return run(*options); }};
}

}  // namespace adamant::tools
