#include "host/checkpoint.hpp"

// The whole of xxHash as static functions: nothing to link, and no symbol that a program's own copy could replace.
#define XXH_INLINE_ALL
#include <xxhash.h>
static_assert(XXH_VERSION_NUMBER >= 800, "xxhash.h is older than 0.8, whose XXH3 gave other digests");

#include <algorithm>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include "adamant/error.hpp"
#include "adamant/version.hpp"
#include "host/convert.hpp"
#include "host/method.hpp"
#include "host/replacement.hpp"
#include "host/text.hpp"

namespace adamant::host {
namespace {

using safetensors::Entry;
using safetensors::File;
using safetensors::Metadata;

// The keys of the metadata. What ends in a dot goes on with the name of a tensor, of an array, or with GROUP.OPTION.
constexpr std::string_view kPrefix = "adamant.";
constexpr std::string_view kFormat = "adamant.format";
constexpr std::string_view kVersionKey = "adamant.version";
constexpr std::string_view kMethod = "adamant.method";
constexpr std::string_view kStates = "adamant.states";
constexpr std::string_view kParameters = "adamant.parameters";
constexpr std::string_view kGroups = "adamant.groups";
constexpr std::string_view kGroup = "adamant.group.";
constexpr std::string_view kStep = "adamant.step.";
constexpr std::string_view kGroupOf = "adamant.group_of.";
constexpr std::string_view kFrozen = "adamant.frozen.";
constexpr std::string_view kDigest = "adamant.xxh3.";
constexpr std::string_view kHeaderDigest = "adamant.header.xxh3";
constexpr std::string_view kIdentity = "adamant.identity.";
constexpr std::string_view kNextIdentity = "adamant.next_identity";
constexpr std::string_view kSeed = "adamant.seed";
constexpr std::string_view kLossScale = "adamant.loss_scale";
constexpr std::string_view kGoodSteps = "adamant.good_steps";
constexpr std::string_view kSkippedSteps = "adamant.skipped_steps";
// A change of what a key means, or a key that a reader must know, is another number. The first format had neither types
// of 16 bits nor what belongs to them; it is read as before.
constexpr std::string_view kThisFormat = "2";
constexpr std::string_view kFirstFormat = "1";

constexpr std::string_view kNoDigest = "0000000000000000";
constexpr const char* kWouldBeAllowed = "; LoadOptions::change_types would allow it";
// What a run that goes on from there may have come to.
constexpr std::int64_t kMostSteps = kMostStepsSet + (std::int64_t{1} << 61);
// One less than the largest number, so that there is a next one.
constexpr std::uint32_t kLargestIdentity = std::numeric_limits<std::uint32_t>::max() - 1;
// Large enough that system calls cost nothing, small enough to be hashed and written from the cache.
constexpr std::int64_t kPieceBytes = 1 << 20;

std::string key(std::string_view prefix, std::string_view name) { return std::string(prefix) + std::string(name); }
std::string_view flag(bool value) { return value ? "true" : "false"; }

std::string array_name(std::string_view tensor, std::string_view state) {
  return std::string(tensor) + "." + std::string(state);
}

std::string group_prefix(std::size_t group) { return std::string(kGroup) + to_text(group) + "."; }

std::optional<DataType> data_type(safetensors::Type type) {
  for (const DataType each : {DataType::float32, DataType::float64, DataType::bfloat16, DataType::float16}) {
    if (file_type(each) == type) return each;
  }
  return std::nullopt;
}

constexpr safetensors::Type kRemainderType = safetensors::Type::U16;

std::string hexadecimal(std::uint64_t number) {
  std::string text(kNoDigest);
  for (std::size_t i = text.size(); i-- > 0; number >>= 4) text[i] = "0123456789abcdef"[number & 15];
  return text;
}

std::string digest_of(std::span<const std::byte> bytes) { return hexadecimal(XXH3_64bits(bytes.data(), bytes.size())); }

// The digest of a header is made while these characters of it are zeros.
std::size_t header_digest_position(std::string_view header) {
  // Unescaped quotes around it: nothing else in a JSON text can look like this.
  const std::string before = "\"" + std::string(kHeaderDigest) + "\":\"";
  const std::size_t found = header.find(before);
  return found == std::string_view::npos ? found : found + before.size();
}

std::string header_digest(std::string header, std::size_t position) {
  header.replace(position, kNoDigest.size(), kNoDigest);
  return digest_of(std::as_bytes(std::span(header)));
}

std::string_view kept_name(Master master) {
  return master == Master::float32 ? kMasterName : master == Master::remainder ? kRemainderName : std::string_view();
}
safetensors::Type kept_type(Master master) {
  return master == Master::remainder ? kRemainderType : safetensors::Type::F32;
}

// --- writing

Metadata describe(const OptimizerView& optimizer, SaveOptions what) {
  Metadata metadata;
  const auto set = [&](std::string_view name, std::string_view value) {
    metadata.insert_or_assign(std::string(name), std::string(value));
  };
  set(kFormat, kThisFormat);
  set(kVersionKey, version());
  set(kMethod, name(optimizer.groups.front()));
  set(kStates, joined(optimizer.state_names));
  set(kParameters, flag(what.parameters));
  set(kGroups, to_text(optimizer.groups.size()));
  for (std::size_t group = 0; group < optimizer.groups.size(); ++group) {
    for (const auto& [option, value] : exact_options(optimizer.groups[group])) {
      set(group_prefix(group) + option, value);
    }
  }
  for (const TensorView& tensor : optimizer.tensors) {
    set(key(kStep, tensor.name), to_text(tensor.step_count));
    set(key(kGroupOf, tensor.name), to_text(tensor.group));
    set(key(kFrozen, tensor.name), flag(tensor.frozen));
    set(key(kIdentity, tensor.name), to_text(tensor.identity));
  }
  set(kNextIdentity, to_text(optimizer.next_identity));
  set(kSeed, to_text(optimizer.seed));
  if (optimizer.has_loss_scale) {
    set(kLossScale, hexadecimal_text(static_cast<double>(optimizer.report.loss_scale)));
    set(kGoodSteps, to_text(optimizer.report.good_steps));
    set(kSkippedSteps, to_text(optimizer.report.skipped_steps));
  }
  set(kHeaderDigest, kNoDigest);
  return metadata;
}

// The arrays of the file; their data is device memory. Those of larger elements first, so that each is aligned.
std::vector<Entry> list_arrays(const OptimizerView& optimizer, SaveOptions what) {
  std::vector<Entry> arrays;
  const auto add = [&](std::string name, safetensors::Type type, const TensorView& tensor, const void* data) {
    Entry& entry = arrays.emplace_back();
    entry.name = std::move(name);
    entry.type = type;
    entry.shape.assign(tensor.shape.begin(), tensor.shape.end());
    if (entry.shape.empty()) entry.shape.push_back(tensor.count);
    entry.data = {static_cast<const std::byte*>(data),
                  static_cast<std::size_t>(tensor.count) * safetensors::type_size_bytes(type)};
  };
  for (const TensorView& tensor : optimizer.tensors) {
    if (what.parameters) add(std::string(tensor.name), file_type(tensor.parameter_type), tensor, tensor.parameter);
    if (const std::string_view kept = kept_name(tensor.master); !kept.empty()) {
      add(array_name(tensor.name, kept), kept_type(tensor.master), tensor, tensor.kept);
    }
    for (std::size_t slot = 0; slot < optimizer.state_names.size(); ++slot) {
      add(array_name(tensor.name, optimizer.state_names[slot]), file_type(tensor.state_type), tensor,
          tensor.state[slot]);
    }
  }
  std::stable_sort(arrays.begin(), arrays.end(), [](const Entry& left, const Entry& right) {
    return safetensors::type_size_bytes(left.type) > safetensors::type_size_bytes(right.type);
  });
  return arrays;
}

// "w" with a state exp_avg and a parameter "w.exp_avg" would be two arrays of one name.
void refuse_collisions(const OptimizerView& optimizer) {
  std::unordered_set<std::string_view> names;
  for (const TensorView& tensor : optimizer.tensors) names.insert(tensor.name);
  for (const TensorView& tensor : optimizer.tensors) {
    std::vector<std::string> states(optimizer.state_names.begin(), optimizer.state_names.end());
    states.emplace_back(kept_name(tensor.master));
    for (const std::string& state : states) {
      const std::string name = array_name(tensor.name, state);
      if (state.empty() || !names.contains(name)) continue;
      throw std::invalid_argument("adamant: cannot be saved: tensor " + in_quotes(name) +
                                  " has the name of the state " + in_quotes(state) + " of tensor " +
                                  in_quotes(tensor.name) + "; allowed: any other name, or to save without parameters");
    }
  }
}

// Names are the caller's: those that are not UTF-8 or the format's own are a mistake that can be said so.
std::string header_or_refuse(const std::filesystem::path& path, std::span<const Entry> arrays,
                             const Metadata& metadata) {
  try {
    return safetensors::make_header(path, arrays, metadata);
  } catch (const std::invalid_argument& error) {
    throw std::invalid_argument("adamant: cannot be saved: " + std::string(error.what()));
  }
}

// --- reading

// What a file and an Optimizer differ in.
class Differences {
 public:
  void add(std::string what) {
    if (list_.size() < kListed) list_.push_back(std::move(what));
    ++count_;
  }

