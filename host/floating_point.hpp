// The floating-point environment that every result is computed in, whatever the host program has set.
#pragma once

#include <cstdint>

namespace adamant::host {

// While it lives, this thread rounds to nearest, keeps subnormals and traps nothing; afterwards everything is as the
// caller had it, exception flags included. The arithmetic it guards must be in a function that is not inlined into the
// one that makes the guard, because compilers move arithmetic across a change of mode.
class FloatingPointGuard {
 public:
  FloatingPointGuard();
  ~FloatingPointGuard();
  FloatingPointGuard(const FloatingPointGuard&) = delete;
  FloatingPointGuard& operator=(const FloatingPointGuard&) = delete;

 private:
  std::uint64_t saved_;
};

}  // namespace adamant::host
