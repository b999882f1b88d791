#include "tests/fuzz/fuzzing.hpp"

#include <cstdio>
#include <cstdlib>

#include "tests/folder.hpp"

namespace adamant::fuzz {
void violated(const std::string& what) {
  std::fprintf(stderr, "violated: %s\n", what.c_str());
  throw Violation{what};
}

const std::filesystem::path& folder() {
  // libFuzzer ends without destructors, so scripts/fuzz.sh gives a folder that it removes itself.
  static const char* const given = std::getenv("ADAMANT_FUZZ_FOLDER");
  static const test::Folder made(given != nullptr ? given : test::in_memory_where_possible());
  return made.path();
}

}  // namespace adamant::fuzz
