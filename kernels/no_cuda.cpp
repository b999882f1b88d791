// Stands in for the CUDA backend and says so at run time.
#include "adamant/error.hpp"
#include "kernels/backend.hpp"

namespace adamant::kernels {

std::unique_ptr<Backend> make_cuda_backend(int index, int /*rule*/, const Allocator& /*allocator*/,
                                           LaunchShape /*shape*/) {
  throw Unavailable("adamant: device cuda:" + std::to_string(index) +
                    " was asked for, but the library was built without CUDA; build it where there is a CUDA toolkit "
                    "(ADAMANT_CUDA=ON), or use the CPU");
}

std::vector<std::string> cuda_devices() { return {}; }

}  // namespace adamant::kernels
