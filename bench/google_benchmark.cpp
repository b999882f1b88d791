// adamant_benchmark: what is measured, as Google Benchmark's own program with its own flags. Every method, shape,
// pipeline, storage and device is there, and with float32 alone all that is compared, cold and hot:
//   METHOD/SHAPE/PIPELINE/STORAGE/DEVICE/WHAT, such as adam/1048576/update/float32-float32-float32/cpu/step
// Without a filter a few of them run; --benchmark_filter=all runs all. Every sample of a step, and of what is compared
// with it, is taken right after one of the ceiling, which is not counted: Google Benchmark interleaves repetitions at
// random but does not pair them, and on a machine whose speed drifts only pairs can be divided.
#include <benchmark/benchmark.h>
#include <fmt/format.h>

#include <algorithm>
#include <deque>
#include <exception>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "adamant/adamant.hpp"
#include "bench/bed.hpp"
#include "bench/machine.hpp"
#include "bench/measurement.hpp"
#include "bench/shapes.hpp"
#include "kernels/backend.hpp"
#include "kernels/storage_types.hpp"

namespace adamant::bench {
namespace {

// Without a filter: a minute or two.
constexpr const char* kUsual = "/(1048576|16777216)/update/float32-float32-float32/[a-z0-9:]*/(step|ceiling|copy)/";

bool is_copy(std::string_view what) { return what == "copy" || what == "plain-copy"; }

// A request whose ceiling and contenders are chosen when the first benchmark of it runs.
class Prepared {
 public:
  explicit Prepared(const Request& request) : measurement_(request) {
    Ceilings ceilings = measurement_.choose_ceilings([](double) {}, [] { return false; });
    ceiling_ = std::move(ceilings.finalists.front());
  }

  const Contender& ceiling() const { return ceiling_; }

  // None where there is no such contender.
  const Contender* find(const std::string& what) {
    if (what == "step") return remembered(what, [&] { return std::vector<Contender>{measurement_.update()}; });
    if (what == "host") {
      return remembered(what, [&] { return measurement_.host(measurement_.update().sample()); });
    }
    return remembered(what, [&] { return measurement_.others(); });
  }

  double bytes_of(const std::string& what) const {
    return is_copy(what) ? 2.0 * static_cast<double>(facts_.copy_element_bytes * facts_.count) : facts_.bytes();
  }

 private:
  template <typename Make>
  const Contender* remembered(const std::string& what, const Make& make) {
    const auto there = [&] {
      return std::find_if(contenders_.begin(), contenders_.end(),
                          [&](const Contender& contender) { return contender.name == what; });
    };
    if (there() == contenders_.end()) {
      for (Contender& contender : make()) {
        if (contender.name == "update") contender.name = "step";
        contenders_.push_back(std::move(contender));
      }
    }
    const auto found = there();
    return found == contenders_.end() ? nullptr : &*found;
  }

  Measurement measurement_;
  Throughput facts_ = measurement_.facts();
  Contender ceiling_;
  std::deque<Contender> contenders_;
};

// The requests that were prepared last, as many as there is memory for: with --benchmark_enable_random_interleaving the
// benchmarks of several take turns.
class Store {
 public:
  // Throws std::runtime_error where there is no memory.
  Prepared& get(const std::string& name, const Request& request) {
    const auto found = std::find_if(all_.begin(), all_.end(), [&](const auto& entry) { return entry.first == name; });
    if (found != all_.end()) return *found->second;
    const std::int64_t needed = bytes_needed(request);
    while (needed > free_bytes(request.device) && !all_.empty()) all_.pop_front();
    if (const std::int64_t free = free_bytes(request.device); needed > free) {
      throw std::runtime_error(fmt::format("needs {} bytes, and {} are free", needed, free));
    }
    return *all_.emplace_back(name, std::make_unique<Prepared>(request)).second;
  }

