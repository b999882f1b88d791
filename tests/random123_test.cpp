// The generator of stochastic rounding beside Random123's own, where its headers are (Debian's librandom123-dev).
#include <Random123/philox.h>
#include <gtest/gtest.h>

#include "kernels/philox.hpp"
#include "tests/inputs.hpp"

namespace adamant::test {
namespace {

TEST(Philox, is_that_of_random123) {
  Random random(run_seed());
  const auto word = [&] { return static_cast<std::uint32_t>(random.bits()); };
  for (int i = 0; i < 100000; ++i) {
    const r123::Philox4x32::ctr_type counter{{word(), word(), word(), word()}};
    const r123::Philox4x32::key_type key{{word(), word()}};
    const auto expected = r123::Philox4x32{}(counter, key);
    const kernels::PhiloxCounter got =
        kernels::philox({{counter[0], counter[1], counter[2], counter[3]}}, {{key[0], key[1]}});
    for (std::size_t j = 0; j < 4; ++j) ASSERT_EQ(got.word[j], expected[j]);
  }
}

}  // namespace
}  // namespace adamant::test
