#include "kernels/cuda_error.hpp"

#include <algorithm>
#include <array>

#include "adamant/error.hpp"

namespace adamant::kernels {
namespace {

std::string place(Place where) {
  std::string file = where.file;
  file.erase(0, file.find_last_of('/') + 1);
  return file + ":" + std::to_string(where.line);
}

}  // namespace

// The errors after which CUDA's documentation asks for the process to be ended and started anew.
bool is_sticky(cudaError_t error) {
  constexpr std::array kSticky{cudaErrorECCUncorrectable,    cudaErrorIllegalAddress,
                               cudaErrorLaunchTimeout,       cudaErrorAssert,
                               cudaErrorHardwareStackError,  cudaErrorIllegalInstruction,
                               cudaErrorMisalignedAddress,   cudaErrorInvalidAddressSpace,
                               cudaErrorInvalidPc,           cudaErrorLaunchFailure,
                               cudaErrorExternalDevice,      cudaErrorContained,
                               cudaErrorNvlinkUncorrectable, cudaErrorTensorMemoryLeak,
                               cudaErrorMpsClientTerminated};
  return std::find(kSticky.begin(), kSticky.end(), error) != kSticky.end();
}

std::string to_text(cudaError_t error) {
  return std::string(cudaGetErrorName(error)) + " (" + std::to_string(static_cast<int>(error)) + ": " +
         cudaGetErrorString(error) + ")";
}

void fail(cudaError_t error, const char* call, const std::string& what, Place where) {
  cudaGetLastError();
  std::string text = "adamant: " + what + ": " + call + " at " + place(where) + " returned " + to_text(error);
  if (is_sticky(error)) {
    text +=
        ", which is left behind by a kernel that was launched before, not by this call; the process cannot go on "
        "using the device";
  }
  throw CudaError(text, error, is_sticky(error));
}

void check_nothing_left_behind(const char* what, Place where) {
  const cudaError_t error = cudaPeekAtLastError();
  if (error == cudaSuccess) return;
  std::string text = "adamant: " + std::string(what) + " at " + place(where) +
                     ": nothing was done, because an earlier CUDA call or kernel launch of this thread, not one of "
                     "adamant's, left " +
                     to_text(error) + " behind; ";
  text += is_sticky(error) ? "the process cannot go on using the device"
                           : "look into that call, clear the error with cudaGetLastError() and call again";
  throw CudaError(text, error, is_sticky(error));
}

}  // namespace adamant::kernels
