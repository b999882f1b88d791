// The contract between host and device: plain tables that say which elements a step updates. No behaviour, no method.
#pragma once

#include <cstdint>
#include <vector>

namespace adamant::kernels {

// Rules with more state slots than this do not compile; raising it costs eight bytes a tensor.
inline constexpr int kMaxSlots = 4;

// One tensor: where its streams are and which options it follows.
struct TensorRow {
  void* parameter;
  const void* gradient;
  void* state[kMaxSlots];
  std::int64_t count;
  std::int64_t slot;  // of its step count; stays the same as long as the tensor lives
  std::int32_t group;
  std::int32_t storage;  // index into Storages
};

// A run of at most `tile_size` elements of one tensor. The tile with first == 0 stands for the tensor itself, so an
// empty tensor has one, of length zero.
struct Tile {
  std::int64_t first;
  std::int64_t row;
};

// Tiles of tensors with the same storage types, which one kernel updates.
struct TileRange {
  std::int32_t storage;  // index into Storages
  std::int64_t begin;
  std::int64_t whole;  // so many of them, the first, are worth a block of threads of their own; the others are small
  std::int64_t end;
};

struct StepPlan {
  std::vector<TensorRow> rows;
  std::vector<Tile> tiles;  // those of one storage combination stand together
  std::vector<TileRange> ranges;
  std::int64_t tile_size = 0;  // a positive multiple of kChunk
};

}  // namespace adamant::kernels
