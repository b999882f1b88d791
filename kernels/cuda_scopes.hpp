// What holds for as long as an object of these lives. cuda_error.hpp says how failures are told.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <new>

#include "kernels/cuda_error.hpp"

#define ADAMANT_CUDA(call, what) ::adamant::kernels::check(call, #call, what)

namespace adamant::kernels {

// Makes a device current and puts back the one that was.
class OnDevice {
 public:
  explicit OnDevice(int index) : index_(index) {
    ADAMANT_CUDA(cudaGetDevice(&before_), "asking for the current device");
    if (before_ != index_) ADAMANT_CUDA(cudaSetDevice(index_), "making the optimizer's device current");
  }
  // Before `what`: an error that somebody else has left behind is not taken for one of its.
  OnDevice(int index, const char* what, Place where = {__builtin_FILE(), __builtin_LINE()}) : OnDevice(index) {
    check_nothing_left_behind(what, where);
  }
  // For what gives memory back, which has nobody to tell of a failure and goes on as well as it can.
  OnDevice(int index, std::nothrow_t /*anyway*/) noexcept : before_(index), index_(index) {
    const bool known = cudaGetDevice(&before_) == cudaSuccess;
    if (!known) before_ = index_;
    if (!known || before_ != index_) cudaSetDevice(index_);
  }
  ~OnDevice() {
    if (before_ != index_ && cudaSetDevice(before_) != cudaSuccess) cudaGetLastError();
  }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;

 private:
  int before_ = 0;
  int index_;
};

// For what has nobody to tell of its failures: they are forgotten, but not an error that somebody else left behind.
class Quietly {
 public:
  ~Quietly() {
    if (nothing_left_behind_) cudaGetLastError();
  }
  Quietly() = default;
  Quietly(const Quietly&) = delete;
  Quietly& operator=(const Quietly&) = delete;

 private:
  bool nothing_left_behind_ = cudaPeekAtLastError() == cudaSuccess;
};

// Lets this thread allocate, and wait for a stream that is not captured, while some thread captures another.
class RelaxedCaptureMode {
 public:
  RelaxedCaptureMode() { cudaThreadExchangeStreamCaptureMode(&mode_); }
  ~RelaxedCaptureMode() { cudaThreadExchangeStreamCaptureMode(&mode_); }
  RelaxedCaptureMode(const RelaxedCaptureMode&) = delete;
  RelaxedCaptureMode& operator=(const RelaxedCaptureMode&) = delete;

 private:
  cudaStreamCaptureMode mode_ = cudaStreamCaptureModeRelaxed;
};

// Host memory that a stream copies to or from must stay until the copies have ended, also where something fails in
// between: declared behind that memory, this waits for them before it goes. `what` says what they are for.
class Copies {
 public:
  Copies(cudaStream_t stream, const char* what) : stream_(stream), what_(what) {}
  ~Copies() {
    if (ended_) return;
    const Quietly quietly;
    const RelaxedCaptureMode relaxed;
    cudaStreamSynchronize(stream_);
  }
  Copies(const Copies&) = delete;
  Copies& operator=(const Copies&) = delete;

  // From and to memory of any kind: the runtime tells by the addresses.
  void add(void* to, const void* from, std::size_t bytes) {
    if (bytes > 0) ADAMANT_CUDA(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream_), what_);
  }
  void wait() {
    const RelaxedCaptureMode relaxed;
    ADAMANT_CUDA(cudaStreamSynchronize(stream_), what_);
    ended_ = true;
  }

 private:
  cudaStream_t stream_;
  const char* what_;
  bool ended_ = false;
};

}  // namespace adamant::kernels