 private:
  std::deque<std::pair<std::string, std::unique_ptr<Prepared>>> all_;
};

struct Case {
  std::string name;  // without what is measured
  Request request;
};

void measure_alone(benchmark::State& state, const Contender& contender) {
  while (state.KeepRunningBatch(contender.runs)) state.SetIterationTime(contender.runs * contender.sample());
}

void measure_beside(benchmark::State& state, const Contender& contender, const Contender& ceiling) {
  Times of_ceiling;
  Times of_contender;
  while (state.KeepRunningBatch(contender.runs)) {
    of_ceiling.seconds.push_back(ceiling.sample());
    of_contender.seconds.push_back(contender.sample());
    state.SetIterationTime(contender.runs * of_contender.seconds.back());
  }
  state.counters["percent_of_ceiling"] = 100 * ratio(of_ceiling, of_contender);
}

void run(benchmark::State& state, Store& store, const Case& one, const std::string& what) try {
  Prepared& prepared = store.get(one.name, one.request);
  const Contender* const contender = what == "ceiling" ? &prepared.ceiling() : prepared.find(what);
  if (contender == nullptr) return state.SkipWithError("is not there for this case");
  if (what == "ceiling" || is_copy(what) || what == "host") {
    measure_alone(state, *contender);
  } else {
    measure_beside(state, *contender, prepared.ceiling());
  }
  if (what == "ceiling") state.SetLabel(contender->name);
  if (what != "host") {
    state.SetBytesProcessed(
        static_cast<std::int64_t>(static_cast<double>(state.iterations()) * prepared.bytes_of(what)));
  }
} catch (const std::exception& error) {
  state.SkipWithError(error.what());
}

std::vector<Device> all_devices() {
  std::vector<Device> devices{Device::cpu()};
  for (std::size_t i = 0; i < kernels::cuda_devices().size(); ++i) devices.push_back(Device::cuda(static_cast<int>(i)));
  return devices;
}

std::vector<std::string> all_that_is_compared(const Request& request) {
  const bool on_gpu = request.device.kind == Device::Kind::cuda;
  std::vector<std::string> all{"step", "ceiling"};
  if (request.shape.tensors() > 1) all.emplace_back("one-tensor");
  if (on_gpu) all.insert(all.end(), {"graph", "host"});
  if (request.is_plain_float32()) all.insert(all.end(), {"copy", "plain-copy"});
  if (request.is_plain_float32() && on_gpu) all.insert(all.end(), {"thrust", "cub", "unfused"});
  return all;
}

std::string name_of(const Request& request) {
  std::string storage = kernels::short_name(request.storage);
  std::replace(storage.begin(), storage.end(), '/', '-');
  return fmt::format("{}/{}/{}/{}/{}{}", adamant::name(request.method), request.shape.name, name(request.pipeline),
                     storage, adamant::name(request.device), request.hot ? ":hot" : "");
}

void register_one(Store& store, Request request) {
  const auto one = std::make_shared<const Case>(Case{name_of(request), std::move(request)});
  for (const std::string& what : all_that_is_compared(one->request)) {
    const auto measure = [&store, one, what](benchmark::State& state) { run(state, store, *one, what); };
    benchmark::RegisterBenchmark((one->name + "/" + what).c_str(), measure)->UseManualTime();
  }
}

void register_kinds(Store& store, const Request& request) {
  for (const kernels::StorageTypes& storage : kernels::storages()) {
    for (const Pipeline pipeline : {Pipeline::update, Pipeline::clip, Pipeline::copy}) {
      if (pipeline == Pipeline::copy && !copy_type(storage)) continue;
      Request of_kind = request;
      of_kind.storage = storage;
      of_kind.pipeline = pipeline;
      register_one(store, of_kind);
      if (!of_kind.is_plain_float32()) continue;
      of_kind.hot = true;
      register_one(store, of_kind);
    }
  }
}

void register_all(Store& store) {
  for (const Device device : all_devices()) {
    for (const std::string& method : method_names()) {
      for (const Shape& shape : all_shapes()) {
        register_kinds(store, {.method = make_method(method), .shape = shape, .device = device});
      }
    }
  }
}

}  // namespace
}  // namespace adamant::bench

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::AddCustomContext("adamant", std::string(adamant::version()));
  benchmark::AddCustomContext("cpu", adamant::bench::cpu_name());
  benchmark::AddCustomContext("cpu_cache_bytes", std::to_string(adamant::bench::cpu_cache_bytes()));
  adamant::bench::Store store;
  adamant::bench::register_all(store);
  const std::string filter = benchmark::GetBenchmarkFilter();
  const std::size_t matched =
      benchmark::RunSpecifiedBenchmarks(filter.empty() ? std::string(adamant::bench::kUsual) : filter);
  benchmark::Shutdown();
  return matched > 0 ? 0 : 1;
}
