// The CUDA backend: tables and scratch memory resident on the device, two launches a step.
//
// What the caller gives a stream for is enqueued there. What allocates works on a stream of its own and waits for that
// stream before it returns, so that memory and tables are ready for any stream. Memory goes back in stream order,
// behind an event of each caller's stream, recorded after everything that is enqueued there.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <array>
#include <cstring>
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
#include "kernels/cuda_error.hpp"
#include "kernels/launch.hpp"
#include "kernels/storage.hpp"
#include "kernels/tuning.hpp"

#define ADAMANT_CUDA(call, what) ::adamant::kernels::check(call, #call, what)

namespace adamant::kernels {
namespace {

struct NvtxDomain {
  static constexpr const char* name = "adamant";
};
using NvtxRange = nvtx3::scoped_range_in<NvtxDomain>;

constexpr std::int64_t kAlignment = 256;

template <typename T>
std::int64_t bytes_of(std::int64_t count) {
  return (count * static_cast<std::int64_t>(sizeof(T)) + kAlignment - 1) / kAlignment * kAlignment;
}

// Makes a device current and puts back the one that was.
class OnDevice {
 public:
  explicit OnDevice(int index) : index_(index) {
    ADAMANT_CUDA(cudaGetDevice(&before_), "asking for the current device");
    if (before_ != index_) ADAMANT_CUDA(cudaSetDevice(index_), "making the optimizer's device current");
  }
  // For what gives memory back, which has nobody to tell of a failure and goes on as well as it can.
  OnDevice(int index, std::nothrow_t /*anyway*/) noexcept : before_(index), index_(index) {
    const bool known = cudaGetDevice(&before_) == cudaSuccess;
    if (!known) before_ = index_;
    if (!known || before_ != index_) cudaSetDevice(index_);
  }
  ~OnDevice() {
    if (before_ != index_ && cudaSetDevice(before_) != cudaSuccess) cudaGetLastError();
  }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;

 private:
  int before_ = 0;
  int index_;
};

// For what has nobody to tell of its failures: they are forgotten, but not an error that somebody else left behind.
class Quietly {
 public:
  ~Quietly() {
    if (nothing_left_behind_) cudaGetLastError();
  }
  Quietly() = default;
  Quietly(const Quietly&) = delete;
  Quietly& operator=(const Quietly&) = delete;

 private:
  bool nothing_left_behind_ = cudaPeekAtLastError() == cudaSuccess;
};

// Lets this thread allocate, and wait for a stream that is not captured, while some thread captures another.
class CaptureElsewhere {
 public:
  CaptureElsewhere() { cudaThreadExchangeStreamCaptureMode(&mode_); }
  ~CaptureElsewhere() { cudaThreadExchangeStreamCaptureMode(&mode_); }
  CaptureElsewhere(const CaptureElsewhere&) = delete;
  CaptureElsewhere& operator=(const CaptureElsewhere&) = delete;

 private:
  cudaStreamCaptureMode mode_ = cudaStreamCaptureModeRelaxed;
};

// Host memory that a stream copies to or from must stay until the copies have ended, also where something fails in
// between: declared behind that memory, this waits for them before it goes.
class Copies {
 public:
  explicit Copies(cudaStream_t stream) : stream_(stream) {}
  ~Copies() {
    if (ended_) return;
    const Quietly quietly;
    const CaptureElsewhere allowed;
    cudaStreamSynchronize(stream_);
  }
  Copies(const Copies&) = delete;
  Copies& operator=(const Copies&) = delete;

  void add(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind, const char* what) {
    if (bytes > 0) ADAMANT_CUDA(cudaMemcpyAsync(to, from, bytes, kind, stream_), what);
  }
  void wait(const char* what) {
    const CaptureElsewhere allowed;
    ADAMANT_CUDA(cudaStreamSynchronize(stream_), what);
    ended_ = true;
  }

 private:
  cudaStream_t stream_;
  bool ended_ = false;
};

std::string gigabytes(std::int64_t bytes) {
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), "%.3g GiB", static_cast<double>(bytes) * 0x1p-30);
  return text.data();
}

template <typename Type>
std::string type_name() {
  return std::string(name(adamant::detail::kDataType<Type>));
}

