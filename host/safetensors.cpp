// The safetensors format: 8 bytes of header length, a JSON header, the data. The header is parsed
// by callbacks into what is kept of it, never into a JSON tree, which can be sixteen times its
// text.
#include "host/safetensors.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <limits>
#include <stdexcept>
#include <system_error>
#include <utility>

#include "host/replacement.hpp"
#include "host/text.hpp"

// A program around this library may hold a copy of nlohmann's JSON compiled with other flags (-ffast-math, or
// JSON_NOEXCEPTION, which aborts instead of throwing), and the linker keeps one copy of what has the same name. This
// one has another. Nor may what a project around this one defines reach it.
#undef JSON_NOEXCEPTION
#undef JSON_THROW_USER
#undef JSON_TRY_USER
#undef JSON_CATCH_USER
#undef JSON_INTERNAL_CATCH_USER
#define nlohmann adamant_json
#include <nlohmann/json.hpp>
#undef nlohmann

namespace adamant::safetensors {
namespace {

static_assert(sizeof(std::size_t) == 8, "a file may be larger than 4 GiB");

using Json = adamant_json::json;

constexpr std::uint64_t kLengthBytes = 8;
constexpr std::uint64_t kMaxHeaderBytes = 100'000'000;  // the limit of the format's own library
constexpr std::uint64_t kMaxInteger = std::numeric_limits<std::int64_t>::max();
constexpr std::size_t kDataAlignment = 64;  // a cache line, and the widest vector register
constexpr std::string_view kMetadataKey = "__metadata__";

struct TypeInfo {
  std::string_view name;
  std::size_t size_bytes;
};

// In the order of Type.
constexpr std::array<TypeInfo, 17> kTypes{{
    {"BOOL", 1},
    {"U8", 1},
    {"I8", 1},
    {"F8_E5M2", 1},
    {"F8_E4M3", 1},
    {"F8_E8M0", 1},
    {"I16", 2},
    {"U16", 2},
    {"F16", 2},
    {"BF16", 2},
    {"I32", 4},
    {"U32", 4},
    {"F32", 4},
    {"C64", 8},
    {"F64", 8},
    {"I64", 8},
    {"U64", 8},
}};
static_assert(static_cast<std::size_t>(Type::U64) + 1 == kTypes.size());

const TypeInfo& info(Type type) {
  const auto index = static_cast<std::size_t>(type);
  if (index >= kTypes.size()) {
    throw std::invalid_argument("safetensors type " + std::to_string(static_cast<int>(type)) +
                                " is unknown; allowed: 0 to " + std::to_string(kTypes.size() - 1));
  }
  return kTypes[index];
}

std::string printable(std::string_view text, std::size_t limit = 96) {
  return "'" + host::printable(text, limit) + "'";
}

std::string all_type_names() {
  std::string names;
  for (const TypeInfo& type : kTypes) names.append(names.empty() ? "" : ", ").append(type.name);
  return names;
}

std::string shape_text(const std::vector<std::int64_t>& shape) {
  std::string text = "[";
  for (const std::int64_t size : shape) text += (text.size() > 1 ? "," : "") + std::to_string(size);
  return text + "]";
}

// The one place where the reader gives up on a file.
[[noreturn]] void refuse(const std::filesystem::path& path, const std::string& why) {
  throw std::runtime_error("safetensors file '" + path.string() + "': " + why);
}

[[noreturn]] void fail(int error, const std::string& doing, const std::filesystem::path& path) {
  throw std::system_error(error, std::generic_category(), "safetensors: cannot " + doing + " '" + path.string() + "'");
}

// A tensor as the header describes it: an entry still without its data.
struct Tensor {
  Entry entry;
  std::uint64_t begin = 0;
  std::uint64_t end = 0;

  // The start of a complaint about the offsets.
  [[nodiscard]] std::string offsets_text() const {
    return "tensor " + printable(entry.name) + ", field 'data_offsets' is [" + std::to_string(begin) + "," +
           std::to_string(end) + "]";
  }
};

struct Header {
  // In a deque, because a vector of them can be larger than the text they come from.
  std::deque<Tensor> tensors;
  Metadata metadata;
};

// Receives the parser's events and throws at the first that has no place in a safetensors header.
// Nesting is therefore at most three deep, and nothing is kept of what is refused.
class HeaderHandler {
 public:
  explicit HeaderHandler(const std::filesystem::path& path) : path_(path) {}

