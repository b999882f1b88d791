// Nothing that is measured finds its data in a cache by having just been there, unless that is asked for: where one set
// of buffers is less than a few times as large as the caches, runs go round several sets.
#include "bench/measurement.hpp"

#include <algorithm>
#include <chrono>
#include <deque>
#include <functional>
#include <iterator>
#include <optional>
#include <span>
#include <utility>

#include "bench/baseline_check.hpp"
#include "bench/bed.hpp"
#include "bench/gpu_bed.hpp"
#include "bench/machine.hpp"
#include "bench/values.hpp"
#include "host/device_memory.hpp"

namespace adamant::bench {
namespace {

// Clocks rise when work comes.
constexpr double kWarmUp = 0.05;
// No way to move the same bytes is so many times as fast as another.
constexpr double kMuchLonger = 10;
// So many steps are taken before anything is measured: states are neither zero nor what the first step makes of zero.
constexpr int kStepsBefore = 2;
// What is not ours gets so many seconds of a row, and at least a few repetitions.
constexpr double kBaselineSeconds = 0.5;
// The buffers that runs go round are so many times as large as the caches, as far as a number of sets that can be made
// allows. On a CUDA device more than that only matter where a step is so short that its launch is what takes the time.
constexpr std::int64_t kCaches = 4;
constexpr std::int64_t kMostSetsOnGpu = 64;
constexpr std::int64_t kMostSetsOnCpu = 4096;
// Of all sets: making a tensor takes a microsecond, and where a cache of 480 MiB is shared, sets would be hundreds.
constexpr std::int64_t kMostTensors = std::int64_t{1} << 18;
// Tensors lie at multiples of so many elements, as allocators place them.
constexpr std::int64_t kTensorAlignment = 64;
// What a tensor takes beside its arrays, and each array that is the optimizer's: names, places in tables, what an
// allocation is rounded up to. Measured.
constexpr std::int64_t kTensorBytes = 2048;
constexpr std::int64_t kArrayBytes = 512;
// What the CPU spends on step(): so many in a sample, so that the launch queue is never full; fewer where all samples
// would take longer than this together, and none where too few would be left.
constexpr int kHostStepsPerBlock = 100;
constexpr int kFewestHostSteps = 10;
constexpr double kLongestHostMeasurement = 0.3;
// So many elements of a baseline's results are looked at, at each of a few places.
constexpr std::int64_t kWindow = 256;

bool is_on_cpu(const Request& request) { return request.device.kind == Device::Kind::cpu; }

struct Layout {
  explicit Layout(const Request& request)
      : arrays(moved_arrays(request.method, request.storage, request.pipeline)), count(request.shape.total()) {
    const std::int64_t tensors = request.shape.tensors();
    for (const std::int64_t one : request.shape.counts) {
      places.push_back(elements);
      elements += tensors == 1 ? one : (one + kTensorAlignment - 1) / kTensorAlignment * kTensorAlignment;
    }
    std::int64_t of_optimizer = 0;
    std::int64_t arrays_of_optimizer = 0;
    for (const MovedArray& array : arrays) {
      moved_bytes += count * array.element_bytes;
      set_bytes += elements * array.element_bytes;
      if (array.what == MovedArray::What::state || array.what == MovedArray::What::kept) {
        of_optimizer += elements * array.element_bytes;
        ++arrays_of_optimizer;
      }
    }
    const std::int64_t to_outgrow = request.hot ? 0 : kCaches * cache_bytes(request.device);
    const std::int64_t most = std::min(is_on_cpu(request) ? kMostSetsOnCpu : kMostSetsOnGpu,
                                       kMostTensors / std::max<std::int64_t>(tensors, 1));
    sets = std::clamp(to_outgrow / std::max<std::int64_t>(moved_bytes, 1) + 1, std::int64_t{1},
                      std::max<std::int64_t>(most, 1));
    // The float32 baselines keep intermediate results there, and copies go there.
    scratch_bytes =
        request.only_ceiling ? kRemainderAlignment : std::max(elements * arrays.front().element_bytes, to_outgrow);
    // What one tensor of as many elements has of its own, and what stands in for a remainder.
    if (tensors > 1) bytes += sets * of_optimizer;
    if (has_remainder()) bytes += sets * elements * 2;
    bytes += sets * set_bytes + scratch_bytes;
    if (is_on_cpu(request)) bytes += sets * tensors * (kTensorBytes + arrays_of_optimizer * kArrayBytes);
  }
  bool has_remainder() const {
    return std::any_of(arrays.begin(), arrays.end(), [](const MovedArray& array) {
      return array.what == MovedArray::What::kept && array.element_bytes == 2;
    });
  }
  static constexpr std::int64_t kRemainderAlignment = 256;
  std::vector<MovedArray> arrays;    // without addresses
  std::int64_t count;                // parameters of all tensors
  std::vector<std::int64_t> places;  // the first element of each tensor
  std::int64_t elements = 0;         // of all tensors, and between them
  std::int64_t moved_bytes = 0;      // of a set
  std::int64_t set_bytes = 0;        // which it takes, with what lies between tensors
  std::int64_t sets = 0;
  std::int64_t scratch_bytes = 0;
  std::int64_t bytes = 0;
};

// One set of buffers and what steps it.
struct Set {
  std::vector<std::shared_ptr<std::byte>> buffers;
  std::shared_ptr<std::byte> parameter;
  std::shared_ptr<std::byte> gradient;
  std::shared_ptr<std::byte> copy;      // where the pipeline has one
  Optimizer optimizer;                  // of the tensors that were asked for
  std::optional<Optimizer> one_tensor;  // of one tensor in their place, where they are several
  std::vector<BaselineTensor> tensors;  // where they are plain float32
  std::vector<MovedArray> arrays;       // as one tensor has them

