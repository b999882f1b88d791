// A fuzz target as an ordinary test, for compilers without libFuzzer: every file of its corpus, and many inputs made
// from them by a seeded generator. --gtest_random_seed varies those.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "tests/fuzz/fuzzing.hpp"
#include "tests/inputs.hpp"

namespace adamant::fuzz {
namespace {

using Input = std::vector<std::uint8_t>;

struct Named {
  std::string name;
  Input bytes;
};

std::vector<Named> corpus() {
  std::vector<Named> all;
  for (const auto& file : std::filesystem::directory_iterator(ADAMANT_FUZZ_CORPUS)) {
    std::ifstream stream(file.path(), std::ios::binary);
    all.push_back({file.path().filename().string(), Input(std::istreambuf_iterator<char>(stream), {})});
  }
  std::sort(all.begin(), all.end(), [](const Named& left, const Named& right) { return left.name < right.name; });
  return all;
}

testing::AssertionResult passes(const Input& input) {
  // Of its own, so that a sanitizer sees a read beyond its end.
  const Input exact(input);
  try {
    LLVMFuzzerTestOneInput(exact.data(), exact.size());
    return testing::AssertionSuccess();
  } catch (const Violation& violation) {
    return testing::AssertionFailure() << violation.what;
  } catch (const std::exception& error) {
    return testing::AssertionFailure() << "an exception that no one expects: " << error.what();
  }
}

// A few of the changes that libFuzzer makes.
Input changed(Input input, const std::vector<Named>& all, test::Random& random) {
  do {
    const auto at = static_cast<std::ptrdiff_t>(input.empty() ? 0 : random.below(std::ssize(input)));
    switch (random.below(6)) {
      case 0:
        if (!input.empty()) input[static_cast<std::size_t>(at)] ^= static_cast<std::uint8_t>(1U << random.below(8));
        break;
      case 1:
        if (!input.empty()) input[static_cast<std::size_t>(at)] = static_cast<std::uint8_t>(random.bits());
        break;
      case 2: input.insert(input.begin() + at, static_cast<std::uint8_t>(random.bits())); break;
      case 3:
        if (!input.empty()) {
          input.erase(input.begin() + at,
                      input.begin() + std::min<std::ptrdiff_t>(std::ssize(input), at + 1 + random.below(8)));
        }
        break;
      case 4: {
        const Input& other = all[static_cast<std::size_t>(random.below(std::ssize(all)))].bytes;
        if (other.empty()) break;
        const auto from = static_cast<std::ptrdiff_t>(random.below(std::ssize(other)));
        const auto length = std::min<std::ptrdiff_t>(std::ssize(other) - from, 1 + random.below(40));
        input.insert(input.begin() + at, other.begin() + from, other.begin() + from + length);
        break;
      }
      default:
        for (std::int64_t i = random.below(24); i > 0; --i) input.push_back(static_cast<std::uint8_t>(random.bits()));
        break;
    }
  } while (!random.one_in(3));
  if (input.size() > 4096) input.resize(4096);
  return input;
}

void run(int inputs) {
  const std::vector<Named> all = corpus();
  ASSERT_FALSE(all.empty()) << ADAMANT_FUZZ_CORPUS;
  const std::uint64_t seed = test::run_seed();
  test::Random random(seed);
  for (int i = 0; i < inputs; ++i) {
    const Input input = changed(all[static_cast<std::size_t>(random.below(std::ssize(all)))].bytes, all, random);
    ASSERT_TRUE(passes(input)) << "input " << i << " of seed " << seed << ": " << testing::PrintToString(input);
  }
  std::printf("  %d inputs of seed %llu\n", inputs, static_cast<unsigned long long>(seed));
}

TEST(ADAMANT_FUZZ_SUITE, holds_for_every_file_of_the_corpus) {
  for (const Named& file : corpus()) EXPECT_TRUE(passes(file.bytes)) << file.name;
}

TEST(ADAMANT_FUZZ_SUITE, holds_for_inputs_changed_at_random) { run(ADAMANT_FUZZ_INPUTS); }

TEST(ADAMANT_FUZZ_SUITE, Full_holds_for_many_inputs_changed_at_random) { run(100 * ADAMANT_FUZZ_INPUTS); }

}  // namespace
}  // namespace adamant::fuzz
