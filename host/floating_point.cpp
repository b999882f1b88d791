// Reads and writes the control and status register of SSE (x86-64), or FPCR and FPSR (arm64).
#include "host/floating_point.hpp"

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace adamant::host {
namespace {

#if defined(__x86_64__)
// All exceptions masked, round to nearest, neither flush-to-zero nor denormals-are-zero: the state a process starts in.
constexpr std::uint64_t kDefault = 0x1F80;
std::uint64_t read() { return _mm_getcsr(); }
void write(std::uint64_t value) { _mm_setcsr(static_cast<unsigned>(value)); }
#elif defined(__aarch64__)
constexpr std::uint64_t kDefault = 0;
// Modes and traps in the lower half, exception flags in the upper; both registers use 32 bits.
std::uint64_t read() {
  std::uint64_t control;
  std::uint64_t status;
  asm volatile("mrs %0, fpcr" : "=r"(control));
  asm volatile("mrs %0, fpsr" : "=r"(status));
  return control | status << 32;
}
void write(std::uint64_t value) {
  asm volatile("msr fpcr, %0" : : "r"(value & 0xFFFFFFFF));
  asm volatile("msr fpsr, %0" : : "r"(value >> 32));
}
#else
#error "host/floating_point.cpp: say how this architecture's rounding mode and flush-to-zero are read and set"
#endif

}  // namespace

FloatingPointGuard::FloatingPointGuard() : saved_(read()) { write(kDefault); }
FloatingPointGuard::~FloatingPointGuard() { write(saved_); }

}  // namespace adamant::host