  Header take() { return std::move(header_); }

  bool null() { misplaced("null"); }
  bool boolean(bool value) { misplaced(value ? "true" : "false"); }
  bool number_integer(std::int64_t value) { misplaced(std::to_string(value)); }
  bool number_float(double, const std::string& text) { misplaced(printable(text)); }
  bool binary(Json::binary_t&) { misplaced("binary"); }

  bool number_unsigned(std::uint64_t value) {
    if (place_ == Place::kShape) {
      auto& shape = tensor().entry.shape;
      if (value > kMaxInteger) misplaced(std::to_string(value));
      if (shape.size() == kMaxDimensions) {
        complain("has more than " + std::to_string(kMaxDimensions) + " dimensions; allowed: at most " +
                 std::to_string(kMaxDimensions));
      }
      shape.push_back(static_cast<std::int64_t>(value));
    } else if (place_ == Place::kOffsets) {
      if (value > kMaxInteger) misplaced(std::to_string(value));
      if (offset_count_ == 2) complain("has more than 2 numbers; allowed: [begin, end]");
      (offset_count_++ == 0 ? tensor().begin : tensor().end) = value;
    } else {
      misplaced(std::to_string(value));
    }
    return true;
  }

  bool string(std::string& value) {
    if (place_ == Place::kMetadata) {
      if (!header_.metadata.try_emplace(field_, std::move(value)).second) {
        complain("is there twice; allowed: once");
      }
    } else if (place_ == Place::kTensor && field_ == "dtype") {
      const auto type = type_named(value);
      if (!type) complain("is " + printable(value) + "; allowed: " + all_type_names());
      tensor().entry.type = *type;
    } else {
      misplaced("the string " + printable(value));
    }
    return true;
  }

  bool start_object(std::size_t) {
    if (place_ == Place::kOutside) {
      place_ = Place::kHeader;
    } else if (place_ == Place::kHeader && name_ == kMetadataKey) {
      if (std::exchange(has_metadata_, true)) complain("is there twice; allowed: once");
      place_ = Place::kMetadata;
    } else if (place_ == Place::kHeader) {
      header_.tensors.emplace_back().entry.name = name_;
      has_type_ = has_shape_ = has_offsets_ = false;
      place_ = Place::kTensor;
    } else {
      misplaced("an object");
    }
    return true;
  }

  bool key(std::string& key) {
    if (place_ == Place::kHeader) {
      name_ = std::move(key);
    } else {
      field_ = std::move(key);
      if (place_ == Place::kTensor) begin_field();
    }
    return true;
  }

  bool end_object() {
    if (place_ == Place::kTensor) {
      for (const auto& [there, field] :
           {std::pair{has_type_, "dtype"}, std::pair{has_shape_, "shape"}, std::pair{has_offsets_, "data_offsets"}}) {
        field_ = field;
        if (!there) complain("is missing; allowed: dtype, shape and data_offsets, all three");
      }
    }
    place_ = place_ == Place::kHeader ? Place::kOutside : Place::kHeader;
    return true;
  }

  bool start_array(std::size_t) {
    if (place_ == Place::kTensor && field_ == "shape") {
      place_ = Place::kShape;
    } else if (place_ == Place::kTensor && field_ == "data_offsets") {
      place_ = Place::kOffsets;
      offset_count_ = 0;
    } else {
      misplaced("an array");
    }
    return true;
  }

  bool end_array() {
    if (place_ == Place::kOffsets && offset_count_ != 2) {
      complain("has " + std::to_string(offset_count_) + " numbers; allowed: [begin, end]");
    }
    place_ = Place::kTensor;
    return true;
  }

  bool parse_error(std::size_t position, const std::string&, const Json::exception& error) {
    refuse(path_, "header is not valid JSON at its byte " + std::to_string(position) + ": " +
                      printable(error.what(), 240) + "; allowed: one JSON object in UTF-8");
  }

