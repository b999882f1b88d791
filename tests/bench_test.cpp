// The measurement behind `adamant bench`: how contenders are compared, what it refuses, and when a baseline counts as
// computing something else. Needs no device; gpu_bench_test.cpp does.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "bench/baseline_check.hpp"
#include "bench/cpu_ceiling.hpp"
#include "bench/moved.hpp"
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

TEST(Sampling, looks_less_often_at_the_slower_half) {
  std::vector<int> looks(12);
  std::vector<bench::Contender> all;
  for (int i = 0; i < 12; ++i) {
    all.push_back({std::to_string(i), [&looks, i] {
                     ++looks[static_cast<std::size_t>(i)];
                     return 1.0 + i;
                   }});
  }
  int most = 0;
  bench::finalists(
      all, [](double) {}, &most);
  EXPECT_EQ(most, 3);
  for (int i = 0; i < 12; ++i) EXPECT_EQ(looks[static_cast<std::size_t>(i)], i < 6 ? 3 : 1) << i;
}

TEST(Sampling, gives_what_takes_long_fewer_repetitions_but_at_least_three) {
  EXPECT_EQ(bench::repetitions_for(0.25, 0.5), 3);
  EXPECT_EQ(bench::repetitions_for(0.05, 0.5), 10);
  EXPECT_GE(bench::repetitions_for(0, 0.5), 1000000);
  std::vector<bench::Contender> two{{"long", [] { return 2.0; }, {}, 3}, {"short", [] { return 1.0; }}};
  bench::interleave(two, 5, [](double) {});
  EXPECT_EQ(two[0].times.seconds.size(), 3U);
  EXPECT_EQ(two[1].times.seconds.size(), 5U);
  EXPECT_EQ(bench::ratio(two[0].times, two[1].times), 2);
}

TEST(Sampling, adds_up_what_ran_one_after_the_other) {
  EXPECT_EQ(bench::sum({{1, 2, 3}}, {{10, 20, 30}}).seconds, (std::vector<double>{11, 22, 33}));
}

// --- What a step moves

std::string to_text(const bench::MovedBytes& bytes) {
  return std::to_string(bytes.read) + "+" + std::to_string(bytes.written);
}

TEST(Moved, counts_the_bytes_of_every_storage_and_pipeline) {
  // Read and written by Adam: the update, and the update that also writes a copy of 16 bits.
  const std::map<std::string, std::pair<std::string, std::string>> kAdam{
      {"float32/float32/float32", {"16+12", "16+14"}},
      {"float64/float64/float64", {"32+24", ""}},
      {"float32/bfloat16/float32", {"14+12", "14+14"}},
      {"float32/float16/float32", {"14+12", "14+14"}},
      {"float32/float32/bfloat16", {"12+8", ""}},
      {"bfloat16/bfloat16/float32/float32", {"14+14", ""}},
      {"bfloat16/float32/float32/float32", {"16+14", ""}},
      {"float16/float16/float32/float32", {"14+14", ""}},
      {"float16/float32/float32/float32", {"16+14", ""}},
      {"bfloat16/bfloat16/float32/remainder", {"14+12", ""}},
      {"bfloat16/float32/float32/remainder", {"16+12", ""}},
      {"bfloat16/bfloat16/bfloat16/remainder", {"10+8", ""}},
      {"bfloat16/float32/bfloat16/remainder", {"12+8", ""}},
      {"bfloat16/bfloat16/float32/stochastic", {"12+10", ""}},
      {"bfloat16/bfloat16/bfloat16/stochastic", {"8+6", ""}}};
  const Method adam = make_method("adam");
  for (const host::StorageTypes& storage : host::storages()) {
    const std::string name = host::short_name(storage);
    ASSERT_TRUE(kAdam.contains(name)) << name << ": which bytes does it move?";
    const auto moved = [&](bench::Pipeline pipeline) {
      return bench::moved_bytes(bench::moved_arrays(adam, storage, pipeline), pipeline);
    };
    EXPECT_EQ(to_text(moved(bench::Pipeline::update)), kAdam.at(name).first) << name;
    // The norm reads the gradient once more.
    EXPECT_EQ(moved(bench::Pipeline::clip).read, moved(bench::Pipeline::update).read + size_in_bytes(storage.gradient))
        << name;
    EXPECT_EQ(moved(bench::Pipeline::clip).written, moved(bench::Pipeline::update).written) << name;
    ASSERT_EQ(bench::copy_type(storage).has_value(), !kAdam.at(name).second.empty()) << name;
    if (!bench::copy_type(storage)) continue;
    EXPECT_EQ(to_text(moved(bench::Pipeline::copy)), kAdam.at(name).second) << name;
  }
}

// --- The ceilings of the CPU

using What = bench::MovedArray::What;