  void refuse_if_any(const std::filesystem::path& path) const {
    if (count_ > 0) refuse(path);
  }

  [[noreturn]] void refuse(const std::filesystem::path& path) const {
    std::string text = "adamant: nothing was loaded from '" + path.string() + "':";
    for (const std::string& what : list_) text += (count_ == 1 ? " " : "\n  ") + what;
    if (count_ > list_.size()) text += "\n  and " + to_text(count_ - list_.size()) + " more";
    throw NotLoaded(text);
  }

 private:
  static constexpr std::size_t kListed = 20;
  std::vector<std::string> list_;
  std::size_t count_ = 0;
};

std::string dimensions(std::span<const std::int64_t> shape) {
  std::vector<std::string> sizes;
  for (const std::int64_t size : shape) sizes.push_back(to_text(size));
  return "[" + joined(sizes) + "]";
}

class Reader {
 public:
  Reader(const File& file, const OptimizerView& optimizer, const LoadOptions& allowed)
      : file_(file), optimizer_(optimizer), allowed_(allowed) {
    for (std::size_t i = 0; i < optimizer.tensors.size(); ++i) index_.emplace(optimizer.tensors[i].name, i);
    for (const std::string& name : allowed_.change_types) {  // its own copy, which `changing_` points into
      if (!index_.contains(name)) {
        differences_.add("change_types: there is no tensor called " + in_quotes(name) + " in the optimizer");
      }
      changing_.insert(name);
    }
  }