 private:
  enum class Place { kOutside, kHeader, kMetadata, kTensor, kShape, kOffsets };

  Tensor& tensor() { return header_.tensors.back(); }

  void begin_field() {
    bool* there = field_ == "dtype"          ? &has_type_
                  : field_ == "shape"        ? &has_shape_
                  : field_ == "data_offsets" ? &has_offsets_
                                             : nullptr;
    if (there == nullptr) complain("is unknown; allowed: dtype, shape, data_offsets");
    if (std::exchange(*there, true)) complain("is there twice; allowed: once");
  }

  // Where the parser stands, and `what` is wrong there.
  [[noreturn]] void complain(const std::string& what) const {
    switch (place_) {
      case Place::kOutside: refuse(path_, "header " + what);
      case Place::kHeader: refuse(path_, (name_ == kMetadataKey ? "" : "tensor ") + printable(name_) + " " + what);
      case Place::kMetadata: refuse(path_, "'__metadata__', field " + printable(field_) + " " + what);
      default: refuse(path_, "tensor " + printable(name_) + ", field " + printable(field_) + " " + what);
    }
  }

  [[noreturn]] void misplaced(const std::string& value) const {
    switch (place_) {
      case Place::kOutside:
      case Place::kHeader: complain("is " + value + "; allowed: an object");
      case Place::kMetadata: complain("is " + value + "; allowed: a string");
      case Place::kTensor:
        complain("is " + value +
                 "; allowed: " + (field_ == "dtype" ? "one of " + all_type_names() : "an array of whole numbers"));
      default: complain("holds " + value + "; allowed: whole numbers from 0 to " + std::to_string(kMaxInteger));
    }
  }

  const std::filesystem::path& path_;
  Header header_;
  Place place_ = Place::kOutside;
  std::string name_;   // the key in the header
  std::string field_;  // the key in a tensor or in the metadata
  bool has_metadata_ = false;
  bool has_type_ = false;
  bool has_shape_ = false;
  bool has_offsets_ = false;
  int offset_count_ = 0;
};

// What must hold of the text so that nlohmann's lexer stays within bounds. It takes a null byte for
// the end. It collects the token it is in twice, in buffers that double, and writes out up to eight
// bytes for each in an error message; so a string may be long only in a longer file, and what
// stands between two strings (a shape at most) may not be long at all.
void check_text(std::string_view text, std::uint64_t file_bytes, const std::filesystem::path& path) {
  constexpr std::uint64_t kMaxGap = 2048;  // room for 64 dimensions of 20 characters, indented
  const std::uint64_t max_string = std::max<std::uint64_t>(16 * 1024, file_bytes / 4);
  bool in_string = false;
  std::size_t start = 0;  // of the string, or of the gap between two
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\0') {
      refuse(path, "header has a null byte at its byte " + std::to_string(i) + "; allowed: none");
    }
    if (text[i] == '"') {
      in_string = !in_string;
      start = i + 1;
    } else if (i - start >= (in_string ? max_string : kMaxGap)) {
      refuse(path, std::string("header has ") + (in_string ? "too long a string" : "too long a gap between strings") +
                       " at its byte " + std::to_string(start) + "; allowed: at most " +
                       std::to_string(in_string ? max_string : kMaxGap) + " bytes in a file of this size");
    } else if (in_string && text[i] == '\\') {
      ++i;  // what is escaped, perhaps a quote
    }
  }
}

// Each tensor has the bytes its type and shape ask for.
void check_sizes(const std::deque<Tensor>& tensors, const std::filesystem::path& path) {
  for (const Tensor& tensor : tensors) {
    if (tensor.begin > tensor.end) {
      refuse(path, tensor.offsets_text() + "; allowed: begin at most end");
    }
    // Zeros are left out of the product, so that no product of some dimensions overflows either.
    std::uint64_t size_bytes = type_size_bytes(tensor.entry.type);
    bool empty = false;
    for (const std::int64_t size : tensor.entry.shape) {
      empty = empty || size == 0;
      if (__builtin_mul_overflow(size_bytes, size == 0 ? 1 : static_cast<std::uint64_t>(size), &size_bytes) ||
          size_bytes > kMaxInteger) {
        refuse(path, "tensor " + printable(tensor.entry.name) + ", field 'shape' is " +
                         printable(shape_text(tensor.entry.shape)) + ", too large to count; allowed: at most " +
                         std::to_string(kMaxInteger) + " bytes");
      }
    }
    if (empty) size_bytes = 0;
    if (tensor.end - tensor.begin != size_bytes) {
      refuse(path, tensor.offsets_text() + ", " + std::to_string(tensor.end - tensor.begin) + " bytes; allowed: the " +
                       std::to_string(size_bytes) + " that shape " + printable(shape_text(tensor.entry.shape)) +
                       " of " + std::string(type_name(tensor.entry.type)) + " asks for");
    }
  }
}

