// The memory of a CUDA backend: what it has on the device, and what it has on the host for the device to read.
#pragma once

#include <cuda_runtime_api.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "adamant/allocator.hpp"
#include "kernels/tuning.hpp"

namespace adamant::kernels {

inline constexpr std::int64_t kAlignment = 256;

// "139.8 GiB"
std::string gibibytes(std::int64_t bytes);

// What outlives the backend for as long as memory of it is in use: the stream on which memory comes and goes, and the
// events behind which it goes.
class Memory : public std::enable_shared_from_this<Memory> {
 public:
  Memory(int index, const Allocator& allocator);
  ~Memory();
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  cudaStream_t stream() const { return stream_; }

  // What is enqueued in stream() from here on comes after what there is in the caller's.
  void after(cudaStream_t stream, const char* what) const;

  // Whatever was enqueued in the stream uses memory of ours. Cannot fail: what is not known is waited for. The last use
  // in another stream is not forgotten: the caller need not have ordered, say, a setter behind a step.
  void used_by(cudaStream_t stream) noexcept;
  // Waits for all of these uses.
  void finish(const char* what) const;
  // A graph that may be replayed at any time uses memory of ours, of what there is by now.
  void used_by_graph() noexcept { ++graphs_; }

  // Zeroed, and there for every stream.
  std::shared_ptr<std::byte> allocate(std::int64_t bytes, const char* what);

 private:
  struct Use {
    cudaEvent_t event = nullptr;  // recorded behind the last use in the stream
    unsigned long long stream_id = 0;
    bool is_recorded = false;
  };

  void* allocate_bytes(std::size_t size, const char* what);
  void release(std::byte* memory, std::size_t size, bool graphs_use_it) noexcept;
  void destroy_stream_and_events() noexcept;

  const int index_;
  const Allocator allocator_;
  bool stream_ordered_ = false;
  std::int64_t graphs_ = 0;  // that were captured
  bool has_untracked_use_ = false;
  cudaStream_t stream_ = nullptr;
  std::array<Use, kStreamsOfUse> last_uses_;  // of more streams than that stream_ takes the order of the earlier ones
  std::size_t next_use_ = 0;
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

// Host memory that the device reads by itself, in slots that are used in turn.
class Staging {
 public:
  Staging() = default;
  ~Staging();
  Staging(const Staging&) = delete;
  Staging& operator=(const Staging&) = delete;

  // Room for `bytes` in each slot. What is on its way keeps its memory until it has arrived.
  void reserve(std::int64_t bytes);

  // Copies host memory to the device through the next slot, waiting for the copy that used it before.
  void copy(void* to, const void* from, std::int64_t bytes, cudaStream_t stream);

 private:
  struct Slot {
    std::byte* data = nullptr;
    cudaEvent_t read = nullptr;  // recorded behind the copy from it
  };
  std::array<Slot, kStagedRefreshes> slots_;
  std::int64_t size_ = 0;
  std::size_t next_ = 0;
};

}  // namespace adamant::kernels
