// The program `adamant` as its users meet it: help, JSON, exit codes, and what it says of bad usage and bad files. What
// it computes is the business of other tests.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <regex>
#include <string>
#include <thread>
#include <vector>

#include "adamant/adamant.hpp"
#include "device.hpp"
#include "host/measure.hpp"
#include "host/safetensors.hpp"
#include "kernels/storage_types.hpp"
#include "program.hpp"
#include "tools/compare.hpp"
#include "tools/terminal.hpp"

namespace adamant {
namespace {

namespace fs = std::filesystem;
namespace st = safetensors;
using test::contents;
using test::Folder;
using test::Outcome;
using test::run_program;
using Json = nlohmann::json;
using Words = std::vector<std::string>;

constexpr bool kHasBench = ADAMANT_HAS_BENCH != 0;
constexpr double kQuickSeconds = 10;  // what is refused is refused at once, even by a sanitized build
const std::string kTrace = ADAMANT_SOURCE_DIR "/tests/golden/synthetic.trace.safetensors";

Words operator+(Words words, const Words& more) {
  words.insert(words.end(), more.begin(), more.end());
  return words;
}

class CommandLine : public testing::Test {
 protected:
  std::string file(const std::string& name) const { return folder_.file(name); }

  static Outcome run(const Words& words, const test::RunLimits& limits = {}) {
    return run_program(Words{ADAMANT_PROGRAM} + words, limits);
  }

  // Runs and expects exit code 0. Returns what it printed.
  static std::string run_well(const Words& words, const test::RunLimits& limits = {}) {
    const Outcome outcome = run(words, limits);
    EXPECT_EQ(outcome.exit_code, 0) << to_text(words, outcome);
    EXPECT_EQ(outcome.err, "") << to_text(words, outcome);
    return outcome.out;
  }

  static Json run_for_json(const Words& words, const test::RunLimits& limits = {}) {
    const std::string out = run_well(words + Words{"--json"}, limits);
    const Json report = Json::parse(out, nullptr, false);
    EXPECT_FALSE(report.is_discarded()) << out;
    return report;
  }

  // Names and bytes of all files in the test's folder.
  std::map<std::string, std::string> files() const {
    std::map<std::string, std::string> all;
    for (const auto& entry : fs::recursive_directory_iterator(folder_.path())) {
      all[entry.path().string()] = entry.is_regular_file() ? contents(entry.path()) : "";
    }
    return all;
  }

  // Bad usage: exit code 2, one line on standard error that has all of `parts`, nothing on standard output, no file
  // created or changed, and no time lost.
  void expect_refused(const Words& words, const Words& parts, const test::RunLimits& limits = {}) const {
    const auto before = files();
    const Outcome outcome = run(words, limits);
    test::expect_refusal(words, outcome, parts);
    EXPECT_LT(outcome.seconds, kQuickSeconds) << to_text(words, outcome);
    EXPECT_EQ(files(), before) << to_text(words, outcome);
  }

  void expect_replay_refused(const Words& more, const Words& parts) const {
    expect_refused(Words{"replay", kTrace, "--method", "adam"} + more, parts);
  }

  // Says nothing of a build without the benchmark, whose `bench` has no options.
  void expect_bench_refused(const Words& more, const Words& parts) const {
    if (kHasBench) expect_refused(Words{"bench"} + more, parts);
  }

  // A method's own option, through both ways in.
  void expect_option_refused(const std::string& method, const Words& options, const Words& parts) const {
    Words more{"--method", method};
    for (const std::string& option : options) more.insert(more.end(), {"--option", option});
    expect_refused(Words{"replay", kTrace} + more, parts);
    expect_refused(Words{"compare", "--count", "1", "--steps", "1"} + more, parts);
  }

  // Writes the bytes under a name and expects replay to refuse it as a trace, naming it.
  void expect_trace_refused(const std::string& bytes, const Words& parts) const {
    save("bad.safetensors", bytes);
    expect_refused({"replay", file("bad.safetensors"), "--method", "adam", "--out", file("out.safetensors")},
                   parts + Words{file("bad.safetensors")});
  }

  void save(const std::string& name, const std::string& bytes) const {
    std::ofstream stream(file(name), std::ios::binary);
    stream << bytes;
    ASSERT_TRUE(stream.flush());
  }

  // One tensor of zeros, to be written into a file.
  struct Tensor {
    std::string name;
    st::Type type;
    std::vector<std::int64_t> shape;
  };

  std::string save_tensors(const std::string& name, const std::vector<Tensor>& tensors) const {
    std::vector<std::vector<std::byte>> storage;
    std::vector<st::Entry> entries;
    for (const Tensor& tensor : tensors) {
      std::size_t bytes = st::type_size_bytes(tensor.type);
      for (const std::int64_t size : tensor.shape) bytes *= static_cast<std::size_t>(size);
      storage.emplace_back(bytes);
    }
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      entries.push_back({tensors[i].name, tensors[i].type, tensors[i].shape, storage[i]});
    }
    st::write(file(name), entries);
    return file(name);
  }

  // A trace whose gradients are 1, 2, 3, ... and whose parameters are 0.5.
  std::string save_trace(std::int64_t count, std::int64_t steps) const {
    std::vector<float> parameter(static_cast<std::size_t>(count), 0.5F);
    std::vector<float> gradient(static_cast<std::size_t>(count * steps));
    for (std::size_t i = 0; i < gradient.size(); ++i) gradient[i] = static_cast<float>(i + 1);
    const std::vector<st::Entry> entries{{"param", st::Type::F32, {count}, std::as_bytes(std::span(parameter))},
                                         {"grad", st::Type::F32, {steps, count}, std::as_bytes(std::span(gradient))}};
    st::write(file("trace.safetensors"), entries);
    return file("trace.safetensors");
  }

