// The program `adamant`. Exit code 0: all went well; 1: a comparison failed; 2: it was used wrongly, or what it was
// given could not be read or written; 130: Ctrl-C or SIGTERM ended `bench`, which wrote what there was by then.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <exception>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include "adamant/error.hpp"
#include "adamant/version.hpp"
#include "tools/commands.hpp"
#include "tools/terminal.hpp"

namespace {

constexpr int kComparisonFailed = 1;
constexpr int kBadUsage = 2;
constexpr int kInterrupted = 130;  // as shells have it

// One line that says what is wrong with the command line.
std::string failure(const CLI::App* program, const CLI::Error& error) {
  std::string what = error.what();
  const std::vector<std::string> words = program->remaining();
  if (program->get_subcommands().empty() && !words.empty()) {
    std::string names;
    for (const CLI::App* command : program->get_subcommands([](const CLI::App*) { return true; })) {
      names += (names.empty() ? "" : ", ") + command->get_name();
    }
    what = fmt::format("there is no subcommand \"{}\"; there are {}", words.front(), names);
  }
  return fmt::format("adamant: {} (--help says more)\n", what);
}

// Errors of the library say "safetensors file ..." and the like, where it is not known which program reads it.
void say(const std::exception& error) {
  const std::string_view what = error.what();
  fmt::print(stderr, "{}{}\n", what.starts_with("adamant: ") ? "" : "adamant: ", what);
}

}  // namespace

int main(int argc, char** argv) try {
  CLI::App program("Fused optimizer steps: measure them, hold them against a reference, replay traces through them.",
                   "adamant");
  program.set_version_flag("--version", std::string(adamant::version()));
  program.failure_message(failure);
  program.require_subcommand(1);
  program.footer(
      "Exit code: 0 all went well, 1 a comparison failed, 2 bad usage or unreadable input, 130 Ctrl-C in bench.");
  const std::vector<adamant::tools::Command> commands{
      adamant::tools::add_info(program), adamant::tools::add_descend(program), adamant::tools::add_bench(program),
      adamant::tools::add_compare(program), adamant::tools::add_replay(program)};
  try {
    program.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    std::ostringstream out;
    const bool asked_for = program.exit(error, out) == 0;  // --help, --version
    fmt::print("{}", out.str());
    adamant::tools::finish_output();
    return asked_for ? 0 : kBadUsage;
  }
  for (const auto& command : commands) {
    if (!command.app->parsed()) continue;
    const bool passed = command.run();
    adamant::tools::finish_output();
    return passed ? 0 : kComparisonFailed;
  }
  return kBadUsage;
} catch (const adamant::tools::Interrupted& error) {
  say(error);
  return kInterrupted;
} catch (const adamant::OutOfMemory& error) {
  say(error);
  return kBadUsage;
} catch (const std::bad_alloc&) {
  fmt::print(stderr, "adamant: out of memory\n");
  return kBadUsage;
} catch (const std::exception& error) {
  say(error);
  return kBadUsage;
}
