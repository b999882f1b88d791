// Progress of long work, Ctrl-C during it, and results as JSON and text.
#pragma once

#include <csignal>

#include <array>
#include <chrono>
#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace adamant::tools {

// A line on standard error that says how far the work is, once it has taken two seconds and only on a terminal, whose
// width it is cut to.
class Progress {
 public:
  explicit Progress(std::string what);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;
  // `fraction` from 0 to 1; `detail` says what is being done.
  void at(double fraction, const std::string& detail);
  // Takes the line away, before something else is printed.
  void clear();

 private:
  std::string what_;
  std::chrono::steady_clock::time_point start_;
  std::chrono::steady_clock::time_point last_;
  bool terminal_;
  bool shown_ = false;
};

// Sends on what was printed: a long run that is redirected can be followed. Remembers the first failure.
void flush_output();
// At the end: throws std::system_error where something that was printed could not be written.
void finish_output();

// While one lives, the first Ctrl-C does not end the program but is remembered, nor does the first SIGTERM, by which
// timeout and batch systems end programs; the second ends it. What was ignored when the program was started stays
// ignored. One at a time.
class Interruption {
 public:
  Interruption();
  ~Interruption();
  Interruption(const Interruption&) = delete;
  Interruption& operator=(const Interruption&) = delete;
  bool asked() const;

 private:
  struct Before {
    int signal;
    struct sigaction action {};
  };
  std::array<Before, 2> before_{{{SIGINT}, {SIGTERM}}};
};

// A number for JSON, which has no NaN and no infinity: those become text.
nlohmann::json number(double value);

// "12.3 GiB"
std::string gibibytes(std::int64_t bytes);

// "learning_rate=0.6 momentum=0.25"
std::string options_text(const std::map<std::string, std::string>& options);

// The commit that this is built from, with "-dirty" behind it where files differ from it; empty where it is not known.
std::string_view commit();

// What ran: commit, compiler and SIMD levels.
nlohmann::json environment();

}  // namespace adamant::tools
