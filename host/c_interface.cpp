// The C interface: each function checks its pointers, translates, calls the C++ interface and turns what comes out of
// it into a status and the thread's last error. Nothing else is decided here.

// The header says of no name that it is exported: all of them are, and no macro stands in the way of what reads it.
#pragma GCC visibility push(default)
#include "adamant/adamant.h"
#pragma GCC visibility pop

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstring>
#include <exception>
#include <iterator>
#include <new>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "adamant/adamant.hpp"
#include "host/method.hpp"
#include "host/safetensors.hpp"
#include "host/text.hpp"

namespace {

// What the caller's functions have in place of a Stream is a pointer to nothing in particular.
struct CallersAllocator {
  void* (*allocate)(std::size_t bytes, void* stream, void* user);
  void (*release)(void* memory, std::size_t bytes, void* stream, void* user);
  void* user;

  adamant::Allocator as_library_has_it() {
    adamant::Allocator allocator;
    if (allocate != nullptr) {
      allocator.allocate = [](std::size_t bytes, adamant::Stream stream, void* callers) {
        const auto& self = *static_cast<CallersAllocator*>(callers);
        return self.allocate(bytes, stream, self.user);
      };
    }
    if (release != nullptr) {
      allocator.release = [](void* memory, std::size_t bytes, adamant::Stream stream, void* callers) {
        const auto& self = *static_cast<CallersAllocator*>(callers);
        self.release(memory, bytes, stream, self.user);
      };
    }
    allocator.user = this;
    return allocator;
  }
};

}  // namespace

struct adamant_optimizer {
  adamant_optimizer(const adamant::Method& method, adamant::Device device, const adamant::Tuning& tuning,
                    const CallersAllocator& callers)
      : allocator(callers),
        optimizer(method, device, tuning, allocator.as_library_has_it()),
        state_names(adamant::state_names(method)) {}

  CallersAllocator allocator;  // outlives the next
  adamant::Optimizer optimizer;
  const std::vector<std::string> state_names;
  mutable adamant::Option option;  // the one that was asked for last
};

