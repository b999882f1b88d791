// Tests of host/safetensors: what is written is read back, and no file, however made, does more
// harm than an exception.
#include "host/safetensors.hpp"

#include "adamant/error.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <fstream>
#include <limits>
#include <new>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <system_error>
#include <utility>

#include "folder.hpp"

// Every request for memory in this program is seen here, so that a test can ask for the largest.
namespace {
std::atomic<std::size_t> largest_request{0};
}  // namespace

__attribute__((noinline)) void* operator new(std::size_t size_bytes, const std::nothrow_t&) noexcept {
  std::size_t largest = largest_request.load();
  while (largest < size_bytes && !largest_request.compare_exchange_weak(largest, size_bytes)) {
  }
  return std::malloc(size_bytes == 0 ? 1 : size_bytes);
}
__attribute__((noinline)) void* operator new(std::size_t size_bytes) {
  if (void* memory = operator new(size_bytes, std::nothrow)) return memory;
  throw std::bad_alloc();
}
__attribute__((noinline)) void operator delete(void* memory) noexcept { std::free(memory); }
__attribute__((noinline)) void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
__attribute__((noinline)) void operator delete(void* memory, const std::nothrow_t&) noexcept { std::free(memory); }

namespace adamant::safetensors {
namespace {

namespace fs = std::filesystem;

std::span<const std::byte> bytes_of(const auto& values) { return std::as_bytes(std::span(values)); }

// A file around this header. Its length is as given, or right.
std::string file_bytes(const std::string& header, std::size_t data_bytes = 0,
                       std::optional<std::uint64_t> header_bytes = {}) {
  const std::uint64_t length = header_bytes.value_or(header.size());
  std::string bytes(8, '\0');
  std::memcpy(bytes.data(), &length, 8);
  return bytes + header + std::string(data_bytes, '\1');
}

std::string tensor(const std::string& name, const std::string& type, const std::string& shape,
                   const std::string& offsets) {
  return '"' + name + R"(":{"dtype":")" + type + R"(","shape":)" + shape + R"(,"data_offsets":)" + offsets + "}";
}

std::string repeated(const std::string& text, std::size_t count) {
  std::string result;
  result.reserve(text.size() * count);
  for (std::size_t i = 0; i < count; ++i) result += text;
  return result;
}

class Safetensors : public testing::Test {
 protected:
  void save(std::string_view bytes) const {
    std::ofstream stream(path_, std::ios::binary);
    stream << bytes;
    ASSERT_TRUE(stream.flush());
  }

  [[nodiscard]] std::string saved() const { return test::contents(path_); }

  [[nodiscard]] std::size_t files_in_folder() const {
    return static_cast<std::size_t>(std::distance(fs::directory_iterator(folder_), {}));
  }

  // Opening is refused with a message that has the path and all of `parts`.
  void expect_open_refused(const fs::path& path, const std::vector<std::string>& parts) const {
    try {
      (void)File::open(path);
      ADD_FAILURE() << "accepted; expected a message with " << testing::PrintToString(parts);
    } catch (const std::runtime_error& error) {
      const std::string message = error.what();
      EXPECT_NE(message.find(path.string()), std::string::npos) << message;
      for (const std::string& part : parts) EXPECT_NE(message.find(part), std::string::npos) << message;
      EXPECT_LT(message.size(), 1000u) << message;
    }
  }

  void expect_refused(std::string_view bytes, const std::vector<std::string>& parts) const {
    save(bytes);
    expect_open_refused(path_, parts);
  }

  template <class Error>
  void expect_write_refused(const fs::path& path, const std::vector<Entry>& entries,
                            const std::vector<std::string>& parts, const Metadata& metadata = {}) const {
    try {
      write(path, entries, metadata);
      ADD_FAILURE() << "accepted; expected a message with " << testing::PrintToString(parts);
    } catch (const Error& error) {
      const std::string message = error.what();
      EXPECT_NE(message.find(path.string()), std::string::npos) << message;
      for (const std::string& part : parts) EXPECT_NE(message.find(part), std::string::npos) << message;
    }
  }

  // Opens what is there. Whatever comes out lies within the file.
  void expect_harmless() const {
    try {
      const File file = File::open(path_);
      std::uint64_t data_bytes = 0;
      unsigned sum = 0;
      for (const Entry& entry : file.entries()) {
        data_bytes += entry.data.size();
        for (const std::byte byte : entry.data) sum += static_cast<unsigned>(byte);  // a fault if beyond
        EXPECT_EQ(file.find(entry.name), &entry);
      }
      EXPECT_LT(data_bytes, fs::file_size(path_));
      EXPECT_LT(sum, 256 * fs::file_size(path_));
    } catch (const std::runtime_error&) {
    }
  }

