/// \file
/// What the library throws. A caller's mistake is a `std::invalid_argument` that names tensor, field, value and allowed
/// range; memory that is not to be had is `std::bad_alloc`; the types below are for what the machine lacks.
#pragma once

#include <stdexcept>

#include "adamant/macros.hpp"

namespace adamant {

/// The device or instruction set that was asked for is not there; the text says what is missing and what to do.
class ADAMANT_API Unavailable : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

}  // namespace adamant
