/// \file
/// Plain types of the interface: data types, devices, streams, and views of the caller's arrays.
#pragma once

#include <concepts>
#include <cstdint>
#include <ranges>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

#include "adamant/macros.hpp"

struct CUstream_st;

namespace adamant {

/// A `cudaStream_t`, declared here so that no CUDA header is needed. The CPU backend ignores it.
using Stream = CUstream_st*;

/// Type of the elements of an array.
enum class DataType : std::uint8_t {
  float32,   ///< `float`
  float64,   ///< `double`
  bfloat16,  ///< bfloat16, `__nv_bfloat16`: the upper half of a float32
  float16,   ///< float16, `__half`: IEEE 754's binary16
};

/// A bfloat16 as it is stored: the upper half of a float32's bits. No arithmetic; `__nv_bfloat16` has the same bits.
struct bfloat16 {
  std::uint16_t bits;  ///< sign, 8 bits of exponent, 7 of mantissa
  /// Whether the bits are the same.
  friend constexpr bool operator==(bfloat16, bfloat16) = default;
};

/// IEEE 754's binary16 as it is stored. No arithmetic; `__half` has the same bits.
struct float16 {
  std::uint16_t bits;  ///< sign, 5 bits of exponent, 10 of mantissa
  /// Whether the bits are the same.
  friend constexpr bool operator==(float16, float16) = default;
};

/// "float32", "float64", "bfloat16" or "float16".
ADAMANT_API std::string_view name(DataType type);
/// Bytes of one element.
ADAMANT_API std::int64_t size_in_bytes(DataType type);

/// Where an Optimizer's tensors live and its steps run.
struct Device {
  /// The backends.
  enum class Kind : std::uint8_t {
    cpu,   ///< the host's processor
    cuda,  ///< a CUDA device, by its index
  };
  Kind kind = Kind::cpu;  ///< which backend
  int index = 0;          ///< CUDA device index, from 0; 0 for the CPU

  /// The processor that the program runs on.
  static constexpr Device cpu() { return {}; }
  /// A CUDA device. An Optimizer for one that is not there, or of a library that was built without CUDA, throws
  /// Unavailable; for a negative index std::invalid_argument.
  static constexpr Device cuda(int index) { return {Kind::cuda, index}; }
  /// Whether two are the same.
  friend constexpr bool operator==(const Device&, const Device&) = default;
};

/// "cpu" or "cuda:N".
ADAMANT_API std::string name(Device device);

/// Where full precision is kept for a parameter of 16 bits.
enum class Master : std::uint8_t {
  automatic,   ///< a float32 master for a parameter of 16 bits, none for others
  none,        ///< the parameter is all there is; not for 16 bits, which would stop taking up small updates
  float32,     ///< a float32 array of the Optimizer's, updated in place of the parameter, which is its rounding
  remainder,   ///< the other 16 bits of a float32 beside a bfloat16 parameter: the same numbers in less memory
  stochastic,  ///< nothing is kept: the parameter is rounded up or down at random, and right on average
};

/// "automatic", "none", "float32", "remainder" or "stochastic".
ADAMANT_API std::string_view name(Master master);

namespace detail {
template <typename T>
inline constexpr bool kIsElement =
    std::same_as<T, float> || std::same_as<T, double> || std::same_as<T, bfloat16> || std::same_as<T, float16>;
template <typename T>
inline constexpr DataType kDataType = std::same_as<T, float>      ? DataType::float32
                                      : std::same_as<T, double>   ? DataType::float64
                                      : std::same_as<T, bfloat16> ? DataType::bfloat16
                                                                  : DataType::float16;
/// A contiguous range that outlives the view that is made of it.
template <typename Range>
concept ElementRange = std::ranges::contiguous_range<Range> && std::ranges::sized_range<Range> &&
    std::ranges::borrowed_range<Range> && kIsElement<std::ranges::range_value_t<Range>>;
/// A count of any integer type as int64; what does not fit becomes -1, which add() refuses by name.
template <std::integral Count>
constexpr std::int64_t to_count(Count count) {
  return std::in_range<std::int64_t>(count) ? static_cast<std::int64_t>(count) : -1;
}
}  // namespace detail

/// A view of contiguous elements that the library may read and write. It does not own them.
class Array {
 public:
  Array() = default;
  /// \param data first element; may be null when `count` is 0
  /// \param count number of elements
  template <typename T, std::integral Count>
  requires detail::kIsElement<T> Array(T* data, Count count)
      : data_(data), count_(detail::to_count(count)), type_(detail::kDataType<T>) {}
  /// The elements of a vector, an array, a span.
  template <detail::ElementRange Range>
  requires(!std::is_const_v<std::remove_pointer_t<decltype(std::ranges::data(std::declval<Range&>()))>>)
      Array(Range&& range)  // NOLINT(google-explicit-constructor,bugprone-forwarding-reference-overload)
      : Array(std::ranges::data(range), std::ranges::size(range)) {}
  /// An array whose type is known only at run time.
  template <std::integral Count>
  Array(void* data, DataType type, Count count) : data_(data), count_(detail::to_count(count)), type_(type) {}

