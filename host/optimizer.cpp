// The Optimizer: owns states and step counts, has everything a caller gives checked before anything is changed, and
// hands plans to a backend.
#include "adamant/optimizer.hpp"

#include <algorithm>
#include <functional>
#include <limits>
#include <map>
#include <span>
#include <utility>

#include "adamant/error.hpp"
#include "host/buffers.hpp"
#include "host/checkpoint.hpp"
#include "host/convert.hpp"
#include "host/cpu_backend.hpp"
#include "host/floating_point.hpp"
#include "host/method.hpp"
#include "host/plan.hpp"
#include "host/refusal.hpp"
#include "host/state_layout.hpp"
#include "host/step_control.hpp"
#include "host/tensor_check.hpp"
#include "kernels/storage_types.hpp"

namespace adamant {
namespace {

using host::has_copy;
using host::in_quotes;
using host::of_tensor;
using host::refuse;
using host::to_text;

constexpr std::int64_t kLargestTile = std::int64_t{1} << 30;  // indices inside a tile are 32 bits wide

struct Record {
  TensorSpec spec;
  int storage = 0;
  std::uint32_t identity = 0;  // what random bits are keyed by; stays with the tensor through checkpoints
  bool frozen = false;
  std::int64_t row = -1;             // in the plan in force, -1 when not part of it
  std::shared_ptr<std::byte> block;  // keeps the states and `kept` alive; null until prepared
  void* kept = nullptr;              // a master or remainder of the Optimizer's own
  void* state[kernels::kMaxSlots] = {};

  const kernels::StorageTypes& types() const { return kernels::storages()[static_cast<std::size_t>(storage)]; }
  std::int64_t count() const { return spec.parameter.count(); }
  // Bytes of an element of `kept`, 0 where there is none.
  std::int64_t kept_size() const { return has_copy(spec) ? 0 : kernels::kept_size(types().master); }
};

// For putting things back after a failure, where a second one can only be passed over.
template <typename Action>
void ignoring_errors(const Action& action) {
  try {
    action();
  } catch (...) {  // NOLINT(bugprone-empty-catch)
  }
}

// Rolls back what was done to a device, in reverse order, unless dismissed. Records nothing on the CPU, where no write
// can fail, but recording could.
class Undo {
 public:
  explicit Undo(Device device) : remembers_(device.kind != Device::Kind::cpu) {}
  ~Undo() {
    for (auto step = steps_.rbegin(); step != steps_.rend(); ++step) ignoring_errors(*step);
  }
  Undo(const Undo&) = delete;
  Undo& operator=(const Undo&) = delete;

  bool remembers() const { return remembers_; }
  template <typename Step>
  void remember(Step step) {
    if (remembers_) steps_.emplace_back(std::move(step));
  }
  void dismiss() { steps_.clear(); }

 private:
  const bool remembers_;
  std::vector<std::function<void()>> steps_;
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
  host::Buffers buffers;
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

