// The files that `adamant bench` reads and writes beside its JSON: --html, --from and --against.
#pragma once

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "tools/bench_report.hpp"
#include "tools/run_options.hpp"

namespace adamant::tools {

class BenchFiles {
 public:
  // After all other options: --from goes with none of those that say what is measured.
  void add_to(CLI::App& app);

  // Before any work: reads and checks what is given. Throws std::invalid_argument naming the option and the file.
  void read(const RunOptions& options);

  // That of --from: nothing is to be measured then.
  const std::optional<nlohmann::json>& report() const { return report_; }

  // Before what takes long: throws std::invalid_argument when --against has none of what is going to be measured.
  void check_in_common(const std::vector<BenchCase>& planned) const;

  // Writes the JSON and the page, as asked for.
  void write(const nlohmann::json& report, const RunOptions& options) const;

  // Writes, and prints the comparison. Returns whether nothing became slower.
  bool finish(const nlohmann::json& report, const RunOptions& options) const;

 private:
  [[noreturn]] void refuse_for_nothing_in_common(const std::vector<BenchCase>& cases) const;

  std::string html_;
  std::vector<std::string> from_;
  std::string against_;
  std::optional<nlohmann::json> report_;
  nlohmann::json old_report_;
};

}  // namespace adamant::tools
