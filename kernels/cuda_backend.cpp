// The CUDA backend: tables and scratch memory resident on the device; one launch for the scalars of a step, one for
// each combination of types, before them one for the norm of each type of gradient.
//
// Calls that take a stream enqueue their work there. Calls that allocate use a stream of the backend's own and wait for
// it before they return, so that memory and tables are ready for any stream. Memory is freed in stream order, after an
// event in each of the caller's streams that is recorded behind everything enqueued there.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstddef>
#include <memory>
#include <new>
#include <nvtx3/nvtx3.hpp>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "adamant/error.hpp"
#include "kernels/backend.hpp"
#include "kernels/cuda_devices.hpp"
#include "kernels/cuda_memory.hpp"
#include "kernels/cuda_scopes.hpp"
#include "kernels/launch.hpp"
#include "kernels/storage_types.hpp"
#include "kernels/tuning.hpp"

namespace adamant::kernels {
namespace {

struct NvtxDomain {
  static constexpr const char* name = "adamant";
};
using NvtxRange = nvtx3::scoped_range_in<NvtxDomain>;

template <typename T>
std::int64_t bytes_of(std::int64_t count) {
  return (count * static_cast<std::int64_t>(sizeof(T)) + kAlignment - 1) / kAlignment * kAlignment;
}

std::string storage_name(std::int32_t storage) { return to_text(storages()[static_cast<std::size_t>(storage)]); }

class CudaBackend final : public Backend {
 public:
  CudaBackend(int index, int rule, const Allocator& allocator, LaunchShape shape)
      : index_(index),
        rule_(rule),
        threads_(shape.threads > 0 ? shape.threads : kUpdateThreads),
        begins_early_(can_begin_early(rule)),
        memory_(std::make_shared<Memory>(index, allocator)) {}

  ~CudaBackend() override {
    const Quietly quietly;
    const OnDevice on(index_, std::nothrow);
    const RelaxedCaptureMode relaxed;
    tables_.reset();
    retired_.clear();
    staging_.reset();
  }
  CudaBackend(const CudaBackend&) = delete;
  CudaBackend& operator=(const CudaBackend&) = delete;

  std::shared_ptr<std::byte> allocate(std::int64_t bytes) override {
    const OnDevice on(index_, "allocating states");
    return memory_->allocate(bytes, "the states of the tensors that were added");
  }

  std::string why_unusable(const void* data, std::int64_t bytes) const override {
    if (bytes == 0) return {};
    const OnDevice on(index_, "looking at a tensor");
    const auto* first = static_cast<const std::byte*>(data);
    std::string why = why_unusable(first);
    if (!why.empty()) return why;
    why = why_unusable(first + bytes - 1);
    return why.empty() ? why : "it begins in memory of the device, but its last byte does not: there " + why;
  }

  void check_not_capturing(Stream stream, const char* what) const override {
    const OnDevice on(index_);
    if (!is_captured(stream, what)) return;
    throw std::invalid_argument("adamant: " + std::string(what) +
                                ": the stream is being captured, and this cannot be part of a graph; allowed: before "
                                "the capture begins or after it has ended");
  }

  void finish(Stream stream, const char* what) const override {
    check_not_capturing(stream, what);
    const OnDevice on(index_, what);
    const RelaxedCaptureMode relaxed;
    memory_->finish(what);
    ADAMANT_CUDA(cudaStreamSynchronize(stream), what);
  }

  void reserve(std::int64_t slots, std::int64_t groups) override {
    if (slots <= step_counts_.size() && groups <= options_.size() && step_state_ != nullptr) return;
    const OnDevice on(index_, "making room for tensors and groups");
    if (step_state_ == nullptr) make_step_state();
    step_counts_.reserve(slots, *memory_, "the step counts of tensors");
    options_.reserve(groups, *memory_, "the options of groups");
  }

  TileSizes tile_sizes() const override { return {.usual = kDeviceTile, .packed = kPackedTile}; }

