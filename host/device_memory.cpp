#include "host/device_memory.hpp"

#include <algorithm>

#include "host/cpu_backend.hpp"

namespace adamant::host {

DeviceMemory::DeviceMemory(Device device)
    : device_(device),
      backend_(device.kind == Device::Kind::cpu ? make_cpu_backend(0, update_tables().back(), default_threads())
                                                : kernels::make_cuda_backend(device.index, 0)) {}

void DeviceMemory::read(std::span<std::byte> to, const void* from) const {
  std::vector<std::byte> staging;
  const auto bytes = backend_->read(from, static_cast<std::int64_t>(to.size()), staging, nullptr);
  std::copy(bytes.begin(), bytes.end(), to.begin());
}

}  // namespace adamant::host