  Set(const Request& request, const Layout& layout, host::DeviceMemory& memory, const Bed& bed, float* scratch)
      : parameter(memory.allocate(layout.elements * size_in_bytes(request.storage.parameter))),
        gradient(memory.allocate(layout.elements * size_in_bytes(request.storage.gradient))),
        optimizer(request.method, request.device, request.tuning),
        arrays(layout.arrays) {
    const kernels::StorageTypes& types = request.storage;
    bed.fill(parameter.get(), types.parameter, layout.elements, kParameterScale);
    bed.fill(gradient.get(), types.gradient, layout.elements, kGradientScale);
    bed.wait();
    if (request.pipeline == Pipeline::copy) {
      copy = memory.allocate(layout.elements * size_in_bytes(copy_type(types).value()));
    }
    const auto add_to = [&](Optimizer& to, std::int64_t first, std::int64_t count) {
      TensorSpec spec{.name = std::to_string(first), .state_type = types.state, .master = types.master};
      const auto at = [&](const std::shared_ptr<std::byte>& buffer, DataType type) {
        return Array(static_cast<void*>(buffer.get() + first * size_in_bytes(type)), type, count);
      };
      spec.parameter = at(parameter, types.parameter);
      const Array from = at(gradient, types.gradient);
      spec.gradient = {static_cast<const void*>(from.data()), from.type(), count};
      if (copy) spec.copy = at(copy, *copy_type(types));
      return to.add(std::move(spec));
    };
    for (std::size_t i = 0; i < layout.places.size(); ++i) {
      add_to(optimizer, layout.places[i], request.shape.counts[i]);
    }
    if (request.shape.tensors() > 1) {
      one_tensor.emplace(request.method, request.device, request.tuning);
      add_to(*one_tensor, 0, layout.count);
    }
    if (request.pipeline == Pipeline::clip) {
      optimizer.set_control({.clip_norm = kClipNorm}, bed.stream());
      if (one_tensor) one_tensor->set_control({.clip_norm = kClipNorm}, bed.stream());
    }
    find_arrays(memory, layout, bed);
    if (request.is_plain_float32()) keep_tensors(request, scratch);
    for (int step = 0; step < kStepsBefore; ++step) {
      optimizer.step(bed.stream());
      if (one_tensor) one_tensor->step(bed.stream());
    }
  }

