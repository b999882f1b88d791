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
constexpr double kShortestSample = 10e-3;
// Clocks rise when work comes.
constexpr double kWarmUp = 0.1;
// The buffers that runs go round are so many times as large as the L2 cache, as far as a number of sets that can be
// made allows: more only matter where a step is so short that its launch is what takes the time.
constexpr std::int64_t kCaches = 4;
constexpr std::int64_t kMostSets = 64;
// Tensors lie at multiples of so many elements, as allocators place them.
constexpr std::int64_t kTensorAlignment = 64;
// What the CPU spends on step(): so many, waiting after each block of them, so that the launch queue is never full. Not
// where they would take longer than this together.
constexpr int kHostBlocks = 10;
constexpr int kHostStepsPerBlock = 100;
constexpr double kLongestHostMeasurement = 2;
// So many elements of a baseline's results are looked at, at each of a few places.
constexpr std::int64_t kWindow = 256;

struct Layout {
  explicit Layout(const Request& request, std::int64_t l2_bytes)
      : element(size_in_bytes(request.type)),
        stride(request.tensors == 1 ? request.count
                                    : (request.count + kTensorAlignment - 1) / kTensorAlignment * kTensorAlignment),
        streams(2 + static_cast<std::int64_t>(state_names(request.method).size())),
        stream_bytes(stride * request.tensors * element),
        sets(std::clamp(kCaches * l2_bytes / std::max<std::int64_t>(streams * stream_bytes, 1) + 1, std::int64_t{1},
                        kMostSets)),
        scratch_bytes(std::max(stream_bytes, kCaches * l2_bytes)) {
    const std::int64_t several =
        request.tensors == 1 ? 0 : streams - 2;  // the states of one tensor of as many elements
    bytes = sets * (streams + several) * stream_bytes + scratch_bytes;
  }
  std::int64_t element;
  std::int64_t stride;  // elements from one tensor to the next
  std::int64_t streams;
  std::int64_t stream_bytes;
  std::int64_t sets;
  std::int64_t scratch_bytes;
  std::int64_t bytes = 0;
};

// One set of buffers and what steps it.
struct Set {
  std::shared_ptr<std::byte> parameter;
  std::shared_ptr<std::byte> gradient;
  Optimizer optimizer;                  // of the tensors that were asked for
  std::optional<Optimizer> one_tensor;  // of one tensor in their place, where they are several
  std::vector<BaselineTensor> tensors;  // where they are float32
  GpuStreams streams;                   // as one tensor has them

