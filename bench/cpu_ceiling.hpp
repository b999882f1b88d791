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

// One way to move arrays, each `count` elements long: what is read and written becomes `value ^ (read & mask)`, what is
// only written `read & mask`. `read` are words of four bytes of what is only read: where `block` is 0, those at the
// same place, else the exclusive or of those of a block of so many elements. A mask of zero, which the compiler cannot
// know of, leaves all that is read as it was.
struct CeilingVariant {
  std::string name;
  std::int64_t block;
  std::function<void(std::span<const MovedArray> arrays, std::int64_t count, std::uint32_t mask, int threads)> run;
};

// Those that this machine can run for such arrays, whose addresses are not looked at: a sweep over vector width,
// unrolling or blocks, prefetches (how far ahead, into which cache, which lines) and the way the range is shared out.
// Writes past the caches are among them where something is only written, whose lines then need not be read: every other
// line that is written was just read, and owned.
std::vector<CeilingVariant> ceiling_variants(std::span<const MovedArray> arrays);

inline constexpr int kMostReadWriteStreams = 5;  // of arrays that is_uniform()

// One way to read `bytes` bytes at `data`, and nothing else. Returns the exclusive or of its words of four bytes, the
// last, where it is cut off, filled up with zeros.
struct ReadCeilingVariant {
  std::string name;
  std::function<std::uint32_t(const std::byte* data, std::int64_t bytes, int threads)> run;
};
std::vector<ReadCeilingVariant> read_ceiling_variants();

}  // namespace adamant::bench
