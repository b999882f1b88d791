// The measurement behind `adamant bench`: how contenders are compared, what it refuses, and when a baseline counts as
// computing something else. Needs no device; gpu_bench_test.cpp does.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "bench/baseline_check.hpp"
#include "bench/sampling.hpp"
#include "inputs.hpp"
#include "program.hpp"

namespace adamant::test {
namespace {

using bench::Window;

TEST(Sampling, compares_runs_of_the_same_repetition) {
  // A machine that becomes ten times as slow: of the medians one falls before that and one after.
  EXPECT_EQ(bench::ratio({{2, 2, 20}}, {{1, 10, 10}}), 2);
  EXPECT_EQ(bench::ratio({{4, 20, 20}}, {{1, 10, 20}}), 2);
}

TEST(Sampling, batches_runs_until_a_sample_is_long_enough) {
  EXPECT_EQ(bench::batch_for(1.0, 1e-2), 1);
  EXPECT_EQ(bench::batch_for(3e-3, 1e-2), 4);
  EXPECT_EQ(bench::batch_for(0, 1e-2), 10000);
}

TEST(Sampling, keeps_the_fastest_few_and_forgets_how_they_were_chosen) {
  std::vector<bench::Contender> all;
  for (int i = 0; i < 9; ++i) {
    const double seconds = 1.0 + (i * 4) % 9;
    all.push_back({std::to_string(static_cast<int>(seconds)), [seconds] { return seconds; }});
  }
  std::vector<bench::Contender> best = bench::finalists(all, [](double) {});
  ASSERT_EQ(best.size(), 5U);
  for (std::size_t i = 0; i < best.size(); ++i) {
    EXPECT_EQ(best[i].name, std::to_string(i + 1));
    EXPECT_TRUE(best[i].times.seconds.empty());
  }
  bench::interleave(best, 3, [](double) {});
  EXPECT_EQ(best[4].times.seconds.size(), 3U);
  EXPECT_EQ(bench::fastest(best).name, "1");
}

// One step of a method on the CPU, on windows with states that have seen gradients.
struct Stepped {
  std::vector<Window> before;
  std::vector<Window> after;
};
Stepped stepped(const Method& method) {
  Window window{spread_values<float>(300, 1, -4, 0), spread_values<float>(300, 2, -9, -6), {}};
  Stepped result;
  Optimizer optimizer(method);
  const TensorId id = optimizer.add({.name = "x", .parameter = window.parameter, .gradient = window.gradient});
  const auto look = [&] {
    Window now{window.parameter, window.gradient, {}};
    for (const std::string& name : state_names(method)) {
      const float* const state = optimizer.state(id, name).as<float>();
      now.states.emplace_back(state, state + now.parameter.size());
    }
    return now;
  };
  for (int t = 1; t < bench::kCheckedStep; ++t) optimizer.step();
  result.before.push_back(look());
  optimizer.step();
  result.after.push_back(look());
  return result;
}

TEST(Baselines, agree_with_the_library_when_they_differ_in_the_last_bits_only) {
  for (const std::string& method : method_names()) {
    Stepped run = stepped(make_method(method));
    EXPECT_EQ(bench::disagreement(make_method(method), run.before, run.after), "") << method;
    for (float& x : run.after[0].parameter) x = std::nextafter(x, 2.0F);
    for (auto& state : run.after[0].states) {
      for (float& s : state) s = std::nextafter(s, 2.0F);
    }
    EXPECT_EQ(bench::disagreement(make_method(method), run.before, run.after), "") << method;
  }
}

TEST(Baselines, that_compute_something_else_are_found) {
  for (const std::string& method : method_names()) {
    const Stepped run = stepped(make_method(method));
    const auto found = [&](const auto& change) {
      std::vector<Window> changed = run.after;
      change(changed[0]);
      return bench::disagreement(make_method(method), run.before, changed);
    };
    EXPECT_NE(found([&](Window& w) { w.parameter[299] = run.before[0].parameter[299]; }), "")
        << method << " not stepped";
    EXPECT_NE(found([](Window& w) { w.parameter[7] = std::numeric_limits<float>::quiet_NaN(); }), "") << method;
    for (std::size_t s = 0; s < run.after[0].states.size(); ++s) {
      const std::string text = found([&](Window& w) { w.states[s][3] *= 1.001F; });
      EXPECT_NE(text.find(state_names(make_method(method))[s]), std::string::npos) << method << ": " << text;
    }
    // Another learning rate, or another step number, by a little.
    for (const Option& option : options(make_method(method))) {
      if (option.name != "learning_rate") continue;
      const Method faster = make_method(method, {{"learning_rate", std::to_string(1.01 * std::stod(option.value))}});
      EXPECT_NE(bench::disagreement(faster, run.before, run.after), "") << method;
    }
  }
  const Stepped run = stepped(make_method("adamw", {{"weight_decay", "0"}}));
  EXPECT_NE(bench::disagreement(make_method("adamw"), run.before, run.after), "") << "a decay that was left out";
}

TEST(Bench, refuses_shapes_that_are_none_and_shapes_on_the_cpu) {
  for (const std::string shape :
       {"", "x", "2x", "x2", "1x5", "0x5", "2x0", "-2x5", "2x5x2", "2X5", "1000001x1", "2x1000000000000"}) {
    const std::vector<std::string> words{ADAMANT_PROGRAM, "bench", "--device", "cuda", "--shapes", shape};
    const Outcome outcome = run_program(words);
    EXPECT_EQ(outcome.exit_code, 2) << to_text(words, outcome);
    EXPECT_NE(outcome.err.find("--shapes"), std::string::npos) << to_text(words, outcome);
  }
  const std::vector<std::string> words{ADAMANT_PROGRAM, "bench", "--device", "cpu", "--shapes", "2x5"};
  const Outcome outcome = run_program(words);
  EXPECT_EQ(outcome.exit_code, 2) << to_text(words, outcome);
  EXPECT_NE(outcome.err.find("--device cuda"), std::string::npos) << to_text(words, outcome);
}

}  // namespace
}  // namespace adamant::test
