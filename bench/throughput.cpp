#include "bench/throughput.hpp"

#include <chrono>
#include <new>
#include <utility>

#include "bench/cpu_ceiling.hpp"
#include "bench/gpu_throughput.hpp"
#include "bench/values.hpp"

namespace adamant::bench {
namespace {

// Below this a single run is too short for the clock and for waking threads: runs are batched until they last as long.
constexpr double kShortestSample = 2e-3;

// Mean seconds of one of `batch` runs.
template <typename Run>
double seconds_of(int batch, const Run& run) {
  const auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < batch; ++i) run();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() / batch;
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

template <typename Real>
void fill(Real* values, std::int64_t count, double scale, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
  for (std::int64_t i = 0; i < count; ++i) values[i] = static_cast<Real>(realistic_value(i, scale));
}

template <typename Real>
void fill(const Buffer& parameter, const Buffer& gradient, std::int64_t count, int threads) {
  fill(reinterpret_cast<Real*>(parameter.data), count, kParameterScale, threads);
  fill(reinterpret_cast<Real*>(gradient.data), count, kGradientScale, threads);
}

std::int64_t bytes_needed_on_cpu(const Request& request) {
  return request.count * size_in_bytes(request.type) *
         (2 + static_cast<std::int64_t>(state_names(request.method).size()));
}

Throughput measure_on_cpu(const Request& request, const ProgressTo& progress) {
  const std::int64_t size = size_in_bytes(request.type);
  const std::int64_t bytes = request.count * size;
  Optimizer optimizer(request.method, Device::cpu(), request.tuning);
  const int threads = optimizer.threads();
  Buffer parameter(bytes);
  Buffer gradient(bytes);
  if (request.type == DataType::float32) {
    fill<float>(parameter, gradient, request.count, threads);
  } else {
    fill<double>(parameter, gradient, request.count, threads);
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
  update();
  const int batch = batch_for(seconds_of(1, update), kShortestSample);
  std::vector<Contender> ceilings;
  for (const CeilingVariant& variant : ceiling_variants()) {
    ceilings.push_back({variant.name, [&, run = variant.run] {
                          return seconds_of(batch, [&] { run(gradient.data, read_write, floats, threads); });
                        }});
  }
  std::vector<Contender> contenders = finalists(std::move(ceilings), [&](double done) { progress(0.3 * done); });
  contenders.insert(contenders.begin(), {"update", [&] { return seconds_of(batch, update); }});
  interleave(contenders, request.repetitions, [&](double done) { progress(0.3 + 0.7 * done); });

  Throughput result;
  result.update = contenders.front().times;
  contenders.erase(contenders.begin());
  const Contender& best = fastest(contenders);
  result.count = request.count;
  result.streams_written = static_cast<int>(read_write.size());
  result.streams_read = result.streams_written + 1;
  result.bytes_per_parameter = size * (result.streams_read + result.streams_written);
  result.ceiling = best.times;
  result.ceiling_variant = best.name;
  result.threads = threads;
  result.simd = optimizer.simd();
  return result;
}

bool is_on_cpu(const Request& request) { return request.device.kind == Device::Kind::cpu; }

}  // namespace

double Throughput::copy_gigabytes_per_second() const {
  const double element = static_cast<double>(bytes_per_parameter) / (streams_read + streams_written);
  return 2 * element * static_cast<double>(count) / copy.median() * 1e-9;
}

std::int64_t bytes_needed(const Request& request) {
  return is_on_cpu(request) ? bytes_needed_on_cpu(request) : bytes_needed_on_gpu(request);
}

Throughput measure(const Request& request, const ProgressTo& progress) {
  return is_on_cpu(request) ? measure_on_cpu(request, progress) : measure_on_gpu(request, progress);
}

}  // namespace adamant::bench