namespace {

using adamant::host::in_quotes;
using adamant::host::to_text;

// --- what went wrong

struct LastError {
  std::string text;
  const char* shown = "";  // the text, or a literal where there is no memory for one
  std::int32_t number = 0;
};
thread_local LastError last_error;

adamant_status failed(adamant_status status, const char* text, int number = 0) {
  last_error.number = number;
  try {
    last_error.text = text;
    last_error.shown = last_error.text.c_str();
  } catch (...) {
    last_error.shown = "adamant: out of memory for the text of this error";
  }
  return status;
}

adamant_status out_of_memory() {
  last_error.number = 0;
  last_error.shown = "adamant: out of memory";
  return ADAMANT_OUT_OF_MEMORY;
}

// The exception that is being handled, as a status.
adamant_status status_of_exception() {
  try {
    throw;
  } catch (const std::invalid_argument& error) {
    return failed(ADAMANT_INVALID_ARGUMENT, error.what());
  } catch (const adamant::OutOfDeviceMemory& error) {
    return failed(ADAMANT_OUT_OF_DEVICE_MEMORY, error.what());
  } catch (const adamant::OutOfMemory& error) {
    return failed(ADAMANT_OUT_OF_MEMORY, error.what());
  } catch (const std::bad_alloc&) {
    return out_of_memory();
  } catch (const adamant::Unavailable& error) {
    return failed(ADAMANT_UNAVAILABLE, error.what());
  } catch (const adamant::NotSaved& error) {
    return failed(ADAMANT_NOT_SAVED, error.what(), error.code().value());
  } catch (const adamant::DurabilityUnsure& error) {
    return failed(ADAMANT_DURABILITY_UNSURE, error.what(), error.code().value());
  } catch (const adamant::NotLoaded& error) {
    return failed(ADAMANT_NOT_LOADED, error.what());
  } catch (const adamant::CudaError& error) {
    return failed(error.sticky() ? ADAMANT_CUDA_ERROR_STICKY : ADAMANT_CUDA_ERROR, error.what(), error.code());
  } catch (const std::exception& error) {
    return failed(ADAMANT_INTERNAL_ERROR, error.what());
  } catch (...) {
    return failed(ADAMANT_INTERNAL_ERROR, "adamant: an exception that is no std::exception");
  }
}

// Every function that can fail is a call of this.
template <typename Action>
adamant_status status_of(const Action& action) noexcept {
  try {
    action();
    return ADAMANT_SUCCESS;
  } catch (...) {
    return status_of_exception();
  }
}

// --- what the caller gives

[[noreturn]] void refuse(const std::string& parameter, const std::string& what) {
  throw std::invalid_argument("adamant: " + parameter + ": " + what);
}

template <typename Pointed>
Pointed& required(Pointed* pointer, const char* parameter) {
  if (pointer == nullptr) refuse(parameter, "null pointer; allowed: any other");
  return *pointer;
}

template <typename Optimizer>  // const or not
auto& optimizer_of(Optimizer* handle) {
  if (handle == nullptr) refuse("optimizer", "null pointer; allowed: what adamant_create() made");
  return handle->optimizer;
}

void check_many(const void* first, std::size_t count, const char* parameter) {
  if (first == nullptr && count > 0) refuse(parameter, "null pointer with a count of " + to_text(count));
}

void check_range(std::int64_t value, std::int64_t most, const std::string& parameter) {
  if (most < 0) refuse(parameter, to_text(value) + "; there are none");
  if (value < 0 || value > most) refuse(parameter, to_text(value) + "; allowed: 0 to " + to_text(most));
}

bool flag(std::int32_t value, const std::string& parameter) {
  check_range(value, 1, parameter);
  return value != 0;
}

// A double of the caller's that is not given; in no need of a floating-point environment.
bool is_zero(double value) { return std::bit_cast<std::uint64_t>(value) << 1 == 0; }

adamant::Stream stream_of(void* stream) { return static_cast<adamant::Stream>(stream); }
adamant::TensorId tensor_of(std::int64_t tensor) { return adamant::TensorId{tensor}; }
adamant::GroupId group_of(std::int32_t group) { return adamant::GroupId{group}; }

// What no struct of this interface will ever reach: beyond it a size is no size but what was in memory.
constexpr std::size_t kLargestStruct = 4096;

template <typename Struct>
constexpr bool kHasSizeFirst = std::is_trivially_copyable_v<Struct>&& offsetof(Struct, struct_size) == 0;

// A struct's size as the caller knows it. It is a multiple of the alignment, so that it ends with a field.
template <typename Struct>
std::size_t size_of(const Struct* given, const char* parameter) {
  static_assert(kHasSizeFirst<Struct>);
  std::size_t size = 0;
  std::memcpy(&size, &required(given, parameter), sizeof size);
  if (size < sizeof size || size > kLargestStruct || size % alignof(Struct) != 0) {
    refuse(std::string(parameter) + ": struct_size",
           to_text(size) + "; allowed: its sizeof, which is " + to_text(sizeof(Struct)) + " in this library");
  }
  return size;
}

// The caller's struct; what an older caller does not have is zero, and what a newer one has more must be.
template <typename Struct>
Struct struct_from(const Struct* given, const char* parameter) {
  const std::size_t size = size_of(given, parameter);
  const auto* const bytes = reinterpret_cast<const unsigned char*>(given);
  for (std::size_t i = sizeof(Struct); i < size; ++i) {
    if (bytes[i] == 0) continue;
    refuse(parameter, "byte " + to_text(i) + " is not zero, but this library knows only the first " +
                          to_text(sizeof(Struct)) + " of the " + to_text(size) +
                          " that struct_size says: it is older than the caller and cannot do what is asked there");
  }
  Struct all{};
  std::memcpy(&all, given, std::min(size, sizeof all));
  return all;
}

// Fills the caller's struct as far as it goes.
template <typename Struct>
void fill_struct(Struct* to, Struct from, std::size_t size) {
  from.struct_size = size;
  std::memcpy(to, &from, std::min(size, sizeof from));
  if (size > sizeof from) std::memset(reinterpret_cast<unsigned char*>(to) + sizeof from, 0, size - sizeof from);
}

// --- plain types

adamant::DataType type_of(std::int32_t type, const std::string& parameter) {
  if (type < ADAMANT_FLOAT32 || type > ADAMANT_FLOAT16) {
    refuse(parameter, to_text(type) +
                          "; allowed: ADAMANT_FLOAT32 (1), ADAMANT_FLOAT64 (2), ADAMANT_BFLOAT16 (3) and "
                          "ADAMANT_FLOAT16 (4)");
  }
  return static_cast<adamant::DataType>(type - ADAMANT_FLOAT32);
}
std::int32_t type_from(adamant::DataType type) { return static_cast<std::int32_t>(type) + ADAMANT_FLOAT32; }

adamant::Array array_of(const adamant_array& array, const std::string& parameter) {
  if (array.reserved != 0) refuse(parameter + ": reserved", to_text(array.reserved) + "; allowed: 0");
  return {array.data, type_of(array.type, parameter + ": type"), array.count};
}
adamant::ConstArray gradient_of(const adamant_array& array, bool is_const, const std::string& parameter) {
  const adamant::Array writable = array_of(array, parameter);
  if (!is_const) return writable;
  return {static_cast<const void*>(array.data), writable.type(), array.count};
}
adamant_array array_from(const adamant::ConstArray& array) {
  return {const_cast<void*>(array.data()), array.count(), type_from(array.type()), 0};
}
bool is_given(const adamant_array& array) { return array.data != nullptr || array.count != 0 || array.type != 0; }

adamant::Device device_of(const adamant_settings& settings) {
  check_range(settings.device, ADAMANT_CUDA, "settings: device");
  if (settings.device == ADAMANT_CPU && settings.device_index != 0) {
    refuse("settings: device_index",
           to_text(settings.device_index) + "; allowed: 0 where device is ADAMANT_CPU, as it is by default");
  }
  return settings.device == ADAMANT_CPU ? adamant::Device::cpu() : adamant::Device::cuda(settings.device_index);
}

// Those of the C++ interface count from 0, ours from 1.
std::int32_t simd_from(adamant::SimdLevel level) { return static_cast<std::int32_t>(level) + ADAMANT_SIMD_BASELINE; }
adamant::Tuning tuning_of(const adamant_settings& settings) {
  check_range(settings.simd, ADAMANT_SIMD_AVX512, "settings: simd");
  adamant::Tuning tuning;
  tuning.threads = settings.threads;
  tuning.tile = settings.tile;
  if (settings.simd != ADAMANT_SIMD_BEST) {
    tuning.simd = static_cast<adamant::SimdLevel>(settings.simd - ADAMANT_SIMD_BASELINE);
  }
  return tuning;
}

adamant::Method method_of(std::string_view method, const adamant_option* options, std::size_t count) {
  check_many(options, count, "options");
  std::vector<adamant::host::OptionValue> values;
  for (std::size_t i = 0; i < count; ++i) {
    const adamant_option& option = options[i];
    if (option.name == nullptr) refuse("options[" + to_text(i) + "]: name", "null pointer");
    if (option.text != nullptr) {
      values.push_back({option.name, std::string_view(option.text)});
    } else {
      values.push_back({option.name, option.number});
    }
  }
  return adamant::host::method_from(method, values);
}

adamant::TensorSpec spec_of(const adamant_tensor& tensor) {
  if (tensor.name == nullptr) refuse("tensor: name", "null pointer");
  const std::string where = "tensor " + in_quotes(tensor.name) + ": ";
  adamant::TensorSpec spec;
  spec.name = tensor.name;
  spec.parameter = array_of(tensor.parameter, where + "parameter");
  const bool is_const = flag(tensor.gradient_is_const, where + "gradient_is_const");
  spec.gradient = gradient_of(tensor.gradient, is_const, where + "gradient");
  if (is_given(tensor.copy)) spec.copy = array_of(tensor.copy, where + "copy");
  check_many(tensor.shape, tensor.dimensions, "tensor: shape");
  if (tensor.dimensions > adamant::safetensors::kMaxDimensions) {
    refuse(where + "dimensions",
           to_text(tensor.dimensions) + "; allowed: at most " + to_text(adamant::safetensors::kMaxDimensions));
  }
  spec.shape.assign(tensor.shape, tensor.shape + tensor.dimensions);
  spec.group = group_of(tensor.group);
  if (tensor.state_type != 0) spec.state_type = type_of(tensor.state_type, where + "state_type");
  check_range(tensor.master, ADAMANT_MASTER_STOCHASTIC, where + "master");
  spec.master = static_cast<adamant::Master>(tensor.master);
  spec.zero_gradient = flag(tensor.zero_gradient, where + "zero_gradient");
  if (tensor.reserved != 0) refuse(where + "reserved", to_text(tensor.reserved) + "; allowed: 0");
  return spec;
}

adamant_tensor tensor_from(const adamant::TensorSpec& spec) {
  adamant_tensor tensor{};
  tensor.name = spec.name.c_str();
  tensor.parameter = array_from(spec.parameter);
  tensor.gradient = array_from(spec.gradient);
  if (spec.copy.data() != nullptr || spec.copy.count() != 0) tensor.copy = array_from(spec.copy);
  tensor.shape = spec.shape.empty() ? nullptr : spec.shape.data();
  tensor.dimensions = spec.shape.size();
  tensor.group = static_cast<std::int32_t>(spec.group);
  if (spec.state_type) tensor.state_type = type_from(*spec.state_type);
  tensor.master = static_cast<std::int32_t>(spec.master);
  tensor.zero_gradient = spec.zero_gradient ? 1 : 0;
  tensor.gradient_is_const = spec.gradient.writable() ? 0 : 1;
  return tensor;
}

adamant::StepControl control_of(const adamant_step_control& given) {
  adamant::StepControl control;
  if (!is_zero(given.gradient_scale)) control.gradient_scale = given.gradient_scale;
  control.gradient_scale_pointer = given.gradient_scale_pointer;
  control.found_non_finite = given.found_non_finite;
  check_range(given.non_finite, ADAMANT_SKIP, "control: non_finite");
  control.non_finite = static_cast<adamant::NonFinite>(given.non_finite);
  if (!is_zero(given.clip_norm)) control.clip_norm = given.clip_norm;
  if (!is_zero(given.clip_value)) control.clip_value = given.clip_value;
  adamant::LossScale scale;
  if (!is_zero(given.loss_scale_initial)) scale.initial = given.loss_scale_initial;
  if (!is_zero(given.loss_scale_growth)) scale.growth = given.loss_scale_growth;
  if (!is_zero(given.loss_scale_backoff)) scale.backoff = given.loss_scale_backoff;
  if (given.loss_scale_growth_interval != 0) scale.growth_interval = given.loss_scale_growth_interval;
  const bool describes_one = !is_zero(given.loss_scale_initial) || !is_zero(given.loss_scale_growth) ||
                             !is_zero(given.loss_scale_backoff) || given.loss_scale_growth_interval != 0;
  if (flag(given.loss_scale_is_kept, "control: loss_scale_is_kept")) {
    control.loss_scale = scale;
  } else if (describes_one) {
    refuse("control: loss_scale_is_kept", "0, but others of the loss scale are given; allowed: 1 with them");
  }
  control.measure_norm = flag(given.measure_norm, "control: measure_norm");
  control.seed = given.seed;
  return control;
}

adamant_step_control control_from(const adamant::StepControl& control) {
  adamant_step_control all{};
  all.gradient_scale = control.gradient_scale;
  all.gradient_scale_pointer = control.gradient_scale_pointer;
  all.found_non_finite = control.found_non_finite;
  all.clip_norm = control.clip_norm.value_or(0);
  all.clip_value = control.clip_value.value_or(0);
  if (control.loss_scale) {
    all.loss_scale_initial = control.loss_scale->initial;
    all.loss_scale_growth = control.loss_scale->growth;
    all.loss_scale_backoff = control.loss_scale->backoff;
    all.loss_scale_is_kept = 1;
    all.loss_scale_growth_interval = control.loss_scale->growth_interval;
  }
  all.non_finite = static_cast<std::int32_t>(control.non_finite);
  all.measure_norm = control.measure_norm ? 1 : 0;
  all.seed = control.seed;
  return all;
}

adamant_step_report report_from(const adamant::StepReport& report) {
  adamant_step_report all{};
  all.gradient_norm = report.gradient_norm;
  all.skipped_steps = report.skipped_steps;
  all.loss_scale = report.loss_scale;
  all.good_steps = report.good_steps;
  all.skipped = report.skipped;
  return all;
}

// It is the same memory.
static_assert(sizeof(adamant_device_step_report) <= sizeof(adamant::StepReport));
static_assert(offsetof(adamant_device_step_report, gradient_norm) == offsetof(adamant::StepReport, gradient_norm));
static_assert(offsetof(adamant_device_step_report, skipped_steps) == offsetof(adamant::StepReport, skipped_steps));
static_assert(offsetof(adamant_device_step_report, loss_scale) == offsetof(adamant::StepReport, loss_scale));
static_assert(offsetof(adamant_device_step_report, good_steps) == offsetof(adamant::StepReport, good_steps));
static_assert(offsetof(adamant_device_step_report, skipped) == offsetof(adamant::StepReport, skipped));

// What stands in the C header in the order of the C++ one.
static_assert(static_cast<int>(adamant::DataType::float16) == ADAMANT_FLOAT16 - ADAMANT_FLOAT32);
static_assert(static_cast<int>(adamant::Master::stochastic) == ADAMANT_MASTER_STOCHASTIC);
static_assert(static_cast<int>(adamant::SimdLevel::avx512) == ADAMANT_SIMD_AVX512 - ADAMANT_SIMD_BASELINE);
static_assert(static_cast<int>(adamant::NonFinite::skip) == ADAMANT_SKIP);

// The names of methods are literals, which end with a zero.
const char* name_of(const adamant::Method& method) { return adamant::name(method).data(); }

}  // namespace

