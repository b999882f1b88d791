/// \file
/// What the library throws. A caller's mistake is a `std::invalid_argument` that names tensor, field, value and allowed
/// range; memory that is not to be had is `std::bad_alloc`; the types below are for what the machine lacks and for
/// files. The types' destructors are in the library, so that each type exists once: what a shared library throws is
/// what a program catches.
#pragma once

#include <stdexcept>
#include <system_error>

#include "adamant/macros.hpp"

namespace adamant {

/// The device or instruction set that was asked for is not there; the text says what is missing and what to do.
class ADAMANT_API Unavailable : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
  ~Unavailable() override;
};

/// Optimizer::save() did not save: what was under that path before, if anything, is still there, whole. `code()` is the
/// system's reason (no space, no permission, a directory in the way).
class ADAMANT_API NotSaved : public std::system_error {
 public:
  using std::system_error::system_error;
  ~NotSaved() override;
};

/// Optimizer::save() put the new checkpoint in place, whole, but the system could not say that it would be there after
/// a power failure. Saving again, there or elsewhere, makes sure.
class ADAMANT_API DurabilityUnsure : public std::system_error {
 public:
  using std::system_error::system_error;
  ~DurabilityUnsure() override;
};

/// Optimizer::load() loaded nothing and changed nothing: the file cannot be read, is damaged, or is of another method,
/// other states or other tensors; the text names file, tensor, what is there and what is needed.
class ADAMANT_API NotLoaded : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
  ~NotLoaded() override;
};

}  // namespace adamant
