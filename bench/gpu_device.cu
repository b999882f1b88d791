#include "bench/gpu_device.hpp"

#include <cuda_runtime_api.h>

#include <array>
#include <cstddef>
#include <cstdio>
#include <memory>
#include <string>
#include <type_traits>

#include "bench/gpu_bed.hpp"
#include "bench/values.hpp"
#include "host/device_memory.hpp"
#include "kernels/cuda_devices.hpp"
#include "kernels/cuda_error.hpp"
#include "kernels/narrow.hpp"

namespace adamant::bench {
namespace {

using kernels::check;

template <typename Real>
__global__ void fill_values(Real* values, std::int64_t count, double scale) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= count) return;
  if constexpr (std::is_same_v<Real, double>) {
    values[i] = realistic_value(i, scale);
  } else {
    values[i] = kernels::Narrow<Real>::of(static_cast<float>(realistic_value(i, scale)));
  }
}

// A vector of 16 bytes a thread; the bytes after the last whole one by the threads behind.
__global__ void copy_vectors(std::byte* to, const std::byte* from, std::int64_t bytes) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const std::int64_t vectors = bytes / static_cast<std::int64_t>(sizeof(uint4));
  if (i < vectors) {
    reinterpret_cast<uint4*>(to)[i] = reinterpret_cast<const uint4*>(from)[i];
  } else if (const std::int64_t byte = vectors * static_cast<std::int64_t>(sizeof(uint4)) + i - vectors; byte < bytes) {
    to[byte] = from[byte];
  }
}

const void* fill_kernel(DataType type) {
  switch (type) {
    case DataType::float64: return reinterpret_cast<const void*>(&fill_values<double>);
    case DataType::bfloat16: return reinterpret_cast<const void*>(&fill_values<bfloat16>);
    case DataType::float16: return reinterpret_cast<const void*>(&fill_values<float16>);
    default: return reinterpret_cast<const void*>(&fill_values<float>);
  }
}

int attribute(cudaDeviceAttr which, int index) {
  int value = 0;
  if (cudaDeviceGetAttribute(&value, which, index) == cudaSuccess) return value;
  cudaGetLastError();  // a device or driver that does not have it
  return 0;
}

}  // namespace

GpuStream::GpuStream(int index) {
  check(cudaGetDevice(&before_), "cudaGetDevice", "asking for the current device");
  check(cudaSetDevice(index), "cudaSetDevice", "making the benchmark's device current");
  check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreateWithFlags", "making a stream");
  check(cudaEventCreate(&start_), "cudaEventCreate", "making the clock");
  check(cudaEventCreate(&stop_), "cudaEventCreate", "making the clock");
}

GpuStream::~GpuStream() {
  cudaStreamSynchronize(stream_);
  cudaEventDestroy(start_);
  cudaEventDestroy(stop_);
  cudaStreamDestroy(stream_);
  cudaSetDevice(before_);
  cudaGetLastError();
}

void GpuStream::wait() const { check(cudaStreamSynchronize(stream_), "cudaStreamSynchronize", "waiting"); }

double GpuStream::seconds_of(const std::function<void()>& enqueue) const {
  check(cudaEventRecord(start_, stream_), "cudaEventRecord", "starting the clock");
  enqueue();
  check(cudaEventRecord(stop_, stream_), "cudaEventRecord", "stopping the clock");
  check(cudaEventSynchronize(stop_), "cudaEventSynchronize", "waiting for a run");
  float milliseconds = 0;
  check(cudaEventElapsedTime(&milliseconds, start_, stop_), "cudaEventElapsedTime", "reading the clock");
  return 1e-3 * static_cast<double>(milliseconds);
}

