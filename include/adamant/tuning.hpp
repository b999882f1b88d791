/// \file
/// How a step is cut up and run. Nothing in this file can change a result.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "adamant/macros.hpp"

namespace adamant {

/// Instruction sets the CPU backend is compiled for. On other machines than x86-64 there is only `baseline`.
enum class SimdLevel : std::uint8_t {
  baseline,  ///< what every machine of the architecture has (SSE2, NEON)
  avx2,      ///< 256 bits wide, without its fused multiply-add
  avx512,    ///< 512 bits wide: F, VL, DQ and BW
};

/// "baseline", "avx2" or "avx512".
ADAMANT_API std::string_view name(SimdLevel level);

/// The levels that this build has and this machine can run, slowest first.
ADAMANT_API std::vector<SimdLevel> simd_levels();

/// Elements per chunk: tiles are multiples of it, so that no result depends on the tile size.
inline constexpr std::int64_t kChunk = 4096;

/// Choices that change speed and never bits.
struct Tuning {
  /// Threads of a step on the CPU, at most 4096; 0 takes as many as OpenMP would. OpenMP runtimes end the process
  /// where the system refuses them a thread, so ask for no more than it allows.
  int threads = 0;
  /// Elements per tile, a positive multiple of kChunk up to 2^30; 0 chooses: on the CPU 64 Ki elements, which keep a
  /// page walk per stream rare and still give 2^26 parameters a thousand tiles to share out, on a CUDA device kChunk.
  std::int64_t tile = 0;
  /// Instruction set of the CPU; empty takes the best of simd_levels().
  std::optional<SimdLevel> simd = {};
};

}  // namespace adamant
