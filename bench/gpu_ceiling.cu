// Every variant is one instance of move(): bytes read and written per word of four bytes are 4 (n + 1) and 4 n for n
// streams that are written. Addresses are multiples of 16: the caller's buffers are aligned to 256.
#include "bench/gpu_ceiling.hpp"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <array>
#include <limits>
#include <stdexcept>

#include "kernels/cuda_scopes.hpp"

namespace adamant::bench {
namespace {

// The largest block of the sweep; it leaves a thread 128 registers, enough for four vectors of five streams.
constexpr int kMostThreads = 512;
constexpr int kMostUnrolledStreams = 5;
constexpr int kMostUnrolledReadWrite = 6;
constexpr int kWordsPerVector = 4;

enum class Hint { none, streaming };  // streaming: lines that nobody will read again soon
enum class Schedule { tile, grid_stride };

template <int kStreams>
struct Arguments {
  const uint4* read_only;
  uint4* read_write[kStreams];
  std::int64_t words;
  std::uint32_t mask;
};

template <Hint kHint>
__device__ __forceinline__ uint4 load(const uint4* from) {
  if constexpr (kHint == Hint::streaming) return __ldcs(from);
  return *from;
}
template <Hint kHint>
__device__ __forceinline__ void store(uint4* to, const uint4& value) {
  if constexpr (kHint == Hint::streaming) {
    __stcs(to, value);
  } else {
    *to = value;
  }
}

__device__ __forceinline__ uint4 mixed(const uint4& value, const uint4& with, std::uint32_t mask) {
  return {value.x ^ (with.x & mask), value.y ^ (with.y & mask), value.z ^ (with.z & mask), value.w ^ (with.w & mask)};
}

template <int kStreams, int kUnroll, Hint kHint, Schedule kSchedule>
__global__ void __launch_bounds__(kMostThreads) move(const Arguments<kStreams> arguments) {
  const std::int64_t vectors = arguments.words / kWordsPerVector;
  const std::int64_t tile = static_cast<std::int64_t>(blockDim.x) * kUnroll;
  const std::int64_t stride = kSchedule == Schedule::tile ? vectors : gridDim.x * tile;
  for (std::int64_t begin = blockIdx.x * tile; begin < vectors; begin += stride) {
    const std::int64_t first = begin + threadIdx.x;
    if (begin + tile <= vectors) {
      uint4 add[kUnroll];
      uint4 values[kStreams][kUnroll];
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) add[u] = load<kHint>(arguments.read_only + first + u * blockDim.x);
#pragma unroll
      for (int s = 0; s < kStreams; ++s) {
#pragma unroll
        for (int u = 0; u < kUnroll; ++u) values[s][u] = load<kHint>(arguments.read_write[s] + first + u * blockDim.x);
      }
#pragma unroll
      for (int s = 0; s < kStreams; ++s) {
#pragma unroll
        for (int u = 0; u < kUnroll; ++u) {
          store<kHint>(arguments.read_write[s] + first + u * blockDim.x, mixed(values[s][u], add[u], arguments.mask));
        }
      }
    } else {
      for (std::int64_t i = first; i < vectors; i += blockDim.x) {
        const uint4 add = arguments.read_only[i];
        for (int s = 0; s < kStreams; ++s) {
          arguments.read_write[s][i] = mixed(arguments.read_write[s][i], add, arguments.mask);
        }
      }
    }
    if (kSchedule == Schedule::tile) break;
  }
  // The words after the last whole vector.
  const std::int64_t word = vectors * kWordsPerVector + threadIdx.x;
  if (blockIdx.x == 0 && word < arguments.words) {
    const std::uint32_t add = reinterpret_cast<const std::uint32_t*>(arguments.read_only)[word];
    for (int s = 0; s < kStreams; ++s) {
      reinterpret_cast<std::uint32_t*>(arguments.read_write[s])[word] ^= add & arguments.mask;
    }
  }
}

// How many blocks may be launched: as many as are resident at a time, where they stride over the range.
std::int64_t most_blocks(const void* kernel, int threads, Schedule schedule) {
  if (schedule == Schedule::tile) return std::numeric_limits<std::int64_t>::max();
  int device = 0;
  int multiprocessors = 0;
  int per_multiprocessor = 0;
  ADAMANT_CUDA(cudaGetDevice(&device), "making the ceilings");
  ADAMANT_CUDA(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device), "making the ceilings");
  ADAMANT_CUDA(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&per_multiprocessor, kernel, threads, 0),
               "choosing the blocks of a ceiling");
  return std::int64_t{per_multiprocessor} * multiprocessors;
}

