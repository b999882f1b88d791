// The update kernel: load, scale, rule, store. One kernel for every rule and storage combination.
//
// Memory traffic: every array of a tile is read once and all but the gradient are written once (a parameter with a
// float32 master is only written; a gradient that is to be zeroed is written too), in 16-byte accesses wherever the
// array's address is a multiple of 16. Tiles begin at multiples of kChunk elements, so this depends on the tensor's
// address alone; it is checked for each tile all the same.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>

#include "kernels/apply.hpp"
#include "kernels/dependent_launch.cuh"
#include "kernels/device_stream.cuh"
#include "kernels/launch.hpp"
#include "kernels/philox.hpp"
#include "kernels/storage.hpp"
#include "kernels/tuning.hpp"

namespace adamant::kernels {

// Numbers of threads as powers of two: shifts, where a division would take many instructions.
inline constexpr unsigned kWarpBits = 5;
inline constexpr unsigned kPackedBits = std::countr_zero(unsigned{kPackedThreads});
static_assert(kPackedThreads == 1 << kPackedBits && kPackedBits < kWarpBits);

// Elements that a thread takes at a time: one access of kAccessBytes of the array with the smallest elements.
template <typename Storage>
inline constexpr int kVector = kAccessBytes / static_cast<int>(std::min({sizeof(typename Storage::Parameter),
                                                                         sizeof(typename Storage::Gradient),
                                                                         sizeof(typename Storage::State)}));

// The arrays of a tile and what one step does to their elements. Lives in shared memory, one copy for each warp or
// packed tile, and is re-read at every use: in registers it would take a third of a thread's budget and cause spills.
template <typename Rule, typename Storage>
struct alignas(16) TileUpdate {
  using Real = typename Storage::Real;
  using Parameter = typename Storage::Parameter;
  using Gradient = typename Storage::Gradient;
  using State = typename Storage::State;
  using Master = typename Storage::Master;
  using Kept = typename Storage::Kept;
  using Step = typename Rule::template Step<Real>;
  static constexpr int kSlots = Rule::kSlots;
  static constexpr int kRoom = kSlots > 0 ? kSlots : 1;
  static constexpr int kCount = kVector<Storage>;
  static_assert(!Master::kIsRandom || kCount == kElementsPerRandomBlock);

  Step step;
  Conditions<Real> conditions;
  DeviceStream<Parameter> parameter;
  DeviceStream<Gradient> gradient;
  DeviceStream<Kept> kept;
  DeviceStream<State> state[kRoom];
  RandomKey random;
  std::int64_t first;  // of the tile, in the tensor
  bool zero_gradient;

  // One vector of each array, as it is stored.
  struct Vector {
    Lanes<Parameter, kCount> parameter;
    Lanes<Gradient, kCount> gradient;
    Lanes<Kept, kCount> kept;
    Lanes<State, kCount> state[kRoom];
  };
  // One element of them that a step has written.
  struct StoredElement {
    Parameter parameter;
    Kept kept;
    State state[kRoom];
  };
  // The random bits of a vector: of the parameter, then of the states.
  struct RandomBits {
    static constexpr unsigned kArrays = 1 + (Storage::kRandomStates ? kSlots : 0);
    PhiloxCounter bits[kArrays];
  };

  // Calls load(array, lanes) for every array that a step reads.
  template <typename Load>
  __device__ __forceinline__ void for_each_read(Vector& vector, const Load& load) const {
    if constexpr (Master::kReadsParameter) load(parameter, vector.parameter);
    load(gradient, vector.gradient);
    if constexpr (Master::kKeeps) load(kept, vector.kept);
#pragma unroll
    for (int slot = 0; slot < kSlots; ++slot) load(state[slot], vector.state[slot]);
  }

  // Element i of a vector after the step.
  __device__ __forceinline__ StoredElement updated_element(const Vector& vector, const RandomBits& bits, int i) const {
    const auto random_bits = [&](int array) -> std::uint32_t {
      if constexpr (Master::kIsRandom) return random_of_element(bits.bits[array], i);
      return 0;
    };
    compiler_barrier();
    StoredElement stored{};
    if constexpr (Master::kReadsParameter) stored.parameter = vector.parameter.get(i);
    if constexpr (Master::kKeeps) stored.kept = vector.kept.get(i);
    Element<Real, kSlots> element;
    element.parameter = Master::template full<Real>(stored.parameter, stored.kept);
#pragma unroll
    for (int slot = 0; slot < kSlots; ++slot) element.state[slot] = widened<Real>(vector.state[slot].get(i));
    element = apply<Rule, Real>(step, conditions, element, widened<Real>(vector.gradient.get(i)));
    Master::split(element.parameter, random_bits(0), stored.parameter, stored.kept);
#pragma unroll
    for (int slot = 0; slot < kSlots; ++slot) {
      stored.state[slot] =
          Storage::narrowed_state(element.state[slot], random_bits(Storage::kRandomStates ? 1 + slot : 0));
    }
    return stored;
  }

