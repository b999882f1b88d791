// Where in one allocation the states and masters of tensors lie.
//
// Large arrays begin at different offsets in a page, because equal offsets conflict in the caches. AMD's Zen picks a
// way of the first level by a hash of address bits 12 to 27: two states 2^28 bytes apart ran at a third of the memory's
// rate. On Intel's a load waits for an earlier store whose address has the same last twelve bits, so that an array
// which begins shortly before another in a page is held up by it: momentum with 512 bytes between them ran at 94
// percent of the ceiling, with 2,048 at 99. So they are as far from each other as there is room, and from the beginning
// of a page, where the parameter is likely to begin.
#pragma once

#include <cstddef>
#include <cstdint>

namespace adamant::host {

inline constexpr std::int64_t kStateAlignment = 256;
inline constexpr std::int64_t kPage = 4096;
inline constexpr std::int64_t kLargeArray = std::int64_t{1} << 20;

// What an array of so many bytes takes of the allocation.
constexpr std::int64_t room_for(std::int64_t bytes) {
  const std::int64_t aligned = (bytes + kStateAlignment - 1) / kStateAlignment * kStateAlignment;
  return aligned >= kLargeArray ? aligned + kPage : aligned;
}

// Where it begins in that room, if it is the array of that number among so many of a tensor.
inline std::byte* place(std::byte* room, std::int64_t bytes, int array, int arrays) {
  if (bytes < kLargeArray) return room;
  const std::int64_t offset = kPage * (array + 1) / (arrays + 1) / kStateAlignment * kStateAlignment;
  return room + (static_cast<std::uintptr_t>(offset) - reinterpret_cast<std::uintptr_t>(room)) % kPage;
}

}  // namespace adamant::host