// The tensors in the order of their data, which they cover from end to end without holes and
// overlaps.
std::vector<Tensor*> in_data_order(std::deque<Tensor>& tensors, std::uint64_t data_bytes,
                                   const std::filesystem::path& path) {
  std::vector<Tensor*> order;
  order.reserve(tensors.size());
  for (Tensor& tensor : tensors) order.push_back(&tensor);
  std::stable_sort(order.begin(), order.end(), [](const Tensor* left, const Tensor* right) {
    return std::pair(left->begin, left->end) < std::pair(right->begin, right->end);
  });
  std::uint64_t covered = 0;
  for (const Tensor* tensor : order) {
    if (tensor->end > data_bytes) {
      refuse(path, tensor->offsets_text() + ", beyond the data; allowed: at most " + std::to_string(data_bytes) +
                       " (was the file cut short?)");
    }
    if (tensor->begin != covered) {
      refuse(path, tensor->offsets_text() +
                       (tensor->begin < covered ? ", overlapping the tensor before it" : ", leaving a hole") +
                       "; allowed: to begin at " + std::to_string(covered));
    }
    covered = tensor->end;
  }
  if (covered != data_bytes) {
    refuse(path, std::to_string(data_bytes - covered) + " bytes follow the last tensor; allowed: none");
  }
  return order;
}

// All the rules of the format about a header and the amount of data behind it, but for names that
// are there twice. Entries come out in the order of their data, still without it.
Header parse_header(std::string_view padded, std::uint64_t data_bytes, const std::filesystem::path& path) {
  if (!padded.starts_with('{')) {
    refuse(path, "header begins with " + printable(padded.substr(0, 1)) + "; allowed: '{'");
  }
  const std::string_view text = padded.substr(0, padded.find_last_not_of(' ') + 1);
  check_text(text, kLengthBytes + padded.size() + data_bytes, path);

  HeaderHandler handler(path);
  Json::sax_parse(text.begin(), text.end(), &handler);  // true, or the handler has thrown
  Header header = handler.take();
  check_sizes(header.tensors, path);

  const std::vector<Tensor*> order = in_data_order(header.tensors, data_bytes, path);
  std::deque<Tensor> ordered;
  for (Tensor* tensor : order) ordered.push_back(std::move(*tensor));
  header.tensors = std::move(ordered);
  return header;
}

std::vector<const Entry*> sorted_by_name(const std::deque<Entry>& entries, const std::filesystem::path& path) {
  std::vector<const Entry*> sorted;
  sorted.reserve(entries.size());
  for (const Entry& entry : entries) sorted.push_back(&entry);
  std::sort(sorted.begin(), sorted.end(),
            [](const Entry* left, const Entry* right) { return left->name < right->name; });
  const auto twice = std::adjacent_find(
      sorted.begin(), sorted.end(), [](const Entry* left, const Entry* right) { return left->name == right->name; });
  if (twice != sorted.end()) {
    refuse(path, "tensor " + printable((*twice)->name) + " is there twice; allowed: once");
  }
  return sorted;
}

// A descriptor that closes itself.
class Descriptor {
 public:
  explicit Descriptor(int descriptor) : descriptor_(descriptor) {}
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  ~Descriptor() {
    if (descriptor_ >= 0) ::close(descriptor_);
  }

  [[nodiscard]] int get() const { return descriptor_; }

 private:
  int descriptor_;
};