template <typename... Values>
void launch(const void* kernel, std::int64_t blocks, int threads, Stream stream, Values... values) {
  void* pointers[] = {&values...};
  ADAMANT_CUDA(cudaLaunchKernel(kernel, dim3(static_cast<unsigned>(blocks)), dim3(static_cast<unsigned>(threads)),
                                pointers, 0, stream),
               "launching a ceiling");
}

std::string variant_name(int threads, int unroll, Hint hint, Schedule schedule) {
  return "block " + std::to_string(threads) + " unroll " + std::to_string(unroll) +
         (hint == Hint::streaming ? " streaming" : "") + (schedule == Schedule::grid_stride ? " grid-stride" : "");
}

template <int kStreams, int kUnroll, Hint kHint, Schedule kSchedule>
GpuCeilingVariant variant(int threads) {
  const auto* const kernel = reinterpret_cast<const void*>(&move<kStreams, kUnroll, kHint, kSchedule>);
  const std::int64_t most = most_blocks(kernel, threads, kSchedule);
  const auto run = [=](std::span<const MovedArray> arrays, std::int64_t count, std::uint32_t mask, Stream stream) {
    Arguments<kStreams> arguments{};
    arguments.read_only = reinterpret_cast<const uint4*>(arrays.front().data);
    for (int s = 0; s < kStreams; ++s) {
      arguments.read_write[s] = reinterpret_cast<uint4*>(arrays[static_cast<std::size_t>(s) + 1].data);
    }
    arguments.words = count * arrays.front().element_bytes / 4;
    arguments.mask = mask;
    const std::int64_t tile = static_cast<std::int64_t>(threads) * kUnroll * kWordsPerVector;
    const std::int64_t blocks = std::max<std::int64_t>((arguments.words + tile - 1) / tile, 1);
    launch(kernel, std::min(blocks, most), threads, stream, arguments);
  };
  return {variant_name(threads, kUnroll, kHint, kSchedule), run};
}

template <int kStreams>
std::vector<GpuCeilingVariant> variants() {
  std::vector<GpuCeilingVariant> list;
  for (const int threads : {128, 256, kMostThreads}) {
    list.push_back(variant<kStreams, 1, Hint::none, Schedule::tile>(threads));
    list.push_back(variant<kStreams, 2, Hint::none, Schedule::tile>(threads));
    list.push_back(variant<kStreams, 1, Hint::streaming, Schedule::tile>(threads));
    list.push_back(variant<kStreams, 2, Hint::streaming, Schedule::tile>(threads));
    list.push_back(variant<kStreams, 1, Hint::none, Schedule::grid_stride>(threads));
    list.push_back(variant<kStreams, 2, Hint::none, Schedule::grid_stride>(threads));
    if constexpr (kStreams + 1 <= kMostUnrolledStreams) {
      list.push_back(variant<kStreams, 4, Hint::none, Schedule::tile>(threads));
      list.push_back(variant<kStreams, 4, Hint::none, Schedule::grid_stride>(threads));
    }
  }
  return list;
}

// --- Arrays of different element sizes: a thread has units of eight elements, which are a vector of an array of two
// bytes and two of one of four. Eight because the smallest array then has a whole vector.

constexpr int kUnit = 8;
constexpr int kMostReadOnlyVectors = 2;

// One vector of a unit.
struct UnitVector {
  uint4* data;
  int multiple;  // as many vectors has a unit of this array
  int which;     // and this is one of them
};

template <int kReadWrite>
struct MixedArguments {
  UnitVector read_only[kMostReadOnlyVectors];
  UnitVector read_write[kReadWrite];
  UnitVector write_only;
  int read_only_count;
  int read_write_count;
  bool has_write_only;
  std::int64_t count;  // elements
  std::uint32_t mask;
};

// Vector `u` of this thread in the tile that begins at that unit.
__device__ __forceinline__ uint4* place(const UnitVector& vector, std::int64_t begin, int u) {
  return vector.data + begin * vector.multiple + (u * vector.multiple + vector.which) * static_cast<int>(blockDim.x) +
         threadIdx.x;
}

// The halves of words of one element.
__device__ __forceinline__ std::uint16_t* halves_of(const UnitVector& vector, std::int64_t element) {
  return reinterpret_cast<std::uint16_t*>(vector.data) + element * vector.multiple + vector.which;
}

// The elements from `first` on, fewer than a tile.
template <int kReadWrite>
__device__ void move_rest(const MixedArguments<kReadWrite>& arguments, std::int64_t first) {
  for (std::int64_t i = first + threadIdx.x; i < arguments.count; i += blockDim.x) {
    std::uint32_t read = 0;
    for (int v = 0; v < arguments.read_only_count; ++v) read |= *halves_of(arguments.read_only[v], i);
    const auto add = static_cast<std::uint16_t>(read & arguments.mask);
    for (int v = 0; v < arguments.read_write_count; ++v) *halves_of(arguments.read_write[v], i) ^= add;
    if (arguments.has_write_only) *halves_of(arguments.write_only, i) = add;
  }
}

