// Nothing that is measured finds its data in the L2 cache by having just been there: where one set of buffers is less
// than a few times as large as the cache, runs go round several sets.
#include "bench/gpu_throughput.hpp"

#include <algorithm>
#include <chrono>
#include <deque>
#include <memory>
#include <optional>
#include <span>
#include <utility>

#include "bench/baseline_check.hpp"
#include "bench/gpu_baselines.hpp"
#include "bench/gpu_ceiling.hpp"
#include "bench/gpu_device.hpp"
#include "bench/values.hpp"
#include "host/device_memory.hpp"

namespace adamant::bench {
namespace {

// Long against the resolution of events (half a microsecond) and against the gap before the first kernel of a batch.
constexpr double kShortestSample = 4e-3;
// Clocks rise when work comes.
constexpr double kWarmUp = 0.05;
// What is not ours gets so many seconds of a row, and at least a few repetitions.
constexpr double kBaselineSeconds = 0.5;
// The buffers that runs go round are so many times as large as the L2 cache, as far as a number of sets that can be
// made allows: more only matter where a step is so short that its launch is what takes the time.
constexpr std::int64_t kCaches = 4;
constexpr std::int64_t kMostSets = 64;
// Tensors lie at multiples of so many elements, as allocators place them.
constexpr std::int64_t kTensorAlignment = 64;
// What the CPU spends on step(): so many, waiting after each block of them, so that the launch queue is never full;
// fewer where they would take longer than this together, and none where too few would be left.
constexpr int kHostBlocks = 10;
constexpr int kHostStepsPerBlock = 100;
constexpr int kFewestHostSteps = 10;
constexpr double kLongestHostMeasurement = 0.3;
// So many elements of a baseline's results are looked at, at each of a few places.
constexpr std::int64_t kWindow = 256;

struct Layout {
  explicit Layout(const Request& request, std::int64_t l2_bytes)
      : arrays(moved_arrays(request.method, request.storage, request.pipeline)),
        stride(request.tensors == 1 ? request.count
                                    : (request.count + kTensorAlignment - 1) / kTensorAlignment * kTensorAlignment),
        elements(stride * request.tensors) {
    std::int64_t of_optimizer = 0;
    for (const MovedArray& array : arrays) {
      set_bytes += elements * array.element_bytes;
      if (array.what == MovedArray::What::state || array.what == MovedArray::What::kept) {
        of_optimizer += elements * array.element_bytes;
      }
    }
    sets = std::clamp(kCaches * l2_bytes / std::max<std::int64_t>(set_bytes, 1) + 1, std::int64_t{1}, kMostSets);
    // The float32 baselines keep intermediate results there, and copies go there.
    scratch_bytes = request.only_ceiling ? kRemainderAlignment
                                         : std::max(elements * arrays.front().element_bytes, kCaches * l2_bytes);
    // What one tensor of as many elements has of its own, and what stands in for a remainder.
    if (request.tensors > 1) bytes += sets * of_optimizer;
    if (has_remainder()) bytes += sets * elements * 2;
    bytes += sets * set_bytes + scratch_bytes;
  }
  bool has_remainder() const {
    return std::any_of(arrays.begin(), arrays.end(), [](const MovedArray& array) {
      return array.what == MovedArray::What::kept && array.element_bytes == 2;
    });
  }
  static constexpr std::int64_t kRemainderAlignment = 256;
  std::vector<MovedArray> arrays;  // without addresses
  std::int64_t stride;             // elements from one tensor to the next
  std::int64_t elements;           // of all tensors, and between them
  std::int64_t set_bytes = 0;
  std::int64_t sets = 0;
  std::int64_t scratch_bytes = 0;
  std::int64_t bytes = 0;
};

bool is_plain_float32(const Request& request) {
  return request.storage == kPlainFloat32 && request.pipeline == Pipeline::update;
}

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

