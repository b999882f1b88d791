#include "host/device_memory.hpp"

#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <fstream>
#include <limits>
#include <optional>
#include <sstream>
#include <string>
#include <string_view>

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

namespace {

// The number behind a word in a file of lines, or with no word the first; none where there is no file, no such word, or
// another word in its place ("max").
std::optional<std::int64_t> number_in(const std::string& path, std::string_view word = {}) {
  std::ifstream file(path);
  for (std::string each; !word.empty() && file >> each && each != word;) {
  }
  std::int64_t number = 0;
  return file >> number ? std::optional(number) : std::nullopt;
}

// What the control group of this process, as containers have one, and those around it leave of their limits.
std::int64_t left_by_control_groups() {
  std::int64_t left = std::numeric_limits<std::int64_t>::max();
  std::string line;
  std::ifstream groups("/proc/self/cgroup");
  while (std::getline(groups, line) && !line.starts_with("0::")) {
  }
  if (!line.starts_with("0::")) return left;
  for (std::string group = line.substr(3);; group.resize(group.rfind('/'))) {
    const std::string folder = "/sys/fs/cgroup" + group;
    const auto limit = number_in(folder + "/memory.max");
    const auto used = number_in(folder + "/memory.current");
    const std::int64_t given_back = number_in(folder + "/memory.stat", "inactive_file").value_or(0);
    if (limit && used) left = std::min(left, std::max<std::int64_t>(0, *limit - *used + given_back));
    if (group.empty()) return left;
  }
}

// Free pages alone leave out what the kernel would give back at once, the page cache above all.
std::int64_t left_by_machine() {
  if (const auto kibibytes = number_in("/proc/meminfo", "MemAvailable:")) return 1024 * *kibibytes;
  return static_cast<std::int64_t>(sysconf(_SC_AVPHYS_PAGES)) * static_cast<std::int64_t>(sysconf(_SC_PAGESIZE));
}

}  // namespace

std::int64_t memory_available() { return std::min(left_by_machine(), left_by_control_groups()); }

// The kernel module says "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65.06  ...".
std::string nvidia_driver() {
  std::ifstream file("/proc/driver/nvidia/version");
  std::string line;
  std::getline(file, line);
  std::istringstream words(line);
  for (std::string word; words >> word;) {
    if (std::isdigit(static_cast<unsigned char>(word.front())) != 0) return word;
  }
  return {};
}

}  // namespace adamant::host
