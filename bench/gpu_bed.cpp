#include "bench/gpu_bed.hpp"

#include "bench/gpu_ceiling.hpp"
#include "bench/gpu_device.hpp"
#include "host/device_memory.hpp"

namespace adamant::bench {
namespace {

// Long against the resolution of events (half a microsecond) and against the gap before the first kernel of a batch.
constexpr double kShortestSample = 4e-3;

class GpuBed final : public Bed {
 public:
  explicit GpuBed(int index) : stream_(index), memory_(Device::cuda(index)), sum_(memory_, 1) {}

  Stream stream() const override { return stream_.get(); }
  void wait() const override { stream_.wait(); }
  double seconds_of(const std::function<void()>& work) const override { return stream_.seconds_of(work); }
  double shortest_sample() const override { return kShortestSample; }
  void fill(void* values, DataType type, std::int64_t count, double scale) const override {
    stream_.fill(values, type, count, scale);
  }
  void copy(void* to, const void* from, std::int64_t bytes) const override { stream_.copy(to, from, bytes); }
  void plain_copy(void* to, const void* from, std::int64_t bytes) const override {
    stream_.plain_copy(to, from, bytes);
  }

  std::vector<Mover> movers(std::span<const MovedArray> arrays) const override {
    std::vector<Mover> list;
    for (const GpuCeilingVariant& variant : gpu_ceiling_variants(arrays)) {
      list.push_back({variant.name, [this, run = variant.run](std::span<const MovedArray> moved, std::int64_t count) {
                        run(moved, count, 0, stream_.get());
                      }});
    }
    return list;
  }

  std::vector<Reader> readers() const override {
    std::vector<Reader> list;
    for (const GpuReadCeilingVariant& variant : gpu_read_ceiling_variants()) {
      list.push_back({variant.name, [this, run = variant.run](const std::byte* data, std::int64_t bytes) {
                        run(data, bytes, 0, sum_.data(), stream_.get());
                      }});
    }
    return list;
  }

  std::function<void()> capture(const std::function<void()>& work) const override { return stream_.capture(work); }
  std::vector<Baseline> baselines(std::string_view method) const override { return gpu_baselines(method); }

 private:
  GpuStream stream_;
  host::DeviceMemory memory_;
  host::DeviceArray<std::uint32_t> sum_;  // where readers would add up, if they did
};

}  // namespace

std::unique_ptr<Bed> make_gpu_bed(int index) { return std::make_unique<GpuBed>(index); }

}  // namespace adamant::bench
