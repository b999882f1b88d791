// A CUDA device as a place to measure on, and what the device is. Plain C++; a build without CUDA has a stand-in.
#pragma once

#include <cstdint>
#include <string>

#include "bench/bed.hpp"

namespace adamant::bench {

struct GpuFacts {
  std::string name;     // "NVIDIA H200"
  std::string pci_bus;  // "00000000:4E:00.0"
  std::string compute_capability;
  int multiprocessors = 0;
  std::int64_t memory_bytes = 0;
  std::int64_t free_bytes = 0;
  std::int64_t l2_bytes = 0;
  std::string driver;       // its release, "580.65.06"; empty where the system does not say
  std::string cuda_driver;  // the newest CUDA that the driver supports, "13.0"
  std::string cuda_runtime;
  std::string cuda_compiler;
  // GB/s that the memory's pins carry at most, from the memory clock and bus width that the driver reports, two
  // transfers a clock; 0 where it reports none. For HBM it may be off by a few percent: of the H200 it says more than
  // the datasheet.
  double pin_rate = 0;
  double most_clock_megahertz = 0;         // of the multiprocessors; 0 where the driver does not say
  double most_memory_clock_megahertz = 0;  // as above
};

// The device must be there: an Optimizer for it can be made.
GpuFacts gpu_facts(int index);

}  // namespace adamant::bench
