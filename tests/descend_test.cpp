// `adamant descend`: each path against its recurrence, written here in double; how the paths end; the files; and the
// colours that the program's pictures and gnuplot's share.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "adamant/adamant.hpp"
#include "device.hpp"
#include "markup.hpp"
#include "program.hpp"
#include "tools/descend.hpp"
#include "tools/method_colours.hpp"
#include "tools/terminal.hpp"

namespace adamant {
namespace {

namespace fs = std::filesystem;
using test::contents;
using test::Folder;
using test::Outcome;
using test::run_program;
using tools::Descent;
using tools::Point;
using Words = std::vector<std::string>;

enum Run : std::size_t { kSlow, kDiverging, kMomentum, kBarely, kRMSProp, kAdam, kRuns };

std::vector<Descent> paths(const tools::Course& course = {}) { return tools::textbook_descents(course); }

// One coordinate of the valley, whose slope is h x: the points from `x` on, by the method's own recurrence.
using Recurrence = std::function<std::vector<double>(double x, double h, int steps)>;

Recurrence gradient_descent(double eta) {
  return [=](double x, double h, int steps) {
    std::vector<double> points{x};
    for (int t = 0; t < steps; ++t) points.push_back(x *= 1 - eta * h);
    return points;
  };
}

// Without a velocity: x' = x - eta h x + beta (x - x_before).
Recurrence momentum(double eta, double beta) {
  return [=](double x, double h, int steps) {
    std::vector<double> points{x};
    double before = x;
    for (int t = 0; t < steps; ++t) {
      const double next = x - eta * h * x + beta * (x - before);
      before = x;
      points.push_back(x = next);
    }
    return points;
  };
}

// The average written out: s = (1 - gamma) sum of gamma^(t - i) g_i^2.
Recurrence rmsprop(double eta, double gamma) {
  return [=](double x, double h, int steps) {
    std::vector<double> points{x};
    for (int t = 0; t < steps; ++t) {
      double s = 0;
      for (int i = 0; i <= t; ++i) s += (1 - gamma) * std::pow(gamma, t - i) * std::pow(h * points[i], 2);
      points.push_back(x -= eta * h * x / std::sqrt(s + 1e-6));
    }
    return points;
  };
}

Recurrence adam(double eta) {
  return [=](double x, double h, int steps) {
    std::vector<double> points{x};
    for (int t = 0; t < steps; ++t) {
      double v = 0;
      double s = 0;
      for (int i = 0; i <= t; ++i) {
        v += 0.1 * std::pow(0.9, t - i) * h * points[i];
        s += 0.001 * std::pow(0.999, t - i) * std::pow(h * points[i], 2);
      }
      v /= 1 - std::pow(0.9, t + 1);
      s /= 1 - std::pow(0.999, t + 1);
      points.push_back(x -= eta * v / (std::sqrt(s) + 1e-8));
    }
    return points;
  };
}

TEST(Descend, FollowsEachMethodsRecurrenceInDouble) {
  const Recurrence expected[kRuns] = {gradient_descent(0.4), gradient_descent(0.6), momentum(0.6, 0.5),
                                      momentum(0.6, 0.25),   rmsprop(0.4, 0.9),     adam(0.4)};
  for (const DataType type : {DataType::float32, DataType::float64}) {
    const double unit = type == DataType::float32 ? 0x1p-24 : 0x1p-53;
    const std::vector<Descent> ours = paths({.type = type});
    ASSERT_EQ(ours.size(), kRuns);
    for (std::size_t run = 0; run < kRuns; ++run) {
      ASSERT_EQ(ours[run].path.size(), 21U);
      const std::vector<double> x1 = expected[run](-5, 0.2, 20);
      const std::vector<double> x2 = expected[run](-2, 4, 20);
      double largest1 = 0;
      double largest2 = 0;
      for (std::size_t step = 0; step < x1.size(); ++step) {
        largest1 = std::max(largest1, std::fabs(x1[step]));
        largest2 = std::max(largest2, std::fabs(x2[step]));
        // A rounding error of each step, which the steps after it may make as much larger as they do x.
        EXPECT_NEAR(ours[run].path[step].x1, x1[step], 100 * unit * largest1) << run << " step " << step;
        EXPECT_NEAR(ours[run].path[step].x2, x2[step], 100 * unit * largest2) << run << " step " << step;
      }
    }
  }
}

TEST(Descend, GradientDescentMultipliesX2ByMinus1Point4EachStepAndDiverges) {
  const Descent descent = paths()[kDiverging];
  EXPECT_EQ(descent.method, "gradient_descent");
  EXPECT_EQ(tools::options_text(descent.options), "learning_rate=0.6");
  for (std::size_t step = 1; step < descent.path.size(); ++step) {
    const Point before = descent.path[step - 1];
    const Point after = descent.path[step];
    // Two roundings and that of the learning rate, of numbers 2.4 and 1.4 times as large.
    EXPECT_NEAR(after.x2 / before.x2, -1.4, 6 * 0x1p-24) << step;
    EXPECT_NEAR(after.x1 / before.x1, 0.88, 3 * 0x1p-24) << step;
    EXPECT_GT(tools::valley(after), tools::valley(before)) << step;
  }
  EXPECT_NEAR(descent.path.back().x2, -2 * std::pow(1.4, 20), 0.01);
  EXPECT_EQ(descent.verdict(), "diverges");
}

TEST(Descend, GradientDescentContractsAtASmallerLearningRateAndIsSlow) {
  const Descent descent = paths()[kSlow];
  for (std::size_t step = 1; step < descent.path.size(); ++step) {
    EXPECT_NEAR(descent.path[step].x2 / descent.path[step - 1].x2, -0.6, 4 * 0x1p-24) << step;
    EXPECT_NEAR(descent.path[step].x1 / descent.path[step - 1].x1, 0.92, 3 * 0x1p-24) << step;
  }
  EXPECT_EQ(descent.verdict(), "on its way");
}

// Along x2 the slope is 4 x2, so momentum's two-step recurrence has the roots of z^2 - (1 + beta - 4 eta) z + beta.
double spectral_radius(double eta, double beta) {
  const double half = (1 + beta - 4 * eta) / 2;
  const double discriminant = half * half - beta;
  return discriminant < 0 ? std::sqrt(beta) : std::fabs(half) + std::sqrt(discriminant);
}

TEST(Descend, MomentumOfOneHalfConvergesWhereGradientDescentDiverges) {
  EXPECT_GT(spectral_radius(0.6, 0), 1.39);
  EXPECT_NEAR(spectral_radius(0.6, 0.5), 0.7071, 1e-4);
  const Descent descent = paths()[kMomentum];
  const Point end = descent.path.back();
  EXPECT_LT(std::fabs(end.x1), 0.01);
  EXPECT_LT(std::fabs(end.x2), 0.005);
  EXPECT_LT(tools::valley(end), 1e-5 * tools::valley(descent.path.front()));
  EXPECT_EQ(descent.verdict(), "converges");
}

TEST(Descend, MomentumOfOneQuarterBarelyConverges) {
  EXPECT_NEAR(spectral_radius(0.6, 0.25), 0.859, 1e-3);
  const std::vector<Descent> all = paths();
  const Descent& descent = all[kBarely];
  const std::vector<Point>& path = descent.path;
  for (std::size_t step = 3; step < path.size(); ++step) {
    EXPECT_NEAR(path[step].x2 / path[step - 1].x2, -0.859, 0.05) << step;  // smaller, and on the other side
  }
  EXPECT_NEAR(path[20].x2 / path[19].x2, -spectral_radius(0.6, 0.25), 1e-3);
  EXPECT_GT(std::fabs(path.back().x2), 0.1);
  EXPECT_GT(tools::valley(path.back()), 1000 * tools::valley(all[kMomentum].path.back()));
  EXPECT_LT(tools::valley(path.back()), 0.01 * tools::valley(path.front()));
  EXPECT_EQ(descent.verdict(), "barely converges, still swinging");
}

// A rate of 0.5 turns x2 round and leaves it as large as it was.
TEST(Descend, ASwingThatBecomesNoSmallerIsNotSaidToConverge) {
  for (const int steps : {20, 2000}) {
    const Descent descent = tools::descend("gradient_descent", {{"learning_rate", "0.5"}}, {.steps = steps});
    EXPECT_EQ(descent.verdict(), "swings from side to side, never less") << steps;
  }
}

TEST(Descend, RMSPropAndAdamComeNearTheLowestPoint) {
  const std::vector<Descent> all = paths();
  EXPECT_LT(tools::valley(all[kRMSProp].path.back()), 1e-4);
  EXPECT_LT(tools::valley(all[kAdam].path.back()), 0.2);
  EXPECT_EQ(all[kRMSProp].verdict(), "converges");
  EXPECT_EQ(all[kAdam].verdict(), "on its way");
}

// --- The table and the picture

std::vector<Words> rows_of(const std::string& csv) {
  std::vector<Words> rows;
  std::istringstream lines(csv);
  for (std::string line; std::getline(lines, line);) {
    Words& row = rows.emplace_back();
    std::istringstream cells(line);
    for (std::string cell; std::getline(cells, cell, ',');) row.push_back(cell);
  }
  return rows;
}

TEST(DescendFiles, TheTableHasEveryPointAsItIs) {
  for (const DataType type : {DataType::float32, DataType::float64}) {
    const std::vector<Descent> all = paths({.type = type});
    const std::vector<Words> rows = rows_of(tools::to_csv(all, type));
    ASSERT_EQ(rows.size(), 1 + kRuns * 21);
    EXPECT_EQ(rows[0], (Words{"run", "method", "options", "step", "x1", "x2", "f"}));
    for (std::size_t i = 1; i < rows.size(); ++i) {
      ASSERT_EQ(rows[i].size(), 7U) << i;
      const Descent& descent = all[(i - 1) / 21];
      const Point point = descent.path[(i - 1) % 21];
      EXPECT_EQ(rows[i][0], std::to_string((i - 1) / 21 + 1));
      EXPECT_EQ(rows[i][1], descent.method);
      EXPECT_EQ(rows[i][2], tools::options_text(descent.options));
      EXPECT_EQ(rows[i][3], std::to_string((i - 1) % 21));
      const auto read = [&](const std::string& text) {
        return type == DataType::float32 ? static_cast<double>(std::stof(text)) : std::stod(text);
      };
      EXPECT_EQ(read(rows[i][4]), point.x1);
      EXPECT_EQ(read(rows[i][5]), point.x2);
      EXPECT_EQ(std::stod(rows[i][6]), tools::valley(point));
    }
  }
}

void expect_sound(const std::string& svg, std::size_t panels) {
  std::map<std::string, int> count;
  EXPECT_EQ(test::flaw_in(svg, count), "");
  EXPECT_EQ(count["svg"], 1);
  std::size_t lines = 0;
  for (auto at = svg.find("stroke-linejoin"); at != std::string::npos; at = svg.find("stroke-linejoin", at + 1))
    ++lines;
  EXPECT_EQ(lines, panels);
  // What is drawn is in the tags; the text between them may well speak of infinities.
  std::string tags;
  for (auto at = svg.find('<'); at != std::string::npos; at = svg.find('<', at + 1)) {
    tags += svg.substr(at, svg.find('>', at) - at) + '\n';
  }

  for (const std::string bad :
       {"\"inf", "\"-inf", " inf ", " -inf", "Minf", "\"nan", "\"-nan", " nan ", "Mnan", "e+", "e-0", "e-3"}) {
    EXPECT_EQ(tags.find(bad), std::string::npos) << bad;
  }
  for (const std::string reference : {"href", "@import", "<image", "<script"}) {
    EXPECT_EQ(svg.find(reference), std::string::npos) << reference;
  }
}

// The numbers of the lines that are drawn, pairs of x and y.
std::vector<double> drawn_numbers(const std::string& svg) {
  std::vector<double> numbers;
  for (auto at = svg.find("stroke-linejoin"); at != std::string::npos; at = svg.find("stroke-linejoin", at + 1)) {
    const auto begin = svg.find("d=\"", at) + 3;
    std::string data = svg.substr(begin, svg.find('"', begin) - begin);
    std::replace_if(
        data.begin(), data.end(), [](char c) { return c == 'M' || c == 'L'; }, ' ');
    std::istringstream stream(data);
    for (double number = 0; stream >> number;) numbers.push_back(number);
    EXPECT_TRUE(stream.eof()) << data;
  }
  return numbers;
}

TEST(DescendFiles, ThePictureIsWellFormedAndHasSixPathsInTheirMethodsColours) {
  const std::string svg = tools::to_svg(paths());
  expect_sound(svg, kRuns);
  for (const char* method : {"gradient_descent", "momentum", "rmsprop", "adam"}) {
    EXPECT_NE(svg.find("stroke=\"" + std::string(tools::colour_of(method))), std::string::npos) << method;
  }
  EXPECT_NE(svg.find("leaves the picture"), std::string::npos);
  EXPECT_NE(svg.find("<ellipse"), std::string::npos);
  EXPECT_EQ(svg, tools::to_svg(paths()));
}

TEST(DescendFiles, APathThatLeavesThePictureIsCutOffAtItsFrame) {
  for (const int steps : {20, 300, 10000}) {  // 300 take x2 beyond float32: infinities, then NaN
    const std::vector<Descent> all = paths({.steps = steps});
    EXPECT_EQ(std::isnan(all[kDiverging].path.back().x2), steps > 20);
    EXPECT_TRUE(all[kDiverging].diverged());
    const std::string svg = tools::to_svg(all);
    expect_sound(svg, kRuns);
    const std::vector<double> numbers = drawn_numbers(svg);
    ASSERT_GT(numbers.size(), 100U);
    for (std::size_t i = 0; i < numbers.size(); i += 2) {
      EXPECT_TRUE(0 <= numbers[i] && numbers[i] <= 268 && 0 <= numbers[i + 1] && numbers[i + 1] <= 190)
          << numbers[i] << ' ' << numbers[i + 1];
    }
    for (const Words& row : rows_of(tools::to_csv(all, DataType::float32))) ASSERT_EQ(row.size(), 7U);
  }
}

TEST(DescendFiles, AnyStartMakesASoundPicture) {
  for (const double x1 : {-1e6, -5.0, -1e-30, 0.0, 1e-3, 1e6}) {
    for (const double x2 : {-1e6, 0.0, 1e-30, 2.0}) {
      SCOPED_TRACE(std::to_string(x1) + "," + std::to_string(x2));
      for (const DataType type : {DataType::float32, DataType::float64}) {
        const std::string svg = tools::to_svg(paths({.start = {x1, x2}, .steps = 3, .type = type}));
        expect_sound(svg, kRuns);
        EXPECT_LT(svg.size(), 100000U);
      }
    }
  }
}

TEST(DescendFiles, ThePictureInTheDocumentsIsWhatTheProgramDraws) {
  EXPECT_TRUE(contents(fs::path(ADAMANT_SOURCE_DIR) / "docs" / "descend.svg") == tools::to_svg(paths()))
      << "adamant descend --out docs, and remove docs/descend.csv";
}

TEST(Pictures, GiveEachMethodAColourOfItsOwnTheSameInAll) {
  const std::string gnuplot = contents(fs::path(ADAMANT_SOURCE_DIR) / "bench" / "method_colours.gp");
  std::map<std::string, std::string> method_of;
  for (const std::string& method : method_names()) {
    const std::string colour{tools::colour_of(method)};
    EXPECT_NE(colour, tools::colour_of("")) << method << " has none in tools/method_colours.hpp";
    EXPECT_TRUE(method_of.emplace(colour, method).second) << method << " has that of " << method_of[colour];
    EXPECT_NE(gnuplot.find("method eq \"" + method + "\" ? \"" + colour + '"'), std::string::npos) << method;
  }
}

// --- The command

class DescendCommand : public testing::Test {
 protected:
  static Outcome run(const Words& words) {
    Words all{ADAMANT_PROGRAM, "descend"};
    all.insert(all.end(), words.begin(), words.end());
    return run_program(all);
  }

