// Golden digests: 64-bit digests of runs of every case in float32 and in float64, and of every rule in all combinations
// of types at once with the global norm, clipping, skipping and loss scaling; the same on every machine, with every
// compiler, at every SIMD level and on CUDA devices. They change only through scripts/update_digests.sh, which runs
// this program with --write.
#include <gtest/gtest.h>

#include <cinttypes>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "host/device_memory.hpp"
#include "host/safetensors.hpp"
#include "kernels/storage_types.hpp"
#include "tests/control.hpp"
#include "tests/device.hpp"
#include "tests/folder.hpp"
#include "tests/inputs.hpp"
#include "tests/methods.hpp"

namespace adamant::test {
namespace {

constexpr std::int64_t kCount = 67;
constexpr int kSteps = 500;
constexpr int kMixedSteps = 60;

struct GoldenRun {
  Case method_case;
  std::optional<DataType> type;  // every combination of types where it is none
  std::string key() const { return method_case.name + " " + (type ? std::string(name(*type)) : "every_type"); }
  friend void PrintTo(const GoldenRun& run, std::ostream* out) { *out << run.key(); }
};

std::vector<GoldenRun> runs() {
  std::vector<GoldenRun> all;
  for (const TypedCase& c : typed(cases())) all.push_back({c.method_case, c.type});
  for (const Case& c : one_case_per_rule()) all.push_back({c, {}});
  return all;
}

// FNV-1a.
std::uint64_t digest_of(std::span<const std::byte> bytes, std::uint64_t digest = 0xcbf29ce484222325ULL) {
  for (const std::byte byte : bytes) digest = (digest ^ std::to_integer<std::uint64_t>(byte)) * 0x100000001b3ULL;
  return digest;
}

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
  std::uint64_t digest = digest_of({});
  for (int t = 0; t < kSteps; ++t) {
    for (Real& g : gradient) {
      g = random.spread<Real>(-9, 1);
      if (random.one_in(16)) g = 0;
      if (random.one_in(64)) g = 16;
    }
    memory.write(gradients.data() + 3, std::as_bytes(std::span(gradient)));
    optimizer.step();
    const std::vector<Real> now = parameters.read();
    digest = digest_of(std::as_bytes(std::span(now).subspan(1)), digest);
  }
  std::vector<Real> values(kCount);
  for (const std::string& state : state_names(c.make())) {
    memory.read(std::as_writable_bytes(std::span(values)), optimizer.state(id, state).data());
    digest = digest_of(std::as_bytes(std::span(values)), digest);
  }
  return digest;
}

// Of everything that a checkpoint holds of the tensors after the last step, and of the report after every one. Steps
// are skipped, clipped or neither, and the loss scale goes up and down.
std::uint64_t digest_of_mixed_run(const Case& c, Device device, const Tuning& tuning) {
  std::vector<Shape> shapes;
  for (const kernels::StorageTypes& types : kernels::storages()) {
    const bool small = shapes.size() % 4 != 0;
    shapes.push_back({.count = small ? kCount : kChunk + kCount,
                      .gradient = types.gradient,
                      .parameter = types.parameter,
                      .master = types.master,
                      .offset = static_cast<int>(shapes.size() % 3),
                      .state = types.state});
  }
  ControlModel model(c.make(), device, shapes, tuning);
  model.optimizer.set_control({.non_finite = NonFinite::skip,
                               .clip_norm = 20.0,
                               .clip_value = 0.25,
                               .loss_scale = LossScale{.initial = 4, .growth_interval = 7},
                               .seed = seed_of(c.name)});
  std::uint64_t digest = digest_of({});
  for (int t = 0; t < kMixedSteps; ++t) {
    // One in three has a norm that is not clipped.
    model.set_gradients(static_cast<std::uint64_t>(t), t % 3 == 0 ? -9 : -4, t % 3 == 0 ? -5 : 2);
    if (t % 11 == 10) model.spoil(static_cast<std::size_t>(t) % shapes.size(), kCount - 1, HUGE_VAL);
    model.optimizer.step();
    const std::string report = text_of(model.optimizer.report());
    digest = digest_of(std::as_bytes(std::span(report)), digest);
  }
  const Folder folder;
  model.optimizer.save(folder.file("all"));
  const auto file = safetensors::File::open(folder.file("all"));
  std::map<std::string, std::span<const std::byte>> arrays;
  for (const safetensors::Entry& entry : file.entries()) arrays[entry.name] = entry.data;
  for (const auto& [name, bytes] : arrays) digest = digest_of(bytes, digest);
  return digest;
}

std::uint64_t digest_of_run(const GoldenRun& run, Device device, const Tuning& tuning) {
  if (!run.type) return digest_of_mixed_run(run.method_case, device, tuning);
  std::uint64_t digest = 0;
  with_type(*run.type, [&]<typename Real>(Real) { digest = digest_of_run<Real>(run.method_case, device, tuning); });
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

void expect_golden(const GoldenRun& run, Device device, const Tuning& tuning, const std::string& where) {
  static const std::map<std::string, std::string> golden = golden_digests();
  const std::string key = run.key();
  const auto found = golden.find(key);
  ASSERT_NE(found, golden.end()) << "tests/digests.txt has no line \"" << key << "\": run scripts/update_digests.sh";
  EXPECT_EQ(to_text(digest_of_run(run, device, tuning)), found->second)
      << where << ": the bits of " << key
      << " have changed. If that was meant, scripts/update_digests.sh writes the new digests and prints what changed";
}

class Digest : public testing::TestWithParam<GoldenRun> {};

TEST_P(Digest, of_a_run_is_the_golden_one_at_every_simd_level) {
  for (const SimdLevel level : simd_levels()) {
    expect_golden(GetParam(), Device::cpu(), {.threads = 1, .simd = level}, std::string(name(level)));
  }
}

TEST_P(Digest, of_a_run_is_the_golden_one_on_a_cuda_device) {
  ADAMANT_NEEDS_DEVICE();
  expect_golden(GetParam(), cuda_device(), {}, "the device");
}

INSTANTIATE_TEST_SUITE_P(Table, Digest, testing::ValuesIn(runs()), [](const auto& info) {
  std::string name = info.param.key();
  name[name.find(' ')] = '_';
  return name;
});

TEST(Digests, there_is_no_line_without_a_case) {
  auto golden = golden_digests();
  for (const GoldenRun& run : runs()) golden.erase(run.key());
  EXPECT_TRUE(golden.empty()) << golden.begin()->first << ": run scripts/update_digests.sh";
}

}  // namespace

// The digests of this build as the lines of digests.txt.
void write_digests() {
  for (const GoldenRun& run : runs()) {
    const std::uint64_t digest = digest_of_run(run, Device::cpu(), {.threads = 1, .simd = simd_levels().front()});
    std::printf("%s %s\n", run.key().c_str(), to_text(digest).c_str());
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