  std::vector<Method> groups;
  std::vector<LoadedTensor> tensors;
  std::optional<std::uint64_t> seed;
  std::uint32_t next_identity = 0;
  std::optional<StepReport> report;

  // A file of save().
  void read_own() {
    check_header();
    check_method();
    differences_.refuse_if_any(file_.path());  // nothing below would fit either
    read_groups();
    has_parameters_ = truth(kParameters).value_or(false);
    if (format_ != kFirstFormat) read_randomness_and_scale();
    for (std::size_t i = 0; i < optimizer_.tensors.size(); ++i) read_tensor(i);
    find_extra_tensors();
    find_extra_arrays();
    differences_.refuse_if_any(file_.path());
    check_digests();
    differences_.refuse_if_any(file_.path());
    make_arrays();
  }

  // A file without our metadata: the flattened state of a PyTorch optimizer.
  void read_foreign() {
    has_parameters_ = true;  // or none at all
    for (std::size_t i = 0; i < optimizer_.tensors.size(); ++i) read_foreign_tensor(i);
    check_all_or_no_parameters();
    find_extra_arrays();
    differences_.refuse_if_any(file_.path());
    make_arrays();
  }

 private:
  // What the file has for a tensor, before it is brought to the tensor's types.
  struct Found {
    const Entry* parameter = nullptr;
    const Entry* kept = nullptr;
    Master master = Master::none;  // what `kept` is
    const Entry* state[kernels::kMaxSlots] = {};
  };

  // The value of a key that the format asks for; nothing, and a complaint, where it is missing.
  const std::string* value(std::string_view name) {
    const auto found = file_.metadata().find(name);
    if (found != file_.metadata().end()) return &found->second;
    differences_.add("the file's metadata has no " + in_quotes(name));
    return nullptr;
  }

  std::optional<std::int64_t> number(std::string_view name, std::int64_t most) {
    const std::string* text = value(name);
    if (text == nullptr) return std::nullopt;
    const auto read = from_text<std::int64_t>(*text);
    if (read && *read >= 0 && *read <= most) return read;
    differences_.add("the file's " + in_quotes(name) + " is " + in_quotes(*text) + "; allowed: 0 to " + to_text(most));
    return std::nullopt;
  }

  std::optional<bool> truth(std::string_view name) {
    const std::string* text = value(name);
    if (text == nullptr) return std::nullopt;
    if (*text == "true" || *text == "false") return *text == "true";
    differences_.add("the file's " + in_quotes(name) + " is " + in_quotes(*text) + "; allowed: true or false");
    return std::nullopt;
  }

