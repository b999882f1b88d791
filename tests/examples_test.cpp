// The examples, as programs: what they end with, that they train, and the bits that they train to.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "adamant/adamant.hpp"
#include "program.hpp"

namespace adamant {
namespace {

namespace fs = std::filesystem;
using test::contents;
using test::Folder;
using test::Outcome;
using test::run_program;
using Words = std::vector<std::string>;

constexpr double kAccuracyWanted = 0.95;
constexpr int kEpochs = 30;
const fs::path kImages = fs::path(ADAMANT_SOURCE_DIR) / "examples" / "digits" / "digits.csv";

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  return lines;
}

// The lines "digest METHOD NUMBER" of a text.
std::map<std::string, std::string> digests_in(const std::string& text) {
  std::map<std::string, std::string> digests;
  for (const std::string& line : lines_of(text)) {
    std::istringstream words(line);
    std::string first;
    std::string method;
    std::string number;
    if (words >> first >> method >> number && first == "digest") digests[method] = number;
  }
  return digests;
}

// Of the lines "method,epoch,loss,accuracy" those of the last epoch.
struct Row {
  double loss;
  double accuracy;
};
std::map<std::string, Row> last_epoch(const fs::path& csv) {
  std::map<std::string, Row> rows;
  for (std::string line : lines_of(contents(csv))) {
    for (char& character : line) character = character == ',' ? ' ' : character;
    std::istringstream words(line);
    std::string method;
    int epoch = -1;
    Row row{};
    if (words >> method >> epoch >> row.loss >> row.accuracy && epoch == kEpochs) rows[method] = row;
  }
  return rows;
}

void expect_error(const Words& more, int exit_code, const Words& parts) {
  const Words all = [&] {
    Words words{ADAMANT_DIGITS};
    words.insert(words.end(), more.begin(), more.end());
    return words;
  }();
  const Outcome outcome = run_program(all);
  EXPECT_EQ(outcome.exit_code, exit_code) << to_text(all, outcome);
  EXPECT_TRUE(outcome.err.starts_with("digits: ")) << to_text(all, outcome);
  for (const std::string& part : parts) EXPECT_NE(outcome.err.find(part), std::string::npos) << to_text(all, outcome);
}

TEST(Digits, AreLearnedByEveryMethodToTheAccuracyAskedForAndToTheCommittedBits) {
  const Folder folder;
  const Words words{ADAMANT_DIGITS, "--out", folder.file("new/report")};
  const Outcome outcome = run_program(words, {.seconds = 300});
  ASSERT_EQ(outcome.exit_code, 0) << to_text(words, outcome);
  const std::map<std::string, Row> rows = last_epoch(folder.path() / "new/report/digits.csv");
  EXPECT_EQ(rows.size(), adamant::method_names().size());
  for (const auto& [method, row] : rows) {
    std::printf("%-16s loss %.5f, held-out accuracy %.2f %%\n", method.c_str(), row.loss, 100 * row.accuracy);
    EXPECT_GE(row.accuracy, kAccuracyWanted) << method;
    EXPECT_LT(row.loss, 0.1) << method;
  }
  for (const char* method : {"momentum", "rmsprop", "adam"}) EXPECT_TRUE(rows.contains(method)) << method;
  EXPECT_EQ(digests_in(outcome.out), digests_in(contents(fs::path(ADAMANT_SOURCE_DIR) / "tests/digits_digests.txt")))
      << "the bits of the trained networks are others than before; if they are meant to be, the lines \"digest ...\" "
         "that the example prints belong in tests/digits_digests.txt";
}

TEST(Digits, GiveAMethodTheSameBitsAloneAndAgain) {
  const auto trained = [](const Words& words) { return digests_in(run_program(words).out); };
  const auto all = trained({ADAMANT_DIGITS, "--epochs", "1"});
  EXPECT_EQ(all.size(), adamant::method_names().size());
  EXPECT_EQ(trained({ADAMANT_DIGITS, "--epochs", "1"}), all);
  for (const auto& [method, digest] : all) {
    const std::map<std::string, std::string> wanted{{method, digest}};
    EXPECT_EQ(trained({ADAMANT_DIGITS, "--epochs", "1", "--method", method}), wanted);
    EXPECT_NE(trained({ADAMANT_DIGITS, "--epochs", "1", "--method", method, "--seed", "2"}), wanted);
  }
}

TEST(Digits, SayWhatIsWrongWithTheirArguments) {
  expect_error({"--epochs", "0"}, 2, {"--epochs", "'0'", "usage:"});
  expect_error({"--epochs", "x"}, 2, {"--epochs", "'x'"});
  expect_error({"--epochs", "-1"}, 2, {"--epochs", "'-1'"});
  expect_error({"--seed", "18446744073709551616"}, 2, {"--seed"});
  expect_error({"--method", "adma"}, 2, {"adma", "gradient_descent"});
  expect_error({"--data"}, 2, {"--data needs a value"});
  expect_error({"--data", ""}, 2, {"--data needs a value"});
  expect_error({"--nonsense"}, 2, {"--nonsense"});
  expect_error({"nonsense"}, 2, {"nonsense"});
}

TEST(Digits, SayWhereADataFileIsWrong) {
  const Folder folder;
  const std::vector<std::string> good = lines_of(contents(kImages));
  ASSERT_EQ(good.size(), 1797U);
  // A file of ten lines, the seventh of which is as given.
  const auto with = [&](const std::string& seventh) {
    std::ofstream stream(folder.file("data.csv"));
    for (std::size_t i = 0; i < 10; ++i) stream << (i == 6 ? seventh : good[i]) << '\n';
    return Words{"--data", folder.file("data.csv"), "--epochs", "1"};
  };
  const Words right = with(good[6]);
  EXPECT_EQ(run_program({ADAMANT_DIGITS, right[0], right[1], right[2], right[3]}).exit_code, 0);
  EXPECT_EQ(run_program({ADAMANT_DIGITS, with(good[6] + "\r")[0], right[1], right[2], right[3]}).exit_code, 0);

  const std::string place = folder.file("data.csv") + ":7";
  expect_error(with(good[6].substr(2)), 1, {place, "64"});
  expect_error(with(good[6] + ",1"), 1, {place, "66"});
  expect_error(with(""), 1, {place});
  expect_error(with("17" + good[6].substr(1)), 1, {place, "'17'", "0 to 16"});
  expect_error(with("-1" + good[6].substr(1)), 1, {place, "'-1'"});
  expect_error(with("x" + good[6].substr(1)), 1, {place, "'x'"});
  expect_error(with("" + good[6].substr(1)), 1, {place, "''"});
  expect_error(with(good[6].substr(0, good[6].size() - 1) + "10"), 1, {place, "'10'", "0 to 9"});

  std::ofstream(folder.file("empty.csv")).flush();
  expect_error({"--data", folder.file("empty.csv")}, 1, {"empty.csv", "too few"});
  expect_error({"--data", folder.file("missing.csv")}, 1, {"missing.csv", "cannot be opened"});
  expect_error({"--data", folder.path().string()}, 1, {folder.path().string()});
  expect_error({"--epochs", "1", "--out", "/dev/null/out"}, 1, {"/dev/null/out"});
}

TEST(Minimal, FindsTheParabola) {
  const Outcome outcome = run_program({ADAMANT_MINIMAL});
  EXPECT_EQ(outcome.exit_code, 0);
  const std::vector<std::string> lines = lines_of(outcome.out);
  ASSERT_EQ(lines.size(), 6U) << outcome.out;
  EXPECT_EQ(lines.back(), "y = 3.0000 x^2 -2.0000 x +0.5000");
}

}  // namespace
}  // namespace adamant
