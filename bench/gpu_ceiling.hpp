// The ceiling that an update on a CUDA device is measured against: kernels that read and write as many streams in the
// same mix and compute next to nothing. They share nothing with the update. Plain C++.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "adamant/types.hpp"
#include "bench/moved.hpp"

namespace adamant::bench {

inline constexpr int kMostGpuReadWriteStreams = 5;  // of arrays that is_uniform()

// One way to move arrays, whose addresses are multiples of 16.
struct GpuCeilingVariant {
  std::string name;
  // Enqueues a pass that reads and writes every byte of every array that is read or written, `count` elements of each.
  // What is both becomes `value ^ (read & mask)`, what is only written `read & mask`, with something that was read:
  // where all have one size, the word at the same place. A mask of zero, which the compiler cannot know of, leaves all
  // that is read as it was; tests take another.
  std::function<void(std::span<const MovedArray> arrays, std::int64_t count, std::uint32_t mask, Stream stream)> run;
};

// Those for such arrays, whose addresses are not looked at, on the current device: a sweep over threads of a block,
// vectors in flight a thread, the cache's hints, and how the range is shared out: a tile for each block, or as many
// blocks as fit that stride over the range. All accesses are 16 bytes wide. Throws std::invalid_argument for more
// arrays, or larger elements, than any method and storage has.
std::vector<GpuCeilingVariant> gpu_ceiling_variants(std::span<const MovedArray> arrays);

// One way to read an array and nothing else.
struct GpuReadCeilingVariant {
  std::string name;
  // Enqueues a pass over `bytes` bytes at `data`, a multiple of 16. With a mask of zero, nothing is written; with one
  // of ones `*sum` becomes `*sum ^ ` every whole word of four bytes.
  std::function<void(const void* data, std::int64_t bytes, std::uint32_t mask, std::uint32_t* sum, Stream stream)> run;
};
std::vector<GpuReadCeilingVariant> gpu_read_ceiling_variants();

}  // namespace adamant::bench
