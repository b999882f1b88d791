// The Optimizer: owns states and step counts, checks everything a caller gives before anything is changed, and hands
// plans to a backend.
#include "adamant/optimizer.hpp"

#include <algorithm>
#include <functional>
#include <limits>
#include <map>
#include <span>
#include <stdexcept>
#include <utility>

#include "adamant/error.hpp"
#include "host/checkpoint.hpp"
#include "host/convert.hpp"
#include "host/cpu_backend.hpp"
#include "host/floating_point.hpp"
#include "host/method.hpp"
#include "host/plan.hpp"
#include "host/text.hpp"
#include "kernels/step_control.hpp"
#include "kernels/tuning.hpp"

namespace adamant {
namespace {

using host::in_quotes;
using host::to_text;

constexpr std::int64_t kStateAlignment = 256;
// Streams at the same offset in a page, a power of two apart, evict each other from the first-level cache of AMD's Zen,
// which picks a line's way by a hash of address bits 12 to 27: two states 2^28 bytes apart ran at a third of the
// memory's rate. On Intel's a load waits for an earlier store whose address has the same last twelve bits, so a stream
// that begins shortly before another in a page is held up by it: momentum with 512 bytes between them ran at 94 percent
// of the ceiling, with 2,048 at 99. So what we keep of a large tensor begins at different offsets in a page, as far
// from each other, and from the beginning of a page, where its parameter is likely to begin, as there is room.
constexpr std::int64_t kStaggeredFrom = std::int64_t{1} << 20;
constexpr std::int64_t kPage = 4096;
constexpr std::int64_t page_offset(int array, int arrays) {
  return kPage * (array + 1) / (arrays + 1) / kStateAlignment * kStateAlignment;
}

constexpr std::int64_t kLargestTile = std::int64_t{1} << 30;  // indices inside a tile are 32 bits wide
constexpr std::int64_t kDefaultTile = 16 * kChunk;            // of the CPU backend; kernels/tuning.hpp has the device's

constexpr std::int64_t aligned_bytes(std::int64_t bytes) {
  return (bytes + kStateAlignment - 1) / kStateAlignment * kStateAlignment;
}

[[noreturn]] void refuse(const std::string& what) { throw std::invalid_argument("adamant: " + what); }

std::string of_tensor(std::string_view name) { return "tensor " + in_quotes(name) + ": "; }

// --- what a step does to gradients

[[noreturn]] void refuse_control(const char* field, const std::string& what) {
  refuse("control: " + std::string(field) + ": " + what);
}

void check_number(const char* field, double value, double low, double high, const char* allowed) {
  if (value > low && value < high) return;
  refuse_control(field, to_text(value) + "; allowed: " + allowed);
}

// The caller's floating-point environment is put aside by whoever calls this and the next, which are functions of their
// own so that nothing of them is moved out of that.
[[gnu::noinline]] void check_control(const StepControl& control) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  constexpr double kLargestFloat = std::numeric_limits<float>::max();
  check_number("gradient_scale", control.gradient_scale, 0, kInfinity, "greater than 0 and finite");
  if (1.0 / control.gradient_scale > kLargestFloat) {
    refuse_control("gradient_scale", to_text(control.gradient_scale) + "; allowed: what has a float32 for its inverse");
  }
  if (control.clip_norm) check_number("clip_norm", *control.clip_norm, 0, kInfinity, "greater than 0 and finite");
  if (control.clip_value) check_number("clip_value", *control.clip_value, 0, kInfinity, "greater than 0 and finite");
  if (control.clip_value && static_cast<float>(*control.clip_value) == 0.0F) {
    refuse_control("clip_value", to_text(*control.clip_value) + "; allowed: what is no zero as a float32");
  }
  if (control.gradient_scale_pointer != nullptr && control.gradient_scale != 1.0) {
    refuse_control("gradient_scale", "there is a gradient_scale_pointer too; allowed: one of them");
  }
  const auto check_aligned = [](const char* field, const float* pointer) {
    const auto address = reinterpret_cast<std::uintptr_t>(pointer);
    if (address % alignof(float) != 0)
      refuse_control(field, "address " + to_text(address) + " is not aligned to 4 bytes");
  };
  check_aligned("gradient_scale_pointer", control.gradient_scale_pointer);
  check_aligned("found_non_finite", control.found_non_finite);
  if (control.non_finite > NonFinite::skip) {
    refuse_control("non_finite", "unknown value " + to_text(static_cast<int>(control.non_finite)));
  }
  if (!control.loss_scale) return;
  if (control.gradient_scale != 1.0 || control.gradient_scale_pointer != nullptr) {
    refuse_control("loss_scale", "there is a gradient scale too; allowed: one of them");
  }
  const LossScale& scale = *control.loss_scale;
  check_number("loss_scale.initial", scale.initial, 0, kLargestFloat, "greater than 0, less than the largest float32");
  if (static_cast<float>(scale.initial) == 0.0F) {
    refuse_control("loss_scale.initial", to_text(scale.initial) + " is 0 as a float32; allowed: 2^-149 or more");
  }
  check_number("loss_scale.growth", scale.growth, 1, kInfinity, "greater than 1 and finite");
  check_number("loss_scale.backoff", scale.backoff, 0, 1, "between 0 and 1");
  if (scale.growth_interval < 1) {
    refuse_control("loss_scale.growth_interval", to_text(scale.growth_interval) + "; allowed: 1 or more");
  }
}

[[gnu::noinline]] StepReport first_report(const LossScale& scale) {
  StepReport report = kernels::first_report();
  report.loss_scale = static_cast<float>(scale.initial);
  return report;
}

[[gnu::noinline]] kernels::Control as_kernels_have_it(const StepControl& control) {
  kernels::Control there = kernels::plain_control();
  there.gradient_scale = control.gradient_scale;
  there.gradient_scale_pointer = control.gradient_scale_pointer;
  there.found_non_finite = control.found_non_finite;
  if (control.clip_norm) there.clip_norm = *control.clip_norm;
  if (control.clip_value) there.clip_value = *control.clip_value;
  there.seed = {{static_cast<std::uint32_t>(control.seed), static_cast<std::uint32_t>(control.seed >> 32)}};
  there.skips = control.non_finite == NonFinite::skip || control.loss_scale ? 1 : 0;
  there.measures =
      control.clip_norm || control.measure_norm || (there.skips != 0 && control.found_non_finite == nullptr) ? 1 : 0;
  if (control.loss_scale) {
    there.has_loss_scale = 1;
    there.growth = control.loss_scale->growth;
    there.backoff = control.loss_scale->backoff;
    there.growth_interval = control.loss_scale->growth_interval;
  }
  return there;
}

// An address range of the caller's.
struct Buffer {
  std::uintptr_t begin;
  std::uintptr_t end;
  bool empty() const { return begin == end; }
  bool overlaps(const Buffer& other) const {
    return !empty() && !other.empty() && begin < other.end && other.begin < end;
  }
};

Buffer buffer_of(const ConstArray& array) {
  const auto begin = reinterpret_cast<std::uintptr_t>(array.data());
  return {begin, begin + static_cast<std::uintptr_t>(array.count() * size_in_bytes(array.type()))};
}

// Everything about an array that can be wrong by itself.
void check_array(std::string_view tensor, std::string_view field, const ConstArray& array) {
  const auto where = [&] { return of_tensor(tensor) + std::string(field) + ": "; };  // allocates: only for a mistake
  if (array.type() > DataType::float16) {
    refuse(where() + "unknown data type " + to_text(static_cast<int>(array.type())) +
           "; there are float32, float64, bfloat16 and float16");
  }
  const std::int64_t size = size_in_bytes(array.type());
  const std::int64_t most = std::numeric_limits<std::ptrdiff_t>::max() / size;
  if (array.count() < 0) refuse(where() + "the count is negative or beyond 2^63 - 1; allowed: 0 to " + to_text(most));
  if (array.count() > most) {
    refuse(where() + "count " + to_text(array.count()) + " of " + std::string(name(array.type())) +
           " does not fit the address space; allowed: 0 to " + to_text(most));
  }
  if (array.count() == 0) return;
  if (array.data() == nullptr) {
    refuse(where() + "null pointer with count " + to_text(array.count()) + "; only an empty tensor may have one");
  }
  const auto address = reinterpret_cast<std::uintptr_t>(array.data());
  if (address % static_cast<std::uintptr_t>(size) != 0) {
    refuse(where() + "address " + to_text(address) + " is not aligned to the " + to_text(size) + " bytes of a " +
           std::string(name(array.type())));
  }
  if (address + static_cast<std::uintptr_t>(array.count() * size) < address) {
    refuse(where() + "count " + to_text(array.count()) + " runs past the end of the address space");
  }
}

void check_gradient(std::string_view tensor, const TensorSpec& spec, const ConstArray& gradient) {
  check_array(tensor, "gradient", gradient);
  if (gradient.count() != spec.parameter.count()) {
    refuse(of_tensor(tensor) + "gradient: count " + to_text(gradient.count()) + " differs from the parameter's " +
           to_text(spec.parameter.count()));
  }
  if (spec.zero_gradient && !gradient.writable() && gradient.count() > 0) {
    refuse(of_tensor(tensor) + "zero_gradient: the gradient was given as const and cannot be set to zero");
  }
}

bool has_copy(const TensorSpec& spec) { return spec.copy.count() != 0 || spec.copy.data() != nullptr; }

// The types of a tensor, or what is wrong with them. With a copy, the copy is what is written and the user's float32
// parameter is its master.
host::StorageTypes types_of(const TensorSpec& spec, DataType gradient) {
  const DataType parameter = spec.parameter.type();
  if (spec.master > Master::stochastic) {
    refuse(of_tensor(spec.name) + "master: unknown value " + to_text(static_cast<int>(spec.master)));
  }
  const DataType state =
      spec.state_type.value_or(parameter == DataType::float64 ? DataType::float64 : DataType::float32);
  const bool is_narrow = parameter == DataType::bfloat16 || parameter == DataType::float16;
  const Master master = spec.master != Master::automatic ? spec.master : (is_narrow ? Master::float32 : Master::none);
  host::StorageTypes types{parameter, gradient, state, master};
  if (has_copy(spec)) {
    if (parameter != DataType::float32 || master != Master::none) {
      refuse(of_tensor(spec.name) + "copy: a copy is made of a float32 parameter; this one is " +
             std::string(name(parameter)) + (master == Master::none ? "" : " with a master"));
    }
    types.parameter = spec.copy.type();
    types.master = Master::float32;
  }
  if (!host::find_storage(types)) {
    // The first field that goes with nothing of what stands before it.
    const auto fits = [&](bool with_state) {
      const auto all = host::storages();
      return std::any_of(all.begin(), all.end(), [&](const host::StorageTypes& each) {
        return each.parameter == types.parameter && each.gradient == types.gradient &&
               (!with_state || each.state == types.state);
      });
    };
    const char* const field = has_copy(spec) ? "copy: "
                              : !fits(false) ? "gradient: "
                              : !fits(true)  ? "state_type: "
                                             : "master: ";
    refuse(of_tensor(spec.name) + field + host::to_text(types) +
           (has_copy(spec) ? ", which is what a float32 parameter with such a copy would be," : "") +
           " do not go together; supported: " + host::supported_storages());
  }
  return types;
}

void check_shape(std::string_view tensor, const std::vector<std::int64_t>& shape, std::int64_t count) {
  if (shape.empty()) return;
  const auto where = [&] { return of_tensor(tensor) + "shape: "; };
  if (shape.size() > safetensors::kMaxDimensions) {
    refuse(where() + to_text(shape.size()) + " dimensions; allowed: at most " + to_text(safetensors::kMaxDimensions));
  }
  for (const std::int64_t size : shape) {
    if (size < 0) refuse(where() + "a dimension is " + to_text(size) + "; allowed: 0 or more");
  }
  // Zeros are left out at first, so that no file format has to multiply its way past the end of a number.
  constexpr std::int64_t kMost = std::numeric_limits<std::int64_t>::max() / 8;
  std::int64_t product = 1;
  for (const std::int64_t size : shape) {
    if (size == 0) continue;
    if (size > kMost / product) {
      refuse(where() + "the dimensions are too large to multiply; allowed: as many elements as the parameter's " +
             to_text(count));
    }
    product *= size;
  }
  if (std::find(shape.begin(), shape.end(), 0) != shape.end()) product = 0;
  if (product != count) {
    refuse(where() + "the product of the dimensions is " + to_text(product) + "; allowed: the parameter's count " +
           to_text(count));
  }
}

struct Gradient {
  std::int64_t id;
  Buffer buffer;
};

// Memory that holds the states of the tensors that were prepared together, for as long as one of them is there.
struct StateBlock {
  Buffer buffer;
  std::weak_ptr<std::byte> memory;
};

struct Record {
  TensorSpec spec;
  int storage = 0;
  std::uint32_t identity = 0;  // what random bits are keyed by; stays with the tensor through checkpoints
  bool frozen = false;
  std::int64_t row = -1;             // in the plan in force, -1 when not part of it
  std::shared_ptr<std::byte> block;  // keeps the states and `kept` alive; null until prepared
  void* kept = nullptr;              // a master or remainder of the Optimizer's own
  void* state[kernels::kMaxSlots] = {};