int open_descriptor(const std::filesystem::path& path, int flags) {
  int descriptor = -1;
  do {
    descriptor = ::open(path.c_str(), flags | O_CLOEXEC);
  } while (descriptor < 0 && errno == EINTR);
  return descriptor;
}

std::string_view kind(mode_t mode) {
  if (S_ISDIR(mode)) return "a directory";
  if (S_ISFIFO(mode)) return "a FIFO";
  if (S_ISCHR(mode) || S_ISBLK(mode)) return "a device";
  if (S_ISSOCK(mode)) return "a socket";
  return "something else";
}

void require_regular(mode_t mode, const std::filesystem::path& path) {
  if (!S_ISREG(mode)) refuse(path, "is " + std::string(kind(mode)) + "; allowed: a regular file");
}

// A JSON string. Throws std::invalid_argument if `text` is not UTF-8.
std::string json_string(std::string_view text, const std::filesystem::path& path, std::string_view what) {
  try {
    return Json(text).dump();
  } catch (const Json::exception&) {
    throw std::invalid_argument("safetensors file '" + path.string() + "': " + std::string(what) + " " +
                                printable(text) + " is not valid UTF-8");
  }
}

// The header with its length in front and its padding behind, unchecked.
std::string header_text(const std::filesystem::path& path, std::span<const Entry> entries, const Metadata& metadata) {
  std::string text(kLengthBytes, '\0');
  text += '{';
  if (!metadata.empty()) {
    text += json_string(kMetadataKey, path, "key") + ":{";
    for (const auto& [key, value] : metadata) {
      text += (text.back() == '{' ? "" : ",") + json_string(key, path, "metadata key") + ":" +
              json_string(value, path, "metadata value");
    }
    text += '}';
  }
  std::uint64_t offset = 0;
  for (const Entry& entry : entries) {
    if (entry.name == kMetadataKey) {
      throw std::invalid_argument("safetensors file '" + path.string() +
                                  "': a tensor is named '__metadata__'; allowed: any other name");
    }
    text += (text.back() == '{' ? "" : ",") + json_string(entry.name, path, "tensor name") + R"(:{"dtype":")" +
            std::string(type_name(entry.type)) + R"(","shape":)" + shape_text(entry.shape) + R"(,"data_offsets":[)" +
            std::to_string(offset) + "," + std::to_string(offset + entry.data.size()) + "]}";
    offset += entry.data.size();
  }
  text += '}';
  text.append((kDataAlignment - text.size() % kDataAlignment) % kDataAlignment, ' ');
  const std::uint64_t header_bytes = text.size() - kLengthBytes;
  std::memcpy(text.data(), &header_bytes, kLengthBytes);
  return text;
}

void check_header_length(std::uint64_t header_bytes, const std::filesystem::path& path) {
  if (header_bytes == 0 || header_bytes > kMaxHeaderBytes) {
    refuse(path, "header length is " + std::to_string(header_bytes) + "; allowed: 1 to " +
                     std::to_string(kMaxHeaderBytes) + " (is it a safetensors file?)");
  }
}

}  // namespace

std::string_view type_name(Type type) { return info(type).name; }

std::size_t type_size_bytes(Type type) { return info(type).size_bytes; }

std::optional<Type> type_named(std::string_view name) noexcept {
  const auto found =
      std::find_if(kTypes.begin(), kTypes.end(), [&](const TypeInfo& type) { return type.name == name; });
  if (found == kTypes.end()) return std::nullopt;
  return static_cast<Type>(found - kTypes.begin());
}

void File::Unmap::operator()(const std::byte* mapping) const noexcept {
  ::munmap(const_cast<std::byte*>(mapping), size_bytes);
}

