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
  void* kept;  // what the storage keeps beside the parameter; null where that is nothing
  void* state[kMaxSlots];
  std::int64_t count;
  std::int64_t slot;  // of its step count; stays the same as long as the tensor lives
  std::int32_t group;
  std::int32_t storage;        // index into Storages
  std::uint32_t identity;      // what random bits are keyed by
  std::int32_t zero_gradient;  // whether the gradient is set to zero when it has been used
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

// How the sum of the squares of all gradients is added up: a tree that depends on nothing but the tensors' order and
// counts. Leaves are chunks of kChunk elements; a node adds up to kChunk values; the sums of tensors are one more
// array.
struct NormLeaf {
  std::int64_t first;
  std::int64_t row;
  std::int64_t value;   // where its sum goes
  std::int64_t parent;  // the node that adds it
};
struct NormNode {
  std::int64_t begin;  // the values that it adds
  std::int64_t count;
  std::int64_t value;
  std::int64_t parent;  // -1: this is the last
};
// Leaves of gradients of one type, which one kernel adds up.
struct NormRange {
  std::int32_t gradient_type;  // index into GradientTypes
  std::int64_t begin;
  std::int64_t end;
};
struct NormPlan {
  std::vector<NormLeaf> leaves;
  std::vector<NormRange> ranges;
  std::vector<NormNode> nodes;  // a node stands behind those that it adds
  std::int64_t values = 0;
};

struct StepPlan {
  std::vector<TensorRow> rows;
  std::vector<Tile> tiles;  // those of one storage combination stand together
  std::vector<TileRange> ranges;
  std::int64_t tile_size = 0;  // a positive multiple of kChunk
  NormPlan norm;               // empty unless the norm is to be taken
};

}  // namespace adamant::kernels
