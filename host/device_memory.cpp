#include "host/device_memory.hpp"

#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <limits>
#include <string>

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

std::int64_t memory_available() {
  // Free pages alone leave out what the kernel would give back at once, the page cache above all.
  std::ifstream file("/proc/meminfo");
  for (std::string field; file >> field; file.ignore(std::numeric_limits<std::streamsize>::max(), '\n')) {
    std::int64_t kibibytes = 0;
    if (field == "MemAvailable:" && file >> kibibytes) return 1024 * kibibytes;
  }
  return static_cast<std::int64_t>(sysconf(_SC_AVPHYS_PAGES)) * static_cast<std::int64_t>(sysconf(_SC_PAGESIZE));
}

}  // namespace adamant::host
