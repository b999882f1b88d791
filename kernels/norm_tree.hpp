// The shape of the tree that adds up to kChunk numbers, the same on every backend: kAccumulators sums, number j of the
// values j, j + kAccumulators, ... in that order; then the upper half of the sums is added to the lower until one is
// left. What is missing of a chunk counts as zero, which changes nothing: the numbers are squares.
#pragma once

#include <cstdint>

#include "adamant/tuning.hpp"

namespace adamant::kernels {

inline constexpr int kAccumulators = 1024;
inline constexpr int kRows = static_cast<int>(kChunk) / kAccumulators;

}  // namespace adamant::kernels
