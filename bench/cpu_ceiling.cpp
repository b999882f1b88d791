// Every variant is one instance of the loop in move(): a vector is loaded from each stream, the read-only one times
// zero is added to the others, and they are stored where they came from. The values stay, so the optimizer's own
// buffers can be used; the compiler cannot know that the factor is zero.
#include "bench/cpu_ceiling.hpp"

#include <omp.h>

#include <algorithm>
#include <array>

namespace adamant::bench {
namespace {

volatile float zero_factor = 0.0F;

// Elements that one thread takes at a time in the interleaved schedule: 64 KiB a stream.
constexpr std::int64_t kBlock = 16384;

enum class Schedule : std::uint8_t { contiguous, interleaved };

template <int kWidth>
struct Vector {
  typedef float Type __attribute__((vector_size(kWidth * 4), aligned(4)));
};

template <int kStreams, int kWidth, int kUnroll, int kPrefetchBytes>
[[gnu::always_inline]] inline void move(const float* read_only, float* const* streams, std::int64_t begin,
                                        std::int64_t end) {
  using Wide = typename Vector<kWidth>::Type;
  float* at[kStreams];
  for (int s = 0; s < kStreams; ++s) at[s] = streams[s];
  const float factor = zero_factor;
  std::int64_t i = begin;
  for (; i + kWidth * kUnroll <= end; i += kWidth * kUnroll) {
    if constexpr (kPrefetchBytes > 0) {
      __builtin_prefetch(reinterpret_cast<const char*>(read_only + i) + kPrefetchBytes);
      for (int s = 0; s < kStreams; ++s) {
        __builtin_prefetch(reinterpret_cast<const char*>(at[s] + i) + kPrefetchBytes, 1);
      }
    }
#pragma GCC unroll 8
    for (int u = 0; u < kUnroll; ++u) {
      const Wide add = *reinterpret_cast<const Wide*>(read_only + i + u * kWidth) * factor;
#pragma GCC unroll 8
      for (int s = 0; s < kStreams; ++s) {
        auto* const place = reinterpret_cast<Wide*>(at[s] + i + u * kWidth);
        *place = *place + add;
      }
    }
  }
  for (; i < end; ++i) {
    for (int s = 0; s < kStreams; ++s) at[s][i] += read_only[i] * factor;
  }
}

// The levels differ only in the instructions the compiler may use for the same loop.
template <int kStreams, int kWidth, int kUnroll, int kPrefetchBytes>
struct Baseline {
  static void run(const float* r, float* const* s, std::int64_t b, std::int64_t e) {
    move<kStreams, kWidth, kUnroll, kPrefetchBytes>(r, s, b, e);
  }
};
#if defined(__x86_64__)
template <int kStreams, int kWidth, int kUnroll, int kPrefetchBytes>
struct Avx2 {
  [[gnu::target("avx2")]] static void run(const float* r, float* const* s, std::int64_t b, std::int64_t e) {
    move<kStreams, kWidth, kUnroll, kPrefetchBytes>(r, s, b, e);
  }
};
template <int kStreams, int kWidth, int kUnroll, int kPrefetchBytes>
struct Avx512 {
  [[gnu::target("avx512f")]] static void run(const float* r, float* const* s, std::int64_t b, std::int64_t e) {
    move<kStreams, kWidth, kUnroll, kPrefetchBytes>(r, s, b, e);
  }
};
#endif

using Loop = void (*)(const float*, float* const*, std::int64_t, std::int64_t);

template <template <int, int, int, int> class Level, int kWidth, int kUnroll, int kPrefetchBytes>
constexpr std::array<Loop, kMostReadWriteStreams> kLoops = {
    &Level<1, kWidth, kUnroll, kPrefetchBytes>::run, &Level<2, kWidth, kUnroll, kPrefetchBytes>::run,
    &Level<3, kWidth, kUnroll, kPrefetchBytes>::run, &Level<4, kWidth, kUnroll, kPrefetchBytes>::run,
    &Level<5, kWidth, kUnroll, kPrefetchBytes>::run};

template <template <int, int, int, int> class Level, int kWidth, int kUnroll, int kPrefetchBytes, Schedule kSchedule>
void run(const float* read_only, std::span<float* const> read_write, std::int64_t count, int threads) {
  const Loop loop = kLoops<Level, kWidth, kUnroll, kPrefetchBytes>.at(read_write.size() - 1);
#pragma omp parallel num_threads(threads)
  {
    if constexpr (kSchedule == Schedule::contiguous) {
      const std::int64_t blocks = (count + kBlock - 1) / kBlock;
      const std::int64_t me = omp_get_thread_num();
      const std::int64_t all = omp_get_num_threads();
      loop(read_only, read_write.data(), std::min(count, blocks * me / all * kBlock),
           std::min(count, blocks * (me + 1) / all * kBlock));
    } else {
#pragma omp for schedule(static, 1)
      for (std::int64_t begin = 0; begin < count; begin += kBlock) {
        loop(read_only, read_write.data(), begin, std::min(count, begin + kBlock));
      }
    }
  }
}

template <template <int, int, int, int> class Level, int kWidth>
void add_level(std::vector<CeilingVariant>& list, const std::string& level) {
  list.push_back({level, &run<Level, kWidth, 1, 0, Schedule::contiguous>});
  list.push_back({level + " unroll 4", &run<Level, kWidth, 4, 0, Schedule::contiguous>});
  list.push_back({level + " unroll 4 prefetch 1 KiB", &run<Level, kWidth, 4, 1024, Schedule::contiguous>});
  list.push_back({level + " unroll 4 prefetch 4 KiB", &run<Level, kWidth, 4, 4096, Schedule::contiguous>});
  list.push_back({level + " unroll 4 interleaved", &run<Level, kWidth, 4, 0, Schedule::interleaved>});
  list.push_back({level + " unroll 4 prefetch 1 KiB interleaved", &run<Level, kWidth, 4, 1024, Schedule::interleaved>});
}

}  // namespace

std::vector<CeilingVariant> ceiling_variants() {
  std::vector<CeilingVariant> list;
  add_level<Baseline, 4>(list, "baseline");
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2")) add_level<Avx2, 8>(list, "avx2");
  if (__builtin_cpu_supports("avx512f")) add_level<Avx512, 16>(list, "avx512");
#endif
  return list;
}

}  // namespace adamant::bench
