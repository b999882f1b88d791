// PyTorch's own results, tests/golden, against ours: every case there is replayed in float32 and held to the yardstick,
// replayed in float64, and some through the program. The figures are computed here anew; that `adamant replay` computes
// the same is one of the tests.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include "device.hpp"
#include "host/reference.hpp"
#include "host/safetensors.hpp"
#include "inputs.hpp"
#include "program.hpp"
#include "tools/replay.hpp"

namespace adamant {
namespace {

namespace fs = std::filesystem;
namespace st = safetensors;
using test::contents;
using test::Outcome;
using test::run_program;
using Json = nlohmann::json;

// How far from float64 a float32 run may be, as multiples of how far PyTorch's own is.
constexpr double kRootMeanSquareRatio = 1.1;
constexpr double kPercentile99Ratio = 1.5;
constexpr double kStateTolerance = 1e-5;
constexpr double kFloat64Tolerance = 1e-12;
constexpr std::size_t kFewestCases = 18;

const fs::path kFolder = fs::path(ADAMANT_SOURCE_DIR) / "tests" / "golden";

using Options = std::map<std::string, std::string>;

// A method as our names have it.
struct Translation {
  std::string method;
  Options options;
};

std::string text_of(double value) {
  char text[64];
  std::snprintf(text, sizeof text, "%.17g", value);
  return text;
}

// One file TRACE.CASE.safetensors.
struct Case {
  std::string name;
  fs::path path;
  fs::path trace;
  std::string optimizer;
  Json arguments;
  std::int64_t steps;
};

// What torch.optim.OPTIMIZER(arguments) of PyTorch 1.13 is here. Arguments that are not there have PyTorch's defaults,
// all of which are given to our method, so that none of ours matters. An argument not known here throws.
Translation translated(const std::string& optimizer, const Json& arguments) {
  static const std::map<std::string, Json> kDefaults{
      {"SGD", {{"momentum", 0.0}, {"dampening", 0.0}, {"weight_decay", 0.0}, {"nesterov", false}, {"maximize", false}}},
      {"RMSprop",
       {{"lr", 1e-2},
        {"alpha", 0.99},
        {"eps", 1e-8},
        {"weight_decay", 0.0},
        {"momentum", 0.0},
        {"centered", false},
        {"maximize", false}}},
      {"Adam",
       {{"lr", 1e-3},
        {"betas", {0.9, 0.999}},
        {"eps", 1e-8},
        {"weight_decay", 0.0},
        {"amsgrad", false},
        {"maximize", false}}},
      {"AdamW",
       {{"lr", 1e-3},
        {"betas", {0.9, 0.999}},
        {"eps", 1e-8},
        {"weight_decay", 1e-2},
        {"amsgrad", false},
        {"maximize", false}}}};
  static const std::map<std::string, std::string> kNames{
      {"lr", "learning_rate"}, {"alpha", "decay"}, {"eps", "epsilon"}};
  Json all = kDefaults.at(optimizer);
  for (const auto& [name, value] : arguments.items()) {
    if (name != "lr" && !all.contains(name)) throw std::runtime_error(optimizer + " has an unknown argument " + name);
    all[name] = value;
  }

  Translation result;
  for (const auto& [name, value] : all.items()) {
    if (name == "betas") {
      result.options["beta1"] = text_of(value.at(0).get<double>());
      result.options["beta2"] = text_of(value.at(1).get<double>());
    } else {
      const auto other = kNames.find(name);
      result.options[other == kNames.end() ? name : other->second] =
          value.is_boolean() ? (value.get<bool>() ? "true" : "false") : text_of(value.get<double>());
    }
  }
  if (optimizer == "SGD") {
    const bool has_momentum = all.at("momentum").get<double>() != 0;
    result.method = has_momentum ? "momentum" : "gradient_descent";
    if (!has_momentum) {
      for (const char* name : {"momentum", "dampening", "nesterov"}) result.options.erase(name);
    }
  } else if (optimizer == "RMSprop") {
    result.method = "rmsprop";
    result.options["epsilon_placement"] = "outside_root";
  } else {
    result.method = optimizer == "Adam" ? "adam" : "adamw";
  }
  return result;
}

std::vector<Case> cases() {
  std::vector<Case> list;
  for (const fs::directory_entry& entry : fs::directory_iterator(kFolder)) {
    const std::string name = entry.path().filename().string();
    if (!name.ends_with(".safetensors") || name.ends_with(".trace.safetensors")) continue;
    const st::Metadata metadata = st::File::open(entry.path()).metadata();
    list.push_back({name.substr(0, name.rfind('.')), entry.path(), kFolder / metadata.at("trace"),
                    metadata.at("optimizer"), Json::parse(metadata.at("arguments")), std::stoll(metadata.at("steps"))});
  }
  std::sort(list.begin(), list.end(), [](const Case& a, const Case& b) { return a.name < b.name; });
  return list;
}

Method method_of(const Case& golden) {
  const Translation translation = translated(golden.optimizer, golden.arguments);
  return make_method(translation.method, translation.options);
}

std::vector<double> doubles(const st::File& file, const std::string& name) {
  if (file.at(name).type == st::Type::F64) return file.read<double>(name);
  const std::vector<float> values = file.read<float>(name);
  return {values.begin(), values.end()};
}

tools::Replayed replayed(const Case& golden, DataType type, const Tuning& tuning = {}, Device device = Device::cpu()) {
  const tools::Trace trace = tools::read_trace(golden.trace);
  EXPECT_EQ(trace.steps, golden.steps);
  return tools::replay(trace, method_of(golden), device, tuning, kernels::plain_storage(type),
                       [](std::int64_t, std::int64_t) {});
}

// Root mean square and 99th percentile of |got - exact|, in float32 ulps of `scale`.
struct Spread {
  double root_mean_square;
  double percentile_99;
};

Spread spread(const std::vector<double>& got, const std::vector<double>& exact, const std::vector<double>& scale) {
  std::vector<double> errors;
  double squares = 0;
  for (std::size_t i = 0; i < got.size(); ++i) {
    const auto at = static_cast<float>(scale[i]);
    const auto ulp = static_cast<double>(std::nextafter(at, std::numeric_limits<float>::infinity()) - at);
    errors.push_back(test::infinite_if_nan(std::fabs(got[i] - exact[i]) / ulp));
    squares += errors.back() * errors.back();
  }
  std::sort(errors.begin(), errors.end());
  const auto rank = static_cast<std::size_t>(std::ceil(0.99 * static_cast<double>(errors.size())));
  return {std::sqrt(squares / static_cast<double>(errors.size())), errors.at(rank - 1)};
}

// max |got - exact| / (the larger of |state| and the largest |gradient|, squared where the state is; where a state
// takes up more than gradients, its largest on the way counts too)
double state_error(const tools::Replayed& ours, const tools::Replayed& path, std::size_t slot,
                   const std::vector<double>& exact) {
  double largest = 0;
  for (std::size_t i = 0; i < exact.size(); ++i) {
    const double error = std::fabs(ours.states[slot].values[i] - exact[i]);
    const double g = ours.largest_gradient[i];
    const double scale = std::max({std::fabs(exact[i]),
                                   ours.states[slot].takes_up_more_than_gradients ? path.states[slot].largest[i] : 0.0,
                                   reference::is_squared(ours.states[slot].name) ? g * g : g});
    if (error != 0) largest = std::max(largest, test::infinite_if_nan(error / scale));
  }
  return largest;
}

std::vector<std::string> state_names_in(const st::File& file) {
  std::vector<std::string> names;
  for (const st::Entry& entry : file.entries()) {
    if (!entry.name.starts_with("param")) names.push_back(entry.name);
  }
  std::sort(names.begin(), names.end());
  return names;
}

std::vector<std::string> replay_words(const Case& golden, const Translation& translation) {
  std::vector<std::string> words{ADAMANT_PROGRAM, "replay", golden.trace.string(), "--method", translation.method};
  for (const auto& [name, value] : translation.options) {
    words.emplace_back("--option");
    words.push_back(name + "=" + value);
  }
  words.insert(words.end(), {"--expect", golden.path.string(), "--json"});
  return words;
}

TEST(PyTorchResults, AreAllThere) { EXPECT_GE(cases().size(), kFewestCases) << kFolder; }

TEST(PyTorchResults, CoverEveryOptionOfEveryMethodWithAValueOtherThanItsDefault) {
  std::set<std::string> uncovered;
  for (const std::string& method : method_names()) {
    for (const Option& option : options(make_method(method))) uncovered.insert(method + " " + option.name);
  }
  for (const Case& golden : cases()) {
    const Method method = method_of(golden);
    const std::vector<Option> values = options(method);
    const std::vector<Option> defaults = options(make_method(name(method)));
    for (std::size_t i = 0; i < values.size(); ++i) {
      if (values[i].value != defaults[i].value) uncovered.erase(std::string(name(method)) + " " + values[i].name);
    }
  }
  EXPECT_EQ(uncovered, std::set<std::string>{});
}

TEST(PyTorchResults, AreMetInFloat32WithinTheYardstick) {
  std::printf("%-38s %-16s %10s %10s %7s   %10s %10s %7s\n", "case", "tensor", "rms", "PyTorch's", "ratio", "p99",
              "PyTorch's", "ratio");
  for (const Case& golden : cases()) {
    SCOPED_TRACE(golden.name);
    const st::File file = st::File::open(golden.path);
    const tools::Replayed ours = replayed(golden, DataType::float32);
    const tools::Replayed path = replayed(golden, DataType::float64);
    const std::vector<double> exact = doubles(file, "param");
    const std::vector<double> scale = doubles(file, "param_path_max");
    ASSERT_EQ(ours.parameter.size(), exact.size());
    const Spread mine = spread(ours.parameter, exact, scale);
    const Spread theirs = spread(doubles(file, "param_f32"), exact, scale);
    const double rms_ratio = mine.root_mean_square / theirs.root_mean_square;
    const double p99_ratio = mine.percentile_99 / theirs.percentile_99;
    std::printf("%-38s %-16s %10.4f %10.4f %7.3f   %10.4f %10.4f %7.3f\n", golden.name.c_str(), "param",
                mine.root_mean_square, theirs.root_mean_square, rms_ratio, mine.percentile_99, theirs.percentile_99,
                p99_ratio);
    EXPECT_LE(rms_ratio, kRootMeanSquareRatio);
    EXPECT_LE(p99_ratio, kPercentile99Ratio);

    std::vector<std::string> names = state_names(method_of(golden));
    std::sort(names.begin(), names.end());
    EXPECT_EQ(names, state_names_in(file));
    for (std::size_t slot = 0; slot < ours.states.size(); ++slot) {
      const double error = state_error(ours, path, slot, doubles(file, ours.states[slot].name));
      std::printf("%-38s %-16s %10.2e of the largest |state| or |gradient|\n", "", ours.states[slot].name.c_str(),
                  error);
      EXPECT_LE(error, kStateTolerance) << ours.states[slot].name;
    }
  }
}

TEST(PyTorchResults, AreMetInFloat64ToTwelveDigits) {
  for (const Case& golden : cases()) {
    SCOPED_TRACE(golden.name);
    const st::File file = st::File::open(golden.path);
    const tools::Replayed ours = replayed(golden, DataType::float64);
    const std::vector<double> exact = doubles(file, "param");
    const std::vector<double> scale = doubles(file, "param_path_max");
    ASSERT_EQ(ours.parameter.size(), exact.size());
    double largest = 0;
    for (std::size_t i = 0; i < exact.size(); ++i) {
      const double error = std::fabs(ours.parameter[i] - exact[i]);
      if (error != 0) largest = std::max(largest, test::infinite_if_nan(error / scale[i]));
    }
    std::printf("%-38s param %.2g", golden.name.c_str(), largest);
    EXPECT_LE(largest, kFloat64Tolerance);
    for (std::size_t slot = 0; slot < ours.states.size(); ++slot) {
      const double error = state_error(ours, ours, slot, doubles(file, ours.states[slot].name));
      std::printf(", %s %.2g", ours.states[slot].name.c_str(), error);
      EXPECT_LE(error, kFloat64Tolerance) << ours.states[slot].name;
    }
    std::printf("\n");
  }
}

TEST(PyTorchResults, AreReplayedToTheSameBitsAtEverySimdLevelAndThreadCount) {
  for (const Case& golden : cases()) {
    for (const DataType type : {DataType::float32, DataType::float64}) {
      const tools::Replayed first = replayed(golden, type);
      for (const SimdLevel level : simd_levels()) {
        for (const int threads : {1, 2}) {
          SCOPED_TRACE(golden.name + ", " + std::string(name(type)) + ", " + std::string(name(level)) + ", " +
                       std::to_string(threads) + " threads");
          Tuning tuning;
          tuning.simd = level;
          tuning.threads = threads;
          const tools::Replayed other = replayed(golden, type, tuning);
          EXPECT_EQ(first.parameter, other.parameter);
          for (std::size_t slot = 0; slot < first.states.size(); ++slot) {
            EXPECT_EQ(first.states[slot].values, other.states[slot].values) << first.states[slot].name;
          }
        }
      }
    }
  }
}

TEST(PyTorchResults, AreReplayedToTheSameBitsOnADevice) {
  ADAMANT_NEEDS_DEVICE();
  for (const Case& golden : cases()) {
    for (const DataType type : {DataType::float32, DataType::float64}) {
      SCOPED_TRACE(golden.name + ", " + std::string(name(type)));
      const tools::Replayed cpu = replayed(golden, type);
      const tools::Replayed device = replayed(golden, type, {}, test::cuda_device());
      EXPECT_EQ(cpu.parameter, device.parameter);
      EXPECT_EQ(cpu.largest_parameter, device.largest_parameter);
      for (std::size_t slot = 0; slot < cpu.states.size(); ++slot) {
        EXPECT_EQ(cpu.states[slot].values, device.states[slot].values) << cpu.states[slot].name;
        EXPECT_EQ(cpu.states[slot].largest, device.states[slot].largest) << cpu.states[slot].name;
      }
    }
  }
}

TEST(PyTorchResults, AreJudgedByReplayAsTheyAreHere) {
  for (const Case& golden : cases()) {
    SCOPED_TRACE(golden.name);
    const st::File file = st::File::open(golden.path);
    const tools::Replayed ours = replayed(golden, DataType::float32);
    const tools::Replayed path = replayed(golden, DataType::float64);
    const tools::ReplayComparison comparison = tools::compare(ours, path, golden.path, kStateTolerance);
    const Spread mine = spread(ours.parameter, doubles(file, "param"), doubles(file, "param_path_max"));
    const Spread theirs = spread(doubles(file, "param_f32"), doubles(file, "param"), doubles(file, "param_path_max"));
    ASSERT_EQ(comparison.figures.size(), 2 + ours.states.size());
    EXPECT_NEAR(comparison.figures[0].value, mine.root_mean_square, 1e-9);
    EXPECT_NEAR(comparison.figures[0].allowed, kRootMeanSquareRatio * theirs.root_mean_square, 1e-9);
    EXPECT_NEAR(comparison.figures[1].value, mine.percentile_99, 1e-9);
    EXPECT_NEAR(comparison.figures[1].allowed, kPercentile99Ratio * theirs.percentile_99, 1e-9);
    for (std::size_t slot = 0; slot < ours.states.size(); ++slot) {
      const auto& figure = comparison.figures[2 + slot];
      EXPECT_EQ(figure.name, ours.states[slot].name);
      EXPECT_DOUBLE_EQ(figure.value, state_error(ours, path, slot, doubles(file, figure.name)));
      EXPECT_EQ(figure.allowed, kStateTolerance);
    }
  }
}

TEST(PyTorchResults, AreMetByTheProgramReplay) {
  for (const Case& golden : cases()) {
    if (!golden.name.starts_with("synthetic.") && golden.name != "digits.adamw") continue;
    for (const std::string type : {"f32", "f64"}) {
      std::vector<std::string> words = replay_words(golden, translated(golden.optimizer, golden.arguments));
      words.insert(words.end(), {"--dtype", type});
      if (type == "f64") words.insert(words.end(), {"--tolerance", "1e-12"});
      const Outcome outcome = run_program(words);
      ASSERT_EQ(outcome.exit_code, 0) << to_text(words, outcome);
      const Json report = Json::parse(outcome.out);
      EXPECT_EQ(report.at("steps"), golden.steps);
      EXPECT_EQ(report.at("comparison").at("passed"), true);
    }
  }
}

TEST(PyTorchResults, AreNotMetByTheProgramReplayWithAnotherMethodOrOption) {
  const std::vector<Case> all = cases();
  const auto expect_failed = [&](const std::string& case_name, const Translation& translation) {
    const auto golden = std::find_if(all.begin(), all.end(), [&](const Case& c) { return c.name == case_name; });
    ASSERT_NE(golden, all.end()) << case_name;
    const std::vector<std::string> words = replay_words(*golden, translation);
    const Outcome outcome = run_program(words);
    ASSERT_EQ(outcome.exit_code, 1) << to_text(words, outcome);
    EXPECT_EQ(Json::parse(outcome.out).at("comparison").at("passed"), false);
  };
  expect_failed("digits.adam", {"adamw", {{"weight_decay", "0.01"}}});
  expect_failed("digits.adam", {"rmsprop", {}});
  expect_failed("digits.adam", {"adam", {{"epsilon", "1e-7"}}});
  expect_failed("digits.adam", {"adam", {{"amsgrad", "true"}}});
  expect_failed("digits.sgd", {"gradient_descent", {{"learning_rate", "0.05001"}}});
  expect_failed("digits.sgd_momentum", {"gradient_descent", {{"learning_rate", "0.05"}}});
  expect_failed("synthetic.sgd_nesterov", {"momentum", {{"learning_rate", "0.02"}, {"momentum", "0.95"}}});
  // Right but for where epsilon stands.
  expect_failed("digits.rmsprop", {"rmsprop", {{"decay", "0.9"}, {"epsilon", "1e-6"}}});
}

}  // namespace
}  // namespace adamant
