#include <algorithm>
#include <chrono>
#include <cstring>
#include <type_traits>

#include "bench/bed.hpp"
#include "bench/cpu_ceiling.hpp"
#include "bench/values.hpp"
#include "kernels/narrow.hpp"

namespace adamant::bench {
namespace {

// Below this a run is too short for the clock and for waking threads.
constexpr double kShortestSample = 2e-3;
// Bytes that one thread copies at a time.
constexpr std::int64_t kCopied = std::int64_t{1} << 20;
constexpr std::int64_t kLine = 64;

// A mask of which the compiler does not know.
volatile std::uint32_t no_bits = 0;

template <typename T>
void fill_values(T* values, std::int64_t count, double scale, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
  for (std::int64_t i = 0; i < count; ++i) {
    if constexpr (std::is_same_v<T, double>) {
      values[i] = realistic_value(i, scale);
    } else {
      values[i] = kernels::Narrow<T>::of(static_cast<float>(realistic_value(i, scale)));
    }
  }
}

// One line after the other, each loaded and stored.
void copy_lines(std::byte* to, const std::byte* from, std::int64_t bytes) {
  std::int64_t i = 0;
  for (; i + kLine <= bytes; i += kLine) {
    std::memcpy(to + i, from + i, kLine);
    asm volatile("" ::: "memory");  // or compilers make one memcpy() of all lines
  }
  for (; i < bytes; ++i) to[i] = from[i];
}

class CpuBed final : public Bed {
 public:
  explicit CpuBed(int threads) : threads_(threads) {}

  Stream stream() const override { return nullptr; }
  void wait() const override {}
  double seconds_of(const std::function<void()>& work) const override {
    const auto start = std::chrono::steady_clock::now();
    work();
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  }
  double shortest_sample() const override { return kShortestSample; }

  void fill(void* values, DataType type, std::int64_t count, double scale) const override {
    kernels::with_type(type,
                       [&]<typename T>(T /*like*/) { fill_values(static_cast<T*>(values), count, scale, threads_); });
  }

  void copy(void* to, const void* from, std::int64_t bytes) const override {
    in_pieces(to, from, bytes, [](std::byte* piece, const std::byte* of, std::int64_t size) {
      std::memcpy(piece, of, static_cast<std::size_t>(size));
    });
  }

  void plain_copy(void* to, const void* from, std::int64_t bytes) const override {
    in_pieces(to, from, bytes, copy_lines);
  }

  std::vector<Mover> movers(std::span<const MovedArray> arrays) const override {
    std::vector<Mover> list;
    for (const CeilingVariant& variant : ceiling_variants(arrays)) {
      list.push_back({variant.name,
                      [run = variant.run, threads = threads_](std::span<const MovedArray> moved, std::int64_t count) {
                        run(moved, count, no_bits, threads);
                      }});
    }
    return list;
  }

  std::vector<Reader> readers() const override {
    std::vector<Reader> list;
    for (const ReadCeilingVariant& variant : read_ceiling_variants()) {
      list.push_back({variant.name, [run = variant.run, threads = threads_](const std::byte* data, std::int64_t bytes) {
                        run(data, bytes, threads);
                      }});
    }
    return list;
  }

  std::function<void()> capture(const std::function<void()>& /*work*/) const override { return {}; }
  std::vector<Baseline> baselines(std::string_view /*method*/) const override { return {}; }

 private:
  template <typename Copy>
  void in_pieces(void* to, const void* from, std::int64_t bytes, const Copy& copy) const {
#pragma omp parallel for schedule(static) num_threads(threads_)
    for (std::int64_t begin = 0; begin < bytes; begin += kCopied) {
      copy(static_cast<std::byte*>(to) + begin, static_cast<const std::byte*>(from) + begin,
           std::min(kCopied, bytes - begin));
    }
  }

  int threads_;
};

}  // namespace

std::unique_ptr<Bed> make_cpu_bed(int threads) { return std::make_unique<CpuBed>(threads); }

}  // namespace adamant::bench
