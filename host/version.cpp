// The library's own copy of its version.
#include "adamant/version.hpp"

namespace adamant {

std::string_view version() { return kVersion; }

}  // namespace adamant