  void check_header() {
    const std::string* format = value(kFormat);
    if (format != nullptr) format_ = *format;
    if (format != nullptr && *format != kThisFormat && *format != kFirstFormat) {
      const auto writer = file_.metadata().find(kVersionKey);
      differences_.add("it is of checkpoint format " + in_quotes(*format) + ", written by adamant " +
                       (writer == file_.metadata().end() ? "of an unknown version" : printable(writer->second)) +
                       "; this version, " + std::string(version()) + ", reads formats " + std::string(kFirstFormat) +
                       " and " + std::string(kThisFormat));
    }
    const std::string* written = value(kHeaderDigest);
    differences_.refuse_if_any(file_.path());
    const std::size_t position = header_digest_position(file_.header());
    if (position == std::string_view::npos || written->size() != kNoDigest.size() ||
        header_digest(std::string(file_.header()), position) != *written) {
      differences_.add("the header is damaged or was edited: its XXH3 digest is not the " + in_quotes(*written) +
                       " that it says");
      differences_.refuse(file_.path());
    }
  }

  void check_method() {
    const std::string* method = value(kMethod);
    const std::string* states = value(kStates);
    if (method == nullptr || states == nullptr) return;
    const std::string_view own = name(optimizer_.groups.front());
    if (*method != own || *states != joined(optimizer_.state_names)) {
      differences_.add("it is of method " + printable(*method) + " with states [" + printable(*states) +
                       "]; the optimizer's is " + std::string(own) + " with states [" + joined(optimizer_.state_names) +
                       "]");
    }
  }

  void read_groups() {
    const auto count = number(kGroups, std::numeric_limits<std::int32_t>::max());
    if (!count) return;
    if (*count == 0) differences_.add("the file has no group; allowed: at least one");
    for (std::int64_t group = 0; group < *count; ++group) {
      if (!read_group(static_cast<std::size_t>(group))) return;
    }
  }

  bool read_group(std::size_t group) {
    const std::string prefix = group_prefix(group);
    std::map<std::string, std::string> texts;
    for (auto at = file_.metadata().lower_bound(prefix); at != file_.metadata().end() && at->first.starts_with(prefix);
         ++at) {
      texts.emplace(at->first.substr(prefix.size()), at->second);
    }
    bool complete = true;
    for (const auto& [option, unused] : exact_options(optimizer_.groups.front())) {
      complete = (texts.contains(option) || value(prefix + option) != nullptr) && complete;
    }
    if (!complete) return false;
    try {
      groups.push_back(make_method(name(optimizer_.groups.front()), texts));
    } catch (const std::invalid_argument& error) {
      differences_.add("the options of the file's group " + to_text(group) + ": " + error.what());
      return false;
    }
    if (!runs_as(groups.back(), optimizer_.rule)) {
      differences_.add("the options of the file's group " + to_text(group) + " ask for other states than [" +
                       joined(optimizer_.state_names) + "]");
    }
    return true;
  }

  void read_randomness_and_scale() {
    if (const std::string* text = value(kSeed)) {
      seed = from_text<std::uint64_t>(*text);
      if (!seed)
        differences_.add("the file's " + in_quotes(kSeed) + " is " + in_quotes(*text) + "; allowed: 0 to 2^64 - 1");
    }
    if (file_.metadata().contains(kNextIdentity)) {  // earlier files of this format have none
      const auto next = number(kNextIdentity, std::numeric_limits<std::uint32_t>::max());
      next_identity = static_cast<std::uint32_t>(next.value_or(0));
    }
    if (!file_.metadata().contains(kLossScale)) return;
    const std::string* text = value(kLossScale);
    const auto good = number(kGoodSteps, std::numeric_limits<std::int32_t>::max() - 1);
    const auto skipped = number(kSkippedSteps, kMostSteps);
    if (text == nullptr || !good || !skipped) return;
    const std::optional<double> scale = number_from_text(*text);
    if (!text->starts_with(kHexadecimal) || !scale ||
        !(*scale >= 0.0 && *scale <= static_cast<double>(std::numeric_limits<float>::max()))) {
      differences_.add("the file's " + in_quotes(kLossScale) + " is " + in_quotes(*text) +
                       "; allowed: hexadecimal floats from 0 to the largest float32");
      return;
    }
    report = kernels::first_report();
    report->loss_scale = static_cast<float>(*scale);
    report->good_steps = static_cast<std::int32_t>(*good);
    report->skipped_steps = *skipped;
  }