  [[noreturn]] void refuse_name(std::string_view name) const {
    constexpr std::size_t kMostShown = 20;
    std::vector<std::string> shown;
    for (const auto& [each, id] : names) {
      if (shown.size() == kMostShown) break;
      shown.push_back(in_quotes(each));
    }
    const std::size_t others = names.size() - shown.size();
    refuse("there is no tensor called " + in_quotes(name) + "; there are [" + host::joined(shown) + "]" +
           (others > 0 ? " and " + to_text(others) + " more, which tensors() lists" : ""));
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

  // What a checkpoint has to know.
  host::OptimizerView view(Stream stream) const {
    host::OptimizerView all{.rule = rule,
                            .groups = groups,
                            .state_names = state_names,
                            .tensors = {},
                            .seed = control.seed,
                            .next_identity = next_identity,
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

  // Room for one state of a tensor, for what is kept beside its parameter, and for all of it.
  static std::int64_t slot_bytes(const Record& tensor) {
    return host::room_for(tensor.count() * size_in_bytes(tensor.types().state));
  }
  static std::int64_t kept_bytes(const Record& tensor) { return host::room_for(tensor.count() * tensor.kept_size()); }
  std::int64_t bytes_of(const Record& tensor) const { return kept_bytes(tensor) + slots() * slot_bytes(tensor); }

  void check_memory(std::string_view tensor, std::string_view field, const ConstArray& array) const {
    const std::string why = backend->why_unusable(array.data(), array.count() * size_in_bytes(array.type()));
    if (!why.empty()) {
      refuse(of_tensor(tensor) + std::string(field) + ": " + name(device) + " cannot use the memory at " +
             host::address_text(array.data()) + ": " + why);
    }
  }

  // A change that the next prepare() applies. A graph that was captured before keeps the plan it was captured with; so
  // what changes nothing leaves the plan in force.
  template <typename T>
  void change_plan(T& field, const T& value, Stream stream, const char* what) {
    backend->check_not_capturing(stream, what);
    prepared = prepared && field == value;
    field = value;
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

  const Method& options(GroupId group, const char* where) const {
    check_group(group, where);
    return groups[static_cast<std::size_t>(group)];
  }

  template <typename Value>
  void set_option(GroupId group, const char* where, std::string_view option, Value value, Stream stream) {
    using adamant::set_option;
    using host::set_option;
    Method changed = options(group, where);
    set_option(changed, option, value);
    set_options(group, changed, stream);
  }

  void set_options(GroupId group, const Method& options, Stream stream) {
    check_options(options);
    backend->set_options(static_cast<std::int32_t>(group), options, stream);
    groups[static_cast<std::size_t>(group)] = options;
  }

  // Masters are made of the values that new parameters have in the order of the stream.
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
    std::vector<Record*> placed;  // get their states when nothing can fail any more
    placed.reserve(tensors.size());
    for (auto& [id, tensor] : tensors) {
      if (!tensor.block && block && bytes_of(tensor) > 0) {
        const bool keeps = tensor.kept_size() > 0;
        const int arrays = slots() + (keeps ? 1 : 0);
        if (keeps) tensor.kept = host::place(block.get() + offset, kept_bytes(tensor), slots(), arrays);
        offset += kept_bytes(tensor);
        for (int slot = 0; slot < slots(); ++slot, offset += slot_bytes(tensor)) {
          tensor.state[slot] = host::place(block.get() + offset, slot_bytes(tensor), slot, arrays);
        }
        if (keeps) {
          backend->make_master(tensor.storage, tensor.kept, tensor.spec.parameter.data(), tensor.count(), stream);
        }
        placed.push_back(&tensor);
      }
      if (!tensor.frozen) rows.push_back(row_of(id, tensor));
    }
    buffers.make_room_for_states();
    kernels::StepPlan plan = host::make_plan(std::move(rows), tuning.tile, backend->tile_sizes().packed);
    if (measures) plan.norm = host::make_norm_plan(plan.rows);
    backend->set_plan(std::move(plan));
    if (block) buffers.insert_states(block, bytes);
    for (Record* tensor : placed) tensor->block = block;
    std::int64_t row = 0;
    for (auto& [id, tensor] : tensors) tensor.row = tensor.frozen ? -1 : row++;
    prepared = true;
  }

  // A checkpoint on its way into the Optimizer.
  struct Loading {
    const host::LoadedCheckpoint& file;
    const host::OptimizerView& view;  // of what there was
    std::vector<Method> groups;       // as they will be
    StepControl control;
    std::vector<std::pair<std::int64_t, Record*>> records = {};  // in the order of the view
    std::vector<std::vector<std::byte>> copies = {};             // of parameters that have one
  };

  // Writes what the backend steps. A device may fail, and then all of it is written back.
  void overwrite(const Loading& what, Stream stream) {
    const host::LoadedCheckpoint& file = what.file;
    Undo undo(device);
    const auto keep = [&](void* data, std::int64_t bytes) {
      if (!undo.remembers()) return;
      std::vector<std::byte> before;
      backend->read(data, bytes, before, stream);
      undo.remember([this, stream, data, before = std::move(before)] { backend->write(data, before, stream); });
    };
    const auto write = [&](void* data, std::span<const std::byte> bytes) {
      keep(data, static_cast<std::int64_t>(bytes.size()));
      backend->write(data, bytes, stream);
    };
    auto next_copy = what.copies.cbegin();
    for (const host::LoadedTensor& loaded : file.tensors) {
      const Record& tensor = *what.records[loaded.index].second;
      if (loaded.parameter.is_there) {
        write(tensor.spec.parameter.data(), loaded.parameter.bytes());
        if (has_copy(tensor.spec)) write(tensor.spec.copy.data(), *next_copy++);
      }
      if (loaded.kept.is_there) write(tensor.kept, loaded.kept.bytes());
      for (int slot = 0; slot < slots(); ++slot) {
        if (loaded.state[slot].is_there) {
          write(tensor.state[slot], loaded.state[slot].bytes());
        } else {
          const std::int64_t bytes = tensor.count() * size_in_bytes(tensor.types().state);
          keep(tensor.state[slot], bytes);
          backend->zero(tensor.state[slot], bytes, stream);
        }
      }
    }
    for (std::size_t i = 0; i < file.groups.size(); ++i) {
      const auto group = static_cast<std::int32_t>(i);
      // One that is new to the Optimizer had none.
      if (i < groups.size()) {
        undo.remember([this, stream, group, i] { backend->set_options(group, groups[i], stream); });
      }
      backend->set_options(group, what.groups[i], stream);
    }
    for (const host::LoadedTensor& loaded : file.tensors) {
      const std::int64_t id = what.records[loaded.index].first;
      undo.remember([this, stream, id, before = what.view.tensors[loaded.index].step_count] {
        backend->set_step_count(id, before, stream);
      });
      backend->set_step_count(id, loaded.step_count, stream);
    }
    undo.remember([this, stream] { backend->set_control(host::to_kernel_control(control), stream); });
    backend->set_control(host::to_kernel_control(what.control), stream);
    if (file.report && control.loss_scale) {  // without one, nobody may read the file's and multiply the loss by it
      undo.remember([this, stream, &what] { backend->set_report(what.view.report, stream); });
      backend->set_report(*file.report, stream);
    }
    backend->finish(stream, "load");
    undo.dismiss();
  }

  // Then takes over what it knows itself. Cannot fail.
  void adopt(Loading what, const std::vector<std::uint32_t>& identities) {
    groups = std::move(what.groups);
    control.seed = what.control.seed;
    next_identity = std::max(next_identity, what.file.next_identity);  // where there is no tensor yet, too
    for (std::size_t i = 0; i < what.records.size(); ++i) {
      Record& tensor = *what.records[i].second;
      prepared = prepared && tensor.identity == identities[i];
      tensor.identity = identities[i];
      next_identity = std::max(next_identity, identities[i] + 1);
    }
    if (what.file.groups.empty()) return;
    for (const host::LoadedTensor& loaded : what.file.tensors) {
      Record* const tensor = what.records[loaded.index].second;
      prepared = prepared && tensor->spec.group == GroupId{loaded.group} && tensor->frozen == loaded.frozen;
      tensor->spec.group = GroupId{loaded.group};
      tensor->frozen = loaded.frozen;
    }
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
  if ((allocator.allocate == nullptr) != (allocator.release == nullptr)) {
    refuse("allocator: one of its functions is null; allowed: both or none");
  }

  const int rule = host::rule_index(method);
  std::unique_ptr<kernels::Backend> backend;
  if (device.kind == Device::Kind::cpu) {
    if (device.index != 0) {
      refuse("device: the CPU with index " + to_text(device.index) + "; allowed: 0, or Device::cuda(" +
             to_text(device.index) + ") for that GPU");
    }
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
    tuning.simd.reset();
    if (device.index < 0) refuse("device cuda:" + to_text(device.index) + ": an index counts from 0");
    backend = kernels::make_cuda_backend(device.index, rule, allocator);
  }
  if (tuning.tile == 0) tuning.tile = backend->tile_sizes().usual;
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

std::vector<GroupId> Optimizer::groups() const {
  std::vector<GroupId> ids;
  ids.reserve(impl_->groups.size());
  for (std::size_t i = 0; i < impl_->groups.size(); ++i) ids.push_back(GroupId{static_cast<std::int32_t>(i)});
  return ids;
}

TensorId Optimizer::add(TensorSpec spec) {
  Impl& self = *impl_;
  const kernels::StorageTypes types = host::check_tensor(spec);
  if (self.names.contains(spec.name)) refuse(of_tensor(spec.name) + "name: there is a tensor of that name already");
  self.check_group(spec.group, of_tensor(spec.name) + "group: ");
  self.buffers.check(spec);
  self.check_memory(spec.name, "parameter", spec.parameter);
  self.check_memory(spec.name, "gradient", spec.gradient);
  self.check_memory(spec.name, "copy", spec.copy);

  const std::int64_t room = std::numeric_limits<std::int64_t>::max() - self.state_bytes;
  const std::int64_t most = room / (8 * (self.slots() + 1)) - 2 * host::kPage;
  if (spec.parameter.count() > most) {
    refuse(of_tensor(spec.name) + "parameter: the states of count " + to_text(spec.parameter.count()) +
           " do not fit the address space; allowed: 0 to " + to_text(most));
  }

  if (self.next_identity == std::numeric_limits<std::uint32_t>::max()) {
    refuse(
        "tensors have been added to this optimizer, or to that of a checkpoint it loaded, 2^32 - 1 times; "
        "make another");
  }

  // Everything that allocates comes before the first change; merging maps moves nodes and cannot fail.
  const std::int64_t id = self.next_id;
  self.backend->reserve(id + 1, static_cast<std::int64_t>(self.groups.size()));
  decltype(self.names) name{{spec.name, id}};
  Record record;
  record.storage = *kernels::find_storage(types);
  record.identity = self.next_identity;
  record.spec = std::move(spec);
  decltype(self.tensors) tensor;
  tensor.emplace(id, std::move(record));

  self.buffers.insert(id, tensor.begin()->second.spec);
  self.names.merge(name);
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
  impl_->buffers.erase(static_cast<std::int64_t>(tensor), record.spec);
  impl_->state_bytes -= impl_->bytes_of(record);
  impl_->tensors.erase(static_cast<std::int64_t>(tensor));
  impl_->prepared = false;
}

TensorId Optimizer::find(std::string_view name) const {
  const auto found = impl_->names.find(name);
  if (found == impl_->names.end()) impl_->refuse_name(name);
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
  impl_->change_plan(impl_->record(tensor).frozen, true, stream, "freeze");
}

void Optimizer::thaw(TensorId tensor, Stream stream) {
  impl_->change_plan(impl_->record(tensor).frozen, false, stream, "thaw");
}

bool Optimizer::frozen(TensorId tensor) const { return impl_->record(tensor).frozen; }

void Optimizer::set_group(TensorId tensor, GroupId group, Stream stream) {
  Record& record = impl_->record(tensor);
  impl_->check_group(group, of_tensor(record.spec.name) + "group: ");
  impl_->change_plan(record.spec.group, group, stream, "set_group");
}

void Optimizer::set_gradient(TensorId tensor, ConstArray gradient, Stream stream) {
  Record& record = impl_->record(tensor);
  host::check_gradient(record.spec, gradient);
  impl_->buffers.check_gradient(record.spec, gradient);
  impl_->check_memory(record.spec.name, "gradient", gradient);
  impl_->backend->check_not_capturing(stream, "set_gradient");
  if (impl_->prepared && record.row >= 0) impl_->backend->set_gradient(record.row, gradient.data());
  impl_->buffers.set_gradient(static_cast<std::int64_t>(tensor), record.spec, gradient);
  record.spec.gradient = gradient;
}

const Method& Optimizer::options(GroupId group) const { return impl_->options(group, "options: "); }

void Optimizer::set_options(GroupId group, Method options, Stream stream) {
  impl_->check_group(group, "set_options: ");
  impl_->set_options(group, options, stream);
}

void Optimizer::set_option(GroupId group, std::string_view option, double value, Stream stream) {
  impl_->set_option(group, "set_option: ", option, value, stream);
}

void Optimizer::set_option(GroupId group, std::string_view option, std::string_view value, Stream stream) {
  impl_->set_option(group, "set_option: ", option, value, stream);
}

void Optimizer::set_learning_rate(GroupId group, double learning_rate, Stream stream) {
  impl_->set_option(group, "set_learning_rate: ", "learning_rate", learning_rate, stream);
}

void Optimizer::set_control(const StepControl& control, Stream stream) {
  const host::FloatingPointGuard guard;
  Impl& self = *impl_;
  host::check_control(control);
  const auto check_pointer = [&](const float* pointer, const char* field) {
    const std::string why = self.backend->why_unusable(pointer, pointer == nullptr ? 0 : sizeof(float));
    if (!why.empty()) host::refuse_control(field, name(self.device) + " cannot use the memory it points to: " + why);
  };
  check_pointer(control.gradient_scale_pointer, "gradient_scale_pointer");
  check_pointer(control.found_non_finite, "found_non_finite");
  const kernels::Control there = host::to_kernel_control(control);
  const bool measures = there.measures != 0;
  if (measures != self.measures) {
    // Turning the norm on needs another plan. Turning it off in a capture would change the control only when the graph
    // is replayed, while steps outside of the graph would take no norm from now on.
    self.backend->check_not_capturing(stream, measures ? "set_control: the norm of gradients is to be taken"
                                                       : "set_control: the norm of gradients is no longer to be taken");
  }
  const auto initial_of = [](const StepControl& each) { return each.loss_scale ? each.loss_scale->initial : 0.0; };
  const bool changes_report = initial_of(control) != initial_of(self.control);
  if (changes_report) {
    // Every replay would begin the report anew.
    self.backend->check_not_capturing(
        stream, control.loss_scale ? "set_control: a loss scale is to begin" : "set_control: a loss scale is to end");
  }
  self.backend->set_control(there, stream);
  if (changes_report) {
    try {
      self.backend->set_report(host::first_report(control), stream);
    } catch (...) {
      ignoring_errors([&] { self.backend->set_control(host::to_kernel_control(self.control), stream); });
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
  impl_->prepare_in(stream,
                    "step: it has to prepare first, because tensors were added, removed, frozen, thawed or moved to "
                    "another group, the norm was turned on, or a file was loaded; call prepare() before the capture");
  impl_->backend->step(stream);
}

void Optimizer::zero_gradients(Stream stream) {
  for (const auto& [id, tensor] : impl_->tensors) {
    if (!tensor.spec.gradient.writable() && tensor.spec.gradient.count() > 0) {
      refuse(of_tensor(tensor.spec.name) +
             "gradient: it was given as const and cannot be set to zero; allowed: a pointer to what may be written");
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
    std::vector<std::string> there = impl_->state_names;
    if (has_master) there.emplace_back(host::kMasterName);
    refuse(of_tensor(record.spec.name) + "no state is called " + in_quotes(name) + "; there are [" +
           host::joined(there) + "]");
  }
  impl_->prepare_in(nullptr, "state");
  return {record.state[found - impl_->state_names.begin()], record.types().state, record.count()};
}

void Optimizer::save(const std::filesystem::path& path, SaveOptions what, Stream stream) {
  const host::FloatingPointGuard guard;  // for clearing new states and for numbers as text
  impl_->prepare_in(stream, "save");
  impl_->backend->finish(stream, "save");
  host::save_checkpoint(path, impl_->view(stream), what, *impl_->backend, stream);
}

void Optimizer::load(const std::filesystem::path& path, const LoadOptions& allowed, Stream stream) {
  const host::FloatingPointGuard guard;  // comparing a NaN of the file would trap where the caller wants traps
  Impl& self = *impl_;
  self.backend->finish(stream, "load");
  const host::OptimizerView view = self.view(stream);
  const host::LoadedCheckpoint file = host::read_checkpoint(path, view, allowed);

  // What can fail on the host comes before the first change.
  self.prepare(stream);
  Impl::Loading what{.file = file, .view = view, .groups = file.groups, .control = self.control};
  if (what.groups.size() < self.groups.size()) {
    what.groups.insert(what.groups.end(), self.groups.begin() + static_cast<std::ptrdiff_t>(what.groups.size()),
                       self.groups.end());
  }
  what.control.seed = file.seed.value_or(self.control.seed);
  what.records.reserve(self.tensors.size());
  for (auto& [id, tensor] : self.tensors) what.records.emplace_back(id, &tensor);
  self.backend->reserve(self.next_id, static_cast<std::int64_t>(what.groups.size()));
  const std::vector<std::uint32_t> identities = host::identities_after(file, view);
  for (const host::LoadedTensor& loaded : file.tensors) {
    const TensorSpec& spec = what.records[loaded.index].second->spec;
    if (!loaded.parameter.is_there || !has_copy(spec)) continue;
    what.copies.push_back(host::converted(loaded.parameter.bytes(), DataType::float32, spec.copy.type()));
  }

  self.overwrite(what, stream);
  self.adopt(std::move(what), identities);
}

std::int64_t Optimizer::state_bytes() const { return impl_->state_bytes; }

Device Optimizer::device() const { return impl_->device; }
SimdLevel Optimizer::simd() const { return impl_->tuning.simd.value_or(SimdLevel::baseline); }
int Optimizer::threads() const { return impl_->tuning.threads; }

}  // namespace adamant