std::vector<std::byte> random_bytes(std::int64_t count, std::uint64_t seed) {
  Random random(seed);
  std::vector<std::byte> bytes(static_cast<std::size_t>(count));
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(random.bits());
  return bytes;
}

// The exclusive or of the words of four bytes, the last filled up with zeros.
std::uint32_t folded(std::span<const std::byte> bytes) {
  std::uint32_t sum = 0;
  for (std::size_t i = 0; i < bytes.size(); ++i) sum ^= static_cast<std::uint32_t>(bytes[i]) << 8 * (i % 4);
  return sum;
}

TEST(Ceilings, of_several_types_leave_what_is_read_and_touch_every_element_once) {
  constexpr std::int64_t kZone = 8;  // behind the range, not to be touched
  for (const std::int64_t count : {1, 63, 64, 1000, 40003}) {
    std::vector<std::byte> gradient = random_bytes(2 * count, 1);
    const std::vector<std::byte> written = random_bytes(2 * count + kZone, 2);
    const std::vector<std::byte> both = random_bytes(4 * count + kZone, 3);
    for (const bench::MixedCeilingVariant& variant : bench::mixed_ceiling_variants()) {
      for (const std::uint32_t mask : {0U, ~0U}) {
        std::vector<std::byte> got_written = written;
        std::vector<std::byte> got_both = both;
        const std::vector<bench::MovedArray> arrays{{What::gradient, 2, true, false, gradient.data()},
                                                    {What::parameter, 2, false, true, got_written.data()},
                                                    {What::kept, 4, true, true, got_both.data()}};
        variant.run(arrays, count, mask, 3);
        std::vector<std::byte> expected_written = written;
        std::vector<std::byte> expected_both = both;
        for (std::int64_t first = 0; first < count; first += variant.block) {
          const auto begin = static_cast<std::size_t>(first);
          const auto size = static_cast<std::size_t>(std::min(variant.block, count - first));
          const std::uint32_t add = folded(std::span(gradient).subspan(2 * begin, 2 * size)) & mask;
          const auto byte = [&](std::size_t i) { return static_cast<std::byte>(add >> 8 * (i % 4)); };
          for (std::size_t i = 0; i < 2 * size; ++i) expected_written[2 * begin + i] = byte(i);
          for (std::size_t i = 0; i < 4 * size; ++i) expected_both[4 * begin + i] ^= byte(i);
        }
        ASSERT_EQ(got_written, expected_written) << variant.name << ", " << count << " elements, mask " << mask;
        ASSERT_EQ(got_both, expected_both) << variant.name << ", " << count << " elements, mask " << mask;
      }
    }
  }
}

TEST(Ceilings, of_reading_read_every_word_once) {
  for (const std::int64_t bytes : {4, 2, 128, 1000, 16384, 100002}) {
    const std::vector<std::byte> data = random_bytes(bytes + 8, 7);
    const std::uint32_t expected = folded(std::span(data).first(static_cast<std::size_t>(bytes)));
    for (const bench::ReadCeilingVariant& variant : bench::read_ceiling_variants()) {
      EXPECT_EQ(variant.run(data.data(), bytes, 3), expected) << variant.name << ' ' << bytes;
    }
  }
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

TEST(Bench, refuses_shapes_and_pipelines_that_are_none_and_shapes_on_the_cpu) {
  for (const std::string shape :
       {"", "x", "2x", "x2", "1x5", "0x5", "2x0", "-2x5", "2x5x2", "2X5", "1000001x1", "2x1000000000000"}) {
    const std::vector<std::string> words{ADAMANT_PROGRAM, "bench", "--device", "cuda", "--shapes", shape};
    const Outcome outcome = run_program(words);
    EXPECT_EQ(outcome.exit_code, 2) << to_text(words, outcome);
    EXPECT_NE(outcome.err.find("--shapes"), std::string::npos) << to_text(words, outcome);
  }
  for (const std::string pipeline : {"", "norm", "update,nope"}) {
    const std::vector<std::string> words{ADAMANT_PROGRAM, "bench", "--pipeline", pipeline};
    const Outcome outcome = run_program(words);
    EXPECT_EQ(outcome.exit_code, 2) << to_text(words, outcome);
    EXPECT_NE(outcome.err.find("none of update, clip and copy"), std::string::npos) << to_text(words, outcome);
  }
  const std::vector<std::string> words{ADAMANT_PROGRAM, "bench", "--device", "cpu", "--shapes", "2x5"};
  const Outcome outcome = run_program(words);
  EXPECT_EQ(outcome.exit_code, 2) << to_text(words, outcome);
  EXPECT_NE(outcome.err.find("--device cuda"), std::string::npos) << to_text(words, outcome);
}

}  // namespace
}  // namespace adamant::test