// --- The library

const char* adamant_version(void) { return adamant::version().data(); }  // a literal
const char* adamant_last_error(void) { return last_error.shown; }
int32_t adamant_last_error_number(void) { return last_error.number; }

int64_t adamant_method_count(void) { return static_cast<int64_t>(std::variant_size_v<adamant::Method>); }

adamant_status adamant_method_name(int64_t index, const char** name) {
  return status_of([&] {
    static const std::vector<std::string> all = adamant::method_names();
    const char*& result = required(name, "name");
    check_range(index, std::ssize(all) - 1, "index");
    result = all[static_cast<std::size_t>(index)].c_str();
  });
}

adamant_status adamant_simd_available(int32_t simd, int32_t* available) {
  return status_of([&] {
    int32_t& result = required(available, "available");
    check_range(simd, ADAMANT_SIMD_AVX512, "simd");
    const std::vector<adamant::SimdLevel> levels = adamant::simd_levels();
    result = simd == ADAMANT_SIMD_BEST || std::any_of(levels.begin(), levels.end(), [&](adamant::SimdLevel level) {
               return simd_from(level) == simd;
             });
  });
}

// --- Making one

adamant_status adamant_create(const char* method, const adamant_option* options, size_t option_count,
                              const adamant_settings* settings, adamant_optimizer** optimizer) {
  return status_of([&] {
    adamant_optimizer*& result = required(optimizer, "optimizer");
    result = nullptr;
    required(method, "method");
    const adamant_settings given = settings == nullptr ? adamant_settings{} : struct_from(settings, "settings");
    result = new adamant_optimizer(method_of(method, options, option_count), device_of(given), tuning_of(given),
                                   {given.allocate, given.release, given.user});
  });
}