  void set_plan(StepPlan plan) override {
    const OnDevice on(index_, "building the plan");
    const RelaxedCaptureMode relaxed;
    for (const TileRange& range : plan.ranges) ADAMANT_CUDA(load_kernels(rule_, range), "loading the update");
    for (const NormRange& range : plan.norm.ranges) ADAMANT_CUDA(load_kernels(range), "loading the norm");
    const auto row_count = static_cast<std::int64_t>(plan.rows.size());
    const auto tile_count = static_cast<std::int64_t>(plan.tiles.size());
    std::vector<DeviceRow> rows;
    rows.reserve(plan.rows.size());
    std::vector<void*> gradients;
    gradients.reserve(plan.rows.size());
    for (const TensorRow& row : plan.rows) {
      rows.push_back(device_row(row));
      gradients.push_back(const_cast<void*>(row.gradient));  // written only where it was given to be
    }

    std::int64_t bytes = 0;
    const auto room_for = [&](std::int64_t size) { return std::exchange(bytes, bytes + size); };
    const std::int64_t rows_at = room_for(bytes_of<DeviceRow>(row_count));
    const std::int64_t gradients_at = room_for(bytes_of<void*>(row_count));
    const std::int64_t tiles_at = room_for(bytes_of<Tile>(tile_count));
    const std::int64_t scalars_at = room_for(bytes_of<RowScalars>(row_count));
    const std::int64_t leaves_at = room_for(bytes_of<NormLeaf>(std::ssize(plan.norm.leaves)));
    const std::int64_t nodes_at = room_for(bytes_of<NormNode>(std::ssize(plan.norm.nodes)));
    const std::int64_t values_at = room_for(bytes_of<double>(plan.norm.values));
    const std::int64_t arrived_at = room_for(bytes_of<unsigned>(std::ssize(plan.norm.nodes)));
    std::shared_ptr<std::byte> tables = memory_->allocate(bytes, "the tables of tensors and tiles");
    Copies copies(memory_->stream(), "building the plan");
    const auto upload = [&](std::int64_t at, std::span<const std::byte> from) {
      copies.add(tables.get() + at, from.data(), from.size());
    };
    upload(rows_at, std::as_bytes(std::span(rows)));
    upload(gradients_at, std::as_bytes(std::span(gradients)));
    upload(tiles_at, std::as_bytes(std::span(plan.tiles)));
    upload(leaves_at, std::as_bytes(std::span(plan.norm.leaves)));
    upload(nodes_at, std::as_bytes(std::span(plan.norm.nodes)));
    copies.wait();
    if (!staging_) staging_.emplace();
    staging_->reserve(bytes_of<void*>(row_count));
    retired_.reserve(retired_.size() + 1);

    // A graph that was captured with the former tables may be replayed as long as this object lives.
    if (captured_) retired_.push_back(std::move(tables_));
    captured_ = false;
    std::byte* const at = tables.get();
    device_tables_ = {.rows = reinterpret_cast<const DeviceRow*>(at + rows_at),
                      .gradients = reinterpret_cast<void* const*>(at + gradients_at),
                      .tiles = reinterpret_cast<const Tile*>(at + tiles_at),
                      .scalars = reinterpret_cast<RowScalars*>(at + scalars_at),
                      .control = &step_state()->control,
                      .measured = nullptr,
                      .report = &step_state()->report,
                      .next_report = &step_state()->next_report,
                      .first_step_count = rows.empty() ? nullptr : rows.front().step_count,
                      .first_options = rows.empty() ? nullptr : rows.front().options,
                      .row_count = row_count,
                      .tile_count = tile_count,
                      .tile_size = plan.tile_size};
    norm_ = {.leaves = reinterpret_cast<const NormLeaf*>(at + leaves_at),
             .nodes = reinterpret_cast<const NormNode*>(at + nodes_at),
             .values = reinterpret_cast<double*>(at + values_at),
             .arrived = reinterpret_cast<unsigned*>(at + arrived_at),
             .non_finite = &step_state()->non_finite,
             .measured = &step_state()->measured};
    norm_nodes_ = std::ssize(plan.norm.nodes);
    tables_ = std::move(tables);
    ranges_ = std::move(plan.ranges);
    norm_ranges_ = std::move(plan.norm.ranges);
    gradients_ = std::move(gradients);
    changed_ = {};
  }

  void set_gradient(std::int64_t row, const void* gradient) override {
    gradients_[static_cast<std::size_t>(row)] = const_cast<void*>(gradient);
    changed_.include(row);
  }

  void refresh(Stream stream) override {
    if (changed_.empty()) return;
    check_not_capturing(stream, "prepare");
    const OnDevice on(index_, "prepare");
    bring_gradients(stream);
    memory_->used_by(stream);
  }

  void set_first_options(std::int32_t group, const Method& options) override {
    const OnDevice on(index_, "setting the options of a new group");
    const RelaxedCaptureMode relaxed;
    const OptionBytes bytes = option_bytes(rule_, options);
    Copies copies(memory_->stream(), "setting the options of a new group");
    copies.add(options_.at(group), &bytes, sizeof bytes);
    copies.wait();
  }

