// Stands in for `adamant bench` in a build without the benchmark, and says so.
#include <stdexcept>

#include "tools/commands.hpp"

namespace adamant::tools {

Command add_bench(CLI::App& program) {
  CLI::App* app = program.add_subcommand("bench", "Not part of this build (ADAMANT_BENCH=OFF)");
  return {app, []() -> bool {
            throw std::runtime_error(
                "adamant: this program was built without the benchmark; configure with -DADAMANT_BENCH=ON");
          }};
}

}  // namespace adamant::tools