 private:
  Folder folder_;
};

// First in a test of what is measured.
#define ADAMANT_NEEDS_BENCH() \
  if (!kHasBench) GTEST_SKIP() << "this program was built without the benchmark"

// --- What works

TEST_F(CommandLine, HelpAndVersionExitWithZeroForTheProgramAndEverySubcommand) {
  for (const Words& words :
       {Words{"--help"}, Words{"-h"}, Words{"bench", "--help"}, Words{"compare", "--help"}, Words{"replay", "--help"},
        Words{"replay", "-h"}, Words{"info", "--help"}, Words{"descend", "--help"}}) {
    const std::string help = run_well(words);
    EXPECT_NE(help.find("Usage: adamant"), std::string::npos) << help;
    EXPECT_NE(help.find("Exit code: 0"), std::string::npos) << help;
  }
  EXPECT_NE(run_well({"--help"}).find("info"), std::string::npos);
  for (const std::string subcommand : {"bench", "compare", "replay", "descend"}) {
    EXPECT_NE(run_well({"--help"}).find(subcommand), std::string::npos);
    if (subcommand == "bench" && !kHasBench) continue;
    const std::string help = run_well({subcommand, "--help"});
    for (const char* option : {"--method", "--option", "--device", "--dtype", "--simd", "--threads", "--json"}) {
      EXPECT_NE(help.find(option), std::string::npos) << subcommand << " " << option;
    }
  }
  const std::string version = run_well({"--version"});
  EXPECT_EQ(std::count(version.begin(), version.end(), '.'), 2) << version;
}

TEST_F(CommandLine, BenchReportsEveryMethodAndSizeInATableAndInJson) {
  ADAMANT_NEEDS_BENCH();
  const Words words{"bench",         "--device", "cpu",       "--sizes", "1,17,1000",
                    "--repetitions", "1",        "--threads", "1",       "--hot"};
  const std::string table = run_well(words);
  for (const std::string& method : method_names()) EXPECT_NE(table.find(method), std::string::npos) << table;

  const Json report = run_for_json(words + Words{"--json-file", file("bench.json")});
  EXPECT_EQ(Json::parse(contents(file("bench.json"))), report);
  EXPECT_TRUE(report.at("environment").contains("compiler"));
  EXPECT_EQ(report.at("environment").at("simd_levels").size(), simd_levels().size());
  EXPECT_EQ(report.at("dtype"), "f32");
  ASSERT_EQ(report.at("results").size(), 3 * method_names().size());
  for (const Json& result : report.at("results")) {
    for (const char* field : {"method", "count", "bytes_per_parameter", "streams_read", "streams_written", "threads",
                              "simd", "seconds", "median_seconds", "spread", "gigabytes_per_second", "ceiling_variant",
                              "ceiling_seconds", "ceiling_gigabytes_per_second", "fraction_of_ceiling"}) {
      EXPECT_TRUE(result.contains(field)) << field;
    }
    EXPECT_GT(result.at("median_seconds").get<double>(), 0);
    EXPECT_EQ(result.at("seconds").size(), 1U);
  }
}

TEST_F(CommandLine, BenchCountsTheBytesThatAMethodMoves) {
  ADAMANT_NEEDS_BENCH();
  const std::map<std::string, int> kStreams{
      {"gradient_descent", 3}, {"momentum", 5}, {"rmsprop", 5}, {"adam", 7}, {"adamw", 7}};
  for (const auto& [type, size] : {std::pair<std::string, int>{"f32", 4}, {"f64", 8}}) {
    const Json report = run_for_json(
        {"bench", "--device", "cpu", "--sizes", "8", "--repetitions", "1", "--threads", "1", "--hot", "--dtype", type});
    for (const Json& result : report.at("results")) {
      EXPECT_EQ(result.at("bytes_per_parameter"), size * kStreams.at(result.at("method"))) << result;
    }
  }
}

TEST_F(CommandLine, BenchSaysWhichOptionsItMeasured) {
  ADAMANT_NEEDS_BENCH();
  const Words words{"bench", "--device",      "cpu", "--method",  "adam", "--sizes", "16,1000000000000",
                    "--hot", "--repetitions", "1",   "--threads", "1"};
  const Words given{"--option", "amsgrad=true", "--option", "beta1=0.80", "--option", "beta2=0.999"};
  const Outcome outcome = run(words + given + Words{"--json"});
  const Json report = Json::parse(outcome.out);
  const Json changed{{"amsgrad", "true"}, {"beta1", "0.8"}};
  EXPECT_EQ(report.at("results")[0].at("options"), changed);
  EXPECT_EQ(report.at("left_out")[0].at("options"), changed);
  EXPECT_TRUE(outcome.err.starts_with("adamant: adam amsgrad=true beta1=0.8 at 1000000000000 needs")) << outcome.err;
  const Outcome table = run(words + given);
  EXPECT_TRUE(table.out.starts_with("adam amsgrad=true beta1=0.8.\n")) << table.out;
  EXPECT_EQ(Json::parse(run(words + Words{"--json"}).out).at("results")[0].at("options"), Json::object());
}

TEST_F(CommandLine, BenchMeasuresEveryStorageAndPipelineBesideACeiling) {
  ADAMANT_NEEDS_BENCH();
  const Words words{"bench",     "--device",  "cpu",        "--method",         "momentum",
                    "--storage", "all",       "--pipeline", "update,clip,copy", "--sizes",
                    "100",       "--threads", "1",          "--repetitions",    "1",
                    "--hot"};
  const Json report = run_for_json(words);
  std::size_t copies = 0;
  for (const Json& result : report.at("results")) {
    copies += result.at("pipeline") == "copy" ? 1 : 0;
    EXPECT_EQ(result.at("bytes_per_parameter").get<int>(),
              result.at("bytes_read_per_parameter").get<int>() + result.at("bytes_written_per_parameter").get<int>());
    EXPECT_GT(result.at("fraction_of_ceiling").get<double>(), 0) << result;
  }
  EXPECT_EQ(copies, 3U);  // of a float32 parameter with float32 states
  EXPECT_EQ(report.at("results").size(), 2 * kernels::storages().size() + copies);
  const std::string table = run_well(words);
  for (const kernels::StorageTypes& types : kernels::storages()) {
    EXPECT_NE(table.find("\n" + kernels::short_name(types) + " "), std::string::npos) << table;
  }
  expect_bench_refused({"--pipeline", "copy", "--storage", "bfloat16/bfloat16/float32/remainder"},
                       {"--pipeline copy", "float32 parameter"});
}

TEST_F(CommandLine, BenchSaysHowMuchMemoryATooLargeSizeNeedsAndGoesOn) {
  ADAMANT_NEEDS_BENCH();
  const Words words{"bench",         "--device", "cpu",       "--method", "adam",  "--sizes", "1000000000000,16",
                    "--repetitions", "1",        "--threads", "1",        "--hot", "--json"};
  const Outcome outcome = run(words);
  EXPECT_EQ(outcome.exit_code, 0) << to_text(words, outcome);
  EXPECT_NE(outcome.err.find("adam at 1000000000000 needs 18626.5 GiB"), std::string::npos) << outcome.err;
  const Json report = Json::parse(outcome.out);
  ASSERT_EQ(report.at("results").size(), 1U);
  EXPECT_EQ(report.at("results")[0].at("count"), 16);
  ASSERT_EQ(report.at("left_out").size(), 1U);
  EXPECT_EQ(report.at("left_out")[0].at("count"), 1000000000000);
  EXPECT_GE(report.at("left_out")[0].at("bytes_needed").get<std::int64_t>(), 16 * 1000000000000);
}

TEST_F(CommandLine, BenchLeavesOutAShapeThatDoesNotFitAndSaysWhatWould) {
  ADAMANT_NEEDS_BENCH();
  const Words words{
      "bench",         "--device", "cpu",       "--method", "momentum", "--shapes", "1000x1000000000,3x70",
      "--repetitions", "1",        "--threads", "1",        "--hot",    "--json"};
  const Outcome outcome = run(words);
  EXPECT_EQ(outcome.exit_code, 0) << to_text(words, outcome);
  EXPECT_NE(outcome.err.find("momentum at 1000x1000000000 needs "), std::string::npos) << outcome.err;
  EXPECT_NE(outcome.err.find("parameters fit)"), std::string::npos) << outcome.err;
  const Json report = Json::parse(outcome.out);
  ASSERT_EQ(report.at("results").size(), 1U);
  ASSERT_EQ(report.at("left_out").size(), 1U);
  const Json& left_out = report.at("left_out")[0];
  EXPECT_EQ(left_out.at("shape"), "1000x1000000000");
  EXPECT_EQ(left_out.at("tensors"), 1000);
  const double scale = left_out.at("bytes_free").get<double>() / left_out.at("bytes_needed").get<double>();
  const double fits = left_out.at("count_that_fits").get<double>();
  EXPECT_LE(fits, scale * 1e12);
  EXPECT_GE(fits, 0.89 * scale * 1e12);
}

TEST_F(CommandLine, BenchMeasuresManyTensorsOnTheCpuBesideOneOfAsManyParameters) {
  ADAMANT_NEEDS_BENCH();
  const Words words{"bench",    "--device",       "cpu",       "--method", "gradient_descent",
                    "--shapes", "3x70,resnet-50", "--threads", "1",        "--repetitions",
                    "2",        "--hot"};
  const Json report = run_for_json(words);
  ASSERT_EQ(report.at("results").size(), 2U);
  const std::vector<std::pair<std::int64_t, std::int64_t>> expected{{3, 210}, {161, 25557032}};
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const Json& result = report.at("results")[i];
    EXPECT_EQ(result.at("shape"), i == 0 ? "3x70" : "resnet-50");
    EXPECT_EQ(result.at("tensors"), expected[i].first);
    EXPECT_EQ(result.at("count"), expected[i].second);
    EXPECT_EQ(result.at("one_tensor_seconds").size(), 2U);
    EXPECT_EQ(result.at("copy_seconds").size(), 2U);
    EXPECT_EQ(result.at("plain_copy_seconds").size(), 2U);
    for (const char* field :
         {"times_one_tensor", "fraction_of_ceiling", "copy_gigabytes_per_second", "plain_copy_gigabytes_per_second"}) {
      EXPECT_GT(result.at(field).get<double>(), 0) << field;
    }
  }
  const std::string table = run_well(words);
  EXPECT_NE(table.find("\nresnet-50       gradient_descent "), std::string::npos) << table;
}

TEST_F(CommandLine, BenchIsColdUnlessItIsToBeHotAndSaysWhatItRanOn) {
  ADAMANT_NEEDS_BENCH();
  const Words words{"bench",  "--device",  "cpu", "--method",      "momentum", "--sizes",
                    "100000", "--threads", "1",   "--repetitions", "1"};
  const Json cold = run_for_json(words);
  EXPECT_EQ(cold.at("hot"), false);
  EXPECT_GT(cold.at("results")[0].at("buffer_sets"), 1);
  EXPECT_EQ(cold.at("results")[0].at("rotated_bytes").get<std::int64_t>(),
            cold.at("results")[0].at("buffer_sets").get<std::int64_t>() * 12 * 100000);
  EXPECT_TRUE(cold.at("complete").get<bool>());
  EXPECT_EQ(cold.at("adamant"), version());
  for (const char* field : {"cpu", "cpus", "cache_bytes", "least_clock_megahertz", "most_clock_megahertz"}) {
    EXPECT_TRUE(cold.at("machine").contains(field)) << field;
  }
  for (const char* when : {"before", "after"}) EXPECT_TRUE(cold.at("clocks").at(when).contains("cpu_megahertz"));
  const Json hot = run_for_json(words + Words{"--hot"});
  EXPECT_EQ(hot.at("hot"), true);
  EXPECT_EQ(hot.at("results")[0].at("buffer_sets"), 1);
  EXPECT_NE(run_well(words).find("Runs go round several sets"), std::string::npos);
  EXPECT_NE(run_well(words + Words{"--hot"}).find("Runs stay on one set"), std::string::npos);
}

