#include "tools/bench_files.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <stdexcept>
#include <utility>

#include "host/text.hpp"
#include "tools/bench_against.hpp"
#include "tools/bench_page.hpp"

namespace adamant::tools {
namespace {

std::vector<BenchCase> cases_of(const nlohmann::json& report) {
  std::vector<BenchCase> cases;
  for (const BenchRow& row : rows_of(report)) cases.push_back(row.what);
  return cases;
}

}  // namespace

[[noreturn]] void BenchFiles::refuse_for_nothing_in_common(const std::vector<BenchCase>& cases) const {
  const std::vector<BenchCase> there = cases_of(old_report_);
  throw std::invalid_argument(fmt::format(
      "adamant: --against {}: has no row in common with the new report; its first is \"{}\", the new one's \"{}\"",
      against_, host::printable(there.front().text()), host::printable(cases.front().text())));
}

void BenchFiles::add_to(CLI::App& app) {
  const std::vector<const CLI::Option*> others = std::as_const(app).get_options();
  app.add_option("--html", html_,
                 "write one page with pictures to this file: bandwidth against size with the ceiling drawn in, what "
                 "others take, and all tables; it needs no network")
      ->type_name("FILE")
      ->check(not_empty());
  app.add_option(
         "--against", against_,
         "compare with this earlier JSON, print what became slower or faster beyond the noise, and exit with 1 when "
         "something became slower. Compared is the fraction of the ceiling of the same repetition, so that a machine "
         "whose memory is slower today is not blamed. A row changed when the median ratio of the new fractions to the "
         "old ones is more than 2 % from 1 and its rank interval (Mann and Whitney, Hodges and Lehmann) leaves out 1; "
         "the interval is so wide that two reports without a difference have one chance in a hundred to show one in "
         "any row")
      ->type_name("FILE")
      ->check(not_empty());
  CLI::Option* from =
      app.add_option("--from", from_,
                     "measure nothing and take the report from this JSON; may be given several times for files of one "
                     "machine, those of bench/peers.py among them")
          ->type_name("FILE")
          ->take_all()
          ->check(not_empty());
  for (const CLI::Option* other : others) {
    const std::string name = other->get_single_name();
    if (name != "help" && name != "json" && name != "json-file") from->excludes(app.get_option(other->get_name()));
  }
}

void BenchFiles::read(const RunOptions& options) {
  std::vector<std::string> read = from_;
  read.push_back(against_);
  for (const std::string& file : read) {
    check_output("--html", html_, {file, options.json_file});
    check_output("--json-file", options.json_file, {file});
  }
  if (!against_.empty()) old_report_ = read_reports("--against", {against_});
  if (from_.empty()) return;
  if (html_.empty() && against_.empty() && !options.json && options.json_file.empty()) {
    throw std::invalid_argument("adamant: bench: --from needs --html, --against, --json or --json-file to go to");
  }
  report_ = read_reports("--from", from_);
  if (!against_.empty()) check_in_common(cases_of(*report_));
}

void BenchFiles::check_in_common(const std::vector<BenchCase>& planned) const {
  if (against_.empty()) return;
  const std::vector<BenchCase> there = cases_of(old_report_);
  if (std::find_first_of(planned.begin(), planned.end(), there.begin(), there.end()) == planned.end()) {
    refuse_for_nothing_in_common(planned);
  }
}

void BenchFiles::write(const nlohmann::json& report, const RunOptions& options) const {
  options.emit(report);
  if (html_.empty()) return;
  write_result(html_, to_page(report));
}

bool BenchFiles::finish(const nlohmann::json& report, const RunOptions& options) const {
  write(report, options);
  if (against_.empty()) return true;
  const Comparison comparison = compare_reports(old_report_, report);
  if (comparison.changes.empty() && comparison.without_ceiling.empty()) {
    refuse_for_nothing_in_common(cases_of(report));
  }
  // Standard output is the JSON's where that was asked for.
  fmt::print(options.json ? stderr : stdout, "\nAgainst {}: speed as a fraction of the same-mix ceiling\n{}", against_,
             to_text(comparison));
  return !comparison.is_slower();
}

}  // namespace adamant::tools
