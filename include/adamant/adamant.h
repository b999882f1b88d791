/// \file
/// The library for C and for what calls C (Python's ctypes, Julia, Rust): `#include <adamant/adamant.h>`. The same
/// optimizer and the same bits as the C++ class adamant::Optimizer, whose header says more of each call; this one needs
/// no C++, and docs/c-interface.md has a whole program.
///
/// **Errors.** A function that can fail returns an adamant_status, ADAMANT_SUCCESS or what went wrong, and
/// adamant_last_error() has the text, which names the argument, its value and what is allowed. A call that failed has
/// changed nothing and written none of its results, unless its description says so. No exception comes out.
///
/// **Pointers.** A pointer may not be null unless its description says so; a null pointer is an error that names the
/// parameter. What a pointer leads to is read during the call and not kept, but for the arrays of a tensor
/// (adamant_tensor), the scalars of adamant_step_control and the allocator. Results go to where the last parameters
/// point.
///
/// **Structs** that begin with `struct_size` may get more fields at their end. The caller sets it to the `sizeof` that
/// it was compiled with. Fields beyond that have their defaults; if it is larger than what the library knows, the
/// bytes beyond must be zero, which is what a newer caller has who uses nothing newer. In what the caller fills, zero
/// is the default of every field that has one: `adamant_tensor tensor = {.struct_size = sizeof tensor}` and then what
/// differs. In what the library fills, it sets the bytes beyond what it knows to zero.
///
/// **Texts** are zero-terminated; names are UTF-8 and paths are what the system takes for one. Those that the library
/// hands out belong to it. What comes with an optimizer is valid until the next call with that optimizer, the last
/// error until the next call of the same thread that fails, all others as long as the process.
///
/// **Streams** are `cudaStream_t` as `void*`, null for CUDA's legacy default stream. A call that takes one takes effect
/// in the order of that stream; the CPU backend ignores it and has finished when the call returns.
///
/// **Threads.** One optimizer is used by one thread at a time, different ones by different threads. In a child made by
/// fork() whatever computes or allocates may wait for ever once the parent has done so in parallel, with threads that
/// the child lacks: spawn it, or give its optimizers one thread.
#pragma once

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/// What became of a call: one of adamant_status_value.
typedef int32_t adamant_status;

/// The values of an adamant_status. More may be added.
enum adamant_status_value {
  ADAMANT_SUCCESS = 0,               ///< all is done
  ADAMANT_INVALID_ARGUMENT = 1,      ///< the caller's mistake; the text names the argument
  ADAMANT_OUT_OF_MEMORY = 2,         ///< no host memory, or on the CPU an allocator had none
  ADAMANT_OUT_OF_DEVICE_MEMORY = 3,  ///< a device has not the memory that was asked for
  ADAMANT_UNAVAILABLE = 4,           ///< the device or the instruction set is not there; the text says what is missing
  ADAMANT_NOT_SAVED = 5,             ///< adamant_save() did not save: the former file is as it was
  ADAMANT_DURABILITY_UNSURE = 6,     ///< adamant_save() saved, but a power failure might undo it
  ADAMANT_NOT_LOADED = 7,            ///< adamant_load() loaded nothing; the text lists what does not fit
  ADAMANT_CUDA_ERROR = 8,            ///< a call of the CUDA runtime failed; the text has what was stepped, if anything
  ADAMANT_CUDA_ERROR_STICKY = 9,     ///< the same, and this process cannot go on using the device
  ADAMANT_INTERNAL_ERROR = 10        ///< none of the above: a defect of the library, or what an allocator threw
};

/// Types of elements. 0 is none of them, so that a forgotten type is noticed.
enum adamant_data_type {
  ADAMANT_FLOAT32 = 1,   ///< `float`
  ADAMANT_FLOAT64 = 2,   ///< `double`
  ADAMANT_BFLOAT16 = 3,  ///< the upper half of a float32
  ADAMANT_FLOAT16 = 4    ///< IEEE 754's binary16
};

