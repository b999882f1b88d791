#include "kernels/cuda_memory.hpp"

#include <algorithm>
#include <charconv>
#include <cstring>
#include <new>
#include <stdexcept>
#include <string>

#include "adamant/error.hpp"
#include "kernels/cuda_scopes.hpp"

namespace adamant::kernels {

std::string gibibytes(std::int64_t bytes) {
  std::array<char, 32> text{};  // whatever the locale
  const auto end =
      std::to_chars(text.begin(), text.end(), static_cast<double>(bytes) * 0x1p-30, std::chars_format::fixed, 1);
  return std::string(text.begin(), end.ptr) + " GiB";
}

Memory::Memory(int index, const Allocator& allocator) : index_(index), allocator_(allocator) {
  int pools = 0;
  ADAMANT_CUDA(cudaDeviceGetAttribute(&pools, cudaDevAttrMemoryPoolsSupported, index_), "asking for memory pools");
  stream_ordered_ = pools != 0;
  ADAMANT_CUDA(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "making the optimizer's own stream");
  for (Use& use : last_uses_) {
    const cudaError_t error = cudaEventCreateWithFlags(&use.event, cudaEventDisableTiming);
    if (error == cudaSuccess) continue;
    destroy_stream_and_events();
    fail(error, "cudaEventCreateWithFlags", "making the events of last uses");
  }
}

Memory::~Memory() {
  const Quietly quietly;
  const OnDevice on(index_, std::nothrow);
  const RelaxedCaptureMode relaxed;
  // Its handle may be given again while it still waits, and an allocator of the user may know streams by their handles.
  if (allocator_.release != nullptr) cudaStreamSynchronize(stream_);
  destroy_stream_and_events();
}

void Memory::after(cudaStream_t stream, const char* what) const {
  cudaEvent_t there = nullptr;
  ADAMANT_CUDA(cudaEventCreateWithFlags(&there, cudaEventDisableTiming), what);
  cudaError_t error = cudaEventRecord(there, stream);
  if (error == cudaSuccess) error = cudaStreamWaitEvent(stream_, there, 0);
  const cudaError_t destroyed = cudaEventDestroy(there);  // when it is no longer needed
  check(error != cudaSuccess ? error : destroyed, "cudaEventRecord, cudaStreamWaitEvent", what);
}

void Memory::used_by(cudaStream_t stream) noexcept {
  const Quietly quietly;
  unsigned long long id = 0;  // a handle may be another stream in every thread, or be given again
  if (cudaStreamGetId(stream, &id) != cudaSuccess) {
    has_untracked_use_ = true;
    return;
  }
  Use* use = std::find_if(last_uses_.begin(), last_uses_.end(),
                          [&](const Use& other) { return other.is_recorded && other.stream_id == id; });
  if (use == last_uses_.end()) {
    use = &last_uses_.at(next_use_);
    next_use_ = (next_use_ + 1) % last_uses_.size();
    if (use->is_recorded && cudaStreamWaitEvent(stream_, use->event, 0) != cudaSuccess) has_untracked_use_ = true;
    use->stream_id = id;
  }
  use->is_recorded = cudaEventRecord(use->event, stream) == cudaSuccess;
  if (!use->is_recorded) has_untracked_use_ = true;
}

void Memory::finish(const char* what) const {
  for (const Use& use : last_uses_) {
    if (use.is_recorded) ADAMANT_CUDA(cudaEventSynchronize(use.event), what);
  }
  ADAMANT_CUDA(cudaStreamSynchronize(stream_), what);  // those of more streams
  if (has_untracked_use_) ADAMANT_CUDA(cudaDeviceSynchronize(), what);
}

std::shared_ptr<std::byte> Memory::allocate(std::int64_t bytes, const char* what) {
  const auto size = static_cast<std::size_t>(std::max<std::int64_t>(bytes, kAlignment));
  const RelaxedCaptureMode relaxed;
  void* const memory = allocate_bytes(size, what);
  std::shared_ptr<std::byte> owner(static_cast<std::byte*>(memory),
                                   [self = shared_from_this(), size, before = graphs_](std::byte* p) {
                                     self->release(p, size, self->graphs_ != before);
                                   });
  if (reinterpret_cast<std::uintptr_t>(memory) % kAlignment != 0) {
    throw std::invalid_argument("adamant: allocator: the memory it returned is not aligned to 256 bytes");
  }
  ADAMANT_CUDA(cudaMemsetAsync(memory, 0, size, stream_), what);
  ADAMANT_CUDA(cudaStreamSynchronize(stream_), what);
  return owner;
}

void* Memory::allocate_bytes(std::size_t size, const char* what) {
  const std::string needed =
      gibibytes(static_cast<std::int64_t>(size)) + " of " + name(Device::cuda(index_)) + " for " + what;
  void* memory = nullptr;
  if (allocator_.allocate != nullptr) {
    memory = allocator_.allocate(size, stream_, allocator_.user);
    if (memory != nullptr) return memory;
    throw OutOfDeviceMemory("adamant: out of memory: " + needed +
                            " were asked for, and the allocator that was given returned null");
  }
  const cudaError_t error = stream_ordered_ ? cudaMallocAsync(&memory, size, stream_) : cudaMalloc(&memory, size);
  if (error == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    std::size_t free = 0;
    std::size_t all = 0;
    const bool known = cudaMemGetInfo(&free, &all) == cudaSuccess;
    cudaGetLastError();
    throw OutOfDeviceMemory("adamant: out of memory: " + needed + " were asked for" +
                            (known ? ", and " + gibibytes(static_cast<std::int64_t>(free)) + " of " +
                                         gibibytes(static_cast<std::int64_t>(all)) + " are free"
                                   : "") +
                            "; free some, or let states and masters take less (state_type, Master::remainder)");
  }
  check(error, stream_ordered_ ? "cudaMallocAsync" : "cudaMalloc", what);
  return memory;
}

void Memory::release(std::byte* memory, std::size_t size, bool graphs_use_it) noexcept {
  const Quietly quietly;
  const OnDevice on(index_, std::nothrow);
  const RelaxedCaptureMode relaxed;
  bool all_seen = !has_untracked_use_ && !graphs_use_it;
  for (const Use& use : last_uses_) {
    if (use.is_recorded && cudaStreamWaitEvent(stream_, use.event, 0) != cudaSuccess) all_seen = false;
  }
  // While a stream of the device is being captured, the device cannot be synchronized: rather leak the memory than
  // reuse it while it is in use.
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

void Memory::destroy_stream_and_events() noexcept {
  for (const Use& use : last_uses_) {
    if (use.event != nullptr) cudaEventDestroy(use.event);
  }
  cudaStreamDestroy(stream_);
}

Staging::~Staging() {
  const Quietly quietly;
  for (const Slot& slot : slots_) {
    if (slot.read != nullptr) cudaEventSynchronize(slot.read);
    if (slot.data != nullptr) cudaFreeHost(slot.data);
    if (slot.read != nullptr) cudaEventDestroy(slot.read);
  }
}

void Staging::reserve(std::int64_t bytes) {
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
      if (error == cudaErrorMemoryAllocation) {
        cudaGetLastError();
        throw OutOfMemory(
            "adamant: out of memory: " + std::to_string(wanted) +
            " bytes of pinned host memory were asked for, to bring the addresses of gradients to the device");
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

void Staging::copy(void* to, const void* from, std::int64_t bytes, cudaStream_t stream) {
  Slot& slot = slots_.at(next_);
  const RelaxedCaptureMode relaxed;
  ADAMANT_CUDA(cudaEventSynchronize(slot.read), "waiting for an earlier refresh");
  std::memcpy(slot.data, from, static_cast<std::size_t>(bytes));
  ADAMANT_CUDA(cudaMemcpyAsync(to, slot.data, static_cast<std::size_t>(bytes), cudaMemcpyHostToDevice, stream),
               "refreshing the addresses of gradients");
  ADAMANT_CUDA(cudaEventRecord(slot.read, stream), "refreshing the addresses of gradients");
  next_ = (next_ + 1) % kStagedRefreshes;
}

}  // namespace adamant::kernels
