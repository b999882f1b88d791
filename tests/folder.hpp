// A folder for the files of a test. Knows no test framework: the fuzz targets use it too.
#pragma once

#include <stdlib.h>

#include <cerrno>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <system_error>

namespace adamant::test {

// Where there is a place for files in memory, and room: thousands of saves are synced. (A container's may be 64 MB.)
inline std::filesystem::path in_memory_where_possible() {
  constexpr std::uintmax_t kEnough = std::uintmax_t{1} << 30;
  std::error_code none;
  const std::filesystem::space_info space = std::filesystem::space("/dev/shm", none);
  return !none && space.available >= kEnough ? "/dev/shm" : std::filesystem::temp_directory_path();
}
// For what compilers make.
inline std::filesystem::path on_disk() { return std::filesystem::temp_directory_path(); }

// A folder of its own that is gone after the test.
class Folder {
 public:
  explicit Folder(const std::filesystem::path& parent = in_memory_where_possible()) {
    std::string name = (parent / "adamant-test-XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) throw std::system_error(errno, std::generic_category(), name);
    path_ = name;
  }
  ~Folder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;

  const std::filesystem::path& path() const { return path_; }
  std::string file(const std::string& name) const { return (path_ / name).string(); }
  std::filesystem::path operator/(const std::string& name) const { return path_ / name; }

 private:
  std::filesystem::path path_;
};

inline std::string contents(const std::filesystem::path& path) {
  std::ifstream stream(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), {}};
}

}  // namespace adamant::test
