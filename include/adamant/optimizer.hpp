/// \file
/// The Optimizer: holds the state of any number of parameter arrays and updates all of them in one step.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "adamant/allocator.hpp"
#include "adamant/checkpoint.hpp"
#include "adamant/macros.hpp"
#include "adamant/method.hpp"
#include "adamant/step_control.hpp"
#include "adamant/tuning.hpp"
#include "adamant/types.hpp"

namespace adamant {

/// Names a tensor of one Optimizer; never used again after the tensor is removed. Each Optimizer counts from 0: that an
/// id is another Optimizer's is not noticed where this one has a tensor of that number.
enum class TensorId : std::int64_t {};
/// Names a group of one Optimizer. The group that the constructor makes is `GroupId{}`.
enum class GroupId : std::int32_t {};

/// A parameter array, its gradient, and the options it follows.
struct TensorSpec {
  std::string name = {};  ///< not empty, unique within the Optimizer; errors and checkpoints use it
  /// Updated in place. In memory that the Optimizer's device can use, as all arrays here: a CUDA device refuses what is
  /// not, the CPU cannot tell the memory of a GPU from its own.
  Array parameter = {};
  ConstArray gradient = {};  ///< as many elements as `parameter`; read by every step
  GroupId group = {};        ///< whose options it follows
  /// The parameter's dimensions, row-major, at most 64, for checkpoints only; empty when it is not known to have any
  /// but its count.
  std::vector<std::int64_t> shape = {};
  /// The type of the states; when not given float64 for a float64 parameter and float32 for all others.
  std::optional<DataType> state_type = {};
  /// Where a 16-bit parameter's full precision is kept. The Optimizer owns the master and initialises it from the
  /// parameter in the first prepare() or step() after add(), in the order of that call's stream; with a
  /// float32 master later writes to the parameter by anybody else are lost.
  Master master = Master::automatic;
  /// A low-precision copy for the forward pass, bfloat16 or float16, with as many elements as `parameter`: every step
  /// writes the rounded parameter to it. Only for a float32 parameter with float32 states; must not overlap any other
  /// buffer. No copy is written if this is null with a count of 0.
  Array copy = {};
  /// Whether every step, even a skipped one, zeroes the gradient after using it. Such a gradient must not overlap any
  /// other.
  bool zero_gradient = false;
};

/// Updates any number of parameter arrays by one method, in one pass over memory.
///
/// Tensors may have any size from 0, need only be aligned to their element, and may be of mixed types; the supported
/// combinations are in docs/mixed-precision.md and, for the type of the parameter, in the error for any other. A
/// parameter must not overlap any other buffer given to the same Optimizer; gradients may overlap each other; none of
/// them may overlap the Optimizer's own states. The caller's buffers must outlive the last step that uses them.
///
/// A moved-from Optimizer may only be destroyed or assigned to. An Optimizer is not thread-safe; different Optimizers
/// may be used concurrently. A call that throws has changed nothing (parameters, states, step counts, options), except
/// where the text of a CudaError or DurabilityUnsure says so. Invalid arguments throw `std::invalid_argument`.
///
/// Calls that take a stream take effect in stream order. Give setters the stream of step(): `nullptr`, CUDA's legacy
/// default stream, does not synchronize with a stream made with `cudaStreamNonBlocking`. (freeze(), thaw(), set_group()
/// and set_gradient() take effect with the next step() or prepare() instead, and use their stream only to refuse one
/// that is being captured.) The CPU backend ignores the stream and is synchronous.
///
/// In a child made by fork(), whatever computes or allocates (step(), zero_gradients(), prepare() and what prepares
/// when needed) may wait for ever once any Optimizer of the parent has done so in parallel: the threads exist in the
/// parent only. Start the child by exec() or spawn instead, or give its Optimizers `Tuning::threads` 1. What is
/// prepared can be saved there.
class ADAMANT_API Optimizer {
 public:
  /// An optimizer whose first group, `GroupId{}`, has the options of `method`.
  /// \param method options; their variant (amsgrad, centered, RMSProp's momentum) is fixed from here on
  /// \param tuning never changes a result
  /// \param allocator where memory comes from; both of its functions or neither
  /// \throws std::invalid_argument for an option out of range or an invalid tuning
  /// \throws Unavailable when the device or the instruction set is not there
  explicit Optimizer(Method method, Device device = Device::cpu(), Tuning tuning = {}, Allocator allocator = {});
  ~Optimizer();
  Optimizer(Optimizer&&) noexcept;             ///< takes over tensors, states and plan
  Optimizer& operator=(Optimizer&&) noexcept;  ///< \copydoc Optimizer(Optimizer&&)

