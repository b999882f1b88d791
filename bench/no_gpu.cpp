// Stands in for the measurement on CUDA devices in a build without CUDA, and says so.
#include "adamant/error.hpp"
#include "bench/gpu_throughput.hpp"

namespace adamant::bench {
namespace {

[[noreturn]] void refuse() { throw Unavailable("adamant: this benchmark was built without CUDA; use --device cpu"); }

}  // namespace

GpuFacts gpu_facts(int /*index*/) { refuse(); }

std::int64_t bytes_needed_on_gpu(const Request& /*request*/) { refuse(); }

Throughput measure_on_gpu(const Request& /*request*/, const ProgressTo& /*progress*/) { refuse(); }

}  // namespace adamant::bench
