// Every variant is one instance of move(): bytes read and written per word of four bytes are 4 (n + 1) and 4 n for n
// streams that are written. Addresses are multiples of 16: the caller's buffers are aligned to 256.
#include "bench/gpu_ceiling.hpp"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <array>
#include <utility>

#include "kernels/cuda_error.hpp"

namespace adamant::bench {
namespace {

// The largest block of the sweep; it leaves a thread 128 registers, enough for four vectors of five streams.
constexpr int kMostThreads = 512;
constexpr int kMostUnrolledStreams = 5;
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

template <int kStreams, int kUnroll, Hint kHint, Schedule kSchedule>
GpuCeilingVariant variant(int threads, int multiprocessors) {
  const auto* const kernel = reinterpret_cast<const void*>(&move<kStreams, kUnroll, kHint, kSchedule>);
  unsigned most_blocks = 0;  // that are resident at a time
  if constexpr (kSchedule == Schedule::grid_stride) {
    int per_multiprocessor = 0;
    kernels::check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&per_multiprocessor, kernel, threads, 0),
                   "cudaOccupancyMaxActiveBlocksPerMultiprocessor", "choosing the blocks of a ceiling");
    most_blocks = static_cast<unsigned>(per_multiprocessor * multiprocessors);
  }
  const auto run = [=](const GpuStreams& streams, std::uint32_t mask, Stream stream) {
    Arguments<kStreams> arguments{};
    arguments.read_only = static_cast<const uint4*>(streams.read_only);
    for (int s = 0; s < kStreams; ++s) {
      arguments.read_write[s] = static_cast<uint4*>(streams.read_write.at(static_cast<std::size_t>(s)));
    }
    arguments.words = streams.words;
    arguments.mask = mask;
    const std::int64_t tile = static_cast<std::int64_t>(threads) * kUnroll * kWordsPerVector;
    auto blocks = static_cast<unsigned>(std::max<std::int64_t>((streams.words + tile - 1) / tile, 1));
    if (most_blocks != 0) blocks = std::min(blocks, most_blocks);
    void* pointers[] = {&arguments};
    kernels::check(cudaLaunchKernel(kernel, dim3(blocks), dim3(static_cast<unsigned>(threads)), pointers, 0, stream),
                   "cudaLaunchKernel", "launching a ceiling");
  };
  return {"block " + std::to_string(threads) + " unroll " + std::to_string(kUnroll) +
              (kHint == Hint::streaming ? " streaming" : "") +
              (kSchedule == Schedule::grid_stride ? " grid-stride" : ""),
          run};
}

template <int kStreams>
std::vector<GpuCeilingVariant> variants() {
  int device = 0;
  int multiprocessors = 0;
  kernels::check(cudaGetDevice(&device), "cudaGetDevice", "making the ceilings");
  kernels::check(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device),
                 "cudaDeviceGetAttribute", "making the ceilings");
  std::vector<GpuCeilingVariant> list;
  for (const int threads : {128, 256, kMostThreads}) {
    list.push_back(variant<kStreams, 1, Hint::none, Schedule::tile>(threads, multiprocessors));
    list.push_back(variant<kStreams, 2, Hint::none, Schedule::tile>(threads, multiprocessors));
    list.push_back(variant<kStreams, 1, Hint::streaming, Schedule::tile>(threads, multiprocessors));
    list.push_back(variant<kStreams, 2, Hint::streaming, Schedule::tile>(threads, multiprocessors));
    list.push_back(variant<kStreams, 1, Hint::none, Schedule::grid_stride>(threads, multiprocessors));
    list.push_back(variant<kStreams, 2, Hint::none, Schedule::grid_stride>(threads, multiprocessors));
    if constexpr (kStreams + 1 <= kMostUnrolledStreams) {
      list.push_back(variant<kStreams, 4, Hint::none, Schedule::tile>(threads, multiprocessors));
      list.push_back(variant<kStreams, 4, Hint::none, Schedule::grid_stride>(threads, multiprocessors));
    }
  }
  return list;
}

template <std::size_t... kIndices>
auto makers(std::index_sequence<kIndices...> /*indices*/) {
  return std::array{&variants<static_cast<int>(kIndices) + 1>...};
}

}  // namespace

std::vector<GpuCeilingVariant> gpu_ceiling_variants(int read_write_streams) {
  return makers(std::make_index_sequence<kMostGpuReadWriteStreams>{})
      .at(static_cast<std::size_t>(read_write_streams - 1))();
}

}  // namespace adamant::bench
