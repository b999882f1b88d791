// Tensors to tables of tiles. Pure: no allocation but the tables, no device call.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/step_plan.hpp"

namespace adamant::host {

// The plan of one step over the tensors `rows`. `tile_size` is a positive multiple of kChunk; tiles of at most
// `small_tile` elements stand behind the others of their storage combination.
kernels::StepPlan make_plan(std::vector<kernels::TensorRow> rows, std::int64_t tile_size, std::int64_t small_tile);

// The tree in which the squares of the gradients of these tensors are added up.
kernels::NormPlan make_norm_plan(std::span<const kernels::TensorRow> rows);

}  // namespace adamant::host