  void set_options(std::int32_t group, const Method& options, Stream stream) override {
    store(options_.at(group), option_bytes(rule_, options), stream, "setting options");
  }

  void set_step_count(std::int64_t slot, std::int64_t count, Stream stream) override {
    store(step_counts_.at(slot), count, stream, "setting a step count");
  }

  void read_step_counts(std::int64_t first, std::span<std::int64_t> counts, Stream stream) const override {
    check_not_capturing(stream, "reading step counts");
    const OnDevice on(index_, "reading step counts");
    Copies copies(stream, "reading step counts");
    while (!counts.empty()) {
      const auto length = std::min(counts.size(), static_cast<std::size_t>(step_counts_.in_one_piece(first)));
      copies.add(counts.data(), step_counts_.at(first), length * sizeof(std::int64_t));
      counts = counts.subspan(length);
      first += static_cast<std::int64_t>(length);
    }
    copies.wait();
  }

  void set_control(const Control& control, Stream stream) override {
    store(&step_state()->control, control, stream, "setting what steps do to gradients");
    measures_ = control.measures != 0;
  }

  const StepReport* report() const override { return &step_state()->report; }

  void set_report(const StepReport& report, Stream stream) override {
    store(&step_state()->report, report, stream, "setting the report of steps");
  }

  StepReport read_report(Stream stream) const override {
    StepReport report{};
    copy(&report, &step_state()->report, sizeof report, stream, "reading the report of steps");
    return report;
  }

  void make_master(std::int32_t storage, void* kept, const void* parameter, std::int64_t count,
                   Stream stream) override {
    const OnDevice on(index_, "making a master");
    const RelaxedCaptureMode relaxed;
    memory_->after(stream, "making a master");
    ADAMANT_CUDA(launch_make_master(storage, kept, parameter, count, memory_->stream()), "making a master");
  }

  void step(Stream stream) override {
    if (device_tables_.row_count == 0) return;
    const NvtxRange range("step");
    const OnDevice on(index_, "step");
    const bool captured = is_captured(stream, "step");
    if (!changed_.empty()) {
      if (captured) {
        throw std::invalid_argument(
            "adamant: step: the stream is being captured while gradients are still to be re-pointed; call "
            "prepare(stream) between set_gradient() and the beginning of the capture");
      }
      bring_gradients(stream);
    }
    device_tables_.measured = measures_ ? norm_.measured : nullptr;
    if (measures_) measure(stream, captured);
    {
      const NvtxRange launch("scalars");
      const bool begins_early = begins_early_ && measures_ && !norm_ranges_.empty();  // not the first of the step
      const cudaError_t error = launch_scalars(rule_, device_tables_, begins_early, stream);
      if (error != cudaSuccess) {
        record_use(stream, captured);  // by the norm
        fail(error, "launch_scalars", "launching the scalars of a step; no tensor was stepped");
      }
    }
    for (const TileRange& tiles : ranges_) {
      const NvtxRange launch("update");
      const UpdateLaunch how{.threads = threads_, .begins_early = begins_early_, .is_last = &tiles == &ranges_.back()};
      const cudaError_t error = launch_update(rule_, tiles, device_tables_, how, stream);
      if (error == cudaSuccess) continue;
      record_use(stream, captured);
      fail(error, "launch_update", which_were_stepped(tiles));
    }
    record_use(stream, captured);
  }

  void zero(void* data, std::int64_t bytes, Stream stream) override {
    if (bytes == 0) return;
    const OnDevice on(index_, "zeroing");
    is_captured(stream, "zeroing");
    // Not recorded as a use: gradients are not the backend's memory, and after states a load() sets step counts.
    ADAMANT_CUDA(cudaMemsetAsync(data, 0, static_cast<std::size_t>(bytes), stream), "zeroing");
  }

  std::span<const std::byte> read(const void* data, std::int64_t bytes, std::vector<std::byte>& staging,
                                  Stream stream) const override {
    staging.resize(static_cast<std::size_t>(bytes));
    copy(staging.data(), data, staging.size(), stream, "reading device memory");
    return staging;
  }

  void write(void* data, std::span<const std::byte> bytes, Stream stream) override {
    if (bytes.empty()) return;
    copy(data, bytes.data(), bytes.size(), stream, "writing device memory");
  }

 private:
  // Rows of which something has changed.
  struct Changed {
    std::int64_t begin = 0;
    std::int64_t end = 0;
    bool empty() const { return begin == end; }
    void include(std::int64_t row) {
      begin = empty() ? row : std::min(begin, row);
      end = std::max(end, row + 1);
    }
  };

