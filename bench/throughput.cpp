#include "bench/throughput.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <memory>
#include <new>

#include "bench/cpu_ceiling.hpp"

namespace adamant::bench {
namespace {

// Below this a single run is too short for the clock and for waking threads: runs are batched until they last as long.
constexpr double kShortestSample = 2e-3;
// Every ceiling variant is looked at this often; as many of the fastest as kFinalists go on to the interleaved
// measurement. One look would not do: on a shared machine a lucky one keeps out what is really the fastest, and the
// ceiling is weak.
constexpr int kLooks = 3;
constexpr std::size_t kFinalists = 5;

double quantile(std::vector<double> values, double q) {
  std::sort(values.begin(), values.end());
  const double place = q * static_cast<double>(values.size() - 1);
  const auto below = static_cast<std::size_t>(place);
  const std::size_t above = std::min(below + 1, values.size() - 1);
  return std::lerp(values[below], values[above], place - static_cast<double>(below));
}

// Mean seconds of one of `batch` runs.
double seconds_of(int batch, const std::function<void()>& run) {
  const auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < batch; ++i) run();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() / batch;
}

int batch_for(const std::function<void()>& run) {
  const double once = seconds_of(1, run);
  return std::clamp(static_cast<int>(std::ceil(kShortestSample / std::max(once, 1e-9))), 1, 10000);
}

// Memory as the optimizer's own: a large allocation aligned for huge pages.
struct Buffer {
  explicit Buffer(std::int64_t bytes)
      : size(static_cast<std::size_t>(bytes)),
        data(static_cast<float*>(::operator new (size, std::align_val_t{kAlignment}))) {}
  ~Buffer() { ::operator delete (data, std::align_val_t{kAlignment}); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  static constexpr std::size_t kAlignment = std::size_t{1} << 21;
  std::size_t size;
  float* data;
};

// Values of the size that training sees, none of them zero or subnormal, different for every element.
template <typename Real>
void fill(Real* values, std::int64_t count, double scale, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
  for (std::int64_t i = 0; i < count; ++i) {
    const auto mixed = static_cast<std::uint64_t>(i) * 0x9E3779B97F4A7C15ULL;
    const double unit = static_cast<double>(mixed >> 40) * 0x1p-24;
    values[i] = static_cast<Real>((mixed & 1 ? 1.0 : -1.0) * scale * (0.1 + unit));
  }
}

struct Candidate {
  const CeilingVariant* variant;
  Times times;
};

bool faster(const Candidate& left, const Candidate& right) { return left.times.median() < right.times.median(); }

}  // namespace

double Times::median() const { return quantile(seconds, 0.5); }
double Times::spread() const { return 0.5 * (quantile(seconds, 0.75) - quantile(seconds, 0.25)) / median(); }

double Throughput::fraction_of_ceiling() const {
  std::vector<double> ratios;
  ratios.reserve(update.seconds.size());
  for (std::size_t i = 0; i < update.seconds.size(); ++i) ratios.push_back(ceiling.seconds[i] / update.seconds[i]);
  return quantile(ratios, 0.5);
}

std::int64_t bytes_needed(const Request& request) {
  return request.count * size_in_bytes(request.type) *
         (2 + static_cast<std::int64_t>(state_names(request.method).size()));
}

Throughput measure(const Request& request, const std::function<void(double)>& progress) {
  const std::int64_t size = size_in_bytes(request.type);
  const std::int64_t bytes = request.count * size;
  Optimizer optimizer(request.method, Device::cpu(), request.tuning);
  const int threads = optimizer.threads();
  Buffer parameter(bytes);
  Buffer gradient(bytes);
  if (request.type == DataType::float32) {
    fill(parameter.data, request.count, 1.0, threads);
    fill(gradient.data, request.count, 1e-2, threads);
  } else {
    fill(reinterpret_cast<double*>(parameter.data), request.count, 1.0, threads);
    fill(reinterpret_cast<double*>(gradient.data), request.count, 1e-2, threads);
  }
  const TensorId tensor = optimizer.add({.name = "parameter",
                                         .parameter = {static_cast<void*>(parameter.data), request.type, request.count},
                                         .gradient = {gradient.data, request.type, request.count}});
  std::vector<float*> read_write{parameter.data};
  for (const std::string& name : state_names(request.method)) {
    read_write.push_back(static_cast<float*>(optimizer.state(tensor, name).data()));
  }
  const std::int64_t floats = bytes / static_cast<std::int64_t>(sizeof(float));

  const auto update = [&] { optimizer.step(); };
  const auto ceiling = [&](const CeilingVariant& variant) {
    return [&, run = variant.run] { run(gradient.data, read_write, floats, threads); };
  };

  update();
  const int batch = batch_for(update);
  const std::vector<CeilingVariant> variants = ceiling_variants();
  std::vector<Candidate> candidates;
  candidates.reserve(variants.size());
  for (const CeilingVariant& variant : variants) candidates.push_back({&variant, {}});
  for (int look = 0; look < kLooks; ++look) {
    for (Candidate& candidate : candidates) {
      candidate.times.seconds.push_back(seconds_of(batch, ceiling(*candidate.variant)));
    }
    progress(0.3 * (look + 1) / kLooks);
  }
  std::sort(candidates.begin(), candidates.end(), faster);
  if (candidates.size() > kFinalists) candidates.resize(kFinalists);
  for (Candidate& candidate : candidates) candidate.times.seconds.clear();

  // Interleaved, so that whatever else the machine does falls on all alike.
  Throughput result;
  for (int repetition = 0; repetition < request.repetitions; ++repetition) {
    result.update.seconds.push_back(seconds_of(batch, update));
    for (Candidate& candidate : candidates) {
      candidate.times.seconds.push_back(seconds_of(batch, ceiling(*candidate.variant)));
    }
    progress(0.3 + 0.7 * (repetition + 1) / request.repetitions);
  }
  const auto best = std::min_element(candidates.begin(), candidates.end(), faster);
  result.count = request.count;
  result.streams_written = static_cast<int>(read_write.size());
  result.streams_read = result.streams_written + 1;
  result.bytes_per_parameter = size * (result.streams_read + result.streams_written);
  result.ceiling = best->times;
  result.ceiling_variant = best->variant->name;
  result.threads = threads;
  result.simd = optimizer.simd();
  return result;
}

}  // namespace adamant::bench
