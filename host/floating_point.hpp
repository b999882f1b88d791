// The floating-point environment that every result is computed in, whatever the host program has set.
#pragma once

#include <cstdint>

namespace adamant::host {

// While it lives, this thread rounds to nearest, keeps subnormals and traps nothing; afterwards everything is as the
// caller had it, exception flags included. Compilers move arithmetic across a change of mode, but no access of memory
// that the guard's functions might reach: so what it guards is in a function that is not inlined into the one that
// makes the guard, or takes its operands from such memory and leaves its results there.
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