void adamant_destroy(adamant_optimizer* optimizer) { delete optimizer; }

// --- Groups and tensors

adamant_status adamant_add_group(adamant_optimizer* optimizer, const adamant_option* options, size_t option_count,
                                 int32_t* group) {
  return status_of([&] {
    auto& self = optimizer_of(optimizer);
    int32_t& result = required(group, "group");
    result = static_cast<int32_t>(self.add_group(method_of(name_of(self.options()), options, option_count)));
  });
}

adamant_status adamant_group_count(const adamant_optimizer* optimizer, int32_t* count) {
  return status_of([&] {
    const auto& self = optimizer_of(optimizer);
    int32_t& result = required(count, "count");
    result = static_cast<int32_t>(self.groups().size());
  });
}

adamant_status adamant_add(adamant_optimizer* optimizer, const adamant_tensor* tensor, int64_t* id) {
  return status_of([&] {
    auto& self = optimizer_of(optimizer);
    const adamant::TensorId added = self.add(spec_of(struct_from(tensor, "tensor")));
    if (id != nullptr) *id = static_cast<int64_t>(added);
  });
}

adamant_status adamant_remove(adamant_optimizer* optimizer, int64_t tensor) {
  return status_of([&] { optimizer_of(optimizer).remove(tensor_of(tensor)); });
}