template <typename... List>
std::string storage_name(std::int32_t storage, TypeList<List...> /*storages*/) {
  const std::array names{type_name<typename List::Parameter>() + " with " + type_name<typename List::Gradient>() +
                         " gradients, " + type_name<typename List::State>() + " states and master " +
                         std::string(name(List::Master::kMaster))...};
  return names.at(static_cast<std::size_t>(storage));
}
std::string storage_name(std::int32_t storage) { return storage_name(storage, Storages{}); }

std::string device_name(int index) { return "cuda:" + std::to_string(index); }

// What outlives the backend for as long as memory of it is in use: the stream on which memory comes and goes, and the
// events behind which it goes.
class Memory : public std::enable_shared_from_this<Memory> {
 public:
  Memory(int index, const Allocator& allocator) : index_(index), allocator_(allocator) {
    int pools = 0;
    ADAMANT_CUDA(cudaDeviceGetAttribute(&pools, cudaDevAttrMemoryPoolsSupported, index_), "asking for memory pools");
    stream_ordered_ = pools != 0;
    ADAMANT_CUDA(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "making the optimizer's own stream");
    for (Use& use : last_uses_) {
      const cudaError_t error = cudaEventCreateWithFlags(&use.event, cudaEventDisableTiming);
      if (error == cudaSuccess) continue;
      give_back();
      fail(error, "cudaEventCreateWithFlags", "making the events of last uses");
    }
  }
  ~Memory() {
    const Quietly quietly;
    const OnDevice on(index_, std::nothrow);
    const CaptureElsewhere allowed;
    give_back();
  }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  cudaStream_t stream() const { return stream_; }

  // What is enqueued in stream() from here on comes after what there is in the caller's.
  void after(cudaStream_t stream, const char* what) const {
    cudaEvent_t there = nullptr;
    ADAMANT_CUDA(cudaEventCreateWithFlags(&there, cudaEventDisableTiming), what);
    cudaError_t error = cudaEventRecord(there, stream);
    if (error == cudaSuccess) error = cudaStreamWaitEvent(stream_, there, 0);
    const cudaError_t destroyed = cudaEventDestroy(there);  // when it is no longer needed
    check(error != cudaSuccess ? error : destroyed, "cudaEventRecord, cudaStreamWaitEvent", what);
  }

  // Whatever was enqueued in the stream uses memory of ours. Cannot fail: what is not known is waited for. The last use
  // in another stream is not forgotten: the caller need not have ordered, say, a setter behind a step.
  void used_by(cudaStream_t stream) noexcept {
    const Quietly quietly;
    Use* use = std::find_if(last_uses_.begin(), last_uses_.end(),
                            [&](const Use& other) { return other.is_recorded && other.stream == stream; });
    if (use == last_uses_.end()) {
      use = &last_uses_.at(next_use_);
      next_use_ = (next_use_ + 1) % last_uses_.size();
      if (use->is_recorded && cudaStreamWaitEvent(stream_, use->event, 0) != cudaSuccess) used_unseen_ = true;
      use->stream = stream;
    }
    use->is_recorded = cudaEventRecord(use->event, stream) == cudaSuccess;
    if (!use->is_recorded) used_unseen_ = true;
  }
  // A graph that may be replayed at any time uses memory of ours.
  void used_by_graph() noexcept { used_unseen_ = true; }

  std::shared_ptr<std::byte> allocate(std::int64_t bytes, const char* what) {
    const auto size = static_cast<std::size_t>(std::max<std::int64_t>(bytes, kAlignment));
    const CaptureElsewhere allowed;
    void* memory = nullptr;
    if (allocator_.allocate != nullptr) {
      memory = allocator_.allocate(size, stream_, allocator_.user);
      if (memory == nullptr) {
        throw OutOfDeviceMemory("adamant: " + std::string(what) + " needs " + gigabytes(bytes) + " of " +
                                device_name(index_) + ", and the allocator that was given returned null");
      }
    } else {
      const cudaError_t error = stream_ordered_ ? cudaMallocAsync(&memory, size, stream_) : cudaMalloc(&memory, size);
      if (error == cudaErrorMemoryAllocation) {
        cudaGetLastError();
        std::size_t free = 0;
        std::size_t all = 0;
        const bool known = cudaMemGetInfo(&free, &all) == cudaSuccess;
        cudaGetLastError();
        throw OutOfDeviceMemory("adamant: " + std::string(what) + " needs " + gigabytes(bytes) + " of " +
                                device_name(index_) +
                                (known ? ", where " + gigabytes(static_cast<std::int64_t>(free)) + " of " +
                                             gigabytes(static_cast<std::int64_t>(all)) + " are free"
                                       : ", which has not that much free"));
      }
      check(error, stream_ordered_ ? "cudaMallocAsync" : "cudaMalloc", what);
    }
    std::shared_ptr<std::byte> owner(static_cast<std::byte*>(memory),
                                     [self = shared_from_this(), size](std::byte* p) { self->release(p, size); });
    if (reinterpret_cast<std::uintptr_t>(memory) % kAlignment != 0) {
      throw std::invalid_argument("adamant: allocator: the memory it returned is not aligned to 256 bytes");
    }
    ADAMANT_CUDA(cudaMemsetAsync(memory, 0, size, stream_), what);
    wait(what);
    return owner;
  }