/// Where tensors live and steps run.
enum adamant_device_kind {
  ADAMANT_CPU = 0,  ///< the host's processor
  ADAMANT_CUDA = 1  ///< a CUDA device, by its index
};

/// Where full precision is kept for a parameter of 16 bits.
enum adamant_master {
  ADAMANT_MASTER_AUTOMATIC = 0,  ///< a float32 master for a parameter of 16 bits, none for others
  ADAMANT_MASTER_NONE = 1,       ///< the parameter is all there is; not for 16 bits
  ADAMANT_MASTER_FLOAT32 = 2,    ///< a float32 array of the optimizer's, of which the parameter is the rounding
  ADAMANT_MASTER_REMAINDER = 3,  ///< the other 16 bits of a float32 beside a bfloat16 parameter
  ADAMANT_MASTER_STOCHASTIC = 4  ///< nothing is kept: the parameter is rounded up or down at random
};

/// Instruction sets of the CPU backend. None changes a result.
enum adamant_simd {
  ADAMANT_SIMD_BEST = 0,      ///< the best that this machine has
  ADAMANT_SIMD_BASELINE = 1,  ///< what every machine of the architecture has
  ADAMANT_SIMD_AVX2 = 2,      ///< 256 bits wide
  ADAMANT_SIMD_AVX512 = 3     ///< 512 bits wide
};

/// What becomes of a step in which a gradient is an infinity or a NaN.
enum adamant_non_finite {
  /// it goes into its own element's parameter and states and no other; but with `clip_norm` a NaN makes all gradients
  /// NaN, and an infinity makes its own NaN and all others 0
  ADAMANT_PROPAGATE = 0,
  ADAMANT_SKIP = 1  ///< no parameter, state or step count changes
};

/// An optimizer: methods, options, states and step counts of any number of tensors. Made by adamant_create() and ended
/// by adamant_destroy().
typedef struct adamant_optimizer adamant_optimizer;

/// One option of a method. The method's names are those of adamant_option_at() and of docs/methods.md.
typedef struct adamant_option {
  const char* name;  ///< "learning_rate", "beta1", ...
  double number;     ///< its value where `text` is null; 0 or 1 for an option that is true or false
  const char* text;  ///< its value: "true", "inside_root", a number in decimal or after 0x in hexadecimal; may be null
} adamant_option;

/// Contiguous elements in the memory of the optimizer's device.
typedef struct adamant_array {
  void* data;        ///< the first element, aligned to its size; may be null where `count` is 0
  int64_t count;     ///< the number of elements, 0 or more
  int32_t type;      ///< of the elements, an adamant_data_type
  int32_t reserved;  ///< 0
} adamant_array;

/// Where an optimizer runs and how. Zero is the default of every field.
typedef struct adamant_settings {
  size_t struct_size;    ///< `sizeof(adamant_settings)`
  int32_t device;        ///< an adamant_device_kind
  int32_t device_index;  ///< which CUDA device, from 0; 0 for the CPU
  /// Of a step on the CPU, at most 4096; 0 takes as many as OpenMP would. OpenMP runtimes end the process where the
  /// system refuses them a thread, so ask for no more than it allows.
  int32_t threads;
  int32_t simd;  ///< an adamant_simd
  int64_t tile;  ///< elements per tile, a multiple of 4096 up to 2^30; 0 chooses
  /// Returns `bytes` (more than zero) of memory of the device, aligned to 256, or null. Null: the library's own
  /// allocator. Called only in adamant_create(), adamant_add(), adamant_add_group(), adamant_prepare(), adamant_load()
  /// and what prepares. `stream` is one of the optimizer's own, null on the CPU: memory may be handed out before work
  /// of that stream is done with it.
  void* (*allocate)(size_t bytes, void* stream, void* user);
  /// Takes back what `allocate` returned, in the order of `stream`: steps that were enqueued before may still be using
  /// it, and that stream waits for them. What gives it to others in another order waits for `stream` first. Null
  /// exactly where `allocate` is.
  void (*release)(void* memory, size_t bytes, void* stream, void* user);
  void* user;  ///< handed to both; it and what it points to outlive the optimizer; may be null
} adamant_settings;