  const test::Folder own_folder_;
  const fs::path folder_ = own_folder_.path();
  const fs::path path_ = folder_ / "file.safetensors";
};

TEST_F(Safetensors, ReadsBackWhatItWrote) {
  const std::vector<float> weights{1.5F, -0.0F, std::numeric_limits<float>::infinity(), 1e-45F, 3.0F, 4.0F};
  const std::vector<double> moments{0.1, -2e300};
  const std::vector<std::int64_t> steps{std::numeric_limits<std::int64_t>::min()};
  const std::vector<std::uint8_t> odd{7, 8, 9};
  const Metadata metadata{{"optimizer", "Adam"}, {"arguments", "{\"lr\": 1e-3}\n\t\\ \x01"}, {"", "größe 量 😀"}};
  const std::vector<Entry> entries{
      {"odd", Type::U8, {3}, bytes_of(odd)},  // so that all the others are misaligned
      {"weights", Type::F32, {2, 3}, bytes_of(weights)},
      {"moments/\"quoted\"\n量", Type::F64, {2, 1, 1}, bytes_of(moments)},
      {"steps", Type::I64, {}, bytes_of(steps)},
      {"", Type::F16, {5, 0}, {}},
  };
  write(path_, entries, metadata);

  const File file = File::open(path_);
  EXPECT_EQ(file.path(), path_);
  EXPECT_EQ(file.metadata(), metadata);
  ASSERT_EQ(file.entries().size(), entries.size());
  for (std::size_t i = 0; i < entries.size(); ++i) {
    const Entry& entry = file.entries()[i];
    EXPECT_EQ(entry.name, entries[i].name);
    EXPECT_EQ(entry.type, entries[i].type);
    EXPECT_EQ(entry.shape, entries[i].shape);
    EXPECT_EQ(entry.count(), entries[i].count());
    EXPECT_TRUE(std::equal(entry.data.begin(), entry.data.end(), entries[i].data.begin(), entries[i].data.end()));
    EXPECT_EQ(file.find(entry.name), &entry);
  }
  EXPECT_EQ(0, std::memcmp(file.read<float>("weights").data(), weights.data(), sizeof(float) * weights.size()));
  EXPECT_EQ(file.read<double>(entries[2].name), moments);
  EXPECT_EQ(file.read<std::int64_t>("steps"), steps);
  EXPECT_EQ(file.read<std::uint8_t>("odd"), odd);
  EXPECT_EQ(files_in_folder(), 1u);
}

TEST_F(Safetensors, ReadsAndWritesEveryType) {
  const std::map<std::string, std::size_t> sizes{{"BOOL", 1},    {"U8", 1},  {"I8", 1},  {"F8_E5M2", 1}, {"F8_E4M3", 1},
                                                 {"F8_E8M0", 1}, {"I16", 2}, {"U16", 2}, {"F16", 2},     {"BF16", 2},
                                                 {"I32", 4},     {"U32", 4}, {"F32", 4}, {"C64", 8},     {"F64", 8},
                                                 {"I64", 8},     {"U64", 8}};
  for (const auto& [name, size_bytes] : sizes) {
    SCOPED_TRACE(name);
    const auto type = type_named(name);
    ASSERT_TRUE(type);
    EXPECT_EQ(type_name(*type), name);
    EXPECT_EQ(type_size_bytes(*type), size_bytes);
    const std::string data(3 * size_bytes, 'x');
    write(path_, std::vector<Entry>{{"a", *type, {3}, bytes_of(data)}});
    EXPECT_EQ(File::open(path_).at("a").type, *type);
    EXPECT_EQ(File::open(path_).at("a").count(), 3);
  }
  EXPECT_FALSE(type_named("f32"));
  EXPECT_FALSE(type_named(""));
  EXPECT_THROW((void)type_name(static_cast<Type>(17)), std::invalid_argument);
  EXPECT_THROW((void)type_size_bytes(static_cast<Type>(-1)), std::invalid_argument);
}

TEST_F(Safetensors, WritesExactlyTheseBytes) {
  const std::array<std::uint8_t, 8> data{1, 2, 3, 4, 5, 6, 7, 8};
  write(
      path_,
      std::vector<Entry>{{"b", Type::F32, {1}, bytes_of(data).first(4)}, {"a", Type::I16, {2}, bytes_of(data).last(4)}},
      {{"k", "v"}});
  std::string header = R"({"__metadata__":{"k":"v"},)" + tensor("b", "F32", "[1]", "[0,4]") + "," +
                       tensor("a", "I16", "[2]", "[4,8]") + "}";
  header.resize(192 - 8, ' ');
  EXPECT_EQ(saved(), file_bytes(header) + "\1\2\3\4\5\6\7\10");
}

TEST_F(Safetensors, StartsTheDataAtAMultipleOf64BytesWhateverTheHeader) {
  for (std::size_t length = 0; length < 130; ++length) {
    write(path_, {}, {{"k", std::string(length, 'v')}});
    EXPECT_EQ(fs::file_size(path_) % 64, 0u) << length;
    EXPECT_EQ(File::open(path_).metadata().at("k").size(), length);
  }
}

TEST_F(Safetensors, WritesAndReadsAFileWithoutTensors) {
  write(path_, {});
  EXPECT_TRUE(File::open(path_).entries().empty());
  EXPECT_TRUE(File::open(path_).metadata().empty());
}

TEST_F(Safetensors, ReadsAHeaderInAnyOrderAndLayout) {
  save(
      file_bytes("{ \"second\" :\n{\"data_offsets\": [ 4 ,6 ], \"shape\":[], \"dtype\":\"U16\"},\r\n\t"
                 "\"first\":{\"shape\":[2,2],\"dtype\":\"U8\",\"data_offsets\":[0,4]}, "
                 "\"__metadata__\":{\"\\u00e4\\ud83d\\ude00\":\"\\/\"} }" +
                     std::string(10000, ' '),
                 6));
  const File file = File::open(path_);
  ASSERT_EQ(file.entries().size(), 2u);
  EXPECT_EQ(file.entries()[0].name, "first");
  EXPECT_EQ(file.entries()[1].name, "second");
  EXPECT_EQ(file.read<std::uint16_t>("second"), std::vector<std::uint16_t>{0x0101});
  EXPECT_EQ(file.metadata(), (Metadata{{"ä😀", "/"}}));
}

TEST_F(Safetensors, ReadsTensorsWithoutElementsWhereverTheyAre) {
  save(file_bytes("{" + tensor("end", "F32", "[0]", "[8,8]") + "," + tensor("full", "F32", "[2]", "[0,8]") + "," +
                      tensor("start", "F64", "[1152921504606846975,0]", "[0,0]") + "}",
                  8));
  const File file = File::open(path_);
  EXPECT_EQ(file.read<float>("end").size(), 0u);
  EXPECT_EQ(file.read<double>("start").size(), 0u);
  EXPECT_EQ(file.read<float>("full").size(), 2u);
}

TEST_F(Safetensors, ReadsAShapeOf64Dimensions) {
  save(
      file_bytes("{" + tensor("w", "U8", "[1" + repeated(",\n                        1", 63) + "]", "[0,1]") + "}", 1));
  EXPECT_EQ(File::open(path_).at("w").shape.size(), 64u);
}

TEST_F(Safetensors, RefusesToReadAnotherTypeOrName) {
  save(file_bytes("{" + tensor("w", "F32", "[2]", "[0,8]") + "}", 8));
  const File file = File::open(path_);
  EXPECT_EQ(file.find("v"), nullptr);
  EXPECT_EQ(file.find("x"), nullptr);
  try {
    (void)file.read<double>("w");
    ADD_FAILURE();
  } catch (const std::runtime_error& error) {
    EXPECT_NE(std::string(error.what()).find("'w' is of type F32, but is read as F64"), std::string::npos)
        << error.what();
  }
  try {
    (void)file.at("v");
    ADD_FAILURE();
  } catch (const std::runtime_error& error) {
    EXPECT_NE(std::string(error.what()).find("no tensor 'v'; there are: 'w'"), std::string::npos) << error.what();
  }
}

TEST_F(Safetensors, StaysReadableWhenMovedAndReplaced) {
  const std::vector<float> before{1, 2, 3};
  write(path_, std::vector<Entry>{{"w", Type::F32, {3}, bytes_of(before)}});
  File opened = File::open(path_);
  const Entry* entry = opened.find("w");
  const File file = std::move(opened);
  EXPECT_EQ(file.find("w"), entry);

  std::vector<Entry> entries(file.entries().begin(), file.entries().end());
  entries[0].name = "v";
  write(path_, entries);
  EXPECT_EQ(file.read<float>("w"), before);
  EXPECT_EQ(File::open(path_).read<float>("v"), before);
}

TEST_F(Safetensors, RefusesAFileShorterThanTheHeaderLength) {
  for (std::size_t size = 0; size < 8; ++size) {
    expect_refused(std::string(size, '\0'), {"size is " + std::to_string(size), "at least the 8"});
  }
}

TEST_F(Safetensors, RefusesAHeaderLengthOfZero) {
  expect_refused(file_bytes("{}", 0, 0), {"header length is 0", "allowed: 1 to 100000000"});
}

TEST_F(Safetensors, RefusesAHeaderLongerThanTheFile) {
  expect_refused(file_bytes("{}", 0, 3), {"header length is 3", "at most the 2 bytes"});
  expect_refused(file_bytes("", 0, 1), {"header length is 1", "at most the 0 bytes"});
}

TEST_F(Safetensors, RefusesAHeaderLengthBeyondEveryFile) {
  for (const std::uint64_t length :
       {std::uint64_t{1} << 31, std::uint64_t{1} << 32, std::uint64_t{1} << 63, (std::uint64_t{1} << 63) - 1,
        ~std::uint64_t{0}, ~std::uint64_t{0} - 7, ~std::uint64_t{0} - 8}) {
    expect_refused(file_bytes("{}", 100, length), {"header length is " + std::to_string(length), "1 to 100000000"});
  }
}

TEST_F(Safetensors, RefusesAHeaderOfMoreThan100MegabytesEvenWithinTheFile) {
  save(file_bytes("{}", 0, 100'000'001));
  fs::resize_file(path_, 100'000'100);  // sparse
  expect_open_refused(path_, {"header length is 100000001", "1 to 100000000"});
}

TEST_F(Safetensors, RefusesAHeaderThatIsNotAnObject) {
  for (const std::string header : {"[]", "null", "1", "\"a\"", " {}", "\xEF\xBB\xBF{}", "\n{}", "x", " ", "]"}) {
    expect_refused(file_bytes(header), {"header begins with", "allowed: '{'"});
  }
}

TEST_F(Safetensors, RefusesAHeaderThatIsNotJson) {
  for (const std::string header : {"{",
                                   "{]",
                                   "{}}",
                                   "{} {}",
                                   "{}x",
                                   "{\"",
                                   "{\"a",
                                   "{\"a\"}",
                                   "{\"a\":",
                                   "{\"a\":}",
                                   "{,}",
                                   "{\"__metadata__\":{},}",
                                   "{a:{}}",
                                   "{'a':{}}",
                                   "{\"a\":{\"dtype\":\"F32\",\"shape\":[1,],\"data_offsets\":[0,4]}}",
                                   "{\"a\":{\"shape\":[01]}}",
                                   "{\"a\":{\"shape\":[+1]}}",
                                   "{\"a\":{\"shape\":[NaN]}}",
                                   "{\"a\":{\"shape\":[0x1]}}",
                                   "{\"\\x\":{}}",
                                   "{\"\\",
                                   "{\"\\u12\":{}}",
                                   "{\"\\ud800\":{}}",
                                   "{/**/}",
                                   "{\"a\n\":{}}",
                                   "{\"a\":{\"shape\":[1e999]}}"}) {
    SCOPED_TRACE(header);
    expect_refused(file_bytes(header, 4), {"not valid JSON at its byte", "allowed: one JSON object in UTF-8"});
  }
}

TEST_F(Safetensors, RefusesAHeaderWithANullByte) {
  // nlohmann-json alone takes it for the end.
  using namespace std::string_literals;
  for (const std::string& header : {"{}\0"s, "{}\0 garbage"s, "{\"\0\":{}}"s, "{}   \0"s}) {
    expect_refused(file_bytes(header), {"null byte"});
  }
}

TEST_F(Safetensors, RefusesAHeaderThatIsNotUtf8) {
  for (const std::string text : {"\xFF", "\xC0\x80", "\xED\xA0\x80", "\xF5\x80\x80\x80", "\x80", "\xE2\x82"}) {
    expect_refused(file_bytes("{" + tensor(text, "U8", "[1]", "[0,1]") + "}", 1), {"UTF-8"});
    expect_refused(file_bytes("{\"__metadata__\":{\"k\":\"" + text + "\"}}"), {"UTF-8"});
  }
}

TEST_F(Safetensors, RefusesDeepNestingWhereverItStarts) {
  for (const std::string open : {"[", "{\"a\":"}) {
    for (const std::size_t depth : {2u, 300u, 1'000'000u}) {
      SCOPED_TRACE(open + " " + std::to_string(depth));
      const std::string bomb = repeated(open, depth);
      // So many brackets are refused before anything is parsed.
      const bool unnamed = open == "[" && depth > 2048;
      expect_refused(file_bytes("{\"a\":" + bomb), {unnamed ? "" : "tensor 'a'"});
      expect_refused(file_bytes("{\"a\":{\"dtype\":" + bomb), {unnamed ? "" : "field 'dtype'"});
      expect_refused(file_bytes("{\"a\":{\"shape\":" + bomb), {unnamed ? "" : "field 'shape'"});
      expect_refused(file_bytes("{\"a\":{\"shape\":[" + bomb), {unnamed ? "" : "field 'shape'"});
      expect_refused(file_bytes("{\"__metadata__\":" + bomb), {unnamed ? "" : "'__metadata__'"});
      expect_refused(file_bytes("{\"__metadata__\":{\"a\":" + bomb), {unnamed ? "" : "field 'a'"});
    }
  }
}

TEST_F(Safetensors, RefusesAShapeWithoutEnd) {
  expect_refused(file_bytes("{\"w\":{\"shape\":[0" + repeated(",0", 10'000'000) + "]}}"), {"too long a gap"});
  expect_refused(file_bytes("{\"w\":{\"shape\":[0" + repeated(",0", 64) + "]}}"),
                 {"tensor 'w', field 'shape' has more than 64 dimensions", "at most 64"});
}

TEST_F(Safetensors, ReadsWhatIsIndentedUpTo2KiB) {
  const auto indented = [&](std::size_t gap) {
    return file_bytes("{" + repeated(" ", gap) + tensor("w", "F32", "[1]", "[0,4]") + "}", 4);
  };
  save(indented(2047));  // and the brace
  EXPECT_NO_THROW((void)File::open(path_));
  expect_refused(indented(2048), {"too long a gap between strings"});
}

TEST_F(Safetensors, RefusesANameThatIsThereTwice) {
  const std::string twice = tensor("w", "U8", "[0]", "[0,0]");
  expect_refused(file_bytes("{" + twice + "," + tensor("v", "U8", "[0]", "[0,0]") + "," + twice + "}"),
                 {"tensor 'w' is there twice"});
  expect_refused(file_bytes("{" + twice + "," + tensor("\\u0077", "U8", "[0]", "[0,0]") + "}"),
                 {"tensor 'w' is there twice"});
  expect_refused(file_bytes(R"({"__metadata__":{},"__metadata__":{}})"), {"'__metadata__' is there twice"});
  expect_refused(file_bytes(R"({"__metadata__":{"a":"1","b":"2","a":"1"}})"),
                 {"'__metadata__', field 'a' is there twice"});
  expect_refused(file_bytes(R"({"w":{"dtype":"U8","dtype":"U8","shape":[0],"data_offsets":[0,0]}})"),
                 {"tensor 'w', field 'dtype' is there twice"});
  expect_refused(file_bytes(R"({"w":{"dtype":"U8","shape":[0],"shape":[0],"data_offsets":[0,0]}})"),
                 {"tensor 'w', field 'shape' is there twice"});
  expect_refused(file_bytes(R"({"w":{"dtype":"U8","shape":[0],"data_offsets":[0,0],"data_offsets":[0,0]}})"),
                 {"tensor 'w', field 'data_offsets' is there twice"});
}

TEST_F(Safetensors, RefusesAnUnknownType) {
  for (const std::string type : {"F31", "f32", "", "F32 ", "F4", "FLOAT"}) {
    expect_refused(file_bytes("{" + tensor("w", type, "[1]", "[0,4]") + "}", 4),
                   {"tensor 'w', field 'dtype' is '" + type + "'", "allowed: BOOL, U8", "F32", "U64"});
  }
}

TEST_F(Safetensors, RefusesAShapeThatIsNotMadeOfWholeNumbers) {
  for (const std::string value :
       {"-1", "1.5", "1.0", "1e2", "\"4\"", "null", "true", "{}", "[4]", "9223372036854775808", "18446744073709551615",
        "18446744073709551616", "-9223372036854775809"}) {
    SCOPED_TRACE(value);
    expect_refused(file_bytes("{" + tensor("w", "U8", "[1," + value + "]", "[0,4]") + "}", 4),
                   {"tensor 'w', field 'shape' holds ", "whole numbers from 0 to 9223372036854775807"});
    expect_refused(file_bytes("{" + tensor("w", "U8", "[4]", "[0," + value + "]") + "}", 4),
                   {"tensor 'w', field 'data_offsets' holds ", "whole numbers from 0 to 9223372036854775807"});
  }
  expect_refused(file_bytes("{" + tensor("w", "U8", "[-7]", "[0,4]") + "}", 4), {"holds -7;"});
  expect_refused(file_bytes("{" + tensor("w", "U8", "[1.25]", "[0,4]") + "}", 4), {"holds '1.25';"});
}

TEST_F(Safetensors, RefusesAShapeTooLargeToCount) {
  // Each product is, modulo 2^64, the four bytes there are (or no bytes).
  for (const std::string shape :
       {"[4294967296,4294967296]", "[9223372036854775807,3]", "[4611686018427387904,4]", "[2305843009213693952]",
        "[4294967296,4294967296,0]", "[0,4294967296,4294967296]", "[2147483649,2147483649,2147483649,2147483649]"}) {
    SCOPED_TRACE(shape);
    expect_refused(file_bytes("{" + tensor("w", "F32", shape, "[0,0]") + "}"),
                   {"tensor 'w', field 'shape' is '[", "too large to count", "9223372036854775807"});
  }
}

TEST_F(Safetensors, RefusesASizeThatIsNotWhatShapeAndTypeAskFor) {
  expect_refused(file_bytes("{" + tensor("w", "F32", "[3]", "[0,4]") + "}", 4),
                 {"tensor 'w', field 'data_offsets' is [0,4], 4 bytes; allowed: the 12 that shape "
                  "'[3]' of F32"});
  expect_refused(file_bytes("{" + tensor("w", "U8", "[3]", "[0,4]") + "}", 4), {"the 3 that shape '[3]' of U8"});
  expect_refused(file_bytes("{" + tensor("w", "U8", "[0]", "[0,1]") + "}", 1), {"the 0 that"});
  expect_refused(file_bytes("{" + tensor("w", "U8", "[]", "[0,0]") + "}"), {"the 1 that"});
}

TEST_F(Safetensors, RefusesReversedOffsets) {
  expect_refused(file_bytes("{" + tensor("w", "U8", "[4]", "[4,0]") + "}", 4),
                 {"'data_offsets' is [4,0]", "begin at most end"});
}

TEST_F(Safetensors, RefusesOffsetsBeyondTheData) {
  expect_refused(file_bytes("{" + tensor("w", "U8", "[5]", "[0,5]") + "}", 4),
                 {"'data_offsets' is [0,5], beyond", "at most 4"});
  expect_refused(file_bytes("{" + tensor("w", "U8", "[4]", "[9223372036854775803,9223372036854775807]") + "}", 4),
                 {"beyond the data", "at most 4"});
  expect_refused(file_bytes("{" + tensor("w", "U8", "[0]", "[5,5]") + "}", 4), {"beyond the data"});
}

TEST_F(Safetensors, RefusesOffsetsThatAreNotAPair) {
  expect_refused(file_bytes("{" + tensor("w", "U8", "[4]", "[]") + "}", 4), {"'data_offsets' has 0 numbers"});
  expect_refused(file_bytes("{" + tensor("w", "U8", "[4]", "[4]") + "}", 4), {"'data_offsets' has 1 numbers"});
  expect_refused(file_bytes("{" + tensor("w", "U8", "[4]", "[0,4,4]") + "}", 4),
                 {"'data_offsets' has more than 2 numbers"});
}

TEST_F(Safetensors, RefusesOverlaps) {
  const std::string first = tensor("a", "U8", "[4]", "[0,4]") + ",";
  for (const std::string& second : {tensor("b", "U8", "[4]", "[2,6]"), tensor("b", "U8", "[4]", "[0,4]"),
                                    tensor("b", "U8", "[2]", "[1,3]"), tensor("b", "U8", "[0]", "[2,2]")}) {
    expect_refused(file_bytes("{" + first + second + "}", 6),
                   {"tensor 'b', field 'data_offsets'", "overlapping", "begin at 4"});
  }
}

TEST_F(Safetensors, RefusesHoles) {
  expect_refused(file_bytes("{" + tensor("a", "U8", "[4]", "[0,4]") + "," + tensor("b", "U8", "[3]", "[5,8]") + "}", 8),
                 {"tensor 'b', field 'data_offsets' is [5,8], leaving a hole", "begin at 4"});
  expect_refused(file_bytes("{" + tensor("a", "U8", "[4]", "[1,5]") + "}", 5), {"leaving a hole", "begin at 0"});
}

TEST_F(Safetensors, RefusesBytesAfterTheLastTensor) {
  expect_refused(file_bytes("{" + tensor("a", "U8", "[4]", "[0,4]") + "}", 6), {"2 bytes follow the last tensor"});
  expect_refused(file_bytes("{}", 1), {"1 bytes follow the last tensor"});
}

TEST_F(Safetensors, RefusesMissingFields) {
  expect_refused(file_bytes(R"({"w":{"shape":[1],"data_offsets":[0,1]}})", 1),
                 {"tensor 'w', field 'dtype' is missing"});
  expect_refused(file_bytes(R"({"w":{"dtype":"U8","data_offsets":[0,1]}})", 1),
                 {"tensor 'w', field 'shape' is missing"});
  expect_refused(file_bytes(R"({"w":{"dtype":"U8","shape":[1]}})", 1), {"tensor 'w', field 'data_offsets' is missing"});
  // The first tensor's fields are not the second's.
  expect_refused(file_bytes("{" + tensor("v", "U8", "[1]", "[0,1]") + ",\"w\":{}}", 1),
                 {"tensor 'w', field 'dtype' is missing"});
}

TEST_F(Safetensors, RefusesUnknownFields) {
  expect_refused(file_bytes(R"({"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"strides":[1]}})", 1),
                 {"tensor 'w', field 'strides' is unknown", "allowed: dtype, shape, data_offsets"});
}

