// Checkpoints: what the arrays, step counts and options of an Optimizer are called in a safetensors file. That a file
// takes the place of another whole is host/replacement's business, the format itself that of host/safetensors.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "adamant/checkpoint.hpp"
#include "adamant/rules.hpp"
#include "adamant/types.hpp"
#include "host/safetensors.hpp"
#include "kernels/backend.hpp"
#include "kernels/step_plan.hpp"

namespace adamant::host {

// The most steps that set_step_count() takes or a file of PyTorch's may say: far enough from the end of int64 that no
// run counts past it.
inline constexpr std::int64_t kMostStepsSet = std::int64_t{1} << 62;

// What is kept beside a parameter, as files and Optimizer::state() call it.
inline constexpr std::string_view kMasterName = "master";
inline constexpr std::string_view kRemainderName = "remainder";

// As which type a file has elements of a type.
safetensors::Type file_type(DataType type);

// A tensor of an Optimizer as a checkpoint sees it. Nothing is owned.
struct TensorView {
  std::string_view name;
  std::span<const std::int64_t> shape;  // empty when only the count is known
  std::int64_t count = 0;
  DataType parameter_type{};
  DataType state_type{};
  Master master = Master::none;                // with float32 and remainder, `kept` is the Optimizer's
  std::uint32_t identity = 0;                  // what random bits are keyed by
  const void* parameter = nullptr;             // device memory, as are `kept` and the states
  const void* kept = nullptr;                  // null until prepared
  const void* state[kernels::kMaxSlots] = {};  // null until prepared, which reading does not need
  std::int64_t step_count = 0;
  std::int32_t group = 0;
  bool frozen = false;
};

// An Optimizer as a checkpoint sees it.
struct OptimizerView {
  int rule = 0;  // index in kernels::Rules
  std::span<const Method> groups;
  std::span<const std::string> state_names;  // one a slot
  std::vector<TensorView> tensors;
  std::uint64_t seed = 0;
  std::uint32_t next_identity = 0;  // of a tensor that is added next: above all there have been
  bool has_loss_scale = false;
  StepReport report{};
};

// Throws what Optimizer::save() does.
void save_checkpoint(const std::filesystem::path& path, const OptimizerView& optimizer, SaveOptions what,
                     kernels::Backend& backend, Stream stream);

// An array in the types of the Optimizer: as it is mapped, or made of what the file has.
struct LoadedArray {
  bool is_there = false;
  std::span<const std::byte> mapped;
  std::vector<std::byte> made;
  std::span<const std::byte> bytes() const { return made.empty() ? mapped : std::span<const std::byte>(made); }
};

// What a file has for one tensor.
struct LoadedTensor {
  std::size_t index = 0;                  // in OptimizerView::tensors
  LoadedArray parameter;                  // not there when the file has none
  LoadedArray kept;                       // not there when it stays, or there is none
  LoadedArray state[kernels::kMaxSlots];  // one a slot; what is not there is to be zero
  std::int64_t step_count = 0;
  std::optional<std::uint32_t> identity;
  std::int32_t group = 0;  // this and the next only where LoadedCheckpoint::groups is not empty
  bool frozen = false;
};

// A file that was checked, whole, against an Optimizer. The arrays are mapped, not read.
struct LoadedCheckpoint {
  safetensors::File file;
  std::vector<Method> groups;  // empty for a file of PyTorch's, which says nothing of options
  std::vector<LoadedTensor> tensors;
  std::optional<std::uint64_t> seed;
  std::uint32_t next_identity = 0;   // 0 where the file does not say
  std::optional<StepReport> report;  // with a loss scale
};

// The identities of all tensors of the view after the file is loaded: those of the file, and where a tensor that the
// file does not have would share one, another. No two are the same.
std::vector<std::uint32_t> identities_after(const LoadedCheckpoint& file, const OptimizerView& optimizer);

// Throws NotLoaded as Optimizer::load() does.
LoadedCheckpoint read_checkpoint(const std::filesystem::path& path, const OptimizerView& optimizer,
                                 const LoadOptions& allowed);

}  // namespace adamant::host
