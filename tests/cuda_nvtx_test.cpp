// The NVTX ranges of a step, as a profiler sees them: tests/nvtx_listener.cpp is one, which NVTX loads into a process
// that runs the steps below.
#include <gtest/gtest.h>

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include "adamant/adamant.hpp"
#include "host/device_memory.hpp"
#include "tests/device.hpp"
#include "tests/folder.hpp"
#include "tests/program.hpp"

namespace adamant::test {
namespace {

using host::DeviceArray;
using host::DeviceMemory;

using CudaNvtx = NeedsDevice;

TEST_F(CudaNvtx, steps_are_taken) {
  DeviceMemory memory(Device::cuda(0));
  const DeviceArray<float> parameter(memory, 100);
  const DeviceArray<float> gradient(memory, 100);
  const DeviceArray<float> other_gradient(memory, 100);
  const DeviceArray<double> wide_parameter(memory, 100);
  const DeviceArray<double> wide_gradient(memory, 100);
  Optimizer optimizer(Adam{}, Device::cuda(0));
  const TensorId tensor =
      optimizer.add({.name = "x", .parameter = {parameter.data(), 100}, .gradient = {gradient.data(), 100}});
  optimizer.step();
  optimizer.add({.name = "y", .parameter = {wide_parameter.data(), 100}, .gradient = {wide_gradient.data(), 100}});
  optimizer.step();
  optimizer.set_gradient(tensor, {other_gradient.data(), 100});
  optimizer.step();
  optimizer.set_gradient(tensor, {gradient.data(), 100});
  optimizer.prepare();
  EXPECT_EQ(optimizer.step_count(tensor), 3);
}

// Runs the test above in a process of its own.
Outcome take_steps() {
  const std::string program = std::filesystem::read_symlink("/proc/self/exe");
  // Whoever runs these tests in parts has set variables that would leave this one to another part.
  const std::vector<std::string> command{"/usr/bin/env",
                                         "-u",
                                         "GTEST_TOTAL_SHARDS",
                                         "-u",
                                         "GTEST_SHARD_INDEX",
                                         program,
                                         "--gtest_filter=CudaNvtx.steps_are_taken"};
  Outcome outcome = run_program(command);
  EXPECT_EQ(outcome.exit_code, 0) << to_text(command, outcome);
  EXPECT_NE(outcome.out.find("[  PASSED  ] 1 test"), std::string::npos) << to_text(command, outcome);
  return outcome;
}

TEST_F(CudaNvtx, ranges_stand_around_a_step_and_each_of_its_launches) {
  const Folder folder;
  const std::string log = folder.file("log");
  ASSERT_EQ(::setenv("NVTX_INJECTION64_PATH", ADAMANT_NVTX_LISTENER, 1), 0);
  ASSERT_EQ(::setenv("ADAMANT_NVTX_LOG", log.c_str(), 1), 0);
  take_steps();
  ::unsetenv("NVTX_INJECTION64_PATH");
  ::unsetenv("ADAMANT_NVTX_LOG");
  EXPECT_EQ(contents(log),
            "adamant: step\n"
            "  adamant: scalars\n"
            "  adamant: update\n"
            "adamant: step\n"
            "  adamant: scalars\n"
            "  adamant: update\n"
            "  adamant: update\n"
            "adamant: step\n"
            "  adamant: refresh\n"
            "  adamant: scalars\n"
            "  adamant: update\n"
            "  adamant: update\n"
            "adamant: refresh\n");
}

TEST_F(CudaNvtx, nothing_is_written_when_nobody_listens) {
  if (std::getenv("NVTX_INJECTION64_PATH") != nullptr) GTEST_SKIP() << "a profiler listens to the tests themselves";
  const Folder folder;
  const std::string log = folder.file("log");
  ASSERT_EQ(::setenv("ADAMANT_NVTX_LOG", log.c_str(), 1), 0);
  const Outcome outcome = take_steps();
  ::unsetenv("ADAMANT_NVTX_LOG");
  EXPECT_FALSE(std::filesystem::exists(log));
  EXPECT_EQ(outcome.err, "");
  EXPECT_EQ(outcome.out.find("NVTX"), std::string::npos) << outcome.out;
}

}  // namespace
}  // namespace adamant::test