TEST_F(Safetensors, RefusesFieldsOfAnotherKind) {
  for (const std::string value : {"1", "-1", "1.5", "null", "true", "\"U8\"", "{}", "[]"}) {
    SCOPED_TRACE(value);
    if (value != "{}") expect_refused(file_bytes("{\"w\":" + value + "}"), {"tensor 'w' is ", "allowed: an object"});
    if (value != "\"U8\"")
      expect_refused(file_bytes("{\"w\":{\"dtype\":" + value + "}}"), {"field 'dtype' is ", "allowed: one of BOOL"});
    if (value != "[]") {
      expect_refused(file_bytes("{\"w\":{\"shape\":" + value + "}}"), {"field 'shape' is ", "allowed: an array"});
      expect_refused(file_bytes("{\"w\":{\"data_offsets\":" + value + "}}"),
                     {"field 'data_offsets' is ", "allowed: an array"});
    }
  }
}

TEST_F(Safetensors, RefusesMetadataThatIsNotStrings) {
  for (const std::string value : {"1", "-1", "1.5", "null", "true", "{}", "[]"}) {
    SCOPED_TRACE(value);
    expect_refused(file_bytes("{\"__metadata__\":{\"k\":" + value + "}}"),
                   {"'__metadata__', field 'k' is ", "allowed: a string"});
    if (value != "{}")
      expect_refused(file_bytes("{\"__metadata__\":" + value + "}"), {"'__metadata__' is ", "allowed: an object"});
  }
}

