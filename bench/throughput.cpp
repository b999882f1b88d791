#include "bench/throughput.hpp"

#include <chrono>
#include <deque>
#include <new>
#include <type_traits>
#include <utility>

#include "bench/cpu_ceiling.hpp"
#include "bench/gpu_throughput.hpp"
#include "bench/values.hpp"
#include "kernels/narrow.hpp"

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

template <typename T>
void fill(T* values, std::int64_t count, double scale, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
  for (std::int64_t i = 0; i < count; ++i) {
    if constexpr (std::is_same_v<T, double>) {
      values[i] = realistic_value(i, scale);
    } else {
      values[i] = kernels::Narrow<T>::of(static_cast<float>(realistic_value(i, scale)));
    }
  }
}

void fill(const Buffer& buffer, DataType type, std::int64_t count, double scale, int threads) {
  switch (type) {
    case DataType::float64: return fill(reinterpret_cast<double*>(buffer.data), count, scale, threads);
    case DataType::bfloat16: return fill(reinterpret_cast<bfloat16*>(buffer.data), count, scale, threads);
    case DataType::float16: return fill(reinterpret_cast<float16*>(buffer.data), count, scale, threads);
    default: return fill(buffer.data, count, scale, threads);
  }
}

std::int64_t bytes_needed_on_cpu(const Request& request) {
  std::int64_t bytes = 0;
  for (const MovedArray& array : moved_arrays(request.method, request.storage, request.pipeline)) {
    bytes += request.count * array.element_bytes * (array.what == MovedArray::What::kept ? 2 : 1);
  }
  return bytes;
}

// What moves the arrays of the update, in as many ways as there are.
std::vector<Contender> update_ceilings(const std::vector<MovedArray>& arrays, std::int64_t count, int threads,
                                       int batch) {
  std::vector<Contender> list;
  if (is_uniform(arrays)) {
    std::vector<float*> read_write;
    for (std::size_t i = 1; i < arrays.size(); ++i) read_write.push_back(reinterpret_cast<float*>(arrays[i].data));
    const auto* const read_only = reinterpret_cast<const float*>(arrays.front().data);
    const std::int64_t floats = count * arrays.front().element_bytes / static_cast<std::int64_t>(sizeof(float));
    for (const CeilingVariant& variant : ceiling_variants()) {
      list.push_back({variant.name, [=, run = variant.run] {
                        return seconds_of(batch, [&] { run(read_only, read_write, floats, threads); });
                      }});
    }
    return list;
  }
  for (const MixedCeilingVariant& variant : mixed_ceiling_variants()) {
    list.push_back(
        {variant.name, [=, run = variant.run] { return seconds_of(batch, [&] { run(arrays, count, 0, threads); }); }});
  }
  return list;
}

std::vector<Contender> read_ceilings(const MovedArray& gradient, std::int64_t count, int threads, int batch) {
  std::vector<Contender> list;
  for (const ReadCeilingVariant& variant : read_ceiling_variants()) {
    list.push_back({variant.name, [=, run = variant.run] {
                      return seconds_of(batch, [&] { run(gradient.data, count * gradient.element_bytes, threads); });
                    }});
  }
  return list;
}

Throughput measure_on_cpu(const Request& request, const ProgressTo& progress) {
  using What = MovedArray::What;
  const std::int64_t count = request.count;
  std::vector<MovedArray> arrays = moved_arrays(request.method, request.storage, request.pipeline);
  Optimizer optimizer(request.method, Device::cpu(), request.tuning);
  const int threads = optimizer.threads();
  std::deque<Buffer> buffers;
  TensorSpec spec{.name = "parameter", .state_type = request.storage.state, .master = request.storage.master};
  for (MovedArray& array : arrays) {
    if (array.what == What::state || (array.what == What::kept && request.storage.master == Master::float32)) continue;
    const Buffer& buffer = buffers.emplace_back(count * array.element_bytes);
    array.data = reinterpret_cast<std::byte*>(buffer.data);
    if (array.what == What::gradient) {
      fill(buffer, request.storage.gradient, count, kGradientScale, threads);
      spec.gradient = {static_cast<const void*>(buffer.data), request.storage.gradient, count};
    } else if (array.what == What::parameter) {
      fill(buffer, request.storage.parameter, count, kParameterScale, threads);
      spec.parameter = {static_cast<void*>(buffer.data), request.storage.parameter, count};
    } else if (array.what == What::copy) {
      spec.copy = {static_cast<void*>(buffer.data), *copy_type(request.storage), count};
    } else {
      fill(buffer, DataType::bfloat16, count, kParameterScale, threads);  // in place of the remainder
    }
  }
  const TensorId tensor = optimizer.add(spec);
  if (request.pipeline == Pipeline::clip) optimizer.set_control({.clip_norm = kClipNorm});
  find_states(arrays, optimizer, tensor);

  const auto update = [&] { optimizer.step(); };
  update();
  const int batch = batch_for(seconds_of(1, update), kShortestSample);
  Throughput result;
  std::vector<Contender> contenders = finalists(
      update_ceilings(arrays, count, threads, batch), [&](double done) { progress(0.3 * done); },
      &result.ceiling_looks);
  const std::size_t of_update = contenders.size();
  if (request.pipeline == Pipeline::clip) {
    for (Contender& contender : finalists(read_ceilings(arrays.front(), count, threads, batch), [](double) {})) {
      contenders.push_back(std::move(contender));
    }
  }
  const std::size_t of_ceilings = contenders.size();
  contenders.push_back({"update", [&] { return seconds_of(batch, update); }});
  interleave(contenders, request.repetitions, [&](double done) { progress(0.3 + 0.7 * done); });

  result.update = contenders.back().times;
  set_ceiling(result, std::span(contenders).first(of_update),
              std::span(contenders).subspan(of_update, of_ceilings - of_update));
  count_bytes(result, request, arrays);
  result.count = count;
  result.threads = threads;
  result.simd = optimizer.simd();
  return result;
}

bool is_on_cpu(const Request& request) { return request.device.kind == Device::Kind::cpu; }

}  // namespace

void set_ceiling(Throughput& result, std::span<const Contender> of_update, std::span<const Contender> of_norm) {
  const Contender& best = fastest(of_update);
  result.ceiling = best.times;
  result.ceiling_variant = best.name;
  if (of_norm.empty()) return;
  const Contender& reading = fastest(of_norm);
  result.ceiling = sum(best.times, reading.times);
  result.ceiling_variant += " + reading: " + reading.name;
}

void count_bytes(Throughput& result, const Request& request, std::span<const MovedArray> arrays) {
  result.streams_read = 0;
  result.streams_written = 0;
  for (const MovedArray& array : arrays) {
    result.streams_read += array.is_read ? 1 : 0;
    result.streams_written += array.is_written ? 1 : 0;
  }
  result.moved = moved_bytes(arrays, request.pipeline);
  result.bytes_per_parameter = result.moved.read + result.moved.written;
}

double Throughput::copy_gigabytes_per_second() const {
  return 2 * static_cast<double>(copy_element_bytes) * static_cast<double>(count) / copy.median() * 1e-9;
}

std::int64_t bytes_needed(const Request& request) {
  return is_on_cpu(request) ? bytes_needed_on_cpu(request) : bytes_needed_on_gpu(request);
}

Throughput measure(const Request& request, const ProgressTo& progress) {
  return is_on_cpu(request) ? measure_on_cpu(request, progress) : measure_on_gpu(request, progress);
}

}  // namespace adamant::bench