/// A parameter array, its gradient, and what it follows. The arrays are the caller's, live until the last step that was
/// given them has finished, and a parameter or a copy overlaps no other.
typedef struct adamant_tensor {
  size_t struct_size;       ///< `sizeof(adamant_tensor)`
  const char* name;         ///< not empty, unique within the optimizer; errors and checkpoints use it
  adamant_array parameter;  ///< updated in place
  adamant_array gradient;   ///< as many elements; read by every step
  /// An array of 16 bits to which every step also writes a float32 parameter, rounded. All zero: there is none.
  adamant_array copy;
  const int64_t* shape;       ///< the parameter's dimensions, row-major, for checkpoints only; null: only its count
  size_t dimensions;          ///< how many `shape` has
  int32_t group;              ///< whose options it follows: 0, or what adamant_add_group() gave
  int32_t state_type;         ///< of the states, an adamant_data_type; 0: float64 for float64, else float32
  int32_t master;             ///< an adamant_master
  int32_t zero_gradient;      ///< 1: every step sets the gradient to zero when it has been used
  int32_t gradient_is_const;  ///< 1: the gradient may not be set to zero
  int32_t reserved;           ///< 0
} adamant_tensor;

/// What every step does to gradients. In this order: they are divided by the scale; the global norm is taken; they are
/// clipped by it; they are clipped by value. None of it changes the gradients in memory.
typedef struct adamant_step_control {
  size_t struct_size;  ///< `sizeof(adamant_step_control)`
  /// The gradients are so many times too large: > 0, and its inverse, as a float32, neither 0 nor infinite; 0 is 1.
  double gradient_scale;
  /// The same as a float32 in device memory, read by every step; null: there is none. A value there that is not
  /// positive and finite, or whose inverse is not finite as a float32, makes the step one with a gradient that is not
  /// finite.
  const float* gradient_scale_pointer;
  /// A float32 in device memory that is not zero where a gradient is not finite, with `non_finite` ADAMANT_SKIP or a
  /// loss scale only; null: these look at every gradient.
  const float* found_non_finite;
  double clip_norm;   ///< gradients times min(1, clip_norm / (norm + 1e-6)): > 0; 0: not clipped
  double clip_value;  ///< then each to [-clip_value, clip_value]: > 0; 0: not clipped
  /// What a loss scale that the optimizer keeps begins with, also when it is another than before: as gradient_scale; 0
  /// is 65536
  double loss_scale_initial;
  double loss_scale_growth;    ///< after `loss_scale_growth_interval` good steps times so much: > 1; 0 is 2
  double loss_scale_backoff;   ///< after a step that is not finite times so much: in (0, 1); 0 is 0.5
  int32_t loss_scale_is_kept;  ///< 1: there is such a loss scale, in place of `gradient_scale`; 0: and the others are 0
  int32_t loss_scale_growth_interval;  ///< >= 1; 0 is 2000
  int32_t non_finite;                  ///< an adamant_non_finite; with a loss scale such steps are skipped
  int32_t measure_norm;                ///< 1: the norm is taken for the report even where nothing else needs it
  uint64_t seed;                       ///< what the random bits of stochastic rounding come from
} adamant_step_control;

/// What became of the steps so far.
typedef struct adamant_step_report {
  size_t struct_size;     ///< `sizeof(adamant_step_report)`, set by the caller
  double gradient_norm;   ///< of the last step, divided by the scale, before clipping; NaN where it was not taken
  int64_t skipped_steps;  ///< since the optimizer was made or a loss scale began or ended
  float loss_scale;       ///< for the next step; 1 without a loss scale
  int32_t good_steps;     ///< since the loss scale changed
  int32_t skipped;        ///< whether the last step was: 0 or 1
  int32_t reserved;       ///< 0
} adamant_step_report;

/// The same as a step writes it to device memory. Only read it; it may get longer at its end.
typedef struct adamant_device_step_report {
  double gradient_norm;   ///< as in adamant_step_report
  int64_t skipped_steps;  ///< as in adamant_step_report
  float loss_scale;       ///< as in adamant_step_report
  int32_t good_steps;     ///< as in adamant_step_report
  int32_t skipped;        ///< as in adamant_step_report
} adamant_device_step_report;