template <int kReadWrite, int kUnroll, Hint kHint, Schedule kSchedule>
__global__ void __launch_bounds__(kMostThreads) move_mixed(const MixedArguments<kReadWrite> arguments) {
  const std::int64_t tile = static_cast<std::int64_t>(blockDim.x) * kUnroll;
  const std::int64_t tiles = arguments.count / (tile * kUnit);
  const std::int64_t stride = kSchedule == Schedule::tile ? tiles + 1 : gridDim.x;
  for (std::int64_t t = blockIdx.x; t < tiles; t += stride) {
    const std::int64_t begin = t * tile;
    uint4 add[kUnroll];
    uint4 values[kReadWrite][kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) add[u] = load<kHint>(place(arguments.read_only[0], begin, u));
    uint4 more[kUnroll] = {};
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      if (arguments.read_only_count > 1) more[u] = load<kHint>(place(arguments.read_only[1], begin, u));
    }
#pragma unroll
    for (int v = 0; v < kReadWrite; ++v) {
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) {
        if (v < arguments.read_write_count) values[v][u] = load<kHint>(place(arguments.read_write[v], begin, u));
      }
    }
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      add[u] = {add[u].x + more[u].x, add[u].y + more[u].y, add[u].z + more[u].z, add[u].w + more[u].w};
      if (arguments.has_write_only) {
        store<kHint>(place(arguments.write_only, begin, u), mixed({}, add[u], arguments.mask));
      }
    }
#pragma unroll
    for (int v = 0; v < kReadWrite; ++v) {
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) {
        if (v < arguments.read_write_count) {
          store<kHint>(place(arguments.read_write[v], begin, u), mixed(values[v][u], add[u], arguments.mask));
        }
      }
    }
  }
  if (blockIdx.x != (kSchedule == Schedule::tile ? tiles : 0)) return;
  move_rest(arguments, tiles * tile * kUnit);
}

template <int kReadWrite>
MixedArguments<kReadWrite> mixed_arguments(std::span<const MovedArray> arrays, std::int64_t count, std::uint32_t mask) {
  MixedArguments<kReadWrite> arguments{};
  arguments.count = count;
  arguments.mask = mask;
  for (const MovedArray& array : arrays) {
    const auto multiple = static_cast<int>(array.element_bytes) / 2;
    for (int which = 0; which < multiple; ++which) {
      const UnitVector vector{reinterpret_cast<uint4*>(array.data), multiple, which};
      if (!array.is_written) {
        arguments.read_only[arguments.read_only_count++] = vector;
      } else if (array.is_read) {
        arguments.read_write[arguments.read_write_count++] = vector;
      } else {
        arguments.write_only = vector;
        arguments.has_write_only = true;
      }
    }
  }
  return arguments;
}

template <int kReadWrite, int kUnroll, Hint kHint, Schedule kSchedule>
GpuCeilingVariant mixed_variant(int threads) {
  const auto* const kernel = reinterpret_cast<const void*>(&move_mixed<kReadWrite, kUnroll, kHint, kSchedule>);
  const std::int64_t most = most_blocks(kernel, threads, kSchedule);
  const auto run = [=](std::span<const MovedArray> arrays, std::int64_t count, std::uint32_t mask, Stream stream) {
    const std::int64_t tile = static_cast<std::int64_t>(threads) * kUnroll * kUnit;
    const std::int64_t blocks = count / tile + 1;  // one more for the rest
    launch(kernel, std::min(blocks, most), threads, stream, mixed_arguments<kReadWrite>(arrays, count, mask));
  };
  return {variant_name(threads, kUnroll, kHint, kSchedule), run};
}

template <int kReadWrite>
std::vector<GpuCeilingVariant> mixed_variants() {
  std::vector<GpuCeilingVariant> list;
  for (const int threads : {128, 256, kMostThreads}) {
    list.push_back(mixed_variant<kReadWrite, 1, Hint::none, Schedule::tile>(threads));
    list.push_back(mixed_variant<kReadWrite, 1, Hint::streaming, Schedule::tile>(threads));
    list.push_back(mixed_variant<kReadWrite, 1, Hint::none, Schedule::grid_stride>(threads));
    if constexpr (kReadWrite <= kMostUnrolledReadWrite) {
      list.push_back(mixed_variant<kReadWrite, 2, Hint::none, Schedule::tile>(threads));
      list.push_back(mixed_variant<kReadWrite, 2, Hint::streaming, Schedule::tile>(threads));
    }
  }
  return list;
}

