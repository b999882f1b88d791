// Any bytes as a safetensors file: it is refused with std::runtime_error, or what comes out of it holds what
// host/safetensors.hpp says of a File, and writing it gives a file that means the same. Every input is tried as a whole
// file, and as a header behind which length and data are made to fit, because a change of a header seldom keeps them.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <iterator>
#include <optional>
#include <set>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include "host/safetensors.hpp"
#include "tests/fuzz/fuzzing.hpp"

namespace adamant::fuzz {
namespace {

using safetensors::Entry;
using safetensors::File;
using safetensors::Metadata;

constexpr std::size_t kLengthBytes = 8;

void put(const std::filesystem::path& path, std::string_view bytes) {
  std::ofstream stream(path, std::ios::binary | std::ios::trunc);
  stream.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  require(stream.flush().good(), "cannot write " + path.string());
}

std::string content(const std::filesystem::path& path) {
  std::ifstream stream(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), {}};
}

std::string_view text_of(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

// Without surrogates, overlong forms and what is beyond U+10FFFF.
bool is_utf8(std::string_view text) {
  for (std::size_t i = 0; i < text.size();) {
    const auto lead = static_cast<unsigned char>(text[i]);
    const std::size_t length = lead < 0x80   ? 1
                               : lead < 0xC2 ? 0
                               : lead < 0xE0 ? 2
                               : lead < 0xF0 ? 3
                               : lead < 0xF5 ? 4
                                             : 0;
    if (length == 0 || length > text.size() - i) return false;
    std::uint32_t code = length == 1 ? lead : lead & (0x7FU >> length);
    for (std::size_t k = 1; k < length; ++k) {
      const auto next = static_cast<unsigned char>(text[i + k]);
      if ((next & 0xC0) != 0x80) return false;
      code = code << 6 | (next & 0x3FU);
    }
    constexpr std::uint32_t kLeast[] = {0, 0, 0x80, 0x800, 0x10000};
    if (code < kLeast[length] || code > 0x10FFFF || (code >= 0xD800 && code < 0xE000)) return false;
    i += length;
  }
  return true;
}

template <typename Call>
void require_refused(const Call& call, const std::string& what) {
  try {
    call();
  } catch (const std::runtime_error&) {
    return;
  }
  violated(what + " was not refused");
}

// What host/safetensors.hpp says of a file that opened. Returns where in the file the data begins.
void check(const File& file, const std::string& bytes, const std::filesystem::path& path) {
  require(file.path() == path, "path() is not what open() was given");
  std::uint64_t header_bytes = 0;
  require(bytes.size() >= kLengthBytes, "a file without a length opened");
  std::memcpy(&header_bytes, bytes.data(), kLengthBytes);
  require(header_bytes <= bytes.size() - kLengthBytes, "a header longer than its file opened");

  std::set<std::string, std::less<>> names;
  std::size_t at = kLengthBytes + header_bytes;
  for (const Entry& entry : file.entries()) {
    require(names.insert(entry.name).second, "two tensors have one name");
    require(entry.name != "__metadata__" && is_utf8(entry.name), "a name that is none");
    require(entry.shape.size() <= 64, "more than 64 dimensions");
    std::size_t expected = safetensors::type_size_bytes(entry.type);
    for (const std::int64_t size : entry.shape) {
      require(size >= 0, "a negative dimension");
      expected = size == 0 ? 0 : expected;
    }
    for (const std::int64_t size : entry.shape) {
      if (expected != 0)
        require(!__builtin_mul_overflow(expected, static_cast<std::size_t>(size), &expected), "shape overflows");
    }
    require(entry.data.size() == expected, "data of another size than type and shape ask for");
    require(entry.count() * static_cast<std::int64_t>(safetensors::type_size_bytes(entry.type)) ==
                static_cast<std::int64_t>(expected),
            "count() is wrong");
    // In the order of their data, without hole or overlap: each is what the file has next.
    require(expected <= bytes.size() - at, "data beyond the file");
    require(text_of(entry.data) == std::string_view(bytes).substr(at, expected), "data is not the file's");
    at += expected;
    require(file.find(entry.name) == &entry && &file.at(entry.name) == &entry, "find() or at() finds another");
    require(safetensors::type_named(safetensors::type_name(entry.type)) == entry.type, "the type has no name");
    const auto read = [&] { return file.read<float>(entry.name); };
    if (entry.type == safetensors::Type::F32) {
      const std::vector<float> values = read();
      require(text_of(std::as_bytes(std::span(values))) == text_of(entry.data), "read() is not the data");
    } else {
      require_refused(read, "reading as another type");
    }
  }
  require(at == bytes.size(), "bytes that belong to no tensor");
  for (const auto& [key, value] : file.metadata()) require(is_utf8(key) && is_utf8(value), "metadata is not UTF-8");
  const std::string absent = names.empty() ? "x" : *names.rbegin() + "x";
  require(file.find(absent) == nullptr, "find() finds what is not there");
  require_refused([&] { static_cast<void>(file.at(absent)); }, "at() for what is not there");
}

void check_same(const File& left, const File& right) {
  require(left.metadata() == right.metadata(), "metadata changed when written");
  require(left.entries().size() == right.entries().size(), "tensors lost or gained when written");
  for (const Entry& entry : left.entries()) {
    const Entry* other = right.find(entry.name);
    require(other != nullptr && other->type == entry.type && other->shape == entry.shape &&
                text_of(other->data) == text_of(entry.data),
            "a tensor changed when written");
  }
}

// The file, or nothing when it is refused in words that are fit to print.
std::optional<File> opened(const std::filesystem::path& path) {
  try {
    return File::open(path);
  } catch (const std::system_error& error) {
    violated(std::string("the system refused: ") + error.what());
  } catch (const std::runtime_error& error) {
    const std::string_view message = error.what();
    require(message.find(path.string()) != std::string_view::npos, "no path in: " + std::string(message));
    require(message.size() < 2000, "a message of " + std::to_string(message.size()) + " bytes");
    require(std::none_of(message.begin(), message.end(), [](unsigned char c) { return c < 0x20 || c == 0x7F; }),
            "a message with control characters");
    return std::nullopt;
  }
}

void try_file(const std::string& bytes) {
  const std::filesystem::path path = folder() / "read.safetensors";
  put(path, bytes);
  const std::optional<File> file = opened(path);
  if (!file) return;
  check(*file, bytes, path);

  const std::filesystem::path copy = folder() / "written.safetensors";
  const std::vector<Entry> entries(file->entries().begin(), file->entries().end());
  safetensors::write(copy, entries, file->metadata());
  const std::string written = content(copy);
  const File again = File::open(copy);
  check(again, written, copy);
  check_same(*file, again);
  std::uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, written.data(), kLengthBytes);
  require((kLengthBytes + header_bytes) % 64 == 0, "written data is not aligned");
  // Over itself, while it is open.
  const std::vector<Entry> own(again.entries().begin(), again.entries().end());
  safetensors::write(copy, own, again.metadata());
  require(content(copy) == written, "the same arguments made other bytes");
  check_same(*file, again);
}

}  // namespace
}  // namespace adamant::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string bytes(reinterpret_cast<const char*>(data), size);
  adamant::fuzz::try_file(bytes);
  // Two bytes say how much data, the rest is the header.
  if (size >= 2) {
    const std::uint64_t header_bytes = size - 2;
    std::string file(8, '\0');
    std::memcpy(file.data(), &header_bytes, 8);
    file.append(bytes, 2);
    for (std::size_t i = 0; i < data[0] + 256U * (data[1] % 16U); ++i) file += static_cast<char>(7 * i + 1);
    adamant::fuzz::try_file(file);
  }
  return 0;
}
