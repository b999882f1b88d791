// The update kernel: load, scale, rule, store. One kernel for every rule and storage combination.
//
// Bytes: every stream of a tile is read once and all but the gradient are written once, 16 bytes an access wherever the
// stream's address is a multiple of 16. A tile begins at a multiple of kChunk elements, so whether it is depends on the
// tensor's address alone, but it is asked for each tile anew.
#pragma once

#include <cstdint>

#include "kernels/apply.hpp"
#include "kernels/launch.hpp"
#include "kernels/tuning.hpp"

namespace adamant::kernels {

inline constexpr int kAccessBytes = 16;

// Elements that a thread takes at a time: as many as make one access of the stream with the smallest elements.
template <typename Storage>
inline constexpr int kVector =
    kAccessBytes / static_cast<int>(sizeof(typename Storage::Parameter) < sizeof(typename Storage::Gradient)
                                        ? (sizeof(typename Storage::Parameter) < sizeof(typename Storage::State)
                                               ? sizeof(typename Storage::Parameter)
                                               : sizeof(typename Storage::State))
                                        : (sizeof(typename Storage::Gradient) < sizeof(typename Storage::State)
                                               ? sizeof(typename Storage::Gradient)
                                               : sizeof(typename Storage::State)));

// One array of a tile, in global memory.
template <typename T>
struct DeviceStream {
  T* data;

  // Whether elements from `first` on, a multiple of a vector, may be accessed kAccessBytes at a time.
  __device__ __forceinline__ bool is_wide() const { return reinterpret_cast<std::uintptr_t>(data) % kAccessBytes == 0; }

  // Addresses that come out of a table could be of any memory space for all the compiler knows.
  __device__ __forceinline__ T* global() const {
    T* const address = data;
    __builtin_assume(__isGlobal(address));
    return address;
  }

  // Elements [first, first + there) into the beginning of `values`; the others are zero.
  template <int kCount, typename Value>
  __device__ __forceinline__ void load(int first, int there, Value (&values)[kCount]) const {
    static_assert(sizeof(values) % kAccessBytes == 0);
    constexpr int kAccesses = static_cast<int>(sizeof(values)) / kAccessBytes;
    T* const at = global() + first;
    if (is_wide() && there == kCount) {
      uint4 pieces[kAccesses];
#pragma unroll
      for (int i = 0; i < kAccesses; ++i) pieces[i] = reinterpret_cast<const uint4*>(at)[i];
      memcpy(values, pieces, sizeof(values));
    } else {
#pragma unroll
      for (int i = 0; i < kCount; ++i) values[i] = i < there ? at[i] : Value{0};
    }
  }

  template <int kCount>
  __device__ __forceinline__ void store(int first, int there, const T (&values)[kCount]) const {
    constexpr int kAccesses = static_cast<int>(sizeof(values)) / kAccessBytes;
    T* const at = global() + first;
    if (is_wide() && there == kCount) {
      uint4 pieces[kAccesses];
      memcpy(pieces, values, sizeof(values));
#pragma unroll
      for (int i = 0; i < kAccesses; ++i) reinterpret_cast<uint4*>(at)[i] = pieces[i];
    } else {
#pragma unroll
      for (int i = 0; i < kCount; ++i) {
        if (i < there) at[i] = values[i];
      }
    }
  }
};

// Keeps the compiler from holding values of shared memory in registers across this point.
__device__ __forceinline__ void forget() { asm volatile("" ::: "memory"); }

// The streams of a tile and what one step does to their elements. Lies in shared memory, a copy for each warp, and is
// read from there again and again: in registers it would be a third of all that a thread may have, and spill.
template <typename Rule, typename Storage>
struct alignas(16) TileUpdate {
  using Real = typename Storage::Real;
  using Parameter = typename Storage::Parameter;
  using Gradient = typename Storage::Gradient;
  using State = typename Storage::State;
  using Step = typename Rule::template Step<Real>;
  static constexpr int kSlots = Rule::kSlots;
  static constexpr int kRoom = kSlots > 0 ? kSlots : 1;

  Step step;
  Real gradient_scale;
  DeviceStream<Parameter> parameter;
  DeviceStream<const Gradient> gradient;
  DeviceStream<State> state[kRoom];

  // One vector of each stream, as it is stored.
  struct Vector {
    Parameter parameter[kVector<Storage>];
    Gradient gradient[kVector<Storage>];
    State state[kRoom][kVector<Storage>];
  };

  __device__ __forceinline__ void load(int first, int there, Vector& vector) const {
    parameter.load(first, there, vector.parameter);
    gradient.load(first, there, vector.gradient);
#pragma unroll
    for (int slot = 0; slot < kSlots; ++slot) state[slot].load(first, there, vector.state[slot]);
  }