adamant_status adamant_find(const adamant_optimizer* optimizer, const char* name, int64_t* tensor) {
  return status_of([&] {
    const auto& self = optimizer_of(optimizer);
    int64_t& result = required(tensor, "tensor");
    result = static_cast<int64_t>(self.find(&required(name, "name")));
  });
}

adamant_status adamant_tensors(const adamant_optimizer* optimizer, int64_t* tensors, size_t capacity, size_t* count) {
  return status_of([&] {
    const auto& self = optimizer_of(optimizer);
    size_t& result = required(count, "count");
    check_many(tensors, capacity, "tensors");
    const std::vector<adamant::TensorId> all = self.tensors();
    std::transform(all.begin(), all.begin() + static_cast<std::ptrdiff_t>(std::min(capacity, all.size())), tensors,
                   [](adamant::TensorId id) { return static_cast<int64_t>(id); });
    result = all.size();
  });
}

adamant_status adamant_get_tensor(const adamant_optimizer* optimizer, int64_t tensor, adamant_tensor* given) {
  return status_of([&] {
    const auto& self = optimizer_of(optimizer);
    const size_t size = size_of(given, "given");
    fill_struct(given, tensor_from(self.tensor(tensor_of(tensor))), size);
  });
}

adamant_status adamant_freeze(adamant_optimizer* optimizer, int64_t tensor, void* stream) {
  return status_of([&] { optimizer_of(optimizer).freeze(tensor_of(tensor), stream_of(stream)); });
}

