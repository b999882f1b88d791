// Errors of the CUDA runtime as exceptions that say what was called, where and what for.
#pragma once

#include <cuda_runtime_api.h>

#include <string>

namespace adamant::kernels {

// Whether every further CUDA call of the process fails after this error.
bool is_sticky(cudaError_t error);

// "cudaErrorIllegalAddress (700: an illegal memory access was encountered)"
std::string to_text(cudaError_t error);

// Where a call stands. (Clang 14 has no std::source_location.)
struct Place {
  const char* file;
  int line;
};

// fail() throws CudaError, check() does so for anything but success. What the runtime remembers for this thread is
// cleared, because it has been reported. `call` is the call of the runtime, `what` says what it was for.
[[noreturn]] void fail(cudaError_t error, const char* call, const std::string& what,
                       Place where = {__builtin_FILE(), __builtin_LINE()});
inline void check(cudaError_t error, const char* call, const char* what,
                  Place where = {__builtin_FILE(), __builtin_LINE()}) {
  if (error != cudaSuccess) fail(error, call, what, where);
}

// Throws CudaError when an earlier call of this thread, not one of ours, has left an error behind that nobody has
// cleared: what comes after it cannot be trusted, and it must not be taken for an error of ours.
void check_nothing_left_behind(const char* what, Place where = {__builtin_FILE(), __builtin_LINE()});

}  // namespace adamant::kernels
