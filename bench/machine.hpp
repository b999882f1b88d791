// What the machine says of itself: the CPU's caches, and clocks. Nothing of it is needed: where the system does not
// say, it is left out.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

namespace adamant::bench {

// Bytes that the data caches of all CPUs hold together, but for those of the first level. `folder` as Linux has it in
// /sys/devices/system/cpu. 0 where it does not say.
std::int64_t cpu_cache_bytes(const std::filesystem::path& folder = "/sys/devices/system/cpu");

// The same, and where the system does not say more than most have, so that measurements are cold all the same.
std::int64_t assumed_cpu_cache_bytes();

// Megahertz, as the system reports them.
struct CpuClocks {
  std::optional<double> now;  // mean over the CPUs
  std::optional<double> least;
  std::optional<double> most;
  std::string governor;  // empty where there is none
};
CpuClocks cpu_clocks();

// Megahertz of a CUDA device at the moment, of its multiprocessors and of its memory: as nvidia-smi says, where there
// is one. `pci_bus` as GpuFacts has it.
struct GpuClocks {
  std::optional<double> multiprocessors;
  std::optional<double> memory;
};
GpuClocks gpu_clocks(const std::string& pci_bus);

// "AMD EPYC 9654 96-Core Processor"; empty where the system does not say.
std::string cpu_name();

}  // namespace adamant::bench
