// A program with the library in it, on a machine where no CUDA device can be used, as for most who only try it: it
// starts, is told what is missing, and goes on with the CPU. Where there is a device it is hidden from this program.
#include <gtest/gtest.h>

#include <cstdlib>
#include <string>
#include <vector>

#include "adamant/adamant.hpp"
#include "host/device_memory.hpp"
#include "kernels/backend.hpp"
#include "tests/inputs.hpp"

namespace adamant::test {
namespace {

// Before main(): the driver reads it once.
[[maybe_unused]] const int kHidden = ::setenv("CUDA_VISIBLE_DEVICES", "-1", 1);

std::string why_unavailable() {
  try {
    const Optimizer optimizer(Adam{}, Device::cuda(0));
    return "it is there";
  } catch (const Unavailable& error) {
    return error.what();
  }
}

TEST(NoDevice, is_said_with_what_is_missing_and_what_to_do) {
  const std::string why = why_unavailable();
  EXPECT_TRUE(why.starts_with("adamant: device cuda:0 was asked for, but ")) << why;
  bool is_one_of_these = false;
  for (const char* reason : {"there is no NVIDIA driver on this machine", "the NVIDIA driver is too old",
                             "CUDA sees no device", "the library was built without CUDA"}) {
    is_one_of_these = is_one_of_these || why.find(reason) != std::string::npos;
  }
  EXPECT_TRUE(is_one_of_these) << why;
  EXPECT_NE(why.find("use the CPU"), std::string::npos) << why;
  EXPECT_EQ(why_unavailable(), why) << "asked again, it says something else";
  EXPECT_THROW(host::DeviceMemory(Device::cuda(0)), Unavailable);
  EXPECT_TRUE(kernels::cuda_devices().empty());
}

TEST(NoDevice, leaves_the_cpu_to_work_with) {
  std::vector<float> parameter(100, 1.0F);
  const std::vector<float> gradient(100, 0.5F);
  Optimizer optimizer(GradientDescent{.learning_rate = 0.5});
  optimizer.add({.name = "x", .parameter = parameter, .gradient = gradient});
  EXPECT_NE(why_unavailable(), "it is there");
  optimizer.step();
  EXPECT_EQ(parameter, std::vector<float>(100, 0.75F));
}

}  // namespace
}  // namespace adamant::test
