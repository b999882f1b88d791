// Tensors to tables of tiles. Pure: no allocation but the tables, no device call.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "adamant/types.hpp"
#include "kernels/step_plan.hpp"

namespace adamant::host {

// The index in kernels::Storages of a combination of types, if it is supported.
std::optional<int> find_storage(DataType parameter, DataType gradient);

// The type of the states in a storage combination.
DataType state_type(int storage);

// "float32 with float32 gradients, ..."
std::string supported_storages();

// The plan of one step over the tensors `rows`. `tile_size` is a positive multiple of kChunk; tiles of at most
// `small_tile` elements stand behind the others of their storage combination.
kernels::StepPlan make_plan(std::vector<kernels::TensorRow> rows, std::int64_t tile_size, std::int64_t small_tile);

}  // namespace adamant::host