  const host::StorageTypes& types() const { return host::storages()[static_cast<std::size_t>(storage)]; }
  std::int64_t count() const { return spec.parameter.count(); }
  // Bytes of an element of `kept`, 0 where there is none.
  std::int64_t kept_size() const {
    if (has_copy(spec)) return 0;
    return types().master == Master::float32 ? 4 : types().master == Master::remainder ? 2 : 0;
  }
};

// For putting things back after a failure, where a second one can only be passed over.
template <typename Action>
void without_failing(const Action& action) {
  try {
    action();
  } catch (...) {  // NOLINT(bugprone-empty-catch)
  }
}

// Writes to device memory that can be undone. On the CPU nothing can fail, and nothing is kept.
class Overwritten {
 public:
  Overwritten(kernels::Backend& backend, Device device, Stream stream)
      : backend_(backend), keep_(device.kind != Device::Kind::cpu), stream_(stream) {}

  void write(void* data, std::span<const std::byte> bytes) {
    keep(data, static_cast<std::int64_t>(bytes.size()));
    backend_.write(data, bytes, stream_);
  }
  void zero(void* data, std::int64_t bytes) {
    keep(data, bytes);
    backend_.zero(data, bytes, stream_);
  }
  void put_back() {
    for (const Part& part : parts_) {
      without_failing([&] { backend_.write(part.data, part.bytes, stream_); });
    }
  }

