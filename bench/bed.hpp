// What a measurement needs of the device that it runs on: a clock, filled buffers, and what is held against the update.
// measurement.cpp knows no device but through this.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "adamant/types.hpp"
#include "bench/gpu_baselines.hpp"
#include "bench/moved.hpp"

namespace adamant::bench {

// One way to move the arrays of an update, and to compute nothing. Their values stay, but for what is only written.
struct Mover {
  std::string name;
  std::function<void(std::span<const MovedArray> arrays, std::int64_t count)> run;
};

// One way to read an array.
struct Reader {
  std::string name;
  std::function<void(const std::byte* data, std::int64_t bytes)> run;
};

class Bed {
 public:
  Bed() = default;
  virtual ~Bed() = default;
  Bed(const Bed&) = delete;
  Bed& operator=(const Bed&) = delete;

  // Where everything is enqueued; null where the CPU does it itself.
  virtual Stream stream() const = 0;
  virtual void wait() const = 0;
  // Seconds on the device's own clock for what `work` does or enqueues. Waits.
  virtual double seconds_of(const std::function<void()>& work) const = 0;
  // A sample shorter than so many seconds says more of the clock than of the work.
  virtual double shortest_sample() const = 0;

  // realistic_value() of each element from 0 on, times `scale`.
  virtual void fill(void* values, DataType type, std::int64_t count, double scale) const = 0;
  // As the system copies: memcpy() by all threads, cudaMemcpyAsync().
  virtual void copy(void* to, const void* from, std::int64_t bytes) const = 0;
  // As a kernel that loads and stores, and does nothing else. Addresses are multiples of 16.
  virtual void plain_copy(void* to, const void* from, std::int64_t bytes) const = 0;

  virtual std::vector<Mover> movers(std::span<const MovedArray> arrays) const = 0;
  virtual std::vector<Reader> readers() const = 0;

  // Of a device that works while the CPU goes on: what `work` enqueues as a graph that the result launches. Empty of
  // others.
  virtual std::function<void()> capture(const std::function<void()>& work) const = 0;
  // What a user would write without this library. Those of a method; none where nobody has written any.
  virtual std::vector<Baseline> baselines(std::string_view method) const = 0;
};

// `threads` of the CPU, from 1.
std::unique_ptr<Bed> make_cpu_bed(int threads);
// Throws Unavailable in a build without CUDA.
std::unique_ptr<Bed> make_gpu_bed(int index);

// Bytes of the device's memory that can be had.
std::int64_t free_bytes(Device device);
// Bytes that the caches before the device's memory hold.
std::int64_t cache_bytes(Device device);

}  // namespace adamant::bench
