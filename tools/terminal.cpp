#include "tools/terminal.hpp"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cerrno>
#include <cmath>
#include <cstdio>
#include <system_error>

#include "adamant/adamant.hpp"

namespace adamant::tools {
namespace {

using Clock = std::chrono::steady_clock;
constexpr std::chrono::milliseconds kQuietFor{2000};
constexpr std::chrono::milliseconds kBetween{100};

volatile std::sig_atomic_t interrupted = 0;

// Of the terminal of standard error.
std::size_t width_of_terminal() {
  constexpr std::size_t kUsual = 80;
  winsize size{};
  return ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : kUsual;
}

int output_failure = 0;  // an errno; what failed once is lost, and a later flush may succeed

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
  // What goes on in a second line no carriage return takes back.
  const std::string text = fmt::format("{}: {:3.0f} %, {}", what_, 100 * fraction, detail);
  fmt::print(stderr, "\r\x1b[K{}", text.substr(0, width_of_terminal() - 1));
  std::fflush(stderr);
}

void flush_output() {
  if (std::fflush(stdout) != 0 && output_failure == 0) output_failure = errno;
}

void finish_output() {
  flush_output();
  if (output_failure == 0 && std::ferror(stdout) != 0) output_failure = EIO;
  if (output_failure != 0) {
    throw std::system_error(output_failure, std::generic_category(), "adamant: cannot write the result");
  }
}

Interruption::Interruption() {
  interrupted = 0;
  struct sigaction remember {};
  remember.sa_handler = [](int /*signal*/) { interrupted = 1; };
  remember.sa_flags = SA_RESETHAND | SA_RESTART;
  for (auto& [signal, before] : before_) {
    sigaction(signal, nullptr, &before);
    if (before.sa_handler != SIG_IGN) sigaction(signal, &remember, nullptr);
  }
}

Interruption::~Interruption() {
  for (const auto& [signal, before] : before_) sigaction(signal, &before, nullptr);
}

bool Interruption::asked() const { return interrupted != 0; }

nlohmann::json number(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  return value;
}

std::string gibibytes(std::int64_t bytes) { return fmt::format("{:.1f} GiB", static_cast<double>(bytes) * 0x1p-30); }

std::string options_text(const std::map<std::string, std::string>& options) {
  std::string text;
  for (const auto& [name, value] : options) text += fmt::format("{}{}={}", text.empty() ? "" : " ", name, value);
  return text;
}

nlohmann::json environment() {
  nlohmann::json levels = nlohmann::json::array();
  for (const SimdLevel level : simd_levels()) levels.push_back(name(level));
#if defined(__clang__)
  const std::string compiler = "clang " __clang_version__;
#else
  const std::string compiler = "gcc " __VERSION__;
#endif
  return {{"commit", commit().empty() ? nlohmann::json() : nlohmann::json(commit())},
          {"compiler", compiler},
          {"simd_levels", levels}};
}

}  // namespace adamant::tools
