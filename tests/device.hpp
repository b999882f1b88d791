// What the tests of the CUDA backend share: they skip with the reason where there is no device, and fail there when
// ADAMANT_REQUIRE_CUDA=1. No CUDA header.
#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <string>
#include <string_view>

#include "adamant/adamant.hpp"

namespace adamant::test {

// The device that tests use.
inline Device cuda_device() { return Device::cuda(0); }

// Why there is none; empty when there is one. Asked once a process: on some machines the answer takes a while.
inline const std::string& why_no_device() {
  static const std::string why = [] {
    try {
      const Optimizer probe(GradientDescent{}, cuda_device());
      return std::string();
    } catch (const Unavailable& error) {
      return std::string(error.what());
    }
  }();
  return why;
}

inline bool device_required() {
  const char* required = std::getenv("ADAMANT_REQUIRE_CUDA");
  return required != nullptr && std::string_view(required) == "1";
}

// Whether an emulator runs device code: slower, and a kernel after the other.
inline bool is_emulated() {
  const char* const emulator = std::getenv("ADAMANT_EMULATOR");
  return emulator != nullptr && *emulator != '\0';
}

// For SetUp() and for the beginning of a TEST.
#define ADAMANT_NEEDS_DEVICE()                                                                                        \
  do {                                                                                                                \
    if (adamant::test::why_no_device().empty()) break;                                                                \
    if (adamant::test::device_required()) FAIL() << adamant::test::why_no_device() << ", and ADAMANT_REQUIRE_CUDA=1"; \
    GTEST_SKIP() << adamant::test::why_no_device();                                                                   \
  } while (false)

class NeedsDevice : public testing::Test {
 protected:
  void SetUp() override { ADAMANT_NEEDS_DEVICE(); }
};

template <typename Parameter>
class DeviceTestWithParam : public testing::TestWithParam<Parameter> {
 protected:
  void SetUp() override { ADAMANT_NEEDS_DEVICE(); }
};

}  // namespace adamant::test
