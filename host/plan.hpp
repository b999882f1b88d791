// Tensors to tables of tiles. Pure: no allocation but the tables, no device call.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "adamant/types.hpp"
#include "kernels/step_plan.hpp"

namespace adamant::host {

// The types of one of kernels::Storages.
struct StorageTypes {
  DataType parameter;
  DataType gradient;
  DataType state;
  Master master;  // not automatic
  friend constexpr bool operator==(const StorageTypes&, const StorageTypes&) = default;
};

// All of them, by index.
std::span<const StorageTypes> storages();

// The index in kernels::Storages of a combination of types, if it is supported.
std::optional<int> find_storage(const StorageTypes& types);

// "bfloat16 with float32 gradients, float32 states and a remainder"
std::string to_text(const StorageTypes& types);
// "bfloat16/float32/float32/remainder", without the last where there is none: what the command line takes.
std::string short_name(const StorageTypes& types);

// Texts of all with that type of parameter, separated by semicolons.
std::string supported_storages(DataType parameter);

// The plan of one step over the tensors `rows`. `tile_size` is a positive multiple of kChunk; tiles of at most
// `small_tile` elements stand behind the others of their storage combination.
kernels::StepPlan make_plan(std::vector<kernels::TensorRow> rows, std::int64_t tile_size, std::int64_t small_tile);

// The tree in which the squares of the gradients of these tensors are added up.
kernels::NormPlan make_norm_plan(std::span<const kernels::TensorRow> rows);

}  // namespace adamant::host