TEST_F(CommandLine, BenchMeasuresWithEveryNumberOfThreadsThatIsAskedFor) {
  ADAMANT_NEEDS_BENCH();
  const Words words{"bench",   "--device",  "cpu",           "--method", "momentum",
                    "--sizes", "1000,2000", "--repetitions", "1",        "--hot"};
  const Json report = run_for_json(words + Words{"--threads", "1,3"});
  ASSERT_EQ(report.at("results").size(), 4U);
  for (std::size_t i = 0; i < 4; ++i) EXPECT_EQ(report.at("results")[i].at("threads"), i % 2 == 0 ? 1 : 3);
  const std::string table = run_well(words + Words{"--threads", "1,3"});
  EXPECT_NE(table.find(" 1 thread       3 threads\nmomentum                    1000 "), std::string::npos) << table;
  const Json scaling = run_for_json(words + Words{"--scaling"});
  EXPECT_EQ(scaling.at("results")[0].at("threads"), 1);
  const auto all = static_cast<std::size_t>(Optimizer(GradientDescent{}).threads());
  EXPECT_EQ(scaling.at("results").back().at("threads"), all);
  expect_bench_refused({"--threads", "1,2", "--device", "cuda"}, {"--threads", "--device cpu"});
  expect_bench_refused({"--scaling", "--device", "cuda"}, {"--scaling", "--device cpu"});
  expect_bench_refused({"--scaling", "--threads", "2"}, {"--scaling", "--threads"});
  expect_bench_refused({"--threads", "2,x"}, {"--threads", "\"x\""});
  for (const std::string rate : {"nan", "inf", "0", "-1"}) {
    expect_bench_refused({"--pin-rate", rate}, {"--pin-rate", '"' + rate + '"'});
  }
}

TEST_F(CommandLine, BenchHasAQuickRun) {
  ADAMANT_NEEDS_BENCH();
  const Json report =
      run_for_json({"bench", "--device", "cpu", "--threads", "1", "--quick", "--hot", "--method", "gradient_descent"});
  ASSERT_EQ(report.at("results").size(), 3U);
  for (const Json& result : report.at("results")) EXPECT_EQ(result.at("repetitions"), 5);
  EXPECT_EQ(report.at("results")[2].at("shape"), "10000x64");
  expect_bench_refused({"--quick", "--full"}, {"--quick", "--full"});
}

TEST_F(CommandLine, BenchMeasuresEverythingOfAKindInAFullRun) {
  ADAMANT_NEEDS_BENCH();
  const Json report = run_for_json({"bench", "--device", "cpu", "--full", "--method", "gradient_descent", "--sizes",
                                    "64", "--repetitions", "1", "--threads", "1", "--hot"});
  EXPECT_EQ(report.at("results").size(), 2 * kernels::storages().size() + 3);  // as many have a copy
  for (const Json& result : report.at("results")) {
    const bool plain = result.at("storage") == "float32/float32/float32" && result.at("pipeline") == "update";
    EXPECT_EQ(result.at("copy_seconds").size(), plain ? 1U : 0U) << result;
  }
}

TEST_F(CommandLine, BenchThatIsInterruptedWritesWhatItHas) {
  ADAMANT_NEEDS_BENCH();
  constexpr std::size_t kSizes = 200;
  std::string sizes = "16";
  for (std::size_t i = 1; i < kSizes; ++i) sizes += "," + std::to_string(16 + i);
  const Words words{
      "bench", "--device",  "cpu", "--method", "gradient_descent", "--sizes",         sizes, "--repetitions",
      "3",     "--threads", "1",   "--hot",    "--json-file",      file("bench.json")};
  for (const int signal : {SIGINT, SIGTERM}) {
    SCOPED_TRACE(signal);
    const Outcome outcome = run(words, {.interrupt_at = "gradient_descent            17 ", .interrupt_by = signal});
    EXPECT_EQ(outcome.exit_code, 130) << to_text(words, outcome);
    EXPECT_EQ(outcome.signal, 0) << to_text(words, outcome);
    EXPECT_NE(outcome.err.find("interrupted"), std::string::npos) << to_text(words, outcome);
    const Json report = Json::parse(contents(file("bench.json")));
    EXPECT_EQ(report.at("complete"), false);
    EXPECT_GE(report.at("results").size(), 2U);
    EXPECT_LT(report.at("results").size(), kSizes);
    for (const Json& result : report.at("results")) {
      EXPECT_GE(result.at("seconds").size(), 1U);
      EXPECT_EQ(result.at("seconds").size(), result.at("ceiling_seconds").size());
    }
    const auto rows = static_cast<std::size_t>(std::count(outcome.out.begin(), outcome.out.end(), '%'));
    EXPECT_GE(rows, 2 * report.at("results").size()) << outcome.out;
  }
}

TEST_F(CommandLine, BenchFailsWhenThereIsMemoryForNoSize) {
  ADAMANT_NEEDS_BENCH();
  const Words words{"bench",         "--device", "cpu",       "--method", "adam",        "--sizes",   "1000000000000",
                    "--repetitions", "1",        "--threads", "1",        "--json-file", file("json")};
  const Outcome outcome = run(words);
  EXPECT_EQ(outcome.exit_code, 2) << to_text(words, outcome);
  EXPECT_NE(outcome.err.find("adam at 1000000000000 needs 18626.5 GiB"), std::string::npos) << outcome.err;
  EXPECT_NE(outcome.err.find("nothing was measured"), std::string::npos) << outcome.err;
  EXPECT_TRUE(files().empty());
}

TEST_F(CommandLine, CompareAgreesOnEveryMethodTypeAndSmallSize) {
  for (const std::string type : {"f32", "f64"}) {
    for (const std::string count : {"0", "1", "17"}) {
      const Words words{"compare", "--device", "cpu", "--count", count, "--steps", "3", "--dtype", type};
      const Json report = run_for_json(words);
      EXPECT_EQ(report.at("passed"), true);
      EXPECT_EQ(report.at("count"), std::stoi(count));
      EXPECT_EQ(report.at("steps"), 3);
      EXPECT_EQ(report.at("seed"), 1);
      EXPECT_EQ(report.at("dtype"), type);
      EXPECT_TRUE(report.contains("environment"));
      // Of each method at least its plain variant, at each SIMD level and against the reference.
      EXPECT_GE(report.at("rows").size(), method_names().size() * (simd_levels().size() + 1));
      for (const Json& row : report.at("rows")) {
        for (const char* field :
             {"method", "left", "right", "mismatching_values", "largest_error_ulps", "mean_error_ulps", "passed"}) {
          EXPECT_TRUE(row.contains(field)) << field;
        }
        EXPECT_EQ(row.at("mismatching_values"), 0) << row;
        EXPECT_EQ(row.contains("largest_part_of_bound"), row.at("right") == "reference") << row;
        EXPECT_LE(row.value("largest_part_of_bound", 0.0), 1.0) << row;
      }
    }
  }
  EXPECT_NE(run_well({"compare", "--count", "17", "--steps", "2", "--method", "adam"}).find("reference"),
            std::string::npos);
}

// More parameters than host memory holds at a time; of so many the reference sees a part.
constexpr std::int64_t kPieceAndABit = (std::int64_t{1} << 22) + 5;

TEST_F(CommandLine, CompareTakesALargeTensorPieceByPieceAndSaysWhatTheReferenceSees) {
  const Words words{"compare", "--device", "cpu",      "--count",         std::to_string(kPieceAndABit),
                    "--steps", "2",        "--method", "gradient_descent"};
  const Json report = run_for_json(words);
  EXPECT_EQ(report.at("passed"), true);
  EXPECT_EQ(report.at("reference_sees_one_element_in"), 5);
  for (const Json& row : report.at("rows")) EXPECT_EQ(row.at("mismatching_values"), 0) << row;
  EXPECT_GT(report.at("rows").back().at("largest_part_of_bound").get<double>(), 0);
  EXPECT_NE(run_well(words).find("The reference sees one element in 5"), std::string::npos);
}

TEST_F(CommandLine, CompareTakesOptionsAndAnySeed) {
  for (const std::string seed : {"0", "18446744073709551615"}) {
    const Json report = run_for_json({"compare", "--method", "momentum", "--option", "nesterov=true", "--option",
                                      "momentum=0.5", "--count", "5", "--steps", "1", "--seed", seed});
    EXPECT_EQ(report.at("seed").dump(), seed);
    EXPECT_EQ(report.at("rows")[0].at("method"), "momentum momentum=0.5 nesterov=true");
  }
}

// Of every storage, method and variant: each level, the step control and the reference, and where a float32 number is
// kept in two parts, the float32 run that they must be.
void expect_all_storages(const Json& report) {
  EXPECT_EQ(report.at("passed"), true);
  std::map<std::string, std::map<std::string, int>> rows;
  for (const Json& row : report.at("rows")) {
    EXPECT_EQ(row.at("mismatching_values"), 0) << row;
    EXPECT_EQ(row.at("passed"), true) << row;
    ++rows[row.at("storage")][row.at("right")];
  }
  EXPECT_EQ(rows.size(), kernels::storages().size());
  for (const kernels::StorageTypes& types : kernels::storages()) {
    std::map<std::string, int>& right = rows[kernels::short_name(types)];
    EXPECT_GE(right["reference"], 1) << kernels::short_name(types);
    EXPECT_EQ(right["step control"], right["reference"]) << kernels::short_name(types);
    const bool has_parts = types.master == Master::float32 || types.master == Master::remainder;
    EXPECT_EQ(right["float32 run"], has_parts ? right["reference"] : 0) << kernels::short_name(types);
  }
}

