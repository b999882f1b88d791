#include "kernels/cuda_devices.hpp"

#include <cuda_runtime_api.h>

#include <cstdint>
#include <vector>

#include "adamant/error.hpp"
#include "kernels/backend.hpp"
#include "kernels/cuda_memory.hpp"
#include "kernels/cuda_scopes.hpp"

namespace adamant::kernels {

std::string version_text(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

void check_device(int wanted) {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess) cudaGetLastError();  // what somebody else has left behind stays for who looks for it
  const std::string asked = "adamant: device " + name(Device::cuda(wanted)) + " was asked for, but ";
  if (error == cudaErrorInsufficientDriver) {
    int driver = 0;
    int runtime = 0;
    cudaDriverGetVersion(&driver);
    cudaRuntimeGetVersion(&runtime);
    cudaGetLastError();
    throw Unavailable(asked + (driver == 0 ? "there is no NVIDIA driver on this machine; install one, or use the CPU"
                                           : "the NVIDIA driver is too old: it supports CUDA up to " +
                                                 version_text(driver) + ", this library was built with CUDA " +
                                                 version_text(runtime) + "; update the driver, or use the CPU"));
  }
  if (error == cudaErrorNoDevice || (error == cudaSuccess && count == 0)) {
    throw Unavailable(asked + "CUDA sees no device (" + to_text(cudaErrorNoDevice) +
                      "; CUDA_VISIBLE_DEVICES may hide it); use the CPU");
  }
  if (error != cudaSuccess) throw Unavailable(asked + "CUDA does not start: " + to_text(error));
  if (wanted >= count) {
    throw Unavailable(asked + "there " +
                      (count == 1 ? "is only cuda:0" : "are only cuda:0 to " + name(Device::cuda(count - 1))));
  }
}

std::string compute_capability(int index) {
  int major = 0;
  int minor = 0;
  ADAMANT_CUDA(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, index), "asking what the device is");
  ADAMANT_CUDA(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, index), "asking what the device is");
  return std::to_string(major) + "." + std::to_string(minor);
}

std::vector<std::string> cuda_devices() {
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess) count = 0;
  cudaGetLastError();
  std::vector<std::string> devices;
  for (int index = 0; index < count; ++index) {
    cudaDeviceProp properties{};
    if (cudaGetDeviceProperties(&properties, index) != cudaSuccess) break;
    devices.push_back(std::string(properties.name) + ", compute capability " + std::to_string(properties.major) + "." +
                      std::to_string(properties.minor) + ", " + std::to_string(properties.multiProcessorCount) +
                      " SMs, " + gibibytes(static_cast<std::int64_t>(properties.totalGlobalMem)));
  }
  cudaGetLastError();
  return devices;
}

std::int64_t cuda_memory_available(int index) {
  check_device(index);
  const OnDevice on(index);
  std::size_t free = 0;
  std::size_t all = 0;
  ADAMANT_CUDA(cudaMemGetInfo(&free, &all), "asking how much memory is free");
  return static_cast<std::int64_t>(free);
}

}  // namespace adamant::kernels
