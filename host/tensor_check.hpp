// What is wrong with a tensor, or with a gradient, by itself. What throws is std::invalid_argument with the tensor's
// name.
#pragma once

#include "adamant/optimizer.hpp"
#include "kernels/storage_types.hpp"

namespace adamant::host {

inline bool has_copy(const TensorSpec& spec) { return spec.copy.count() != 0 || spec.copy.data() != nullptr; }

// The types of the tensor. With a copy, the copy is what is written and the user's float32 parameter is its master.
kernels::StorageTypes check_tensor(const TensorSpec& spec);

void check_gradient(const TensorSpec& spec, const ConstArray& gradient);

}  // namespace adamant::host
