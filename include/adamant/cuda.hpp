/// \file
/// CUDA's own types where the interface takes an Array, a ConstArray or a Stream: thrust::device_vector,
/// cuda::std::span and cuda::stream_ref. `#include <adamant/cuda.hpp>` beside adamant.hpp, in what nvcc compiles, or
/// g++ and clang with the toolkit's folders `include` and `include/cccl` on their path. No other header of adamant
/// includes one of CUDA's.
///
///     optimizer.add({.name = "w", .parameter = adamant::array(weights), .gradient = adamant::array(gradient)});
///     optimizer.step(adamant::stream(stream));
#pragma once

#include "adamant/types.hpp"

// CUDA's headers come second: in C++17 the first error is ours.
#include <thrust/device_vector.h>

#include <cstddef>
#include <cuda/std/span>
#include <cuda/stream_ref>

namespace adamant {

/// The elements of a device_vector, where they are: nothing is copied. It must not be resized, moved from or destroyed
/// as long as an Optimizer has them.
template <typename T, typename Allocator>
requires detail::kIsElement<T> Array array(thrust::device_vector<T, Allocator>& vector) {
  return {thrust::raw_pointer_cast(vector.data()), vector.size()};
}
/// The same, only to be read.
template <typename T, typename Allocator>
requires detail::kIsElement<T> ConstArray array(const thrust::device_vector<T, Allocator>& vector) {
  return {thrust::raw_pointer_cast(vector.data()), vector.size()};
}
/// Refused: the elements would be gone before anybody could use them.
template <typename T, typename Allocator>
requires detail::kIsElement<T>
void array(const thrust::device_vector<T, Allocator>&& vector) = delete;

/// The elements of a span, where they are.
template <typename T, std::size_t extent>
requires detail::kIsElement<T> Array array(cuda::std::span<T, extent> span) { return {span.data(), span.size()}; }
/// The same, only to be read.
template <typename T, std::size_t extent>
requires detail::kIsElement<T> ConstArray array(cuda::std::span<const T, extent> span) {
  return {span.data(), span.size()};
}

/// A stream for the calls that take one. It lives as long as what was enqueued there is not done.
inline Stream stream(cuda::stream_ref stream) { return stream.get(); }

}  // namespace adamant