  void wait(const char* what) const { ADAMANT_CUDA(cudaStreamSynchronize(stream_), what); }

 private:
  void release(std::byte* memory, std::size_t size) noexcept {
    const Quietly quietly;
    const OnDevice on(index_, std::nothrow);
    const CaptureElsewhere allowed;
    bool all_seen = !used_unseen_;
    for (const Use& use : last_uses_) {
      if (use.is_recorded && cudaStreamWaitEvent(stream_, use.event, 0) != cudaSuccess) all_seen = false;
    }
    // While some stream of the device is being captured nobody may wait for the device: better lost than used twice.
    if (!all_seen && cudaDeviceSynchronize() == cudaErrorStreamCaptureUnsupported) return;
    if (allocator_.release != nullptr) {
      allocator_.release(memory, size, stream_, allocator_.user);
    } else if (stream_ordered_) {
      cudaFreeAsync(memory, stream_);
    } else {
      cudaStreamSynchronize(stream_);
      cudaFree(memory);
    }
  }

  void give_back() noexcept {
    for (const Use& use : last_uses_) {
      if (use.event != nullptr) cudaEventDestroy(use.event);
    }
    cudaStreamDestroy(stream_);
  }

  struct Use {
    cudaEvent_t event = nullptr;  // recorded behind the last use in `stream`
    cudaStream_t stream = nullptr;
    bool is_recorded = false;
  };

  const int index_;
  const Allocator allocator_;
  bool stream_ordered_ = false;
  bool used_unseen_ = false;
  cudaStream_t stream_ = nullptr;
  std::array<Use, kStreamsOfUse> last_uses_;  // of more streams than that stream_ takes the order of the earlier ones
  std::size_t next_use_ = 0;
};

// Host memory that the device reads by itself, in slots that are used in turn.
class Staging {
 public:
  Staging() = default;
  ~Staging() {
    const Quietly quietly;
    for (const Slot& slot : slots_) {
      if (slot.read != nullptr) cudaEventSynchronize(slot.read);
      if (slot.data != nullptr) cudaFreeHost(slot.data);
      if (slot.read != nullptr) cudaEventDestroy(slot.read);
    }
  }
  Staging(const Staging&) = delete;
  Staging& operator=(const Staging&) = delete;

  // Room for `bytes` in each slot. What is on its way keeps its memory until it has arrived.
  void reserve(std::int64_t bytes) {
    if (bytes <= size_) return;
    const std::int64_t wanted = bytes + bytes / 2;
    for (Slot& slot : slots_) {
      if (slot.read == nullptr) {
        ADAMANT_CUDA(cudaEventCreateWithFlags(&slot.read, cudaEventDisableTiming), "making an event for refreshes");
      }
    }
    std::array<void*, kStagedRefreshes> fresh{};
    for (void*& data : fresh) {
      if (const cudaError_t error = cudaMallocHost(&data, static_cast<std::size_t>(wanted)); error != cudaSuccess) {
        for (void* other : fresh) {
          if (other != nullptr) cudaFreeHost(other);
        }
        check(error, "cudaMallocHost", "making the staging memory of refreshes");
      }
    }
    for (int i = 0; i < kStagedRefreshes; ++i) {
      Slot& slot = slots_.at(static_cast<std::size_t>(i));
      if (slot.data != nullptr) {
        cudaEventSynchronize(slot.read);  // before its memory goes; an error of the device shows in the next call
        cudaFreeHost(slot.data);
      }
      slot.data = static_cast<std::byte*>(fresh.at(static_cast<std::size_t>(i)));
    }
    size_ = wanted;
  }