  void read_tensor(std::size_t index) {
    const TensorView& tensor = optimizer_.tensors[index];
    if (!file_.metadata().contains(key(kStep, tensor.name))) {
      if (!allowed_.allow_missing) differences_.add("tensor " + in_quotes(tensor.name) + " is not in the file");
      return;
    }
    LoadedTensor& loaded = tensors.emplace_back();
    loaded.index = index;
    loaded.step_count = number(key(kStep, tensor.name), kMostSteps).value_or(0);
    const auto last_group = static_cast<std::int64_t>(groups.size()) - 1;
    if (last_group >= 0) {
      loaded.group = static_cast<std::int32_t>(number(key(kGroupOf, tensor.name), last_group).value_or(0));
    }
    loaded.frozen = truth(key(kFrozen, tensor.name)).value_or(false);
    if (format_ != kFirstFormat) {
      const auto identity = number(key(kIdentity, tensor.name), kLargestIdentity);
      if (identity) loaded.identity = static_cast<std::uint32_t>(*identity);
      if (identity && !identities_.insert(*identity).second) {
        differences_.add("tensor " + in_quotes(tensor.name) + ": another tensor of the file has the same identity " +
                         to_text(*identity));
      }
    }
    Found& found = found_.emplace_back();
    if (has_parameters_) found.parameter = array(std::string(tensor.name), tensor.parameter_type, tensor);
    find_kept(tensor, found);
    for (std::size_t slot = 0; slot < optimizer_.state_names.size(); ++slot) {
      found.state[slot] = array(array_name(tensor.name, optimizer_.state_names[slot]), tensor.state_type, tensor);
    }
  }

  bool may_change(const TensorView& tensor) const { return changing_.contains(tensor.name); }

  // A master or remainder of the file; not where a tensor is called that.
  const Entry* kept_in_file(const TensorView& tensor, Master master) const {
    const std::string name = array_name(tensor.name, kept_name(master));
    const bool is_a_tensor = index_.contains(name) || file_.metadata().contains(key(kStep, name));
    if (has_parameters_ && is_a_tensor) return nullptr;
    return file_.find(name);
  }

  // The master or remainder that a tensor has, or where types may change, that the file has.
  void find_kept(const TensorView& tensor, Found& found) {
    const std::string where = "tensor " + in_quotes(tensor.name) + ": ";
    for (const Master master : {Master::float32, Master::remainder}) {
      const std::string name = array_name(tensor.name, kept_name(master));
      const Entry* const there = kept_in_file(tensor, master);
      if (there == nullptr && (may_change(tensor) || tensor.master != master)) continue;
      if (!may_change(tensor) && (there == nullptr || tensor.master != master)) {
        if (there != nullptr) used_.push_back(there);
        differences_.add(where +
                         (there == nullptr ? "there is no " + in_quotes(name) + " in the file"
                                           : in_quotes(name) + " of the file is not what the optimizer keeps") +
                         kWouldBeAllowed);
        continue;
      }
      if (found.kept != nullptr) differences_.add(where + "the file has a master and a remainder of it");
      found.kept = array(name, kept_type(master), tensor, Types::same);
      found.master = master;
    }
    if (found.master != Master::remainder) return;
    if (found.parameter == nullptr && tensor.master != Master::remainder) {
      differences_.add(where + "a remainder without the parameter it belongs to cannot change its type");
    } else if (found.parameter != nullptr && found.parameter->type != file_type(DataType::bfloat16)) {
      differences_.add(where + "a remainder belongs to a parameter of type BF16, but " + in_quotes(tensor.name) +
                       " is of type " + std::string(safetensors::type_name(found.parameter->type)) + " in the file");
    }
  }

  // PyTorch has no state for a parameter that has not been stepped.
  void read_foreign_tensor(std::size_t index) {
    const TensorView& tensor = optimizer_.tensors[index];
    const Entry* const step = file_.find(array_name(tensor.name, "step"));
    const bool has_parameter = file_.find(tensor.name) != nullptr;
    bool stepped = step != nullptr;
    for (const std::string& state : optimizer_.state_names) {
      stepped = stepped || file_.find(array_name(tensor.name, state)) != nullptr;
    }
    if (!stepped && !has_parameter) {
      if (!allowed_.allow_missing) {
        differences_.add("tensor " + in_quotes(tensor.name) + " is not in the file: there is neither " +
                         in_quotes(tensor.name) + " nor " + "a state of it");
      }
      return;
    }
    LoadedTensor& loaded = tensors.emplace_back();
    loaded.index = index;
    Found& found = found_.emplace_back();
    if (has_parameter) found.parameter = array(std::string(tensor.name), tensor.parameter_type, tensor);
    // PyTorch has none, but a file of another program may.
    if (kept_in_file(tensor, Master::float32) != nullptr || kept_in_file(tensor, Master::remainder) != nullptr) {
      find_kept(tensor, found);
    }
    if (!stepped) return;
    loaded.step_count = foreign_step_count(tensor, step);
    for (std::size_t slot = 0; slot < optimizer_.state_names.size(); ++slot) {
      found.state[slot] = array(array_name(tensor.name, optimizer_.state_names[slot]), tensor.state_type, tensor);
    }
  }