 private:
  struct Part {
    void* data;
    std::vector<std::byte> bytes;
  };
  void keep(void* data, std::int64_t bytes) {
    if (!keep_) return;
    Part part{data, {}};
    backend_.read(data, bytes, part.bytes, stream_);
    parts_.push_back(std::move(part));
  }

  kernels::Backend& backend_;
  const bool keep_;
  const Stream stream_;
  std::vector<Part> parts_;
};

}  // namespace

// Ids of tensors count up from 0 in the order they are added and are also the slots of their step counts.
struct Optimizer::Impl {
  Impl(Method method, Device on_device, Tuning with)
      : device(on_device),
        tuning(with),
        rule(host::rule_index(method)),
        state_names(adamant::state_names(method)),
        groups{method} {}

  const Device device;
  Tuning tuning;
  const int rule;
  const std::vector<std::string> state_names;  // one a slot
  std::vector<Method> groups;
  std::unique_ptr<kernels::Backend> backend;

  std::map<std::int64_t, Record> tensors;
  std::map<std::string, std::int64_t, std::less<>> names;
  std::map<std::uintptr_t, std::uintptr_t> parameters;  // begin and end of each, disjoint, none empty
  std::vector<Gradient> gradients;                      // by id; a scan of them is a scan of contiguous memory
  std::vector<StateBlock> blocks;                       // one for each prepare() that allocated
  std::int64_t next_id = 0;
  std::uint32_t next_identity = 0;
  std::int64_t state_bytes = 0;  // of all tensors
  bool prepared = true;
  StepControl control;
  bool measures = false;  // whether the control needs the norm

  Record& record(TensorId tensor) {
    const auto found = tensors.find(static_cast<std::int64_t>(tensor));
    if (found == tensors.end()) {
      refuse("there is no tensor with id " + to_text(static_cast<std::int64_t>(tensor)) +
             " (never added, or removed); tensors() lists those there are");
    }
    return found->second;
  }

  void check_group(GroupId group, const std::string& where) const {
    const auto index = static_cast<std::int32_t>(group);
    if (index < 0 || static_cast<std::size_t>(index) >= groups.size()) {
      refuse(where + "group " + to_text(index) + " does not exist; allowed: 0 to " + to_text(groups.size() - 1));
    }
  }

  void check_options(const Method& options) const {
    validate(options);
    if (!host::runs_as(options, rule)) {
      refuse("these options ask for " + std::string(name(options)) + " with states [" +
             host::joined(adamant::state_names(options)) + "], but the optimizer was made for " +
             std::string(name(groups.front())) + " with states [" + host::joined(state_names) +
             "]; method, amsgrad, centered and whether RMSProp has a momentum are fixed when it is made");
    }
  }