adamant_status adamant_thaw(adamant_optimizer* optimizer, int64_t tensor, void* stream) {
  return status_of([&] { optimizer_of(optimizer).thaw(tensor_of(tensor), stream_of(stream)); });
}

adamant_status adamant_frozen(const adamant_optimizer* optimizer, int64_t tensor, int32_t* frozen) {
  return status_of([&] {
    const auto& self = optimizer_of(optimizer);
    int32_t& result = required(frozen, "frozen");
    result = self.frozen(tensor_of(tensor)) ? 1 : 0;
  });
}

adamant_status adamant_set_group(adamant_optimizer* optimizer, int64_t tensor, int32_t group, void* stream) {
  return status_of([&] { optimizer_of(optimizer).set_group(tensor_of(tensor), group_of(group), stream_of(stream)); });
}

adamant_status adamant_set_gradient(adamant_optimizer* optimizer, int64_t tensor, const adamant_array* gradient,
                                    int32_t is_const, void* stream) {
  return status_of([&] {
    auto& self = optimizer_of(optimizer);
    const adamant_array& array = required(gradient, "gradient");
    const std::string where = "tensor " + in_quotes(self.tensor(tensor_of(tensor)).name) + ": gradient";
    self.set_gradient(tensor_of(tensor), gradient_of(array, flag(is_const, "is_const"), where), stream_of(stream));
  });
}

// --- Options

adamant_status adamant_method(const adamant_optimizer* optimizer, const char** method) {
  return status_of([&] {
    const auto& self = optimizer_of(optimizer);
    required(method, "method") = name_of(self.options());
  });
}

adamant_status adamant_option_count(const adamant_optimizer* optimizer, int64_t* count) {
  return status_of([&] {
    const auto& self = optimizer_of(optimizer);
    int64_t& result = required(count, "count");
    result = std::ssize(adamant::options(self.options()));
  });
}

adamant_status adamant_option_at(const adamant_optimizer* optimizer, int32_t group, int64_t index, const char** name,
                                 const char** value, const char** allowed) {
  return status_of([&] {
    std::vector<adamant::Option> all = adamant::options(optimizer_of(optimizer).options(group_of(group)));
    check_range(index, std::ssize(all) - 1, "index");
    optimizer->option = std::move(all[static_cast<std::size_t>(index)]);
    if (name != nullptr) *name = optimizer->option.name.c_str();
    if (value != nullptr) *value = optimizer->option.value.c_str();
    if (allowed != nullptr) *allowed = optimizer->option.allowed.c_str();
  });
}

