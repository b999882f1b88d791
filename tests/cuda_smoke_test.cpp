#include <gtest/gtest.h>
#include "adamant/adamant.hpp"
#include "host/device_memory.hpp"
#include "tests/inputs.hpp"
#include "tests/methods.hpp"
namespace adamant::test {
TEST(Smoke, smoke) {
  host::DeviceMemory memory(Device::cuda(0));
  for (const Case& c : one_case_per_rule()) {
    Optimizer cpu(c.make());
    Optimizer gpu(c.make(), Device::cuda(0));
    std::vector<std::vector<float>> ps, gs;
    std::vector<host::DeviceArray<float>> dp, dg;
    for (int n : {5, 0, 4096, 4097, 10000, 64, 1, 1025, 33}) {
      ps.push_back(spread_values<float>(n, 1, -4, 1));
      gs.push_back(spread_values<float>(n, 2, -8, 2));
      dp.emplace_back(memory, std::span<const float>(ps.back()));
      dg.emplace_back(memory, std::span<const float>(gs.back()));
    }
    for (std::size_t i = 0; i < ps.size(); ++i) {
      cpu.add({.name = std::to_string(i), .parameter = ps[i], .gradient = gs[i]});
      gpu.add({.name = std::to_string(i),
               .parameter = {dp[i].data(), dp[i].count()},
               .gradient = {dg[i].data(), dg[i].count()}});
    }
    for (int t = 0; t < 5; ++t) {
      cpu.step();
      gpu.step();
    }
    for (std::size_t i = 0; i < ps.size(); ++i) {
      ASSERT_EQ(dp[i].read(), ps[i]) << c.name << " " << i;
      ASSERT_EQ(gpu.step_count(TensorId(i)), 5);
    }
  }
}
}  // namespace adamant::test