  void find_arrays(host::DeviceMemory& memory, const Layout& layout, const Bed& bed) {
    using What = MovedArray::What;
    Optimizer& whole = one_tensor ? *one_tensor : optimizer;
    for (MovedArray& array : arrays) {
      if (array.what == What::gradient) array.data = gradient.get();
      if (array.what == What::parameter) array.data = parameter.get();
      if (array.what == What::copy) array.data = copy.get();
      if (array.what == What::kept && array.element_bytes == 2) {  // the remainder's place is not known
        buffers.push_back(memory.allocate(layout.elements * array.element_bytes));
        array.data = buffers.back().get();
        bed.fill(array.data, DataType::bfloat16, layout.elements, kParameterScale);
      }
    }
    find_states(arrays, whole, whole.tensors().front());
  }

  void keep_tensors(const Request& request, float* scratch) {
    const std::vector<std::string> names = state_names(request.method);
    for (const TensorId id : optimizer.tensors()) {
      const TensorSpec& spec = optimizer.tensor(id);
      BaselineTensor tensor{spec.parameter.as<float>(), spec.gradient.as<float>(), {}, scratch, spec.parameter.count()};
      const std::size_t most = std::min(names.size(), tensor.state.size());
      for (std::size_t i = 0; i < most; ++i) tensor.state[i] = optimizer.state(id, names[i]).as<float>();
      tensors.push_back(tensor);
    }
  }
};

// The sets, and whose turn it is.
class Rotation {
 public:
  Rotation(const Request& request, const Layout& layout, host::DeviceMemory& memory, const Bed& bed, float* scratch) {
    for (std::int64_t i = 0; i < layout.sets; ++i) sets_.emplace_back(request, layout, memory, bed, scratch);
    bed.wait();
  }
  Set& next() {
    turn_ = turn_ + 1 < sets_.size() ? turn_ + 1 : 0;
    return sets_[turn_];
  }
  Set& first() { return sets_.front(); }
  std::deque<Set>& all() { return sets_; }
  int size() const { return static_cast<int>(sets_.size()); }

 private:
  std::deque<Set> sets_;
  std::size_t turn_ = 0;
};

// --- Baselines: their results

// Reads a few elements of a few tensors of a set.
class Windows {
 public:
  Windows(const Set& set, std::size_t state_count, const host::DeviceMemory& memory)
      : set_(&set), state_count_(state_count), memory_(&memory) {
    const std::size_t last = set.tensors.size() - 1;
    std::vector<std::size_t> tensors{0, last / 2, last};
    tensors.erase(std::unique(tensors.begin(), tensors.end()), tensors.end());
    for (const std::size_t tensor : tensors) {
      const std::int64_t end = set.tensors[tensor].count - std::min(kWindow, set.tensors[tensor].count);
      std::vector<std::int64_t> begins{0, end / 2, end};
      begins.erase(std::unique(begins.begin(), begins.end()), begins.end());
      // Places that overlap are looked at twice.
      for (const std::int64_t begin : begins) places_.push_back({tensor, begin});
    }
  }

  std::vector<Window> read() const {
    std::vector<Window> windows;
    for (const auto& [index, begin] : places_) {
      const BaselineTensor& tensor = set_->tensors[index];
      const auto count = static_cast<std::size_t>(std::min(kWindow, tensor.count));
      const auto values = [&, first = begin](const float* from) {
        std::vector<float> there(count);
        memory_->read(std::as_writable_bytes(std::span(there)), from + first);
        return there;
      };
      Window window{values(tensor.parameter), values(tensor.gradient), {}};
      for (std::size_t i = 0; i < state_count_; ++i) window.states.push_back(values(tensor.state[i]));
      windows.push_back(std::move(window));
    }
    return windows;
  }