  // The tensor, if any, whose parameter shares memory with `buffer`.
  const Record* parameter_overlapping(const Buffer& buffer) const {
    auto after = parameters.lower_bound(buffer.end);
    if (buffer.begin == buffer.end || after == parameters.begin()) return nullptr;
    const auto candidate = std::prev(after);
    if (!buffer.overlaps({candidate->first, candidate->second})) return nullptr;
    for (const auto& [id, tensor] : tensors) {
      if (tensor.count() == 0) continue;
      if (buffer_of(tensor.spec.parameter).begin == candidate->first) return &tensor;
      if (has_copy(tensor.spec) && buffer_of(tensor.spec.copy).begin == candidate->first) return &tensor;
    }
    return nullptr;
  }

  void check_overlap(std::string_view tensor, std::string_view field, const Buffer& buffer) const {
    if (const Record* other = parameter_overlapping(buffer)) {
      refuse(of_tensor(tensor) + std::string(field) + ": shares memory with the parameter of tensor " +
             in_quotes(other->spec.name) + "; a parameter may overlap no other buffer");
    }
    for (const StateBlock& block : blocks) {
      if (!block.memory.expired() && buffer.overlaps(block.buffer)) {
        refuse(of_tensor(tensor) + std::string(field) +
               ": shares memory with the optimizer's own states; allowed: any other memory");
      }
    }
  }

  // A new parameter against every gradient there is: a scan, because gradients may overlap each other.
  void check_gradients_against(std::string_view tensor, const Buffer& parameter) const {
    if (parameter.begin == parameter.end) return;
    for (const Gradient& gradient : gradients) {
      if (!gradient.buffer.overlaps(parameter)) continue;
      refuse(of_tensor(tensor) + "parameter: shares memory with the gradient of tensor " +
             in_quotes(tensors.at(gradient.id).spec.name) + "; a parameter may overlap no other buffer");
    }
  }

  // A gradient that is set to zero when one tensor has used it is lost to another.
  void check_zeroed_gradients(std::string_view tensor, std::int64_t own, bool zeroes, const Buffer& buffer) const {
    for (const Gradient& gradient : gradients) {
      if (gradient.id == own || !gradient.buffer.overlaps(buffer)) continue;
      const Record& other = tensors.at(gradient.id);
      if (!zeroes && !other.spec.zero_gradient) continue;
      refuse(of_tensor(tensor) + "gradient: shares memory with the gradient of tensor " + in_quotes(other.spec.name) +
             ", and zero_gradient of " + (zeroes ? "this" : "that") +
             " tensor sets it to zero when it has been used; such a gradient may overlap no other");
    }
  }

  auto gradient_of(std::int64_t id) {
    return std::lower_bound(gradients.begin(), gradients.end(), id,
                            [](const Gradient& gradient, std::int64_t wanted) { return gradient.id < wanted; });
  }

  // What a checkpoint has to know.
  host::OptimizerView view(Stream stream) const {
    host::OptimizerView all{.rule = rule,
                            .groups = groups,
                            .state_names = state_names,
                            .tensors = {},
                            .seed = control.seed,
                            .has_loss_scale = control.loss_scale.has_value(),
                            .report = backend->read_report(stream)};
    all.tensors.reserve(tensors.size());
    std::vector<std::int64_t> step_counts(static_cast<std::size_t>(next_id));
    backend->read_step_counts(0, step_counts, stream);
    for (const auto& [id, tensor] : tensors) {
      host::TensorView& seen = all.tensors.emplace_back();
      seen.name = tensor.spec.name;
      seen.shape = tensor.spec.shape;
      seen.count = tensor.spec.parameter.count();
      seen.parameter_type = tensor.spec.parameter.type();
      seen.state_type = tensor.types().state;
      seen.master = tensor.kept_size() > 0 || !has_copy(tensor.spec) ? tensor.types().master : Master::none;
      seen.identity = tensor.identity;
      seen.parameter = tensor.spec.parameter.data();
      seen.kept = tensor.kept;
      std::copy(std::begin(tensor.state), std::end(tensor.state), std::begin(seen.state));
      seen.step_count = step_counts[static_cast<std::size_t>(id)];
      seen.group = static_cast<std::int32_t>(tensor.spec.group);
      seen.frozen = tensor.frozen;
    }
    return all;
  }

  int slots() const { return static_cast<int>(state_names.size()); }

  static std::int64_t room_for(std::int64_t bytes) {
    const std::int64_t aligned = aligned_bytes(bytes);
    return aligned >= kStaggeredFrom ? aligned + kPage : aligned;
  }
  // Room for one state of a tensor, for what is kept beside its parameter, and for all of it.
  static std::int64_t slot_bytes(const Record& tensor) {
    return room_for(tensor.count() * size_in_bytes(tensor.types().state));
  }
  static std::int64_t kept_bytes(const Record& tensor) { return room_for(tensor.count() * tensor.kept_size()); }
  std::int64_t bytes_of(const Record& tensor) const { return kept_bytes(tensor) + slots() * slot_bytes(tensor); }

  // Where in a room of so many bytes an array begins that large arrays of its kind begin at that offset in a page.
  static std::byte* place(std::byte* room, std::int64_t bytes, std::int64_t offset) {
    if (bytes < kStaggeredFrom) return room;
    return room + (static_cast<std::uintptr_t>(offset) - reinterpret_cast<std::uintptr_t>(room)) % kPage;
  }

  void check_memory(std::string_view tensor, std::string_view field, const ConstArray& array) const {
    const std::string why = backend->why_unusable(array.data(), array.count() * size_in_bytes(array.type()));
    if (!why.empty()) {
      refuse(of_tensor(tensor) + std::string(field) + ": " + name(device) + " cannot use the memory at " +
             to_text(reinterpret_cast<std::uintptr_t>(array.data())) + ": " + why);
    }
  }

  // What changes the plan is done by the next prepare(), and a graph keeps the plan it was captured with.
  void change_plan(Stream stream, const char* what) {
    backend->check_not_capturing(stream, what);
    prepared = false;
  }

  void prepare_in(Stream stream, const char* what) {
    if (prepared) return;
    backend->check_not_capturing(stream, what);
    prepare(stream);
  }

