// What the fuzz targets share: how they say that something is wrong, and a folder for the files they write.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>

// Checks one input; throws Violation when the library breaks a promise. libFuzzer takes what is thrown for a crash, the
// replay program for a failed test.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace adamant::fuzz {

// Is no std::exception, so that nothing that expects one swallows it.
struct Violation {
  std::string what;
};

// Prints, then throws: libFuzzer does not print what is thrown.
[[noreturn]] void violated(const std::string& what);
inline void require(bool holds, const std::string& what) {
  if (!holds) violated(what);
}

// A folder of this process, in memory where the system has such a place; removed when the process ends.
const std::filesystem::path& folder();

}  // namespace adamant::fuzz
