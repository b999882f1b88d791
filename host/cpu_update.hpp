// The table of compiled update loops, one per rule and storage combination, for each SIMD level.
#pragma once

#include <cstdint>
#include <vector>

#include "adamant/tuning.hpp"
#include "kernels/rule_list.hpp"
#include "kernels/step_plan.hpp"

namespace adamant::host {

// Updates elements [first, first + count) of a tensor. `scalars` holds the rule's Step<Real>.
using UpdateFunction = void (*)(const kernels::TensorRow& row, std::int64_t first, std::int64_t count,
                                const kernels::Scalars& scalars, double gradient_scale);

struct UpdateTable {
  SimdLevel level;
  const UpdateFunction* functions;  // [rule][storage]
};

// What this build holds and this machine can run, slowest first.
std::vector<UpdateTable> update_tables();

// The tables are made by compiling cpu_update.inl once per level, each in a namespace of its own.
namespace baseline {
UpdateTable update_table();
}
namespace avx2 {
UpdateTable update_table();
}
namespace avx512 {
UpdateTable update_table();
}

}  // namespace adamant::host