  // Copies host memory to the device through the next slot, waiting for the copy that used it before.
  void copy(void* to, const void* from, std::int64_t bytes, cudaStream_t stream) {
    Slot& slot = slots_.at(next_);
    const CaptureElsewhere allowed;
    ADAMANT_CUDA(cudaEventSynchronize(slot.read), "waiting for an earlier refresh");
    std::memcpy(slot.data, from, static_cast<std::size_t>(bytes));
    ADAMANT_CUDA(cudaMemcpyAsync(to, slot.data, static_cast<std::size_t>(bytes), cudaMemcpyHostToDevice, stream),
                 "refreshing the addresses of gradients");
    ADAMANT_CUDA(cudaEventRecord(slot.read, stream), "refreshing the addresses of gradients");
    next_ = (next_ + 1) % kStagedRefreshes;
  }

 private:
  struct Slot {
    std::byte* data = nullptr;
    cudaEvent_t read = nullptr;  // recorded behind the copy from it
  };
  std::array<Slot, kStagedRefreshes> slots_;
  std::int64_t size_ = 0;
  std::size_t next_ = 0;
};

// Objects in chunks that never move.
template <typename T, std::int64_t kPerChunk>
class Chunks {
 public:
  std::int64_t size() const { return static_cast<std::int64_t>(chunks_.size()) * kPerChunk; }
  T* at(std::int64_t index) const {
    return reinterpret_cast<T*>(chunks_[static_cast<std::size_t>(index / kPerChunk)].get()) + index % kPerChunk;
  }
  void reserve(std::int64_t count, Memory& memory, const char* what) {
    while (size() < count) chunks_.push_back(memory.allocate(kPerChunk * static_cast<std::int64_t>(sizeof(T)), what));
  }
  // How many from `index` on lie in one piece.
  static std::int64_t in_one_piece(std::int64_t index) { return kPerChunk - index % kPerChunk; }

