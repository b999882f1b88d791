// What is made of measurements: the page of a report, the comparison of two, and the options of `adamant bench` for
// both. Needs no time to be measured: the reports are made up here, or are those in bench/results.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

#include "markup.hpp"
#include "program.hpp"
#include "tools/bench_against.hpp"
#include "tools/bench_page.hpp"
#include "tools/bench_report.hpp"

namespace adamant::test {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using tools::compare_reports;
using tools::Comparison;
using tools::Verdict;
using Words = std::vector<std::string>;

const std::string kResults = ADAMANT_SOURCE_DIR "/bench/results/";
const std::string kCpu = kResults + "cpu-zen4-2-cores-2026-11-23.json";
const std::string kGpu = kResults + "h200-2026-11-27/bench.json";
const std::string kMixed = kResults + "h200-2026-11-27/mixed.json";
const std::string kPeers = kResults + "h200-2026-11-27/peers.json";

// How a run went: relative noise of each time, what every time is multiplied with (the machine), and only the step's.
struct Course {
  double noise = 0.01;
  double machine = 1;
  double step = 1;
  int repetitions = 15;
  unsigned seed = 1;
};

json made_up_row(const std::string& method, std::int64_t count, const Course& course, std::mt19937& random) {
  std::normal_distribution<double> noise(0, course.noise);
  json row{{"method", method},
           {"count", count},
           {"storage", "float32/float32/float32"},
           {"threads", 2},
           {"tensors", 1},
           {"pipeline", "update"},
           {"bytes_per_parameter", 28},
           {"ceiling_variant", "made up"}};
  for (int i = 0; i < course.repetitions; ++i) {
    const double seconds = 1e-9 * static_cast<double>(count) * course.machine;
    row["ceiling_seconds"].push_back(0.95 * seconds * std::exp(noise(random)));
    row["seconds"].push_back(seconds * course.step * std::exp(noise(random)));
  }
  return row;
}

json made_up(const Course& course, const std::vector<std::int64_t>& counts = {1 << 16, 1 << 20, 1 << 24}) {
  std::mt19937 random(course.seed);
  json report{{"dtype", "f32"}, {"hot", false}, {"machine", {{"cpu", "a made-up CPU"}}}, {"results", json::array()}};
  for (const char* method : {"momentum", "adam"}) {
    for (const std::int64_t count : counts) report["results"].push_back(made_up_row(method, count, course, random));
  }
  return report;
}

std::size_t count_of(const std::string& text, const std::string& part) {
  std::size_t count = 0;
  for (auto at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++count;
  return count;
}

std::size_t count_of(const Comparison& comparison, Verdict verdict) {
  return static_cast<std::size_t>(std::count_if(comparison.changes.begin(), comparison.changes.end(),
                                                [&](const auto& change) { return change.verdict == verdict; }));
}

// --- The rule of the comparison

TEST(BenchAgainst, finds_a_tenth_in_one_percent_of_noise_in_every_row) {
  const Comparison slower = compare_reports(made_up({}), made_up({.step = 1.1, .seed = 2}));
  EXPECT_EQ(count_of(slower, Verdict::slower), 6U) << to_text(slower);
  EXPECT_TRUE(slower.is_slower());
  for (const auto& change : slower.changes) {
    EXPECT_NEAR(change.shift.estimate, 1 / 1.1, 0.02);
    EXPECT_LT(change.shift.low, 1 / 1.1);
    EXPECT_GT(change.shift.high, 1 / 1.1);
  }
  const Comparison faster = compare_reports(made_up({.step = 1.1}), made_up({.seed = 2}));
  EXPECT_EQ(count_of(faster, Verdict::faster), 6U) << to_text(faster);
  EXPECT_FALSE(faster.is_slower());
}

TEST(BenchAgainst, does_not_take_noise_for_a_change) {
  const Comparison comparison =
      compare_reports(made_up({.noise = 0.05}), made_up({.noise = 0.05, .step = 1.01, .seed = 2}));
  EXPECT_EQ(count_of(comparison, Verdict::same), 6U) << to_text(comparison);
}

TEST(BenchAgainst, finds_nothing_between_a_report_and_itself) {
  for (const std::string& file : {kCpu, kGpu, kMixed}) {
    const json report = tools::read_reports("--from", {file});
    const Comparison comparison = compare_reports(report, report);
    EXPECT_EQ(comparison.changes.size(), report["results"].size()) << file;
    EXPECT_EQ(count_of(comparison, Verdict::same), comparison.changes.size()) << to_text(comparison);
    EXPECT_TRUE(comparison.only_old.empty() && comparison.only_new.empty()) << file;
  }
}

// Less than the floor is nothing, however certain.
TEST(BenchAgainst, leaves_out_what_is_certain_but_small) {
  const Course quiet{.noise = 1e-4};
  const Comparison comparison = compare_reports(made_up(quiet), made_up({.noise = 1e-4, .step = 1.015, .seed = 2}));
  EXPECT_EQ(count_of(comparison, Verdict::same), 6U) << to_text(comparison);
  EXPECT_LT(comparison.changes[0].shift.high, 1);
}

TEST(BenchAgainst, does_not_blame_a_step_for_a_machine_that_is_slower_today) {
  const Comparison comparison = compare_reports(made_up({}), made_up({.machine = 1.5, .seed = 2}));
  EXPECT_EQ(count_of(comparison, Verdict::same), 6U) << to_text(comparison);
  EXPECT_NEAR(comparison.changes[0].times_old.value(), 1.5, 0.05);
}

TEST(BenchAgainst, does_not_depend_on_the_order_of_the_rows) {
  const json before = made_up({.noise = 0.03});
  const json now = made_up({.noise = 0.03, .step = 1.1, .seed = 2});
  json turned = now;
  std::reverse(turned["results"].begin(), turned["results"].end());
  const Comparison one = compare_reports(before, now);
  const Comparison other = compare_reports(before, turned);
  ASSERT_EQ(one.changes.size(), other.changes.size());
  for (std::size_t i = 0; i < one.changes.size(); ++i) {
    const auto& twin = other.changes[other.changes.size() - 1 - i];
    EXPECT_EQ(one.changes[i].what, twin.what);
    EXPECT_EQ(one.changes[i].verdict, twin.verdict);
    EXPECT_EQ(one.changes[i].shift.estimate, twin.shift.estimate);
  }
}

// One report in a hundred, slower or faster, is what the rule promises; half of that is slower. The floor makes it
// less.
TEST(BenchAgainst, raises_few_false_alarms) {
  int slower = 0;
  int changed = 0;
  for (unsigned seed = 0; seed < 1000; ++seed) {
    const double noise = seed % 2 == 0 ? 0.05 : 0.15;
    const Comparison comparison = compare_reports(made_up({.noise = noise, .seed = 2 * seed + 1}),
                                                  made_up({.noise = noise, .seed = 2 * seed + 2}));
    slower += comparison.is_slower() ? 1 : 0;
    changed += count_of(comparison, Verdict::slower) + count_of(comparison, Verdict::faster) > 0 ? 1 : 0;
  }
  EXPECT_LE(slower, 10);
  EXPECT_LE(changed, 20);
  std::printf("of 1000 pairs without a difference: %d slower, %d slower or faster\n", slower, changed);
}

// The intervals of Mann and Whitney's test, from tables: two samples of 5 leave out 2 pairs at each end at 5 percent
// (its critical value), 8 and 8 leave out 13, 20 and 20 leave out 127; the k-th from the end bounds the interval.
TEST(BenchAgainst, has_the_intervals_of_the_tables) {
  for (const auto& [n, critical] : std::map<int, std::size_t>{{5, 2}, {8, 13}, {20, 127}}) {
    // Ratios that are all different: 2^(i n - j).
    std::vector<double> before;
    std::vector<double> now;
    for (int i = 0; i < n; ++i) {
      before.push_back(std::exp2(0.01 * i));
      now.push_back(std::exp2(0.01 * i * n));
    }
    std::vector<double> ratios;
    for (const double left : now) {
      for (const double right : before) ratios.push_back(left / right);
    }
    std::sort(ratios.begin(), ratios.end());
    const tools::Shift shift = tools::shift_of(before, now, 0.05);
    EXPECT_EQ(shift.low, ratios[critical]) << n;
    EXPECT_EQ(shift.high, ratios[ratios.size() - 1 - critical]) << n;
  }
  EXPECT_FALSE(tools::shift_of({1, 2, 3}, {1, 2, 3}, 0.05).is_known());
}

// Beyond what is counted out, the normal distribution takes over without a step.
TEST(BenchAgainst, has_much_the_same_interval_either_side_of_what_it_counts_out) {
  std::mt19937 random(3);
  std::normal_distribution<double> noise(0, 0.01);
  std::vector<double> before;
  std::vector<double> now;
  for (int i = 0; i < 31; ++i) {
    before.push_back(std::exp(noise(random)));
    now.push_back(std::exp(noise(random)));
  }
  const tools::Shift many = tools::shift_of(before, now, 0.001);
  before.pop_back();
  now.pop_back();
  const tools::Shift counted = tools::shift_of(before, now, 0.001);
  EXPECT_NEAR(many.low, counted.low, 0.002);
  EXPECT_NEAR(many.high, counted.high, 0.002);
}

TEST(BenchAgainst, says_where_there_are_too_few_repetitions_to_tell) {
  const Comparison comparison =
      compare_reports(made_up({.repetitions = 3}), made_up({.step = 1.3, .repetitions = 3, .seed = 2}));
  EXPECT_EQ(count_of(comparison, Verdict::undecided), 6U) << to_text(comparison);
  EXPECT_FALSE(comparison.is_slower());
  EXPECT_NE(to_text(comparison).find("3 and 3 repetitions cannot tell"), std::string::npos) << to_text(comparison);
}

TEST(BenchAgainst, lists_rows_that_only_one_has_and_keeps_apart_what_differs) {
  const json before = made_up({}, {1 << 16, 1 << 20});
  const json now = made_up({}, {1 << 20, 1 << 24});
  const Comparison comparison = compare_reports(before, now);
  EXPECT_EQ(comparison.changes.size(), 2U);
  EXPECT_EQ(comparison.only_old.size(), 2U);
  EXPECT_EQ(comparison.only_new.size(), 2U);
  const std::string text = to_text(comparison);
  EXPECT_LT(text.find("Only in the old report:\n  momentum, 65536"),
            text.find("Only in the new report:\n  momentum, 16777216"));
  const std::vector<std::pair<const char*, json>> differences{
      {"threads", 1}, {"hot", true}, {"storage", "float64/float64/float64"}, {"pipeline", "clip"}, {"tensors", 4}};
  for (const auto& [key, value] : differences) {
    json other = before;
    other["results"][0][key] = value;
    EXPECT_EQ(compare_reports(before, other).only_new.size(), 1U) << key;
  }
  json gpu = before;
  gpu["device"] = {{"name", "a GPU"}, {"compute_capability", "9.0"}};
  EXPECT_TRUE(compare_reports(before, gpu).changes.empty());
  // The name of one size says nothing new.
  json named = before;
  named["results"][0]["shape"] = "65536";
  EXPECT_EQ(compare_reports(before, named).changes.size(), 4U);
}

TEST(BenchAgainst, compares_with_another_machine_only_the_fraction_of_the_ceiling_and_says_so) {
  json before = made_up({.machine = 3});
  before["machine"]["cpu"] = "another CPU";
  json now = made_up({.step = 1.1, .seed = 2});
  now["results"][5].erase("ceiling_seconds");
  const Comparison comparison = compare_reports(before, now);
  EXPECT_EQ(count_of(comparison, Verdict::slower), 5U);
  EXPECT_EQ(comparison.without_ceiling.size(), 1U);
  for (const auto& change : comparison.changes) EXPECT_FALSE(change.times_old);
  const std::string text = to_text(comparison);
  for (const char* part : {"ANOTHER MACHINE", "another CPU", "a made-up CPU", "Not compared"}) {
    EXPECT_NE(text.find(part), std::string::npos) << text;
  }
  // On the same machine the time stands in for the fraction.
  const Comparison same = compare_reports(made_up({}), now);
  EXPECT_EQ(count_of(same, Verdict::slower), 6U) << to_text(same);
  EXPECT_FALSE(same.changes[5].of_ceiling);
}

TEST(BenchAgainst, prints_no_control_character_of_a_file) {
  json before = made_up({});
  json now = made_up({.step = 1.1, .seed = 2});
  before["machine"]["cpu"] = "\x1b[2Jthat";
  for (json* report : {&before, &now}) (*report)["results"][0]["method"] = "a\x1b[31mm\nother";
  now["results"][1]["method"] = "new\r";
  const std::string text = to_text(compare_reports(before, now));
  for (const char* part : {"\\x1b[2Jthat", "a\\x1b[31mm\\x0aother", "new\\x0d"}) {
    EXPECT_NE(text.find(part), std::string::npos) << text;
  }
  EXPECT_TRUE(std::all_of(text.begin(), text.end(), [](char c) { return c == '\n' || c >= 0x20 || c < 0; })) << text;
}

TEST(BenchAgainst, takes_a_method_with_other_options_for_another_row) {
  const json before = made_up({});
  json now = before;
  now["results"][3]["options"] = {{"amsgrad", "true"}, {"beta1", "0.8"}};
  now["results"][4]["options"] = json::object();  // the defaults, which older reports do not say
  const Comparison comparison = compare_reports(before, now);
  EXPECT_EQ(comparison.changes.size(), 5U);
  ASSERT_EQ(comparison.only_new.size(), 1U);
  EXPECT_EQ(comparison.only_new[0].text(), "adam amsgrad=true beta1=0.8, 65536, 2 threads");
}

// --- The page

void expect_sound(const std::string& page) {
  std::map<std::string, int> count;
  EXPECT_EQ(flaw_in(page, count), "");
  EXPECT_EQ(count["html"], 1);
  EXPECT_EQ(count["script"], 0);
  for (const std::string loads : {"href", "src=", "@import", "url(", "<link", "<image", "<iframe"}) {
    EXPECT_EQ(page.find(loads), std::string::npos) << loads;
  }
  // Names of namespaces load nothing.
  EXPECT_EQ(count_of(page, "http"), count_of(page, "xmlns=\"http"));
  const auto svgs = static_cast<std::size_t>(count["svg"]);
  EXPECT_EQ(count_of(page, "role=\"img\" aria-labelledby=\""), svgs);
  EXPECT_EQ(count_of(page, "<desc id=\""), svgs);
  EXPECT_EQ(count_of(page, "<figure class=\"bench\">"), svgs);
  EXPECT_NE(page.find("prefers-color-scheme: dark"), std::string::npos);
  std::vector<std::string> names;
  for (auto at = page.find(" id=\""); at != std::string::npos; at = page.find(" id=\"", at + 1)) {
    names.push_back(page.substr(at + 5, page.find('"', at + 5) - at - 5));
  }
  std::sort(names.begin(), names.end());
  EXPECT_EQ(std::adjacent_find(names.begin(), names.end()), names.end()) << "a name is given twice";
  for (const std::string bad : {"\"nan", "\"inf", "Mnan", "Lnan", " nan ", " inf "}) {
    EXPECT_EQ(page.find(bad), std::string::npos) << bad;
  }
}

TEST(BenchPage, draws_a_point_for_every_row_of_one_tensor_and_the_ceiling_of_every_method) {
  const json report = tools::read_reports("--from", {kCpu});
  const std::string page = tools::to_page(report);
  expect_sound(page);
  EXPECT_EQ(count_of(page, "<circle class=\"rate\""), 10U);
  EXPECT_EQ(count_of(page, "<path class=\"rate\""), 5U);
  EXPECT_EQ(count_of(page, "<path class=\"ceiling\""), 5U);
  for (const char* part :
       {">GB/s</text>", ">parameters</text>", "same-mix ceiling", ">2²⁶</text>", "2 virtual cores of an AMD EPYC",
        "65a98ad", "adamant bench --sizes 1048576,67108864 --repetitions 15", "#CC79A7", ">100.8<", ">57.3<"}) {
    EXPECT_NE(page.find(part), std::string::npos) << part;
  }
  EXPECT_EQ(page.find("pin rate, "), std::string::npos) << "it is not known";
  EXPECT_EQ(page, tools::to_page(report));
}

TEST(BenchPage, shows_the_merged_files_of_a_gpu_with_pins_peers_shapes_and_types) {
  const json report = tools::read_reports("--from", {kGpu, kMixed, kPeers});
  const std::string page = tools::to_page(report);
  expect_sound(page);
  EXPECT_EQ(report["results"].size(), 60U);
  // 20 rows of one tensor; of the mixed ones only that of float32 is of a kind with more than one size.
  EXPECT_EQ(count_of(page, "<circle class=\"rate\""), 21U);
  // Three baselines of 30 rows, and 48 of PyTorch.
  EXPECT_EQ(count_of(page, "<circle class=\"ratio\""), 90U + 48U);
  // Names, which end at 10 to the left of the lines, have room: six units and a half for a letter of twelve.
  const std::string name_begins = "text-anchor=\"end\">";
  std::size_t names = 0;
  for (std::size_t at = page.find(">How many times as long"); at != std::string::npos;
       at = page.find(">How many times as long", at + 1)) {
    const std::string picture = page.substr(at, page.find("</figure>", at) - at);
    const double room = std::stod(picture.substr(picture.find("translate(") + 10)) - 10;
    for (std::size_t name = picture.find(name_begins); name != std::string::npos;
         name = picture.find(name_begins, name + 1), ++names) {
      const std::size_t begin = name + name_begins.size();
      const std::string text = picture.substr(begin, picture.find('<', begin) - begin);
      EXPECT_GE(room, 6.5 * static_cast<double>(text.size())) << text;
    }
  }
  EXPECT_GT(names, 30U);
  for (const char* part :
       {"NVIDIA H200", "580.159.04", "pin rate, 4814 GB/s", "pytorch 2.11.0 fused", "thrust", "unfused", "Many tensors",
        "10000 × 64", "Types and pipelines", "bfloat16/bfloat16/float32/remainder", "1.26×"}) {
    EXPECT_NE(page.find(part), std::string::npos) << part;
  }
  EXPECT_EQ(count_of(page.substr(page.find("<h2>All rows")), "<tr>"), 61U);
}

TEST(BenchPage, takes_peers_from_the_report) {
  json report = made_up({});
  report["peers"] = {{{"peer", "pytorch 9.9 fused"},
                      {"method", "adam"},
                      {"count", 65536},
                      {"tensors", 1},
                      {"device", "cpu"},
                      {"times_update", 1.75},
                      {"spread", 0.02},
                      {"repetitions", 9}}};
  const std::string page = tools::to_page(report);
  expect_sound(page);
  EXPECT_EQ(count_of(page, "<circle class=\"ratio\""), 1U);
  EXPECT_NE(page.find("1.75× ±2.0%"), std::string::npos);
}

TEST(BenchPage, keeps_hot_and_cold_rows_apart) {
  json report = made_up({});
  for (json& row : report["results"]) row["hot"] = row["method"] == "adam";
  const std::string page = tools::to_page(report);
  expect_sound(page);
  EXPECT_EQ(count_of(page, "role=\"img\""), 2U);
  EXPECT_NE(page.find("its size, float32/float32/float32, 2 threads, hot: on one set of buffers</title>"),
            std::string::npos);
  EXPECT_EQ(count_of(page, "<circle class=\"rate\""), 6U);
  EXPECT_EQ(count_of(page, "<td>hot</td>"), 3U);
  EXPECT_EQ(count_of(page, "<td>cold</td>"), 3U);

  // The same rows both ways, and a second pipeline, so that there is a table of types and pipelines.
  json both = made_up({});
  const json more = both;
  for (const json& row : more["results"]) {
    for (const auto& [field, value] : std::map<std::string, json>{{"hot", true}, {"pipeline", "clip"}}) {
      both["results"].push_back(row);
      both["results"].back()[field] = value;
    }
  }
  const std::string page_of_both = tools::to_page(both);
  expect_sound(page_of_both);
  const auto begin = page_of_both.find("<h2>Types and pipelines</h2>");
  ASSERT_NE(begin, std::string::npos);
  const std::string table = page_of_both.substr(begin, page_of_both.find("</table>", begin) - begin);
  EXPECT_EQ(count_of(table, "<td>hot</td>"), 2U);   // the update of two methods
  EXPECT_EQ(count_of(table, "<td>cold</td>"), 4U);  // and each pipeline of both
}

TEST(BenchPage, keeps_rows_with_other_options_apart_and_says_which) {
  json report = made_up({});
  const json plain = report;
  for (const json& row : plain["results"]) {
    if (row["method"] != "adam") continue;
    report["results"].push_back(row);
    report["results"].back()["options"] = {{"amsgrad", "true"}};
  }
  const std::string page = tools::to_page(report);
  expect_sound(page);
  EXPECT_EQ(count_of(page, "<path class=\"rate\""), 3U);
  EXPECT_EQ(count_of(page, "font-weight=\"bold\">adam amsgrad=true</text>"), 1U);
  EXPECT_EQ(count_of(page, "<th scope=\"row\">adam amsgrad=true</th>"), 3U);
  EXPECT_EQ(count_of(page, "<th scope=\"row\">adam</th>"), 3U);
}

// Before reports said so, runs on a CPU stayed on one set of buffers, and those on a GPU did not.
TEST(BenchReport, reads_a_report_that_does_not_say_whether_it_is_hot_as_it_was_measured) {
  for (const auto& [file, hot] : std::map<std::string, bool>{{kCpu, true}, {kGpu, false}}) {
    json report = json::parse(std::ifstream(file));
    report.erase("hot");
    const Folder folder;
    const std::string older = folder.file("older.json");
    std::ofstream(older) << report;
    for (const auto& row : tools::rows_of(tools::read_reports("--from", {older}))) EXPECT_EQ(row.what.hot, hot) << file;
  }
}

TEST(BenchPage, escapes_whatever_a_report_says) {
  const std::string hostile = "<script>alert(1)</script>\"'&]]>\x01 -->";
  json report = made_up({});
  report["device"] = {{"name", hostile}, {"compute_capability", "9.0"}};
  report["provenance"][hostile] = hostile + "\xff";
  report["results"][0]["method"] = hostile;
  report["results"][1]["storage"] = hostile;
  report["results"][2]["shape"] = hostile;
  report["results"][2]["tensors"] = 2;
  report["results"][3]["ceiling_variant"] = hostile;
  report["results"][4]["baselines"] = {
      {{"name", hostile}, {"agrees", true}, {"times_update", 2}, {"seconds", {1, 2, 3}}}};
  report["peers"] = {{{"peer", hostile}, {"method", hostile}, {"count", 1}, {"times_update", 1e6}, {"spread", -5}}};
  const std::string page = tools::to_page(report);
  expect_sound(page);
  EXPECT_NE(page.find("&lt;script&gt;"), std::string::npos);
  EXPECT_EQ(page.find('\x01'), std::string::npos);
  EXPECT_EQ(page.find('\xff'), std::string::npos);
}

TEST(BenchPage, survives_extreme_numbers_and_what_is_optional) {
  json report{{"results", json::array()}};
  for (const std::int64_t count : {std::int64_t{1}, std::int64_t{1} << 40, std::int64_t{9223372036854775807}}) {
    report["results"].push_back(
        {{"method", "adam"}, {"count", count}, {"seconds", {1e-300}}, {"bytes_per_parameter", 1e-300}});
    report["results"].push_back({{"method", "adam"},
                                 {"count", count},
                                 {"seconds", {1e300, 1}},
                                 {"bytes_per_parameter", 28},
                                 {"ceiling_seconds", {1e-9, 1e9, 3}},
                                 {"baselines", nullptr},
                                 {"threads", nullptr}});
  }
  expect_sound(tools::to_page(report));
}

// --- The command

class BenchOutputCommand : public testing::Test {
 protected:
  std::string file(const std::string& name) const { return folder_.file(name); }
  void save(const std::string& name, const std::string& text) const { std::ofstream(file(name)) << text; }

  static Outcome run(const Words& words) {
    Words all{ADAMANT_PROGRAM, "bench"};
    all.insert(all.end(), words.begin(), words.end());
    return run_program(all);
  }

  // Exit code 2 and one line with all of `parts`, at once and without a file.
  void expect_refused(const Words& words, const Words& parts) const {
    const auto files = std::distance(fs::directory_iterator(folder_.path()), fs::directory_iterator());
    const Outcome outcome = run(words);
    test::expect_refusal(words, outcome, parts);
    EXPECT_EQ(std::distance(fs::directory_iterator(folder_.path()), fs::directory_iterator()), files);
  }

  const Words measured_{"--device", "cpu",           "--method", "adam",      "--sizes",
                        "1000",     "--repetitions", "3",        "--threads", "1"};
  Folder folder_;
};

TEST_F(BenchOutputCommand, WritesThePageOfWhatItMeasures) {
  Words words = measured_;
  words.insert(words.end(), {"--html", file("page.html"), "--json-file", file("bench.json")});
  const Outcome outcome = run(words);
  ASSERT_EQ(outcome.exit_code, 0) << to_text(words, outcome);
  const std::string page = contents(file("page.html"));
  expect_sound(page);
  EXPECT_EQ(page, tools::to_page(tools::read_reports("--from", {file("bench.json")})));
}

TEST_F(BenchOutputCommand, MakesThePageOfEarlierFiles) {
  const Words words{"--from", kGpu, "--from", kMixed, "--from", kPeers, "--html", file("page.html")};
  const Outcome outcome = run(words);
  ASSERT_EQ(outcome.exit_code, 0) << to_text(words, outcome);
  EXPECT_EQ(outcome.out, "");
  EXPECT_EQ(contents(file("page.html")), tools::to_page(tools::read_reports("--from", {kGpu, kMixed, kPeers})));
  const Outcome merged = run({"--from", kPeers, "--from", kGpu, "--json"});
  EXPECT_EQ(json::parse(merged.out).at("peers").size(), 48U);
}

TEST_F(BenchOutputCommand, MergesWhatWasLeftOutWhicheverFileHasIt) {
  save("all.json", made_up({}).dump());
  json part = made_up({}, {1 << 26});
  part["left_out"] = {{{"method", "adam"}, {"shape", "1000000000"}, {"count", 1000000000}}};
  save("part.json", part.dump());
  for (const Words& files : {Words{"all.json", "part.json"}, {"part.json", "all.json"}}) {
    const Outcome merged = run({"--from", file(files[0]), "--from", file(files[1]), "--json"});
    ASSERT_EQ(merged.exit_code, 0) << merged.err;
    EXPECT_EQ(json::parse(merged.out).at("left_out"), part["left_out"]);
    EXPECT_EQ(json::parse(merged.out).at("results").size(), 8U);
  }
}

TEST_F(BenchOutputCommand, MergesWhatFilesSayOfThemselvesAndEveryRowOnce) {
  const auto of = [](const char* commit, const char* started, bool complete, std::int64_t count) {
    json report = made_up({}, {count});
    report["environment"] = {{"commit", commit}};
    report["started"] = started;
    report["complete"] = complete;
    return report;
  };
  json b = of("b", "Tuesday", false, 2048);
  b["pin_rate_gigabytes_per_second"] = 50;
  save("a.json", of("a", "Monday", true, 1024).dump());
  save("b.json", b.dump());
  save("c.json", of("a", "Monday", true, 4096).dump());
  const auto merged = [&](const Words& names) {
    Words words{"--json"};
    for (const std::string& name : names) words.insert(words.end(), {"--from", file(name)});
    const Outcome outcome = run(words);
    EXPECT_EQ(outcome.exit_code, 0) << to_text(words, outcome);
    return json::parse(outcome.out);
  };
  const json all = merged({"a.json", "b.json", "c.json", "a.json"});
  EXPECT_EQ(all.at("environment").at("commit"), json({"a", "b"}));
  EXPECT_EQ(all.at("started"), json({"Monday", "Tuesday"}));
  EXPECT_EQ(all.at("complete"), false);
  EXPECT_EQ(all.at("pin_rate_gigabytes_per_second"), 50);
  EXPECT_EQ(all.at("results").size(), 6U);
  expect_sound(tools::to_page(all));
  save("all.json", all.dump());
  EXPECT_EQ(merged({"all.json", "b.json"}), all);
  const json alike = merged({"a.json", "c.json", "c.json"});
  EXPECT_EQ(alike.at("environment").at("commit"), "a");
  EXPECT_EQ(alike.at("complete"), true);
  EXPECT_EQ(alike.at("results").size(), 4U);
}

TEST_F(BenchOutputCommand, RefusesPeersOfAnotherMachine) {
  save("bench.json", made_up({}).dump());
  const auto peers = [](const std::string& device) {
    return json{{"environment", {{"device", device}}},
                {"peers", {{{"peer", "other"}, {"method", "adam"}, {"count", 1024}, {"times_update", 7}}}}};
  };
  save("here.json", peers("a made-up CPU").dump());
  save("there.json", peers("NVIDIA H100").dump());
  const Words good{"--from", file("here.json"), "--from", file("bench.json"), "--json"};
  EXPECT_EQ(json::parse(run(good).out).at("peers").size(), 1U);
  expect_refused({"--from", file("bench.json"), "--from", file("there.json"), "--json"},
                 {file("there.json"), "NVIDIA H100", file("bench.json"), "a made-up CPU", "one machine"});
  expect_refused({"--from", file("bench.json"), "--from", kPeers, "--json"}, {kPeers, "NVIDIA H200", "one machine"});
}

TEST_F(BenchOutputCommand, ExitsWith1WhenSomethingBecameSlowerAndSaysWhat) {
  save("old.json", made_up({}).dump());
  save("same.json", made_up({.seed = 2}).dump());
  save("slow.json", made_up({.step = 1.1, .seed = 3}).dump());
  const Outcome same = run({"--from", file("same.json"), "--against", file("old.json")});
  EXPECT_EQ(same.exit_code, 0) << same.out << same.err;
  EXPECT_NE(same.out.find("6 rows compared: 0 slower, 0 faster"), std::string::npos) << same.out;
  const Outcome slow = run({"--from", file("slow.json"), "--against", file("old.json"), "--html", file("page.html")});
  EXPECT_EQ(slow.exit_code, 1) << slow.out << slow.err;
  EXPECT_NE(slow.out.find("slower    adam, 1048576, 2 threads"), std::string::npos) << slow.out;
  EXPECT_TRUE(fs::exists(file("page.html")));
  // Standard output is all JSON where that was asked for.
  const Outcome as_json = run({"--from", file("slow.json"), "--against", file("old.json"), "--json"});
  EXPECT_EQ(as_json.exit_code, 1);
  EXPECT_FALSE(json::parse(as_json.out, nullptr, false).is_discarded());
  EXPECT_NE(as_json.err.find("6 slower"), std::string::npos) << as_json.err;
}

TEST_F(BenchOutputCommand, ComparesWhatItMeasuresWithAnEarlierRun) {
  Words words = measured_;
  words.insert(words.end(), {"--json-file", file("old.json")});
  ASSERT_EQ(run(words).exit_code, 0);
  // A run as slow as no machine is: what is measured now is faster, which is no failure. Seven repetitions can tell.
  json old_report = json::parse(contents(file("old.json")));
  json& row = old_report["results"][0];
  row["seconds"] = json::array();
  row["ceiling_seconds"] = json::array();
  for (int i = 0; i < 9; ++i) {
    row["seconds"].push_back(1000 + i);
    row["ceiling_seconds"].push_back(1e-3);
  }
  save("slow.json", old_report.dump());
  for (json& seconds : row["seconds"]) seconds = 1e-12;
  save("fast.json", old_report.dump());
  words = {"--device",      "cpu", "--method",  "adam", "--sizes",  "1000",
           "--repetitions", "9",   "--threads", "1",    "--against"};
  words.push_back(file("slow.json"));
  const Outcome faster = run(words);
  EXPECT_EQ(faster.exit_code, 0) << to_text(words, faster);
  EXPECT_NE(faster.out.find("1 faster"), std::string::npos) << faster.out;
  words.back() = file("fast.json");
  const Outcome slower = run(words);
  EXPECT_EQ(slower.exit_code, 1) << to_text(words, slower);
  EXPECT_NE(slower.out.find("1 slower"), std::string::npos) << slower.out;
}

TEST_F(BenchOutputCommand, RefusesDamagedAndForeignFilesBeforeMeasuring) {
  const std::string whole = made_up({}).dump();
  save("damaged.json", whole.substr(0, whole.size() / 2));
  save("empty.json", "");
  save("list.json", "[1, 2]");
  save("foreign.json", R"({"context": {}, "benchmarks": []})");
  save("none.json", R"({"results": []})");
  json no_seconds = made_up({});
  no_seconds["results"][3].erase("seconds");
  save("no_seconds.json", no_seconds.dump());
  json negative = made_up({});
  negative["results"][2]["seconds"][1] = -1;
  save("negative.json", negative.dump());
  json options = made_up({});
  options["results"][1]["options"] = {{"beta1", 0.5}};
  save("options.json", options.dump());
  save("deep.json", R"({"results": )" + std::string(100000, '[') + std::string(100000, ']') + "}");
  json text = made_up({});
  text["results"][0]["count"] = "many";
  save("text.json", text.dump());
  const std::vector<std::pair<std::string, Words>> cases{
      {"missing.json", {"cannot be read", "No such file"}},
      {"damaged.json", {"is not JSON, or not all of it"}},
      {"empty.json", {"is not JSON, or not all of it"}},
      {"list.json", {"the report is not an object"}},
      {"foreign.json", {"neither \"results\" nor \"peers\""}},
      {"none.json", {"has no row"}},
      {"no_seconds.json", {"results[3] has no \"seconds\""}},
      {"negative.json", {"results[2]", "\"seconds\"", "above 0"}},
      {"options.json", {"results[1]", "\"options\"", "strings"}},
      {"deep.json", {"nested more than 100 deep"}},
      {"text.json", {"results[0]", "\"count\"", "whole number of at least 1"}}};
  for (const auto& [name, parts] : cases) {
    Words named = parts;
    named.push_back(file(name));
    Words words = measured_;
    words.insert(words.end(), {"--against", file(name), "--html", file("page.html")});
    named.push_back("--against");
    expect_refused(words, named);
    named.back() = "--from";
    expect_refused({"--from", file(name), "--html", file("page.html")}, named);
  }
  save("other.json", made_up({}, {123}).dump());
  Words words = measured_;
  words.insert(words.end(), {"--against", file("other.json")});
  expect_refused(words, {file("other.json"), "no row in common", "momentum, 123", "adam, 1000"});
  // What only differs in how it is measured is none either, and would be found out after hours.
  json same = made_up({}, {1000});
  for (json& row : same["results"]) row["threads"] = 1;
  save("same.json", same.dump());
  words.back() = file("same.json");
  const Outcome compared = run(words);
  EXPECT_NE(compared.out.find("1 row compared"), std::string::npos) << to_text(words, compared);
  for (const Words& other : {Words{"--hot"}, {"--option", "amsgrad=true"}, {"--dtype", "f64"}}) {
    Words differs = words;
    differs.insert(differs.end(), other.begin(), other.end());
    expect_refused(differs, {file("same.json"), "no row in common"});
  }
  words[static_cast<std::size_t>(std::find(words.begin(), words.end(), "--threads") - words.begin()) + 1] = "2";
  expect_refused(words, {file("same.json"), "no row in common", "adam, 1000, 2 threads"});
  save("good.json", whole);
  expect_refused({"--from", file("good.json"), "--against", file("other.json"), "--html", file("page.html")},
                 {file("other.json"), "no row in common"});
  expect_refused({"--from", kGpu, "--from", kCpu, "--html", file("page.html")}, {kCpu, "NVIDIA H200", "one machine"});
}

TEST_F(BenchOutputCommand, RefusesWhatCannotBeWrittenOrDoesNotGoTogether) {
  save("good.json", made_up({}).dump());
  const std::string good = file("good.json");
  expect_refused({"--from", good}, {"--from", "--html", "--against"});
  expect_refused({"--from", good, "--html", file("none/page.html")}, {"--html", "there is no folder"});
  expect_refused({"--from", good, "--html", folder_.path().string()}, {"--html", "is a folder"});
  expect_refused({"--from", good, "--html", good}, {"--html", good, "one of its own"});
  expect_refused({"--from", good, "--json-file", good}, {"--json-file", good, "one of its own"});
  expect_refused({"--against", good, "--json-file", good}, {"--json-file", good, "one of its own"});
  expect_refused({"--from", good, "--html", file("a"), "--json-file", file("a")}, {"--html", "one of its own"});
  for (const Words& measuring :
       {Words{"--sizes", "16"}, {"--method", "adam"}, {"--device", "cpu"}, {"--repetitions", "3"}}) {
    Words words{"--from", good, "--html", file("page.html")};
    words.insert(words.end(), measuring.begin(), measuring.end());
    expect_refused(words, {"--from", measuring[0]});
  }
  expect_refused({"--html", ""}, {"--html"});
  const Outcome full = run({"--from", good, "--html", "/dev/full"});
  EXPECT_EQ(full.exit_code, 2);
  EXPECT_NE(full.err.find("cannot write /dev/full"), std::string::npos) << full.err;
}

}  // namespace
}  // namespace adamant::test
