/// \file
/// Where the Optimizer's memory comes from, for programs that have an allocator of their own (RMM, a framework's
/// caching allocator).
#pragma once

#include <cstddef>

#include "adamant/types.hpp"

namespace adamant {

/// Two functions and a pointer that serve every allocation of device memory (on the CPU: of states) of an Optimizer.
/// Left as it is, the CUDA backend takes stream-ordered memory of the device's current pool and the CPU backend the
/// heap.
///
/// Both functions are called with the Optimizer's device current and with a stream of the Optimizer's own (null on the
/// CPU): memory may be handed out before work of that stream is done with it, as stream-ordered allocators do. They are
/// called only from the constructor, add(), add_group(), prepare(), what prepares when needed (state(), save(), load(),
/// the first step() after a change) and what destroys or replaces, never from a prepared step(), and only while the
/// thread that uses the Optimizer is in one of those.
struct Allocator {
  /// Returns `bytes` (more than zero) of memory aligned to at least 256, or null when there is none. May throw, which
  /// goes through to the caller of the Optimizer.
  void* (*allocate)(std::size_t bytes, Stream stream, void* user) = nullptr;
  /// Takes back what allocate() returned, with the same number of bytes, in the order of `stream`: on a CUDA device
  /// steps that were enqueued before may still be using it, and that stream waits for them. An allocator that gives it
  /// to others in any other order waits for `stream` first. Must not throw.
  void (*release)(void* memory, std::size_t bytes, Stream stream, void* user) = nullptr;
  /// Handed to both. It and what it points to outlive the Optimizer.
  void* user = nullptr;
};

}  // namespace adamant
