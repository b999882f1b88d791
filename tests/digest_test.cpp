// Golden digests: 64-bit digests of 500-step runs of every case, the same on every machine, with every compiler, at
// every SIMD level and on CUDA devices. They change only through scripts/update_digests.sh, which runs this program
// with --write.
#include <gtest/gtest.h>

#include <cinttypes>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <map>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "host/device_memory.hpp"
#include "host/measure.hpp"
#include "tests/device.hpp"
#include "tests/inputs.hpp"
#include "tests/methods.hpp"

namespace adamant::test {
namespace {

constexpr std::int64_t kCount = 67;
constexpr int kSteps = 500;

// Of the parameter after every step and of all states after the last. Inputs are put together from integers. Every so
// often a gradient is zero, the same as another, or a large power of two.
template <typename Real>
std::uint64_t digest_of_run(const Case& c, Device device, Tuning tuning) {
  host::DeviceMemory memory(device);
  // Begun an element or three behind where the device would align them.
  host::DeviceArray<Real> parameters(memory, kCount + 1);
  host::DeviceArray<Real> gradients(memory, kCount + 3);
  std::vector<Real> parameter = spread_values<Real>(kCount, seed_of(c.name), -4, 1);
  std::vector<Real> gradient(kCount);
  parameter.insert(parameter.begin(), Real{0});
  parameters.write(parameter);
  Optimizer optimizer(c.make(), device, tuning);
  EXPECT_TRUE(device.kind != Device::Kind::cpu || optimizer.simd() == *tuning.simd);
  const TensorId id = optimizer.add(
      {.name = "x", .parameter = {parameters.data() + 1, kCount}, .gradient = {gradients.data() + 3, kCount}});
  Random random(seed_of(c.name) + 1);
  std::uint64_t digest = 0xcbf29ce484222325ULL;
  for (int t = 0; t < kSteps; ++t) {
    for (Real& g : gradient) {
      g = random.spread<Real>(-9, 1);
      if (random.one_in(16)) g = 0;
      if (random.one_in(64)) g = 16;
    }
    memory.write(gradients.data() + 3, std::as_bytes(std::span(gradient)));
    optimizer.step();
    const std::vector<Real> now = parameters.read();
    digest = measure::digest(std::span<const Real>(now).subspan(1), digest);
  }
  std::vector<Real> values(kCount);
  for (const std::string& state : state_names(c.make())) {
    memory.read(std::as_writable_bytes(std::span(values)), optimizer.state(id, state).data());
    digest = measure::digest(std::span<const Real>(values), digest);
  }
  return digest;
}

std::uint64_t digest_of_run(const TypedCase& c, Device device, const Tuning& tuning) {
  std::uint64_t digest = 0;
  with_type(c.type, [&]<typename Real>(Real) { digest = digest_of_run<Real>(c.method_case, device, tuning); });
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

void expect_golden(const TypedCase& c, Device device, const Tuning& tuning, const std::string& where) {
  static const std::map<std::string, std::string> golden = golden_digests();
  const std::string key = c.method_case.name + " " + std::string(name(c.type));
  const auto found = golden.find(key);
  ASSERT_NE(found, golden.end()) << "tests/digests.txt has no line \"" << key << "\": run scripts/update_digests.sh";
  EXPECT_EQ(to_text(digest_of_run(c, device, tuning)), found->second)
      << where << ": the bits of " << key
      << " have changed. If that was meant, scripts/update_digests.sh writes the new digests and prints what changed";
}

class Digest : public testing::TestWithParam<TypedCase> {};

TEST_P(Digest, of_500_steps_is_the_golden_one_at_every_simd_level) {
  for (const SimdLevel level : simd_levels()) {
    expect_golden(GetParam(), Device::cpu(), {.threads = 1, .simd = level}, std::string(name(level)));
  }
}

TEST_P(Digest, of_500_steps_is_the_golden_one_on_a_cuda_device) {
  ADAMANT_NEEDS_DEVICE();
  expect_golden(GetParam(), cuda_device(), {}, "the device");
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
                to_text(digest_of_run(c, Device::cpu(), {.threads = 1, .simd = simd_levels().front()})).c_str());
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