adamant_status adamant_get_option(const adamant_optimizer* optimizer, int32_t group, const char* option,
                                  const char** value) {
  return status_of([&] {
    const adamant::Method& method = optimizer_of(optimizer).options(group_of(group));
    const std::string_view wanted = &required(option, "option");
    const char*& result = required(value, "value");
    std::vector<adamant::Option> all = adamant::options(method);
    const auto found = std::find_if(all.begin(), all.end(), [&](const auto& each) { return each.name == wanted; });
    if (found == all.end()) {
      std::vector<std::string> names;
      names.reserve(all.size());
      for (const adamant::Option& each : all) names.push_back(each.name);
      refuse("option", std::string(name_of(method)) + " has no option " + in_quotes(wanted) + "; it has " +
                           adamant::host::joined(names));
    }
    optimizer->option = std::move(*found);
    result = optimizer->option.value.c_str();
  });
}

adamant_status adamant_set_options(adamant_optimizer* optimizer, int32_t group, const adamant_option* options,
                                   size_t option_count, void* stream) {
  return status_of([&] {
    auto& self = optimizer_of(optimizer);
    self.set_options(group_of(group), method_of(name_of(self.options()), options, option_count), stream_of(stream));
  });
}

adamant_status adamant_set_option(adamant_optimizer* optimizer, int32_t group, const char* option, const char* value,
                                  void* stream) {
  return status_of([&] {
    auto& self = optimizer_of(optimizer);
    const std::string_view text = &required(value, "value");
    self.set_option(group_of(group), &required(option, "option"), text, stream_of(stream));
  });
}

adamant_status adamant_set_option_number(adamant_optimizer* optimizer, int32_t group, const char* option, double value,
                                         void* stream) {
  return status_of([&] {
    auto& self = optimizer_of(optimizer);
    self.set_option(group_of(group), &required(option, "option"), value, stream_of(stream));
  });
}

adamant_status adamant_set_learning_rate(adamant_optimizer* optimizer, int32_t group, double learning_rate,
                                         void* stream) {
  return status_of(
      [&] { optimizer_of(optimizer).set_learning_rate(group_of(group), learning_rate, stream_of(stream)); });
}

// --- What a step does to gradients

adamant_status adamant_set_control(adamant_optimizer* optimizer, const adamant_step_control* control, void* stream) {
  return status_of([&] {
    auto& self = optimizer_of(optimizer);
    self.set_control(control_of(struct_from(control, "control")), stream_of(stream));
  });
}

adamant_status adamant_get_control(const adamant_optimizer* optimizer, adamant_step_control* control) {
  return status_of([&] {
    const auto& self = optimizer_of(optimizer);
    const size_t size = size_of(control, "control");
    fill_struct(control, control_from(self.control()), size);
  });
}

adamant_status adamant_report(const adamant_optimizer* optimizer, void* stream, adamant_step_report* report) {
  return status_of([&] {
    const auto& self = optimizer_of(optimizer);
    const size_t size = size_of(report, "report");
    fill_struct(report, report_from(self.report(stream_of(stream))), size);
  });
}

adamant_status adamant_device_report(const adamant_optimizer* optimizer, const adamant_device_step_report** report) {
  return status_of([&] {
    const auto& self = optimizer_of(optimizer);
    required(report, "report") = reinterpret_cast<const adamant_device_step_report*>(self.device_report());
  });
}

adamant_status adamant_loss_scale(const adamant_optimizer* optimizer, const float** loss_scale) {
  return status_of([&] {
    const auto& self = optimizer_of(optimizer);
    required(loss_scale, "loss_scale") = self.loss_scale();
  });
}

// --- Steps

adamant_status adamant_prepare(adamant_optimizer* optimizer, void* stream) {
  return status_of([&] { optimizer_of(optimizer).prepare(stream_of(stream)); });
}

adamant_status adamant_step(adamant_optimizer* optimizer, void* stream) {
  return status_of([&] { optimizer_of(optimizer).step(stream_of(stream)); });
}

adamant_status adamant_zero_gradients(adamant_optimizer* optimizer, void* stream) {
  return status_of([&] { optimizer_of(optimizer).zero_gradients(stream_of(stream)); });
}

