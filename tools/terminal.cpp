#include "tools/terminal.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <cmath>
#include <fstream>
#include <limits>

#include "adamant/adamant.hpp"

namespace adamant::tools {
namespace {

using Clock = std::chrono::steady_clock;
constexpr std::chrono::milliseconds kQuietFor{2000};
constexpr std::chrono::milliseconds kBetween{100};

}  // namespace

Progress::Progress(std::string what)
    : what_(std::move(what)), start_(Clock::now()), last_(start_), terminal_(isatty(STDERR_FILENO) != 0) {}

Progress::~Progress() { clear(); }

void Progress::clear() {
  if (shown_) fmt::print(stderr, "\r\x1b[K");
  shown_ = false;
}

void Progress::at(double fraction, const std::string& detail) {
  const auto now = Clock::now();
  if (!terminal_ || now - start_ < kQuietFor || now - last_ < kBetween) return;
  last_ = now;
  shown_ = true;
  fmt::print(stderr, "\r\x1b[K{}: {:3.0f} %{}{}", what_, 100 * fraction, detail.empty() ? "" : ", ", detail);
  std::fflush(stderr);
}

nlohmann::json number(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  return value;
}

std::int64_t memory_available() {
  // Free pages alone leave out what the kernel would give back at once, the page cache above all.
  std::ifstream file("/proc/meminfo");
  for (std::string field; file >> field; file.ignore(std::numeric_limits<std::streamsize>::max(), '\n')) {
    std::int64_t kibibytes = 0;
    if (field == "MemAvailable:" && file >> kibibytes) return 1024 * kibibytes;
  }
  return static_cast<std::int64_t>(sysconf(_SC_AVPHYS_PAGES)) * static_cast<std::int64_t>(sysconf(_SC_PAGESIZE));
}

std::string gibibytes(std::int64_t bytes) { return fmt::format("{:.1f} GiB", static_cast<double>(bytes) * 0x1p-30); }

nlohmann::json environment() {
  nlohmann::json levels = nlohmann::json::array();
  for (const SimdLevel level : simd_levels()) levels.push_back(name(level));
#if defined(__clang__)
  const std::string compiler = "clang " __clang_version__;
#else
  const std::string compiler = "gcc " __VERSION__;
#endif
  return {{"compiler", compiler}, {"simd_levels", levels}};
}

}  // namespace adamant::tools
