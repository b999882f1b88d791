// Memory of a device for the programs beside the library: the command line, tests and benchmarks. No CUDA header.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "adamant/types.hpp"
#include "kernels/backend.hpp"

namespace adamant::host {

// Allocates on one device and copies from and to it. Copies follow what was enqueued in the legacy default stream and
// have finished when they return.
class DeviceMemory {
 public:
  // Throws Unavailable when the device is not there.
  explicit DeviceMemory(Device device);

  Device device() const { return device_; }
  std::shared_ptr<std::byte> allocate(std::int64_t bytes) { return backend_->allocate(bytes); }
  void write(void* to, std::span<const std::byte> from) { backend_->write(to, from, nullptr); }
  void read(std::span<std::byte> to, const void* from) const;

 private:
  Device device_;
  std::unique_ptr<kernels::Backend> backend_;
};

// An array on a device. Where the device is the CPU, the elements can be looked at through data().
template <typename T>
class DeviceArray {
 public:
  DeviceArray(DeviceMemory& memory, std::int64_t count)
      : memory_(&memory), data_(memory.allocate(count * static_cast<std::int64_t>(sizeof(T)))), count_(count) {}
  DeviceArray(DeviceMemory& memory, std::span<const T> values)
      : DeviceArray(memory, static_cast<std::int64_t>(values.size())) {
    write(values);
  }

  T* data() const { return reinterpret_cast<T*>(data_.get()); }
  std::int64_t count() const { return count_; }
  void write(std::span<const T> values) { memory_->write(data(), std::as_bytes(values)); }
  std::vector<T> read() const {
    std::vector<T> values(static_cast<std::size_t>(count_));
    memory_->read(std::as_writable_bytes(std::span(values)), data());
    return values;
  }

 private:
  DeviceMemory* memory_;
  std::shared_ptr<std::byte> data_;
  std::int64_t count_;
};

// The bytes of the host's memory that can be had without swapping and within the limits of control groups (version 2).
std::int64_t memory_available();

// The release of NVIDIA's driver, "580.65.06"; empty where the system does not say.
std::string nvidia_driver();

}  // namespace adamant::host
