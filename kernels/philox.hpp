// Random bits for stochastic rounding: Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2,
// 3"), a function of a counter and a key, so that no bit depends on launch, threads or backend.
#pragma once

#include <cstdint>

#include "adamant/macros.hpp"

namespace adamant::kernels {

struct PhiloxCounter {
  std::uint32_t word[4];
};
struct PhiloxKey {
  std::uint32_t word[2];
};

ADAMANT_HOST_DEVICE PhiloxCounter philox(PhiloxCounter counter, PhiloxKey key) {
  constexpr int kRounds = 10;
  constexpr std::uint32_t kMultiplier0 = 0xD2511F53;
  constexpr std::uint32_t kMultiplier1 = 0xCD9E8D57;
  constexpr std::uint32_t kWeyl0 = 0x9E3779B9;  // the golden ratio
  constexpr std::uint32_t kWeyl1 = 0xBB67AE85;  // the square root of 3, less 1
#if defined(__CUDA_ARCH__)
#pragma unroll
#endif
  for (int round = 0; round < kRounds; ++round) {
    const std::uint64_t product0 = static_cast<std::uint64_t>(kMultiplier0) * counter.word[0];
    const std::uint64_t product1 = static_cast<std::uint64_t>(kMultiplier1) * counter.word[2];
    counter = {{static_cast<std::uint32_t>(product1 >> 32) ^ counter.word[1] ^ key.word[0],
                static_cast<std::uint32_t>(product1),
                static_cast<std::uint32_t>(product0 >> 32) ^ counter.word[3] ^ key.word[1],
                static_cast<std::uint32_t>(product0)}};
    key = {{key.word[0] + kWeyl0, key.word[1] + kWeyl1}};
  }
  return counter;
}

// Elements that one block of random bits serves, 16 bits each.
inline constexpr int kElementsPerRandomBlock = 8;

// What the random bits of one tensor in one step are keyed by; no two tensors of an Optimizer have the same identity,
// and no two steps below 2^32 the same step.
struct RandomKey {
  PhiloxKey seed;
  std::uint32_t step;
  std::uint32_t tensor;

  // For the eight elements from 8 * block on of the parameter (array 0) or of a state (array 1 + slot). Counts of
  // elements go to 2^59: a block's number has 56 bits and leaves 8 for the array.
  ADAMANT_HOST_DEVICE PhiloxCounter bits(std::uint64_t block, std::uint32_t array) const {
    return philox(
        {{static_cast<std::uint32_t>(block), static_cast<std::uint32_t>(block >> 32) | array << 24, step, tensor}},
        seed);
  }
};

// The 16 bits of element i of a block.
ADAMANT_HOST_DEVICE std::uint32_t random_of_element(const PhiloxCounter& bits, int i) {
  return bits.word[i / 2] >> (16 * (i % 2)) & 0xFFFFU;
}

}  // namespace adamant::kernels