  /// Adds a group with its own options, of the same method and variant as the constructor's. Nothing is inherited from
  /// the first group: an option that is not given has the method's default.
  /// \throws std::invalid_argument for an option out of range, another method or another variant (but RMSProp's
  ///   momentum may be 0 in an Optimizer that was made with one)
  GroupId add_group(Method options);

  /// The groups, in the order they were added: the constructor's, those of add_group() and those that load() added.
  std::vector<GroupId> groups() const;

  /// Adds a tensor. Its state is zero and its step count 0; it takes part from the next step on.
  /// \throws std::invalid_argument naming tensor, field, value and allowed range: an empty or taken name, a null or
  ///   misaligned pointer, a count that is negative or does not fit the address space, sizes or types that differ,
  ///   overlapping buffers (the Optimizer's own states among them), an unknown group, a shape of another number of
  ///   elements
  TensorId add(TensorSpec tensor);

  /// Removes a tensor and its state. Steps already enqueued still update it; a graph captured earlier must not be
  /// replayed. The memory is freed, after all steps that use it, when the last of the tensors that were prepared
  /// together is removed.
  void remove(TensorId tensor);

  /// The tensor of that name. \throws std::invalid_argument when there is none
  TensorId find(std::string_view name) const;

  /// The tensors, in the order they were added.
  std::vector<TensorId> tensors() const;

  /// What add() was given, with later changes of gradient and group; valid until the tensor is removed.
  const TensorSpec& tensor(TensorId tensor) const;

  /// From the next step on, steps leave the tensor, its state, its step count and its gradient unchanged, even with
  /// `zero_gradient`: what backward passes accumulate meanwhile goes into the first step after thaw(). A graph captured
  /// earlier still steps it. \throws std::invalid_argument when `stream` is being captured
  void freeze(TensorId tensor, Stream stream = nullptr);
  /// Ends freeze(). \throws std::invalid_argument when `stream` is being captured
  void thaw(TensorId tensor, Stream stream = nullptr);
  /// Whether freeze() is in force.
  bool frozen(TensorId tensor) const;

  /// Moves a tensor to another group; it keeps its state. \throws std::invalid_argument when `stream` is being captured
  void set_group(TensorId tensor, GroupId group, Stream stream = nullptr);

  /// Replaces the gradient from the next step on by another of the same type and count.
  ///
  /// On a CUDA device the new address is uploaded by the next step() or prepare(), in the order of that call's stream,
  /// together with those of all other tensors: call prepare(stream) before replaying a graph. A graph captured before
  /// a change of the tensors, of their groups or of which are frozen, or before the norm was turned on, keeps its old
  /// addresses; so it does after a load() that changed groups, freezes or what random bits are keyed by. At most four
  /// such uploads are in flight; a call that makes a fifth waits for the first.
  /// \throws std::invalid_argument when `stream` is being captured
  void set_gradient(TensorId tensor, ConstArray gradient, Stream stream = nullptr);

  /// The options of a group, valid until the next add_group() or load().
  const Method& options(GroupId group = {}) const;

  /// Replaces the options of this group only; method and variant must stay the same (but RMSProp's momentum may become
  /// 0). In force for every later step in `stream`. In a stream that is being captured it becomes a graph node, which
  /// sets these options at every replay; options() returns them at once.
  /// \throws std::invalid_argument for a group that does not exist, an option out of range, another method or variant
  void set_options(GroupId group, Method options, Stream stream = nullptr);

