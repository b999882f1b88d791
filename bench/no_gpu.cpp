// Stands in for the measurement on CUDA devices in a build without CUDA, and says so.
#include "adamant/error.hpp"
#include "bench/gpu_bed.hpp"

namespace adamant::bench {
namespace {

[[noreturn]] void refuse() { throw Unavailable("adamant: this benchmark was built without CUDA; use --device cpu"); }

}  // namespace

GpuFacts gpu_facts(int /*index*/) { refuse(); }

std::unique_ptr<Bed> make_gpu_bed(int /*index*/) { refuse(); }

}  // namespace adamant::bench