TEST_F(CommandLine, CompareAgreesOnEveryStorageWithClippingLossScaleAndSkippedSteps) {
  const Words words{"compare", "--device", "cpu", "--count", "1003", "--steps", "7", "--storage", "all"};
  expect_all_storages(run_for_json(words + Words{"--clip-norm", "1", "--clip-value", "0.01"}));
  expect_all_storages(run_for_json(words + Words{"--clip-norm", "1", "--loss-scale", "--skip-non-finite"}));
  const Json report = run_for_json(words + Words{"--method", "adam", "--loss-scale"});
  EXPECT_NE(report.at("control").get<std::string>().find("loss scale"), std::string::npos);
  EXPECT_EQ(report.at("storages").size(), kernels::storages().size());
  EXPECT_EQ(run_for_json({"compare", "--device", "cpu", "--count", "9", "--steps", "1"}).at("storages"),
            Json({"float32/float32/float32"}));
}

TEST(Compare, AllowsWhatANarrowerTypeRoundsOffAndNoMore) {
  const reference::Textbook<double> textbook("momentum", {});
  const double before[1] = {1};
  const reference::Result<double> exact = textbook.step(1, before, 0.5, 2);
  const auto part = [&](double parameter_off, double state_off, const tools::StorageRounding<float>& rounding) {
    const auto parameter = static_cast<float>(exact.parameter + parameter_off);
    const auto state = static_cast<float>(exact.state[0] + state_off);
    return tools::part_of_bound<float>(parameter, std::span<const float>(&state, 1), textbook, exact,
                                       measure::ulp(DataType::float32, exact.parameter), rounding);
  };
  constexpr double kUlp = 0x1p-7;
  EXPECT_LE(part(kUlp, kUlp, {.parameter = kUlp, .state = {kUlp}}), 1);
  EXPECT_GT(part(1.01 * kUlp, 0, {.parameter = kUlp, .state = {kUlp}}), 1);
  EXPECT_GT(part(0, -1.01 * kUlp, {.parameter = kUlp, .state = {kUlp}}), 1);
  EXPECT_GT(part(kUlp, 0, {}), 1);
  EXPECT_GT(part(0, kUlp, {}), 1);
}

TEST_F(CommandLine, ReplayOfEveryStorageWritesItsTypesAndMeetsThemAgain) {
  const std::map<DataType, std::string> kNames{
      {DataType::float32, "F32"}, {DataType::float64, "F64"}, {DataType::bfloat16, "BF16"}, {DataType::float16, "F16"}};
  for (const kernels::StorageTypes& types : kernels::storages()) {
    const Words words{"replay", kTrace, "--method", "adam", "--device", "cpu", "--storage", kernels::short_name(types)};
    EXPECT_EQ(run_for_json(words + Words{"--out", file("out")}).at("storage"), kernels::short_name(types));
    const st::File written = st::File::open(file("out"));
    EXPECT_EQ(st::type_name(written.at("param").type), kNames.at(types.parameter));
    EXPECT_EQ(st::type_name(written.at("exp_avg").type), kNames.at(types.state));
    EXPECT_EQ(written.find("master") != nullptr, types.master == Master::float32);
    run_well(words + Words{"--expect", file("out"), "--tolerance", "0"});
    // Another storage's run is another.
    if (types.parameter == DataType::float64) continue;
    const Words other{"replay", kTrace,     "--method",  "adam",        "--dtype",
                      "f64",    "--expect", file("out"), "--tolerance", "0"};
    EXPECT_EQ(run(other).exit_code, 1) << kernels::short_name(types);
  }
}

TEST_F(CommandLine, RefusesAStorageThatThereIsNotAndListsThoseThereAre) {
  std::vector<Words> commands{{"compare", "--count", "1"}, {"replay", kTrace, "--method", "adam"}};
  if (kHasBench) commands.push_back({"bench"});
  for (const Words& words : commands) {
    for (const std::string storage : {"float32", "bfloat16/bfloat16/float32", "float64/float32/float64", "All"}) {
      const Words bad = words + Words{"--storage", storage};
      const Outcome outcome = run(bad);
      EXPECT_EQ(outcome.exit_code, 2) << to_text(bad, outcome);
      EXPECT_NE(outcome.err.find('"' + storage + '"'), std::string::npos) << outcome.err;
      for (const kernels::StorageTypes& types : kernels::storages()) {
        EXPECT_NE(outcome.err.find(kernels::short_name(types)), std::string::npos) << outcome.err;
      }
    }
    expect_refused(words + Words{"--storage", ""}, {"--storage", "empty"});
    expect_refused(words + Words{"--storage", "float32/float32/float32", "--dtype", "f32"}, {"--storage", "--dtype"});
  }
  expect_refused({"replay", kTrace, "--method", "adam", "--storage", "all"}, {"--storage", "one at a time"});
  for (const std::string value : {"0", "-1", "nan", "inf", "", "x"}) {
    for (const std::string option : {"--clip-norm", "--clip-value"}) {
      expect_refused({"compare", "--count", "1", option, value}, {option, '"' + value + '"', "above 0"});
    }
  }
}

TEST_F(CommandLine, InfoSaysWhatTheLibrarySaysOfItselfAndOfTheMachine) {
  const Json facts = run_for_json({"info", "--json-file", file("info.json")});
  EXPECT_EQ(Json::parse(contents(file("info.json"))), facts);
  EXPECT_EQ("adamant " + facts.at("version").get<std::string>() + "\n", "adamant " + run_well({"--version"}));
  for (const char* field : {"type", "compiler", "flags", "cuda"})
    EXPECT_TRUE(facts.at("build").contains(field)) << field;
  const Json& commit = facts.at("build").at("commit");  // an archive has none
  EXPECT_TRUE(commit.is_null() || std::regex_match(commit.get<std::string>(), std::regex("[0-9a-f]{40}(-dirty)?")))
      << commit;

  const Optimizer probe{GradientDescent{}};
  EXPECT_EQ(facts.at("threads"), probe.threads());
  const Outcome many = run_program({"/usr/bin/env", "OMP_NUM_THREADS=200000", ADAMANT_PROGRAM, "info", "--json"});
  EXPECT_EQ(Json::parse(many.out).at("threads"), 4096) << many.err;
  EXPECT_EQ(facts.at("simd").at("chosen"), name(probe.simd()));
  Json machine = Json::array();
  for (const SimdLevel level : simd_levels()) machine.push_back(name(level));
  EXPECT_EQ(facts.at("simd").at("machine"), machine);
  for (const Json& level : machine) {
    const Json& build = facts.at("simd").at("build");
    EXPECT_NE(std::find(build.begin(), build.end(), level), build.end()) << level;
  }

  EXPECT_EQ(facts.at("devices")[0].at("name"), "cpu");
  const Json& cuda = facts.at("devices").at(1);
  EXPECT_EQ(cuda.at("name"), "cuda:0");
  std::string why;
  try {
    const Optimizer on_device(GradientDescent{}, Device::cuda(0));
  } catch (const std::exception& error) {
    why = error.what();
  }
  EXPECT_EQ(cuda.at("available"), why.empty());
  EXPECT_EQ(cuda.contains("why") ? "adamant: " + cuda.at("why").get<std::string>() : "", why);
  EXPECT_EQ(cuda.contains("what"), why.empty());
  EXPECT_EQ(facts.at("default_device"), why.empty() ? "cuda:0" : "cpu");

  ASSERT_EQ(facts.at("methods").size(), method_names().size());
  for (const Json& method : facts.at("methods")) {
    const Method made = make_method(method.at("name").get<std::string>());
    EXPECT_EQ(method.at("states").get<Words>(), state_names(made)) << method;
    EXPECT_EQ(method.at("options").size(), options(made).size()) << method;
  }

  const std::string table = run_well({"info"});
  for (const std::string part :
       {"version", "build", "devices", "default", "SIMD", "threads", "memory", "exp_avg_sq", "(no state)"}) {
    EXPECT_NE(table.find(part), std::string::npos) << table;
  }
}