 private:
  struct Place {
    std::size_t tensor;
    std::int64_t begin;
  };
  const Set* set_;
  std::size_t state_count_;
  const host::DeviceMemory* memory_;
  std::vector<Place> places_;
};

// Where one step of a baseline, run on a set of buffers, is not the library's; and how long that took.
struct Checked {
  std::string disagreement;
  double seconds;
};
Checked check_on(const Request& request, const Baseline& baseline, Set& set, const host::DeviceMemory& memory,
                 const Bed& bed) {
  const Windows windows(set, state_names(request.method).size(), memory);
  const std::vector<Window> before = windows.read();
  const double seconds = bed.seconds_of([&] {
    for (const BaselineTensor& tensor : set.tensors) baseline.step(tensor, kCheckedStep, bed.stream());
  });
  return {disagreement(request.method, before, windows.read()), seconds};
}

std::string why_no_baselines(const Request& request, const Bed& bed) {
  if (!request.is_plain_float32()) return "they are float32 only, and the update alone";
  const std::vector<Option> options = adamant::options(request.method);
  const std::vector<Option> usual = adamant::options(make_method(name(request.method)));
  for (std::size_t i = 0; i < options.size(); ++i) {
    if (options[i].value != usual[i].value)
      return "they have the default options, and not " + options[i].name + " = " + options[i].value;
  }
  if (bed.baselines(name(request.method)).empty()) return "nobody has written any for this method on this device";
  return {};
}

std::unique_ptr<Bed> make_bed(const Request& request) {
  if (!is_on_cpu(request)) return make_gpu_bed(request.device.index);
  return make_cpu_bed(Optimizer(request.method, request.device, request.tuning).threads());
}

}  // namespace

class Measurement::Implementation {
 public:
  explicit Implementation(const Request& request)
      : request_(request),
        layout_(request),
        bed_(make_bed(request)),
        memory_(request.device),
        scratch_(memory_.allocate(layout_.scratch_bytes)),
        rotation_(request_, layout_, memory_, *bed_, reinterpret_cast<float*>(scratch_.get())),
        no_baselines_(why_no_baselines(request_, *bed_)) {
    warm_up();
    batch_ = batch_of([this] { step(); });
    if (no_baselines_.empty() && !request_.only_ceiling) check_baselines();
  }

  Throughput facts() {
    Throughput result;
    result.count = layout_.count;
    result.tensors = request_.shape.tensors();
    for (const MovedArray& array : layout_.arrays) {
      result.streams_read += array.is_read ? 1 : 0;
      result.streams_written += array.is_written ? 1 : 0;
    }
    result.moved = moved_bytes(layout_.arrays, request_.pipeline);
    result.bytes_per_parameter = result.moved.read + result.moved.written;
    result.buffer_sets = rotation_.size();
    result.rotated_bytes = rotation_.size() * layout_.moved_bytes;
    result.copy_element_bytes = layout_.arrays.front().element_bytes;
    if (!is_on_cpu(request_)) return result;
    result.threads = rotation_.first().optimizer.threads();
    result.simd = rotation_.first().optimizer.simd();
    return result;
  }

  const std::vector<MovedArray>& arrays() { return rotation_.first().arrays; }

  Contender update() {
    return {"update", [this] { return sample([this] { step(); }, batch_); }, batch_};
  }

  Ceilings choose_ceilings(const ProgressTo& progress, const StopAsked& stop) {
    std::optional<Reader> reader;
    if (request_.pipeline == Pipeline::clip) {
      const std::vector<Contender> chosen = finalists(
          readers(), [](double) {}, stop);
      if (chosen.empty()) return {};
      for (Reader& each : bed_->readers()) {
        if (each.name == chosen.front().name) reader = std::move(each);
      }
    }
    Ceilings ceilings;
    ceilings.finalists = finalists(movers(reader), progress, stop, &ceilings.looks);
    return ceilings;
  }