  /// First element.
  void* data() const { return data_; }
  /// Number of elements.
  std::int64_t count() const { return count_; }
  /// Type of the elements.
  DataType type() const { return type_; }
  /// The elements as T, or null when they are of another type.
  template <typename T>
  requires detail::kIsElement<T> T* as() const {
    return type_ == detail::kDataType<T> ? static_cast<T*>(data_) : nullptr;
  }

 private:
  void* data_ = nullptr;
  std::int64_t count_ = 0;
  DataType type_ = DataType::float32;
};

/// A view of contiguous elements that are only read, unless it was made from memory that may be written (which
/// Optimizer::zero_gradients needs). It does not own them.
class ConstArray {
 public:
  ConstArray() = default;
  /// \param data first element; may be null when `count` is 0
  /// \param count number of elements
  template <typename T, std::integral Count>
  requires detail::kIsElement<std::remove_const_t<T>> ConstArray(T* data, Count count)
      : data_(data),
        count_(detail::to_count(count)),
        type_(detail::kDataType<std::remove_const_t<T>>),
        writable_(!std::is_const_v<T>) {}
  /// The elements of a vector, an array, a span.
  template <detail::ElementRange Range>
  ConstArray(Range&& range)  // NOLINT(google-explicit-constructor,bugprone-forwarding-reference-overload)
      : ConstArray(std::ranges::data(range), std::ranges::size(range)) {}
  /// The same elements.
  ConstArray(const Array& array)  // NOLINT(google-explicit-constructor)
      : data_(array.data()), count_(array.count()), type_(array.type()), writable_(true) {}
  /// An array whose type is known only at run time.
  template <std::integral Count>
  ConstArray(const void* data, DataType type, Count count)
      : data_(data), count_(detail::to_count(count)), type_(type) {}
  /// \copydoc ConstArray(const void*, DataType, Count)
  template <std::integral Count>
  ConstArray(void* data, DataType type, Count count) : ConstArray(Array(data, type, count)) {}
  /// \copydoc ConstArray(const void*, DataType, Count)
  template <std::integral Count>
  ConstArray(std::nullptr_t data, DataType type, Count count) : ConstArray(Array(data, type, count)) {}

  /// First element.
  const void* data() const { return data_; }
  /// Number of elements.
  std::int64_t count() const { return count_; }
  /// Type of the elements.
  DataType type() const { return type_; }
  /// Whether it was made from memory that may be written.
  bool writable() const { return writable_; }
  /// The elements as T, or null when they are of another type.
  template <typename T>
  requires detail::kIsElement<T>
  const T* as() const { return type_ == detail::kDataType<T> ? static_cast<const T*>(data_) : nullptr; }

 private:
  const void* data_ = nullptr;
  std::int64_t count_ = 0;
  DataType type_ = DataType::float32;
  bool writable_ = false;
};

}  // namespace adamant