TEST_F(Safetensors, ShowsHostileNamesShortAndOnOneLine) {
  const std::string name = "a\\n\\u001b" + std::string(10000, 'x');
  expect_refused(file_bytes("{\"" + name + "\":1}"), {"tensor 'a\\x0a\\x1bxxx", "...' is 1"});
  expect_refused(file_bytes("{\"" + repeated("量", 1000) + "\":1}"), {"量...' is 1"});
}

TEST_F(Safetensors, RefusesWhatIsNotARegularFileWithoutWaiting) {
  expect_open_refused(folder_, {"is a directory", "a regular file"});
  expect_open_refused("/dev/null", {"is a device"});
  expect_open_refused("/dev/zero", {"is a device"});
  ASSERT_EQ(::mkfifo(path_.c_str(), 0600), 0);
  expect_open_refused(path_, {"is a FIFO"});
}

TEST_F(Safetensors, SaysWhatTheSystemSaysOfAFileItCannotOpen) {
  expect_open_refused(folder_ / "missing", {"cannot open", "No such file or directory"});
  expect_open_refused(folder_ / std::string(300, 'x'), {"cannot open", "File name too long"});
  fs::create_symlink(path_, path_);
  expect_open_refused(path_, {"cannot open", "symbolic links"});
  try {
    (void)File::open(folder_ / "missing");
    ADD_FAILURE();
  } catch (const std::system_error& error) {
    EXPECT_EQ(error.code(), std::errc::no_such_file_or_directory);
  }
}