/// What adamant_save() writes besides states, step counts, groups and options.
typedef struct adamant_save_options {
  size_t struct_size;          ///< `sizeof(adamant_save_options)`
  int32_t without_parameters;  ///< 1: the parameters are left out; they are what makes one file all that a run needs
  int32_t reserved;            ///< 0
} adamant_save_options;

/// How far the tensors of a file and those of the optimizer that loads it may differ.
typedef struct adamant_load_options {
  size_t struct_size;     ///< `sizeof(adamant_load_options)`
  int32_t allow_missing;  ///< 1: tensors that the file does not have stay as they are
  int32_t allow_extra;    ///< 1: arrays of the file that belong to none of the tensors are not read
  /// Names of tensors whose parameter, states and master may be of another type in the file: they are rounded.
  const char* const* change_types;
  size_t change_types_count;  ///< how many names; with 0 `change_types` may be null
} adamant_load_options;

// --- The library

/// Version of the library, "major.minor.patch".
const char* adamant_version(void);

/// What went wrong in the last call of this thread that failed; empty when none did.
const char* adamant_last_error(void);

/// The number that goes with it: a `cudaError_t` for ADAMANT_CUDA_ERROR and ADAMANT_CUDA_ERROR_STICKY, an `errno` for
/// ADAMANT_NOT_SAVED and ADAMANT_DURABILITY_UNSURE, 0 for the others.
int32_t adamant_last_error_number(void);

/// How many methods there are.
int64_t adamant_method_count(void);

/// The name of a method for adamant_create(): "gradient_descent", "momentum", "rmsprop", "adam", "adamw".
/// \param index from 0, less than adamant_method_count()
/// \param name where the name goes
adamant_status adamant_method_name(int64_t index, const char** name);

/// Whether this library and this machine can run an instruction set.
/// \param simd an adamant_simd
/// \param available where 0 or 1 goes
adamant_status adamant_simd_available(int32_t simd, int32_t* available);

// --- Making one

/// Makes an optimizer, whose first group, 0, has these options.
/// \param method one of adamant_method_name()
/// \param options on top of the method's defaults; with `option_count` 0 may be null. Those that set the number of
/// states
///   (amsgrad, centered, RMSProp's momentum) are fixed from here on. Of two for the same option the later one counts.
/// \param option_count how many
/// \param settings device, threads, allocator; null: all defaults, which is the CPU
/// \param optimizer where it goes, the caller's to adamant_destroy(); null goes there when the call fails
adamant_status adamant_create(const char* method, const adamant_option* options, size_t option_count,
                              const adamant_settings* settings, adamant_optimizer** optimizer);

/// Ends an optimizer and gives its memory back. The arrays of its tensors are the caller's and stay.
/// \param optimizer may be null
void adamant_destroy(adamant_optimizer* optimizer);

// --- Groups and tensors

/// Adds a group with options of its own.
/// \param optimizer of whose method and variant the options are
/// \param options on top of the method's defaults (not of another group's); with `option_count` 0 may be null
/// \param option_count how many
/// \param group where the group's number goes: 1, 2, ...
adamant_status adamant_add_group(adamant_optimizer* optimizer, const adamant_option* options, size_t option_count,
                                 int32_t* group);

/// How many groups there are: that of adamant_create(), those of adamant_add_group() and those that adamant_load()
/// added. Their numbers count from 0.
/// \param optimizer of which
/// \param count where it goes
adamant_status adamant_group_count(const adamant_optimizer* optimizer, int32_t* count);

/// Adds a tensor. Its state is zero and its step count 0; it takes part from the next step on.
/// \param optimizer to which
/// \param tensor name, shape and struct are copied; the arrays stay the caller's
/// \param id where what names it in other calls of this optimizer goes; may be null. Each optimizer counts from 0, and
///   uses none again after the tensor is removed.
adamant_status adamant_add(adamant_optimizer* optimizer, const adamant_tensor* tensor, int64_t* id);

