// Who uses which memory: tensors whose buffers overlap where they must not are refused.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string_view>
#include <vector>

#include "adamant/optimizer.hpp"

namespace adamant::host {

// An address range.
struct Buffer {
  std::uintptr_t begin = 0;
  std::uintptr_t end = 0;
  bool empty() const { return begin == end; }
  bool overlaps(const Buffer& other) const {
    return !empty() && !other.empty() && begin < other.end && other.begin < end;
  }
};

// The buffers of an Optimizer's tensors, and its states. Ids of tensors count up. A TensorSpec that was inserted stays
// where it is until it is erased.
class Buffers {
 public:
  // Throws std::invalid_argument where a new tensor's buffers overlap what they must not.
  void check(const TensorSpec& spec) const;
  // The same for another gradient of a tensor that is there.
  void check_gradient(const TensorSpec& spec, const ConstArray& gradient) const;

  // What throws std::bad_alloc has changed nothing.
  void insert(std::int64_t id, const TensorSpec& spec);
  // Before the TensorSpec has it.
  void set_gradient(std::int64_t id, const TensorSpec& spec, const ConstArray& gradient);
  void erase(std::int64_t id, const TensorSpec& spec);

  // Memory that holds states of the Optimizer, for as long as it is there. After make_room_for_states() it
  // cannot throw.
  void make_room_for_states();
  void insert_states(const std::shared_ptr<std::byte>& memory, std::int64_t bytes);

 private:
  struct Use {
    std::uintptr_t end;
    const TensorSpec* tensor;
    const char* field;
  };
  using Disjoint = std::map<std::uintptr_t, Use>;  // by where they begin; none empty
  struct Gradient {
    std::int64_t id;
    Buffer buffer;
    const TensorSpec* tensor;
  };
  struct States {
    Buffer buffer;
    std::weak_ptr<std::byte> memory;
  };

  // One of them that shares memory with the buffer and is not of the tensor `but`, or null.
  static const Use* overlapping(const Disjoint& uses, const Buffer& buffer, const TensorSpec* but = nullptr);
  std::vector<Gradient>::iterator gradient_of(std::int64_t id);
  void check_against_parameters_and_states(std::string_view tensor, std::string_view field, const Buffer& buffer) const;
  void check_against_gradients(std::string_view tensor, std::string_view field, const Buffer& buffer) const;
  void check_zeroed(const TensorSpec& spec, const Buffer& gradient) const;

  Disjoint parameters_;              // and copies of them
  Disjoint zeroed_;                  // gradients that are set to zero when they have been used
  std::vector<Gradient> gradients_;  // the others, by id; may overlap: a scan of them is one of contiguous memory
  std::vector<States> states_;
};

}  // namespace adamant::host
