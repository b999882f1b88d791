// The table of compiled update loops, one per rule and storage combination, for each SIMD level.
#pragma once

#include <cstdint>
#include <vector>

#include "adamant/tuning.hpp"
#include "kernels/philox.hpp"
#include "kernels/rule_list.hpp"
#include "kernels/step_control.hpp"
#include "kernels/step_plan.hpp"

namespace adamant::host {

// What a step does to the elements of a tensor, beside its arrays.
struct TileConditions {
  const kernels::Scalars& scalars;  // the rule's Step<Real>
  const kernels::Decision& decision;
  double gradient_sign;
  kernels::RandomKey random;
  bool prefetches;   // see UpdateTable
  bool past_caches;  // whether arrays that are only written are written past the caches
};

// Updates elements [first, first + count) of a tensor.
using UpdateFunction = void (*)(const kernels::TensorRow& row, std::int64_t first, std::int64_t count,
                                const TileConditions& conditions);

// The sum of the squares of up to kChunk gradients, in the tree of kernels/norm_tree.hpp, and whether all are finite.
struct SumOfSquares {
  double sum;
  bool all_finite;
};
using NormFunction = SumOfSquares (*)(const void* gradient, std::int64_t count);

struct UpdateTable {
  SimdLevel level;
  const UpdateFunction* functions;                          // [rule][storage]
  const NormFunction* norms;                                // [gradient type]
  double (*sum)(const double* values, std::int64_t count);  // the same tree over numbers
  // Whether loops ask memory for what comes next: on Intel's processors, where that was seen to help; on AMD's it was
  // not.
  bool prefetches = false;
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