/// Removes a tensor and its state.
/// \param optimizer of which
/// \param tensor what adamant_add() gave
adamant_status adamant_remove(adamant_optimizer* optimizer, int64_t tensor);

/// The tensor of a name.
/// \param optimizer of which
/// \param name of adamant_tensor
/// \param tensor where its id goes
adamant_status adamant_find(const adamant_optimizer* optimizer, const char* name, int64_t* tensor);

/// The tensors, in the order they were added.
/// \param optimizer of which
/// \param tensors where their ids go, so many as there is room for; may be null where `capacity` is 0
/// \param capacity for how many there is room
/// \param count where the number of tensors goes, which may be more than `capacity`
adamant_status adamant_tensors(const adamant_optimizer* optimizer, int64_t* tensors, size_t capacity, size_t* count);

/// What adamant_add() was given, with later changes of gradient and group.
/// \param optimizer of which
/// \param tensor what adamant_add() gave
/// \param given where it goes, `struct_size` set by the caller; `name` and `shape` belong to the optimizer
adamant_status adamant_get_tensor(const adamant_optimizer* optimizer, int64_t tensor, adamant_tensor* given);

/// Leaves a tensor, its state and its step count as they are in the steps to come. Refused while `stream` is being
/// captured.
/// \param optimizer of which
/// \param tensor what adamant_add() gave
/// \param stream refused where it is being captured; the change takes effect with the next adamant_step() or
/// adamant_prepare()
adamant_status adamant_freeze(adamant_optimizer* optimizer, int64_t tensor, void* stream);

/// Ends adamant_freeze(). Refused while `stream` is being captured.
/// \param optimizer of which
/// \param tensor what adamant_add() gave
/// \param stream refused where it is being captured; the change takes effect with the next adamant_step() or
/// adamant_prepare()
adamant_status adamant_thaw(adamant_optimizer* optimizer, int64_t tensor, void* stream);

/// Whether adamant_freeze() is in force.
/// \param optimizer of which
/// \param tensor what adamant_add() gave
/// \param frozen where 0 or 1 goes
adamant_status adamant_frozen(const adamant_optimizer* optimizer, int64_t tensor, int32_t* frozen);

/// Moves a tensor to another group; it keeps its state. Refused while `stream` is being captured.
/// \param optimizer of which
/// \param tensor what adamant_add() gave
/// \param group 0, or what adamant_add_group() gave
/// \param stream refused where it is being captured; the change takes effect with the next adamant_step() or
/// adamant_prepare()
adamant_status adamant_set_group(adamant_optimizer* optimizer, int64_t tensor, int32_t group, void* stream);

/// Reads another gradient from the next step on, of the same type and count. On a CUDA device the address goes there
/// with the next adamant_step() or adamant_prepare(). Refused while `stream` is being captured.
/// \param optimizer of which
/// \param tensor what adamant_add() gave
/// \param gradient the array, the caller's
/// \param is_const 1: it may not be set to zero; 0: it may
/// \param stream refused where it is being captured; the change takes effect with the next adamant_step() or
/// adamant_prepare()
adamant_status adamant_set_gradient(adamant_optimizer* optimizer, int64_t tensor, const adamant_array* gradient,
                                    int32_t is_const, void* stream);

// --- Options

/// The name of the method.
/// \param optimizer of which
/// \param method where it goes
adamant_status adamant_method(const adamant_optimizer* optimizer, const char** method);

/// How many options the method has.
/// \param optimizer of whose method
/// \param count where it goes
adamant_status adamant_option_count(const adamant_optimizer* optimizer, int64_t* count);

/// One option of a group, by its place.
/// \param optimizer of which
/// \param group 0, or what adamant_add_group() gave
/// \param index from 0, less than adamant_option_count()
/// \param name where its name goes; may be null
/// \param value where its value goes, the shortest text that reads back as the same; may be null
/// \param allowed where what it may be goes, "0 <= beta1 < 1"; may be null
adamant_status adamant_option_at(const adamant_optimizer* optimizer, int32_t group, int64_t index, const char** name,
                                 const char** value, const char** allowed);