TEST_F(Safetensors, SaysThatAFileMayNotBeRead) {
  save(file_bytes("{}"));
  fs::permissions(path_, fs::perms::none);
  if (::getuid() == 0) GTEST_SKIP() << "root may read every file";
  expect_open_refused(path_, {"cannot open", "Permission denied"});
}

// A file with all there is in the format.
std::string small_file() {
  return file_bytes(R"({"__metadata__":{"k":"v\u00e4"},)" + tensor("a", "F32", "[2,1]", "[0,8]") + "," +
                        tensor("b", "U8", "[3]", "[8,11]") + "," + tensor("c", "I64", "[0]", "[11,11]") + "} ",
                    11);
}

TEST_F(Safetensors, SurvivesTruncationAtEveryLength) {
  const std::string whole = small_file();
  save(whole);
  ASSERT_EQ(File::open(path_).entries().size(), 3u);
  for (std::size_t size = whole.size(); size-- > 0;) {
    fs::resize_file(path_, size);
    EXPECT_THROW((void)File::open(path_), std::runtime_error) << size;
  }
}

TEST_F(Safetensors, SurvivesEveryChangeOfOneByteOfTheHeader) {
  const std::string whole = small_file();
  save(whole);
  const int descriptor = ::open(path_.c_str(), O_WRONLY);
  ASSERT_GE(descriptor, 0);
  for (std::size_t at = 0; at < whole.size() - 11; ++at) {
    SCOPED_TRACE(at);
    for (int change = 1; change < 256; ++change) {
      const char changed = static_cast<char>(whole[at] ^ change);
      ASSERT_EQ(::pwrite(descriptor, &changed, 1, static_cast<off_t>(at)), 1);
      expect_harmless();
    }
    ASSERT_EQ(::pwrite(descriptor, &whole[at], 1, static_cast<off_t>(at)), 1);
  }
  ::close(descriptor);
  EXPECT_EQ(File::open(path_).entries().size(), 3u);
}

