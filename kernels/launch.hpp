// The kernels of the CUDA backend as functions that launch them. The tables they take are in device memory.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "kernels/rule_list.hpp"
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
  void* state[kMaxSlots];
  std::int64_t count;
  std::int64_t* step_count;
  const OptionBytes* options;
  std::int64_t storage;  // index into Storages
};

// What one step needs of a tensor beside its streams, computed on the device before the update.
struct alignas(16) RowScalars {
  Scalars step;                            // the rule's Step<Real>
  alignas(8) std::byte gradient_scale[8];  // a Real
  std::int64_t step_count;                 // what the tensor's becomes; the update commits it
};

struct DeviceTables {
  const DeviceRow* rows;
  const void* const* gradients;  // by row
  const Tile* tiles;
  RowScalars* scalars;  // by row
  std::int64_t row_count;
  std::int64_t tile_size;
};

// An object of the rule's Options as bytes; the rest is zero.
OptionBytes option_bytes(int rule, const Method& options);

// Computes the scalars of the next step of every row.
cudaError_t launch_scalars(int rule, const DeviceTables& tables, cudaStream_t stream);

// Updates the tiles of a range and commits their tensors' step counts. `threads` a block: a multiple of 32, at most
// kUpdateThreads. With `begins_early`, which needs can_begin_early(), it follows launch_scalars() in the stream at
// once.
cudaError_t launch_update(int rule, const TileRange& range, const DeviceTables& tables, int threads, bool begins_early,
                          cudaStream_t stream);

// Writes options, or a step count, in stream order.
cudaError_t launch_store(OptionBytes* to, const OptionBytes& value, cudaStream_t stream);
cudaError_t launch_store(std::int64_t* to, std::int64_t value, cudaStream_t stream);

// Whether the current device can run the kernels of a rule.
cudaError_t find_kernels(int rule);

// Whether those kernels, as they would run on the current device, know to wait for the scalars if they are launched
// before those are done: programmatic dependent launch, from compute capability 9.0 on. False where it cannot be told.
bool can_begin_early(int rule);

}  // namespace adamant::kernels
