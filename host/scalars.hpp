// Per-step scalars of any rule, computed on the host.
#pragma once

#include <cstdint>

#include "kernels/rule_list.hpp"

namespace adamant::host {

// The Step<Real> of rule `rule` and storage combination `storage` at step `t`, as bytes.
kernels::Scalars scalars_at_step(int rule, int storage, const Method& options, std::int64_t t);

// What the gradient is multiplied by before the rule sees it: -1 to ascend.
double gradient_sign(const Method& options);

}  // namespace adamant::host
