// What the Optimizer asks of a backend. Plain C++; implemented by host/cpu_backend.cpp and, for CUDA, in this folder.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "adamant/rules.hpp"
#include "adamant/types.hpp"
#include "kernels/step_plan.hpp"

namespace adamant::kernels {

class Backend {
 public:
  virtual ~Backend() = default;

  // Device memory, all zero, aligned to 256 bytes and released with the last copy of the pointer.
  // Throws std::bad_alloc.
  virtual std::shared_ptr<std::byte> allocate(std::int64_t bytes) = 0;

  // Makes room for what follows, which then does not allocate: `slots` step counts and `groups` sets of options.
  virtual void reserve(std::int64_t slots, std::int64_t groups) = 0;

  // From the next step on, steps follow this plan. Strong guarantee: throws std::bad_alloc or succeeds.
  virtual void set_plan(StepPlan plan) = 0;

  // Refreshes one address of the plan in force, in stream order.
  virtual void set_gradient(std::int64_t row, const void* gradient, Stream stream) = 0;

  virtual void set_options(std::int32_t group, const Method& options, Stream stream) = 0;

  virtual void set_step_count(std::int64_t slot, std::int64_t count) = 0;
  virtual std::int64_t step_count(std::int64_t slot) const = 0;

  // One step of the plan.
  virtual void step(Stream stream) = 0;

  // Sets memory to zero, in stream order.
  virtual void zero(void* data, std::int64_t bytes, Stream stream) = 0;

  // The bytes at `data`, device memory, for the host to look at: where they are, or copied into `staging`. Waits for
  // what comes before it in the stream.
  virtual std::span<const std::byte> read(const void* data, std::int64_t bytes, std::vector<std::byte>& staging,
                                          Stream stream) = 0;

  // Copies host memory to device memory; has finished with `bytes` when it returns.
  virtual void write(void* data, std::span<const std::byte> bytes, Stream stream) = 0;
};

// The backend of CUDA device `index` for the rule of that index in Rules.
// Throws Unavailable when this build or this machine has none.
std::unique_ptr<Backend> make_cuda_backend(int index, int rule);

}  // namespace adamant::kernels
