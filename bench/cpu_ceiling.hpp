// The ceiling that an update is measured against: kernels that read and write as many streams in the same mix and
// compute next to nothing. They share nothing with the update.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace adamant::bench {

// One way to move the streams.
struct CeilingVariant {
  std::string name;
  // Reads `count` floats of `read_only`, and reads and writes as many of each of `read_write`, leaving their values.
  void (*run)(const float* read_only, std::span<float* const> read_write, std::int64_t count, int threads);
};

// Those that this machine can run: a sweep over vector width, unrolling, distance of prefetch and the way the range is
// shared out. Stores past the cache are not among them: every line that is written was just read, and owned.
std::vector<CeilingVariant> ceiling_variants();

inline constexpr int kMostReadWriteStreams = 5;

}  // namespace adamant::bench
