// The ceiling that an update is measured against: kernels that read and write as many streams in the same mix and
// compute next to nothing. They share nothing with the update.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "bench/moved.hpp"

namespace adamant::bench {

// One way to move the streams.
struct CeilingVariant {
  std::string name;
  // Reads `count` words of four bytes of `read_only`, and reads and writes as many of each of `read_write`, which
  // become `value ^ (read & mask)`: a mask of zero, which the compiler cannot know of, leaves them as they were.
  void (*run)(const std::byte* read_only, std::span<std::byte* const> read_write, std::int64_t count,
              std::uint32_t mask, int threads);
};

// Those that this machine can run: a sweep over vector width, unrolling, prefetches (how far ahead, into which cache,
// which lines) and the way the range is shared out. Writes past the caches are not among them: every line that is
// written was just read, and owned.
std::vector<CeilingVariant> ceiling_variants();

inline constexpr int kMostReadWriteStreams = 5;

// The same for arrays of any element sizes, some only read and some only written, each `count` elements long. What is
// read and written becomes `value ^ (read & mask)`, what is only written `read & mask`: words of four bytes, `read` the
// exclusive or of those that are only read, of a block of elements. A mask of zero leaves all that is read as it was.
struct MixedCeilingVariant {
  std::string name;
  std::int64_t block;
  bool past_caches;  // what is only written, whose lines then need not be read: the same as others where nothing is
  std::function<void(std::span<const MovedArray> arrays, std::int64_t count, std::uint32_t mask, int threads)> run;
};
std::vector<MixedCeilingVariant> mixed_ceiling_variants();

// One way to read `bytes` bytes at `data`, and nothing else. Returns the exclusive or of its words of four bytes, the
// last, where it is cut off, filled up with zeros.
struct ReadCeilingVariant {
  std::string name;
  std::function<std::uint32_t(const std::byte* data, std::int64_t bytes, int threads)> run;
};
std::vector<ReadCeilingVariant> read_ceiling_variants();

}  // namespace adamant::bench
