// The update loop of the CPU backend, compiled once for each SIMD level with that level's flags. Everything but
// update_table() has internal linkage and everything it calls is inlined: no symbol of this file can be replaced by a
// copy that was compiled with other flags, and none of it can be picked by a machine that lacks the instructions.
//
// Bytes per parameter: every stream is read once and all but the gradient are written once. No alignment is assumed
// beyond that of the element.
#ifndef ADAMANT_SIMD_LEVEL
#error "define ADAMANT_SIMD_LEVEL and include this file from one .cpp per level"
#endif

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#include <type_traits>

#include "host/cpu_update.hpp"
#include "kernels/apply.hpp"
#include "kernels/norm_tree.hpp"
#include "kernels/rule_list.hpp"
#include "kernels/storage.hpp"

namespace adamant::host::ADAMANT_SIMD_LEVEL {
namespace {

// Random bits are made for so many elements at a time, in a loop of their own that vectorises.
constexpr std::int64_t kRandomElements = 512;

struct RandomBits {
  std::uint16_t bits[kRandomElements];

  // For the elements from `first`, a multiple of a random block, on.
  void fill(const kernels::RandomKey& key, std::int64_t first, std::uint32_t array) {
    constexpr std::int64_t kBlocks = kRandomElements / kernels::kElementsPerRandomBlock;
    std::uint32_t words[kernels::kElementsPerRandomBlock / 2][kBlocks];
    const auto block = static_cast<std::uint64_t>(first) / kernels::kElementsPerRandomBlock;
    for (std::int64_t i = 0; i < kBlocks; ++i) {
      const kernels::PhiloxCounter random = key.bits(block + static_cast<std::uint64_t>(i), array);
      for (int word = 0; word < 4; ++word) words[word][i] = random.word[word];
    }
    for (std::int64_t i = 0; i < kBlocks; ++i) {
      for (int word = 0; word < 4; ++word) {
        bits[i * kernels::kElementsPerRandomBlock + 2 * word] = static_cast<std::uint16_t>(words[word][i]);
        bits[i * kernels::kElementsPerRandomBlock + 2 * word + 1] = static_cast<std::uint16_t>(words[word][i] >> 16);
      }
    }
  }
};

// --- Lines of memory

// All figures: float32, 2^26 parameters, two threads of an Intel Xeon with AMX, percent of the ceiling for gradient
// descent, momentum, RMSProp, Adam and AdamW, with AVX-512.
constexpr std::int64_t kCacheLine = 64;
// A pass of the loop takes so many vectors of every array of Real, unrolled: 92 98 101 91 98, and in a loop that the
// compiler unrolls as it likes 86 87 80 86 94. With two vectors 87 92 94 88 94, with eight 85 96 97 87 92.
constexpr std::int64_t kVectorsAtOnce = 4;
constexpr std::int64_t kVectorBytes = SimdLevel::ADAMANT_SIMD_LEVEL == SimdLevel::avx512 ? 64
                                      : SimdLevel::ADAMANT_SIMD_LEVEL == SimdLevel::avx2 ? 32
                                                                                         : 16;
// How far ahead lines are asked for where that helps, by the number of states: 97 for gradient descent, 95 and 97 for
// Adam and AdamW. With one state the processor is fast enough by itself, and asking costs four percent.
constexpr std::int64_t kPrefetchAhead[kernels::kMaxSlots + 1] = {1024, 0, 2048, 2048, 2048};

// Asks for the line so many bytes on, into the cache of that level. Where nothing is, asking does nothing. Always
// inline, because GCC drops calls of functions that only ask.
template <int kLevel>
[[gnu::always_inline]] inline void prefetch(const void* array, std::int64_t bytes) {
  const auto line = reinterpret_cast<std::uintptr_t>(array) + static_cast<std::uintptr_t>(bytes);
  // NOLINTNEXTLINE(performance-no-int-to-ptr): not a pointer's arithmetic, which ends with the array
  __builtin_prefetch(reinterpret_cast<const void*>(line), 0, 4 - kLevel);
}

// For `count` elements from `array` on, so many bytes ahead; into the second level, because in the first, lines that
// wait for their turn put out others.
template <std::int64_t kAhead, typename Type>
[[gnu::always_inline]] inline void ask_ahead(const Type* array, std::int64_t count) {
  for (std::int64_t byte = 0; byte < count * static_cast<std::int64_t>(sizeof(Type)); byte += kCacheLine) {
    prefetch<2>(array, kAhead + byte);
  }
}

// Writes memory without reading its lines first, past the caches; other threads may read it after fence(). Both begin
// at multiples of 16 bytes. Of a bfloat16 parameter beside a float32 master it saves 2 bytes of 30: 2 to 6 percent of
// Adam's time, where two threads of an AMD EPYC take five sixths of that time to compute.
#if defined(__SSE2__)
constexpr bool kWritesPastCaches = true;
template <std::int64_t kCount, typename Type>
[[gnu::always_inline]] inline void write_past_caches(Type* array, const Type* values) {
  constexpr std::int64_t kVector = sizeof(__m128i) / sizeof(Type);
  static_assert(kCount % kVector == 0);
  for (std::int64_t i = 0; i < kCount; i += kVector) {
    _mm_stream_si128(reinterpret_cast<__m128i*>(array + i), *reinterpret_cast<const __m128i*>(values + i));
  }
}
[[gnu::always_inline]] inline void fence() { _mm_sfence(); }
#else
constexpr bool kWritesPastCaches = false;
template <std::int64_t kCount, typename Type>
[[gnu::always_inline]] inline void write_past_caches(Type* /*array*/, const Type* /*values*/) {}
[[gnu::always_inline]] inline void fence() {}
#endif

// Packing float16, states of 16 bits and random bits takes longer than memory does: there passes only make it longer.
template <typename Storage>
constexpr bool kWaitsForMemory = !Storage::Master::kIsRandom && !std::is_same_v<typename Storage::Parameter, float16> &&
                                 sizeof(typename Storage::State) == sizeof(typename Storage::Real);

// The slots are parameters of their own because compilers keep `restrict` for those and lose it in arrays; without it
// they do not vectorise. Slots that the rule does not have are never touched, nor is `kept` where nothing is.
template <typename Rule, typename Storage>
void update_streams(const typename Rule::template Step<typename Storage::Real> step,
                    const kernels::Conditions<typename Storage::Real> conditions, const std::int64_t count,
                    typename Storage::Parameter* __restrict parameter,
                    const typename Storage::Gradient* __restrict gradient, typename Storage::Kept* __restrict kept,
                    typename Storage::State* __restrict state0, typename Storage::State* __restrict state1,
                    typename Storage::State* __restrict state2, typename Storage::State* __restrict state3,
                    const RandomBits* __restrict random, const bool prefetches, const bool past_caches) {
  using Real = typename Storage::Real;
  using Master = typename Storage::Master;
  static_assert(kernels::kMaxSlots == 4);
  const auto update_element = [&](std::int64_t i, typename Storage::Parameter & written)
      __attribute__((always_inline)) {
    typename Storage::Parameter x{};
    typename Storage::Kept k{};
    if constexpr (Master::kReadsParameter) x = parameter[i];
    if constexpr (Master::kKeeps) k = kept[i];
    Element<Real, Rule::kSlots> element;
    element.parameter = Master::template full<Real>(x, k);
    if constexpr (Rule::kSlots > 0) element.state[0] = kernels::widened<Real>(state0[i]);
    if constexpr (Rule::kSlots > 1) element.state[1] = kernels::widened<Real>(state1[i]);
    if constexpr (Rule::kSlots > 2) element.state[2] = kernels::widened<Real>(state2[i]);
    if constexpr (Rule::kSlots > 3) element.state[3] = kernels::widened<Real>(state3[i]);
    element = kernels::apply<Rule, Real>(step, conditions, element, kernels::widened<Real>(gradient[i]));
    const auto random_of = [&](int array) -> std::uint32_t {
      if constexpr (Master::kIsRandom) return random[array].bits[i];
      return 0;
    };
    const auto narrowed = [&](int slot) {
      return Storage::narrowed_state(element.state[slot], random_of(Storage::kRandomStates ? 1 + slot : 0));
    };
    Master::split(element.parameter, random_of(0), x, k);
    written = x;
    if constexpr (Master::kKeeps) kept[i] = k;
    if constexpr (Rule::kSlots > 0) state0[i] = narrowed(0);
    if constexpr (Rule::kSlots > 1) state1[i] = narrowed(1);
    if constexpr (Rule::kSlots > 2) state2[i] = narrowed(2);
    if constexpr (Rule::kSlots > 3) state3[i] = narrowed(3);
  };
  std::int64_t done = 0;
  if constexpr (kWaitsForMemory<Storage>) {
    constexpr std::int64_t kAtOnce = kVectorsAtOnce * kVectorBytes / static_cast<std::int64_t>(sizeof(Real));
    constexpr std::int64_t kAhead = kPrefetchAhead[Rule::kSlots];
    // Loops of their own for each way: a branch in one cost gradient descent four percent.
    const auto update_passes = [&](auto asks, auto passes_caches) __attribute__((always_inline)) {
      for (; count - done >= kAtOnce; done += kAtOnce) {
        if constexpr (asks.value) {
          ask_ahead<kAhead>(gradient + done, kAtOnce);
          if constexpr (!passes_caches.value) ask_ahead<kAhead>(parameter + done, kAtOnce);
          if constexpr (Master::kKeeps) ask_ahead<kAhead>(kept + done, kAtOnce);
          if constexpr (Rule::kSlots > 0) ask_ahead<kAhead>(state0 + done, kAtOnce);
          if constexpr (Rule::kSlots > 1) ask_ahead<kAhead>(state1 + done, kAtOnce);
          if constexpr (Rule::kSlots > 2) ask_ahead<kAhead>(state2 + done, kAtOnce);
          if constexpr (Rule::kSlots > 3) ask_ahead<kAhead>(state3 + done, kAtOnce);
        }
        if constexpr (passes_caches.value) {
          alignas(kCacheLine) typename Storage::Parameter values[kAtOnce];
          for (std::int64_t i = done; i < done + kAtOnce; ++i) update_element(i, values[i - done]);
          write_past_caches<kAtOnce>(parameter + done, values);
        } else {
          for (std::int64_t i = done; i < done + kAtOnce; ++i) update_element(i, parameter[i]);
        }
      }
    };
    const auto update_passes_by = [&](auto passes_caches) __attribute__((always_inline)) {
      if (prefetches && kAhead > 0) {
        update_passes(std::bool_constant<(kAhead > 0)>{}, passes_caches);
      } else {
        update_passes(std::false_type{}, passes_caches);
      }
    };
    constexpr bool kMayPass = kWritesPastCaches && !Master::kReadsParameter;
    if (kMayPass && past_caches) {
      while (done < count && reinterpret_cast<std::uintptr_t>(parameter + done) % kCacheLine != 0) {
        update_element(done, parameter[done]);
        ++done;
      }
      update_passes_by(std::bool_constant<kMayPass>{});
      fence();
    } else {
      update_passes_by(std::false_type{});
    }
  }
  for (std::int64_t i = done; i < count; ++i) update_element(i, parameter[i]);
}

template <typename Rule, typename Storage>
void update(const kernels::TensorRow& row, std::int64_t first, std::int64_t count, const TileConditions& conditions) {
  using Real = typename Storage::Real;
  using State = typename Storage::State;
  using Kept = typename Storage::Kept;
  using Step = typename Rule::template Step<Real>;
  static_assert(sizeof(Step) <= kernels::kScalarBytes && alignof(Step) <= alignof(kernels::Scalars));

  Step step;
  __builtin_memcpy(&step, conditions.scalars.bytes, sizeof(Step));
  const auto gradients = kernels::Conditions<Real>::of(conditions.decision, conditions.gradient_sign);
  const auto run = [&](std::int64_t from, std::int64_t there, const RandomBits* random) {
    // Null where the rule has no such slot: adding even to a null pointer that nobody uses is undefined.
    const auto slot = [&](int index) {
      return index < Rule::kSlots ? static_cast<State*>(row.state[index]) + from : nullptr;
    };
    Kept* const kept = Storage::Master::kKeeps ? static_cast<Kept*>(row.kept) + from : nullptr;
    update_streams<Rule, Storage>(step, gradients, there,
                                  static_cast<typename Storage::Parameter*>(row.parameter) + from,
                                  static_cast<const typename Storage::Gradient*>(row.gradient) + from, kept, slot(0),
                                  slot(1), slot(2), slot(3), random, conditions.prefetches, conditions.past_caches);
  };
  if constexpr (Storage::Master::kIsRandom) {
    constexpr int kArrays = Storage::kRandomStates ? 1 + Rule::kSlots : 1;
    RandomBits random[kArrays];
    for (std::int64_t done = 0; done < count; done += kRandomElements) {
      for (int array = 0; array < kArrays; ++array) {
        random[array].fill(conditions.random, first + done, static_cast<std::uint32_t>(array));
      }
      run(first + done, count - done < kRandomElements ? count - done : kRandomElements, random);
    }
  } else {
    run(first, count, nullptr);
  }
}

// --- The tree of kernels/norm_tree.hpp

double halved(double* sums) {
  for (int half = kernels::kAccumulators / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) sums[i] = sums[i] + sums[i + half];
  }
  return sums[0];
}

// Adds whole rows of values to the sums, kRowsAtOnce of them in one pass over the sums; to each sum they are added one
// after the other all the same. Asks for the values one chunk on, on any processor, because rows lie about a page apart
// and what it fetches ahead by itself ends with the page.
template <int kRowsAtOnce, typename Gradient>
void add_rows(const Gradient* __restrict values, std::int64_t count, double* __restrict sums) {
  constexpr std::int64_t kAtOnce = std::int64_t{kRowsAtOnce} * kernels::kAccumulators;
  constexpr int kOfLine = static_cast<int>(kCacheLine / sizeof(Gradient));
  for (; count > 0; count -= kAtOnce, values += kAtOnce) {
    for (int line = 0; line < kernels::kAccumulators; line += kOfLine) {
      for (int row = 0; row < kRowsAtOnce; ++row) {
        prefetch<1>(values + row * kernels::kAccumulators + line, kChunk * static_cast<std::int64_t>(sizeof(Gradient)));
      }
      for (int i = line; i < line + kOfLine; ++i) {
        double sum = sums[i];
        for (int row = 0; row < kRowsAtOnce; ++row) {
          const auto value = kernels::widened<double>(values[row * kernels::kAccumulators + i]);
          sum = sum + value * value;
        }
        sums[i] = sum;
      }
    }
  }
}

// An infinity less itself is a NaN, and so is a NaN; whatever is finite gives zero. A finite sum of squares says it for
// all values, and so does any sum where they have at most 32 bits, whose squares are far from the largest double.
template <typename Gradient>
bool are_finite(const Gradient* values, std::int64_t count, double sum_of_squares) {
  if (sum_of_squares - sum_of_squares == 0.0) return true;
  bool finite = sizeof(Gradient) == sizeof(double);
  if constexpr (sizeof(Gradient) == sizeof(double)) {
    for (std::int64_t i = 0; i < count; ++i) finite = finite && values[i] - values[i] == 0.0;
  }
  return finite;
}

template <typename Gradient>
SumOfSquares sum_of_squares(const void* gradient, std::int64_t count) {
  const auto* const values = static_cast<const Gradient*>(gradient);
  double sums[kernels::kAccumulators] = {};
  const std::int64_t rows = count / kernels::kAccumulators * kernels::kAccumulators;
  if (count == kChunk) {
    add_rows<kernels::kRows>(values, rows, sums);
  } else {
    add_rows<1>(values, rows, sums);
  }
  for (std::int64_t i = rows; i < count; ++i) {
    const auto value = kernels::widened<double>(values[i]);
    sums[i - rows] = sums[i - rows] + value * value;
  }
  const double sum = halved(sums);
  return {sum, are_finite(values, count, sum)};
}

double sum(const double* values, std::int64_t count) {
  double sums[kernels::kAccumulators] = {};
  for (std::int64_t i = 0; i < count; ++i)
    sums[i % kernels::kAccumulators] = sums[i % kernels::kAccumulators] + values[i];
  return halved(sums);
}

template <typename... Types>
struct Norms {
  static constexpr NormFunction kList[] = {&sum_of_squares<Types>...};
};
template <typename... Types>
constexpr const NormFunction* norms(TypeList<Types...> /*types*/) {
  return Norms<Types...>::kList;
}

template <typename Rule, typename... Storages>
constexpr void fill(UpdateFunction* functions, TypeList<Storages...>) {
  ((*functions++ = &update<Rule, Storages>), ...);
}

// All loops in one array: those of the first rule in the order of Storages, then those of the second, and so on.
struct Functions {
  UpdateFunction list[kernels::Rules::kSize * kernels::Storages::kSize];

  template <typename... Rules>
  constexpr explicit Functions(TypeList<Rules...>) : list() {
    UpdateFunction* next = list;
    ((fill<Rules>(next, kernels::Storages{}), next += kernels::Storages::kSize), ...);
  }
};

constexpr Functions kFunctions{kernels::Rules{}};

}  // namespace

UpdateTable update_table() {
  return {SimdLevel::ADAMANT_SIMD_LEVEL, kFunctions.list, norms(kernels::GradientTypes{}), &sum};
}

}  // namespace adamant::host::ADAMANT_SIMD_LEVEL