  kernels::TensorRow row_of(std::int64_t id, const Record& tensor) const {
    kernels::TensorRow row{};
    const bool copies = has_copy(tensor.spec);
    row.parameter = copies ? tensor.spec.copy.data() : tensor.spec.parameter.data();
    row.kept = copies ? tensor.spec.parameter.data() : tensor.kept;
    row.gradient = tensor.spec.gradient.data();
    std::copy(std::begin(tensor.state), std::end(tensor.state), std::begin(row.state));
    row.count = tensor.count();
    row.slot = id;
    row.group = static_cast<std::int32_t>(tensor.spec.group);
    row.storage = tensor.storage;
    row.identity = tensor.identity;
    row.zero_gradient = tensor.spec.zero_gradient ? 1 : 0;
    return row;
  }

  void set_options(GroupId group, const Method& options, Stream stream) {
    check_group(group, "set_options: ");
    check_options(options);
    backend->set_options(static_cast<std::int32_t>(group), options, stream);
    groups[static_cast<std::size_t>(group)] = options;
  }

  // The stream is that in whose order the values of new parameters become their masters.
  void prepare(Stream stream) {
    if (prepared) return;
    std::int64_t bytes = 0;
    std::vector<kernels::TensorRow> rows;
    rows.reserve(tensors.size());
    for (const auto& [id, tensor] : tensors) {
      if (!tensor.block) bytes += bytes_of(tensor);
    }
    std::shared_ptr<std::byte> block;
    if (bytes > 0) block = backend->allocate(bytes);

    std::int64_t offset = 0;
    std::vector<Record*> placed;  // own their states, and can be asked for them, only when nothing can fail any more
    placed.reserve(tensors.size());
    for (auto& [id, tensor] : tensors) {
      if (!tensor.block && block && bytes_of(tensor) > 0) {
        const bool keeps = tensor.kept_size() > 0;
        const int arrays = slots() + (keeps ? 1 : 0);
        if (keeps) tensor.kept = place(block.get() + offset, kept_bytes(tensor), page_offset(slots(), arrays));
        offset += kept_bytes(tensor);
        for (int slot = 0; slot < slots(); ++slot, offset += slot_bytes(tensor)) {
          tensor.state[slot] = place(block.get() + offset, slot_bytes(tensor), page_offset(slot, arrays));
        }
        if (keeps) {
          backend->make_master(tensor.storage, tensor.kept, tensor.spec.parameter.data(), tensor.count(), stream);
        }
        placed.push_back(&tensor);
      }
      if (!tensor.frozen) rows.push_back(row_of(id, tensor));
    }
    std::erase_if(blocks, [](const StateBlock& each) { return each.memory.expired(); });
    blocks.reserve(blocks.size() + 1);
    const std::int64_t small_tile = device.kind == Device::Kind::cuda ? kernels::kPackedTile : 0;
    kernels::StepPlan plan = host::make_plan(std::move(rows), tuning.tile, small_tile);
    if (measures) plan.norm = host::make_norm_plan(plan.rows);
    backend->set_plan(std::move(plan));
    if (block) {
      const auto begin = reinterpret_cast<std::uintptr_t>(block.get());
      blocks.push_back({{begin, begin + static_cast<std::uintptr_t>(bytes)}, block});
    }
    for (Record* tensor : placed) tensor->block = block;
    std::int64_t row = 0;
    for (auto& [id, tensor] : tensors) tensor.row = tensor.frozen ? -1 : row++;
    prepared = true;
  }
};

Optimizer::Optimizer(Method method, Device device, Tuning tuning, Allocator allocator) {
  validate(method);
  if (tuning.threads < 0 || tuning.threads > host::kMostThreads) {
    refuse("tuning: threads = " + to_text(tuning.threads) + "; allowed: 0 (as many as there are) to " +
           to_text(host::kMostThreads));
  }
  if (tuning.tile < 0 || tuning.tile % kChunk != 0 || tuning.tile > kLargestTile) {
    refuse("tuning: tile = " + to_text(tuning.tile) + "; allowed: 0 (chosen) or a multiple of " + to_text(kChunk) +
           " up to " + to_text(kLargestTile));
  }
  if (tuning.threads == 0) tuning.threads = host::default_threads();
  if (tuning.tile == 0) tuning.tile = device.kind == Device::Kind::cuda ? kernels::kDeviceTile : kDefaultTile;
  if ((allocator.allocate == nullptr) != (allocator.release == nullptr)) {
    refuse("allocator: one of its functions is null; allowed: both or none");
  }

  const int rule = host::rule_index(method);
  std::unique_ptr<kernels::Backend> backend;
  if (device.kind == Device::Kind::cpu) {
    const std::vector<host::UpdateTable> tables = host::update_tables();
    const auto table =
        tuning.simd ? std::find_if(tables.begin(), tables.end(), [&](const auto& t) { return t.level == *tuning.simd; })
                    : std::prev(tables.end());
    if (table == tables.end()) {
      std::vector<std::string> names;
      for (const SimdLevel level : simd_levels()) names.emplace_back(name(level));
      throw Unavailable("adamant: this machine or build cannot run the SIMD level " + std::string(name(*tuning.simd)) +
                        "; it can run " + host::joined(names));
    }
    tuning.simd = table->level;
    backend = host::make_cpu_backend(rule, *table, tuning.threads, allocator);
  } else {
    if (device.index < 0) refuse("device cuda:" + to_text(device.index) + ": an index counts from 0");
    backend = kernels::make_cuda_backend(device.index, rule, allocator);
  }
  backend->reserve(0, 1);
  backend->set_first_options(0, method);
  impl_ = std::make_unique<Impl>(method, device, tuning);
  impl_->backend = std::move(backend);
}

Optimizer::~Optimizer() = default;
Optimizer::Optimizer(Optimizer&&) noexcept = default;
Optimizer& Optimizer::operator=(Optimizer&&) noexcept = default;

