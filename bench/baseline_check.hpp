// Whether what a baseline computes is what the library computes.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "adamant/adamant.hpp"

namespace adamant::bench {

// The number of the step that is looked at: not the first, which Momentum takes otherwise.
inline constexpr std::int64_t kCheckedStep = 10;

// Some elements of a tensor, on the host.
struct Window {
  std::vector<float> parameter;
  std::vector<float> gradient;
  std::vector<std::vector<float>> states;
};

// Where step kCheckedStep of a method, which made `after` of `before`, is not the library's within float32 rounding;
// empty when it is nowhere. The library's is computed on the CPU: a CUDA device gives the same bits.
std::string disagreement(const Method& method, const std::vector<Window>& before, const std::vector<Window>& after);

}  // namespace adamant::bench
