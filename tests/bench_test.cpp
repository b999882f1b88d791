// The measurement behind `adamant bench`: how contenders are compared, what it refuses, and when a baseline counts as
// computing something else. Needs no device; gpu_bench_test.cpp does.
#include <gtest/gtest.h>
#include <malloc.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <regex>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "bench/baseline_check.hpp"
#include "bench/bed.hpp"
#include "bench/cpu_ceiling.hpp"
#include "bench/machine.hpp"
#include "bench/measurement.hpp"
#include "bench/moved.hpp"
#include "bench/sampling.hpp"
#include "bench/shapes.hpp"
#include "inputs.hpp"
#include "kernels/narrow.hpp"
#include "program.hpp"

namespace adamant::test {
namespace {

using bench::Window;

const bench::ProgressTo kQuiet = [](double) {};
const bench::StopAsked kNever = [] { return false; };

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

TEST(Sampling, takes_the_shortest_of_three_looks_for_what_a_batch_is_made_of) {
  const auto least_of = [](std::vector<double> looks, std::size_t expected) {
    std::size_t next = 0;
    const double least = bench::least_of_looks([&] { return looks.at(next++); }, 1e-3);
    EXPECT_EQ(next, expected);
    return least;
  };
  EXPECT_EQ(least_of({1, 2e-6, 5e-3}, 3), 2e-6);
  EXPECT_EQ(least_of({1, 5e-3, 2e-6}, 3), 2e-6);
  EXPECT_EQ(least_of({1, 0.9}, 2), 0.9);
}

TEST(Sampling, keeps_the_fastest_few_and_forgets_how_they_were_chosen) {
  std::vector<bench::Contender> all;
  for (int i = 0; i < 9; ++i) {
    const double seconds = 1.0 + (i * 4) % 9;
    all.push_back({std::to_string(static_cast<int>(seconds)), [seconds] { return seconds; }});
  }
  std::vector<bench::Contender> best = bench::finalists(all, kQuiet, kNever);
  ASSERT_EQ(best.size(), 5U);
  for (std::size_t i = 0; i < best.size(); ++i) {
    EXPECT_EQ(best[i].name, std::to_string(i + 1));
    EXPECT_TRUE(best[i].times.seconds.empty());
  }
  EXPECT_EQ(bench::interleave(best, 3, kQuiet, kNever), 3);
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
  bench::finalists(all, kQuiet, kNever, &most);
  EXPECT_EQ(most, 3);
  for (int i = 0; i < 12; ++i) EXPECT_EQ(looks[static_cast<std::size_t>(i)], i < 6 ? 3 : 1) << i;
}

TEST(Sampling, gives_what_takes_long_fewer_repetitions_but_at_least_three) {
  EXPECT_EQ(bench::repetitions_for(0.25, 0.5), 3);
  EXPECT_EQ(bench::repetitions_for(0.05, 0.5), 10);
  EXPECT_GE(bench::repetitions_for(0, 0.5), 1000000);
  std::vector<bench::Contender> two{{"long", [] { return 2.0; }, 1, {}, 3}, {"short", [] { return 1.0; }}};
  EXPECT_EQ(bench::interleave(two, 5, kQuiet, kNever), 5);
  EXPECT_EQ(two[0].times.seconds.size(), 3U);
  EXPECT_EQ(two[1].times.seconds.size(), 5U);
  EXPECT_EQ(bench::ratio(two[0].times, two[1].times), 2);
}

TEST(Sampling, that_is_asked_to_stop_keeps_whole_repetitions_only) {
  int samples = 0;
  const auto sample = [&samples] { return 1.0 + samples++; };
  const bench::StopAsked after_five = [&samples] { return samples >= 5; };
  std::vector<bench::Contender> three{{"short", sample, 1, {}, 1}, {"a", sample}, {"b", sample}};
  EXPECT_EQ(bench::interleave(three, 9, kQuiet, after_five), 2);
  EXPECT_EQ(samples, 5);
  EXPECT_EQ(three[0].times.seconds, (std::vector<double>{1}));
  EXPECT_EQ(three[1].times.seconds, (std::vector<double>{2, 4}));
  EXPECT_EQ(three[2].times.seconds, (std::vector<double>{3, 5}));
  samples = 0;
  const bench::StopAsked after_four = [&samples] { return samples >= 4; };
  for (bench::Contender& contender : three) contender.times = {};
  EXPECT_EQ(bench::interleave(three, 9, kQuiet, after_four), 1);  // "b" has not had its second
  EXPECT_EQ(three[1].times.seconds, (std::vector<double>{2}));
  EXPECT_EQ(three[2].times.seconds, (std::vector<double>{3}));
  EXPECT_TRUE(bench::finalists(three, kQuiet, after_four).empty());
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
  for (const kernels::StorageTypes& storage : kernels::storages()) {
    const std::string name = kernels::short_name(storage);
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
    std::vector<bench::MovedArray> arrays{{What::gradient, 2, true, false, gradient.data()},
                                          {What::parameter, 2, false, true},
                                          {What::kept, 4, true, true}};
    for (const bench::CeilingVariant& variant : bench::ceiling_variants(arrays)) {
      for (const std::uint32_t mask : {0U, ~0U}) {
        std::vector<std::byte> got_written = written;
        std::vector<std::byte> got_both = both;
        arrays[1].data = got_written.data();
        arrays[2].data = got_both.data();
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

// Bits of which many are numbers that arithmetic changes: signalling NaNs, halves of doubles.
TEST(Ceilings, of_one_size_leave_what_is_read_and_touch_every_element_once) {
  constexpr std::int64_t kZone = 8;  // behind the range, not to be touched
  for (const std::int64_t count : {1, 63, 64, 1000, 40003}) {
    const auto size = static_cast<std::size_t>(4 * count);
    std::vector<std::byte> read = random_bytes(4 * count, 1);
    for (std::size_t i = 3; i < size; i += 4) read[i] = std::byte{0x7f};
    const bench::MovedArray gradient{What::gradient, 4, true, false, read.data()};
    const std::vector<bench::MovedArray> two{gradient, {What::parameter, 4, true, true}};
    for (const bench::CeilingVariant& variant : bench::ceiling_variants(two)) {
      for (const std::uint32_t mask : {0U, ~0U}) {
        for (std::size_t streams = 1; streams <= bench::kMostReadWriteStreams; ++streams) {
          std::vector<std::vector<std::byte>> got;
          std::vector<bench::MovedArray> arrays{gradient};
          for (std::size_t s = 0; s < streams; ++s) {
            got.push_back(random_bytes(4 * count + kZone, 2 + s));
            for (std::size_t i = 3; i < size; i += 4) got[s][i] = std::byte{0xff};
          }
          std::vector<std::vector<std::byte>> expected = got;
          for (std::size_t s = 0; s < streams; ++s) {
            arrays.push_back({What::state, 4, true, true, got[s].data()});
            for (std::size_t i = 0; i < size; ++i) expected[s][i] ^= read[i] & static_cast<std::byte>(mask);
          }
          variant.run(arrays, count, mask, 3);
          ASSERT_TRUE(got == expected) << variant.name << ", " << count << " words, " << streams << " streams, mask "
                                       << mask;
        }
      }
    }
  }
}

TEST(Copies, copy_every_byte_and_no_other) {
  constexpr std::size_t kZone = 64;
  const std::unique_ptr<bench::Bed> bed = bench::make_cpu_bed(3);
  for (const std::int64_t bytes : {0, 1, 63, 64, 65, 1000, (1 << 21) + 17}) {
    const std::vector<std::byte> from = random_bytes(bytes, 1);
    const std::vector<std::byte> before = random_bytes(bytes + kZone, 2);
    std::vector<std::byte> expected = before;
    std::copy(from.begin(), from.end(), expected.begin());
    std::vector<std::byte> got = before;
    bed->copy(got.data(), from.data(), bytes);
    EXPECT_TRUE(got == expected) << "memcpy, " << bytes;
    got = before;
    bed->plain_copy(got.data(), from.data(), bytes);
    EXPECT_TRUE(got == expected) << bytes;
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

// --- Shapes, the machine, and what is prepared

TEST(Shapes, of_networks_have_the_published_numbers_of_parameters) {
  std::map<std::string, std::pair<std::int64_t, std::int64_t>> totals;
  for (const bench::Shape& network : bench::networks()) totals[network.name] = {network.tensors(), network.total()};
  const std::map<std::string, std::pair<std::int64_t, std::int64_t>> published{
      {"gpt2-124m", {148, 124439808}}, {"gpt2-1.5b", {580, 1557611200}}, {"resnet-50", {161, 25557032}}};
  EXPECT_EQ(totals, published);
  for (const auto& [name, counts] : published) EXPECT_EQ(bench::shape_from(name).value().total(), counts.second);
  EXPECT_EQ(bench::shape_from("3x70").value().counts, (std::vector<std::int64_t>{70, 70, 70}));
}

void write_file(const std::filesystem::path& path, const std::string& text) {
  std::filesystem::create_directories(path.parent_path());
  std::ofstream(path) << text << '\n';
}

TEST(Machine, counts_every_cache_once_and_only_those_of_data_behind_the_first_level) {
  const Folder folder;
  struct Cache {
    const char* type;
    const char* level;
    const char* size;
  };
  const std::vector<Cache> all{
      {"Data", "1", "32K"}, {"Instruction", "1", "32K"}, {"Unified", "2", "512K"}, {"Unified", "3", "16M"}};
  for (int cpu = 0; cpu < 4; ++cpu) {
    for (std::size_t i = 0; i < all.size(); ++i) {
      const auto at = folder.path() / ("cpu" + std::to_string(cpu)) / "cache" / ("index" + std::to_string(i));
      write_file(at / "type", all[i].type);
      write_file(at / "level", all[i].level);
      write_file(at / "size", all[i].size);
      // Two share a third level.
      write_file(at / "shared_cpu_list", i < 3 ? std::to_string(cpu) : cpu < 2 ? "0-1" : "2-3");
    }
  }
  write_file(folder.path() / "cpufreq" / "cache" / "index0" / "size", "1G");  // no CPU
  EXPECT_EQ(bench::cpu_cache_bytes(folder.path()), 4 * (512 << 10) + 2 * (16 << 20));
  EXPECT_EQ(bench::cpu_cache_bytes(folder.path() / "nothing"), 0);
  EXPECT_GT(bench::assumed_cpu_cache_bytes(), 0);
}

bench::Request request_of(const std::string& method, std::int64_t count) {
  return {.method = make_method(method), .shape = bench::one_tensor(count)};
}

TEST(Trap19Prepared, buffers_outgrow_the_caches_unless_they_are_to_be_hot) {
  bench::Request request = request_of("momentum", 100000);
  const bench::Throughput cold = bench::Measurement(request).facts();
  EXPECT_GE(cold.rotated_bytes, 3 * bench::cache_bytes(Device::cpu()));
  EXPECT_EQ(cold.rotated_bytes, cold.buffer_sets * 100000 * 12);
  request.hot = true;
  EXPECT_EQ(bench::Measurement(request).facts().buffer_sets, 1);
}

TEST(Trap19Prepared, every_run_goes_on_to_another_set_of_buffers) {
  bench::Request request = request_of("gradient_descent", 1 << 20);
  request.hot = true;
  const bench::Measurement hot(request);
  request.hot = false;
  const bench::Measurement cold(request);
  // What a sample of so many steps does to the first set.
  const auto moved = [](const bench::Measurement& measurement) {
    const auto* const parameter = reinterpret_cast<const float*>(measurement.arrays()[1].data);
    const float before = *parameter;
    const bench::Contender update = measurement.update();
    update.sample();
    return std::abs(*parameter - before) / static_cast<float>(update.runs);
  };
  EXPECT_LT(moved(cold), 0.9F * moved(hot));
}

TEST(Trap19Prepared, ceilings_read_gradients_before_they_move_them_only_where_a_step_does) {
  bench::Request request = request_of("momentum", 1000);
  request.hot = true;
  for (const bench::Pipeline pipeline : {bench::Pipeline::update, bench::Pipeline::clip}) {
    request.pipeline = pipeline;
    const bench::Measurement measurement(request);
    bench::Ceilings ceilings = measurement.choose_ceilings(kQuiet, kNever);
    ASSERT_FALSE(ceilings.finalists.empty());
    for (const bench::Contender& ceiling : ceilings.finalists) {
      EXPECT_EQ(ceiling.name.find(" + reading: ") != std::string::npos, pipeline == bench::Pipeline::clip)
          << ceiling.name;
      EXPECT_GT(ceiling.sample(), 0);
    }
    EXPECT_TRUE(measurement.choose_ceilings(kQuiet, [] { return true; }).finalists.empty());
  }
}

// With the batch of a step, which takes longer, they would show the clock and how threads are woken.
TEST(Trap19Prepared, samples_of_ceilings_are_as_long_as_the_clock_needs_too) {
  bench::Request request{.method = make_method("gradient_descent"), .shape = bench::shape_from("10000x2").value()};
  request.hot = true;
  const bench::Measurement measurement(request);
  bench::Ceilings ceilings = measurement.choose_ceilings(kQuiet, kNever);
  ASSERT_FALSE(ceilings.finalists.empty());
  for (const bench::Contender& ceiling : ceilings.finalists) {
    // A fifth of what is asked for: other programs may slow the looks that choose the batch, and not the samples.
    EXPECT_GE(ceiling.runs * std::max({ceiling.sample(), ceiling.sample(), ceiling.sample()}), 2e-4) << ceiling.name;
  }
}

// What lies between tensors is not touched.
TEST(Trap19Prepared, bytes_that_runs_go_round_are_those_of_elements) {
  bench::Request request{.method = make_method("momentum"), .shape = bench::shape_from("100x3").value()};
  const bench::Throughput facts = bench::Measurement(request).facts();
  EXPECT_EQ(facts.rotated_bytes, facts.buffer_sets * 300 * 12);
  EXPECT_EQ(facts.buffer_sets,
            std::min<std::int64_t>((1 << 18) / 100, 4 * bench::cache_bytes(Device::cpu()) / 3600 + 1));
}

// Of this process, in memory.
std::int64_t resident_bytes() {
  std::int64_t all = 0;
  std::int64_t resident = 0;
  std::ifstream("/proc/self/statm") >> all >> resident;
  return resident * ::sysconf(_SC_PAGESIZE);
}

TEST(Trap19Prepared, needs_no_more_memory_than_it_says) {
  if (ADAMANT_SANITIZED) GTEST_SKIP() << "sanitizers take memory of their own for every allocation";
  for (const char* method : {"gradient_descent", "rmsprop", "adam"}) {
    bench::Request request{.method = make_method(method), .shape = bench::shape_from("20000x64").value()};
    request.hot = true;
    ::malloc_trim(0);  // or it is made in what others left
    const std::int64_t before = resident_bytes();
    const bench::Measurement measurement(request);
    const std::int64_t took = resident_bytes() - before;
    EXPECT_LE(took, bench::bytes_needed(request)) << method;
    EXPECT_GE(took, bench::bytes_needed(request) / 2) << method;
  }
}

double element(const bench::MovedArray& array, DataType type, std::size_t i) {
  return kernels::with_type(type, [&]<typename T>(T /*like*/) {
    return kernels::widened<double>(reinterpret_cast<const T*>(array.data)[i]);
  });
}

TEST(Trap19Prepared, gradients_and_states_are_neither_zero_nor_subnormal) {
  for (const std::string& method : method_names()) {
    for (const kernels::StorageTypes& storage : kernels::storages()) {
      bench::Request request = request_of(method, 1000);
      request.storage = storage;
      request.hot = true;
      const bench::Measurement measurement(request);
      for (const bench::MovedArray& array : measurement.arrays()) {
        if (array.what != What::gradient && array.what != What::state) continue;
        const DataType type = array.what == What::state ? storage.state : storage.gradient;
        const double least = type == DataType::float16 ? 0x1p-14 : double{std::numeric_limits<float>::min()};
        for (std::size_t i = 0; i < 1000; ++i) {
          const double value = element(array, type, i);
          ASSERT_TRUE(std::abs(value) >= least && std::abs(value) < 1e3)
              << method << ' ' << kernels::short_name(storage) << ": " << value;
        }
      }
    }
  }
}

TEST(Bench, refuses_shapes_and_pipelines_that_are_none) {
  for (const std::string shape :
       {"", "x", "2x", "x2", "1x5", "0x5", "2x0", "-2x5", "2x5x2", "2X5", "1000001x1", "2x1000000000000", "gpt3"}) {
    const std::vector<std::string> words{ADAMANT_PROGRAM, "bench", "--device", "cpu", "--shapes", shape};
    const Outcome outcome = run_program(words);
    EXPECT_EQ(outcome.exit_code, 2) << to_text(words, outcome);
    EXPECT_NE(outcome.err.find("--shapes"), std::string::npos) << to_text(words, outcome);
    EXPECT_NE(outcome.err.find("gpt2-124m, gpt2-1.5b, resnet-50"), std::string::npos) << to_text(words, outcome);
  }
  for (const std::string pipeline : {"", "norm", "update,nope"}) {
    const std::vector<std::string> words{ADAMANT_PROGRAM, "bench", "--pipeline", pipeline};
    const Outcome outcome = run_program(words);
    EXPECT_EQ(outcome.exit_code, 2) << to_text(words, outcome);
    EXPECT_NE(outcome.err.find("allowed: update, clip, copy"), std::string::npos) << to_text(words, outcome);
  }
}

void collect_keys(const nlohmann::json& json, std::set<std::string>& keys) {
  for (const auto& [key, value] : json.items()) {
    if (json.is_object()) keys.insert(key);
    if (value.is_structured()) collect_keys(value, keys);
  }
}

TEST(Bench, has_every_field_of_its_json_on_its_page) {
  const std::vector<std::string> words{
      ADAMANT_PROGRAM,    "bench",    "--device", "cpu",           "--method", "adam",  "--sizes",
      "1000000000000,16", "--shapes", "2x8",      "--repetitions", "1",        "--json"};
  const Outcome outcome = run_program(words);
  ASSERT_EQ(outcome.exit_code, 0) << to_text(words, outcome);
  std::set<std::string> keys;
  collect_keys(nlohmann::json::parse(outcome.out), keys);
  EXPECT_GT(keys.size(), 40U);
  const std::string page = contents(std::filesystem::path(ADAMANT_SOURCE_DIR) / "docs" / "benchmark.md");
  const std::string fields = page.substr(page.find("## JSON"));
  for (const std::string& key : keys) EXPECT_NE(fields.find("`" + key + "`"), std::string::npos) << key;
}

TEST(Bench, has_every_option_on_its_page) {
  const Outcome outcome = run_program({ADAMANT_PROGRAM, "bench", "--help"});
  const std::string page = contents(std::filesystem::path(ADAMANT_SOURCE_DIR) / "docs" / "benchmark.md");
  const std::regex pattern("\n  (?:-., ?)?(--[a-z-]+)");
  std::size_t count = 0;
  for (std::sregex_iterator it(outcome.out.begin(), outcome.out.end(), pattern), end; it != end; ++it, ++count) {
    const std::string option = (*it)[1].str();
    EXPECT_TRUE(option == "--help" || page.find("| `" + option) != std::string::npos) << option;
  }
  EXPECT_GE(count, 15U);
}

// --- The same as Google Benchmark's own program

TEST(GoogleBenchmark, runs_what_its_filter_names_and_pairs_it_with_the_ceiling) {
  const std::string name = "gradient_descent/1024/update/float32-float32-float32/cpu:hot/";
  const std::vector<std::string> words{"/usr/bin/env",
                                       "OMP_NUM_THREADS=1",
                                       ADAMANT_BENCHMARK,
                                       "--benchmark_filter=^" + name,
                                       "--benchmark_min_time=0.001",
                                       "--benchmark_format=json"};
  const Outcome outcome = run_program(words);
  ASSERT_EQ(outcome.exit_code, 0) << to_text(words, outcome);
  const auto report = nlohmann::json::parse(outcome.out);
  EXPECT_TRUE(report.at("context").contains("cpu_cache_bytes"));
  std::map<std::string, nlohmann::json> runs;
  for (const auto& run : report.at("benchmarks")) runs[run.at("name").get<std::string>()] = run;
  ASSERT_EQ(runs.size(), 4U) << outcome.out;
  for (const std::string what : {"step", "ceiling", "copy", "plain-copy"}) {
    const auto& run = runs.at(name + what + "/manual_time");
    EXPECT_GT(run.at("real_time").get<double>(), 0) << run;
    EXPECT_GT(run.at("bytes_per_second").get<double>(), 0) << run;
    EXPECT_GE(run.at("iterations").get<double>(), 1) << run;
    EXPECT_EQ(run.contains("percent_of_ceiling"), what == "step") << run;
  }
  EXPECT_GT(runs.at(name + "step/manual_time").at("percent_of_ceiling").get<double>(), 0);
}

TEST(GoogleBenchmark, has_every_method_shape_and_storage_and_refuses_what_it_does_not_know) {
  const std::vector<std::string> words{ADAMANT_BENCHMARK, "--benchmark_filter=cpu/step", "--benchmark_list_tests"};
  const Outcome outcome = run_program(words);
  ASSERT_EQ(outcome.exit_code, 0) << to_text(words, outcome);
  for (const std::string& method : method_names()) {
    EXPECT_NE(outcome.out.find("\n" + method + "/"), std::string::npos) << method;
  }
  for (const char* part : {"/resnet-50/", "/10000x64/", "/clip/", "/copy/", "/bfloat16-bfloat16-float32-remainder/"}) {
    EXPECT_NE(outcome.out.find(part), std::string::npos) << part;
  }
  const Outcome usual = run_program({ADAMANT_BENCHMARK, "--benchmark_list_tests"});
  EXPECT_GE(std::count(usual.out.begin(), usual.out.end(), '\n'), 6 * static_cast<int>(method_names().size()));
  for (const std::string word : {"--benchmark_filter=nonsense", "--nonsense"}) {
    const Outcome refused = run_program({ADAMANT_BENCHMARK, word});
    EXPECT_EQ(refused.exit_code, 1) << to_text({word}, refused);
    EXPECT_NE(refused.err.find("nonsense"), std::string::npos) << to_text({word}, refused);
  }
}

TEST(GoogleBenchmark, says_what_there_is_no_memory_for) {
  const Outcome outcome = run_program(
      {ADAMANT_BENCHMARK, "--benchmark_format=json", "--benchmark_filter=^adam/gpt2-1.5b/update/float64-.*/cpu/step/"});
  EXPECT_EQ(outcome.exit_code, 0);
  const auto run = nlohmann::json::parse(outcome.out).at("benchmarks").at(0);
  if (!run.contains("error_message")) GTEST_SKIP() << "there is memory for it";
  EXPECT_NE(run.at("error_message").get<std::string>().find("bytes, and"), std::string::npos) << run;
}

}  // namespace
}  // namespace adamant::test