/// The value of an option of a group, by its name.
/// \param optimizer of which
/// \param group 0, or what adamant_add_group() gave
/// \param option its name
/// \param value where the shortest text that reads back as the same value goes
adamant_status adamant_get_option(const adamant_optimizer* optimizer, int32_t group, const char* option,
                                  const char** value);

/// Replaces the options of a group; how many states there are must stay.
/// \param optimizer of which
/// \param group 0, or what adamant_add_group() gave
/// \param options on top of the method's defaults (not of what the group had); with `option_count` 0 may be null
/// \param option_count how many
/// \param stream in whose order
adamant_status adamant_set_options(adamant_optimizer* optimizer, int32_t group, const adamant_option* options,
                                   size_t option_count, void* stream);

/// Sets one option of a group from a text.
/// \param optimizer of which
/// \param group 0, or what adamant_add_group() gave
/// \param option its name
/// \param value "true", "inside_root", a number
/// \param stream in whose order
adamant_status adamant_set_option(adamant_optimizer* optimizer, int32_t group, const char* option, const char* value,
                                  void* stream);

/// Sets one option of a group from a number.
/// \param optimizer of which
/// \param group 0, or what adamant_add_group() gave
/// \param option its name
/// \param value the number; 0 or 1 for an option that is true or false
/// \param stream in whose order
adamant_status adamant_set_option_number(adamant_optimizer* optimizer, int32_t group, const char* option, double value,
                                         void* stream);

/// Sets the option that changes most.
/// \param optimizer of which
/// \param group 0, or what adamant_add_group() gave
/// \param learning_rate 0 to the largest float32
/// \param stream in whose order; in a capture it becomes a node
adamant_status adamant_set_learning_rate(adamant_optimizer* optimizer, int32_t group, double learning_rate,
                                         void* stream);

// --- What a step does to gradients

/// Sets what every step does to gradients before a method sees them.
/// \param optimizer of which
/// \param control what; the scalars it points to are read by every step from now on
/// \param stream in whose order; refused while it is being captured where the norm or a loss scale is turned on or off,
///   or a loss scale begins anew
adamant_status adamant_set_control(adamant_optimizer* optimizer, const adamant_step_control* control, void* stream);

/// What adamant_set_control() was given last, with the seed of the last adamant_load().
/// \param optimizer of which
/// \param control where it goes, `struct_size` set by the caller
adamant_status adamant_get_control(const adamant_optimizer* optimizer, adamant_step_control* control);

/// What became of the steps so far. Waits for what comes before it in `stream`.
/// \param optimizer of which
/// \param stream in whose order
/// \param report where it goes, `struct_size` set by the caller
adamant_status adamant_report(const adamant_optimizer* optimizer, void* stream, adamant_step_report* report);

/// The same as it lies in device memory, valid as long as the optimizer.
/// \param optimizer of which
/// \param report where its address goes
adamant_status adamant_device_report(const adamant_optimizer* optimizer, const adamant_device_step_report** report);

/// Where the loss scale of the next step lies in device memory, valid as long as the optimizer: what the loss is to be
/// multiplied by.
/// \param optimizer of which
/// \param loss_scale where its address goes
adamant_status adamant_loss_scale(const adamant_optimizer* optimizer, const float** loss_scale);

// --- Steps

/// Makes room for the state of new tensors and a new plan, which adamant_step() does otherwise; call it before a
/// capture. \param optimizer of which \param stream in whose order; waited for where masters are made
adamant_status adamant_prepare(adamant_optimizer* optimizer, void* stream);

/// One step of every tensor that is not frozen. Does not allocate when prepared, and does not wait for the device.
/// Where a launch fails after others of the same step, the last error's text says which tensors were stepped.
/// \param optimizer of which
/// \param stream in whose order; may be captured in a graph
adamant_status adamant_step(adamant_optimizer* optimizer, void* stream);

