// The ceiling that an update on a CUDA device is measured against: kernels that read and write as many streams in the
// same mix and compute next to nothing. They share nothing with the update. Plain C++.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "adamant/types.hpp"

namespace adamant::bench {

inline constexpr int kMostGpuReadWriteStreams = 5;

// What to move: device addresses that are multiples of 16, `words` words of four bytes at each.
struct GpuStreams {
  const void* read_only;
  std::vector<void*> read_write;
  std::int64_t words;
};

// One way to move the streams.
struct GpuCeilingVariant {
  std::string name;
  // Enqueues a pass that reads every word of every stream and writes `word ^ (read_only & mask)` to those that are
  // written. A mask of zero, which the compiler cannot know of, leaves all as it was; tests take another.
  std::function<void(const GpuStreams& streams, std::uint32_t mask, Stream stream)> run;
};

// A sweep over threads of a block, vectors in flight a thread, the cache's hints, and how the range is shared out: a
// tile for each block, or as many blocks as fit that stride over the range. All accesses are 16 bytes wide.
// `read_write_streams` from 1 to kMostGpuReadWriteStreams; for the current device.
std::vector<GpuCeilingVariant> gpu_ceiling_variants(int read_write_streams);

}  // namespace adamant::bench