  __device__ __forceinline__ void compute(int at, Vector& vector) const {
    RandomBits bits;
    if constexpr (Master::kIsRandom) {
      const auto block = static_cast<std::uint64_t>(first + at) / kElementsPerRandomBlock;
#pragma unroll
      for (unsigned array = 0; array < RandomBits::kArrays; ++array) {
        bits.bits[array] = random.bits(block, array);
      }
    }
#pragma unroll
    for (int i = 0; i < kCount; i += 2) {
      const StoredElement even = updated_element(vector, bits, i);
      const StoredElement odd = updated_element(vector, bits, i + 1);
      vector.parameter.set(i, even.parameter, odd.parameter);
      if constexpr (Master::kKeeps) vector.kept.set(i, even.kept, odd.kept);
#pragma unroll
      for (int slot = 0; slot < kSlots; ++slot) vector.state[slot].set(i, even.state[slot], odd.state[slot]);
    }
  }

  __device__ __forceinline__ void store(int at, int there, const Vector& vector) const {
    compiler_barrier();
    parameter.store(at, there, vector.parameter);
    if constexpr (Master::kKeeps) kept.store(at, there, vector.kept);
#pragma unroll
    for (int slot = 0; slot < kSlots; ++slot) state[slot].store(at, there, vector.state[slot]);
    if (zero_gradient) store_zeros(at, there);
  }

  __device__ __forceinline__ void store_zeros(int at, int there) const {
    gradient.store(at, there, Lanes<Gradient, kCount>{});
  }