  __device__ __forceinline__ void compute(Vector& vector) const {
#pragma unroll
    for (int i = 0; i < kVector<Storage>; ++i) {
      forget();
      Element<Real, kSlots> element;
      element.parameter = static_cast<Real>(vector.parameter[i]);
#pragma unroll
      for (int slot = 0; slot < kSlots; ++slot) element.state[slot] = static_cast<Real>(vector.state[slot][i]);
      element = apply<Rule, Real>(step, gradient_scale, element, static_cast<Real>(vector.gradient[i]));
      vector.parameter[i] = static_cast<Parameter>(element.parameter);
#pragma unroll
      for (int slot = 0; slot < kSlots; ++slot) vector.state[slot][i] = static_cast<State>(element.state[slot]);
    }
  }

  __device__ __forceinline__ void store(int first, int there, const Vector& vector) const {
    forget();
    parameter.store(first, there, vector.parameter);
#pragma unroll
    for (int slot = 0; slot < kSlots; ++slot) state[slot].store(first, there, vector.state[slot]);
  }

  // Updates `count` elements with a team of threads. All loads of a thread are issued before the first value is used,
  // those of its first pass before `ready` is called, which may wait for the scalars of the step.
  template <typename Ready>
  __device__ __forceinline__ void run(int count, int rank, int team, const Ready& ready) const {
    constexpr int kCount = kVector<Storage>;
    int first = rank * kCount;
    Vector vector;
    load(first, min(kCount, count - first), vector);
    ready();
    // One vector of each stream a pass keeps the registers few and the threads many; the compiler's unrolling by four
    // could not move loads above stores anyway.
#pragma unroll 1
    while (first < count) {
      compute(vector);
      store(first, min(kCount, count - first), vector);
      first += team * kCount;
      forget();
      if (first < count) load(first, min(kCount, count - first), vector);
    }
  }
};

// Where a device can (compute capability 9.0), the update begins while the scalars are still being computed: launch.cu
// asks for it. This waits until all of them are written.
__device__ __forceinline__ void wait_for_scalars() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
__device__ __forceinline__ void let_update_begin() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// A T that lies at `from`, which is aligned to 16 bytes, in as few accesses as there can be.
template <typename T>
__device__ __forceinline__ T load_in_pieces(const void* from) {
  constexpr int kPieces = (sizeof(T) + sizeof(uint4) - 1) / sizeof(uint4);
  uint4 pieces[kPieces];
#pragma unroll
  for (int i = 0; i < kPieces; ++i) pieces[i] = static_cast<const uint4*>(from)[i];
  T value;
  memcpy(&value, pieces, sizeof value);
  return value;
}

// Tiles [begin, end) of the table: the first `whole` of them take a block each, the others a warp each.
struct UpdateArguments {
  DeviceTables tables;
  std::int64_t begin;
  std::int64_t whole;
  std::int64_t end;
};

template <typename Rule, typename Storage>
__global__ void __launch_bounds__(kUpdateThreads, kUpdateBlocksPerSm) update(const UpdateArguments arguments) {
  using Update = TileUpdate<Rule, Storage>;
  constexpr unsigned kWarp = 32;
  std::int64_t index = arguments.begin + blockIdx.x;
  int rank = static_cast<int>(threadIdx.x);
  int team = static_cast<int>(blockDim.x);
  if (blockIdx.x >= arguments.whole) {
    index = arguments.begin + arguments.whole +
            (blockIdx.x - arguments.whole) * static_cast<std::int64_t>(blockDim.x / kWarp) + threadIdx.x / kWarp;
    if (index >= arguments.end) return;
    rank = static_cast<int>(threadIdx.x % kWarp);
    team = kWarp;
  }
  const DeviceTables& tables = arguments.tables;
  const Tile tile = tables.tiles[index];
  const DeviceRow& row = tables.rows[tile.row];

  __shared__ Update shared[kUpdateThreads / kWarp];
  Update& update = shared[threadIdx.x / kWarp];
  if (threadIdx.x % kWarp == 0) {
    update.parameter = {static_cast<typename Update::Parameter*>(row.parameter) + tile.first};
    update.gradient = {static_cast<const typename Update::Gradient*>(tables.gradients[tile.row]) + tile.first};
#pragma unroll
    for (int slot = 0; slot < Rule::kSlots; ++slot) {
      update.state[slot] = {static_cast<typename Update::State*>(row.state[slot]) + tile.first};
    }
  }
  __syncwarp();
  const std::int64_t left = row.count - tile.first;
  const RowScalars& scalars = tables.scalars[tile.row];
  // Until here everything was there before the scalars of this step began to be computed, and so are the arrays.
  const auto ready = [&] {
    wait_for_scalars();
    if (threadIdx.x % kWarp == 0) {
      update.step = load_in_pieces<typename Update::Step>(scalars.step.bytes);
      update.gradient_scale = *reinterpret_cast<const typename Update::Real*>(scalars.gradient_scale);
    }
    __syncwarp();
  };
  update.run(static_cast<int>(left < tables.tile_size ? left : tables.tile_size), rank, team, ready);
  // The step count goes with the tensor's first tile, so that a step that was not launched has advanced nothing.
  if (tile.first == 0 && rank == 0) *DeviceStream<std::int64_t>{row.step_count}.global() = scalars.step_count;
}

}  // namespace adamant::kernels