GroupId Optimizer::add_group(Method options) {
  impl_->check_options(options);
  const auto index = static_cast<std::int32_t>(impl_->groups.size());
  impl_->groups.reserve(impl_->groups.size() + 1);
  impl_->backend->reserve(impl_->next_id, index + 1);
  impl_->backend->set_first_options(index, options);
  impl_->groups.push_back(options);
  return GroupId{index};
}

TensorId Optimizer::add(TensorSpec spec) {
  Impl& self = *impl_;
  if (spec.name.empty()) refuse("a tensor needs a name: errors and checkpoints use it");
  if (self.names.contains(spec.name)) refuse(of_tensor(spec.name) + "name: there is a tensor of that name already");
  check_array(spec.name, "parameter", spec.parameter);
  check_gradient(spec.name, spec, spec.gradient);
  if (has_copy(spec)) {
    check_array(spec.name, "copy", spec.copy);
    if (spec.copy.count() != spec.parameter.count()) {
      refuse(of_tensor(spec.name) + "copy: count " + to_text(spec.copy.count()) + " differs from the parameter's " +
             to_text(spec.parameter.count()));
    }
  }
  if (spec.state_type && *spec.state_type > DataType::float16) {
    refuse(of_tensor(spec.name) + "state_type: unknown data type " + to_text(static_cast<int>(*spec.state_type)));
  }
  const host::StorageTypes types = types_of(spec, spec.gradient.type());
  self.check_group(spec.group, of_tensor(spec.name) + "group: ");
  check_shape(spec.name, spec.shape, spec.parameter.count());
  const Buffer parameter = buffer_of(spec.parameter);
  const Buffer gradient = buffer_of(spec.gradient);
  if (parameter.overlaps(gradient)) {
    refuse(of_tensor(spec.name) + "gradient: shares memory with the tensor's own parameter");
  }
  const Buffer copy = buffer_of(spec.copy);
  if (copy.overlaps(parameter) || copy.overlaps(gradient)) {
    refuse(of_tensor(spec.name) + "copy: shares memory with the tensor's own parameter or gradient");
  }
  self.check_overlap(spec.name, "parameter", parameter);
  self.check_overlap(spec.name, "gradient", gradient);
  self.check_overlap(spec.name, "copy", copy);
  self.check_gradients_against(spec.name, parameter);
  self.check_gradients_against(spec.name, copy);
  self.check_zeroed_gradients(spec.name, -1, spec.zero_gradient, gradient);
  self.check_memory(spec.name, "parameter", spec.parameter);
  self.check_memory(spec.name, "gradient", spec.gradient);
  self.check_memory(spec.name, "copy", spec.copy);

  const std::int64_t room = std::numeric_limits<std::int64_t>::max() - self.state_bytes;
  const std::int64_t most = room / (8 * (self.slots() + 1)) - 2 * kPage;
  if (spec.parameter.count() > most) {
    refuse(of_tensor(spec.name) + "parameter: the states of count " + to_text(spec.parameter.count()) +
           " do not fit the address space; allowed: 0 to " + to_text(most));
  }

  if (self.next_identity == std::numeric_limits<std::uint32_t>::max()) {
    refuse(
        "tensors have been added to this optimizer, or to that of a checkpoint it loaded, 2^32 - 1 times; make "
        "another");
  }

  // Everything that allocates comes before the first change; merging maps moves nodes and cannot fail.
  const std::int64_t id = self.next_id;
  self.backend->reserve(id + 1, static_cast<std::int64_t>(self.groups.size()));
  decltype(self.names) name{{spec.name, id}};
  decltype(self.parameters) range;
  if (!parameter.empty()) range.emplace(parameter.begin, parameter.end);
  if (!copy.empty()) range.emplace(copy.begin, copy.end);
  Record record;
  record.storage = *host::find_storage(types);
  record.identity = self.next_identity;
  record.spec = std::move(spec);
  decltype(self.tensors) tensor;
  tensor.emplace(id, std::move(record));

  if (self.gradients.size() == self.gradients.capacity()) self.gradients.reserve(2 * self.gradients.size() + 1);

  self.gradients.push_back({id, gradient});
  self.names.merge(name);
  self.parameters.merge(range);
  self.tensors.merge(tensor);
  ++self.next_id;
  ++self.next_identity;
  self.state_bytes += self.bytes_of(self.tensors.at(id));
  self.prepared = false;
  return TensorId{id};
}

void Optimizer::remove(TensorId tensor) {
  const Record& record = impl_->record(tensor);
  impl_->names.erase(impl_->names.find(record.spec.name));
  if (record.count() > 0) {
    impl_->parameters.erase(buffer_of(record.spec.parameter).begin);
    if (has_copy(record.spec)) impl_->parameters.erase(buffer_of(record.spec.copy).begin);
  }
  impl_->state_bytes -= impl_->bytes_of(record);
  impl_->gradients.erase(impl_->gradient_of(static_cast<std::int64_t>(tensor)));
  impl_->tensors.erase(static_cast<std::int64_t>(tensor));
  impl_->prepared = false;
}

TensorId Optimizer::find(std::string_view name) const {
  const auto found = impl_->names.find(name);
  if (found == impl_->names.end()) refuse("there is no tensor called " + in_quotes(name));
  return TensorId{found->second};
}

std::vector<TensorId> Optimizer::tensors() const {
  std::vector<TensorId> ids;
  ids.reserve(impl_->tensors.size());
  for (const auto& [id, tensor] : impl_->tensors) ids.push_back(TensorId{id});
  return ids;
}

const TensorSpec& Optimizer::tensor(TensorId tensor) const { return impl_->record(tensor).spec; }

void Optimizer::freeze(TensorId tensor, Stream stream) {
  Record& record = impl_->record(tensor);
  impl_->change_plan(stream, "freeze");
  record.frozen = true;
}

void Optimizer::thaw(TensorId tensor, Stream stream) {
  Record& record = impl_->record(tensor);
  impl_->change_plan(stream, "thaw");
  record.frozen = false;
}