  DeviceRow device_row(const TensorRow& row) const {
    DeviceRow there{};
    there.parameter = row.parameter;
    there.kept = row.kept;
    std::copy(std::begin(row.state), std::end(row.state), std::begin(there.state));
    there.count = row.count;
    there.step_count = step_counts_.at(row.slot);
    there.options = options_.at(row.group);
    there.storage = row.storage;
    there.identity = row.identity;
    there.zero_gradient = row.zero_gradient;
    return there;
  }

  // Whether what is enqueued there becomes part of a graph. Refuses streams in which nothing of ours may be enqueued.
  bool is_captured(Stream stream, const char* what) const {
    // First, because a capture ends by most other questions about its stream.
    cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    const cudaError_t error = cudaStreamIsCapturing(stream, &status);
    if (error == cudaErrorStreamCaptureImplicit) {
      cudaGetLastError();
      throw std::invalid_argument(
          "adamant: " + std::string(what) +
          ": the default stream, which was given, waits for one that is being captured, and whatever is enqueued there "
          "ends that capture; allowed: another stream, or before the capture begins or after it has ended");
    }
    check(error, "cudaStreamIsCapturing", what);
    if (status != cudaStreamCaptureStatusNone) return true;
    int device = index_;
    if (stream != nullptr) ADAMANT_CUDA(cudaStreamGetDevice(stream, &device), what);
    if (device != index_) {  // kernels would be refused there, but not copies
      throw std::invalid_argument("adamant: " + std::string(what) + ": the stream belongs to " +
                                  name(Device::cuda(device)) + "; allowed: streams of " + name(Device::cuda(index_)));
    }
    return false;
  }

  void copy(void* to, const void* from, std::size_t bytes, Stream stream, const char* what) const {
    check_not_capturing(stream, what);
    const OnDevice on(index_, what);
    Copies copies(stream, what);
    copies.add(to, from, bytes);
    copies.wait();
  }

  template <typename T>
  void store(T* to, const T& value, Stream stream, const char* what) {
    const OnDevice on(index_, what);
    const bool captured = is_captured(stream, what);
    ADAMANT_CUDA(launch_store(to, value, stream), what);
    record_use(stream, captured);
  }

  std::string why_unusable(const std::byte* at) const {
    cudaPointerAttributes attributes{};
    ADAMANT_CUDA(cudaPointerGetAttributes(&attributes, at), "looking at a pointer");
    const std::string allowed = "; allowed: memory of " + name(Device::cuda(index_)) +
                                ", managed memory, or pinned host memory that is mapped there";
    switch (attributes.type) {
      case cudaMemoryTypeDevice:
        if (attributes.device == index_) return {};
        return "it is memory of " + name(Device::cuda(attributes.device)) + allowed;
      case cudaMemoryTypeManaged: return {};
      case cudaMemoryTypeHost:
        if (attributes.devicePointer == at) return {};
        return attributes.devicePointer == nullptr
                   ? "it is pinned host memory that is not mapped" + allowed
                   : "it is pinned host memory that has another address on the device, the one that "
                     "cudaHostGetDevicePointer() gives" +
                         allowed;
      default: return "it is ordinary host memory" + allowed;
    }
  }

  std::string which_were_stepped(const TileRange& failed) const {
    std::string stepped;
    for (const TileRange& tiles : ranges_) {
      if (tiles.begin < failed.begin) stepped += (stepped.empty() ? "" : "; ") + storage_name(tiles.storage);
    }
    return "launching the update of the tensors of " + storage_name(failed.storage) + "; " +
           (stepped.empty() ? "no tensor was stepped" : "stepped were those of " + stepped + ", and no others");
  }

  // What setters and steps write, beside what belongs to tensors and groups.
  struct StepState {
    Control control;
    StepReport report;
    StepReport next_report;
    Measured measured;
    std::int32_t non_finite;
  };
  // Kernels read them 16 bytes at a time.
  static_assert(offsetof(StepState, control) % 16 == 0 && offsetof(StepState, report) % 16 == 0);
  StepState* step_state() const { return reinterpret_cast<StepState*>(step_state_.get()); }

  void make_step_state() {
    const RelaxedCaptureMode relaxed;
    StepState first{};
    first.control = plain_control();
    first.report = first_report();
    std::shared_ptr<std::byte> memory = memory_->allocate(sizeof(StepState), "what steps do to gradients");
    Copies copies(memory_->stream(), "setting what steps do to gradients");
    copies.add(memory.get(), &first, sizeof first);
    copies.wait();
    step_state_ = std::move(memory);
  }

