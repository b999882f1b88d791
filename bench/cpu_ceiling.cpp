// Where all arrays have elements of one size, every variant is one instance of the loop in move(): a vector is loaded
// from each stream, the bits of the read-only one that a mask leaves change those of the others, and they are stored
// where they came from. The mask is zero, which the compiler cannot know: the values stay, so the optimizer's own
// buffers can be used. Bits, because arithmetic would change numbers that are none, as half a float64 may be. Vectors
// are copied in and out because an array may begin anywhere, and a template loses the alignment that a vector type is
// given.
#include "bench/cpu_ceiling.hpp"

#include <omp.h>
#if defined(__x86_64__)
#include <emmintrin.h>
#endif

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>

namespace adamant::bench {
namespace {

// Elements that one thread takes at a time in the interleaved schedule: 64 KiB a stream.
constexpr std::int64_t kBlock = 16384;

enum class Schedule : std::uint8_t { contiguous, interleaved };

template <int kWidth>
struct Words {
  typedef std::uint32_t Type __attribute__((vector_size(kWidth * 4)));
};

// What is asked for ahead: nothing, or so many bytes on, and there every line or one line for all vectors of a pass,
// which leaves the others to the processor.
struct Prefetch {
  int bytes;
  int lines_apart;  // in bytes
  int cache;        // the level to which lines are fetched, 1 or 2
};
constexpr int kCacheLine = 64;
constexpr int kOneOfAPass = 4096;  // more than any pass takes

template <Prefetch kPrefetch>
[[gnu::always_inline]] inline void prefetch(const void* data, std::int64_t bytes) {
  if constexpr (kPrefetch.bytes > 0) {
    for (std::int64_t at = 0; at < bytes; at += kPrefetch.lines_apart) {
      const auto line = reinterpret_cast<std::uintptr_t>(data) + static_cast<std::uintptr_t>(kPrefetch.bytes + at);
      // NOLINTNEXTLINE(performance-no-int-to-ptr): may be beyond the array, where a pointer may not be
      __builtin_prefetch(reinterpret_cast<const void*>(line), 0, 4 - kPrefetch.cache);
    }
  }
}

template <int kStreams, int kWidth, int kUnroll, Prefetch kPrefetch>
[[gnu::always_inline]] inline void move(const std::byte* read_only, std::byte* const* streams, std::int64_t begin,
                                        std::int64_t end, std::uint32_t mask) {
  using Wide = typename Words<kWidth>::Type;
  constexpr std::int64_t kBytes = sizeof(Wide);
  std::byte* at[kStreams];
  for (int s = 0; s < kStreams; ++s) at[s] = streams[s];
  std::int64_t i = 4 * begin;
  for (; i + kBytes * kUnroll <= 4 * end; i += kBytes * kUnroll) {
    prefetch<kPrefetch>(read_only + i, kBytes * kUnroll);
    for (int s = 0; s < kStreams; ++s) prefetch<kPrefetch>(at[s] + i, kBytes * kUnroll);
#pragma GCC unroll 8
    for (int u = 0; u < kUnroll; ++u) {
      Wide change;
      std::memcpy(&change, read_only + i + u * kBytes, sizeof(Wide));
      change &= mask;
#pragma GCC unroll 8
      for (int s = 0; s < kStreams; ++s) {
        std::byte* const place = at[s] + i + u * kBytes;
        Wide value;
        std::memcpy(&value, place, sizeof(Wide));
        value ^= change;
        std::memcpy(place, &value, sizeof(Wide));
      }
    }
  }
  for (; i < 4 * end; ++i) {
    const std::byte change = read_only[i] & static_cast<std::byte>(mask >> 8 * (i % 4));
    for (int s = 0; s < kStreams; ++s) at[s][i] ^= change;
  }
}

// The levels differ only in the instructions the compiler may use for the same loop.
template <int kStreams, int kWidth, int kUnroll, Prefetch kPrefetch>
struct Baseline {
  static void run(const std::byte* r, std::byte* const* s, std::int64_t b, std::int64_t e, std::uint32_t mask) {
    move<kStreams, kWidth, kUnroll, kPrefetch>(r, s, b, e, mask);
  }
};
#if defined(__x86_64__)
template <int kStreams, int kWidth, int kUnroll, Prefetch kPrefetch>
struct Avx2 {
  [[gnu::target("avx2")]] static void run(const std::byte* r, std::byte* const* s, std::int64_t b, std::int64_t e,
                                          std::uint32_t mask) {
    move<kStreams, kWidth, kUnroll, kPrefetch>(r, s, b, e, mask);
  }
};
template <int kStreams, int kWidth, int kUnroll, Prefetch kPrefetch>
struct Avx512 {
  [[gnu::target("avx512f")]] static void run(const std::byte* r, std::byte* const* s, std::int64_t b, std::int64_t e,
                                             std::uint32_t mask) {
    move<kStreams, kWidth, kUnroll, kPrefetch>(r, s, b, e, mask);
  }
};
#endif

using Loop = void (*)(const std::byte*, std::byte* const*, std::int64_t, std::int64_t, std::uint32_t);

template <template <int, int, int, Prefetch> class Level, int kWidth, int kUnroll, Prefetch kPrefetch>
constexpr std::array<Loop, kMostReadWriteStreams> kLoops = {
    &Level<1, kWidth, kUnroll, kPrefetch>::run, &Level<2, kWidth, kUnroll, kPrefetch>::run,
    &Level<3, kWidth, kUnroll, kPrefetch>::run, &Level<4, kWidth, kUnroll, kPrefetch>::run,
    &Level<5, kWidth, kUnroll, kPrefetch>::run};

// Calls part(begin, end) for parts of [0, count), which begin at multiples of kBlock, from all threads.
template <typename Part>
void share_out(std::int64_t count, int threads, Schedule schedule, const Part& part) {
#pragma omp parallel num_threads(threads)
  {
    if (schedule == Schedule::contiguous) {
      const std::int64_t blocks = (count + kBlock - 1) / kBlock;
      const std::int64_t me = omp_get_thread_num();
      const std::int64_t all = omp_get_num_threads();
      part(std::min(count, blocks * me / all * kBlock), std::min(count, blocks * (me + 1) / all * kBlock));
    } else {
#pragma omp for schedule(static, 1)
      for (std::int64_t begin = 0; begin < count; begin += kBlock) part(begin, std::min(count, begin + kBlock));
    }
  }
}

template <template <int, int, int, Prefetch> class Level, int kWidth, int kUnroll, Prefetch kPrefetch>
CeilingVariant variant(const std::string& name, Schedule schedule = Schedule::contiguous) {
  return {name, 0, [schedule](std::span<const MovedArray> arrays, std::int64_t count, std::uint32_t mask, int threads) {
            std::array<std::byte*, kMostReadWriteStreams> read_write{};
            for (std::size_t i = 1; i < arrays.size(); ++i) read_write.at(i - 1) = arrays[i].data;
            const Loop loop = kLoops<Level, kWidth, kUnroll, kPrefetch>.at(arrays.size() - 2);
            const std::int64_t words = count * arrays.front().element_bytes / 4;
            share_out(words, threads, schedule, [&](std::int64_t begin, std::int64_t end) {
              loop(arrays.front().data, read_write.data(), begin, end, mask);
            });
          }};
}

template <template <int, int, int, Prefetch> class Level, int kWidth>
void add_level(std::vector<CeilingVariant>& list, const std::string& level) {
  constexpr Prefetch kNone{0, 0, 0};
  constexpr Prefetch kNear{1024, kCacheLine, 1};
  constexpr Prefetch kIntoSecond{1536, kCacheLine, 2};
  constexpr Prefetch kNearInPart{1024, kOneOfAPass, 1};
  constexpr Prefetch kFarInPart{4096, kOneOfAPass, 1};
  list.push_back(variant<Level, kWidth, 1, kNone>(level));
  list.push_back(variant<Level, kWidth, 4, kNone>(level + " unroll 4"));
  list.push_back(variant<Level, kWidth, 4, kNear>(level + " unroll 4 prefetch 1 KiB"));
  list.push_back(variant<Level, kWidth, 4, kIntoSecond>(level + " unroll 4 prefetch 1.5 KiB into L2"));
  if (4 * 4 * kWidth > kCacheLine) {  // of the one line of a pass there is no part
    list.push_back(variant<Level, kWidth, 4, kNearInPart>(level + " unroll 4 prefetch 1 KiB in part"));
  }
  list.push_back(variant<Level, kWidth, 4, kFarInPart>(level + " unroll 4 prefetch 4 KiB in part"));
  list.push_back(variant<Level, kWidth, 4, kNone>(level + " unroll 4 interleaved", Schedule::interleaved));
  list.push_back(
      variant<Level, kWidth, 4, kNear>(level + " unroll 4 prefetch 1 KiB interleaved", Schedule::interleaved));
}

std::vector<CeilingVariant> uniform_variants() {
  std::vector<CeilingVariant> list;
  add_level<Baseline, 4>(list, "baseline");
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2")) add_level<Avx2, 8>(list, "avx2");
  if (__builtin_cpu_supports("avx512f")) add_level<Avx512, 16>(list, "avx512");
#endif
  return list;
}

// --- Arrays of any element sizes: a block of every array after the other, in one pass

// The exclusive or of the words of four bytes of a range, the last filled up with zeros.
template <int kWidth>
[[gnu::always_inline]] inline std::uint32_t read(const std::byte* data, std::int64_t bytes) {
  using Wide = typename Words<kWidth>::Type;
  constexpr std::int64_t kBytes = sizeof(Wide);
  Wide sums[4] = {};
  std::int64_t i = 0;
  for (; i + 4 * kBytes <= bytes; i += 4 * kBytes) {
#pragma GCC unroll 4
    for (int u = 0; u < 4; ++u) {
      Wide value;
      std::memcpy(&value, data + i + u * kBytes, sizeof(Wide));
      sums[u] ^= value;
    }
  }
  const Wide sum = sums[0] ^ sums[1] ^ sums[2] ^ sums[3];
  std::uint32_t folded = 0;
  for (int w = 0; w < kWidth; ++w) folded ^= sum[w];
  for (; i < bytes; i += 4) {
    std::uint32_t word = 0;
    std::memcpy(&word, data + i, static_cast<std::size_t>(std::min<std::int64_t>(4, bytes - i)));
    folded ^= word;
  }
  return folded;
}

// Writes it past the caches, so that the line need not be read before; where data does not begin at a multiple of 16
// bytes, nothing. Returns how many bytes.
[[gnu::always_inline]] inline std::int64_t write_past_caches(std::byte* data, std::int64_t bytes, std::uint32_t value) {
  std::int64_t i = 0;
#if defined(__x86_64__)
  if (reinterpret_cast<std::uintptr_t>(data) % sizeof(__m128i) != 0) return 0;
  const __m128i wide = _mm_set1_epi32(static_cast<int>(value));
#pragma GCC unroll 4
  for (; i + 16 <= bytes; i += 16) _mm_stream_si128(reinterpret_cast<__m128i*>(data + i), wide);
#endif
  return i;
}

template <int kWidth>
[[gnu::always_inline]] inline void write(std::byte* data, std::int64_t bytes, std::uint32_t add, bool is_read,
                                         bool past_caches) {
  using Wide = typename Words<kWidth>::Type;
  constexpr std::int64_t kBytes = sizeof(Wide);
  const Wide wide = Wide{} + add;
  std::int64_t i = 0;
  if (is_read) {
#pragma GCC unroll 4
    for (; i + kBytes <= bytes; i += kBytes) {
      Wide value;
      std::memcpy(&value, data + i, sizeof(Wide));
      value ^= wide;
      std::memcpy(data + i, &value, sizeof(Wide));
    }
    for (; i < bytes; ++i) data[i] ^= static_cast<std::byte>(add >> 8 * (i % 4));
  } else {
    if (past_caches) i = write_past_caches(data, bytes, add);
#pragma GCC unroll 4
    for (; i + kBytes <= bytes; i += kBytes) std::memcpy(data + i, &wide, sizeof(Wide));
    for (; i < bytes; ++i) data[i] = static_cast<std::byte>(add >> 8 * (i % 4));
  }
}

// How arrays are gone through.
struct Pass {
  std::int64_t block;  // elements
  bool prefetches;
  bool past_caches;  // what is only written
};

template <int kWidth>
[[gnu::always_inline]] inline void move_mixed(std::span<const MovedArray> arrays, std::int64_t begin, std::int64_t end,
                                              const Pass& pass, std::uint32_t mask) {
  for (std::int64_t first = begin; first < end; first += pass.block) {
    const std::int64_t count = std::min(pass.block, end - first);
    if (pass.prefetches) {
      for (const MovedArray& array : arrays) {
        prefetch<Prefetch{1536, kCacheLine, 2}>(array.data + first * array.element_bytes, count * array.element_bytes);
      }
    }
    std::uint32_t add = 0;
    for (const MovedArray& array : arrays) {
      std::byte* const data = array.data + first * array.element_bytes;
      if (array.is_written) {
        write<kWidth>(data, count * array.element_bytes, add & mask, array.is_read, pass.past_caches);
      } else {
        add ^= read<kWidth>(data, count * array.element_bytes);
      }
    }
  }
#if defined(__x86_64__)
  if (pass.past_caches) _mm_sfence();  // other threads may look from here on
#endif
}

struct MixedLevel {
  const char* name;
  void (*move)(std::span<const MovedArray>, std::int64_t, std::int64_t, const Pass&, std::uint32_t);
  std::uint32_t (*read)(const std::byte*, std::int64_t);
};

void move_baseline(std::span<const MovedArray> a, std::int64_t b, std::int64_t e, const Pass& pass,
                   std::uint32_t mask) {
  move_mixed<4>(a, b, e, pass, mask);
}
std::uint32_t read_baseline(const std::byte* data, std::int64_t bytes) { return read<4>(data, bytes); }
#if defined(__x86_64__)
[[gnu::target("avx2")]] void move_avx2(std::span<const MovedArray> a, std::int64_t b, std::int64_t e, const Pass& pass,
                                       std::uint32_t mask) {
  move_mixed<8>(a, b, e, pass, mask);
}
[[gnu::target("avx2")]] std::uint32_t read_avx2(const std::byte* data, std::int64_t bytes) {
  return read<8>(data, bytes);
}
[[gnu::target("avx512f")]] void move_avx512(std::span<const MovedArray> a, std::int64_t b, std::int64_t e,
                                            const Pass& pass, std::uint32_t mask) {
  move_mixed<16>(a, b, e, pass, mask);
}
[[gnu::target("avx512f")]] std::uint32_t read_avx512(const std::byte* data, std::int64_t bytes) {
  return read<16>(data, bytes);
}
#endif

std::vector<MixedLevel> mixed_levels() {
  std::vector<MixedLevel> levels{{"baseline", &move_baseline, &read_baseline}};
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2")) levels.push_back({"avx2", &move_avx2, &read_avx2});
  if (__builtin_cpu_supports("avx512f")) levels.push_back({"avx512", &move_avx512, &read_avx512});
#endif
  return levels;
}

constexpr std::array kSchedules{Schedule::contiguous, Schedule::interleaved};
std::string to_text(Schedule schedule) { return schedule == Schedule::contiguous ? "" : " interleaved"; }

std::vector<CeilingVariant> mixed_variants(bool any_only_written) {
  std::vector<CeilingVariant> list;
  for (const MixedLevel& level : mixed_levels()) {
    for (const Schedule schedule : kSchedules) {
      for (const Pass& pass :
           {Pass{64, false, false}, Pass{64, true, false}, Pass{256, false, false}, Pass{256, true, false},
            Pass{1024, false, false}, Pass{4096, false, false}, Pass{64, false, true}, Pass{64, true, true},
            Pass{256, false, true}, Pass{1024, false, true}}) {
        if (pass.past_caches && !any_only_written) continue;
        list.push_back({std::string(level.name) + " block " + std::to_string(pass.block) +
                            (pass.prefetches ? " prefetch 1.5 KiB into L2" : "") +
                            (pass.past_caches ? " writes past caches" : "") + to_text(schedule),
                        pass.block,
                        [=, move = level.move](std::span<const MovedArray> arrays, std::int64_t count,
                                               std::uint32_t mask, int threads) {
                          share_out(count, threads, schedule, [&](std::int64_t begin, std::int64_t end) {
                            move(arrays, begin, end, pass, mask);
                          });
                        }});
      }
    }
  }
  return list;
}

}  // namespace

std::vector<CeilingVariant> ceiling_variants(std::span<const MovedArray> arrays) {
  if (is_uniform(arrays)) return uniform_variants();
  return mixed_variants(
      std::any_of(arrays.begin(), arrays.end(), [](const MovedArray& array) { return !array.is_read; }));
}

std::vector<ReadCeilingVariant> read_ceiling_variants() {
  std::vector<ReadCeilingVariant> list;
  for (const MixedLevel& level : mixed_levels()) {
    for (const Schedule schedule : kSchedules) {
      list.push_back({std::string(level.name) + to_text(schedule),
                      [=, read = level.read](const std::byte* data, std::int64_t bytes, int threads) {
                        std::atomic<std::uint32_t> all = 0;
                        share_out(bytes, threads, schedule, [&](std::int64_t begin, std::int64_t end) {
                          if (begin < end) all ^= read(data + begin, end - begin);
                        });
                        return all.load();
                      }});
    }
  }
  return list;
}

}  // namespace adamant::bench