TEST_F(CommandLine, ReplayWritesWhatAReplayThenMeetsBitByBitInBothTypes) {
  for (const std::string type : {"f32", "f64"}) {
    for (const std::string& method : method_names()) {
      const std::string out = file(method + type);
      const Words words{"replay", kTrace, "--method", method, "--dtype", type};
      Json report = run_for_json(words + Words{"--out", out});
      for (const char* field :
           {"environment", "trace", "method", "options", "device", "dtype", "parameters", "steps"}) {
        EXPECT_TRUE(report.contains(field)) << field;
      }
      EXPECT_EQ(report.at("parameters"), 1027);
      EXPECT_EQ(report.at("steps"), 60);
      EXPECT_FALSE(report.contains("comparison"));

      const st::File written = st::File::open(out);
      EXPECT_EQ(written.entries().size(), 1 + state_names(make_method(method)).size());
      for (const st::Entry& entry : written.entries()) {
        EXPECT_EQ(st::type_name(entry.type), type == "f32" ? "F32" : "F64");
        EXPECT_EQ(entry.shape, std::vector<std::int64_t>{1027});
      }
      for (const std::string& state : state_names(make_method(method)))
        EXPECT_NE(written.find(state), nullptr) << state;

      report = run_for_json(words + Words{"--expect", out, "--tolerance", "0"});
      EXPECT_EQ(report.at("comparison").at("passed"), true);
      EXPECT_EQ(report.at("expected"), out);
      ASSERT_FALSE(report.at("comparison").at("figures").empty());
      for (const Json& figure : report.at("comparison").at("figures")) {
        for (const char* field : {"tensor", "figure", "value", "allowed", "passed"})
          EXPECT_TRUE(figure.contains(field));
        EXPECT_EQ(figure.at("value"), 0.0) << figure;
      }
    }
  }
  // A float32 result is not a float64 one, nor another method's.
  EXPECT_EQ(
      run({"replay", kTrace, "--method", "adam", "--dtype", "f64", "--expect", file("adamf32"), "--tolerance", "0"})
          .exit_code,
      1);
  EXPECT_EQ(run({"replay", kTrace, "--method", "adam", "--expect", file("adamwf32")}).exit_code, 1);
}

TEST_F(CommandLine, ReplayWritesTheSameBytesWhateverTheThreadsAndTheSimdLevel) {
  const Words words{"replay", kTrace, "--method", "adam", "--device", "cpu"};
  run_well(words + Words{"--out", file("best")});
  for (const SimdLevel level : simd_levels()) {
    run_well(words + Words{"--out", file("other"), "--simd", std::string(name(level)), "--threads", "3"});
    EXPECT_EQ(contents(file("best")), contents(file("other"))) << name(level);
  }
}

TEST_F(CommandLine, ReplayOfNoStepsOrNoParametersLeavesThemAsTheyAre) {
  for (const auto& [count, steps] : {std::pair<std::int64_t, std::int64_t>{3, 0}, {0, 4}, {0, 0}}) {
    const std::string trace = save_trace(count, steps);
    for (const std::string& method : method_names()) {
      for (const std::string type : {"f32", "f64"}) {
        const Words words{"replay", trace, "--method", method, "--dtype", type};
        const Json report = run_for_json(words + Words{"--out", file("out")});
        EXPECT_EQ(report.at("parameters"), count);
        EXPECT_EQ(report.at("steps"), steps);
        run_well(words + Words{"--expect", file("out"), "--tolerance", "0"});
        if (type == "f32") {
          EXPECT_EQ(st::File::open(file("out")).read<float>("param"),
                    std::vector<float>(static_cast<std::size_t>(count), 0.5F));
        }
      }
    }
  }
}

TEST_F(CommandLine, ReplayOfOneParameterAndOneStepIsTheMethodsFirstStep) {
  const std::string trace = save_trace(1, 1);
  run_well({"replay", trace, "--method", "gradient_descent", "--option", "learning_rate=0.25", "--out", file("out")});
  EXPECT_EQ(st::File::open(file("out")).read<float>("param"), std::vector<float>{0.25F});
  run_well({"replay", trace, "--method", "momentum", "--option", "learning_rate=0.25", "--out", file("out")});
  EXPECT_EQ(st::File::open(file("out")).read<float>("momentum_buffer"), std::vector<float>{1.0F});
}

TEST_F(CommandLine, ReplayFindsItsTraceBehindAnOptionToo) {
  const Words words{"replay", "--method", "adam", "--option", "amsgrad=true"};
  EXPECT_EQ(run_for_json(words + Words{"beta1=0.5", kTrace}).at("trace"), kTrace);
  expect_refused(words, {"trace"});
}

TEST_F(CommandLine, ReplayReplacesAnOlderResult) {
  save("out", "older");
  run_well({"replay", kTrace, "--method", "adam", "--out", file("out")});
  EXPECT_EQ(st::File::open(file("out")).entries().size(), 3U);
}

// --- On a device

class CommandLineOnADevice : public CommandLine {
 protected:
  void SetUp() override { ADAMANT_NEEDS_DEVICE(); }
};

TEST_F(CommandLineOnADevice, IsTheDefaultAndSaysWhereItRan) {
  const std::string what = run_for_json({"info"}).at("devices")[1].at("what");
  EXPECT_NE(what.find("compute capability"), std::string::npos);
  for (const Words& words : {Words{"compare", "--count", "1", "--steps", "1"},
                             Words{"replay", kTrace, "--method", "adam"}, Words{"descend"}}) {
    for (const Words& more : {Words{}, Words{"--device", "auto"}, Words{"--device", "cuda"}}) {
      const Json device = run_for_json(words + more).at("device");
      EXPECT_EQ(device.at("name"), "cuda:0") << device;
      EXPECT_EQ(device.at("what"), what) << device;
      EXPECT_NE(run_well(words + more).find("cuda:0: " + what), std::string::npos);
    }
    EXPECT_EQ(run_for_json(words + Words{"--device", "cpu"}).at("device").at("name"), "cpu");
  }
}

TEST_F(CommandLineOnADevice, CompareHoldsEveryMethodAgainstEveryInstructionSet) {
  for (const std::string type : {"f32", "f64"}) {
    const Json report =
        run_for_json({"compare", "--device", "cuda", "--count", "5001", "--steps", "3", "--dtype", type});
    EXPECT_EQ(report.at("passed"), true);
    EXPECT_GE(report.at("rows").size(), method_names().size() * (simd_levels().size() + 1));
    for (const Json& row : report.at("rows")) {
      EXPECT_EQ(row.at("mismatching_values"), 0) << row;
      EXPECT_EQ(row.at("left") == "cuda:0", row.at("right") != "reference") << row;
    }
  }
}

TEST_F(CommandLineOnADevice, CompareHoldsEveryStorageAgainstEveryInstructionSet) {
  const Words words{"compare",   "--device", "cuda",     "--count", "4099",        "--steps", "4",
                    "--storage", "all",      "--method", "adam",    "--clip-norm", "1",       "--loss-scale"};
  const Json report = run_for_json(words, {.seconds = 400});  // an emulator takes most of a minute on an idle machine
  expect_all_storages(report);
  EXPECT_EQ(report.at("rows")[0].at("left"), "cuda:0");
}

TEST_F(CommandLineOnADevice, CompareTakesALargeTensorPieceByPiece) {
  const Json report = run_for_json({"compare", "--device", "cuda:0", "--count", std::to_string(kPieceAndABit),
                                    "--steps", "2", "--method", "gradient_descent"});
  EXPECT_EQ(report.at("passed"), true);
  EXPECT_EQ(report.at("rows")[0].at("left"), "cuda:0");
}

TEST_F(CommandLineOnADevice, CompareSaysHowMuchOfItsMemoryATooLargeCountNeeds) {
  expect_refused({"compare", "--device", "cuda", "--method", "adam", "--count", "1000000000000"},
                 {"1000000000000", "needs 14901.2 GiB of cuda:0", "are free"});
}

TEST_F(CommandLineOnADevice, ReplayWritesTheBytesThatItWritesOnTheCpu) {
  for (const std::string type : {"f32", "f64"}) {
    for (const std::string& method : method_names()) {
      const Words words{"replay", kTrace, "--method", method, "--dtype", type};
      run_well(words + Words{"--device", "cpu", "--out", file("cpu")});
      run_well(words + Words{"--device", "cuda", "--out", file("cuda")});
      EXPECT_EQ(contents(file("cpu")), contents(file("cuda"))) << method << ' ' << type;
    }
  }
}

// --- Bad usage

TEST_F(CommandLine, RefusesWhatIsNoSubcommandOrNoOptionOfOne) {
  expect_refused({}, {"subcommand"});
  expect_refused({"nonsense"}, {"nonsense", "info, descend, bench, compare, replay"});
  expect_refused({"--nonsense"}, {"nonsense"});
  expect_refused({""}, {"subcommand"});
  for (const std::string subcommand : {"info", "descend"}) {
    expect_refused({subcommand, "--nonsense"}, {"--nonsense"});
    expect_refused({subcommand, "nonsense"}, {"nonsense"});
  }
  for (const std::string subcommand : {"bench", "compare"}) {
    expect_refused({subcommand, "--nonsense"}, {"--nonsense"});
    expect_refused({subcommand, "nonsense"}, {"nonsense"});
    expect_refused({subcommand, "--method"}, {"--method"});
  }
  if (!kHasBench) expect_refused({"bench"}, {"built without the benchmark", "-DADAMANT_BENCH=ON"});
  expect_refused({"bench", "compare"}, {"compare"});
  expect_refused({"replay", "--method", "adam"}, {"trace"});
  expect_refused({"replay", kTrace}, {"--method"});
  expect_refused({"replay", kTrace, kTrace, "--method", "adam"}, {kTrace});
  expect_replay_refused({"--nonsense"}, {"--nonsense"});
  expect_replay_refused({"--method", "adam"}, {"--method"});
}

