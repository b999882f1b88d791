#include "host/buffers.hpp"

#include <algorithm>
#include <string>
#include <utility>

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
  check_zeroed(spec, gradient);
}

void Buffers::check_gradient(const TensorSpec& spec, const ConstArray& gradient) const {
  check_against_parameters_and_states(spec.name, "gradient", buffer_of(gradient));
  check_zeroed(spec, buffer_of(gradient));
}

void Buffers::insert(std::int64_t id, const TensorSpec& spec) {
  const Buffer parameter = buffer_of(spec.parameter);
  const Buffer gradient = buffer_of(spec.gradient);
  const Buffer copy = buffer_of(spec.copy);
  Disjoint fresh;  // merging moves nodes and cannot fail
  Disjoint fresh_zeroed;
  if (!parameter.empty()) fresh.emplace(parameter.begin, Use{parameter.end, &spec, "parameter"});
  if (!copy.empty()) fresh.emplace(copy.begin, Use{copy.end, &spec, "copy"});
  if (!spec.zero_gradient) {
    gradients_.push_back({id, gradient, &spec});
  } else if (!gradient.empty()) {
    fresh_zeroed.emplace(gradient.begin, Use{gradient.end, &spec, "gradient"});
  }
  parameters_.merge(fresh);
  zeroed_.merge(fresh_zeroed);
}

void Buffers::set_gradient(std::int64_t id, const TensorSpec& spec, const ConstArray& gradient) {
  const Buffer buffer = buffer_of(gradient);
  if (!spec.zero_gradient) {
    gradient_of(id)->buffer = buffer;
  } else if (!buffer.empty()) {
    auto node = zeroed_.extract(buffer_of(spec.gradient).begin);
    node.key() = buffer.begin;
    node.mapped().end = buffer.end;
    zeroed_.insert(std::move(node));
  }
}

void Buffers::erase(std::int64_t id, const TensorSpec& spec) {
  if (!spec.zero_gradient) gradients_.erase(gradient_of(id));
  if (spec.parameter.count() == 0) return;
  if (spec.zero_gradient) zeroed_.erase(buffer_of(spec.gradient).begin);
  parameters_.erase(buffer_of(spec.parameter).begin);
  if (has_copy(spec)) parameters_.erase(buffer_of(spec.copy).begin);
}

void Buffers::make_room_for_states() {
  std::erase_if(states_, [](const States& each) { return each.memory.expired(); });
  states_.reserve(states_.size() + 1);
}

void Buffers::insert_states(const std::shared_ptr<std::byte>& memory, std::int64_t bytes) {
  const auto begin = reinterpret_cast<std::uintptr_t>(memory.get());
  states_.push_back({{begin, begin + static_cast<std::uintptr_t>(bytes)}, memory});
}

const Buffers::Use* Buffers::overlapping(const Disjoint& uses, const Buffer& buffer, const TensorSpec* but) {
  if (buffer.empty()) return nullptr;
  for (auto after = uses.lower_bound(buffer.end); after != uses.begin();) {
    const auto& [begin, use] = *--after;
    if (use.end <= buffer.begin) break;
    if (use.tensor != but) return &use;
  }
  return nullptr;
}

std::vector<Buffers::Gradient>::iterator Buffers::gradient_of(std::int64_t id) {
  return std::lower_bound(gradients_.begin(), gradients_.end(), id,
                          [](const Gradient& gradient, std::int64_t wanted) { return gradient.id < wanted; });
}

void Buffers::check_against_parameters_and_states(std::string_view tensor, std::string_view field,
                                                  const Buffer& buffer) const {
  if (buffer.empty()) return;
  if (const Use* const use = overlapping(parameters_, buffer)) {
    refuse(of_tensor(tensor) + std::string(field) + ": shares memory with the " + use->field + " of tensor " +
           in_quotes(use->tensor->name) + "; a " + use->field + " may overlap no other buffer");
  }
  for (const States& states : states_) {
    if (!states.memory.expired() && buffer.overlaps(states.buffer)) {
      refuse(of_tensor(tensor) + std::string(field) +
             ": shares memory with the optimizer's own states; allowed: any other memory");
    }
  }
}

void Buffers::check_against_gradients(std::string_view tensor, std::string_view field, const Buffer& buffer) const {
  const auto refuse_because_of = [&](const TensorSpec& other) {
    refuse(of_tensor(tensor) + std::string(field) + ": shares memory with the gradient of tensor " +
           in_quotes(other.name) + "; a " + std::string(field) + " may overlap no other buffer");
  };
  if (const Use* const use = overlapping(zeroed_, buffer)) refuse_because_of(*use->tensor);
  for (const Gradient& gradient : gradients_) {
    if (gradient.buffer.overlaps(buffer)) refuse_because_of(*gradient.tensor);
  }
}

// A gradient that is set to zero when one tensor has used it is lost to another.
void Buffers::check_zeroed(const TensorSpec& spec, const Buffer& buffer) const {
  const auto refuse_because_of = [&](const TensorSpec& other) {
    refuse(of_tensor(spec.name) + "gradient: shares memory with the gradient of tensor " + in_quotes(other.name) +
           ", and zero_gradient of " + (spec.zero_gradient ? "this" : "that") +
           " tensor sets it to zero when it has been used; such a gradient may overlap no other");
  };
  // By its address: a training loop may re-point every gradient in every step.
  if (const Use* const use = overlapping(zeroed_, buffer, &spec)) refuse_because_of(*use->tensor);
  if (!spec.zero_gradient) return;
  for (const Gradient& gradient : gradients_) {
    if (gradient.buffer.overlaps(buffer)) refuse_because_of(*gradient.tensor);
  }
}

}  // namespace adamant::host