  Set(const Request& request, const Layout& layout, host::DeviceMemory& memory, const GpuStream& stream, float* scratch)
      : parameter(memory.allocate(layout.elements * size_in_bytes(request.storage.parameter))),
        gradient(memory.allocate(layout.elements * size_in_bytes(request.storage.gradient))),
        optimizer(request.method, request.device, request.tuning),
        arrays(layout.arrays) {
    const host::StorageTypes& types = request.storage;
    stream.fill(parameter.get(), types.parameter, layout.elements, kParameterScale);
    stream.fill(gradient.get(), types.gradient, layout.elements, kGradientScale);
    stream.wait();
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
    for (std::int64_t i = 0; i < request.tensors; ++i) add_to(optimizer, i * layout.stride, request.count);
    const std::int64_t count = request.tensors * request.count;
    if (request.tensors > 1) {
      one_tensor.emplace(request.method, request.device, request.tuning);
      add_to(*one_tensor, 0, count);
    }
    if (request.pipeline == Pipeline::clip) {
      optimizer.set_control({.clip_norm = kClipNorm}, stream.get());
      if (one_tensor) one_tensor->set_control({.clip_norm = kClipNorm}, stream.get());
    }
    find_arrays(memory, layout);
    if (is_plain_float32(request)) keep_tensors(request, scratch);
  }

  void find_arrays(host::DeviceMemory& memory, const Layout& layout) {
    using What = MovedArray::What;
    Optimizer& whole = one_tensor ? *one_tensor : optimizer;
    for (MovedArray& array : arrays) {
      if (array.what == What::gradient) array.data = gradient.get();
      if (array.what == What::parameter) array.data = parameter.get();
      if (array.what == What::copy) array.data = copy.get();
      if (array.what == What::kept && array.element_bytes == 2) {  // the remainder's place is not known
        buffers.push_back(memory.allocate(layout.elements * array.element_bytes));
        array.data = buffers.back().get();
      }
    }
    find_states(arrays, whole, whole.tensors().front());
  }

  void keep_tensors(const Request& request, float* scratch) {
    const std::vector<std::string> names = state_names(request.method);
    for (const TensorId id : optimizer.tensors()) {
      const TensorSpec& spec = optimizer.tensor(id);
      BaselineTensor tensor{spec.parameter.as<float>(), spec.gradient.as<float>(), {}, scratch, request.count};
      const std::size_t most = std::min(names.size(), tensor.state.size());
      for (std::size_t i = 0; i < most; ++i) tensor.state[i] = optimizer.state(id, names[i]).as<float>();
      tensors.push_back(tensor);
    }
  }
};

// The sets, and whose turn it is.
class Rotation {
 public:
  Rotation(const Request& request, const Layout& layout, host::DeviceMemory& memory, const GpuStream& stream,
           float* scratch) {
    for (std::int64_t i = 0; i < layout.sets; ++i) sets_.emplace_back(request, layout, memory, stream, scratch);
  }
  Set& next() {
    turn_ = (turn_ + 1) % sets_.size();
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
                 const GpuStream& stream) {
  const Windows windows(set, state_names(request.method).size(), memory);
  const std::vector<Window> before = windows.read();
  const double seconds = stream.seconds_of([&] {
    for (const BaselineTensor& tensor : set.tensors) baseline.step(tensor, kCheckedStep, stream.get());
  });
  return {disagreement(request.method, before, windows.read()), seconds};
}

std::string why_no_baselines(const Request& request) {
  if (!is_plain_float32(request)) return "they are float32 only, and the update alone";
  const std::vector<Option> options = adamant::options(request.method);
  const std::vector<Option> usual = adamant::options(make_method(name(request.method)));
  for (std::size_t i = 0; i < options.size(); ++i) {
    if (options[i].value != usual[i].value)
      return "they have the default options, and not " + options[i].name + " = " + options[i].value;
  }
  if (gpu_baselines(name(request.method)).empty()) return "nobody has written any for this method";
  return {};
}

// --- The measurement

class Measurement {
 public:
  explicit Measurement(const Request& request)
      : request_(request),
        layout_(request, gpu_facts(request.device.index).l2_bytes),
        stream_(request.device.index),
        memory_(request.device),
        scratch_(memory_.allocate(layout_.scratch_bytes)),
        rotation_(request, layout_, memory_, stream_, reinterpret_cast<float*>(scratch_.get())) {}