TEST_F(Safetensors, AcceptsOnlyWhatAJsonLibraryAccepts) {
  const std::string whole = small_file();
  const std::string pieces = "{}[]:,\"\\0129-.e tfn\n\0x";
  unsigned accepted = 0;
  std::uint32_t random = 12345;  // always the same: a failure repeats
  const auto next = [&](std::size_t below) { return (random = random * 1664525 + 1013904223) / 256 % below; };
  for (int i = 0; i < 5000; ++i) {
    std::string header = whole.substr(8, whole.size() - 8 - 11);
    for (std::size_t edits = 1 + next(3); edits > 0; --edits) {
      const std::size_t at = next(header.size());
      header.replace(at, next(2), next(2), pieces[next(pieces.size())]);
    }
    save(file_bytes(header, 11));
    expect_harmless();
    try {
      (void)File::open(path_);
      ++accepted;
      EXPECT_TRUE(nlohmann::json::accept(header)) << header;
    } catch (const std::runtime_error&) {
    }
  }
  EXPECT_GT(accepted, 100u);
}

TEST_F(Safetensors, AllocatesNothingLargerThanTheFile) {
  constexpr std::size_t kMany = 20'000;
  std::string many_tensors = "{";
  std::string many_metadata = "{\"__metadata__\":{";
  for (std::size_t i = 0; i < kMany; ++i) {
    const std::string comma = i == 0 ? "" : ",";
    many_tensors += comma + tensor(std::to_string(i), "U8", "[0]", "[0,0]");
    many_metadata += comma + '"' + std::to_string(i) + "\":\"\"";
  }
  const std::string flags(600'000, 'y');
  const std::map<std::string, std::string> files{
      {"empty tensors, the most entries in the least text", file_bytes(many_tensors + "}")},
      {"the last of many tensors is wrong", file_bytes(many_tensors + "," + tensor("x", "U8", "[1]", "[0,0]") + "}")},
      {"many tensors, then nothing", file_bytes(many_tensors)},
      {"many metadata", file_bytes(many_metadata + "}}")},
      {"many metadata, then nothing", file_bytes(many_metadata)},
      {"one long name", file_bytes("{\"" + flags + "\":1}")},
      {"one long name that is not closed", file_bytes("{\"" + flags)},
      {"one long name of escapes", file_bytes("{\"" + repeated("\\u0001", 100'000) + "\":1}")},
      {"one long name of escaped quotes", file_bytes("{\"" + repeated("x\\\"", 200'000) + "\":1}")},
      {"8000 tabs and an error after them", file_bytes("{" + std::string(8'000, '\t') + "?")},
      {"one long name of the shortest escapes", file_bytes("{\"" + repeated("\\n", 300'000) + "\":1}")},
      {"one long value", file_bytes("{\"__metadata__\":{\"k\":\"" + flags + "\"}}")},
      {"one long value in a larger file",
       file_bytes("{\"__metadata__\":{\"k\":\"" + flags + "\"}," + tensor("w", "U8", "[2000000]", "[0,2000000]") + "}",
                  2'000'000)},
      {"a long value and an error after it",
       file_bytes("{\"__metadata__\":{\"k\":\"" + flags + "\"\t\t\t?", 2'000'000)},
      {"the longest string of a small file and an error after it",
       file_bytes("{\"" + std::string(16'000, 'x') + '"' + std::string(2000, '\t') + "?")},
      {"a long number", file_bytes("{\"w\":{\"shape\":[" + std::string(600'000, '1') + "]}}")},
      {"a number of 2000 digits", file_bytes("{\"w\":{\"shape\":[" + std::string(2'000, '1') + "]}}")},
      {"a long shape", file_bytes("{\"w\":{\"shape\":[0" + repeated(",0", 300'000) + "]}}")},
      {"deep nesting", file_bytes("{\"w\":{\"shape\":" + std::string(600'000, '['))},
      {"blanks inside", file_bytes("{" + std::string(600'000, ' ') + "}")},
      {"tabs inside", file_bytes("{" + std::string(600'000, '\t') + "?")},
      {"blanks behind", file_bytes("{}" + std::string(600'000, ' '))},
      {"a shape of 2^62 elements",
       file_bytes("{" + tensor("w", "U8", "[4611686018427387904]", "[0,4611686018427387904]") + "}")},
      {"a header length of 99 MB", file_bytes("{}", 100, 99'000'000)},
      {"a header length of 2^63", file_bytes("{}", 100, std::uint64_t{1} << 63)},
  };
  int accepted = 0;
  for (const auto& [what, bytes] : files) {
    save(bytes);
    largest_request = 0;
    try {
      (void)File::open(path_);
      ++accepted;
    } catch (const std::runtime_error&) {
    }
    const std::size_t largest = largest_request;
    EXPECT_LE(largest, std::max<std::size_t>(bytes.size(), 64 * 1024)) << what;
    EXPECT_GT(largest, 0u) << what;
  }
  EXPECT_EQ(accepted, 4);
}

TEST_F(Safetensors, AcceptsLongStringsInALargerFile) {
  const std::string value = '"' + std::string(100'000, 'v') + "\\\"";
  const std::string data(400'000, 'd');
  write(path_, std::vector<Entry>{{"w", Type::U8, {400'000}, bytes_of(data)}}, {{"k", value}});
  EXPECT_EQ(File::open(path_).metadata().at("k"), value);
  write(path_, {}, {{"k", std::string(16'000, 'v')}});
  EXPECT_EQ(File::open(path_).metadata().at("k").size(), 16'000u);
}

TEST_F(Safetensors, RefusesToWriteWhatItWouldNotRead) {
  using Invalid = std::invalid_argument;
  save("before");
  const std::vector<float> data{1, 2};
  const auto bytes = bytes_of(data);
  expect_write_refused<Invalid>(path_, {{"w", Type::F32, {3}, bytes}}, {"tensor 'w'", "8 bytes", "the 12 that"});
  expect_write_refused<Invalid>(path_, {{"w", Type::F32, {-2}, bytes}}, {"tensor 'w', field 'shape' holds -2"});
  expect_write_refused<Invalid>(path_, {{"w", Type::F32, {std::int64_t{1} << 62, 8}, bytes}}, {"too large"});
  expect_write_refused<Invalid>(path_, {{"w", Type::F32, std::vector<std::int64_t>(65, 1), bytes}}, {"more than 64"});
  expect_write_refused<Invalid>(path_, {{"w", Type::F32, {2}, bytes}, {"w", Type::F32, {2}, bytes}},
                                {"'w' is there twice"});
  expect_write_refused<Invalid>(path_, {{"__metadata__", Type::F32, {2}, bytes}}, {"'__metadata__'", "any other name"});
  expect_write_refused<Invalid>(path_, {{"\xFF", Type::F32, {2}, bytes}}, {"not valid UTF-8"});
  expect_write_refused<Invalid>(path_, {}, {"not valid UTF-8"}, {{"k", "\xC3"}});
  expect_write_refused<Invalid>(path_, {}, {"not valid UTF-8"}, {{"\xC3", "v"}});
  expect_write_refused<Invalid>(path_, {}, {"too long a string"}, {{"k", std::string(100'000, 'v')}});
  EXPECT_THROW(write(path_, std::vector<Entry>{{"w", static_cast<Type>(99), {2}, bytes}}), Invalid);
  EXPECT_EQ(saved(), "before");
  EXPECT_EQ(files_in_folder(), 1u);
}

TEST_F(Safetensors, NamesPathAndReasonWhenItCannotWrite) {
  expect_write_refused<std::system_error>(folder_ / "missing" / "file", {}, {"No such file or directory"});
  expect_write_refused<std::system_error>(folder_ / std::string(300, 'x'), {}, {"File name too long"});
  expect_write_refused<std::runtime_error>(folder_, {}, {"Is a directory", "not a regular file"});
  EXPECT_EQ(files_in_folder(), 0u);
}

TEST_F(Safetensors, DoesNotReplaceDevicesAndFifos) {
  // Through a link, so that a broken check costs the link and not the machine's device.
  fs::create_symlink("/dev/full", path_);
  expect_write_refused<NotSaved>(path_, {}, {"not a regular file"});
  EXPECT_TRUE(fs::is_symlink(path_));
  fs::remove(path_);
  ASSERT_EQ(::mkfifo(path_.c_str(), 0600), 0);
  expect_write_refused<NotSaved>(path_, {}, {"not a regular file"});
  EXPECT_TRUE(fs::is_fifo(path_));
}

TEST_F(Safetensors, LeavesTheFormerFileAndNothingElseWhenTheDiskIsFull) {
  save("before");
  const std::string data(1 << 20, 'd');
  // A limit on the size of files is a disk that fills up in the middle of a write.
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  const rlimit limit{100'000, before.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &limit), 0);
  expect_write_refused<std::system_error>(path_, {{"w", Type::U8, {1 << 20}, bytes_of(data)}},
                                          {"cannot write", "File too large"});
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &before), 0);
  std::signal(SIGXFSZ, handler);
  EXPECT_EQ(saved(), "before");
  EXPECT_EQ(files_in_folder(), 1u);
}

TEST_F(Safetensors, GivesANewFileTheUsualPermissions) {
  const mode_t mask = ::umask(0027);
  write(path_, {});
  ::umask(mask);
  EXPECT_EQ(fs::status(path_).permissions(), static_cast<fs::perms>(0640));
}

}  // namespace
}  // namespace adamant::safetensors
