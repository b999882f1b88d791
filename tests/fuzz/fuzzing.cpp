#include "tests/fuzz/fuzzing.hpp"

#include <cstdio>
#include <cstdlib>
#include <system_error>

namespace adamant::fuzz {
namespace {

class Folder {
 public:
  Folder() {
    // libFuzzer ends without destructors, so scripts/fuzz.sh gives a folder that it removes itself.
    const char* const given = std::getenv("ADAMANT_FUZZ_FOLDER");
    std::error_code none;
    const bool in_memory = std::filesystem::is_directory("/dev/shm", none);
    const std::filesystem::path parent = given != nullptr ? given
                                         : in_memory      ? "/dev/shm"
                                                          : std::filesystem::temp_directory_path();
    std::string name = (parent / "adamant-fuzz-XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) violated("cannot make a folder like " + name);
    path_ = name;
  }
  ~Folder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;

  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

}  // namespace

void violated(const std::string& what) {
  std::fprintf(stderr, "violated: %s\n", what.c_str());
  throw Violation{what};
}

const std::filesystem::path& folder() {
  static const Folder made;
  return made.path();
}

}  // namespace adamant::fuzz
