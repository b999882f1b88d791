// One version, whoever asks: the build system, the headers or the library.
#include <gtest/gtest.h>

#include <string>

#include "adamant/version.hpp"

namespace adamant::test {
namespace {

TEST(Version, is_the_same_in_the_build_system_the_headers_and_the_library) {
  EXPECT_EQ(kVersion, ADAMANT_PROJECT_VERSION);
  EXPECT_EQ(std::to_string(kVersionMajor) + '.' + std::to_string(kVersionMinor) + '.' + std::to_string(kVersionPatch),
            kVersion);
  EXPECT_EQ(version(), kVersion);
}

}  // namespace
}  // namespace adamant::test
