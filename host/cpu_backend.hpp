// The CPU backend.
#pragma once

#include <memory>

#include "adamant/tuning.hpp"
#include "host/cpu_update.hpp"
#include "kernels/backend.hpp"

namespace adamant::host {

// Threads that OpenMP gives to this process when a Tuning does not say.
int default_threads();

// A backend for the rule of that index, with loops of one SIMD level and that many threads.
std::unique_ptr<kernels::Backend> make_cpu_backend(int rule, UpdateTable updates, int threads,
                                                   const Allocator& allocator = {});

}  // namespace adamant::host
