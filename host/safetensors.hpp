// Reads and writes safetensors files: named arrays behind a JSON header. A file that is read is
// taken for hostile. What the tensors mean to an optimizer is not known here.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <deque>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

namespace adamant::safetensors {

static_assert(std::endian::native == std::endian::little, "safetensors data is little-endian");

/// The most dimensions that a tensor may have here; the format says nothing.
inline constexpr std::size_t kMaxDimensions = 64;

/// The element types a file may name, spelled as in the file. The format's types of less than a
/// byte (F4, F6_E2M3, F6_E3M2) are not known here and are refused.
enum class Type {
  BOOL,
  U8,
  I8,
  F8_E5M2,
  F8_E4M3,
  F8_E8M0,
  I16,
  U16,
  F16,
  BF16,
  I32,
  U32,
  F32,
  C64,
  F64,
  I64,
  U64,
};

/// The type as a file spells it, "F32". Throws std::invalid_argument if `type` is no enumerator.
std::string_view type_name(Type type);

/// The bytes of one element. Throws std::invalid_argument if `type` is no enumerator.
std::size_t type_size_bytes(Type type);

/// The type that a file spells `name`; nothing if there is none. Case matters.
std::optional<Type> type_named(std::string_view name) noexcept;

/// Which Type a C++ type is, for File::read. Specialise it for a trivially copyable type of your
/// own, such as a 16-bit float. bool has none: a byte of a file need not be 0 or 1, so read such a
/// tensor from Entry::data.
template <class T>
struct ElementType;

// clang-format off
template <> struct ElementType<double>        { static constexpr Type value = Type::F64; };
template <> struct ElementType<float>         { static constexpr Type value = Type::F32; };
template <> struct ElementType<std::int64_t>  { static constexpr Type value = Type::I64; };
template <> struct ElementType<std::int32_t>  { static constexpr Type value = Type::I32; };
template <> struct ElementType<std::int16_t>  { static constexpr Type value = Type::I16; };
template <> struct ElementType<std::int8_t>   { static constexpr Type value = Type::I8;  };
template <> struct ElementType<std::uint64_t> { static constexpr Type value = Type::U64; };
template <> struct ElementType<std::uint32_t> { static constexpr Type value = Type::U32; };
template <> struct ElementType<std::uint16_t> { static constexpr Type value = Type::U16; };
template <> struct ElementType<std::uint8_t>  { static constexpr Type value = Type::U8;  };
// clang-format on

/// One tensor of a file that was opened, or is to be written.
struct Entry {
  std::string name;                 ///< UTF-8, any but "__metadata__"
  Type type{};                      ///< of the elements
  std::vector<std::int64_t> shape;  ///< row-major, at most 64 dimensions; empty for a scalar
  /// The elements, row-major and little-endian. Not owned, and **aligned to nothing** in a file
  /// that was opened.
  std::span<const std::byte> data;

  /// The number of elements. Throws std::invalid_argument if `type` is no enumerator.
  [[nodiscard]] std::int64_t count() const { return static_cast<std::int64_t>(data.size() / type_size_bytes(type)); }
};

/// What a file says about itself, both sides UTF-8.
using Metadata = std::map<std::string, std::string, std::less<>>;

/// A file open for reading. It is mapped, not read: only the header is copied, and no single
/// allocation is larger than the file (or 64 KiB). What Entry::data and find() point to lives as
/// long as the File, moved or not; replacing the file through write() does not disturb it, but
/// shortening it in place ends in SIGBUS, as with every mapping. The const members may be called
/// from several threads at a time.
class File {
 public:
  /// Maps the file and checks all of its header. Throws std::system_error if the system refuses,
  /// and std::runtime_error if the path is not a regular file or the file breaks a rule of the
  /// format: no hole, overlap or trailing byte, no name twice, no unknown type or field, the size
  /// that type and shape ask for, a header of at most 100 MB. Beyond the format, it refuses a
  /// header string longer than both 16 KiB and a quarter of the file, and more than 2 KiB between two
  /// strings of the header. The message names file, tensor, field, value and what is allowed.
  static File open(const std::filesystem::path& path);

  /// The path as it was given to open().
  [[nodiscard]] const std::filesystem::path& path() const noexcept { return path_; }

  /// All tensors in the order of their data. (A deque, whose blocks stay small however many there
  /// are.)
  [[nodiscard]] const std::deque<Entry>& entries() const noexcept { return entries_; }

  /// The header's `__metadata__`; empty if it has none.
  [[nodiscard]] const Metadata& metadata() const noexcept { return metadata_; }

  /// All that stands before the data, as it is in the file.
  [[nodiscard]] std::string_view header() const noexcept {
    return {reinterpret_cast<const char*>(mapping_.get()), header_bytes_};
  }

  /// The tensor of that name, or null.
  [[nodiscard]] const Entry* find(std::string_view name) const noexcept;

  /// The tensor of that name. Throws std::runtime_error, which lists the names there are, if there
  /// is none.
  [[nodiscard]] const Entry& at(std::string_view name) const;

  /// A copy of a tensor's elements. Throws std::runtime_error if there is no such tensor or it is
  /// not of the type T.
  template <class T>
  [[nodiscard]] std::vector<T> read(std::string_view name) const {
    static_assert(std::is_trivially_copyable_v<T>);
    const Entry& entry = at(name, ElementType<T>::value, sizeof(T));
    std::vector<T> elements(entry.data.size() / sizeof(T));
    if (!elements.empty()) std::memcpy(elements.data(), entry.data.data(), entry.data.size());
    return elements;
  }

 private:
  struct Unmap {
    std::size_t size_bytes;
    void operator()(const std::byte* mapping) const noexcept;
  };

  File() = default;
  const Entry& at(std::string_view name, Type type, std::size_t size_bytes) const;

  std::filesystem::path path_;
  std::unique_ptr<const std::byte, Unmap> mapping_;
  std::size_t header_bytes_ = 0;
  std::deque<Entry> entries_;
  std::vector<const Entry*> by_name_;  // sorted by name; a deque keeps its elements in place when it is moved
  Metadata metadata_;
};

/// Writes `entries` in the order given, so that the same arguments make the same bytes; the data
/// starts at a multiple of 64 bytes. (Order tensors by falling element size if each is to be
/// aligned.) The file appears under `path` whole and durable or not at all, through
/// host::Replacement: a former file stays as it was after an error, a File open on it stays valid,
/// and `entries` may come from it. A symbolic link at `path` is replaced.
///
/// Throws std::invalid_argument, before anything is written, for what open() would refuse to read
/// back; NotSaved and DurabilityUnsure, both std::system_error, as Replacement does.
void write(const std::filesystem::path& path, std::span<const Entry> entries, const Metadata& metadata = {});

/// What write() puts in front of the data: 8 bytes of length, the header, its padding. Of the
/// entries' data only the sizes are looked at. Throws std::invalid_argument as write() does; `path`
/// is for its text.
std::string make_header(const std::filesystem::path& path, std::span<const Entry> entries, const Metadata& metadata);

}  // namespace adamant::safetensors