bool Optimizer::frozen(TensorId tensor) const { return impl_->record(tensor).frozen; }

void Optimizer::set_group(TensorId tensor, GroupId group, Stream stream) {
  Record& record = impl_->record(tensor);
  impl_->check_group(group, of_tensor(record.spec.name) + "group: ");
  impl_->change_plan(stream, "set_group");
  record.spec.group = group;
}

void Optimizer::set_gradient(TensorId tensor, ConstArray gradient, Stream stream) {
  Record& record = impl_->record(tensor);
  check_gradient(record.spec.name, record.spec, gradient);
  if (gradient.type() != record.types().gradient) {
    refuse(of_tensor(record.spec.name) + "gradient: it is " + std::string(name(gradient.type())) +
           "; allowed: " + std::string(name(record.types().gradient)) + ", which it was added with");
  }
  impl_->check_overlap(record.spec.name, "gradient", buffer_of(gradient));
  impl_->check_zeroed_gradients(record.spec.name, static_cast<std::int64_t>(tensor), record.spec.zero_gradient,
                                buffer_of(gradient));
  impl_->check_memory(record.spec.name, "gradient", gradient);
  impl_->backend->check_not_capturing(stream, "set_gradient");
  if (impl_->prepared && record.row >= 0) impl_->backend->set_gradient(record.row, gradient.data());
  record.spec.gradient = gradient;
  impl_->gradient_of(static_cast<std::int64_t>(tensor))->buffer = buffer_of(gradient);
}

const Method& Optimizer::options(GroupId group) const {
  impl_->check_group(group, "options: ");
  return impl_->groups[static_cast<std::size_t>(group)];
}

void Optimizer::set_options(GroupId group, Method options, Stream stream) {
  impl_->set_options(group, options, stream);
}

void Optimizer::set_option(GroupId group, std::string_view option, double value, Stream stream) {
  Method changed = options(group);
  host::set_option(changed, option, value);
  impl_->set_options(group, changed, stream);
}

void Optimizer::set_option(GroupId group, std::string_view option, std::string_view value, Stream stream) {
  Method changed = options(group);
  adamant::set_option(changed, option, value);
  impl_->set_options(group, changed, stream);
}

void Optimizer::set_learning_rate(GroupId group, double learning_rate, Stream stream) {
  set_option(group, "learning_rate", learning_rate, stream);
}

void Optimizer::set_control(const StepControl& control, Stream stream) {
  const host::FloatingPointGuard guard;
  Impl& self = *impl_;
  check_control(control);
  const auto check_pointer = [&](const float* pointer, const char* field) {
    const std::string why = self.backend->why_unusable(pointer, pointer == nullptr ? 0 : sizeof(float));
    if (!why.empty()) refuse_control(field, name(self.device) + " cannot use the memory it points to: " + why);
  };
  check_pointer(control.gradient_scale_pointer, "gradient_scale_pointer");
  check_pointer(control.found_non_finite, "found_non_finite");
  const kernels::Control there = as_kernels_have_it(control);
  const bool measures = there.measures != 0;
  if (measures != self.measures) {
    // Turned on, it needs another plan; turned off, the control would come with a replay, while steps in between would
    // take no norm from now on.
    self.backend->check_not_capturing(stream, measures ? "set_control: the norm of gradients is to be taken"
                                                       : "set_control: the norm of gradients is no longer to be taken");
  }
  self.backend->set_control(there, stream);
  if (control.loss_scale && !self.control.loss_scale) {
    try {
      self.backend->set_report(first_report(*control.loss_scale), stream);
    } catch (...) {
      without_failing([&] { self.backend->set_control(as_kernels_have_it(self.control), stream); });
      throw;
    }
  }
  self.control = control;
  if (measures && !self.measures) self.prepared = false;
  self.measures = measures;
}

const StepControl& Optimizer::control() const { return impl_->control; }
StepReport Optimizer::report(Stream stream) const { return impl_->backend->read_report(stream); }
const StepReport* Optimizer::device_report() const { return impl_->backend->report(); }
const float* Optimizer::loss_scale() const { return &impl_->backend->report()->loss_scale; }

void Optimizer::prepare(Stream stream) {
  impl_->prepare_in(stream, "prepare");
  impl_->backend->refresh(stream);
}

void Optimizer::step(Stream stream) {
  impl_->prepare_in(
      stream, "step: tensors, groups or freezes have changed and the plan must be made anew; call prepare() first");
  impl_->backend->step(stream);
}

void Optimizer::zero_gradients(Stream stream) {
  for (const auto& [id, tensor] : impl_->tensors) {
    if (!tensor.spec.gradient.writable() && tensor.spec.gradient.count() > 0) {
      refuse(of_tensor(tensor.spec.name) + "gradient: it was given as const and cannot be set to zero");
    }
  }
  for (const auto& [id, tensor] : impl_->tensors) {
    const ConstArray& gradient = tensor.spec.gradient;
    impl_->backend->zero(const_cast<void*>(gradient.data()), gradient.count() * size_in_bytes(gradient.type()), stream);
  }
}

std::int64_t Optimizer::step_count(TensorId tensor, Stream stream) const {
  impl_->record(tensor);
  std::int64_t count = 0;
  impl_->backend->read_step_counts(static_cast<std::int64_t>(tensor), {&count, 1}, stream);
  return count;
}

void Optimizer::set_step_count(TensorId tensor, std::int64_t count, Stream stream) {
  const Record& record = impl_->record(tensor);
  if (count < 0 || count > host::kMostStepsSet) {
    refuse(of_tensor(record.spec.name) + "step count " + to_text(count) + "; allowed: 0 to 2^62");
  }
  impl_->backend->set_step_count(static_cast<std::int64_t>(tensor), count, stream);
}

