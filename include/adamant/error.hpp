/// \file
/// What the library throws. A caller's mistake is a `std::invalid_argument` that names tensor, field, value and allowed
/// range; memory that is not to be had is `std::bad_alloc`; the types below are for what the machine lacks and for
/// files. The types' destructors are in the library, so that each type exists once: what a shared library throws is
/// what a program catches.
#pragma once

#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <system_error>

#include "adamant/macros.hpp"

namespace adamant {

/// The device or instruction set that was asked for is not there; the text says what is missing and what to do.
class ADAMANT_API Unavailable : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
  ~Unavailable() override;
};

/// There is no memory; the text says how much was asked for and for what. (Memory of the host for anything but states
/// is a plain `std::bad_alloc`.)
class ADAMANT_API OutOfMemory : public std::bad_alloc {
 public:
  /// \param what the text
  explicit OutOfMemory(const std::string& what);
  OutOfMemory(const OutOfMemory&) noexcept;             ///< shares the text
  OutOfMemory& operator=(const OutOfMemory&) noexcept;  ///< shares the text
  ~OutOfMemory() override;
  /// The text.
  const char* what() const noexcept override;

 private:
  std::shared_ptr<const std::string> what_;
};

/// A CUDA device has not the memory that was asked for; the text says how much that was, for what, on which
/// device and, unless a user's Allocator returned null, how much is free.
class ADAMANT_API OutOfDeviceMemory : public OutOfMemory {
 public:
  using OutOfMemory::OutOfMemory;
  OutOfDeviceMemory(const OutOfDeviceMemory&) noexcept;             ///< shares the text
  OutOfDeviceMemory& operator=(const OutOfDeviceMemory&) noexcept;  ///< shares the text
  ~OutOfDeviceMemory() override;
};

/// A call of the CUDA runtime failed; the text has the call, what it was made for, and CUDA's name and words for the
/// error. Parameters, states and step counts are as they were before the call of the library that threw, unless the
/// text says which tensors were stepped.
class ADAMANT_API CudaError : public std::runtime_error {
 public:
  /// \param what the text \param code a `cudaError_t` \param sticky see sticky()
  CudaError(const std::string& what, int code, bool sticky);
  ~CudaError() override;
  /// The `cudaError_t`.
  int code() const noexcept { return code_; }
  /// Whether the process cannot go on using the device: every further CUDA call would fail with the same error.
  bool sticky() const noexcept { return sticky_; }

 private:
  int code_;
  bool sticky_;
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
