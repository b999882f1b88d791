// How a caller's mistake is refused.
#pragma once

#include <stdexcept>
#include <string>
#include <string_view>

#include "host/text.hpp"

namespace adamant::host {

[[noreturn]] inline void refuse(const std::string& what) { throw std::invalid_argument("adamant: " + what); }

inline std::string of_tensor(std::string_view name) { return "tensor " + in_quotes(name) + ": "; }

}  // namespace adamant::host