TEST_F(CommandLine, RefusesUnknownNamesAndListsTheOnesThereAre) {
  for (const std::string method : {"adma", "", "Adam", "adam "}) {
    expect_refused({"replay", kTrace, "--method", method}, {'"' + method + '"', "gradient_descent", "adamw"});
    expect_refused({"compare", "--method", method}, {'"' + method + '"', "gradient_descent", "adamw"});
    expect_bench_refused({"--method", method}, {'"' + method + '"', "gradient_descent", "adamw"});
  }
  expect_refused({"replay", kTrace, "--method", "all"}, {"\"all\"", "gradient_descent"});
  for (const std::string device : {"gpu", "cuda:", "cuda:-1", "cuda:1x", "cuda:99999999999", "CPU"}) {
    expect_replay_refused({"--device", device}, {device, "cpu, cuda, cuda:N and auto"});
    expect_refused({"compare", "--count", "1", "--device", device}, {device});
    expect_bench_refused({"--sizes", "1", "--device", device}, {device});
  }
  expect_replay_refused({"--device", ""}, {"--device", "empty"});
  expect_replay_refused({"--simd", "sse"}, {"\"sse\"", "baseline, avx2 and avx512"});
  expect_replay_refused({"--simd", ""}, {"--simd", "empty"});
  for (const std::string type : {"f16", "float", "", "F32"}) {
    expect_replay_refused({"--dtype", type}, {"--dtype", type, "f32", "f64"});
  }
}

TEST_F(CommandLine, SaysWhatIsMissingForADeviceThatIsNotThere) {
  expect_replay_refused({"--device", "cuda:63"}, {"cuda:63"});
  expect_refused({"compare", "--count", "1", "--device", "cuda:63"}, {"cuda:63"});
  expect_bench_refused({"--sizes", "1", "--device", "cuda:63"}, {"cuda:63"});
}

TEST_F(CommandLine, RefusesOptionsThatTheMethodDoesNotHaveOrThatAreGivenWrongly) {
  expect_option_refused("adam", {"lr=1"}, {"\"lr\"", "learning_rate"});
  expect_option_refused("adam", {"momentum=0.9"}, {"momentum", "beta1"});
  expect_option_refused("gradient_descent", {"nesterov=true"}, {"nesterov"});
  expect_option_refused("adam", {"learning_rate"}, {"learning_rate", "name=value"});
  expect_option_refused("adam", {"=1"}, {"=1", "name=value"});
  expect_option_refused("adam", {"="}, {"name=value"});
  expect_option_refused("adam", {"beta1=0.5", "beta1=0.5"}, {"beta1", "twice"});
  expect_option_refused("momentum", {"nesterov=true", "momentum=0"}, {"nesterov"});
  expect_option_refused("momentum", {"nesterov=true", "dampening=0.1"}, {"nesterov"});
  expect_refused({"compare", "--option", "beta1=0.5"}, {"--option", "--method"});
  expect_bench_refused({"--option", "beta1=0.5"}, {"--option", "--method"});
}

TEST_F(CommandLine, RefusesOptionsThatAreNoNumberOrOutOfRange) {
  for (const std::string value : {"nan", "-nan", "-1", "-1e-300", "inf", "-inf", "1e999", "1e+39", "", " ", "0,1", "1x",
                                  "0x", "0x1g", "true", "+1", " 1"}) {
    expect_option_refused("adam", {"learning_rate=" + value}, {"learning_rate", value, "allowed"});
  }
  for (const std::string value : {"1", "1.0", "2", "-0.1", "nan", "1e999", ""}) {
    expect_option_refused("adam", {"beta1=" + value}, {"beta1", "0 <= beta1 < 1"});
    expect_option_refused("adamw", {"beta2=" + value}, {"beta2", "0 <= beta2 < 1"});
    expect_option_refused("rmsprop", {"decay=" + value}, {"decay", "0 <= decay < 1"});
    expect_option_refused("momentum", {"momentum=" + value}, {"momentum", "0 <= momentum < 1"});
  }
  for (const std::string value : {"1.5", "-0.5", "nan"})
    expect_option_refused("momentum", {"dampening=" + value}, {"dampening"});
  for (const std::string value : {"1", "0", "True", "yes", ""}) {
    expect_option_refused("adam", {"amsgrad=" + value}, {"amsgrad", "true or false"});
  }
  expect_option_refused("rmsprop", {"epsilon_placement=inside"}, {"inside_root or outside_root"});
}

TEST_F(CommandLine, RefusesSizesAndCountsThatAreNoWholeNumberInRange) {
  for (const std::string value : {"-1", "nan", "1.5", "1e3", "", " 1", "99999999999999999999", "0x10", "x"}) {
    for (const Words& words : {Words{"compare", "--count"}, Words{"compare", "--steps"}, Words{"compare", "--seed"},
                               Words{"compare", "--threads"}}) {
      expect_refused(words + Words{value}, {words.back(), '"' + value + '"', "whole number from"});
    }
    for (const std::string option : {"--sizes", "--repetitions", "--threads"}) {
      expect_bench_refused({option, value}, {option, '"' + value + '"', "whole number from"});
    }
  }
  expect_refused({"compare", "--steps", "0"}, {"--steps", "\"0\""});
  expect_bench_refused({"--sizes", "16,0"}, {"--sizes", "\"0\""});
  expect_bench_refused({"--sizes", "16,x"}, {"--sizes", "\"x\""});
  expect_bench_refused({"--repetitions", "0"}, {"--repetitions", "\"0\""});
  expect_replay_refused({"--threads", "1000000"}, {"--threads", "1000000"});
  for (const std::string value : {"-1", "nan", "inf", "1e999", "", "x"}) {
    expect_replay_refused({"--expect", kTrace, "--tolerance", value}, {"--tolerance", '"' + value + '"'});
  }
}

TEST_F(CommandLine, CompareSaysHowMuchMemoryATooLargeCountNeeds) {
  expect_refused({"compare", "--method", "adam", "--count", "1000000000000"}, {"1000000000000", "needs", "GiB"});
}

// --- Bad files

TEST_F(CommandLine, RefusesATraceThatIsNoFileOrEmpty) {
  expect_refused({"replay", "", "--method", "adam"}, {"trace", "empty"});
  expect_refused({"replay", file("missing"), "--method", "adam"}, {file("missing"), "No such file"});
  expect_refused({"replay", file("missing/deeper"), "--method", "adam"}, {file("missing/deeper")});
  fs::create_directory(file("folder"));
  expect_refused({"replay", file("folder"), "--method", "adam"}, {file("folder"), "directory"});
  expect_refused({"replay", "/dev/zero", "--method", "adam"}, {"/dev/zero", "device"});
  ASSERT_EQ(::mkfifo(file("pipe").c_str(), 0600), 0);
  expect_refused({"replay", file("pipe"), "--method", "adam"}, {file("pipe")});
  expect_trace_refused("", {});
}

TEST_F(CommandLine, RefusesATraceThatIsCutOffAnywhere) {
  const std::string whole = contents(save_trace(3, 2));
  for (const std::size_t length : {std::size_t{1}, std::size_t{7}, std::size_t{8}, std::size_t{9}, std::size_t{40},
                                   whole.size() / 2, whole.size() - 5, whole.size() - 1}) {
    ASSERT_LT(length, whole.size());
    expect_trace_refused(whole.substr(0, length), {});
  }
  expect_trace_refused(whole + '\0', {});
}

TEST_F(CommandLine, RefusesATraceWithALyingHeader) {
  const auto bytes_of = [](std::uint64_t length, const std::string& header, std::size_t data) {
    std::string bytes(8, '\0');
    std::memcpy(bytes.data(), &length, 8);
    return bytes + header + std::string(data, '\0');
  };
  const auto header = [](const std::string& shape, const std::string& offsets) {
    return R"({"param":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"grad":{"dtype":"F32","shape":)" + shape +
           R"(,"data_offsets":)" + offsets + "}}";
  };
  const std::string right = header("[1,2]", "[8,16]");
  save("right", bytes_of(right.size(), right, 16));
  run_well({"replay", file("right"), "--method", "adam"});

  expect_trace_refused(bytes_of(~std::uint64_t{0}, right, 16), {});
  expect_trace_refused(bytes_of(std::uint64_t{1} << 40, right, 16), {});
  expect_trace_refused(bytes_of(right.size() + 17, right, 16), {});
  expect_trace_refused(bytes_of(right.size() - 1, right, 16), {});
  expect_trace_refused(bytes_of(4, "null", 16), {});
  for (const std::string& lie :
       {header("[1,2]", "[8,24]"), header("[1,2]", "[0,8]"), header("[1,2]", "[16,8]"), header("[1,2]", "[8,-1]"),
        header("[2,2]", "[8,16]"), header("[4611686018427387904,2]", "[8,16]"), header("[-1,2]", "[8,16]"),
        header("[1.0,2]", "[8,16]"), header("\"12\"", "[8,16]")}) {
    expect_trace_refused(bytes_of(lie.size(), lie, 16), {"grad"});
  }
  expect_trace_refused(bytes_of(200000, std::string(200000, '['), 0), {});
}