  // PyTorch keeps a count as an array of one float32, and none at all for SGD, which only asks whether a step is the
  // first.
  std::int64_t foreign_step_count(const TensorView& tensor, const Entry* step) {
    const std::string name = array_name(tensor.name, "step");
    if (step == nullptr) {
      if (counts_steps(optimizer_.groups[static_cast<std::size_t>(tensor.group)])) {
        differences_.add("tensor " + in_quotes(tensor.name) + ": there is no " + in_quotes(name) +
                         " in the file, and the method needs to know how many steps there were");
      }
      return 1;  // any but the first
    }
    used_.push_back(step);
    double count = -1.0;
    if (step->count() == 1 && step->type == safetensors::Type::F32) {
      float narrow = 0.0F;
      std::memcpy(&narrow, step->data.data(), sizeof narrow);
      count = static_cast<double>(narrow);
    } else if (step->count() == 1 && step->type == safetensors::Type::F64) {
      std::memcpy(&count, step->data.data(), sizeof count);
    } else if (step->count() == 1 && step->type == safetensors::Type::I64) {
      std::int64_t whole = 0;
      std::memcpy(&whole, step->data.data(), sizeof whole);
      if (whole >= 0 && whole <= kMostStepsSet) return whole;
    } else {
      differences_.add(in_quotes(name) + " is " + to_text(step->count()) + " elements of " +
                       std::string(safetensors::type_name(step->type)) + "; allowed: one of F32, F64 or I64");
      return 0;
    }
    if (count >= 0.0 && count <= static_cast<double>(kMostStepsSet)) {
      const auto whole = static_cast<std::int64_t>(count);
      if (static_cast<double>(whole) == count) return whole;
    }
    differences_.add(in_quotes(name) + " is not a step count; allowed: whole numbers from 0 to 2^62");
    return 0;
  }

  void check_all_or_no_parameters() {
    const auto has = [](const Found& found) { return found.parameter != nullptr; };
    if (std::none_of(found_.begin(), found_.end(), has)) return;
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      if (has(found_[i])) continue;
      differences_.add("tensor " + in_quotes(optimizer_.tensors[tensors[i].index].name) +
                       ": its parameter is not in the file, though those of other tensors are");
    }
  }

  const Entry* array(const std::string& name, DataType type, const TensorView& tensor) {
    return array(name, file_type(type), tensor);
  }

  enum class Types { same, changed_if_asked };

  // The array of that name, if it fits the tensor.
  const Entry* array(const std::string& name, safetensors::Type type, const TensorView& tensor,
                     Types types = Types::changed_if_asked) {
    const Entry* entry = file_.find(name);
    if (entry == nullptr) {
      differences_.add("tensor " + in_quotes(tensor.name) + ": there is no " + in_quotes(name) + " in the file");
      return nullptr;
    }
    used_.push_back(entry);
    const bool can_change = types == Types::changed_if_asked && can_become(entry->type, type);
    if (entry->type != type && !(may_change(tensor) && can_change)) {
      differences_.add(in_quotes(name) + " is of type " + std::string(safetensors::type_name(entry->type)) +
                       " in the file, " + std::string(safetensors::type_name(type)) + " is needed" +
                       (can_change ? kWouldBeAllowed : ""));
    }
    // A side that knows only the count fits any shape of that count.
    const bool same_shape =
        tensor.shape.empty() || entry->shape.size() <= 1 || tensor.shape.size() <= 1 ||
        std::equal(tensor.shape.begin(), tensor.shape.end(), entry->shape.begin(), entry->shape.end());
    if (entry->count() != tensor.count || !same_shape) {
      const std::int64_t count[] = {tensor.count};
      differences_.add(in_quotes(name) + " is of shape " + dimensions(entry->shape) + " in the file, " +
                       dimensions(tensor.shape.empty() ? std::span<const std::int64_t>(count) : tensor.shape) +
                       " is needed");
    }
    return entry;
  }

  static bool can_become(safetensors::Type from, safetensors::Type to) {
    const auto there = data_type(from);
    const auto needed = data_type(to);
    return there && needed && is_convertible(*there, *needed);
  }

  // Brings what was found to the types of the tensors.
  void make_arrays() {
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      const TensorView& tensor = optimizer_.tensors[tensors[i].index];
      const Found& found = found_[i];
      for (std::size_t slot = 0; slot < optimizer_.state_names.size(); ++slot) {
        if (found.state[slot] != nullptr) tensors[i].state[slot] = in_type(*found.state[slot], tensor.state_type);
      }
      make_parameter(tensor, found, tensors[i]);
    }
  }

