// One array in device memory as threads access it: kAccessBytes at a time wherever its address allows it.
#pragma once

#include <cstdint>
#include <type_traits>

namespace adamant::kernels {

inline constexpr int kAccessBytes = 16;
inline constexpr std::int64_t kLineBytes = 128;

// The compiler moves no memory access across it and keeps nothing that it has read from memory in registers.
__device__ __forceinline__ void compiler_barrier() { asm volatile("" ::: "memory"); }

// kCount elements in registers, laid out as in memory. 16-bit elements stay packed two to a register: left to itself
// the compiler gives each a register of its own, which leaves none for the arithmetic.
template <typename T, int kCount, bool kIsNarrow = sizeof(T) == 2>
struct Lanes {
  T values[kCount];
  __device__ __forceinline__ T get(int i) const { return values[i]; }
  // Elements i, which is even, and i + 1.
  __device__ __forceinline__ void set(int i, T first, T second) {
    values[i] = first;
    values[i + 1] = second;
  }
};
template <typename T, int kCount>
struct Lanes<T, kCount, true> {
  std::uint32_t words[kCount / 2];
  __device__ __forceinline__ T get(int i) const {
    std::uint32_t word;
    asm volatile("mov.b32 %0, %1;" : "=r"(word) : "r"(words[i / 2]));
    const auto bits = static_cast<std::uint16_t>(i % 2 == 0 ? word : word >> 16);
    T value;
    memcpy(&value, &bits, sizeof value);
    return value;
  }
  // Two at a time, because a half that is put to a half which stays takes more instructions.
  __device__ __forceinline__ void set(int i, T first, T second) {
    std::uint16_t low;
    std::uint16_t high;
    memcpy(&low, &first, sizeof low);
    memcpy(&high, &second, sizeof high);
    asm volatile("mov.b32 %0, {%1, %2};" : "=r"(words[i / 2]) : "h"(low), "h"(high));
  }
};

// A T that lies at `from`, which is aligned to 16 bytes, in as few accesses as there can be.
template <typename T>
__device__ __forceinline__ T load_in_pieces(const void* from) {
  constexpr int kPieces = (sizeof(T) + sizeof(uint4) - 1) / sizeof(uint4);
  uint4 pieces[kPieces];
#pragma unroll
  for (int i = 0; i < kPieces; ++i) pieces[i] = static_cast<const uint4*>(from)[i];
  T value;
  memcpy(&value, pieces, sizeof value);
  return value;
}

// A strong load: returns what any SM has written, even where this SM's L1 cache has a stale line.
__device__ __forceinline__ uint4 strong_load(const uint4* at) {
  uint4 value;
  asm volatile("ld.relaxed.gpu.global.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
               : "l"(at));
  return value;
}
__device__ __forceinline__ void* strong_load(void* const* at) {
  std::uint64_t address;
  asm volatile("ld.relaxed.gpu.global.u64 %0, [%1];" : "=l"(address) : "l"(at));
  return reinterpret_cast<void*>(address);
}

template <typename T>
struct DeviceStream {
  T* data;

  // Whether vectors may be accessed kAccessBytes at a time, those that begin at a multiple of their size.
  __device__ __forceinline__ bool is_wide() const { return reinterpret_cast<std::uintptr_t>(data) % kAccessBytes == 0; }

  // Addresses that come out of a table could be of any memory space for all the compiler knows.
  __device__ __forceinline__ T* global() const {
    T* const address = data;
    __builtin_assume(__isGlobal(address));
    return address;
  }

  // A whole vector of what is_wide().
  template <int kCount>
  __device__ __forceinline__ void load_wide(int first, Lanes<std::remove_const_t<T>, kCount>& lanes) const {
    load_pieces(global() + first, lanes, [](const uint4* at) { return *at; });
  }

  // Elements [first, first + there) into the beginning of `lanes`; the others are zero.
  template <int kCount>
  __device__ __forceinline__ void load(int first, int there, Lanes<std::remove_const_t<T>, kCount>& lanes) const {
    const T* const at = global() + first;  // before the branch: what is known of it in one only is forgotten
    if (is_wide() && there == kCount) {
      load_pieces(at, lanes, [](const uint4* piece) { return *piece; });
    } else {
      load_elements(at, there, lanes);
    }
  }

  // load() in two parts: load_early() loads whole vectors only, with strong loads, and load_late() everything else.
  // Element by element, each strong load would fetch the line again.
  template <int kCount>
  __device__ __forceinline__ void load_early(int first, int there, Lanes<std::remove_const_t<T>, kCount>& lanes) const {
    const T* const at = global() + first;
    if (is_wide() && there == kCount) load_pieces(at, lanes, [](const uint4* piece) { return strong_load(piece); });
  }
  template <int kCount>
  __device__ __forceinline__ void load_late(int first, int there, Lanes<std::remove_const_t<T>, kCount>& lanes) const {
    const T* const at = global() + first;
    if (!is_wide() || there != kCount) load_elements(at, there, lanes);
  }

  template <int kCount>
  __device__ __forceinline__ void store(int first, int there, const Lanes<T, kCount>& lanes) const {
    constexpr int kAccesses = static_cast<int>(sizeof(lanes)) / kAccessBytes;
    T* const at = global() + first;
    if (is_wide() && there == kCount) {
      uint4 pieces[kAccesses];
      memcpy(pieces, &lanes, sizeof(lanes));
#pragma unroll
      for (int i = 0; i < kAccesses; ++i) reinterpret_cast<uint4*>(at)[i] = pieces[i];
    } else {
      T values[kCount];
      memcpy(values, &lanes, sizeof(lanes));
#pragma unroll
      for (int i = 0; i < kCount; ++i) {
        if (i < there) at[i] = values[i];
      }
    }
  }

 private:
  template <int kCount, typename Load>
  __device__ __forceinline__ static void load_pieces(const T* at, Lanes<std::remove_const_t<T>, kCount>& lanes,
                                                     const Load& load) {
    static_assert(sizeof(lanes) % kAccessBytes == 0);
    constexpr int kAccesses = static_cast<int>(sizeof(lanes)) / kAccessBytes;
    uint4 pieces[kAccesses];
#pragma unroll
    for (int i = 0; i < kAccesses; ++i) pieces[i] = load(reinterpret_cast<const uint4*>(at) + i);
    memcpy(&lanes, pieces, sizeof(lanes));
  }

  template <int kCount>
  __device__ __forceinline__ static void load_elements(const T* at, int there,
                                                       Lanes<std::remove_const_t<T>, kCount>& lanes) {
    std::remove_const_t<T> values[kCount];
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      if (i < there) {
        values[i] = at[i];
      } else {
        values[i] = {};
      }
    }
    memcpy(&lanes, values, sizeof(lanes));
  }
};

}  // namespace adamant::kernels