TEST_F(CommandLine, RefusesATraceWithMissingOrWronglyShapedTensors) {
  const auto refused = [&](const std::vector<Tensor>& tensors, const Words& parts) {
    const std::string trace = save_tensors("bad.safetensors", tensors);
    expect_refused({"replay", trace, "--method", "adam", "--out", file("out")}, Words{trace} + parts);
  };
  constexpr st::Type kF32 = st::Type::F32;
  refused({{"grad", kF32, {2, 3}}}, {"'param'", "grad"});
  refused({{"param", kF32, {3}}}, {"'grad'", "param"});
  refused({}, {"'param'"});
  refused({{"param", kF32, {3, 1}}, {"grad", kF32, {2, 3}}}, {"param", "[3, 1]", "[n]"});
  refused({{"param", kF32, {}}, {"grad", kF32, {2, 1}}}, {"param", "[]", "[n]"});
  refused({{"param", kF32, {3}}, {"grad", kF32, {2, 4}}}, {"grad", "[2, 4]", "[steps, 3]"});
  refused({{"param", kF32, {3}}, {"grad", kF32, {6}}}, {"grad", "[6]", "[steps, 3]"});
  refused({{"param", kF32, {3}}, {"grad", kF32, {2, 3, 1}}}, {"grad", "[2, 3, 1]"});
  refused({{"param", kF32, {3}}, {"grad", kF32, {0, 4}}}, {"grad", "[0, 4]"});
  for (const st::Type type : {st::Type::F16, st::Type::BF16, st::Type::I32, st::Type::I64, st::Type::BOOL}) {
    refused({{"param", type, {3}}, {"grad", kF32, {2, 3}}}, {"param", std::string(st::type_name(type)), "F32 or F64"});
    refused({{"param", kF32, {3}}, {"grad", type, {2, 3}}}, {"grad", std::string(st::type_name(type)), "F32 or F64"});
  }
}

TEST_F(CommandLine, TakesATraceInFloat64) {
  const std::string trace = save_tensors(
      "trace", {{"param", st::Type::F64, {3}}, {"grad", st::Type::F32, {2, 3}}, {"more", st::Type::I8, {1}}});
  run_well({"replay", trace, "--method", "adam", "--dtype", "f64"});
}

TEST_F(CommandLine, RefusesAnExpectedFileThatCannotBeComparedWith) {
  const std::string trace = save_trace(3, 2);
  const auto refused = [&](const std::vector<Tensor>& tensors, const Words& parts) {
    const std::string expected = save_tensors("expected", tensors);
    expect_refused({"replay", trace, "--method", "adam", "--expect", expected, "--out", file("out")},
                   Words{expected} + parts);
  };
  constexpr st::Type kF64 = st::Type::F64;
  refused({{"exp_avg", kF64, {3}}}, {"'param'"});
  refused({{"param", kF64, {4}}}, {"param", "[4]", "[3]"});
  refused({{"param", kF64, {}}}, {"param", "[]", "[3]"});
  refused({{"param", st::Type::I32, {3}}}, {"param", "I32", "F32 or F64"});
  refused({{"param", kF64, {3}}, {"exp_avg", kF64, {2}}}, {"exp_avg", "[2]", "[3]"});
  refused({{"param", kF64, {3}}, {"param_f32", kF64, {2}}, {"param_path_max", kF64, {3}}}, {"param_f32", "[2]"});
  refused({{"param", kF64, {3}}, {"param_f32", kF64, {3}}, {"param_path_max", kF64, {2}}}, {"param_path_max", "[2]"});

  expect_refused({"replay", trace, "--method", "adam", "--expect", file("missing"), "--out", file("out")},
                 {file("missing")});
  save("broken", "{}");
  expect_refused({"replay", trace, "--method", "adam", "--expect", file("broken")}, {file("broken")});
  expect_refused({"replay", trace, "--method", "adam", "--expect", ""}, {"--expect", "empty"});
}

// Three elements of a float64 run, of PyTorch's float32 run, and of the largest value on the way.
TEST_F(CommandLine, RefusesAYardstickThatCannotTellAnything) {
  const std::string trace = save_trace(3, 2);
  using Values = std::vector<double>;
  const auto yardstick = [&](const Values& exact, const Values& pytorch, const Values& scale) {
    st::write(file("yardstick"),
              std::vector<st::Entry>{{"param", st::Type::F64, {3}, std::as_bytes(std::span(exact))},
                                     {"param_f32", st::Type::F64, {3}, std::as_bytes(std::span(pytorch))},
                                     {"param_path_max", st::Type::F64, {3}, std::as_bytes(std::span(scale))}});
    return Words{"replay", trace, "--method", "adam", "--expect", file("yardstick")};
  };
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const double infinity = std::numeric_limits<double>::infinity();
  const Values ordinary{0.498, 0.498, 0.498};
  EXPECT_EQ(run(yardstick(ordinary, {0.5, 0.5, 0.5}, ordinary)).exit_code, 0);
  for (const double bad : {nan, infinity, -infinity, 0.1}) {
    expect_refused(yardstick(ordinary, ordinary, {0.498, bad, 0.498}), {file("yardstick"), "param_path_max[1]"});
  }
  for (const double bad : {nan, infinity}) {
    expect_refused(yardstick({bad, bad, bad}, ordinary, ordinary), {file("yardstick"), "not finite anywhere"});
    expect_refused(yardstick(ordinary, {bad, bad, bad}, ordinary), {file("yardstick"), "not finite anywhere"});
    // Where only some elements of the float64 run are not finite, ours should not be either.
    const Words words = yardstick({0.498, bad, 0.498}, {0.5, 0.5, 0.5}, ordinary);
    const Outcome outcome = run(words);
    EXPECT_EQ(outcome.exit_code, 1) << to_text(words, outcome);
    EXPECT_NE(outcome.out.find("finite and should be NaN"), std::string::npos) << outcome.out;
  }
}

TEST_F(CommandLine, AComparisonWithStatesThatTheMethodDoesNotHaveFails) {
  const std::string trace = save_trace(3, 2);
  run_well({"replay", trace, "--method", "adam", "--out", file("adam")});
  const Words words{"replay", trace, "--method", "rmsprop", "--expect", file("adam"), "--tolerance", "1e30", "--json"};
  const Outcome outcome = run(words);
  EXPECT_EQ(outcome.exit_code, 1) << to_text(words, outcome);
  EXPECT_EQ(outcome.err, "") << to_text(words, outcome);
  std::vector<std::string> failed;
  const Json report = Json::parse(outcome.out);
  for (const Json& figure : report.at("comparison").at("figures")) {
    if (figure.at("passed") == false) failed.push_back(figure.at("tensor"));
  }
  EXPECT_EQ(failed, (std::vector<std::string>{"exp_avg", "exp_avg_sq"}));
}

// A copy of a safetensors file in which element 1 of a tensor is another number.
std::string with(const std::string& path, const std::string& tensor, float number) {
  const st::File file = st::File::open(path);
  std::vector<float> values = file.read<float>(tensor);
  values[1] = number;
  std::vector<st::Entry> entries(file.entries().begin(), file.entries().end());
  for (st::Entry& entry : entries) {
    if (entry.name == tensor) entry.data = std::as_bytes(std::span(values));
  }
  st::write(path + ".other", entries);
  return path + ".other";
}

TEST_F(CommandLine, AReplayFailsWhereOneSideIsNaNAndTheOtherIsNot) {
  constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
  const std::string trace = save_trace(3, 2);
  run_well({"replay", trace, "--method", "adam", "--out", file("adam")});
  const auto replay = [&](const std::string& from, const std::string& expected) {
    return run({"replay", from, "--method", "adam", "--expect", expected, "--tolerance", "1e30"}).exit_code;
  };
  for (const std::string tensor : {"param", "exp_avg", "exp_avg_sq"}) {
    EXPECT_EQ(replay(trace, with(file("adam"), tensor, kNaN)), 1) << tensor;
  }
  // The other way round: the gradients have a NaN, what is expected has none.
  const std::string bad = with(trace, "grad", kNaN);
  EXPECT_EQ(replay(bad, file("adam")), 1);
  run_well({"replay", bad, "--method", "adam", "--out", file("nan")});
  EXPECT_EQ(replay(bad, file("nan")), 0);
  EXPECT_EQ(replay(bad, with(file("nan"), "param", 0.5F)), 1);
  EXPECT_EQ(replay(bad, with(file("nan"), "exp_avg", 0.5F)), 1);
}

TEST(Compare, FailsWhereOneSideIsNaNAndTheOtherIsNot) {
  constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
  const reference::Textbook<double> textbook("momentum", {});
  const double before[1] = {1};
  reference::Result<double> exact = textbook.step(1, before, 0.5, 2);
  const auto part = [&](float parameter, float state) {
    return tools::part_of_bound<float>(parameter, std::span<const float>(&state, 1), textbook, exact,
                                       measure::ulp(DataType::float32, exact.parameter));
  };
  const auto parameter = static_cast<float>(exact.parameter);
  const auto state = static_cast<float>(exact.state[0]);
  EXPECT_LE(part(parameter, state), 1);
  EXPECT_GT(part(parameter + 1e-3F, state), 1);
  EXPECT_GT(part(parameter, state + 1e-3F), 1);
  EXPECT_GT(part(kNaN, state), 1);
  EXPECT_GT(part(parameter, kNaN), 1);
  exact.parameter = kNaN;
  EXPECT_GT(part(parameter, state), 1);
  EXPECT_LE(part(kNaN, state), 1);
  exact.state[0] = kNaN;
  EXPECT_GT(part(kNaN, state), 1);
  EXPECT_LE(part(kNaN, kNaN), 1);
}