File File::open(const std::filesystem::path& path) {
  if (path.native().find('\0') != std::string::npos) fail(EINVAL, "open, for the null byte in it,", path);
  // O_NONBLOCK, or the opening of a FIFO would wait for its writer.
  Descriptor descriptor(open_descriptor(path, O_RDONLY | O_NONBLOCK | O_NOCTTY));
  if (descriptor.get() < 0) fail(errno, "open", path);
  struct stat status {};
  if (::fstat(descriptor.get(), &status) != 0) fail(errno, "examine", path);
  require_regular(status.st_mode, path);
  const auto file_bytes = static_cast<std::uint64_t>(status.st_size);
  if (file_bytes < kLengthBytes) {
    refuse(path, "size is " + std::to_string(file_bytes) + " bytes; allowed: at least the 8 of the header length");
  }

  File file;
  file.path_ = path;
  void* mapping = ::mmap(nullptr, file_bytes, PROT_READ, MAP_PRIVATE, descriptor.get(), 0);
  if (mapping == MAP_FAILED) fail(errno, "map", path);
  file.mapping_ = {static_cast<const std::byte*>(mapping), Unmap{file_bytes}};

  std::uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, mapping, kLengthBytes);
  check_header_length(header_bytes, path);
  if (header_bytes > file_bytes - kLengthBytes) {
    refuse(path, "header length is " + std::to_string(header_bytes) + ", beyond the file; allowed: at most the " +
                     std::to_string(file_bytes - kLengthBytes) + " bytes that follow it");
  }
  const std::string_view text(static_cast<const char*>(mapping) + kLengthBytes, header_bytes);
  const auto data = std::span(file.mapping_.get(), file_bytes).subspan(kLengthBytes + header_bytes);

  Header header = parse_header(text, data.size(), path);
  for (Tensor& tensor : header.tensors) {
    tensor.entry.data = data.subspan(tensor.begin, tensor.end - tensor.begin);
    file.entries_.push_back(std::move(tensor.entry));
  }
  file.by_name_ = sorted_by_name(file.entries_, path);
  file.metadata_ = std::move(header.metadata);
  file.header_bytes_ = kLengthBytes + header_bytes;
  return file;
}

const Entry* File::find(std::string_view name) const noexcept {
  const auto found = std::lower_bound(by_name_.begin(), by_name_.end(), name,
                                      [](const Entry* entry, std::string_view key) { return entry->name < key; });
  return found != by_name_.end() && (*found)->name == name ? *found : nullptr;
}

const Entry& File::at(std::string_view name) const {
  if (const Entry* entry = find(name)) return *entry;
  constexpr std::size_t kListed = 32;
  std::string names;
  for (std::size_t i = 0; i < std::min(by_name_.size(), kListed); ++i) {
    names += (i == 0 ? "" : ", ") + printable(by_name_[i]->name);
  }
  if (by_name_.size() > kListed) names += " and " + std::to_string(by_name_.size() - kListed) + " more";
  refuse(path_, "has no tensor " + printable(name) + "; there are: " + (names.empty() ? "none" : names));
}

const Entry& File::at(std::string_view name, Type type, std::size_t size_bytes) const {
  const Entry& entry = at(name);
  if (entry.type != type || type_size_bytes(type) != size_bytes) {
    refuse(path_, "tensor " + printable(name) + " is of type " + std::string(type_name(entry.type)) +
                      ", but is read as " + std::string(type_name(type)) + " in elements of " +
                      std::to_string(size_bytes) + " bytes");
  }
  return entry;
}

std::string make_header(const std::filesystem::path& path, std::span<const Entry> entries, const Metadata& metadata) {
  std::string header = header_text(path, entries, metadata);
  // What the reader would refuse is not written.
  try {
    std::uint64_t data_bytes = 0;
    for (const Entry& entry : entries) data_bytes += entry.data.size();
    const std::string_view text = std::string_view(header).substr(kLengthBytes);
    check_header_length(text.size(), path);
    std::deque<Entry> written;
    Header checked = parse_header(text, data_bytes, path);
    for (Tensor& tensor : checked.tensors) written.push_back(std::move(tensor.entry));
    sorted_by_name(written, path);
  } catch (const std::runtime_error& error) {
    throw std::invalid_argument(error.what());
  }
  return header;
}

void write(const std::filesystem::path& path, std::span<const Entry> entries, const Metadata& metadata) {
  const std::string header = make_header(path, entries, metadata);
  host::Replacement file(path);
  file.append(std::as_bytes(std::span(header)));
  for (const Entry& entry : entries) file.append(entry.data);
  file.commit();
}

}  // namespace adamant::safetensors