  /// Sets one option of a group by the name that options() of method.hpp lists, as set_options() does.
  /// \throws std::invalid_argument also for a name that the method does not have
  void set_option(GroupId group, std::string_view option, double value, Stream stream = nullptr);
  /// \copydoc set_option
  void set_option(GroupId group, std::string_view option, std::string_view value, Stream stream = nullptr);

  /// Sets eta of one group, the option that changes most, as set_options() does. \param learning_rate >= 0, finite
  void set_learning_rate(GroupId group, double learning_rate, Stream stream = nullptr);

  /// Sets what every step does to gradients: scaling, clipping, and the handling of non-finite ones. Turning on
  /// something that needs the norm rebuilds the plan, as adding a tensor does. Turning on a loss scale, or giving it
  /// another initial value than set_control() gave it last, sets it to that, turning it off to 1; all of these reset
  /// the report. A graph captured earlier keeps its kernels: it uses new values, but does not start taking a norm.
  /// \throws std::invalid_argument naming what is out of range, a pointer that the device cannot use, and, while
  ///   `stream` is being captured, what turns the norm or a loss scale on or off or begins a loss scale anew
  void set_control(const StepControl& control, Stream stream = nullptr);
  /// What set_control() was given last, with the seed of the last load().
  const StepControl& control() const;

  /// The outcome of the steps so far. Waits for earlier work in `stream` only: to hold nothing up, record an event
  /// after the step and pass another stream that waits for the event.
  /// \throws std::invalid_argument while `stream` is being captured
  StepReport report(Stream stream = nullptr) const;
  /// The report in device memory, which a step writes when it is done; valid for the lifetime of the Optimizer.
  const StepReport* device_report() const;
  /// The loss scale of the next step in device memory: what to multiply the loss by.
  const float* loss_scale() const;

  /// Allocates the states of new tensors (zeroed, in one allocation) and rebuilds the plan. step() does this if
  /// tensors, groups or freezes have changed; call it to allocate at a known time, and before a capture, in which a
  /// step that would have to prepare is refused. Uploads new gradient addresses in the order of `stream`. What it
  /// allocates is ready for every stream when it returns; if it makes masters, it waits for earlier work in `stream`.
  /// Where memory has gone back since (remove(), another plan), it may wait for steps that were enqueued before that.
  /// \throws std::bad_alloc (OutOfMemory, OutOfDeviceMemory), with everything left as it was
  void prepare(Stream stream = nullptr);

  /// One step of every tensor that is not frozen. Does not allocate, unless it has to prepare() first.
  ///
  /// On a CUDA device it enqueues one small kernel and one update kernel for each combination of types, preceded by one
  /// norm kernel for each gradient type if set_control() needs the norm. It returns without waiting for the device.
  /// `nullptr` is CUDA's legacy default stream. In a stream that is being captured the same kernels become graph nodes;
  /// replays continue from the step counts and options that they find. The graph steps the tensors it was captured
  /// with, in the groups they were in, for as long as the Optimizer lives and none of them is removed.
  /// A NaN or an infinity in a gradient reaches the parameter and state of its own element only, unless set_control()
  /// has such steps skipped or clips by norm (NonFinite::propagate says what happens then).
  void step(Stream stream = nullptr);

  /// Sets every gradient to zero, those of frozen tensors too. On a CUDA device that is one memset for each tensor;
  /// where there are many, TensorSpec::zero_gradient has the update do it on its way. In a graph it goes on zeroing the
  /// memory that gradients had when it was captured, whatever set_gradient() says; zero_gradient does not.
  /// \throws std::invalid_argument naming a tensor whose gradient was given as const
  void zero_gradients(Stream stream = nullptr);