  Set(const Request& request, const Layout& layout, host::DeviceMemory& memory, const GpuStream& stream, float* scratch)
      : parameter(memory.allocate(layout.stream_bytes)),
        gradient(memory.allocate(layout.stream_bytes)),
        optimizer(request.method, request.device, request.tuning) {
    stream.fill(parameter.get(), request.type, layout.stream_bytes / layout.element, kParameterScale);
    stream.fill(gradient.get(), request.type, layout.stream_bytes / layout.element, kGradientScale);
    const auto add_to = [&](Optimizer& to, std::int64_t first, std::int64_t count) {
      return to.add(
          {.name = std::to_string(first),
           .parameter = {static_cast<void*>(parameter.get() + first * layout.element), request.type, count},
           .gradient = {static_cast<const void*>(gradient.get() + first * layout.element), request.type, count}});
    };
    for (std::int64_t i = 0; i < request.tensors; ++i) add_to(optimizer, i * layout.stride, request.count);
    const std::int64_t count = request.tensors * request.count;
    if (request.tensors > 1) {
      one_tensor.emplace(request.method, request.device, request.tuning);
      add_to(*one_tensor, 0, count);
    }
    Optimizer& whole = one_tensor ? *one_tensor : optimizer;
    streams = {gradient.get(), {parameter.get()}, count * layout.element / 4};
    for (const std::string& name : state_names(request.method)) {
      streams.read_write.push_back(whole.state(whole.tensors().front(), name).data());
    }
    if (request.type == DataType::float32) keep_tensors(request, scratch);
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

// Where one step of a baseline, run on a set of buffers, is not the library's.
std::string disagreement_on(const Request& request, const Baseline& baseline, Set& set,
                            const host::DeviceMemory& memory, const GpuStream& stream) {
  const Windows windows(set, state_names(request.method).size(), memory);
  const std::vector<Window> before = windows.read();
  for (const BaselineTensor& tensor : set.tensors) baseline.step(tensor, kCheckedStep, stream.get());
  stream.wait();
  return disagreement(request.method, before, windows.read());
}

std::string why_no_baselines(const Request& request) {
  if (request.type != DataType::float32) return "they are float32 only";
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
    result.streams_written = static_cast<int>(layout_.streams) - 1;
    result.streams_read = static_cast<int>(layout_.streams);
    result.bytes_per_parameter = layout_.element * (result.streams_read + result.streams_written);
    result.buffer_sets = rotation_.size();
    result.rotated_bytes = rotation_.size() * layout_.streams * layout_.stream_bytes;
    result.no_baselines = why_no_baselines(request_);
    if (result.no_baselines.empty()) {
      for (const Baseline& baseline : gpu_baselines(name(request_.method))) {
        result.baselines.push_back(
            {baseline.name, disagreement_on(request_, baseline, rotation_.first(), memory_, stream_), {}});
      }
    }

    std::vector<Contender> contenders =
        finalists(ceilings(result.streams_written, batch), [&](double done) { progress(0.3 * done); });
    const std::size_t ceiling_count = contenders.size();
    const auto add = [&](const std::string& name, std::function<void()> run) {
      const int runs = batch_of(run);
      contenders.push_back({name, [this, run = std::move(run), runs] { return sample(run, runs); }});
    };
    contenders.push_back({"update", [this, update, batch] { return sample(update, batch); }});
    contenders.push_back({"graph", graph(batch)});
    add("copy", copy());
    if (request_.tensors > 1) add("one tensor", [this] { rotation_.next().one_tensor->step(stream_.get()); });
    if (result.no_baselines.empty()) {
      for (const Baseline& baseline : gpu_baselines(name(request_.method))) {
        if (!agrees(result, baseline.name)) continue;
        add(baseline.name, [this, step = baseline.step] {
          for (const BaselineTensor& tensor : rotation_.next().tensors) step(tensor, kCheckedStep, stream_.get());
        });
      }
    }
    interleave(contenders, request_.repetitions, [&](double done) { progress(0.3 + 0.7 * done); });

    const auto times = [&](const std::string& name) {
      for (const Contender& contender : contenders) {
        if (contender.name == name) return contender.times;
      }
      return Times{};
    };
    result.update = times("update");
    result.graph = times("graph");
    result.copy = times("copy");
    result.one_tensor = times("one tensor");
    for (BaselineTimes& baseline : result.baselines) baseline.times = times(baseline.name);
    contenders.resize(ceiling_count);
    result.ceiling = fastest(contenders).times;
    result.ceiling_variant = fastest(contenders).name;
    result.host = host_times(result.update.median());
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

  static bool agrees(const Throughput& result, const std::string& name) {
    return std::any_of(result.baselines.begin(), result.baselines.end(), [&](const BaselineTimes& baseline) {
      return baseline.name == name && baseline.disagreement.empty();
    });
  }

  std::vector<Contender> ceilings(int streams_written, int batch) {
    std::vector<Contender> list;
    for (const GpuCeilingVariant& variant : gpu_ceiling_variants(streams_written)) {
      list.push_back({variant.name, [this, move = variant.run, batch] {
                        return sample([&] { move(rotation_.next().streams, 0, stream_.get()); }, batch);
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
    const std::int64_t places = std::max<std::int64_t>(layout_.scratch_bytes / layout_.stream_bytes, 1);
    return [this, places, place = std::int64_t{0}]() mutable {
      place = (place + 1) % places;
      stream_.copy(scratch_.get() + place * layout_.stream_bytes, rotation_.next().gradient.get(),
                   request_.count * request_.tensors * layout_.element);
    };
  }

  Times host_times(double seconds_of_step) {
    Times times;
    if (kHostBlocks * kHostStepsPerBlock * seconds_of_step > kLongestHostMeasurement) return times;
    for (int block = 0; block < kHostBlocks; ++block) {
      stream_.wait();
      const auto start = std::chrono::steady_clock::now();
      for (int i = 0; i < kHostStepsPerBlock; ++i) rotation_.next().optimizer.step(stream_.get());
      const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
      times.seconds.push_back(taken.count() / kHostStepsPerBlock);
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
