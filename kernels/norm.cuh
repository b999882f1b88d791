// The sum of the squares of all gradients. A warp adds up a chunk of 4,096 elements in the tree of norm_tree.hpp; the
// warp that completes a node of the plan's tree goes on with that node, up to the last. Which warp that is changes from
// run to run, what it adds does not.
//
// Bytes: every gradient is read once, 16 bytes an access where its address allows it; 8 bytes are written a chunk.
#pragma once

#include <cstdint>

#include "kernels/dependent_launch.cuh"
#include "kernels/device_stream.cuh"
#include "kernels/launch.hpp"
#include "kernels/norm_tree.hpp"
#include "kernels/storage.hpp"
#include "kernels/tuning.hpp"

namespace adamant::kernels {

// Adds up to kChunk numbers with a warp. `load(index, there, values)` gives a vector of them from that index on: the
// first `there`, which may be less than none, and zeros. Accumulator j is held by lane j / kVector % 32 as element j %
// kVector of its vector number j / (32 kVector).
template <int kVector>
struct WarpTree {
  static constexpr int kWarp = 32;
  static constexpr int kVectors = kAccumulators / (kWarp * kVector);

  struct Sums {
    double value[kVector];
  };

  __device__ __forceinline__ static Sums plus(Sums a, const Sums& b) {
#pragma unroll
    for (int i = 0; i < kVector; ++i) a.value[i] = a.value[i] + b.value[i];
    return a;
  }

  // The sums of the vectors k, k + kStride, k + 2 kStride, ...: upper half onto lower half, again and again.
  template <int kStride, typename Load>
  __device__ __forceinline__ static Sums sums(int k, int lane, int count, const Load& load) {
    if constexpr (kStride < kVectors) {
      const Sums lower = sums<2 * kStride>(k, lane, count, load);
      return plus(lower, sums<2 * kStride>(k + kStride, lane, count, load));
    } else {
      Sums result{};
      // Nothing of what is missing changes a sum, and leaving it out is uniform in the warp.
      if (k * kWarp * kVector >= count) return result;
#pragma unroll
      for (int row = 0; row < kRows; ++row) {
        const int index = row * kAccumulators + (k * kWarp + lane) * kVector;
        Sums values;
        // Not clamped to zero: ptxas 13.0 makes one instruction for sm_90 of a clamp to [0, kVector] and of whether the
        // result is kVector, which takes nothing that is left for a whole vector.
        load(index, min(kVector, count - index), values.value);
        result = plus(result, values);
      }
      return result;
    }
  }