adamant_status adamant_step_count(const adamant_optimizer* optimizer, int64_t tensor, void* stream, int64_t* count) {
  return status_of([&] {
    const auto& self = optimizer_of(optimizer);
    int64_t& result = required(count, "count");
    result = self.step_count(tensor_of(tensor), stream_of(stream));
  });
}

adamant_status adamant_set_step_count(adamant_optimizer* optimizer, int64_t tensor, int64_t count, void* stream) {
  return status_of([&] { optimizer_of(optimizer).set_step_count(tensor_of(tensor), count, stream_of(stream)); });
}

// --- States

adamant_status adamant_state_count(const adamant_optimizer* optimizer, int64_t* count) {
  return status_of([&] {
    optimizer_of(optimizer);
    required(count, "count") = std::ssize(optimizer->state_names);
  });
}

adamant_status adamant_state_name(const adamant_optimizer* optimizer, int64_t index, const char** name) {
  return status_of([&] {
    optimizer_of(optimizer);
    const char*& result = required(name, "name");
    check_range(index, std::ssize(optimizer->state_names) - 1, "index");
    result = optimizer->state_names[static_cast<std::size_t>(index)].c_str();
  });
}

adamant_status adamant_state(adamant_optimizer* optimizer, int64_t tensor, const char* name, adamant_array* state) {
  return status_of([&] {
    auto& self = optimizer_of(optimizer);
    adamant_array& result = required(state, "state");
    result = array_from(self.state(tensor_of(tensor), &required(name, "name")));
  });
}

adamant_status adamant_state_bytes(const adamant_optimizer* optimizer, int64_t* bytes) {
  return status_of([&] {
    const auto& self = optimizer_of(optimizer);
    required(bytes, "bytes") = self.state_bytes();
  });
}

// --- Checkpoints

adamant_status adamant_save(adamant_optimizer* optimizer, const char* path, const adamant_save_options* what,
                            void* stream) {
  return status_of([&] {
    auto& self = optimizer_of(optimizer);
    const char* const file = &required(path, "path");
    const adamant_save_options given = what == nullptr ? adamant_save_options{} : struct_from(what, "what");
    adamant::SaveOptions options;
    options.parameters = !flag(given.without_parameters, "what: without_parameters");
    if (given.reserved != 0) refuse("what: reserved", to_text(given.reserved) + "; allowed: 0");
    self.save(file, options, stream_of(stream));
  });
}

adamant_status adamant_load(adamant_optimizer* optimizer, const char* path, const adamant_load_options* allowed,
                            void* stream) {
  return status_of([&] {
    auto& self = optimizer_of(optimizer);
    const char* const file = &required(path, "path");
    const adamant_load_options given = allowed == nullptr ? adamant_load_options{} : struct_from(allowed, "allowed");
    adamant::LoadOptions options;
    options.allow_missing = flag(given.allow_missing, "allowed: allow_missing");
    options.allow_extra = flag(given.allow_extra, "allowed: allow_extra");
    check_many(given.change_types, given.change_types_count, "allowed: change_types");
    for (size_t i = 0; i < given.change_types_count; ++i) {
      if (given.change_types[i] == nullptr) refuse("allowed: change_types[" + to_text(i) + "]", "null pointer");
      options.change_types.emplace_back(given.change_types[i]);
    }
    self.load(file, options, stream_of(stream));
  });
}

// --- Where it runs

adamant_status adamant_device(const adamant_optimizer* optimizer, int32_t* device, int32_t* device_index) {
  return status_of([&] {
    const adamant::Device there = optimizer_of(optimizer).device();
    required(device, "device") = there == adamant::Device::cpu() ? ADAMANT_CPU : ADAMANT_CUDA;
    if (device_index != nullptr) *device_index = there.index;
  });
}

adamant_status adamant_simd_level(const adamant_optimizer* optimizer, int32_t* simd) {
  return status_of([&] {
    const auto& self = optimizer_of(optimizer);
    required(simd, "simd") = simd_from(self.simd());
  });
}

adamant_status adamant_threads(const adamant_optimizer* optimizer, int32_t* threads) {
  return status_of([&] {
    const auto& self = optimizer_of(optimizer);
    required(threads, "threads") = self.threads();
  });
}