  static LoadedArray as_it_is(const Entry& entry) { return {true, entry.data, {}}; }
  static LoadedArray in_type(const Entry& entry, DataType type) {
    if (entry.type == file_type(type)) return as_it_is(entry);
    return {true, {}, converted(entry.data, data_type(entry.type).value(), type)};
  }

  static void make_parameter(const TensorView& tensor, const Found& found, LoadedTensor& loaded) {
    const bool same_parameter = found.parameter == nullptr || found.parameter->type == file_type(tensor.parameter_type);
    const bool keeps = !kept_name(tensor.master).empty();
    if (same_parameter && found.master == (keeps ? tensor.master : Master::none)) {
      if (found.parameter != nullptr) loaded.parameter = as_it_is(*found.parameter);
      if (found.kept != nullptr) loaded.kept = as_it_is(*found.kept);
      return;
    }
    if (found.parameter == nullptr && found.kept == nullptr) return;
    // The most exact numbers that the file has.
    std::vector<std::byte> exact;
    DataType type = DataType::float32;
    if (found.master == Master::remainder) {
      exact = joined_with_remainder(found.parameter->data, found.kept->data);
    } else if (found.master == Master::float32) {
      exact.assign(found.kept->data.begin(), found.kept->data.end());
    } else {
      type = data_type(found.parameter->type).value();
      exact.assign(found.parameter->data.begin(), found.parameter->data.end());
    }
    if (!keeps) {
      loaded.parameter = {true, {}, converted(exact, type, tensor.parameter_type)};
      return;
    }
    SplitParameter parts = split(converted(exact, type, DataType::float32), tensor.parameter_type, tensor.master);
    loaded.parameter = {true, {}, std::move(parts.parameter)};
    loaded.kept = {true, {}, std::move(parts.kept)};
  }

  void find_extra_tensors() {
    if (allowed_.allow_extra) return;
    for (auto at = file_.metadata().lower_bound(kStep); at != file_.metadata().end() && at->first.starts_with(kStep);
         ++at) {
      const std::string_view tensor = std::string_view(at->first).substr(kStep.size());
      if (index_.contains(tensor)) continue;
      differences_.add("tensor " + in_quotes(tensor) + " of the file is not in the optimizer");
      for (const std::string& state : optimizer_.state_names) {
        if (const Entry* entry = file_.find(array_name(tensor, state))) used_.push_back(entry);
      }
      for (const std::string_view kept : {kMasterName, kRemainderName}) {
        if (const Entry* entry = file_.find(array_name(tensor, kept))) used_.push_back(entry);
      }
      if (const Entry* entry = file_.find(tensor)) used_.push_back(entry);
    }
  }

  void find_extra_arrays() {
    if (allowed_.allow_extra) return;
    std::sort(used_.begin(), used_.end());
    for (const Entry& entry : file_.entries()) {
      if (std::binary_search(used_.begin(), used_.end(), &entry)) continue;
      differences_.add(in_quotes(entry.name) + " of the file belongs to no tensor of the optimizer" +
                       std::string(index_.contains(owner(entry.name)) ? " that has a state of that name" : ""));
    }
  }

  static std::string_view owner(std::string_view array) { return array.substr(0, array.rfind('.')); }

  void check_digests() {
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      const Found& found = found_[i];
      if (found.parameter != nullptr) check_digest(tensors[i], *found.parameter);
      if (found.kept != nullptr) check_digest(tensors[i], *found.kept);
      for (std::size_t slot = 0; slot < optimizer_.state_names.size(); ++slot) {
        check_digest(tensors[i], *found.state[slot]);
      }
    }
  }

  void check_digest(const LoadedTensor& tensor, const Entry& entry) {
    const std::string* written = value(key(kDigest, entry.name));
    if (written == nullptr || digest_of(entry.data) == *written) return;
    differences_.add("tensor " + in_quotes(optimizer_.tensors[tensor.index].name) + ": " + in_quotes(entry.name) +
                     " is damaged: its XXH3 digest is not the " + in_quotes(*written) + " that the header says");
  }

  const File& file_;
  const OptimizerView& optimizer_;
  const LoadOptions allowed_;
  std::unordered_map<std::string_view, std::size_t> index_;  // of the optimizer's tensors
  std::unordered_set<std::string_view> changing_;            // tensors whose types may change
  std::string format_ = std::string(kThisFormat);
  bool has_parameters_ = false;  // whether arrays called as tensors are their parameters
  std::vector<Found> found_;     // one for each of `tensors`
  std::unordered_set<std::int64_t> identities_;
  std::vector<const Entry*> used_;
  Differences differences_;
};

