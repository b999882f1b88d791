// What the Optimizer asks of a backend. Plain C++; implemented by host/cpu_backend.cpp and, for CUDA, in this folder.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "adamant/allocator.hpp"
#include "adamant/rules.hpp"
#include "adamant/types.hpp"
#include "kernels/step_control.hpp"
#include "kernels/step_plan.hpp"

namespace adamant::kernels {

// What takes a stream takes effect in the stream's order and does not wait for the device unless it says so; what takes
// none has finished, on the device too, when it returns. What throws has changed nothing: Unavailable, CudaError and
// std::bad_alloc are the device's reasons, std::invalid_argument the caller's.
class Backend {
 public:
  virtual ~Backend() = default;

  // Device memory, all zero, aligned to 256 bytes and released with the last copy of the pointer, when the steps before
  // that are done with it.
  virtual std::shared_ptr<std::byte> allocate(std::int64_t bytes) = 0;

  // Why the device cannot use `bytes` at `data`, and what it could use; empty when it can.
  virtual std::string why_unusable(const void* data, std::int64_t bytes) const = 0;

  // Throws std::invalid_argument when the stream is being captured: `what` cannot be part of a graph.
  virtual void check_not_capturing(Stream stream, const char* what) const = 0;

  // Waits for all steps and setters so far, in whatever stream, and for what comes before in this one. (A replayed
  // graph is known to its own stream only.) Throws std::invalid_argument as check_not_capturing() does.
  virtual void finish(Stream stream, const char* what) const = 0;

  // Makes room for what follows, which then does not allocate: `slots` step counts and `groups` sets of options.
  virtual void reserve(std::int64_t slots, std::int64_t groups) = 0;

  // Elements of the tiles of a plan: where nobody has chosen, and of the largest that is packed with others.
  struct TileSizes {
    std::int64_t usual;
    std::int64_t packed;
  };
  virtual TileSizes tile_sizes() const = 0;
  // From the next step on, steps follow this plan.
  virtual void set_plan(StepPlan plan) = 0;

  // Changes one address of the plan in force, for the next step or refresh().
  virtual void set_gradient(std::int64_t row, const void* gradient) = 0;
  // Brings changed addresses to the device. Waits when too many refreshes are on their way already.
  virtual void refresh(Stream stream) = 0;

  // The options of a group that no step has followed yet: in force for every stream when it returns.
  virtual void set_first_options(std::int32_t group, const Method& options) = 0;
  virtual void set_options(std::int32_t group, const Method& options, Stream stream) = 0;

  virtual void set_step_count(std::int64_t slot, std::int64_t count, Stream stream) = 0;
  // Reads the counts of the slots from `first` on. Waits for what comes before it in the stream.
  virtual void read_step_counts(std::int64_t first, std::span<std::int64_t> counts, Stream stream) const = 0;

  // What steps do to gradients from here on. The norm is taken only where the plan has what that needs.
  virtual void set_control(const Control& control, Stream stream) = 0;

  // What became of the steps; device memory, for as long as the backend lives.
  virtual const StepReport* report() const = 0;
  virtual void set_report(const StepReport& report, Stream stream) = 0;
  // Waits for what comes before it in the stream.
  virtual StepReport read_report(Stream stream) const = 0;

  // Gives a tensor of that storage the master that its parameter's value makes, where it has one of its own: the value
  // that it has in the order of the stream. There for every stream after the next set_plan().
  virtual void make_master(std::int32_t storage, void* kept, const void* parameter, std::int64_t count,
                           Stream stream) = 0;

  // One step of the plan.
  virtual void step(Stream stream) = 0;

  // Sets memory to zero.
  virtual void zero(void* data, std::int64_t bytes, Stream stream) = 0;

  // The bytes at `data`, device memory, for the host to look at: where they are, or copied into `staging`. Waits for
  // what comes before it in the stream.
  virtual std::span<const std::byte> read(const void* data, std::int64_t bytes, std::vector<std::byte>& staging,
                                          Stream stream) const = 0;

  // Copies host memory to device memory; has finished with `bytes` when it returns.
  virtual void write(void* data, std::span<const std::byte> bytes, Stream stream) = 0;
};

// How the update kernel is launched. Only tests choose; nothing in it can change a result.
struct LaunchShape {
  int threads = 0;  // of a block, a multiple of 32; 0: as kernels/tuning.hpp says
};

// The backend of CUDA device `index` for the rule of that index in Rules.
// Throws Unavailable when this build or this machine has none.
std::unique_ptr<Backend> make_cuda_backend(int index, int rule, const Allocator& allocator = {},
                                           LaunchShape shape = {});

// The CUDA devices that this build can use, and what each is: "NVIDIA H200, compute capability 9.0, 139.8 GiB". Empty
// when there are none; never throws for that.
std::vector<std::string> cuda_devices();

// Bytes of a CUDA device's memory that nobody has taken. Throws as make_cuda_backend() does.
std::int64_t cuda_memory_available(int index);

}  // namespace adamant::kernels