Array Optimizer::state(TensorId tensor, std::string_view name) {
  const Record& record = impl_->record(tensor);
  const bool has_master = record.kept_size() > 0 && record.types().master == Master::float32;
  if (has_master && name == host::kMasterName) {
    impl_->prepare_in(nullptr, "state");
    return {record.kept, DataType::float32, record.count()};
  }
  const auto found = std::find(impl_->state_names.begin(), impl_->state_names.end(), name);
  if (found == impl_->state_names.end()) {
    refuse(of_tensor(record.spec.name) + "no state is called " + in_quotes(name) + "; there are [" +
           host::joined(impl_->state_names) + (has_master ? " master" : "") + "]");
  }
  impl_->prepare_in(nullptr, "state");
  return {record.state[found - impl_->state_names.begin()], record.types().state, record.count()};
}

void Optimizer::save(const std::filesystem::path& path, SaveOptions what, Stream stream) {
  const host::FloatingPointGuard guard;  // for clearing new states and for numbers as text
  impl_->prepare_in(stream, "save: tensors, groups or freezes have changed; call prepare() first");
  host::save_checkpoint(path, impl_->view(stream), what, *impl_->backend, stream);
}

void Optimizer::load(const std::filesystem::path& path, const LoadOptions& allowed, Stream stream) {
  const host::FloatingPointGuard guard;  // comparing a NaN of the file would trap where the caller wants traps
  Impl& self = *impl_;
  self.backend->check_not_capturing(stream, "load");
  const host::OptimizerView view = self.view(stream);
  const host::LoadedCheckpoint file = host::read_checkpoint(path, view, allowed);

  // Everything that can fail comes before the first change.
  self.prepare(stream);
  std::vector<Method> groups = file.groups;
  if (groups.size() < self.groups.size()) {
    groups.insert(groups.end(), self.groups.begin() + static_cast<std::ptrdiff_t>(groups.size()), self.groups.end());
  }
  std::vector<std::pair<std::int64_t, Record*>> records;  // in the order of the view
  records.reserve(self.tensors.size());
  for (auto& [id, tensor] : self.tensors) records.emplace_back(id, &tensor);
  self.backend->reserve(self.next_id, static_cast<std::int64_t>(groups.size()));
  StepControl control = self.control;
  control.seed = file.seed.value_or(control.seed);
  const std::vector<std::uint32_t> identities = host::identities_after(file, view);
  std::vector<std::vector<std::byte>> copies;  // of parameters that have one
  for (const host::LoadedTensor& loaded : file.tensors) {
    const TensorSpec& spec = records[loaded.index].second->spec;
    if (!loaded.parameter.is_there || !has_copy(spec)) continue;
    copies.push_back(host::converted(loaded.parameter.bytes(), DataType::float32, spec.copy.type()));
  }
  auto next_copy = copies.cbegin();

  // A device may still fail: what is overwritten there is kept until all is done.
  Overwritten overwritten(*self.backend, self.device, stream);
  try {
    for (const host::LoadedTensor& loaded : file.tensors) {
      const Record& tensor = *records[loaded.index].second;
      if (loaded.parameter.is_there) {
        overwritten.write(tensor.spec.parameter.data(), loaded.parameter.bytes());
        if (has_copy(tensor.spec)) overwritten.write(tensor.spec.copy.data(), *next_copy++);
      }
      if (loaded.kept.is_there) overwritten.write(tensor.kept, loaded.kept.bytes());
      for (int slot = 0; slot < self.slots(); ++slot) {
        if (loaded.state[slot].is_there) {
          overwritten.write(tensor.state[slot], loaded.state[slot].bytes());
        } else {
          overwritten.zero(tensor.state[slot], tensor.count() * size_in_bytes(tensor.types().state));
        }
      }
    }
    for (std::size_t i = 0; i < file.groups.size(); ++i) {
      self.backend->set_options(static_cast<std::int32_t>(i), groups[i], stream);
    }
    for (const host::LoadedTensor& loaded : file.tensors) {
      self.backend->set_step_count(records[loaded.index].first, loaded.step_count, stream);
    }
    self.backend->set_control(as_kernels_have_it(control), stream);
    // Without a loss scale, nobody may read the file's and multiply the loss by it.
    if (file.report && self.control.loss_scale) self.backend->set_report(*file.report, stream);
  } catch (...) {
    overwritten.put_back();
    for (std::size_t i = 0; i < std::min(file.groups.size(), self.groups.size()); ++i) {
      without_failing([&] { self.backend->set_options(static_cast<std::int32_t>(i), self.groups[i], stream); });
    }
    for (const host::LoadedTensor& loaded : file.tensors) {
      without_failing([&] {
        self.backend->set_step_count(records[loaded.index].first, view.tensors[loaded.index].step_count, stream);
      });
    }
    without_failing([&] { self.backend->set_control(as_kernels_have_it(self.control), stream); });
    without_failing([&] { self.backend->set_report(view.report, stream); });
    throw;
  }

  self.groups = std::move(groups);
  self.control.seed = control.seed;
  for (std::size_t i = 0; i < records.size(); ++i) {
    Record& tensor = *records[i].second;
    self.prepared = self.prepared && tensor.identity == identities[i];
    tensor.identity = identities[i];
    self.next_identity = std::max(self.next_identity, identities[i] + 1);
  }
  for (const host::LoadedTensor& loaded : file.tensors) {
    Record* const tensor = records[loaded.index].second;
    if (file.groups.empty()) continue;
    self.prepared = self.prepared && tensor->spec.group == GroupId{loaded.group} && tensor->frozen == loaded.frozen;
    tensor->spec.group = GroupId{loaded.group};
    tensor->frozen = loaded.frozen;
  }
}

std::int64_t Optimizer::state_bytes() const { return impl_->state_bytes; }

Device Optimizer::device() const { return impl_->device; }
SimdLevel Optimizer::simd() const { return impl_->tuning.simd.value_or(SimdLevel::baseline); }
int Optimizer::threads() const { return impl_->tuning.threads; }

}  // namespace adamant
