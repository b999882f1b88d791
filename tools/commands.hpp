// The subcommands of the program `adamant`. Each adds itself to the command line and, when chosen, runs and returns
// whether what it compared agreed. What cannot run at all is an exception.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <stdexcept>

namespace adamant::tools {

struct Command {
  CLI::App* app;
  std::function<bool()> run;
};

// Ctrl-C ended it before its time. What there was to show was shown.
class Interrupted : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

Command add_bench(CLI::App& program);
Command add_compare(CLI::App& program);
Command add_descend(CLI::App& program);
Command add_info(CLI::App& program);
Command add_replay(CLI::App& program);

}  // namespace adamant::tools