  Throughput run(const ProgressTo& progress) {
    for (Set& set : rotation_.all()) {
      set.optimizer.step(stream_.get());
      if (set.one_tensor) set.one_tensor->step(stream_.get());
    }
    stream_.wait();
    const auto update = [this] { rotation_.next().optimizer.step(stream_.get()); };
    warm_up(update);
    const int batch = batch_of(update);

    Throughput result;
    result.count = request_.count * request_.tensors;
    result.tensors = request_.tensors;
    count_bytes(result, request_, layout_.arrays);
    result.copy_element_bytes = layout_.arrays.front().element_bytes;
    result.buffer_sets = rotation_.size();
    result.rotated_bytes = rotation_.size() * layout_.set_bytes;

    std::vector<Contender> contenders = finalists(
        update_ceilings(batch), [&](double done) { progress(0.3 * done); }, &result.ceiling_looks);
    const std::size_t of_update = contenders.size();
    if (request_.pipeline == Pipeline::clip) {
      for (Contender& contender : finalists(read_ceilings(batch), [](double) {})) {
        contenders.push_back(std::move(contender));
      }
    }
    const std::size_t of_ceilings = contenders.size();
    contenders.push_back({"update", [this, update, batch] { return sample(update, batch); }});
    if (!request_.only_ceiling) add_others(contenders, result, batch);
    interleave(contenders, request_.repetitions, [&](double done) { progress(0.3 + 0.7 * done); });

    const auto times = [&](const std::string& name) {
      for (std::size_t i = of_ceilings; i < contenders.size(); ++i) {
        if (contenders[i].name == name) return contenders[i].times;
      }
      return Times{};
    };
    result.update = times("update");
    result.graph = times("graph");
    result.copy = times("copy");
    result.one_tensor = times("one tensor");
    for (BaselineTimes& baseline : result.baselines) baseline.times = times(baseline.name);
    set_ceiling(result, std::span(contenders).first(of_update),
                std::span(contenders).subspan(of_update, of_ceilings - of_update));
    if (!request_.only_ceiling) result.host = host_times(result.update.median());
    return result;
  }

 private:
  double sample(const std::function<void()>& run, int runs) const {
    return stream_.seconds_of([&] {
      for (int i = 0; i < runs; ++i) run();
    }) / runs;
  }

  int batch_of(const std::function<void()>& run) const {
    sample(run, 1);  // the first launch of a kernel loads it
    return batch_for(sample(run, 1), kShortestSample);
  }

  void warm_up(const std::function<void()>& run) const {
    for (double done = 0; done < kWarmUp;) done += sample(run, 1);
  }

  // What is measured beside the ceiling.
  void add_others(std::vector<Contender>& contenders, Throughput& result, int batch) {
    const auto add = [&](const std::string& name, std::function<void()> run) {
      const int runs = batch_of(run);
      contenders.push_back({name, [this, run = std::move(run), runs] { return sample(run, runs); }});
    };
    contenders.push_back({"graph", graph(batch)});
    add("copy", copy());
    if (request_.tensors > 1) add("one tensor", [this] { rotation_.next().one_tensor->step(stream_.get()); });
    result.no_baselines = why_no_baselines(request_);
    if (!result.no_baselines.empty()) return;
    for (const Baseline& baseline : gpu_baselines(name(request_.method))) {
      const Checked checked = check_on(request_, baseline, rotation_.first(), memory_, stream_);
      result.baselines.push_back({baseline.name, checked.disagreement, {}});
      if (!checked.disagreement.empty()) continue;
      std::function<void()> run = [this, step = baseline.step] {
        for (const BaselineTensor& tensor : rotation_.next().tensors) step(tensor, kCheckedStep, stream_.get());
      };
      // The first run loads the kernels, which is little where it was long.
      const double once = checked.seconds > kBaselineSeconds / 10 ? checked.seconds : sample(run, 1);
      const int runs = batch_for(once, kShortestSample);
      const int repetitions = repetitions_for(once * runs, kBaselineSeconds);
      contenders.push_back(
          {baseline.name, [this, run = std::move(run), runs] { return sample(run, runs); }, {}, repetitions});
    }
  }

