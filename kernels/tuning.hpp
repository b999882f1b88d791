// The tuning values of the CUDA backend, all in one place. None of them can change a result: tests sweep them.
#pragma once

#include <cstdint>

namespace adamant::kernels {

// Threads of a block of the update kernel, and how many such blocks an SM must be able to hold: together they bound the
// registers of a thread to 65,536 / (256 * 4) = 64. One 128-bit load a stream and thread is 64 bytes in flight for
// Adam, so the 1,024 threads that are certain keep 64 KiB in flight on an SM, more than HBM3e needs to hide its
// latency.
inline constexpr int kUpdateThreads = 256;
inline constexpr int kUpdateBlocksPerSm = 4;
// Beside 16-bit arrays a thread takes eight elements of each array; with three states of 32 bits those do not fit 64
// registers. Three blocks leave 80, and keep more bytes in flight than four of any other kernel.
inline constexpr int kUpdateBlocksPerSmOfLargeVectors = 3;

// Without a state a thread has only two loads under way: an SM that can hold 2,048 threads shall, with 32 registers
// each.
inline constexpr int kUpdateBlocksPerSmWithoutState = 8;

// Elements of a tile, as the tables have them.
inline constexpr std::int64_t kDeviceTile = 4096;

// A tile is shared out among blocks so that a thread makes so many passes, of one vector of each array. On an H200,
// Adam in float32 on 10^9 parameters, percent of the ceiling with 256 threads: one pass 99.5, two 99.7, four 97.9; at
// 2^24 parameters 91, 96, 94: a block that ends at once is all looking up, one that lasts scatters its accesses over
// memory.
inline constexpr int kPasses = 2;

// Tiles of at most this many elements are packed: so many threads take one, where a block would take another, so that
// 10,000 tensors of 64 elements are 625 blocks, which an H200 holds at a time with 48 registers. At 512 elements of
// float32 those threads make eight passes, and a block would make one.
inline constexpr std::int64_t kPackedTile = 512;
inline constexpr int kPackedThreads = 16;

// Threads of a block of the scalar kernel, which takes a tensor a thread. Few, because each thread's work is long:
// 10,000 tensors are 157 blocks, one for each SM.
inline constexpr int kScalarThreads = 64;
// 64 registers: a block then fits beside those of an update that still runs, where it waits for that to end.
inline constexpr int kScalarBlocksPerSm = 16;

// Threads of a block of the norm kernel, in which each warp by itself adds up a chunk.
inline constexpr int kNormThreads = 256;
inline constexpr int kNormBlocksPerSm = 2;  // 128 registers: all of a thread's loads may be under way at once

// Refreshes of gradient addresses that may be on their way to the device at a time; one more waits for the first.
inline constexpr int kStagedRefreshes = 4;

// Callers' streams whose last use of an Optimizer's memory is remembered apart; with more, memory that goes waits
// longer.
inline constexpr int kStreamsOfUse = 4;

// Step counts and options live in chunks that never move, so that a captured graph stays right when more are added.
inline constexpr std::int64_t kStepCountsPerChunk = 4096;
inline constexpr std::int64_t kOptionsPerChunk = 64;

}  // namespace adamant::kernels
