#include "bench/moved.hpp"

#include <algorithm>

namespace adamant::bench {

std::string_view name(Pipeline pipeline) {
  switch (pipeline) {
    case Pipeline::clip: return "clip";
    case Pipeline::copy: return "copy";
    default: return "update";
  }
}

std::optional<Pipeline> pipeline_from(std::string_view text) {
  for (const Pipeline pipeline : {Pipeline::update, Pipeline::clip, Pipeline::copy}) {
    if (text == name(pipeline)) return pipeline;
  }
  return std::nullopt;
}

std::optional<DataType> copy_type(const kernels::StorageTypes& storage) {
  if (storage.parameter != DataType::float32 || storage.master != Master::none) return std::nullopt;
  for (const DataType type : {DataType::bfloat16, DataType::float16}) {
    if (kernels::find_storage({type, storage.gradient, storage.state, Master::float32})) return type;
  }
  return std::nullopt;
}

std::vector<MovedArray> moved_arrays(const Method& method, const kernels::StorageTypes& storage, Pipeline pipeline) {
  using What = MovedArray::What;
  std::vector<MovedArray> arrays{{What::gradient, size_in_bytes(storage.gradient), true, false}};
  // A parameter that a float32 master stands behind is only written.
  arrays.push_back({What::parameter, size_in_bytes(storage.parameter), storage.master != Master::float32, true});
  if (const auto kept = kernels::kept_size(storage.master); kept > 0) {
    arrays.push_back({What::kept, kept, true, true});
  }
  if (pipeline == Pipeline::copy) {
    arrays.push_back({What::copy, size_in_bytes(copy_type(storage).value()), false, true});
  }
  for (std::size_t i = 0; i < state_names(method).size(); ++i) {
    arrays.push_back({What::state, size_in_bytes(storage.state), true, true});
  }
  return arrays;
}

MovedBytes moved_bytes(std::span<const MovedArray> arrays, Pipeline pipeline) {
  MovedBytes bytes{0, 0};
  for (const MovedArray& array : arrays) {
    if (array.is_read) bytes.read += array.element_bytes;
    if (array.is_written) bytes.written += array.element_bytes;
  }
  if (pipeline == Pipeline::clip) bytes.read += arrays.front().element_bytes;
  return bytes;
}

bool is_uniform(std::span<const MovedArray> arrays) {
  return std::all_of(arrays.begin(), arrays.end(), [&](const MovedArray& array) {
    return array.element_bytes == arrays.front().element_bytes && array.element_bytes >= 4 && array.is_read &&
           array.is_written == (&array != &arrays.front());
  });
}

void find_states(std::span<MovedArray> arrays, Optimizer& optimizer, TensorId tensor) {
  const std::vector<std::string> names = state_names(optimizer.options());
  auto next = names.begin();
  for (MovedArray& array : arrays) {
    if (array.what == MovedArray::What::state) {
      array.data = static_cast<std::byte*>(optimizer.state(tensor, *next++).data());
    } else if (array.what == MovedArray::What::kept && array.element_bytes == 4) {
      array.data = static_cast<std::byte*>(optimizer.state(tensor, "master").data());
    }
  }
}

}  // namespace adamant::bench
