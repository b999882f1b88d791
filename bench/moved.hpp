// Which bytes a step must move: what throughputs are counted by, and what the ceilings move in the same mix.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "adamant/adamant.hpp"
#include "kernels/storage_types.hpp"

namespace adamant::bench {

// What a step is made of.
enum class Pipeline : std::uint8_t {
  update,  // the update alone
  clip,    // the norm of all gradients, clipping by it, and the update
  copy,    // the update of a float32 parameter, which also writes a copy of 16 bits
};
std::string_view name(Pipeline pipeline);
std::optional<Pipeline> pipeline_from(std::string_view text);

// The type of the copy that a pipeline with one writes; none where these types have no such copy.
std::optional<DataType> copy_type(const kernels::StorageTypes& storage);

// One array of as many elements as the tensor.
struct MovedArray {
  enum class What : std::uint8_t { gradient, parameter, kept, copy, state };
  What what;
  std::int64_t element_bytes;
  bool is_read;
  bool is_written;
  std::byte* data = nullptr;
};

// What one pass of the update moves, the gradient first; without addresses.
std::vector<MovedArray> moved_arrays(const Method& method, const kernels::StorageTypes& storage, Pipeline pipeline);

struct MovedBytes {
  std::int64_t read;  // of an element
  std::int64_t written;
};
// Those of the whole pipeline: the norm reads the gradient once more.
MovedBytes moved_bytes(std::span<const MovedArray> arrays, Pipeline pipeline);

// Whether all arrays have elements of one size, the first is only read and all others are read and written.
bool is_uniform(std::span<const MovedArray> arrays);

// Gives the arrays that belong to an optimizer their addresses: states, and a float32 master. The remainder's is the
// optimizer's own affair.
void find_states(std::span<MovedArray> arrays, Optimizer& optimizer, TensorId tensor);

}  // namespace adamant::bench