  template <typename Load>
  __device__ __forceinline__ static double sum(int lane, int count, const Load& load) {
    Sums all = sums<1>(0, lane, count, load);
#pragma unroll
    for (int offset = kWarp / 2; offset > 0; offset /= 2) {
#pragma unroll
      for (int i = 0; i < kVector; ++i) {
        all.value[i] = all.value[i] + __shfl_xor_sync(0xFFFFFFFFU, all.value[i], offset);
      }
    }
#pragma unroll
    for (int half = kVector / 2; half > 0; half /= 2) {
#pragma unroll
      for (int i = 0; i < half; ++i) all.value[i] = all.value[i] + all.value[i + half];
    }
    return all.value[0];
  }
};

struct NormArguments {
  DeviceTables tables;
  NormTables norm;
  std::int64_t begin;  // leaves
  std::int64_t end;
};

// Hands the value of a leaf or node on to the node `parent`; goes on with each node that it completes.
__device__ __forceinline__ void hand_on(const NormTables& norm, double value, std::int64_t to, std::int64_t parent,
                                        NormNode node, int lane) {
  using Tree = WarpTree<kAccessBytes / sizeof(double)>;
  while (true) {
    int is_last = 0;
    if (lane == 0) {
      norm.values[to] = value;
      __threadfence();
      is_last = atomicAdd(norm.arrived + parent, 1U) == static_cast<unsigned>(node.count) - 1 ? 1 : 0;
    }
    if (__shfl_sync(0xFFFFFFFFU, is_last, 0) == 0) return;
    // A shuffle orders no memory accesses: behind the first lane's fence and the barrier the others may read what it
    // has seen arrive.
    __threadfence();
    __syncwarp();
    const double* const values = norm.values + node.begin;
    const auto load = [&](int index, int there, double(&into)[kAccessBytes / sizeof(double)]) {
#pragma unroll
      for (int i = 0; i < static_cast<int>(kAccessBytes / sizeof(double)); ++i) {
        // Past the first-level cache, which does not see what other blocks have written.
        into[i] = i < there ? __ldcg(values + index + i) : 0.0;
      }
    };
    value = Tree::sum(lane, static_cast<int>(node.count), load);
    if (lane == 0) norm.arrived[parent] = 0;  // for the next step
    if (node.parent < 0) {
      if (lane == 0) {
        norm.measured->sum_of_squares = value;
        norm.measured->non_finite = atomicExch(norm.non_finite, 0);
      }
      return;
    }
    to = node.value;
    parent = node.parent;
    node = norm.nodes[parent];
  }
}

// An infinity less itself is a NaN, and so is a NaN; whatever is finite gives zero. A finite sum of squares says it for
// all values, and so does any sum where they have at most 32 bits, whose squares are far from the largest double. Every
// lane has the same sum.
template <typename Gradient>
__device__ __forceinline__ bool are_finite(const DeviceStream<const Gradient>& values, int count, double sum_of_squares,
                                           int lane) {
  if (sum_of_squares - sum_of_squares == 0.0) return true;
  bool finite = sizeof(Gradient) == sizeof(double);
  if constexpr (sizeof(Gradient) == sizeof(double)) {
    for (int i = lane; i < count; i += WarpTree<1>::kWarp)
      finite = finite && values.global()[i] - values.global()[i] == 0.0;
  }
  return __all_sync(0xFFFFFFFFU, finite ? 1 : 0) != 0;
}

template <typename Gradient>
__global__ void __launch_bounds__(kNormThreads, kNormBlocksPerSm) gradient_norm(const NormArguments arguments) {
  constexpr int kWarp = 32;
  constexpr int kVector = kAccessBytes / sizeof(Gradient);
  using Tree = WarpTree<kVector>;
  const int lane = static_cast<int>(threadIdx.x % kWarp);
  const std::int64_t index =
      arguments.begin + blockIdx.x * static_cast<std::int64_t>(blockDim.x / kWarp) + threadIdx.x / kWarp;
  trigger_next_kernel();
  if (index >= arguments.end) return;
  const NormLeaf leaf = arguments.norm.leaves[index];
  const NormNode node = arguments.norm.nodes[leaf.parent];  // here, because it takes as long to come as the gradients
  const std::int64_t left = arguments.tables.rows[leaf.row].count - leaf.first;
  const int count = static_cast<int>(left < kChunk ? left : kChunk);
  wait_for_previous_kernel();
  const DeviceStream<const Gradient> gradient{static_cast<const Gradient*>(arguments.tables.gradients[leaf.row]) +
                                              leaf.first};
  const auto square = [](const Lanes<Gradient, kVector>& values, double(&squares)[kVector]) {
#pragma unroll
    for (int i = 0; i < kVector; ++i) {
      const auto value = widened<double>(values.get(i));
      squares[i] = value * value;
    }
  };
  double sum = 0.0;
  if (count == kChunk && gradient.is_wide()) {
    // Of known length and alignment: all that is asked about them goes away, and with it a load of every element that
    // is never done.
    sum = Tree::sum(lane, static_cast<int>(kChunk), [&](int at, int /*there*/, double(&squares)[kVector]) {
      Lanes<Gradient, kVector> values;
      gradient.load_wide(at, values);
      square(values, squares);
    });
  } else {
    sum = Tree::sum(lane, count, [&](int at, int there, double(&squares)[kVector]) {
      Lanes<Gradient, kVector> values;
      gradient.load(at, there, values);
      square(values, squares);
    });
  }
  if (!are_finite(gradient, count, sum, lane) && lane == 0) atomicExch(arguments.norm.non_finite, 1);
  hand_on(arguments.norm, sum, leaf.value, leaf.parent, node, lane);
}

}  // namespace adamant::kernels
