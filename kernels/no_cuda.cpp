// Stands in for the CUDA backend and says so at run time.
#include "adamant/error.hpp"
#include "kernels/backend.hpp"

namespace adamant::kernels {

std::unique_ptr<Backend> make_cuda_backend(int index, int /*rule*/) {
  throw Unavailable("adamant: device cuda:" + std::to_string(index) +
                    " was asked for, but this version of the library has no CUDA backend yet; use the CPU");
}

}  // namespace adamant::kernels