/// Sets every gradient to zero, those of frozen tensors too. In a graph it goes on zeroing the memory that gradients
/// had when it was captured; adamant_tensor::zero_gradient follows adamant_set_gradient().
/// \param optimizer of which
/// \param stream in whose order
adamant_status adamant_zero_gradients(adamant_optimizer* optimizer, void* stream);

/// Steps that a tensor has taken part in. Waits for what comes before it in `stream`.
/// \param optimizer of which
/// \param tensor what adamant_add() gave
/// \param stream in whose order
/// \param count where the number goes
adamant_status adamant_step_count(const adamant_optimizer* optimizer, int64_t tensor, void* stream, int64_t* count);

/// Sets the step count, which bias corrections follow.
/// \param optimizer of which
/// \param tensor what adamant_add() gave
/// \param count 0 to 2^62
/// \param stream in whose order
adamant_status adamant_set_step_count(adamant_optimizer* optimizer, int64_t tensor, int64_t count, void* stream);

// --- States

/// How many states the method's variant has.
/// \param optimizer of which
/// \param count where the number goes
adamant_status adamant_state_count(const adamant_optimizer* optimizer, int64_t* count);

/// PyTorch's name of a state, "exp_avg".
/// \param optimizer of which
/// \param index from 0, less than adamant_state_count()
/// \param name where it goes
adamant_status adamant_state_name(const adamant_optimizer* optimizer, int64_t index, const char** name);

/// A state of a tensor: as many elements as the parameter, in device memory, the optimizer's, valid until the tensor is
/// removed. It may be written between steps. Prepares when needed, and then in the order of CUDA's legacy default
/// stream: call adamant_prepare() first where parameters are written in another.
/// \param optimizer of which
/// \param tensor what adamant_add() gave
/// \param name of the state, or "master" for the float32 master of a tensor that has one
/// \param state where the array goes
adamant_status adamant_state(adamant_optimizer* optimizer, int64_t tensor, const char* name, adamant_array* state);

/// Bytes that the states of all tensors take, known before they are allocated.
/// \param optimizer of which
/// \param bytes where the number goes
adamant_status adamant_state_bytes(const adamant_optimizer* optimizer, int64_t* bytes);

// --- Checkpoints

/// Writes a checkpoint, which adamant_load() and adamant::Optimizer::load() read on any backend. Whatever happens
/// meanwhile, there is the former file or the new one, whole. Waits for every step and setter so far, in whatever
/// stream, and for what comes before it in `stream`; a replayed graph is known to its own stream only.
/// \param optimizer of which; prepares when needed
/// \param path of the file
/// \param what is left out; null: nothing
/// \param stream in whose order
adamant_status adamant_save(adamant_optimizer* optimizer, const char* path, const adamant_save_options* what,
                            void* stream);

/// Reads a checkpoint, after which every further step gives the bits that it would have given without; of a PyTorch
/// optimizer too (docs/pytorch.md). All of the file is checked before anything is changed. Call adamant_set_control()
/// before; options, each tensor's group and whether it is frozen become the file's: change them afterwards. Waits as
/// adamant_save() does; what it brings is there for every stream when it returns.
/// \param optimizer to which all tensors have been added
/// \param path of the file
/// \param allowed how far it may differ; null: not at all
/// \param stream in whose order
adamant_status adamant_load(adamant_optimizer* optimizer, const char* path, const adamant_load_options* allowed,
                            void* stream);

// --- Where it runs

/// Where the tensors live and the steps run.
/// \param optimizer of which
/// \param device where an adamant_device_kind goes
/// \param device_index where the index of the CUDA device goes; may be null
adamant_status adamant_device(const adamant_optimizer* optimizer, int32_t* device, int32_t* device_index);

/// The instruction set that the CPU backend uses.
/// \param optimizer of which
/// \param simd where an adamant_simd goes, never ADAMANT_SIMD_BEST
adamant_status adamant_simd_level(const adamant_optimizer* optimizer, int32_t* simd);

/// The threads that the CPU backend uses.
/// \param optimizer of which
/// \param threads where the number goes
adamant_status adamant_threads(const adamant_optimizer* optimizer, int32_t* threads);

#ifdef __cplusplus
}
#endif