  // Updates elements [begin, end) of the tile with a team of threads. `wait_for_scalars()` fills in step, conditions
  // and random, and returns false where the step is skipped. All loads of a pass are issued before the first use of a
  // value; in the first pass, those of whole vectors are issued before the wait.
  template <typename WaitForScalars>
  __device__ __forceinline__ void run(int begin, int end, int rank, int team,
                                      const WaitForScalars& wait_for_scalars) const {
    int at = begin + rank * kCount;
    const auto there = [&] { return min(kCount, end - at); };
    Vector vector;
    for_each_read(vector, [&](const auto& array, auto& lanes) { array.load_early(at, there(), lanes); });
    if (!wait_for_scalars()) {
      if (!zero_gradient) return;
#pragma unroll 1  // else the compiler computes the number of passes, by a division
      for (; at < end; at += team * kCount) store_zeros(at, there());
      return;
    }
    for_each_read(vector, [&](const auto& array, auto& lanes) { array.load_late(at, there(), lanes); });
    // One vector of each array per pass keeps register use low and occupancy high. The compiler would unroll by four,
    // to no avail: it may not move loads above stores.
#pragma unroll 1
    while (at < end) {
      compute(at, vector);
      store(at, there(), vector);
      at += team * kCount;
      compiler_barrier();
      if (at < end) for_each_read(vector, [&](const auto& array, auto& lanes) { array.load(at, there(), lanes); });
    }
  }
};

#if defined(__CUDA_ARCH__)
inline constexpr int kArchitecture = __CUDA_ARCH__;
#else
inline constexpr int kArchitecture = 0;
#endif

template <typename Rule, typename Storage>
constexpr int blocks_per_sm() {
  constexpr bool kIsLarge = kVector<Storage> >= 8;
  constexpr bool kIsDouble = sizeof(typename Storage::Real) == 8;
  constexpr bool kHolds2048Threads = kArchitecture == 800 || kArchitecture == 900 || kArchitecture == 1000;
  if (kHolds2048Threads && Rule::kSlots == 0 && !kIsLarge && !kIsDouble) return kUpdateBlocksPerSmWithoutState;
  const int blocks = Rule::kSlots >= 3 && kIsLarge ? kUpdateBlocksPerSmOfLargeVectors : kUpdateBlocksPerSm;
  // For 10.0 and later nvcc uses another optimizing back end, whose code needs more registers.
  const bool needs_more_registers = kArchitecture >= 1000 && Rule::kSlots >= 2 && (kIsLarge || kIsDouble);
  return needs_more_registers ? blocks - 1 : blocks;
}
template <typename Rule, typename Storage>
inline constexpr int kBlocksPerSm = blocks_per_sm<Rule, Storage>();

template <typename Rule, typename Storage>
__global__ void __launch_bounds__(kUpdateThreads, kBlocksPerSm<Rule, Storage>) update(const UpdateArguments arguments) {
  using Update = TileUpdate<Rule, Storage>;
  if (arguments.is_last == 0) trigger_next_kernel();
  const unsigned whole_blocks = static_cast<unsigned>(arguments.whole) << arguments.part_bits;
  std::int64_t index = arguments.begin + (blockIdx.x >> arguments.part_bits);
  int part = static_cast<int>(blockIdx.x & ((1U << arguments.part_bits) - 1));
  int part_bits = arguments.part_bits;
  int rank = static_cast<int>(threadIdx.x);
  int team = static_cast<int>(blockDim.x);
  unsigned copy_bits = kWarpBits;  // of the number of threads that share a copy of the tile's update
  unsigned lane_mask = ~0U;        // those of the warp
  if (blockIdx.x >= whole_blocks) {
    copy_bits = kPackedBits;
    const unsigned first_lane = threadIdx.x % (1U << kWarpBits) / kPackedThreads * kPackedThreads;
    lane_mask = ((1U << kPackedThreads) - 1) << first_lane;
    index = arguments.begin + arguments.whole +
            (blockIdx.x - whole_blocks) * static_cast<std::int64_t>(blockDim.x >> kPackedBits) +
            (threadIdx.x >> kPackedBits);
    if (index >= arguments.end) return;
    part = 0;
    part_bits = 0;
    rank = static_cast<int>(threadIdx.x % kPackedThreads);
    team = kPackedThreads;
  }
  const bool is_first_of_copy = (threadIdx.x & ((1U << copy_bits) - 1)) == 0;
  const DeviceTables& tables = arguments.tables;
  const Tile tile = tables.tiles[index];
  const DeviceRow& row = tables.rows[tile.row];
  const std::int64_t left = row.count - tile.first;  // here, so that its load overlaps the first lane's lookups

  __shared__ Update shared[kUpdateThreads >> kPackedBits];
  Update& update = shared[threadIdx.x >> copy_bits];
  if (is_first_of_copy) {
    update.parameter = {static_cast<typename Update::Parameter*>(row.parameter) + tile.first};
    void* const gradient = strong_load(tables.gradients + tile.row);
    update.gradient = {static_cast<typename Update::Gradient*>(gradient) + tile.first};
    if constexpr (Update::Master::kKeeps) update.kept = {static_cast<typename Update::Kept*>(row.kept) + tile.first};
#pragma unroll
    for (int slot = 0; slot < Rule::kSlots; ++slot) {
      update.state[slot] = {static_cast<typename Update::State*>(row.state[slot]) + tile.first};
    }
    update.first = tile.first;
    update.zero_gradient = row.zero_gradient != 0;
  }
  __syncwarp(lane_mask);
  const int count = static_cast<int>(left < tables.tile_size ? left : tables.tile_size);
  const int begin = part * static_cast<int>(tables.tile_size >> part_bits);
  const int end = min(begin + static_cast<int>(tables.tile_size >> part_bits), count);
  const RowScalars& scalars = tables.scalars[tile.row];
  // Waits for the scalars kernel, copies the tensor's scalars to shared memory and commits its step count; false where
  // the step is skipped. What was read above, and the tile's arrays, were written before the scalars kernel started, so
  // they may be read before the wait.
  const auto wait_for_scalars = [&] {
    wait_for_previous_kernel();
    const bool skip = scalars.skip != 0;  // here, for the same reason
    if (is_first_of_copy) {
      update.step = load_in_pieces<typename Update::Step>(scalars.step.bytes);
      update.conditions = load_in_pieces<Conditions<typename Update::Real>>(scalars.conditions);
      if constexpr (Update::Master::kIsRandom) update.random = load_in_pieces<RandomKey>(&scalars.random);
      // The tensor's first tile commits the step count, so that a step that was not launched advances nothing. Here
      // rather than at the end, so that nothing for it has to stay in registers until then.
      if (rank == 0 && part == 0 && tile.first == 0) {
        *DeviceStream<std::int64_t>{row.step_count}.global() = scalars.step_count;
      }
    }
    __syncwarp(lane_mask);
    return !skip;
  };
  update.run(begin, end, rank, team, wait_for_scalars);
  if (blockIdx.x == 0 && threadIdx.x == 0 && arguments.is_last != 0) *tables.report = *tables.next_report;
}

}  // namespace adamant::kernels
