// What the measurement needs of the CUDA runtime: a stream, a clock on the device, graphs, copies and filled buffers.
// Plain C++. Whatever fails throws CudaError.
#pragma once

#include <cstdint>
#include <functional>

#include "adamant/types.hpp"

struct CUevent_st;

namespace adamant::bench {

// A stream of a device, which is current as long as this object lives.
class GpuStream {
 public:
  explicit GpuStream(int index);
  ~GpuStream();
  GpuStream(const GpuStream&) = delete;
  GpuStream& operator=(const GpuStream&) = delete;

  Stream get() const { return stream_; }
  void wait() const;
  // Seconds on the device's own clock, between two events, for what `enqueue` puts into the stream. Waits.
  double seconds_of(const std::function<void()>& enqueue) const;
  // What `enqueue` puts into the stream as a graph; the result launches it there.
  std::function<void()> capture(const std::function<void()>& enqueue) const;

  void copy(void* to, const void* from, std::int64_t bytes) const;
  // By a kernel; addresses are multiples of 16.
  void plain_copy(void* to, const void* from, std::int64_t bytes) const;
  // realistic_value() of each element from 0 on, times `scale`.
  void fill(void* values, DataType type, std::int64_t count, double scale) const;

 private:
  int before_ = 0;
  Stream stream_ = nullptr;
  CUevent_st* start_ = nullptr;
  CUevent_st* stop_ = nullptr;
};

}  // namespace adamant::bench
