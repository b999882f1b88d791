#include "bench/gpu_bed.hpp"

#include <cuda_runtime_api.h>

#include <array>
#include <cstddef>
#include <cstdio>
#include <memory>
#include <string>
#include <type_traits>

#include "bench/gpu_ceiling.hpp"
#include "bench/values.hpp"
#include "host/device_memory.hpp"
#include "kernels/cuda_devices.hpp"
#include "kernels/cuda_scopes.hpp"
#include "kernels/narrow.hpp"

namespace adamant::bench {
namespace {

// Long against the resolution of events (half a microsecond) and against the gap before the first kernel of a batch.
constexpr double kShortestSample = 4e-3;
constexpr unsigned kThreads = 256;  // of a block

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

void launch(const void* kernel, std::int64_t threads, void** arguments, Stream stream, const char* what) {
  const auto blocks = static_cast<unsigned>((threads + kThreads - 1) / kThreads);
  ADAMANT_CUDA(cudaLaunchKernel(kernel, dim3(blocks), dim3(kThreads), arguments, 0, stream), what);
}

// Its device is current as long as it lives.
class GpuBed final : public Bed {
 public:
  explicit GpuBed(int index) : current_(index), memory_(Device::cuda(index)), sum_(memory_, 1) {
    ADAMANT_CUDA(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "making a stream");
    ADAMANT_CUDA(cudaEventCreate(&start_), "making the clock");
    ADAMANT_CUDA(cudaEventCreate(&stop_), "making the clock");
  }
  ~GpuBed() override {
    cudaStreamSynchronize(stream_);
    cudaEventDestroy(start_);
    cudaEventDestroy(stop_);
    cudaStreamDestroy(stream_);
    cudaGetLastError();
  }
  GpuBed(const GpuBed&) = delete;
  GpuBed& operator=(const GpuBed&) = delete;

  Stream stream() const override { return stream_; }
  void wait() const override { ADAMANT_CUDA(cudaStreamSynchronize(stream_), "waiting"); }
  double seconds_of(const std::function<void()>& work) const override {
    ADAMANT_CUDA(cudaEventRecord(start_, stream_), "starting the clock");
    work();
    ADAMANT_CUDA(cudaEventRecord(stop_, stream_), "stopping the clock");
    ADAMANT_CUDA(cudaEventSynchronize(stop_), "waiting for a run");
    float milliseconds = 0;
    ADAMANT_CUDA(cudaEventElapsedTime(&milliseconds, start_, stop_), "reading the clock");
    return 1e-3 * static_cast<double>(milliseconds);
  }
  double shortest_sample() const override { return kShortestSample; }

  void fill(void* values, DataType type, std::int64_t count, double scale) const override {
    if (count == 0) return;
    void* arguments[] = {&values, &count, &scale};
    launch(fill_kernel(type), count, arguments, stream_, "filling a buffer");
  }
  void copy(void* to, const void* from, std::int64_t bytes) const override {
    ADAMANT_CUDA(cudaMemcpyAsync(to, from, static_cast<std::size_t>(bytes), cudaMemcpyDeviceToDevice, stream_),
                 "copying");
  }
  void plain_copy(void* to, const void* from, std::int64_t bytes) const override {
    if (bytes == 0) return;
    constexpr std::int64_t kVector = sizeof(uint4);
    void* arguments[] = {&to, &from, &bytes};
    launch(reinterpret_cast<const void*>(&copy_vectors), bytes / kVector + bytes % kVector, arguments, stream_,
           "copying by a kernel");
  }

  std::vector<Mover> movers(std::span<const MovedArray> arrays) const override {
    std::vector<Mover> list;
    for (const GpuCeilingVariant& variant : gpu_ceiling_variants(arrays)) {
      list.push_back({variant.name, [this, run = variant.run](std::span<const MovedArray> moved, std::int64_t count) {
                        run(moved, count, 0, stream_);
                      }});
    }
    return list;
  }

  std::vector<Reader> readers() const override {
    std::vector<Reader> list;
    for (const GpuReadCeilingVariant& variant : gpu_read_ceiling_variants()) {
      list.push_back({variant.name, [this, run = variant.run](const std::byte* data, std::int64_t bytes) {
                        run(data, bytes, 0, sum_.data(), stream_);
                      }});
    }
    return list;
  }

  std::function<void()> capture(const std::function<void()>& work) const override {
    cudaGraph_t graph = nullptr;
    ADAMANT_CUDA(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal), "capturing");
    work();
    ADAMANT_CUDA(cudaStreamEndCapture(stream_, &graph), "capturing");
    cudaGraphExec_t executable = nullptr;
    const cudaError_t error = cudaGraphInstantiate(&executable, graph, 0);
    cudaGraphDestroy(graph);
    kernels::check(error, "cudaGraphInstantiate", "making a graph");
    const std::shared_ptr<CUgraphExec_st> kept(executable, [](cudaGraphExec_t done) { cudaGraphExecDestroy(done); });
    return [kept, stream = stream_] { ADAMANT_CUDA(cudaGraphLaunch(kept.get(), stream), "launching a graph"); };
  }
  std::vector<Baseline> baselines(std::string_view method) const override { return gpu_baselines(method); }

 private:
  kernels::OnDevice current_;
  host::DeviceMemory memory_;
  host::DeviceArray<std::uint32_t> sum_;  // where readers would add up, if they did
  Stream stream_ = nullptr;
  cudaEvent_t start_ = nullptr;
  cudaEvent_t stop_ = nullptr;
};

}  // namespace

std::unique_ptr<Bed> make_gpu_bed(int index) { return std::make_unique<GpuBed>(index); }

GpuFacts gpu_facts(int index) {
  cudaDeviceProp properties{};
  ADAMANT_CUDA(cudaGetDeviceProperties(&properties, index), "asking what the device is");
  const kernels::OnDevice on(index);
  // What earlier requests have given back is free again once the pool lets go of it.
  cudaMemPool_t pool = nullptr;
  ADAMANT_CUDA(cudaDeviceSynchronize(), "waiting for the device");
  if (cudaDeviceGetMemPool(&pool, index) == cudaSuccess) cudaMemPoolTrimTo(pool, 0);
  cudaGetLastError();
  std::size_t free_bytes = 0;
  std::size_t all_bytes = 0;
  ADAMANT_CUDA(cudaMemGetInfo(&free_bytes, &all_bytes), "asking for free memory");
  int driver = 0;
  int runtime = 0;
  ADAMANT_CUDA(cudaDriverGetVersion(&driver), "asking for versions");
  ADAMANT_CUDA(cudaRuntimeGetVersion(&runtime), "asking for versions");

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