  /// Steps that the tensor has taken part in. Waits for what comes before it in `stream`.
  std::int64_t step_count(TensorId tensor, Stream stream = nullptr) const;
  /// Sets the step count, which the bias corrections of Adam and the first step of Momentum follow. \param count 0 to
  /// 2^62 \param stream in whose order
  void set_step_count(TensorId tensor, std::int64_t count, Stream stream = nullptr);

  /// A state of a tensor under PyTorch's name, such as "exp_avg": as many elements as the parameter, of the states'
  /// type, in device memory, valid until the tensor is removed. "master" is the float32 master of a tensor that has
  /// one. Both may be written between steps. Prepares when needed, and then in the order of CUDA's legacy default
  /// stream: call prepare() first where parameters are written in another.
  /// \throws std::invalid_argument for a name that the method does not have, listing those it has
  Array state(TensorId tensor, std::string_view name);

  /// Writes a checkpoint: states, step counts, groups with their options, frozen tensors and, unless `what` says
  /// otherwise, parameters, with a digest of each. After a load() of it, into this or another Optimizer, on any
  /// backend, every further step gives the bits it would have given without.
  ///
  /// The file is written beside `path`, synced, renamed, and its folder synced: whatever happens meanwhile, a kill, a
  /// full disk or a power failure, there is the former file or the new one, whole. A kill may leave `.adamant-*.tmp`
  /// there. A symbolic link at `path` is replaced. Waits for every step and setter so far, in whatever stream, and for
  /// what comes before it in `stream` (a replayed graph is known to its own stream only: give that). Prepares when
  /// needed. Refused while `stream` is captured. Options are those that were set last, by a captured call too.
  /// \throws NotSaved, after which the former file is as it was
  /// \throws DurabilityUnsure, after which the new file is there
  /// \throws std::invalid_argument for tensor names that a file cannot have: not UTF-8, `__metadata__`, one that is
  ///   another's with a state's name behind it ("w" and "w.exp_avg"), or 100 MB of them all together
  void save(const std::filesystem::path& path, SaveOptions what = {}, Stream stream = nullptr);

  /// Reads a checkpoint into this Optimizer, whose tensors are found by name, in whatever order they were added.
  ///
  /// Call set_control() first: of the control, a file holds only the loss scale, which turning one on afterwards would
  /// reset, and the seed, which set_control() would replace. The file's options replace the current ones, groups that
  /// only the file has are added, and each tensor's group and freeze become the file's: change them afterwards.
  /// Parameters are read if the file has them. (With `clip_norm` the last bits of the norm depend on the order in which
  /// tensors were added.)
  ///
  /// The whole file is checked before anything is changed. On a CUDA device what is overwritten is backed up in host
  /// memory until everything is written, and restored if the device fails. Waits as save() does, and what it brings is
  /// there for every stream when it returns. The file is memory-mapped and must not change meanwhile: truncating it in
  /// place kills the process with SIGBUS (save() never does that, it replaces the file).
  ///
  /// A file without adamant's metadata is taken for the state of a PyTorch optimizer: arrays NAME.exp_avg and so on,
  /// step counts from NAME.step (docs/pytorch.md); a parameter without states is one that has not been stepped.
  /// Options, groups and freezes then stay as they are.
  /// \throws NotLoaded with a list of what differs: method and states, or where these fit options out of range, tensors
  ///   missing or extra (see LoadOptions), types, shapes, digests
  void load(const std::filesystem::path& path, const LoadOptions& allowed = {}, Stream stream = nullptr);

  /// Bytes that the states, masters and remainders of all tensors take, known before they are allocated. Parts begin at
  /// multiples of 256.
  std::int64_t state_bytes() const;

  /// Where the tensors live and the steps run.
  Device device() const;
  /// The instruction set that the CPU backend uses; `baseline` on a CUDA device.
  SimdLevel simd() const;
  /// The threads that the CPU backend uses at most; on a CUDA device nothing uses them.
  int threads() const;

 private:
  struct [[gnu::visibility("hidden")]] Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace adamant
