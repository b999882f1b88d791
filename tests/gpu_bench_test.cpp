// The measurement on a CUDA device: each ceiling touches every word once and each baseline computes what the library
// does, and `adamant bench` says all that it should. Speed is not tested.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "bench/baseline_check.hpp"
#include "bench/bed.hpp"
#include "bench/gpu_baselines.hpp"
#include "bench/gpu_bed.hpp"
#include "bench/gpu_ceiling.hpp"
#include "device.hpp"
#include "host/device_memory.hpp"
#include "inputs.hpp"
#include "program.hpp"
#include "tools/run_options.hpp"

namespace adamant::test {
namespace {

using Json = nlohmann::json;
using Words = std::vector<std::string>;
using What = bench::MovedArray::What;

class GpuBench : public NeedsDevice {};

std::vector<std::uint32_t> random_words(std::int64_t count, std::uint64_t seed) {
  Random random(seed);
  std::vector<std::uint32_t> words(static_cast<std::size_t>(count));
  for (std::uint32_t& word : words) word = static_cast<std::uint32_t>(random.bits());
  return words;
}

// With a mask of ones every word that is written becomes word ^ read_only: once and not twice, which would undo it.
void expect_one_pass(const bench::GpuCeilingVariant& variant, int streams, std::int64_t words,
                     host::DeviceMemory& memory, const bench::Bed& bed) {
  constexpr std::int64_t kZone = 64;  // behind the range, not to be touched
  const std::vector<std::uint32_t> read_only = random_words(words + kZone, 99);
  const host::DeviceArray<std::uint32_t> source(memory, read_only);
  std::vector<host::DeviceArray<std::uint32_t>> arrays;
  const auto bytes_of = [](std::uint32_t* data) { return reinterpret_cast<std::byte*>(data); };
  std::vector<bench::MovedArray> all{{What::gradient, 4, true, false, bytes_of(source.data())}};
  for (int s = 0; s < streams; ++s) {
    arrays.emplace_back(memory, std::span<const std::uint32_t>(random_words(words + kZone, static_cast<unsigned>(s))));
    all.push_back({What::state, 4, true, true, bytes_of(arrays.back().data())});
  }
  for (const std::uint32_t mask : {0U, ~0U}) {
    variant.run(all, words, mask, bed.stream());
    bed.wait();
    for (int s = 0; s < streams; ++s) {
      std::vector<std::uint32_t> expected = random_words(words + kZone, static_cast<unsigned>(s));
      for (std::size_t i = 0; i < static_cast<std::size_t>(words); ++i) expected[i] ^= read_only[i] & mask;
      const std::vector<std::uint32_t> got = arrays[static_cast<std::size_t>(s)].read();
      const auto differs = std::mismatch(got.begin(), got.end(), expected.begin()).first - got.begin();
      ASSERT_EQ(differs, words + kZone) << variant.name << ", stream " << s << " of " << streams << ", mask " << mask
                                        << ": word " << differs << " of " << words;
    }
  }
  ASSERT_EQ(source.read(), read_only);
}

TEST_F(GpuBench, copies_every_byte_and_no_other) {
  constexpr std::int64_t kZone = 64;
  host::DeviceMemory memory(Device::cuda(0));
  const std::unique_ptr<bench::Bed> bed = bench::make_gpu_bed(0);
  for (const std::int64_t bytes : {1, 15, 16, 17, 4096, 4099, 70001}) {
    const std::vector<std::uint32_t> words = random_words((bytes + 3) / 4 + kZone, 1);
    const auto as_bytes = std::as_bytes(std::span(words));
    const host::DeviceArray<std::byte> from(memory, as_bytes);
    std::vector<std::byte> expected(as_bytes.size(), std::byte{0x5A});
    const host::DeviceArray<std::byte> to(memory, std::span<const std::byte>(expected));
    std::copy_n(as_bytes.begin(), bytes, expected.begin());
    bed->plain_copy(to.data(), from.data(), bytes);
    bed->wait();
    EXPECT_TRUE(to.read() == expected) << bytes;
  }
}

TEST_F(GpuBench, ceilings_leave_the_values_and_touch_every_word_of_every_stream_once) {
  host::DeviceMemory memory(Device::cuda(0));
  const std::unique_ptr<bench::Bed> bed = bench::make_gpu_bed(0);
  for (int streams = 1; streams <= bench::kMostGpuReadWriteStreams; ++streams) {
    std::vector<bench::MovedArray> arrays{{What::gradient, 4, true, false}};
    arrays.resize(static_cast<std::size_t>(streams) + 1, {What::state, 4, true, true});
    std::set<std::string> names;
    for (const bench::GpuCeilingVariant& variant : bench::gpu_ceiling_variants(arrays)) {
      EXPECT_TRUE(names.insert(variant.name).second) << variant.name << " is there twice";
      // Less than a vector, less than a tile, whole tiles and a rest; and more than all resident blocks take at a time.
      for (const std::int64_t words : {1, 4, 1023, 8192, 8199}) {
        expect_one_pass(variant, streams, words, memory, *bed);
        if (HasFatalFailure()) return;
      }
      if (streams == 2) expect_one_pass(variant, streams, 300001, memory, *bed);
      if (HasFatalFailure()) return;
    }
    EXPECT_GE(names.size(), 18U);
  }
}

// With a mask of ones every element that is written becomes value ^ what is read: once and not twice, which would undo
// it. What is read is the same everywhere, so that it does not matter which of it goes where.
void expect_one_mixed_pass(const bench::GpuCeilingVariant& variant, std::vector<bench::MovedArray> arrays,
                           std::int64_t count, host::DeviceMemory& memory, const bench::Bed& bed) {
  constexpr std::size_t kZone = 256;  // behind the range, not to be touched
  constexpr std::byte kRead{0x11};
  constexpr std::byte kBefore{0x40};
  constexpr std::byte kBehind{0x77};
  for (const std::uint32_t mask : {0U, ~0U}) {
    std::vector<host::DeviceArray<std::byte>> there;
    for (bench::MovedArray& array : arrays) {
      std::vector<std::byte> values(static_cast<std::size_t>(count * array.element_bytes),
                                    array.is_written ? kBefore : kRead);
      values.resize(values.size() + kZone, kBehind);
      there.emplace_back(memory, std::span<const std::byte>(values));
      array.data = there.back().data();
    }
    variant.run(arrays, count, mask, bed.stream());
    bed.wait();
    for (std::size_t a = 0; a < arrays.size(); ++a) {
      const std::vector<std::byte> got = there[a].read();
      const std::byte from = arrays[a].is_read ? kBefore : std::byte{0};
      for (std::size_t i = 0; i < got.size(); ++i) {
        bool right = got[i] == (i < got.size() - kZone ? kRead : kBehind);
        if (i < got.size() - kZone && arrays[a].is_written) {
          // The sum of two vectors where there are two.
          right = mask == 0 ? got[i] == from : got[i] == (from ^ kRead) || got[i] == (from ^ (kRead << 1));
        }
        ASSERT_TRUE(right) << variant.name << ", mask " << mask << ", array " << a << ", byte " << i << " of "
                           << count * arrays[a].element_bytes;
      }
    }
  }
}

TEST_F(GpuBench, ceilings_of_several_types_leave_the_values_and_touch_every_element_once) {
  host::DeviceMemory memory(Device::cuda(0));
  const std::unique_ptr<bench::Bed> bed = bench::make_gpu_bed(0);
  // A list of arrays for each kind of kernel; with a parameter that is only written, and with gradients of 4 bytes.
  const std::vector<std::pair<std::string, std::string>> all{
      {"gradient_descent", "bfloat16/bfloat16/float32/stochastic"},
      {"momentum", "bfloat16/bfloat16/float32/float32"},
      {"adam", "bfloat16/float32/float32/float32"},
      {"rmsprop", "bfloat16/float32/float32/remainder"}};
  for (const auto& [method, types] : all) {
    const Method made =
        method == "rmsprop" ? make_method(method, {{"centered", "true"}, {"momentum", "0.9"}}) : make_method(method);
    const std::vector<bench::MovedArray> arrays =
        bench::moved_arrays(made, tools::storages_from({types}).front(), bench::Pipeline::update);
    std::set<std::string> names;
    for (const bench::GpuCeilingVariant& variant : bench::gpu_ceiling_variants(arrays)) {
      EXPECT_TRUE(names.insert(variant.name).second) << variant.name << " is there twice";
      // Less than a unit, less than a tile, and whole tiles with a rest.
      for (const std::int64_t count : {1, 1000, 8192, 20011}) {
        expect_one_mixed_pass(variant, arrays, count, memory, *bed);
        if (HasFatalFailure()) return;
      }
    }
    EXPECT_GE(names.size(), 9U);
  }
}

TEST_F(GpuBench, every_storage_has_a_ceiling_for_every_method) {
  const std::unique_ptr<bench::Bed> current = bench::make_gpu_bed(0);
  for (const kernels::StorageTypes& storage : kernels::storages()) {
    for (const std::string& method : method_names()) {
      const auto arrays = bench::moved_arrays(make_method(method), storage, bench::Pipeline::update);
      EXPECT_FALSE(bench::gpu_ceiling_variants(arrays).empty());
    }
  }
}

TEST_F(GpuBench, ceilings_of_reading_read_every_word_once) {
  host::DeviceMemory memory(Device::cuda(0));
  const std::unique_ptr<bench::Bed> bed = bench::make_gpu_bed(0);
  for (const std::int64_t words : {1, 1023, 8199, 100003}) {
    const std::vector<std::uint32_t> values = random_words(words, 5);
    std::uint32_t expected = 0;
    for (const std::uint32_t value : values) expected ^= value;
    const host::DeviceArray<std::uint32_t> data(memory, values);
    for (const bench::GpuReadCeilingVariant& variant : bench::gpu_read_ceiling_variants()) {
      const host::DeviceArray<std::uint32_t> sum(memory, 1);
      variant.run(data.data(), 4 * words, 0, sum.data(), bed->stream());
      bed->wait();
      EXPECT_EQ(sum.read().front(), 0U) << variant.name;
      variant.run(data.data(), 4 * words, ~0U, sum.data(), bed->stream());
      bed->wait();
      EXPECT_EQ(sum.read().front(), expected) << variant.name << ", " << words << " words";
    }
  }
}

TEST_F(GpuBench, every_method_has_baselines_that_compute_what_the_library_does) {
  host::DeviceMemory memory(Device::cuda(0));
  const std::unique_ptr<bench::Bed> bed = bench::make_gpu_bed(0);
  for (const std::string& method_name : method_names()) {
    const Method method = make_method(method_name);
    const std::vector<std::string> names = state_names(method);
    std::set<std::string> baselines;
    for (const bench::Baseline& baseline : bench::gpu_baselines(method_name)) {
      baselines.insert(baseline.name);
      for (const std::int64_t count : {1, 3, 64, 1000, 4099}) {
        bench::Window before{spread_values<float>(count, 1, -4, 0), spread_values<float>(count, 2, -9, -6), {}};
        const host::DeviceArray<float> parameter(memory, before.parameter);
        const host::DeviceArray<float> gradient(memory, before.gradient);
        const host::DeviceArray<float> scratch(memory, count);
        std::vector<host::DeviceArray<float>> states;
        bench::BaselineTensor tensor{parameter.data(), gradient.data(), {}, scratch.data(), count};
        for (std::size_t s = 0; s < names.size(); ++s) {
          std::vector<float> values = spread_values<float>(count, 3 + s, -12, -8);
          for (float& value : values) value = names[s].find("sq") == std::string::npos ? value : std::abs(value);
          states.emplace_back(memory, std::span<const float>(values));
          tensor.state.at(s) = states.back().data();
          before.states.push_back(std::move(values));
        }
        baseline.step(tensor, bench::kCheckedStep, bed->stream());
        bed->wait();
        bench::Window after{parameter.read(), gradient.read(), {}};
        for (const host::DeviceArray<float>& state : states) after.states.push_back(state.read());
        EXPECT_EQ(bench::disagreement(method, {before}, {after}), "")
            << method_name << " by " << baseline.name << ", " << count << " elements";
        EXPECT_EQ(after.gradient, before.gradient) << method_name << " by " << baseline.name;
      }
    }
    EXPECT_EQ(baselines, (std::set<std::string>{"cub", "thrust", "unfused"})) << method_name;
  }
}

TEST_F(GpuBench, buffers_are_filled_with_values_that_training_could_see) {
  host::DeviceMemory memory(Device::cuda(0));
  const std::unique_ptr<bench::Bed> bed = bench::make_gpu_bed(0);
  const host::DeviceArray<float> values(memory, 5000);
  bed->fill(values.data(), DataType::float32, values.count(), 0.5);
  bed->wait();
  const std::vector<float> got = values.read();
  std::set<float> different(got.begin(), got.end());
  EXPECT_GT(different.size(), 4900U);
  EXPECT_LT(*different.begin(), -0.4F);
  EXPECT_GT(*different.rbegin(), 0.4F);
  for (const float value : got) EXPECT_GE(std::abs(value), 0.04F);
}

TEST_F(GpuBench, a_captured_step_runs_when_its_graph_is_launched_and_not_before) {
  host::DeviceMemory memory(Device::cuda(0));
  const std::unique_ptr<bench::Bed> bed = bench::make_gpu_bed(0);
  const host::DeviceArray<float> from(memory, std::vector<float>{1, 2, 3});
  const host::DeviceArray<float> to(memory, std::vector<float>{0, 0, 0});
  const auto launch = bed->capture([&] { bed->copy(to.data(), from.data(), 12); });
  EXPECT_EQ(to.read(), (std::vector<float>{0, 0, 0}));
  EXPECT_GE(bed->seconds_of(launch), 0);
  EXPECT_EQ(to.read(), from.read());
}

TEST_F(GpuBench, the_program_measures_one_tensor_and_many_and_reports_them_in_json) {
  const Folder folder;
  const Words words{ADAMANT_PROGRAM, "bench",
                    "--device",      "cuda",
                    "--method",      "adam",
                    "--sizes",       "1000000000000,4096",
                    "--shapes",      "3x70",
                    "--repetitions", "2",
                    "--json-file",   folder.file("bench.json")};
  const Outcome outcome = run_program(words, {.seconds = 300});
  ASSERT_EQ(outcome.exit_code, 0) << to_text(words, outcome);
  const bench::GpuFacts facts = bench::gpu_facts(0);
  EXPECT_NE(outcome.out.find("One fused step on " + facts.name + " (cuda:0), float32"), std::string::npos)
      << outcome.out;
  EXPECT_EQ(outcome.out.find("CPU,"), std::string::npos) << outcome.out;
  EXPECT_NE(outcome.out.find("\nadam                      4096       28 "), std::string::npos) << outcome.out;
  EXPECT_NE(outcome.out.find("\n3x70            adam "), std::string::npos) << outcome.out;
  EXPECT_NE(outcome.err.find("adam at 1000000000000 needs"), std::string::npos) << outcome.err;

  const Json report = Json::parse(contents(folder.file("bench.json")));
  for (const char* field : {"name", "compute_capability", "multiprocessors", "memory_bytes", "l2_bytes", "driver",
                            "cuda_driver", "cuda_runtime", "cuda_compiler", "pin_rate_gigabytes_per_second"}) {
    EXPECT_TRUE(report.at("device").contains(field)) << field;
  }
  EXPECT_EQ(report.at("device").at("name"), facts.name);
  ASSERT_EQ(report.at("left_out").size(), 1U);
  EXPECT_GE(report.at("left_out")[0].at("bytes_needed").get<std::int64_t>(), 16 * 1000000000000);
  ASSERT_EQ(report.at("results").size(), 2U);
  for (const Json& result : report.at("results")) {
    for (const char* field : {"method",
                              "count",
                              "tensors",
                              "bytes_per_parameter",
                              "streams_read",
                              "streams_written",
                              "seconds",
                              "median_seconds",
                              "spread",
                              "gigabytes_per_second",
                              "ceiling_variant",
                              "ceiling_seconds",
                              "ceiling_gigabytes_per_second",
                              "fraction_of_ceiling",
                              "buffer_sets",
                              "rotated_bytes",
                              "copy_seconds",
                              "copy_gigabytes_per_second",
                              "plain_copy_seconds",
                              "plain_copy_gigabytes_per_second",
                              "graph_seconds",
                              "graph_median_seconds",
                              "one_tensor_seconds",
                              "times_one_tensor",
                              "host_seconds",
                              "host_median_seconds"}) {
      EXPECT_TRUE(result.contains(field)) << field;
    }
    for (const char* field : {"median_seconds", "ceiling_gigabytes_per_second", "fraction_of_ceiling",
                              "copy_gigabytes_per_second", "plain_copy_gigabytes_per_second", "graph_median_seconds"}) {
      EXPECT_GT(result.at(field).get<double>(), 0) << field;
    }
    EXPECT_EQ(result.at("seconds").size(), 2U);
    EXPECT_EQ(result.at("bytes_per_parameter"), 28);
    EXPECT_GE(result.at("buffer_sets"), 1);
    ASSERT_EQ(result.at("baselines").size(), 3U);
    for (const Json& baseline : result.at("baselines")) {
      EXPECT_TRUE(baseline.at("agrees").get<bool>()) << baseline;
      EXPECT_GT(baseline.at("times_update").get<double>(), 0);
      EXPECT_EQ(baseline.at("seconds").size(), 2U);
    }
  }
  EXPECT_EQ(report.at("results")[0].at("count"), 4096);
  EXPECT_EQ(report.at("results")[0].at("tensors"), 1);
  EXPECT_TRUE(report.at("results")[0].at("times_one_tensor").is_null());
  EXPECT_EQ(report.at("results")[1].at("count"), 210);
  EXPECT_EQ(report.at("results")[1].at("tensors"), 3);
  EXPECT_GT(report.at("results")[1].at("times_one_tensor").get<double>(), 0);
}

TEST_F(GpuBench, the_program_measures_every_method_and_takes_the_pin_rate_that_it_is_given) {
  const Words words{ADAMANT_PROGRAM, "bench", "--device",   "cuda:0", "--sizes", "4096",
                    "--repetitions", "2",     "--pin-rate", "4800",   "--json"};
  const Outcome outcome = run_program(words, {.seconds = 300});
  ASSERT_EQ(outcome.exit_code, 0) << to_text(words, outcome);
  const Json report = Json::parse(outcome.out);
  EXPECT_EQ(report.at("pin_rate_gigabytes_per_second"), 4800);
  ASSERT_EQ(report.at("results").size(), method_names().size());
  for (const Json& result : report.at("results")) EXPECT_EQ(result.at("baselines").size(), 3U) << result;
}

TEST_F(GpuBench, the_program_measures_storages_and_pipelines) {
  const std::string storages =
      "bfloat16/float32/float32/float32,bfloat16/bfloat16/float32/remainder,float32/float32/float32";
  const Words words{ADAMANT_PROGRAM, "bench",
                    "--device",      "cuda",
                    "--method",      "adam",
                    "--storage",     storages,
                    "--pipeline",    "update,clip,copy",
                    "--sizes",       "5000",
                    "--shapes",      "3x70",
                    "--repetitions", "2",
                    "--json"};
  const Outcome outcome = run_program(words, {.seconds = 300});
  ASSERT_EQ(outcome.exit_code, 0) << to_text(words, outcome);
  const Json report = Json::parse(outcome.out);
  // The copy is of the float32 parameter only.
  ASSERT_EQ(report.at("results").size(), 2 * (2U + 2U + 3U));
  for (const Json& result : report.at("results")) {
    EXPECT_EQ(result.at("bytes_per_parameter").get<int>(),
              result.at("bytes_read_per_parameter").get<int>() + result.at("bytes_written_per_parameter").get<int>());
    EXPECT_EQ(result.at("repetitions"), 2);
    EXPECT_EQ(result.at("graph_seconds").size(), 2U);
    EXPECT_GT(result.at("fraction_of_ceiling").get<double>(), 0);
    EXPECT_EQ(result.at("pipeline") == "clip",
              result.at("ceiling_variant").get<std::string>().find("reading") != std::string::npos)
        << result;
  }
}

TEST_F(GpuBench, says_why_there_are_no_baselines_for_other_options_and_types) {
  for (const Words& more : {Words{"--option", "beta1=0.8"}, Words{"--dtype", "f64"}}) {
    Words words{ADAMANT_PROGRAM, "bench", "--device",      "cuda", "--method", "adam",
                "--sizes",       "100",   "--repetitions", "1",    "--json"};
    words.insert(words.end(), more.begin(), more.end());
    const Outcome outcome = run_program(words, {.seconds = 300});
    ASSERT_EQ(outcome.exit_code, 0) << to_text(words, outcome);
    const Json result = Json::parse(outcome.out).at("results").at(0);
    EXPECT_TRUE(result.at("baselines").empty());
    EXPECT_TRUE(result.contains("no_baselines"));
  }
}

}  // namespace
}  // namespace adamant::test
