// Whether there is a CUDA device for the tests that need one. No CUDA header.
#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <exception>
#include <memory>
#include <string>
#include <string_view>

#include "kernels/backend.hpp"

namespace adamant::test {

// Why there is no CUDA device to test with; empty when cuda:0 can be used.
inline std::string why_no_device() {
  // Asked once: the answer is the same for the whole process, and a device that has failed fails its test anyhow.
  static const std::string why = []() -> std::string {
    try {
      kernels::make_cuda_backend(0, 0);
      return {};
    } catch (const std::exception& error) {
      return error.what();
    }
  }();
  return why;
}

// Whether a missing device fails a test, instead of skipping it.
inline bool device_required() {
  const char* required = std::getenv("ADAMANT_REQUIRE_CUDA");
  return required != nullptr && std::string_view(required) == "1";
}

// The suite of tests that need a device: skipped with the reason where there is none, failed with
// ADAMANT_REQUIRE_CUDA=1.
class NeedsDevice : public testing::Test {
 protected:
  void SetUp() override {
    if (why_no_device().empty()) return;
    if (device_required()) FAIL() << why_no_device() << ", and ADAMANT_REQUIRE_CUDA=1";
    GTEST_SKIP() << why_no_device();
  }
};

}  // namespace adamant::test
