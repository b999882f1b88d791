// What `adamant bench` wrote as JSON, read back: by the page that shows it and by the comparison with an earlier run.
// Reads leniently, for older reports lack what later ones have; what it cannot do without it names.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "bench/sampling.hpp"

namespace adamant::tools {

// What was measured of what.
struct BenchCase {
  std::string method;
  std::string options = {};  // those that are not the method's defaults: "amsgrad=true beta1=0.8"
  std::string storage = {};  // "float32/float32/float32"
  std::string pipeline = {};
  std::int64_t count = 0;  // parameters of all tensors
  std::int64_t tensors = 1;
  std::string shape = {};   // what the tensors are called together, where they have a name
  std::string device = {};  // "cpu" or "cuda"
  int threads = 0;          // of the CPU; 0: not said
  bool hot = false;         // in the cache, because that was asked for

  // clang-tidy takes a zero in what the compiler makes of this for a null pointer.
  auto operator<=>(const BenchCase&) const = default;  // NOLINT(modernize-use-nullptr)

  // Tensors of one size need no name, and older reports give them none: takes theirs away.
  void forget_plain_shape();
  // "adam", or "adam amsgrad=true".
  std::string method_text() const;
  // "1048576", "10000x64", or the shape's name.
  std::string size_text() const;
  // ", clip of bfloat16/bfloat16/float32/remainder, 2 threads": what is usual is left out.
  std::string kind_text() const;
  // "adam, 10000x64, clip of bfloat16/bfloat16/float32/remainder, 2 threads"
  std::string text() const;
};

struct BenchRow {
  BenchCase what;
  double bytes_per_parameter = 0;
  bench::Times update;
  bench::Times ceiling;  // of the same repetitions; no times where none was measured
  std::string ceiling_variant;
  std::optional<double> graph_seconds;
  std::optional<double> host_seconds;
  std::optional<double> times_one_tensor;

  double gigabytes_per_second() const;
  std::optional<double> ceiling_gigabytes_per_second() const;
  std::optional<double> fraction_of_ceiling() const;
};

// Another way to do the same, a baseline or a peer: how many times as long it takes as the library's step.
struct BenchRatio {
  BenchCase what;
  std::string name;
  double times_update = 0;
  std::optional<double> spread;  // half the distance between the quartiles, relative
};

// A whole report. Throws std::invalid_argument that says what is missing or wrong: "results[3] has no \"seconds\"".
std::vector<BenchRow> rows_of(const nlohmann::json& report);
std::vector<BenchRatio> ratios_of(const nlohmann::json& report);
// What the machine's pins carry, in GB/s, where it is known.
std::optional<double> pin_rate_of(const nlohmann::json& report);
// What measured, in words: the GPU's name, or the CPU's; empty where the report does not say.
std::string machine_of(const nlohmann::json& report);

// Reads files of `adamant bench --json-file` and bench/peers.py, of one machine, as one report: the first with the
// rows of all, each once. Where commits, versions and times differ it has a list of them; it is complete where all are.
// Throws std::invalid_argument naming `option`, the file and what is wrong with it.
nlohmann::json read_reports(std::string_view option, const std::vector<std::string>& paths);

}  // namespace adamant::tools