  std::string file(const std::string& name) const { return folder_.file(name); }
  std::size_t count_files() const {
    return static_cast<std::size_t>(
        std::distance(fs::recursive_directory_iterator(folder_.path()), fs::recursive_directory_iterator()));
  }

  // Exit code 2, one line that has all of `parts`, and no file.
  void expect_refused(const Words& words, const Words& parts) const {
    const std::size_t before = count_files();
    const Outcome outcome = run(words);
    test::expect_refusal(words, outcome, parts);
    EXPECT_EQ(count_files(), before) << to_text(words, outcome);
  }

  Folder folder_;
};

TEST_F(DescendCommand, WritesTheSameBytesTwiceAndWhateverTheThreadsAndTheSimdLevel) {
  fs::create_directory(file("out"));
  const Outcome first = run({"--out", file("out")});
  ASSERT_EQ(first.exit_code, 0) << first.err;
  EXPECT_EQ(contents(file("out/descend.csv")), tools::to_csv(paths(), DataType::float32));
  EXPECT_EQ(contents(file("out/descend.svg")), tools::to_svg(paths()));
  EXPECT_EQ(count_files(), 3U);
  for (const SimdLevel level : simd_levels()) {
    const Outcome again = run({"--out", file("out"), "--simd", std::string(name(level)), "--threads", "2"});
    EXPECT_EQ(again.out, first.out);
    EXPECT_EQ(contents(file("out/descend.csv")), tools::to_csv(paths(), DataType::float32)) << name(level);
  }
}

TEST_F(DescendCommand, WritesOnADeviceTheBytesThatItWritesOnTheCpu) {
  ADAMANT_NEEDS_DEVICE();
  for (const std::string device : {"cpu", "cuda:0"}) {
    const Outcome outcome = run({"--device", device, "--out", file(device)});
    ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
    EXPECT_NE(outcome.out.find("in float32 on " + device), std::string::npos) << outcome.out;
  }
  EXPECT_EQ(contents(file("cpu/descend.csv")), contents(file("cuda:0/descend.csv")));
  EXPECT_EQ(contents(file("cpu/descend.svg")), contents(file("cuda:0/descend.svg")));
}

TEST_F(DescendCommand, PrintsEachRunAndReportsItInJson) {
  const std::string table = run({}).out;
  for (const char* part : {"gradient_descent", "momentum=0.25", "diverges", "barely converges", "adam"}) {
    EXPECT_NE(table.find(part), std::string::npos) << table;
  }
  const Outcome outcome = run({"--json", "--json-file", file("json"), "--steps", "400"});
  const auto report = nlohmann::json::parse(outcome.out);
  EXPECT_EQ(nlohmann::json::parse(contents(file("json"))), report);
  ASSERT_EQ(report.at("runs").size(), kRuns);
  EXPECT_EQ(report.at("runs")[kDiverging].at("path").size(), 401U);
  EXPECT_EQ(report.at("runs")[kDiverging].at("path")[400][1], "nan");
  EXPECT_EQ(report.at("runs")[kDiverging].at("verdict"), "diverges");
}

TEST_F(DescendCommand, AddsAPathOfOnesOwn) {
  const Outcome outcome = run({"--method", "adamw", "--option", "learning_rate=0.50", "--option", "weight_decay=0",
                               "--out", folder_.path(), "--start", "3,1e0", "--steps", "7", "--dtype", "f64"});
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  const std::vector<Words> rows = rows_of(contents(file("descend.csv")));
  ASSERT_EQ(rows.size(), 1U + 7 * 8);
  EXPECT_EQ(rows.back()[0], "7");
  EXPECT_EQ(rows.back()[2], "learning_rate=0.5 weight_decay=0");
  EXPECT_EQ(rows[1][4] + "," + rows[1][5], "3,1");
  expect_sound(contents(file("descend.svg")), kRuns + 1);
}

TEST_F(DescendCommand, RefusesWhatIsNoNumberOfSteps) {
  for (const std::string value : {"0", "-1", "10001", "99999999999999999999", "1.5", "nan", "", "x"}) {
    expect_refused({"--steps", value}, {"--steps", '"' + value + '"', "whole number from 1 to 10000"});
  }
}

TEST_F(DescendCommand, RefusesWhatAreNotTwoNumbers) {
  for (const std::string value :
       {"1", "1,", ",1", "1,2,3", "nan,1", "1,nan", "inf,1", "1,-inf", "1e7,0", "1 2", "1, 2", "x,y", "", ","}) {
    expect_refused({"--start", value}, {"--start", '"' + value + '"', "two numbers x1,x2"});
  }
}

TEST_F(DescendCommand, RefusesMethodsOptionsAndDevicesThatThereAreNot) {
  expect_refused({"--out", file("new"), "--method", "adma"}, {"\"adma\"", "gradient_descent"});
  EXPECT_FALSE(fs::exists(file("new")));
  expect_refused({"--method", ""}, {"--method", "empty"});
  expect_refused({"--method", "adam", "--option", "lr=1"}, {"\"lr\"", "learning_rate"});
  expect_refused({"--option", "learning_rate=1"}, {"--option", "--method"});
  expect_refused({"--device", "cuda:63"}, {"cuda:63"});
  expect_refused({"--nonsense"}, {"--nonsense"});
}

TEST_F(DescendCommand, RefusesAFolderThatCannotBeWrittenBeforeItPrintsAnything) {
  std::ofstream(file("file")) << "older";
  fs::create_directories(file("taken/descend.svg"));
  expect_refused({"--out", ""}, {"--out", "empty"});
  expect_refused({"--out", file("missing/deep")}, {"--out", file("missing/deep"), "No such file or directory"});
  expect_refused({"--out", file("file")}, {"--out", file("file"), "a folder"});
  expect_refused({"--out", file("taken")}, {"--out", file("taken/descend.svg"), "is a folder"});
  expect_refused({"--out", "/proc"}, {"/proc"});
  expect_refused({"--json-file", file("missing/json")}, {"--json-file", "no folder"});
  expect_refused({"--out", folder_.path(), "--json-file", file("descend.csv")}, {"--json-file", file("descend.csv")});
  if (::geteuid() != 0) {  // as root everything may be written
    fs::create_directory(file("locked"));
    fs::permissions(file("locked"), fs::perms::owner_read | fs::perms::owner_exec);
    expect_refused({"--out", file("locked")}, {"--out", "denied"});
    fs::permissions(file("locked"), fs::perms::owner_all);
  }
}

}  // namespace
}  // namespace adamant