  std::vector<Contender> others() {
    std::vector<Contender> list;
    const auto add = [&](const std::string& name, std::function<void()> run) {
      const int runs = batch_of(run);
      list.push_back({name, [this, run = std::move(run), runs] { return sample(run, runs); }, runs});
    };
    if (auto of_graph = graph()) list.push_back({"graph", std::move(of_graph), launches_of_graph() * rotation_.size()});
    if (request_.only_ceiling) return list;
    add("copy", copying(&Bed::copy));
    add("plain-copy", copying(&Bed::plain_copy));
    if (request_.shape.tensors() > 1) {
      add("one-tensor", [this] { rotation_.next().one_tensor->step(bed_->stream()); });
    }
    for (const auto& [baseline, seconds] : agreeing_) {
      std::function<void()> run = [this, step = baseline.step] {
        for (const BaselineTensor& tensor : rotation_.next().tensors) step(tensor, kCheckedStep, bed_->stream());
      };
      // The first run loads the kernels, which is little where it was long.
      const double once = seconds > kBaselineSeconds / 10 ? seconds : sample(run, 1);
      const int runs = batch_for(once, bed_->shortest_sample());
      const int repetitions = repetitions_for(once * runs, kBaselineSeconds);
      list.push_back(
          {baseline.name, [this, run = std::move(run), runs] { return sample(run, runs); }, runs, {}, repetitions});
    }
    return list;
  }

  std::vector<Contender> host(double seconds_of_step) {
    if (is_on_cpu(request_)) return {};
    const double most = kLongestHostMeasurement / (kHostBlocks * seconds_of_step);
    const int steps = static_cast<int>(std::min(most, double{kHostStepsPerBlock}));
    if (steps < kFewestHostSteps) return {};
    return {{"host",
             [this, steps] {
               bed_->wait();
               const auto start = std::chrono::steady_clock::now();
               for (int i = 0; i < steps; ++i) step();
               const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
               bed_->wait();
               return taken.count() / steps;
             },
             steps}};
  }

  const std::vector<BaselineTimes>& baselines() const { return baselines_; }
  const std::string& no_baselines() const { return no_baselines_; }

 private:
  void step() { rotation_.next().optimizer.step(bed_->stream()); }

  void read_gradient(const Reader& reader, const Set& set) const {
    reader.run(set.gradient.get(), layout_.count * layout_.arrays.front().element_bytes);
  }

  std::vector<Contender> readers() {
    std::vector<std::pair<std::string, std::function<void()>>> ways;
    for (const Reader& reader : bed_->readers()) {
      ways.emplace_back(reader.name, [this, reader] { read_gradient(reader, rotation_.next()); });
    }
    return batched(ways);
  }

  // `reader` comes first, where there is one.
  std::vector<Contender> movers(const std::optional<Reader>& reader) {
    std::vector<std::pair<std::string, std::function<void()>>> ways;
    for (const Mover& mover : bed_->movers(layout_.arrays)) {
      ways.emplace_back(reader ? mover.name + " + reading: " + reader->name : mover.name, [this, mover, reader] {
        Set& set = rotation_.next();
        if (reader) read_gradient(*reader, set);
        mover.run(set.arrays, layout_.count);
      });
    }
    return batched(ways);
  }

  double sample(const std::function<void()>& run, int runs) const {
    return bed_->seconds_of([&] {
      for (int i = 0; i < runs; ++i) run();
    }) / runs;
  }

  double seconds_of(const std::function<void()>& run) const {
    return least_of_looks([&] { return sample(run, 1); }, bed_->shortest_sample());
  }

  int batch_of(const std::function<void()>& run) const { return batch_for(seconds_of(run), bed_->shortest_sample()); }