  void measure(Stream stream, bool captured) {
    if (norm_interrupted_) ADAMANT_CUDA(begin_norm_anew(stream, captured), "beginning the norm anew");
    for (const NormRange& range : norm_ranges_) {
      const NvtxRange launch("norm");
      const bool begins_early = begins_early_ && &range != &norm_ranges_.front();  // not the first of the step
      const cudaError_t error = launch_norm(range, device_tables_, norm_, begins_early, stream);
      if (error == cudaSuccess) continue;
      {
        // At once, because replays of a graph captured earlier do not; if it fails too, the next step tries again.
        const Quietly quietly;
        norm_interrupted_ = true;
        begin_norm_anew(stream, captured);
      }
      record_use(stream, captured);
      fail(error, "launch_norm", "launching the norm of gradients; no tensor was stepped");
    }
  }

  // Resets the norm's arrival counters and flag after a step that could not launch all of its norm kernels: the nodes
  // would go on waiting for values that never arrive. Where that is captured it has not happened yet, and may never.
  cudaError_t begin_norm_anew(Stream stream, bool captured) {
    cudaError_t error =
        cudaMemsetAsync(norm_.arrived, 0, static_cast<std::size_t>(norm_nodes_) * sizeof(unsigned), stream);
    if (error == cudaSuccess) error = cudaMemsetAsync(norm_.non_finite, 0, sizeof(std::int32_t), stream);
    norm_interrupted_ = error != cudaSuccess || captured;
    return error;
  }

  void bring_gradients(Stream stream) {
    const NvtxRange range("refresh");
    const auto first = static_cast<std::size_t>(changed_.begin);
    staging_->copy(const_cast<void**>(device_tables_.gradients) + first, gradients_.data() + first,
                   (changed_.end - changed_.begin) * static_cast<std::int64_t>(sizeof(void*)), stream);
    changed_ = {};
  }

  void record_use(Stream stream, bool captured) noexcept {
    if (captured) {
      captured_ = true;
      memory_->used_by_graph();
    } else {
      memory_->used_by(stream);
    }
  }

  const int index_;
  const int rule_;
  const int threads_;
  const bool begins_early_;
  std::shared_ptr<Memory> memory_;
  Chunks<std::int64_t, kStepCountsPerChunk> step_counts_;  // by slot
  Chunks<OptionBytes, kOptionsPerChunk> options_;          // by group
  std::shared_ptr<std::byte> step_state_;
  std::shared_ptr<std::byte> tables_;
  std::vector<std::shared_ptr<std::byte>> retired_;  // tables that captured graphs use
  DeviceTables device_tables_{};                     // where they are in it
  std::vector<TileRange> ranges_;
  NormTables norm_{};
  std::vector<NormRange> norm_ranges_;
  std::int64_t norm_nodes_ = 0;
  bool norm_interrupted_ = false;
  bool measures_ = false;
  std::vector<void*> gradients_;  // by row, as the next step shall find them
  Changed changed_;               // of those, what the device does not know yet
  std::optional<Staging> staging_;
  bool captured_ = false;  // since the plan was set
};

}  // namespace

std::unique_ptr<Backend> make_cuda_backend(int index, int rule, const Allocator& allocator, LaunchShape shape) {
  check_device(index);  // first: where there is no driver, every other call says just that
  const OnDevice on(index, "making an optimizer");
  const RelaxedCaptureMode relaxed;
  const cudaError_t found = find_kernels(rule);
  // The last four: it has PTX for this device, and the driver cannot or may not compile it.
  constexpr cudaError_t kNotBuilt[] = {cudaErrorNoKernelImageForDevice, cudaErrorInvalidDeviceFunction,
                                       cudaErrorUnsupportedPtxVersion,  cudaErrorJitCompilerNotFound,
                                       cudaErrorJitCompilationDisabled, cudaErrorInvalidPtx};
  if (std::find(std::begin(kNotBuilt), std::end(kNotBuilt), found) != std::end(kNotBuilt)) {
    cudaGetLastError();
    throw Unavailable("adamant: device " + name(Device::cuda(index)) + " has compute capability " +
                      compute_capability(index) + ", for which this library has no code that runs there (" +
                      cudaGetErrorName(found) +
                      "); build it with -DADAMANT_CUDA_ARCHITECTURES=native on this machine, or use the CPU");
  }
  check(found, "cudaFuncGetAttributes", "looking for the kernels");
  return std::make_unique<CudaBackend>(index, rule, allocator, shape);
}

}  // namespace adamant::kernels
