// Golden digests: 64-bit digests of 500-step runs of every case, the same on every machine, with every compiler and at
// every SIMD level. They change only through scripts/update_digests.sh, which runs this program with --write.
#include <gtest/gtest.h>

#include <cinttypes>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <map>
#include <string>
#include <utility>

#include "host/measure.hpp"
#include "tests/inputs.hpp"
#include "tests/methods.hpp"

namespace adamant::test {
namespace {

constexpr std::int64_t kCount = 67;
constexpr int kSteps = 500;

// Of the parameter after every step and of all states after the last. Inputs are put together from integers. Every so
// often a gradient is zero, the same as another, or a large power of two.
template <typename Real>
std::uint64_t digest_of_run(const Case& c, SimdLevel level) {
  const Fenced<Real> parameter(spread_values<Real>(kCount, seed_of(c.name), -4, 1), 1);
  const Fenced<Real> gradient(kCount, 3);
  Optimizer optimizer(c.make(), Device::cpu(), {.threads = 1, .simd = level});
  EXPECT_EQ(optimizer.simd(), level);
  const TensorId id = optimizer.add({.name = "x", .parameter = parameter.span(), .gradient = gradient.span()});
  Random random(seed_of(c.name) + 1);
  std::uint64_t digest = 0xcbf29ce484222325ULL;
  for (int t = 0; t < kSteps; ++t) {
    for (Real& g : gradient.span()) {
      g = random.spread<Real>(-9, 1);
      if (random.one_in(16)) g = 0;
      if (random.one_in(64)) g = 16;
    }
    optimizer.step();
    digest = measure::digest(std::span<const Real>(parameter.span()), digest);
  }
  for (const std::string& state : state_names(c.make())) {
    const Real* const values = optimizer.state(id, state).template as<Real>();
    digest = measure::digest(std::span<const Real>(values, kCount), digest);
  }
  return digest;
}

std::uint64_t digest_of_run(const TypedCase& c, SimdLevel level) {
  std::uint64_t digest = 0;
  with_type(c.type, [&]<typename Real>(Real) { digest = digest_of_run<Real>(c.method_case, level); });
  return digest;
}

std::string to_text(std::uint64_t digest) {
  char buffer[20];
  std::snprintf(buffer, sizeof buffer, "%016" PRIx64, digest);
  return buffer;
}

// "case dtype" -> digest
std::map<std::string, std::string> golden_digests() {
  std::map<std::string, std::string> golden;
  std::ifstream file(ADAMANT_SOURCE_DIR "/tests/digests.txt");
  std::string name, type, digest;
  while (file >> name >> type >> digest) golden[name + " " + type] = digest;
  return golden;
}

class Digest : public testing::TestWithParam<TypedCase> {};

TEST_P(Digest, of_500_steps_is_the_golden_one_at_every_simd_level) {
  static const std::map<std::string, std::string> golden = golden_digests();
  const std::string key = GetParam().method_case.name + " " + std::string(name(GetParam().type));
  const auto found = golden.find(key);
  ASSERT_NE(found, golden.end()) << "tests/digests.txt has no line \"" << key << "\": run scripts/update_digests.sh";
  for (const SimdLevel level : simd_levels()) {
    EXPECT_EQ(to_text(digest_of_run(GetParam(), level)), found->second)
        << name(level) << ": the bits of " << key
        << " have changed. If that was meant, scripts/update_digests.sh writes the new digests and prints what changed";
  }
}

INSTANTIATE_TEST_SUITE_P(Table, Digest, testing::ValuesIn(typed(cases())), test_name);

TEST(Digests, there_is_no_line_without_a_case) {
  auto golden = golden_digests();
  for (const TypedCase& c : typed(cases())) golden.erase(c.method_case.name + " " + std::string(name(c.type)));
  EXPECT_TRUE(golden.empty()) << golden.begin()->first << ": run scripts/update_digests.sh";
}

}  // namespace

// The digests of this build as the lines of digests.txt.
void write_digests() {
  for (const TypedCase& c : typed(cases())) {
    std::printf("%s %s %s\n", c.method_case.name.c_str(), std::string(name(c.type)).c_str(),
                to_text(digest_of_run(c, simd_levels().front())).c_str());
  }
}

}  // namespace adamant::test

int main(int argc, char** argv) {
  if (argc == 2 && std::strcmp(argv[1], "--write") == 0) {
    adamant::test::write_digests();
    return 0;
  }
  testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