  // Ways to do the same, with a batch for each. Where one is long enough for any of them the others are not looked at.
  std::vector<Contender> batched(const std::vector<std::pair<std::string, std::function<void()>>>& ways) const {
    std::vector<Contender> list;
    bool takes_long = false;
    for (const auto& [name, run] : ways) {
      int runs = 1;
      if (!takes_long) {
        const double once = seconds_of(run);
        runs = batch_for(once, bed_->shortest_sample());
        takes_long = once > kMuchLonger * bed_->shortest_sample();
      }
      list.push_back({name, [this, run = run, runs] { return sample(run, runs); }, runs});
    }
    return list;
  }

  void warm_up() {
    for (double done = 0; done < kWarmUp;) done += sample([this] { step(); }, 1);
  }

  void check_baselines() {
    for (const Baseline& baseline : bed_->baselines(name(request_.method))) {
      const Checked checked = check_on(request_, baseline, rotation_.first(), memory_, *bed_);
      baselines_.push_back({baseline.name, checked.disagreement, {}});
      if (checked.disagreement.empty()) agreeing_.emplace_back(baseline, checked.seconds);
    }
  }

  int launches_of_graph() const { return std::max(batch_ / rotation_.size(), 1); }

  // One graph with a step of every set.
  std::function<double()> graph() {
    std::function<void()> launch = bed_->capture([this] {
      for (Set& set : rotation_.all()) set.optimizer.step(bed_->stream());
    });
    if (!launch) return {};
    const int launches = launches_of_graph();
    sample(launch, 1);
    return [this, launch = std::move(launch), launches] { return sample(launch, launches) / rotation_.size(); };
  }

  // From the sets' gradients to a buffer that is walked through as the sets are.
  std::function<void()> copying(void (Bed::*copy)(void*, const void*, std::int64_t) const) {
    const std::int64_t element = layout_.arrays.front().element_bytes;
    const std::int64_t size = layout_.elements * element;
    const std::int64_t places = std::max<std::int64_t>(layout_.scratch_bytes / size, 1);
    return [this, copy, element, size, places, place = std::int64_t{0}]() mutable {
      place = (place + 1) % places;
      (*bed_.*copy)(scratch_.get() + place * size, rotation_.next().gradient.get(), layout_.count * element);
    };
  }

  const Request request_;
  Layout layout_;
  std::unique_ptr<Bed> bed_;
  host::DeviceMemory memory_;
  std::shared_ptr<std::byte> scratch_;
  Rotation rotation_;
  int batch_ = 1;  // of the step
  std::string no_baselines_;
  std::vector<BaselineTimes> baselines_;
  std::vector<std::pair<Baseline, double>> agreeing_;  // and the seconds of its first step
};

Measurement::Measurement(const Request& request) : implementation_(std::make_unique<Implementation>(request)) {}
Measurement::~Measurement() = default;

Throughput Measurement::facts() const { return implementation_->facts(); }
const std::vector<MovedArray>& Measurement::arrays() const { return implementation_->arrays(); }
Contender Measurement::update() const { return implementation_->update(); }

Ceilings Measurement::choose_ceilings(const ProgressTo& progress, const StopAsked& stop) const {
  return implementation_->choose_ceilings(progress, stop);
}

std::vector<Contender> Measurement::others() const { return implementation_->others(); }
const std::vector<BaselineTimes>& Measurement::baselines() const { return implementation_->baselines(); }
const std::string& Measurement::no_baselines() const { return implementation_->no_baselines(); }
std::vector<Contender> Measurement::host(double seconds_of_step) const {
  return implementation_->host(seconds_of_step);
}

std::int64_t free_bytes(Device device) {
  return device.kind == Device::Kind::cpu ? host::memory_available() : gpu_facts(device.index).free_bytes;
}

std::int64_t cache_bytes(Device device) {
  return device.kind == Device::Kind::cpu ? assumed_cpu_cache_bytes() : gpu_facts(device.index).l2_bytes;
}

std::int64_t bytes_needed(const Request& request) { return Layout(request).bytes; }

}  // namespace adamant::bench