File open_checkpoint(const std::filesystem::path& path) {
  try {
    return File::open(path);
  } catch (const std::runtime_error& error) {  // std::system_error is one of them
    throw NotLoaded("adamant: nothing was loaded: " + std::string(error.what()));
  }
}

bool is_own(const File& file) {
  const auto first = file.metadata().lower_bound(kPrefix);
  return first != file.metadata().end() && first->first.starts_with(kPrefix);
}

}  // namespace

safetensors::Type file_type(DataType type) {
  switch (type) {
    case DataType::float64: return safetensors::Type::F64;
    case DataType::bfloat16: return safetensors::Type::BF16;
    case DataType::float16: return safetensors::Type::F16;
    default: return safetensors::Type::F32;
  }
}

void save_checkpoint(const std::filesystem::path& path, const OptimizerView& optimizer, SaveOptions what,
                     kernels::Backend& backend, Stream stream) {
  if (what.parameters) refuse_collisions(optimizer);
  Metadata metadata = describe(optimizer, what);
  const std::vector<Entry> arrays = list_arrays(optimizer, what);
  for (const Entry& array : arrays) metadata.insert_or_assign(key(kDigest, array.name), std::string(kNoDigest));
  std::string header = header_or_refuse(path, arrays, metadata);

  // The arrays are read once; their digests are known when they are written, and then the header is written again.
  Replacement file(path);
  file.append(std::as_bytes(std::span(header)));
  std::vector<std::byte> staging;
  for (const Entry& array : arrays) {
    XXH3_state_t digest;
    XXH3_64bits_reset(&digest);
    const auto bytes = static_cast<std::int64_t>(array.data.size());
    for (std::int64_t at = 0; at < bytes; at += kPieceBytes) {
      const auto piece = backend.read(array.data.data() + at, std::min(kPieceBytes, bytes - at), staging, stream);
      XXH3_64bits_update(&digest, piece.data(), piece.size());
      file.append(piece);
    }
    metadata.insert_or_assign(key(kDigest, array.name), hexadecimal(XXH3_64bits_digest(&digest)));
  }
  header = safetensors::make_header(path, arrays, metadata);
  const std::size_t position = header_digest_position(header);
  header.replace(position, kNoDigest.size(), header_digest(header, position));
  file.rewrite_beginning(std::as_bytes(std::span(header)));
  file.commit();
}

LoadedCheckpoint read_checkpoint(const std::filesystem::path& path, const OptimizerView& optimizer,
                                 const LoadOptions& allowed) {
  File file = open_checkpoint(path);
  Reader reader(file, optimizer, allowed);
  if (is_own(file)) {
    reader.read_own();
  } else {
    reader.read_foreign();
  }
  // Entries keep their places when a File is moved.
  return {std::move(file), std::move(reader.groups), std::move(reader.tensors),
          reader.seed,     reader.next_identity,     reader.report};
}

std::vector<std::uint32_t> identities_after(const LoadedCheckpoint& file, const OptimizerView& optimizer) {
  std::vector<std::optional<std::uint32_t>> loaded(optimizer.tensors.size());
  std::unordered_set<std::uint32_t> of_file;
  std::unordered_set<std::uint32_t> taken;
  for (const LoadedTensor& tensor : file.tensors) {
    if (!tensor.identity) continue;
    loaded[tensor.index] = tensor.identity;
    of_file.insert(*tensor.identity);
  }
  taken = of_file;
  for (const TensorView& tensor : optimizer.tensors) taken.insert(tensor.identity);
  // A new one, above the others as long as there is one above: a file may have any.
  std::uint32_t next = std::max(file.next_identity, optimizer.next_identity);
  for (const std::uint32_t identity : taken) next = std::max(next, identity + 1);
  const auto free_identity = [&] {
    while (next > kLargestIdentity || taken.contains(next)) next = next > kLargestIdentity ? 0 : next + 1;
    taken.insert(next);
    return next;
  };
  std::vector<std::uint32_t> identities;
  identities.reserve(optimizer.tensors.size());
  for (std::size_t i = 0; i < optimizer.tensors.size(); ++i) {
    const std::uint32_t own = optimizer.tensors[i].identity;
    identities.push_back(loaded[i] ? *loaded[i] : of_file.contains(own) ? free_identity() : own);
  }
  return identities;
}

}  // namespace adamant::host
