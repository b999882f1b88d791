// Runs a program as a test does: with given words, its two outputs kept apart, and an end to its time.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <thread>
#include <vector>

#include "folder.hpp"

namespace adamant::test {

struct Outcome {
  int exit_code = -1;  // -1: it did not exit by itself
  int signal = 0;      // what ended it, if something did; SIGALRM: it took too long
  double seconds = 0;
  std::string out;
  std::string err;
};

// What a test shows when it does not like an outcome.
inline std::string to_text(const std::vector<std::string>& words, const Outcome& outcome) {
  std::string text = "$";
  for (const std::string& word : words) text += " '" + word + "'";
  return text + "\nexit code " + std::to_string(outcome.exit_code) + ", signal " + std::to_string(outcome.signal) +
         "\nstdout: " + outcome.out.substr(0, 2000) + "\nstderr: " + outcome.err.substr(0, 2000);
}

// A refusal of bad usage: exit code 2, nothing on standard output, and one short line that has all of `parts`.
inline void expect_refusal(const std::vector<std::string>& words, const Outcome& outcome,
                           const std::vector<std::string>& parts) {
  EXPECT_EQ(outcome.exit_code, 2) << to_text(words, outcome);
  EXPECT_EQ(outcome.signal, 0) << to_text(words, outcome);
  EXPECT_EQ(outcome.out, "") << to_text(words, outcome);
  EXPECT_EQ(std::count(outcome.err.begin(), outcome.err.end(), '\n'), 1) << to_text(words, outcome);
  EXPECT_TRUE(outcome.err.ends_with('\n')) << to_text(words, outcome);
  EXPECT_LT(outcome.err.size(), 600U) << to_text(words, outcome);
  for (const std::string& part : parts) {
    EXPECT_NE(outcome.err.find(part), std::string::npos) << "expected: " << part << '\n' << to_text(words, outcome);
  }
}

struct RunLimits {
  unsigned seconds = 60;
  std::string standard_output{};  // a file to send it to instead of keeping it
  std::string interrupt_at{};     // a signal, once this has been printed
  int interrupt_by = SIGINT;      // Ctrl-C
  std::string folder{};           // to run it in
};

// Waits for a program. Sends it the signal once the file has the text.
inline bool wait_for(pid_t child, int* status, const std::string& file, const RunLimits& limits) {
  for (bool sent = limits.interrupt_at.empty(); !sent;) {
    const pid_t ended = ::waitpid(child, status, WNOHANG);
    if (ended != 0) return ended == child;
    sent = contents(file).find(limits.interrupt_at) != std::string::npos && ::kill(child, limits.interrupt_by) == 0;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return ::waitpid(child, status, 0) == child;
}

// Runs the program words[0] with the other words.
inline Outcome run_program(const std::vector<std::string>& words, const RunLimits& limits = {}) {
  const Folder folder;
  const std::string out = limits.standard_output.empty() ? folder.file("out") : limits.standard_output;
  const std::string err = folder.file("err");
  std::vector<char*> arguments;
  arguments.reserve(words.size() + 1);
  for (const std::string& word : words) arguments.push_back(const_cast<char*>(word.c_str()));
  arguments.push_back(nullptr);

  const auto start = std::chrono::steady_clock::now();
  const pid_t child = ::fork();
  if (child == 0) {
    const int out_file = ::open(out.c_str(), O_WRONLY | O_CREAT, 0600);
    const int err_file = ::open(err.c_str(), O_WRONLY | O_CREAT, 0600);
    const int in_file = ::open("/dev/null", O_RDONLY);
    if (out_file < 0 || err_file < 0 || in_file < 0) ::_exit(126);
    ::dup2(in_file, STDIN_FILENO);
    ::dup2(out_file, STDOUT_FILENO);
    ::dup2(err_file, STDERR_FILENO);
    const rlimit no_core{0, 0};
    ::setrlimit(RLIMIT_CORE, &no_core);
    if (!limits.folder.empty() && ::chdir(limits.folder.c_str()) != 0) ::_exit(126);
    ::alarm(limits.seconds);  // goes on through exec, as ignoring a signal does
    for (const int signal : {SIGINT, SIGTERM}) ::signal(signal, SIG_DFL);
    ::execv(arguments[0], arguments.data());
    ::_exit(127);
  }
  Outcome outcome;
  int status = 0;
  if (child < 0 || !wait_for(child, &status, out, limits)) {
    ADD_FAILURE() << "cannot run " << words[0];
    return outcome;
  }
  outcome.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  if (WIFEXITED(status)) outcome.exit_code = WEXITSTATUS(status);
  if (WIFSIGNALED(status)) outcome.signal = WTERMSIG(status);
  if (limits.standard_output.empty()) outcome.out = contents(out);
  outcome.err = contents(err);
  return outcome;
}

}  // namespace adamant::test