 private:
  std::vector<std::shared_ptr<std::byte>> chunks_;
};

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
    const CaptureElsewhere allowed;
    tables_.reset();
    retired_.clear();
    staging_.reset();
  }
  CudaBackend(const CudaBackend&) = delete;
  CudaBackend& operator=(const CudaBackend&) = delete;

  std::shared_ptr<std::byte> allocate(std::int64_t bytes) override {
    const OnDevice on(index_);
    check_nothing_left_behind("allocating states");
    return memory_->allocate(bytes, "the states of the tensors that were added");
  }

  std::string why_unusable(const void* data, std::int64_t bytes) const override {
    if (bytes == 0) return {};
    const OnDevice on(index_);
    check_nothing_left_behind("looking at a tensor");
    const auto* first = static_cast<const std::byte*>(data);
    std::string why = why_unusable(first);
    if (!why.empty()) return why;
    why = why_unusable(first + bytes - 1);
    return why.empty() ? why : "it begins in memory of the device, but its last byte does not: there " + why;
  }

  void check_not_capturing(Stream stream, const char* what) const override {
    const OnDevice on(index_);
    if (is_capturing(stream)) {
      throw std::invalid_argument("adamant: " + std::string(what) +
                                  ": the stream is being captured, and this cannot be part of a graph; allowed: before "
                                  "the capture begins or after it has ended");
    }
  }

  void reserve(std::int64_t slots, std::int64_t groups) override {
    if (slots <= step_counts_.size() && groups <= options_.size() && common_ != nullptr) return;
    const OnDevice on(index_);
    check_nothing_left_behind("making room for tensors and groups");
    if (common_ == nullptr) make_common();
    step_counts_.reserve(slots, *memory_, "room for step counts");
    options_.reserve(groups, *memory_, "room for the options of groups");
  }

  void set_plan(StepPlan plan) override {
    const OnDevice on(index_);
    check_nothing_left_behind("building the plan");
    const CaptureElsewhere allowed;
    for (const TileRange& range : plan.ranges) ADAMANT_CUDA(load_kernels(rule_, range), "loading the update");
    for (const NormRange& range : plan.norm.ranges) ADAMANT_CUDA(load_kernels(range), "loading the norm");
    const auto row_count = static_cast<std::int64_t>(plan.rows.size());
    const auto tile_count = static_cast<std::int64_t>(plan.tiles.size());
    std::vector<DeviceRow> rows;
    rows.reserve(plan.rows.size());
    std::vector<void*> gradients;
    gradients.reserve(plan.rows.size());
    for (const TensorRow& row : plan.rows) {
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
      rows.push_back(there);
      gradients.push_back(const_cast<void*>(row.gradient));  // written only where it was given to be
    }

    const std::int64_t rows_at = 0;
    const std::int64_t gradients_at = rows_at + bytes_of<DeviceRow>(row_count);
    const std::int64_t tiles_at = gradients_at + bytes_of<void*>(row_count);
    const std::int64_t scalars_at = tiles_at + bytes_of<Tile>(tile_count);
    const std::int64_t leaves_at = scalars_at + bytes_of<RowScalars>(row_count);
    const std::int64_t nodes_at = leaves_at + bytes_of<NormLeaf>(std::ssize(plan.norm.leaves));
    const std::int64_t values_at = nodes_at + bytes_of<NormNode>(std::ssize(plan.norm.nodes));
    const std::int64_t arrived_at = values_at + bytes_of<double>(plan.norm.values);
    const std::int64_t bytes = arrived_at + bytes_of<unsigned>(std::ssize(plan.norm.nodes));
    std::shared_ptr<std::byte> tables = memory_->allocate(bytes, "the tables of tensors and tiles");
    Copies copies(memory_->stream());
    const auto upload = [&](std::int64_t at, std::span<const std::byte> from) {
      copies.add(tables.get() + at, from.data(), from.size(), cudaMemcpyHostToDevice, "building the plan");
    };
    upload(rows_at, std::as_bytes(std::span(rows)));
    upload(gradients_at, std::as_bytes(std::span(gradients)));
    upload(tiles_at, std::as_bytes(std::span(plan.tiles)));
    upload(leaves_at, std::as_bytes(std::span(plan.norm.leaves)));
    upload(nodes_at, std::as_bytes(std::span(plan.norm.nodes)));
    copies.wait("building the plan");
    if (!staging_) staging_.emplace();
    staging_->reserve(bytes_of<void*>(row_count));
    retired_.reserve(retired_.size() + 1);

    // A graph that was captured with the former tables may be replayed as long as this object lives.
    if (captured_) retired_.push_back(std::move(tables_));
    captured_ = false;
    std::byte* const at = tables.get();
    device_ = {.rows = reinterpret_cast<const DeviceRow*>(at + rows_at),
               .gradients = reinterpret_cast<void* const*>(at + gradients_at),
               .tiles = reinterpret_cast<const Tile*>(at + tiles_at),
               .scalars = reinterpret_cast<RowScalars*>(at + scalars_at),
               .control = &common()->control,
               .measured = nullptr,
               .report = &common()->report,
               .next_report = &common()->next_report,
               .row_count = row_count,
               .tile_size = plan.tile_size};
    norm_ = {.leaves = reinterpret_cast<const NormLeaf*>(at + leaves_at),
             .nodes = reinterpret_cast<const NormNode*>(at + nodes_at),
             .values = reinterpret_cast<double*>(at + values_at),
             .arrived = reinterpret_cast<unsigned*>(at + arrived_at),
             .non_finite = &common()->non_finite,
             .measured = &common()->measured};
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
    const OnDevice on(index_);
    check_nothing_left_behind("prepare");
    bring_gradients(stream);
    memory_->used_by(stream);
  }

  void set_first_options(std::int32_t group, const Method& options) override {
    const OnDevice on(index_);
    check_nothing_left_behind("setting the options of a new group");
    const CaptureElsewhere allowed;
    const OptionBytes bytes = option_bytes(rule_, options);
    Copies copies(memory_->stream());
    copies.add(options_.at(group), &bytes, sizeof bytes, cudaMemcpyHostToDevice, "setting the options of a new group");
    copies.wait("setting the options of a new group");
  }

  void set_options(std::int32_t group, const Method& options, Stream stream) override {
    const OnDevice on(index_);
    check_nothing_left_behind("setting options");
    const bool captured = is_capturing(stream);
    ADAMANT_CUDA(launch_store(options_.at(group), option_bytes(rule_, options), stream), "setting options");
    used(stream, captured);
  }

  void set_step_count(std::int64_t slot, std::int64_t count, Stream stream) override {
    const OnDevice on(index_);
    check_nothing_left_behind("setting a step count");
    const bool captured = is_capturing(stream);
    ADAMANT_CUDA(launch_store(step_counts_.at(slot), count, stream), "setting a step count");
    used(stream, captured);
  }

  void read_step_counts(std::int64_t first, std::span<std::int64_t> counts, Stream stream) const override {
    check_not_capturing(stream, "reading step counts");
    const OnDevice on(index_);
    check_nothing_left_behind("reading step counts");
    Copies copies(stream);
    while (!counts.empty()) {
      const auto length = std::min(counts.size(), static_cast<std::size_t>(step_counts_.in_one_piece(first)));
      copies.add(counts.data(), step_counts_.at(first), length * sizeof(std::int64_t), cudaMemcpyDeviceToHost,
                 "reading step counts");
      counts = counts.subspan(length);
      first += static_cast<std::int64_t>(length);
    }
    copies.wait("reading step counts");
  }

  void set_control(const Control& control, Stream stream) override {
    const OnDevice on(index_);
    check_nothing_left_behind("setting what steps do to gradients");
    const bool captured = is_capturing(stream);
    ADAMANT_CUDA(launch_store(&common()->control, control, stream), "setting what steps do to gradients");
    used(stream, captured);
    measures_ = control.measures != 0;
  }

  const StepReport* report() const override { return &common()->report; }

  void set_report(const StepReport& report, Stream stream) override {
    const OnDevice on(index_);
    check_nothing_left_behind("setting the report of steps");
    const bool captured = is_capturing(stream);
    ADAMANT_CUDA(launch_store(&common()->report, report, stream), "setting the report of steps");
    used(stream, captured);
  }

  StepReport read_report(Stream stream) const override {
    check_not_capturing(stream, "reading the report of steps");
    const OnDevice on(index_);
    check_nothing_left_behind("reading the report of steps");
    StepReport report{};
    Copies copies(stream);
    copies.add(&report, &common()->report, sizeof report, cudaMemcpyDeviceToHost, "reading the report of steps");
    copies.wait("reading the report of steps");
    return report;
  }

  void make_master(std::int32_t storage, void* kept, const void* parameter, std::int64_t count,
                   Stream stream) override {
    const OnDevice on(index_);
    check_nothing_left_behind("making a master");
    const CaptureElsewhere allowed;
    memory_->after(stream, "making a master");
    ADAMANT_CUDA(launch_make_master(storage, kept, parameter, count, memory_->stream()), "making a master");
  }

  void step(Stream stream) override {
    if (device_.row_count == 0) return;
    const NvtxRange range("step");
    const OnDevice on(index_);
    check_nothing_left_behind("step");
    const bool captured = is_capturing(stream);
    if (!changed_.empty()) {
      if (captured) {
        throw std::invalid_argument(
            "adamant: step: the stream is being captured while gradients are still to be re-pointed; call "
            "prepare(stream) "
            "between set_gradient() and the beginning of the capture");
      }
      bring_gradients(stream);
    }
    device_.measured = measures_ ? norm_.measured : nullptr;
    if (measures_) measure(stream, captured);
    {
      const NvtxRange launch("scalars");
      const cudaError_t error = launch_scalars(rule_, device_, stream);
      if (error != cudaSuccess) {
        used(stream, captured);  // by the norm
        fail(error, "launch_scalars", "launching the scalars of a step; no tensor was stepped");
      }
    }
    for (const TileRange& tiles : ranges_) {
      const NvtxRange launch("update");
      const UpdateLaunch how{.threads = threads_,
                             .begins_early = begins_early_ && &tiles == &ranges_.front(),  // which follows the scalars
                             .commits_report = &tiles == &ranges_.back()};
      const cudaError_t error = launch_update(rule_, tiles, device_, how, stream);
      if (error == cudaSuccess) continue;
      used(stream, captured);
      fail(error, "launch_update", which_were_stepped(tiles));
    }
    used(stream, captured);
  }

  void zero(void* data, std::int64_t bytes, Stream stream) override {
    if (bytes == 0) return;
    const OnDevice on(index_);
    check_nothing_left_behind("zeroing");
    const bool captured = is_capturing(stream);
    ADAMANT_CUDA(cudaMemsetAsync(data, 0, static_cast<std::size_t>(bytes), stream), "zeroing");
    used(stream, captured);
  }

  std::span<const std::byte> read(const void* data, std::int64_t bytes, std::vector<std::byte>& staging,
                                  Stream stream) const override {
    check_not_capturing(stream, "reading device memory");
    const OnDevice on(index_);
    check_nothing_left_behind("reading device memory");
    staging.resize(static_cast<std::size_t>(bytes));
    Copies copies(stream);
    copies.add(staging.data(), data, staging.size(), cudaMemcpyDeviceToHost, "reading device memory");
    copies.wait("reading device memory");
    return staging;
  }

  void write(void* data, std::span<const std::byte> bytes, Stream stream) override {
    if (bytes.empty()) return;
    check_not_capturing(stream, "writing device memory");
    const OnDevice on(index_);
    check_nothing_left_behind("writing device memory");
    Copies copies(stream);
    copies.add(data, bytes.data(), bytes.size(), cudaMemcpyHostToDevice, "writing device memory");
    copies.wait("writing device memory");
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

  static bool is_capturing(Stream stream) {
    cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    ADAMANT_CUDA(cudaStreamIsCapturing(stream, &status), "asking whether the stream is being captured");
    return status != cudaStreamCaptureStatusNone;
  }

  std::string why_unusable(const std::byte* at) const {
    cudaPointerAttributes attributes{};
    ADAMANT_CUDA(cudaPointerGetAttributes(&attributes, at), "looking at a pointer");
    const std::string allowed =
        "; allowed: memory of " + device_name(index_) + ", managed memory, or pinned host memory that is mapped there";
    switch (attributes.type) {
      case cudaMemoryTypeDevice:
        if (attributes.device == index_) return {};
        return "it is memory of " + device_name(attributes.device) + allowed;
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
      if (tiles.begin < failed.begin) stepped += (stepped.empty() ? "" : " and ") + storage_name(tiles.storage);
    }
    return "launching the update of the tensors of " + storage_name(failed.storage) + "; " +
           (stepped.empty() ? "no tensor was stepped" : "stepped were those of " + stepped + ", and no others");
  }

  // What setters and steps write, beside what belongs to tensors and groups.
  struct Common {
    Control control;
    StepReport report;
    StepReport next_report;
    Measured measured;
    std::int32_t non_finite;
  };
  Common* common() const { return reinterpret_cast<Common*>(common_.get()); }

  void make_common() {
    const CaptureElsewhere allowed;
    Common first{};
    first.control = plain_control();
    first.report = first_report();
    std::shared_ptr<std::byte> memory = memory_->allocate(sizeof(Common), "room for what steps do to gradients");
    Copies copies(memory_->stream());
    copies.add(memory.get(), &first, sizeof first, cudaMemcpyHostToDevice, "setting what steps do to gradients");
    copies.wait("setting what steps do to gradients");
    common_ = std::move(memory);
  }

  void measure(Stream stream, bool captured) {
    if (norm_interrupted_) ADAMANT_CUDA(begin_norm_anew(stream), "beginning the norm anew");
    for (const NormRange& range : norm_ranges_) {
      const NvtxRange launch("norm");
      const cudaError_t error = launch_norm(range, device_, norm_, stream);
      if (error == cudaSuccess) continue;
      {
        // At once, for a graph that was captured before; if that fails too, with the next step.
        const Quietly quietly;
        norm_interrupted_ = true;
        begin_norm_anew(stream);
      }
      used(stream, captured);
      fail(error, "launch_norm", "launching the norm of gradients; no tensor was stepped");
    }
  }

  // Where a step could not launch all of its norm kernels, nodes wait for what will not come.
  cudaError_t begin_norm_anew(Stream stream) {
    cudaError_t error =
        cudaMemsetAsync(norm_.arrived, 0, static_cast<std::size_t>(norm_nodes_) * sizeof(unsigned), stream);
    if (error == cudaSuccess) error = cudaMemsetAsync(norm_.non_finite, 0, sizeof(std::int32_t), stream);
    norm_interrupted_ = error != cudaSuccess;
    return error;
  }

  void bring_gradients(Stream stream) {
    const NvtxRange range("refresh");
    const auto first = static_cast<std::size_t>(changed_.begin);
    staging_->copy(const_cast<void**>(device_.gradients) + first, gradients_.data() + first,
                   (changed_.end - changed_.begin) * static_cast<std::int64_t>(sizeof(void*)), stream);
    changed_ = {};
  }

  void used(Stream stream, bool captured) noexcept {
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
  std::shared_ptr<std::byte> common_;
  std::shared_ptr<std::byte> tables_;
  std::vector<std::shared_ptr<std::byte>> retired_;  // tables that captured graphs use
  DeviceTables device_{};                            // where they are in it
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

std::string version_text(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

int device_count_or_throw(int wanted) {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess) cudaGetLastError();  // what somebody else has left behind stays for who looks for it
  const std::string asked = "adamant: device " + device_name(wanted) + " was asked for, but ";
  if (error == cudaErrorInsufficientDriver) {
    int driver = 0;
    int runtime = 0;
    cudaDriverGetVersion(&driver);
    cudaRuntimeGetVersion(&runtime);
    cudaGetLastError();
    throw Unavailable(asked + (driver == 0 ? "there is no NVIDIA driver on this machine; install one, or use the CPU"
                                           : "the NVIDIA driver is too old: it supports CUDA up to " +
                                                 version_text(driver) + ", this library was built with CUDA " +
                                                 version_text(runtime) + "; update the driver, or use the CPU"));
  }
  if (error == cudaErrorNoDevice || (error == cudaSuccess && count == 0)) {
    throw Unavailable(asked + "CUDA sees no device (" + to_text(cudaErrorNoDevice) +
                      "; CUDA_VISIBLE_DEVICES may hide it); use the CPU");
  }
  if (error != cudaSuccess) throw Unavailable(asked + "CUDA does not start: " + to_text(error));
  if (wanted >= count) {
    throw Unavailable(asked + "there " +
                      (count == 1 ? "is only cuda:0" : "are only cuda:0 to " + device_name(count - 1)));
  }
  return count;
}

std::string capability(int index) {
  int major = 0;
  int minor = 0;
  ADAMANT_CUDA(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, index), "asking what the device is");
  ADAMANT_CUDA(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, index), "asking what the device is");
  return std::to_string(major) + "." + std::to_string(minor);
}

}  // namespace

