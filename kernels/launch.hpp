// The kernels of the CUDA backend as functions that launch them. The tables they take are in device memory.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "kernels/philox.hpp"
#include "kernels/rule_list.hpp"
#include "kernels/step_control.hpp"
#include "kernels/step_plan.hpp"

namespace adamant::kernels {

// The options of a group as they lie in device memory: an object of the rule's Options.
inline constexpr std::size_t kOptionBytes = 128;
struct alignas(16) OptionBytes {
  std::byte bytes[kOptionBytes];
};

// A TensorRow as kernels read it; the gradient, which may change from step to step, is in a table of its own.
struct alignas(16) DeviceRow {
  void* parameter;
  void* kept;
  void* state[kMaxSlots];
  std::int64_t count;
  std::int64_t* step_count;
  const OptionBytes* options;
  std::int32_t storage;  // index into Storages
  std::uint32_t identity;
  std::int32_t zero_gradient;
};

// What one step needs of a tensor beside its arrays, computed on the device before the update.
struct alignas(16) RowScalars {
  Scalars step;                          // the rule's Step<Real>
  alignas(16) std::byte conditions[16];  // Conditions<Real>
  alignas(16) RandomKey random;
  std::int64_t step_count;  // what the tensor's becomes; the update commits it
  std::int32_t skip;        // the tensor stays as it is
};

struct DeviceTables {
  const DeviceRow* rows;
  void* const* gradients;  // by row
  const Tile* tiles;
  RowScalars* scalars;  // by row
  const Control* control;
  const Measured* measured;  // null in a step that takes no norm
  StepReport* report;
  StepReport* next_report;  // what it becomes; the update commits it
  // Where the first row's are, known without a look at the row.
  const std::int64_t* first_step_count;
  const OptionBytes* first_options;
  std::int64_t row_count;
  std::int64_t tile_count;
  std::int64_t tile_size;
};

// The norm's tables and scratch memory.
struct NormTables {
  const NormLeaf* leaves;
  const NormNode* nodes;
  double* values;
  unsigned* arrived;  // by node, how many of its values are there; zero between steps
  std::int32_t* non_finite;
  Measured* measured;
};

// An object of the rule's Options as bytes; the rest is zero.
OptionBytes option_bytes(int rule, const Method& options);

// The kernels of a step may be told to begin early: dependent_launch.cuh says when. It needs can_begin_early().

// Computes the scalars of the next step of every row. May begin early behind a norm only: where `measured` is null the
// update may begin as soon as this has, and so not before what is ahead of the step has ended. Refuses anything else.
cudaError_t launch_scalars(int rule, const DeviceTables& tables, bool begins_early, cudaStream_t stream);

// Tiles [begin, end) of the table: each of the first `whole` is shared out among 2^part_bits blocks, the others take
// kPackedThreads each.
struct UpdateArguments {
  DeviceTables tables;
  std::int64_t begin;
  std::int64_t whole;
  std::int64_t end;
  std::int32_t part_bits;
  std::int32_t is_last;  // launch of a step, which commits the report
};

struct UpdateLaunch {
  int threads;        // a block: a multiple of 32, at most kUpdateThreads
  bool begins_early;  // follows launch_scalars() or another launch_update() at once
  bool is_last;       // launch of a step
};

// Updates the tiles of a range and commits their tensors' step counts.
cudaError_t launch_update(int rule, const TileRange& range, const DeviceTables& tables, const UpdateLaunch& how,
                          cudaStream_t stream);

// Adds up the squares of the gradients of a range. The last range completes the sum.
cudaError_t launch_norm(const NormRange& range, const DeviceTables& tables, const NormTables& norm, bool begins_early,
                        cudaStream_t stream);

// Gives a tensor of that storage its master: the parameter's value.
cudaError_t launch_make_master(int storage, void* kept, const void* parameter, std::int64_t count, cudaStream_t stream);

// Writes options, a step count and so on in stream order.
struct Stored {
  static constexpr std::size_t kMostWords = 16;
  std::uint64_t words[kMostWords];
};
cudaError_t launch_store(void* to, const Stored& value, int words, cudaStream_t stream);
template <typename T>
cudaError_t launch_store(T* to, const T& value, cudaStream_t stream) {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= sizeof(Stored) &&
                sizeof(T) % sizeof(std::uint64_t) == 0);
  Stored stored{};
  std::memcpy(stored.words, &value, sizeof value);
  return launch_store(static_cast<void*>(to), stored, sizeof value / sizeof(std::uint64_t), stream);
}

// Whether the current device can run the kernels of a rule. Loads those of setters and scalars.
cudaError_t find_kernels(int rule);

// Loads what the launches of a range will need: the runtime loads a kernel when it is first asked for, and a capture is
// no time for that.
cudaError_t load_kernels(int rule, const TileRange& range);
cudaError_t load_kernels(const NormRange& range);

// Whether the kernels of a step, as they would run on the current device, know to wait for what they need if they begin
// early: programmatic dependent launch, from compute capability 9.0 on. False where it cannot be told.
bool can_begin_early(int rule);

}  // namespace adamant::kernels