std::function<void()> GpuStream::capture(const std::function<void()>& enqueue) const {
  cudaGraph_t graph = nullptr;
  check(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture", "capturing");
  enqueue();
  check(cudaStreamEndCapture(stream_, &graph), "cudaStreamEndCapture", "capturing");
  cudaGraphExec_t executable = nullptr;
  const cudaError_t error = cudaGraphInstantiate(&executable, graph, 0);
  cudaGraphDestroy(graph);
  check(error, "cudaGraphInstantiate", "making a graph");
  const std::shared_ptr<CUgraphExec_st> kept(executable, [](cudaGraphExec_t done) { cudaGraphExecDestroy(done); });
  return
      [kept, stream = stream_] { check(cudaGraphLaunch(kept.get(), stream), "cudaGraphLaunch", "launching a graph"); };
}

void GpuStream::copy(void* to, const void* from, std::int64_t bytes) const {
  check(cudaMemcpyAsync(to, from, static_cast<std::size_t>(bytes), cudaMemcpyDeviceToDevice, stream_),
        "cudaMemcpyAsync", "copying");
}

void GpuStream::plain_copy(void* to, const void* from, std::int64_t bytes) const {
  constexpr unsigned kThreads = 256;
  if (bytes == 0) return;
  constexpr std::int64_t kVector = sizeof(uint4);
  const std::int64_t threads = bytes / kVector + bytes % kVector;
  void* pointers[] = {&to, &from, &bytes};
  check(cudaLaunchKernel(reinterpret_cast<const void*>(&copy_vectors),
                         dim3(static_cast<unsigned>((threads + kThreads - 1) / kThreads)), dim3(kThreads), pointers, 0,
                         stream_),
        "cudaLaunchKernel", "copying by a kernel");
}

void GpuStream::fill(void* values, DataType type, std::int64_t count, double scale) const {
  constexpr unsigned kThreads = 256;
  if (count == 0) return;
  void* pointers[] = {&values, &count, &scale};
  const void* const kernel = fill_kernel(type);
  check(cudaLaunchKernel(kernel, dim3(static_cast<unsigned>((count + kThreads - 1) / kThreads)), dim3(kThreads),
                         pointers, 0, stream_),
        "cudaLaunchKernel", "filling a buffer");
}

GpuFacts gpu_facts(int index) {
  cudaDeviceProp properties{};
  check(cudaGetDeviceProperties(&properties, index), "cudaGetDeviceProperties", "asking what the device is");
  const GpuStream current(index);
  // What earlier requests have given back is free again once the pool lets go of it.
  cudaMemPool_t pool = nullptr;
  check(cudaDeviceSynchronize(), "cudaDeviceSynchronize", "waiting for the device");
  if (cudaDeviceGetMemPool(&pool, index) == cudaSuccess) cudaMemPoolTrimTo(pool, 0);
  cudaGetLastError();
  std::size_t free_bytes = 0;
  std::size_t all_bytes = 0;
  check(cudaMemGetInfo(&free_bytes, &all_bytes), "cudaMemGetInfo", "asking for free memory");
  int driver = 0;
  int runtime = 0;
  check(cudaDriverGetVersion(&driver), "cudaDriverGetVersion", "asking for versions");
  check(cudaRuntimeGetVersion(&runtime), "cudaRuntimeGetVersion", "asking for versions");

  GpuFacts facts;
  facts.name = properties.name;
  std::array<char, 32> pci_bus{};
  std::snprintf(pci_bus.data(), pci_bus.size(), "%08X:%02X:%02X.0", properties.pciDomainID, properties.pciBusID,
                properties.pciDeviceID);
  facts.pci_bus = pci_bus.data();
  facts.compute_capability = kernels::compute_capability(index);
  facts.multiprocessors = properties.multiProcessorCount;
  facts.memory_bytes = static_cast<std::int64_t>(properties.totalGlobalMem);
  facts.free_bytes = static_cast<std::int64_t>(free_bytes);
  facts.l2_bytes = properties.l2CacheSize;
  facts.driver = host::nvidia_driver();
  facts.cuda_driver = kernels::version_text(driver);
  facts.cuda_runtime = kernels::version_text(runtime);
  facts.cuda_compiler = std::to_string(__CUDACC_VER_MAJOR__) + "." + std::to_string(__CUDACC_VER_MINOR__) + "." +
                        std::to_string(__CUDACC_VER_BUILD__);
  const double kilohertz = attribute(cudaDevAttrMemoryClockRate, index);
  const double bits = attribute(cudaDevAttrGlobalMemoryBusWidth, index);
  constexpr double kTransfersPerClock = 2;
  facts.pin_rate = kTransfersPerClock * kilohertz * 1e3 * bits / 8 * 1e-9;
  facts.most_clock_megahertz = 1e-3 * attribute(cudaDevAttrClockRate, index);
  facts.most_memory_clock_megahertz = 1e-3 * kilohertz;
  return facts;
}

}  // namespace adamant::bench