TEST_F(CommandLine, RefusesOutputsThatCannotBeWritten) {
  expect_replay_refused({"--out", ""}, {"--out", "empty"});
  expect_replay_refused({"--out", file("missing/out")}, {"--out", file("missing/out"), "no folder"});
  expect_replay_refused({"--out", file("")}, {"--out", "folder"});
  fs::create_symlink("/dev/full", file("device"));  // so that a broken check costs the link and not the device
  expect_replay_refused({"--out", file("device")}, {file("device"), "not a regular file"});
  expect_replay_refused({"--out", "/proc/adamant"}, {"/proc/adamant"});
  std::vector<Words> reporting{{"replay", kTrace, "--method", "adam"}, {"compare", "--count", "1"}};
  if (kHasBench) reporting.push_back({"bench", "--sizes", "1"});
  for (const Words& words : reporting) {
    expect_refused(words + Words{"--json-file", ""}, {"--json-file", "empty"});
    expect_refused(words + Words{"--json-file", file("missing/out")},
                   {"--json-file", file("missing/out"), "no folder"});
    expect_refused(words + Words{"--json-file", file("")}, {"--json-file", "folder"});
  }
  // As root everything may be written.
  if (::geteuid() != 0) {
    fs::create_directory(file("folder"));
    fs::permissions(file("folder"), fs::perms::owner_read | fs::perms::owner_exec);
    expect_replay_refused({"--out", file("folder/out")}, {"--out", file("folder/out"), "denied"});
    expect_replay_refused({"--json-file", file("folder/out")}, {"--json-file", file("folder/out"), "denied"});
    fs::permissions(file("folder"), fs::perms::owner_all);
  }
}

TEST_F(CommandLine, WritesAReportWholeOrNotAtAll) {
  std::ofstream(file("report.json")) << "the former one";
  fs::create_hard_link(file("report.json"), file("former"));
  run_well({"info", "--json-file", file("report.json")});
  EXPECT_TRUE(Json::accept(contents(file("report.json"))));
  EXPECT_EQ(contents(file("former")), "the former one") << "written over in its place";
}

// As /dev/stdout is one, of the file that standard output goes to.
TEST_F(CommandLine, WritesAReportThroughALink) {
  std::ofstream(file("report.json")) << "the former one";
  fs::create_symlink("report.json", file("link"));
  run_well({"info", "--json-file", file("link")});
  EXPECT_TRUE(fs::is_symlink(file("link")));
  EXPECT_TRUE(Json::accept(contents(file("report.json"))));
}

TEST_F(CommandLine, SaysWhenTheDeviceIsFull) {
  const Words words{"replay", kTrace, "--method", "adam"};
  for (const Words& full :
       {words + Words{"--json", "--json-file", "/dev/full"}, words + Words{"--json-file", "/dev/full"}}) {
    const Outcome outcome = run(full);
    EXPECT_EQ(outcome.exit_code, 2) << to_text(full, outcome);
    EXPECT_NE(outcome.err.find("/dev/full: No space left"), std::string::npos) << to_text(full, outcome);
  }
  expect_refused(words, {"No space left"}, {.standard_output = "/dev/full"});
  expect_refused(words + Words{"--json"}, {"No space left"}, {.standard_output = "/dev/full"});
  // A report of hours is in its file all the same; this one is longer than what standard output keeps back.
  const Words both{"descend", "--json", "--json-file", file("report.json")};
  EXPECT_EQ(run(both, {.standard_output = "/dev/full"}).exit_code, 2);
  const std::string report = contents(file("report.json"));
  EXPECT_GT(report.size(), std::size_t{BUFSIZ});
  EXPECT_TRUE(Json::parse(report).contains("runs"));
}

// Every row is sent on as it comes, and what failed then is not there any more at the end.
TEST_F(CommandLine, SaysWhenTheTableOfTheBenchmarkIsLost) {
  ADAMANT_NEEDS_BENCH();
  const Words words{"bench", "--device",      "cpu", "--method",  "momentum", "--sizes",     "16,17",
                    "--hot", "--repetitions", "1",   "--threads", "1",        "--json-file", file("bench.json")};
  const Outcome outcome = run(words, {.standard_output = "/dev/full"});
  EXPECT_EQ(outcome.exit_code, 2) << to_text(words, outcome);
  EXPECT_EQ(outcome.err, "adamant: cannot write the result: No space left on device\n");
  EXPECT_EQ(Json::parse(contents(file("bench.json"))).at("results").size(), 2U);
}

TEST_F(CommandLine, SaysWhenHelpAndVersionAreLost) {
  for (const std::string word : {"--help", "--version"}) {
    expect_refused({word}, {"No space left"}, {.standard_output = "/dev/full"});
  }
}

TEST_F(CommandLine, RefusesTwoOutputsInOneFileWhateverItsSpelling) {
  const test::RunLimits here{.folder = fs::path(file("x")).parent_path()};
  fs::create_directory(file("folder"));
  fs::create_directory_symlink("folder", file("link"));
  const std::vector<std::pair<std::string, std::string>> spellings{
      {"./x", "x"}, {"x", file("x")}, {"folder/../x", "x"}, {"link/x", "folder/x"}};
  for (const auto& [one, other] : spellings) {
    if (kHasBench) {
      expect_refused({"bench", "--quick", "--method", "momentum", "--html", one, "--json-file", other},
                     {"--html " + one, "one of its own"}, here);
    }
    expect_refused({"replay", kTrace, "--method", "adam", "--out", one, "--json-file", other},
                   {"--out " + one, "one of its own"}, here);
  }
  expect_refused({"descend", "--out", ".", "--json-file", "descend.csv"}, {"--json-file descend.csv", "one of its own"},
                 here);
}

TEST(Progress, IsOneLineOfATerminalHoweverNarrow) {
  const int terminal = ::posix_openpt(O_RDWR | O_NOCTTY);
  ASSERT_GE(terminal, 0);
  ASSERT_EQ(::grantpt(terminal), 0);
  ASSERT_EQ(::unlockpt(terminal), 0);
  const int line = ::open(::ptsname(terminal), O_RDWR | O_NOCTTY);
  ASSERT_GE(line, 0);
  const winsize size{.ws_row = 24, .ws_col = 40, .ws_xpixel = 0, .ws_ypixel = 0};
  ASSERT_EQ(::ioctl(line, TIOCSWINSZ, &size), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    ::dup2(line, STDERR_FILENO);
    tools::Progress progress("bench");
    std::this_thread::sleep_for(std::chrono::milliseconds(2100));  // it is quiet for two seconds
    progress.at(0.5, "adam at 67108864, clip of bfloat16/bfloat16/float32/remainder");
    ::_exit(0);
  }
  int status = -1;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  std::string shown(1000, '\0');
  const ssize_t read = ::read(terminal, shown.data(), shown.size());
  shown.resize(static_cast<std::size_t>(std::max<ssize_t>(read, 0)));
  EXPECT_EQ(shown, "\r\x1b[Kbench:  50 %, adam at 67108864, clip of");
  ::close(line);
  ::close(terminal);
}

// But for bench, which writes what it has.
TEST_F(CommandLine, IsEndedByTheSignalThatInterruptsIt) {
  const std::string path = file("fifo");
  ASSERT_EQ(::mkfifo(path.c_str(), 0600), 0);
  for (const int signal : {SIGINT, SIGTERM}) {
    // When the table is there it waits for somebody who reads the JSON.
    const Outcome outcome = run({"compare", "--count", "1", "--steps", "1", "--device", "cpu", "--json-file", path},
                                {.seconds = 20, .interrupt_at = "1 steps of", .interrupt_by = signal});
    EXPECT_EQ(outcome.signal, signal) << outcome.out << outcome.err;
  }
}

TEST_F(CommandLine, RefusesToWriteOverWhatItReads) {
  const std::string trace = save_trace(3, 2);
  run_well({"replay", trace, "--method", "adam", "--out", file("expected")});
  fs::create_symlink(trace, file("link"));
  fs::create_hard_link(trace, file("hard"));
  const Words words{"replay", trace, "--method", "adam", "--expect", file("expected")};
  for (const std::string& path : {trace, file("./trace.safetensors"), file("link"), file("hard"), file("expected")}) {
    for (const std::string option : {"--out", "--json-file"})
      expect_refused(words + Words{option, path}, {option, path});
  }
  expect_refused(words + Words{"--out", file("both"), "--json-file", file("both")}, {"--out", file("both")});
}

TEST_F(CommandLine, TakesPathsThatAreNotUtf8) {
  fs::copy_file(kTrace, file("trace\xff"));
  EXPECT_EQ(run_for_json({"replay", file("trace\xff"), "--method", "adam"}).at("steps"), 60);
}

}  // namespace
}  // namespace adamant
