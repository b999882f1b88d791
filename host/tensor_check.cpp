#include "host/tensor_check.hpp"

#include <algorithm>
#include <cstdint>
#include <limits>
#include <string>

#include "host/refusal.hpp"
#include "host/safetensors.hpp"

namespace adamant::host {
namespace {

std::string unknown_type(DataType type) {
  return "unknown data type " + to_text(static_cast<int>(type)) + "; there are float32, float64, bfloat16 and float16";
}

// Everything about an array that can be wrong by itself.
void check_array(std::string_view tensor, std::string_view field, const ConstArray& array) {
  const auto where = [&] { return of_tensor(tensor) + std::string(field) + ": "; };  // allocates: only for a mistake
  if (array.type() > DataType::float16) refuse(where() + unknown_type(array.type()));
  const std::int64_t size = size_in_bytes(array.type());
  const std::int64_t most = std::numeric_limits<std::ptrdiff_t>::max() / size;
  if (array.count() < 0) refuse(where() + "the count is negative or beyond 2^63 - 1; allowed: 0 to " + to_text(most));
  if (array.count() > most) {
    refuse(where() + "count " + to_text(array.count()) + " of " + std::string(name(array.type())) +
           " does not fit the address space; allowed: 0 to " + to_text(most));
  }
  if (array.count() == 0) return;
  if (array.data() == nullptr) {
    refuse(where() + "null pointer with count " + to_text(array.count()) + "; only an empty tensor may have one");
  }
  const auto address = reinterpret_cast<std::uintptr_t>(array.data());
  if (address % static_cast<std::uintptr_t>(size) != 0) {
    refuse(where() + "address " + address_text(array.data()) + " is not aligned to the " + to_text(size) +
           " bytes of a " + std::string(name(array.type())) + "; allowed: multiples of " + to_text(size));
  }
  if (address + static_cast<std::uintptr_t>(array.count() * size) < address) {
    refuse(where() + "count " + to_text(array.count()) + " runs past the end of the address space");
  }
}

void check_copy(const TensorSpec& spec) {
  check_array(spec.name, "copy", spec.copy);
  if (spec.copy.count() != spec.parameter.count()) {
    refuse(of_tensor(spec.name) + "copy: count " + to_text(spec.copy.count()) + " differs from the parameter's " +
           to_text(spec.parameter.count()));
  }
}

kernels::StorageTypes types_of(const TensorSpec& spec) {
  const DataType parameter = spec.parameter.type();
  if (spec.master > Master::stochastic) {
    refuse(of_tensor(spec.name) + "master: unknown value " + to_text(static_cast<int>(spec.master)) +
           "; allowed: automatic, none, float32, remainder and stochastic (0 to 4)");
  }
  if (spec.state_type && *spec.state_type > DataType::float16) {
    refuse(of_tensor(spec.name) + "state_type: " + unknown_type(*spec.state_type));
  }
  const DataType state =
      spec.state_type.value_or(parameter == DataType::float64 ? DataType::float64 : DataType::float32);
  const bool is_narrow = parameter == DataType::bfloat16 || parameter == DataType::float16;
  const Master master = spec.master != Master::automatic ? spec.master : (is_narrow ? Master::float32 : Master::none);
  kernels::StorageTypes types{parameter, spec.gradient.type(), state, master};
  if (has_copy(spec)) {
    if (parameter != DataType::float32 || master != Master::none) {
      refuse(of_tensor(spec.name) + "copy: a copy is made of a float32 parameter; this one is " +
             std::string(name(parameter)) + (master == Master::none ? "" : " with a master"));
    }
    types.parameter = spec.copy.type();
    types.master = Master::float32;
  }
  if (!kernels::find_storage(types)) {
    // The first field that goes with nothing of what stands before it.
    const auto fits = [&](bool with_state) {
      const auto all = kernels::storages();
      return std::any_of(all.begin(), all.end(), [&](const kernels::StorageTypes& each) {
        return each.parameter == types.parameter && each.gradient == types.gradient &&
               (!with_state || each.state == types.state);
      });
    };
    const char* const field = has_copy(spec) ? "copy: "
                              : !fits(false) ? "gradient: "
                              : !fits(true)  ? "state_type: "
                                             : "master: ";
    refuse(of_tensor(spec.name) + field + to_text(types) +
           (has_copy(spec) ? ", which is what a float32 parameter with such a copy would be," : "") +
           " do not go together; supported: " + kernels::supported_storages(types.parameter));
  }
  return types;
}

void check_shape(std::string_view tensor, const std::vector<std::int64_t>& shape, std::int64_t count) {
  if (shape.empty()) return;
  const auto where = [&] { return of_tensor(tensor) + "shape: "; };
  if (shape.size() > safetensors::kMaxDimensions) {
    refuse(where() + to_text(shape.size()) + " dimensions; allowed: at most " + to_text(safetensors::kMaxDimensions));
  }
  for (const std::int64_t size : shape) {
    if (size < 0) refuse(where() + "a dimension is " + to_text(size) + "; allowed: 0 or more");
  }
  // Zeros are left out at first, so that no file format has to multiply its way past the end of a number.
  constexpr std::int64_t kMost = std::numeric_limits<std::int64_t>::max() / 8;
  std::int64_t product = 1;
  for (const std::int64_t size : shape) {
    if (size == 0) continue;
    if (size > kMost / product) {
      refuse(where() + "the dimensions are too large to multiply; allowed: as many elements as the parameter's " +
             to_text(count));
    }
    product *= size;
  }
  if (std::find(shape.begin(), shape.end(), 0) != shape.end()) product = 0;
  if (product != count) {
    refuse(where() + "the product of the dimensions is " + to_text(product) + "; allowed: the parameter's count " +
           to_text(count));
  }
}

}  // namespace

void check_gradient(const TensorSpec& spec, const ConstArray& gradient) {
  check_array(spec.name, "gradient", gradient);
  if (gradient.data() == nullptr && spec.parameter.count() > 0) {
    refuse(of_tensor(spec.name) + "gradient: none was given; allowed: an array of the parameter's count " +
           to_text(spec.parameter.count()));
  }
  if (gradient.count() != spec.parameter.count()) {
    refuse(of_tensor(spec.name) + "gradient: count " + to_text(gradient.count()) + " differs from the parameter's " +
           to_text(spec.parameter.count()));
  }
  if (gradient.type() != spec.gradient.type()) {
    refuse(of_tensor(spec.name) + "gradient: it is " + std::string(name(gradient.type())) +
           "; allowed: " + std::string(name(spec.gradient.type())) + ", which it was added with");
  }
  if (spec.zero_gradient && !gradient.writable() && gradient.count() > 0) {
    refuse(
        of_tensor(spec.name) +
        "zero_gradient: the gradient was given as const and cannot be set to zero; allowed: a pointer to what may be "
        "written");
  }
}

kernels::StorageTypes check_tensor(const TensorSpec& spec) {
  if (spec.name.empty()) refuse("a tensor needs a name: errors and checkpoints use it");
  check_array(spec.name, "parameter", spec.parameter);
  check_gradient(spec, spec.gradient);
  if (has_copy(spec)) check_copy(spec);
  const kernels::StorageTypes types = types_of(spec);
  check_shape(spec.name, spec.shape, spec.parameter.count());
  return types;
}

}  // namespace adamant::host
