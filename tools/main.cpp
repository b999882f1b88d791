// The program `adamant`. Exit code 0: all went well; 1: a comparison failed; 2: it was used wrongly, or what it was given
// could not be read or written.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <exception>
#include <vector>

#include "tools/commands.hpp"

namespace {

constexpr int kComparisonFailed = 1;
constexpr int kBadUsage = 2;

}  // namespace

int main(int argc, char** argv) try {
  CLI::App program("Fused optimizer steps: measure them, hold them against a reference, replay traces through them.",
                   "adamant");
  program.set_version_flag("--version", ADAMANT_VERSION);
  program.require_subcommand(1);
  program.footer("Exit code: 0 all went well, 1 a comparison failed, 2 bad usage or unreadable input.");
  const std::vector<adamant::tools::Command> commands{adamant::tools::add_bench(program),
                                                      adamant::tools::add_compare(program),
                                                      adamant::tools::add_replay(program)};
  try {
    program.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return program.exit(error) == 0 ? 0 : kBadUsage;
  }
  for (const auto& command : commands) {
    if (command.app->parsed()) return command.run() ? 0 : kComparisonFailed;
  }
  return kBadUsage;
} catch (const std::bad_alloc&) {
  fmt::print(stderr, "adamant: out of memory\n");
  return kBadUsage;
} catch (const std::exception& error) {
  fmt::print(stderr, "{}\n", error.what());
  return kBadUsage;
}