  // What moves the arrays of the update, in as many ways as there are.
  std::vector<Contender> update_ceilings(int batch) {
    std::vector<Contender> list;
    const std::int64_t count = request_.count * request_.tensors;
    if (is_uniform(layout_.arrays)) {
      const std::int64_t words = count * layout_.arrays.front().element_bytes / 4;
      for (const GpuCeilingVariant& variant : gpu_ceiling_variants(static_cast<int>(layout_.arrays.size()) - 1)) {
        list.push_back({variant.name, [this, words, move = variant.run, batch] {
                          return sample([&] { move(streams_of(rotation_.next(), words), 0, stream_.get()); }, batch);
                        }});
      }
      return list;
    }
    for (const GpuMixedCeilingVariant& variant : gpu_mixed_ceiling_variants(layout_.arrays)) {
      list.push_back({variant.name, [this, count, move = variant.run, batch] {
                        return sample([&] { move(rotation_.next().arrays, count, 0, stream_.get()); }, batch);
                      }});
    }
    return list;
  }

  static GpuStreams streams_of(const Set& set, std::int64_t words) {
    GpuStreams streams{set.arrays.front().data, {}, words};
    for (std::size_t i = 1; i < set.arrays.size(); ++i) streams.read_write.push_back(set.arrays[i].data);
    return streams;
  }

  std::vector<Contender> read_ceilings(int batch) {
    std::vector<Contender> list;
    const std::int64_t bytes = request_.count * request_.tensors * layout_.arrays.front().element_bytes;
    for (const GpuReadCeilingVariant& variant : gpu_read_ceiling_variants()) {
      list.push_back({variant.name, [this, bytes, read = variant.run, batch] {
                        return sample(
                            [&] {
                              read(rotation_.next().gradient.get(), bytes, 0,
                                   reinterpret_cast<std::uint32_t*>(scratch_.get()), stream_.get());
                            },
                            batch);
                      }});
    }
    return list;
  }

  // One graph with a step of every set.
  std::function<double()> graph(int batch) {
    std::function<void()> launch = stream_.capture([this] {
      for (Set& set : rotation_.all()) set.optimizer.step(stream_.get());
    });
    const int launches = std::max(batch / rotation_.size(), 1);
    sample(launch, 1);
    return [this, launch = std::move(launch), launches] { return sample(launch, launches) / rotation_.size(); };
  }

  // From the sets' gradients to a buffer that is walked through as the sets are.
  std::function<void()> copy() {
    const std::int64_t element = layout_.arrays.front().element_bytes;
    const std::int64_t size = layout_.elements * element;
    const std::int64_t places = std::max<std::int64_t>(layout_.scratch_bytes / size, 1);
    return [this, element, size, places, place = std::int64_t{0}]() mutable {
      place = (place + 1) % places;
      stream_.copy(scratch_.get() + place * size, rotation_.next().gradient.get(),
                   request_.count * request_.tensors * element);
    };
  }

  Times host_times(double seconds_of_step) {
    Times times;
    const double most = kLongestHostMeasurement / (kHostBlocks * seconds_of_step);
    const int steps = static_cast<int>(std::min(most, double{kHostStepsPerBlock}));
    if (steps < kFewestHostSteps) return times;
    for (int block = 0; block < kHostBlocks; ++block) {
      stream_.wait();
      const auto start = std::chrono::steady_clock::now();
      for (int i = 0; i < steps; ++i) rotation_.next().optimizer.step(stream_.get());
      const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
      times.seconds.push_back(taken.count() / steps);
    }
    stream_.wait();
    return times;
  }

  const Request& request_;
  Layout layout_;
  GpuStream stream_;
  host::DeviceMemory memory_;
  std::shared_ptr<std::byte> scratch_;
  Rotation rotation_;
};

}  // namespace

std::int64_t bytes_needed_on_gpu(const Request& request) {
  return Layout(request, gpu_facts(request.device.index).l2_bytes).bytes;
}

Throughput measure_on_gpu(const Request& request, const ProgressTo& progress) {
  return Measurement(request).run(progress);
}

}  // namespace adamant::bench
