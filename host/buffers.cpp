#include "host/buffers.hpp"

#include <algorithm>
#include <iterator>
#include <string>

#include "host/refusal.hpp"
#include "host/tensor_check.hpp"

namespace adamant::host {
namespace {

Buffer buffer_of(const ConstArray& array) {
  const auto begin = reinterpret_cast<std::uintptr_t>(array.data());
  return {begin, begin + static_cast<std::uintptr_t>(array.count() * size_in_bytes(array.type()))};
}

}  // namespace

void Buffers::check(const TensorSpec& spec) const {
  const Buffer parameter = buffer_of(spec.parameter);
  const Buffer gradient = buffer_of(spec.gradient);
  const Buffer copy = buffer_of(spec.copy);
  if (parameter.overlaps(gradient)) {
    refuse(of_tensor(spec.name) + "gradient: shares memory with the tensor's own parameter");
  }
  if (copy.overlaps(parameter)) refuse(of_tensor(spec.name) + "copy: shares memory with the tensor's own parameter");
  if (copy.overlaps(gradient)) refuse(of_tensor(spec.name) + "copy: shares memory with the tensor's own gradient");
  check_against_parameters_and_states(spec.name, "parameter", parameter);
  check_against_parameters_and_states(spec.name, "gradient", gradient);
  check_against_parameters_and_states(spec.name, "copy", copy);
  check_against_gradients(spec.name, "parameter", parameter);
  check_against_gradients(spec.name, "copy", copy);
  check_zeroed(-1, spec, gradient);
}

void Buffers::check_gradient(std::int64_t id, const TensorSpec& spec, const ConstArray& gradient) const {
  check_against_parameters_and_states(spec.name, "gradient", buffer_of(gradient));
  check_zeroed(id, spec, buffer_of(gradient));
}

void Buffers::insert(std::int64_t id, const TensorSpec& spec) {
  const Buffer parameter = buffer_of(spec.parameter);
  const Buffer copy = buffer_of(spec.copy);
  decltype(parameters_) fresh;  // merging moves nodes and cannot fail
  if (!parameter.empty()) fresh.emplace(parameter.begin, Parameter{parameter.end, &spec, "parameter"});
  if (!copy.empty()) fresh.emplace(copy.begin, Parameter{copy.end, &spec, "copy"});
  gradients_.push_back({id, buffer_of(spec.gradient), &spec});
  parameters_.merge(fresh);
  if (spec.zero_gradient) ++zeroed_;
}

void Buffers::set_gradient(std::int64_t id, const ConstArray& gradient) {
  gradient_of(id)->buffer = buffer_of(gradient);
}

void Buffers::erase(std::int64_t id) {
  const auto gradient = gradient_of(id);
  const TensorSpec& spec = *gradient->tensor;
  if (spec.zero_gradient) --zeroed_;
  if (spec.parameter.count() > 0) {
    parameters_.erase(buffer_of(spec.parameter).begin);
    if (has_copy(spec)) parameters_.erase(buffer_of(spec.copy).begin);
  }
  gradients_.erase(gradient);
}

void Buffers::make_room_for_states() {
  std::erase_if(states_, [](const States& each) { return each.memory.expired(); });
  states_.reserve(states_.size() + 1);
}

void Buffers::insert_states(const std::shared_ptr<std::byte>& memory, std::int64_t bytes) {
  const auto begin = reinterpret_cast<std::uintptr_t>(memory.get());
  states_.push_back({{begin, begin + static_cast<std::uintptr_t>(bytes)}, memory});
}

std::vector<Buffers::Gradient>::iterator Buffers::gradient_of(std::int64_t id) {
  return std::lower_bound(gradients_.begin(), gradients_.end(), id,
                          [](const Gradient& gradient, std::int64_t wanted) { return gradient.id < wanted; });
}

void Buffers::check_against_parameters_and_states(std::string_view tensor, std::string_view field,
                                                  const Buffer& buffer) const {
  if (buffer.empty()) return;
  const auto after = parameters_.lower_bound(buffer.end);
  if (after != parameters_.begin()) {
    const auto& [begin, parameter] = *std::prev(after);
    if (buffer.overlaps({begin, parameter.end})) {
      refuse(of_tensor(tensor) + std::string(field) + ": shares memory with the " + parameter.field + " of tensor " +
             in_quotes(parameter.tensor->name) + "; a " + parameter.field + " may overlap no other buffer");
    }
  }
  for (const States& states : states_) {
    if (!states.memory.expired() && buffer.overlaps(states.buffer)) {
      refuse(of_tensor(tensor) + std::string(field) +
             ": shares memory with the optimizer's own states; allowed: any other memory");
    }
  }
}

void Buffers::check_against_gradients(std::string_view tensor, std::string_view field, const Buffer& buffer) const {
  if (buffer.empty()) return;
  for (const Gradient& gradient : gradients_) {
    if (!gradient.buffer.overlaps(buffer)) continue;
    refuse(of_tensor(tensor) + std::string(field) + ": shares memory with the gradient of tensor " +
           in_quotes(gradient.tensor->name) + "; a " + std::string(field) + " may overlap no other buffer");
  }
}

// A gradient that is set to zero when one tensor has used it is lost to another.
void Buffers::check_zeroed(std::int64_t id, const TensorSpec& spec, const Buffer& buffer) const {
  if (!spec.zero_gradient && zeroed_ == 0) return;  // a training loop may re-point every gradient in every step
  for (const Gradient& gradient : gradients_) {
    if (gradient.id == id || !gradient.buffer.overlaps(buffer)) continue;
    if (!spec.zero_gradient && !gradient.tensor->zero_gradient) continue;
    refuse(of_tensor(spec.name) + "gradient: shares memory with the gradient of tensor " +
           in_quotes(gradient.tensor->name) + ", and zero_gradient of " + (spec.zero_gradient ? "this" : "that") +
           " tensor sets it to zero when it has been used; such a gradient may overlap no other");
  }
}

}  // namespace adamant::host
