// Which CUDA devices there are.
#pragma once

#include <string>

namespace adamant::kernels {

// A version of CUDA as its functions say it, 13000, as "13.0".
std::string version_text(int version);

// Throws Unavailable, saying why, where there is no such device.
void check_device(int index);

// "9.0"
std::string compute_capability(int index);

}  // namespace adamant::kernels
