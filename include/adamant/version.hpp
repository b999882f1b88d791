/// \file
/// The version: of the headers a program was compiled with, and of the library it runs with.
#pragma once

#include <string_view>

#include "adamant/macros.hpp"

namespace adamant {

/// Version of these headers, by semantic versioning. While the major version is 0 a new minor version may change the
/// interface and the binary interface, and a new patch version neither.
inline constexpr int kVersionMajor = 0;
inline constexpr int kVersionMinor = 2;                ///< the second number, see kVersionMajor
inline constexpr int kVersionPatch = 0;                ///< the third number, see kVersionMajor
inline constexpr std::string_view kVersion = "0.2.0";  ///< all three, "major.minor.patch"

/// Version of the library that was linked, written as kVersion is. A shared library may be of another patch version
/// than the headers.
ADAMANT_API std::string_view version();

}  // namespace adamant