std::unique_ptr<Backend> make_cuda_backend(int index, int rule, const Allocator& allocator, LaunchShape shape) {
  device_count_or_throw(index);  // first: where there is no driver, every other call says just that
  check_nothing_left_behind("making an optimizer");
  const OnDevice on(index);
  const CaptureElsewhere allowed;
  const cudaError_t found = find_kernels(rule);
  if (found == cudaErrorNoKernelImageForDevice || found == cudaErrorInvalidDeviceFunction) {
    cudaGetLastError();
    throw Unavailable("adamant: device " + device_name(index) + " has compute capability " + capability(index) +
                      ", for which this library was not built; build it with -DADAMANT_CUDA_ARCHITECTURES=native on "
                      "this machine, or use the CPU");
  }
  check(found, "cudaFuncGetAttributes", "looking for the kernels");
  return std::make_unique<CudaBackend>(index, rule, allocator, shape);
}

std::vector<std::string> cuda_devices() {
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess) count = 0;
  cudaGetLastError();
  std::vector<std::string> devices;
  for (int index = 0; index < count; ++index) {
    cudaDeviceProp properties{};
    if (cudaGetDeviceProperties(&properties, index) != cudaSuccess) break;
    devices.push_back(std::string(properties.name) + ", compute capability " + std::to_string(properties.major) + "." +
                      std::to_string(properties.minor) + ", " + std::to_string(properties.multiProcessorCount) +
                      " SMs, " + gigabytes(static_cast<std::int64_t>(properties.totalGlobalMem)));
  }
  cudaGetLastError();
  return devices;
}

std::int64_t cuda_memory_available(int index) {
  device_count_or_throw(index);
  const OnDevice on(index);
  std::size_t free = 0;
  std::size_t all = 0;
  ADAMANT_CUDA(cudaMemGetInfo(&free, &all), "asking how much memory is free");
  return static_cast<std::int64_t>(free);
}

}  // namespace adamant::kernels
