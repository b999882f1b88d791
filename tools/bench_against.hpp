// What became slower or faster between two reports of `adamant bench`, beyond their noise.
//
// The yardstick is the fraction of the same-mix ceiling: within a repetition the step and its ceiling ran one after the
// other, so that a machine whose memory is slower today is slower for both. Of a row that both reports have, each of
// the new fractions is divided by each of the old; the median of these ratios is the estimate of the change (Hodges and
// Lehmann 1963), and as many of them are taken off at either end as the distribution of Mann and Whitney's statistic
// allows, which leaves an interval that holds the true change with a known certainty, whatever the distribution of the
// noise. A row changed when the interval leaves out 1 and the estimate is further from it than kFloor.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "tools/bench_report.hpp"

namespace adamant::tools {

// What two runs of the same program differ by although each is quiet: other pages of memory, another ceiling variant.
inline constexpr double kFloor = 0.02;

// The chance that a comparison of two reports without a difference finds one in any of its rows, slower or faster.
inline constexpr double kFalseAlarm = 0.01;

enum class Verdict { same, slower, faster, undecided };  // undecided: too few repetitions to tell from noise

// The ratio of two samples, new / old.
struct Shift {
  double estimate = 1;
  double low = 0;  // of the interval; 0 and infinity where there are too few of them for one
  double high = 0;

  bool is_known() const { return low > 0; }
};

// Whatever their order. Both must not be empty; `error` is the chance that the interval misses the true ratio.
Shift shift_of(const std::vector<double>& old_values, const std::vector<double>& new_values, double error);

struct Change {
  BenchCase what = {};
  Verdict verdict = Verdict::same;
  Shift shift = {};  // of the fraction of the ceiling, or of the speed where one has no ceiling
  bool of_ceiling = true;
  double old_value = 0;  // medians: fractions of the ceiling, or seconds
  double new_value = 0;
  std::optional<double> times_old = {};  // the new median time / the old one; of the same machine only
  std::size_t old_repetitions = 0;
  std::size_t new_repetitions = 0;
};

struct Comparison {
  std::vector<Change> changes = {};  // rows that both have, in the new report's order
  std::vector<BenchCase> only_old = {};
  std::vector<BenchCase> only_new = {};
  std::vector<BenchCase> without_ceiling = {};  // that another machine measured: not compared
  std::string other_machine = {};               // a warning; empty where both say that they are of the same

  bool is_slower() const;
};

// They may have no row in common.
Comparison compare_reports(const nlohmann::json& old_report, const nlohmann::json& new_report);

// As lines for a terminal.
std::string to_text(const Comparison& comparison);

}  // namespace adamant::tools
