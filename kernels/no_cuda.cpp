// Stands in for the CUDA backend and says so at run time.
#include "adamant/error.hpp"
#include "kernels/backend.hpp"

namespace adamant::kernels {
namespace {

[[noreturn]] void throw_unavailable(int index) {
  throw Unavailable("adamant: device cuda:" + std::to_string(index) +
                    " was asked for, but the library was built without CUDA; build it where there is a CUDA toolkit "
                    "(ADAMANT_CUDA=ON), or use the CPU");
}

}  // namespace

std::unique_ptr<Backend> make_cuda_backend(int index, int /*rule*/, const Allocator& /*allocator*/,
                                           LaunchShape /*shape*/) {
  throw_unavailable(index);
}

std::vector<std::string> cuda_devices() { return {}; }

std::int64_t cuda_memory_available(int index) { throw_unavailable(index); }

}  // namespace adamant::kernels