std::vector<GpuCeilingVariant> mixed_variants_for(std::span<const MovedArray> arrays) {
  constexpr int kMost = 10;
  std::int64_t read_only = 0;
  std::int64_t read_write = 0;
  std::int64_t write_only = 0;
  for (const MovedArray& array : arrays) {
    (!array.is_written ? read_only : array.is_read ? read_write : write_only) += array.element_bytes / 2;
    if (array.element_bytes != 2 && array.element_bytes != 4) read_only = kMostReadOnlyVectors + 1;
  }
  if (read_only < 1 || read_only > kMostReadOnlyVectors || write_only > 1 || read_write > kMost) {
    throw std::invalid_argument("adamant: bench: no ceiling moves these arrays");
  }
  if (read_write <= 2) return mixed_variants<2>();
  if (read_write <= 4) return mixed_variants<4>();
  if (read_write <= kMostUnrolledReadWrite) return mixed_variants<kMostUnrolledReadWrite>();
  return mixed_variants<kMost>();
}

// --- An array that is only read

template <int kUnroll, Hint kHint, Schedule kSchedule>
__global__ void __launch_bounds__(kMostThreads)
    read(const uint4* data, std::int64_t words, std::uint32_t mask, std::uint32_t* sum) {
  const std::int64_t vectors = words / kWordsPerVector;
  const std::int64_t tile = static_cast<std::int64_t>(blockDim.x) * kUnroll;
  const std::int64_t stride = kSchedule == Schedule::tile ? vectors + tile : gridDim.x * tile;
  uint4 all{};
  for (std::int64_t begin = blockIdx.x * tile; begin < vectors; begin += stride) {
    const std::int64_t first = begin + threadIdx.x;
    if (begin + tile <= vectors) {
      uint4 values[kUnroll];
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) values[u] = load<kHint>(data + first + u * static_cast<int>(blockDim.x));
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) all = mixed(all, values[u], ~0U);
    } else {
      for (std::int64_t i = first; i < vectors; i += blockDim.x) all = mixed(all, data[i], ~0U);
    }
  }
  std::uint32_t folded = all.x ^ all.y ^ all.z ^ all.w;
  const std::int64_t word = vectors * kWordsPerVector + threadIdx.x;
  if (blockIdx.x == 0 && word < words) folded ^= reinterpret_cast<const std::uint32_t*>(data)[word];
  // The compiler cannot know that this does not happen, so it has to read.
  if ((folded & mask) != 0) atomicXor(sum, folded & mask);
}

template <int kUnroll, Hint kHint, Schedule kSchedule>
GpuReadCeilingVariant read_variant(int threads) {
  const auto* const kernel = reinterpret_cast<const void*>(&read<kUnroll, kHint, kSchedule>);
  const std::int64_t most = most_blocks(kernel, threads, kSchedule);
  const auto run = [=](const void* data, std::int64_t bytes, std::uint32_t mask, std::uint32_t* sum, Stream stream) {
    const std::int64_t words = bytes / 4;
    const std::int64_t tile = static_cast<std::int64_t>(threads) * kUnroll * kWordsPerVector;
    const std::int64_t blocks = std::max<std::int64_t>((words + tile - 1) / tile, 1);
    launch(kernel, std::min(blocks, most), threads, stream, data, words, mask, sum);
  };
  return {variant_name(threads, kUnroll, kHint, kSchedule), run};
}

}  // namespace

std::vector<GpuCeilingVariant> gpu_ceiling_variants(std::span<const MovedArray> arrays) {
  if (!is_uniform(arrays)) return mixed_variants_for(arrays);
  constexpr std::array kMakers{&variants<1>, &variants<2>, &variants<3>, &variants<4>, &variants<5>};
  static_assert(kMakers.size() == std::size_t{kMostGpuReadWriteStreams});
  return kMakers.at(arrays.size() - 2)();
}

std::vector<GpuReadCeilingVariant> gpu_read_ceiling_variants() {
  std::vector<GpuReadCeilingVariant> list;
  for (const int threads : {128, 256, kMostThreads}) {
    list.push_back(read_variant<1, Hint::none, Schedule::tile>(threads));
    list.push_back(read_variant<4, Hint::none, Schedule::tile>(threads));
    list.push_back(read_variant<4, Hint::streaming, Schedule::tile>(threads));
    list.push_back(read_variant<4, Hint::none, Schedule::grid_stride>(threads));
    list.push_back(read_variant<8, Hint::none, Schedule::grid_stride>(threads));
  }
  return list;
}

}  // namespace adamant::bench
