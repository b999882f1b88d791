// What a caller asks of every step, checked, and as the kernels have it. The caller's floating-point environment is put
// aside by whoever calls these, which are functions of their own so that nothing of them is moved out of that.
#pragma once

#include <string>

#include "adamant/step_control.hpp"
#include "kernels/step_control.hpp"

namespace adamant::host {

[[noreturn]] void refuse_control(const char* field, const std::string& what);

// Throws std::invalid_argument naming the field; where the pointers point to is the backend's to check.
[[gnu::noinline]] void check_control(const StepControl& control);

[[gnu::noinline]] kernels::Control to_kernel_control(const StepControl& control);

// The report as it is when a loss scale has begun, or ended.
[[gnu::noinline]] StepReport first_report(const StepControl& control);

}  // namespace adamant::host
