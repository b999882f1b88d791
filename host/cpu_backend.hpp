// The CPU backend.
#pragma once

#include <memory>

#include "adamant/tuning.hpp"
#include "host/cpu_update.hpp"
#include "kernels/backend.hpp"

namespace adamant::host {

// More than any machine has; OpenMP runtimes crash where they cannot start what they are asked for.
inline constexpr int kMostThreads = 4096;

// Threads that OpenMP gives to this process when a Tuning does not say, kMostThreads at most.
int default_threads();

// A backend for the rule of that index, with loops of one SIMD level and that many threads.
std::unique_ptr<kernels::Backend> make_cpu_backend(int rule, UpdateTable updates, int threads,
                                                   const Allocator& allocator = {});

}  // namespace adamant::host
