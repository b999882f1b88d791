#include "tools/bench_against.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <string_view>

#include "host/text.hpp"

namespace adamant::tools {
namespace {

// More repetitions than these say no more than what is drawn from them evenly.
constexpr std::size_t kMostSamples = 200;
// Up to this many of each the distribution is counted out; beyond them it is a normal one to three digits.
constexpr std::size_t kMostCounted = 30;

double median_of(std::vector<double> values) { return bench::Times{std::move(values)}.median(); }

std::vector<double> thinned(const std::vector<double>& values) {
  if (values.size() <= kMostSamples) return values;
  std::vector<double> some;
  for (std::size_t i = 0; i < kMostSamples; ++i) some.push_back(values[i * values.size() / kMostSamples]);
  return some;
}

// How many of the sorted pairs may be taken off at each end so that the rest misses the true value with no more than
// this chance at that end: the largest k with P(U < k) <= chance, U being Mann and Whitney's statistic of two samples
// of one distribution. 0: none may.
std::size_t pairs_beyond(std::size_t m, std::size_t n, double chance) {
  const auto pairs = static_cast<double>(m * n);
  if (std::max(m, n) > kMostCounted) {
    double low = 0;  // of the standard normal distribution: P(Z < -z) = chance, by halving
    double high = 40;
    for (int i = 0; i < 100; ++i) {
      const double middle = (low + high) / 2;
      (std::erfc(middle / std::sqrt(2)) / 2 > chance ? low : high) = middle;
    }
    const double deviation = std::sqrt(pairs * static_cast<double>(m + n + 1) / 12);
    return static_cast<std::size_t>(std::max(0.0, std::floor(pairs / 2 - high * deviation)));
  }
  // count[i][u]: the orders of i values among the first j of the other sample that have u pairs the wrong way round.
  std::vector<std::vector<double>> count(m + 1, std::vector<double>(m * n + 1));
  for (auto& row : count) row[0] = 1;
  for (std::size_t j = 1; j <= n; ++j) {
    for (std::size_t i = 1; i <= m; ++i) {
      for (std::size_t u = j; u <= i * j; ++u) count[i][u] += count[i - 1][u - j];
    }
  }
  double orders = 1;
  for (std::size_t i = 1; i <= m; ++i) orders *= static_cast<double>(n + i) / static_cast<double>(i);
  double below = 0;
  std::size_t k = 0;
  while (k <= m * n / 2 && (below += count[m][k] / orders) <= chance) ++k;
  return k;
}

// The samples of all rows of one case: a report may have measured it twice.
struct Samples {
  std::vector<double> seconds;
  std::vector<double> fractions;
  bool has_ceiling = true;
};

std::map<BenchCase, Samples> samples_of(const nlohmann::json& report, std::vector<BenchCase>& order) {
  std::map<BenchCase, Samples> all;
  for (const BenchRow& row : rows_of(report)) {
    if (!all.contains(row.what)) order.push_back(row.what);
    Samples& samples = all[row.what];
    samples.seconds.insert(samples.seconds.end(), row.update.seconds.begin(), row.update.seconds.end());
    samples.has_ceiling = samples.has_ceiling && !row.ceiling.seconds.empty();
    for (std::size_t i = 0; i < row.ceiling.seconds.size(); ++i) {
      samples.fractions.push_back(row.ceiling.seconds[i] / row.update.seconds[i]);
    }
  }
  return all;
}

std::string warning_of(const nlohmann::json& old_report, const nlohmann::json& new_report) {
  const std::string before = machine_of(old_report);
  const std::string now = machine_of(new_report);
  if (before == now && !now.empty()) return "";
  const auto or_unknown = [](const std::string& machine) {
    return machine.empty() ? std::string("a machine that it does not name") : host::printable(machine);
  };
  if (before.empty() || now.empty()) {
    return fmt::format("the old report is of {}, the new one of {}: compared is only the fraction of the ceiling",
                       or_unknown(before), or_unknown(now));
  }
  return fmt::format(
      "ANOTHER MACHINE: the old report is of {}, the new one of {}. Compared is only the fraction of the ceiling, "
      "which "
      "differs from one machine to another",
      or_unknown(before), or_unknown(now));
}

Verdict verdict_of(const Shift& shift) {
  const bool large = shift.estimate < 1 - kFloor || shift.estimate > 1 + kFloor;
  if (!large) return Verdict::same;
  if (!shift.is_known()) return Verdict::undecided;
  if (shift.high < 1) return Verdict::slower;
  return shift.low > 1 ? Verdict::faster : Verdict::same;
}

std::string_view name(Verdict verdict) {
  switch (verdict) {
    case Verdict::slower: return "slower";
    case Verdict::faster: return "faster";
    case Verdict::undecided: return "undecided";
    case Verdict::same: break;
  }
  return "same";
}

std::size_t count_of(const Comparison& comparison, Verdict verdict) {
  return static_cast<std::size_t>(std::count_if(comparison.changes.begin(), comparison.changes.end(),
                                                [&](const Change& change) { return change.verdict == verdict; }));
}

std::string line(const Change& change) {
  const auto percent = [](double ratio) { return fmt::format("{:+.1f}%", 100 * (ratio - 1)); };
  const std::string values =
      change.of_ceiling
          ? fmt::format("{:.1f}% -> {:.1f}% of the ceiling", 100 * change.old_value, 100 * change.new_value)
          : fmt::format("{:.4g} -> {:.4g} ms", 1e3 * change.old_value, 1e3 * change.new_value);
  const std::string interval = change.shift.is_known()
                                   ? fmt::format("{} to {}", percent(change.shift.low), percent(change.shift.high))
                                   : fmt::format("{} and {} repetitions cannot tell it from noise",
                                                 change.old_repetitions, change.new_repetitions);
  const std::string time =
      change.times_old && change.of_ceiling ? fmt::format(", time {}", percent(*change.times_old)) : "";
  return fmt::format("  {:<9} {:<48} {} ({}; {}{})\n", name(change.verdict), host::printable(change.what.text()),
                     percent(change.shift.estimate), interval, values, time);
}

}  // namespace

bool Comparison::is_slower() const {
  return std::any_of(changes.begin(), changes.end(),
                     [](const Change& change) { return change.verdict == Verdict::slower; });
}

Shift shift_of(const std::vector<double>& old_values, const std::vector<double>& new_values, double error) {
  const std::vector<double> before = thinned(old_values);
  const std::vector<double> now = thinned(new_values);
  std::vector<double> ratios;
  ratios.reserve(before.size() * now.size());
  for (const double left : now) {
    for (const double right : before) ratios.push_back(left / right);
  }
  std::sort(ratios.begin(), ratios.end());
  const std::size_t beyond = pairs_beyond(before.size(), now.size(), error / 2);
  Shift shift{.estimate = median_of(ratios)};
  if (beyond == 0) {
    shift.high = std::numeric_limits<double>::infinity();
  } else {
    shift.low = ratios[beyond - 1];
    shift.high = ratios[ratios.size() - beyond];
  }
  return shift;
}

Comparison compare_reports(const nlohmann::json& old_report, const nlohmann::json& new_report) {
  std::vector<BenchCase> old_order;
  std::vector<BenchCase> new_order;
  const std::map<BenchCase, Samples> old_samples = samples_of(old_report, old_order);
  const std::map<BenchCase, Samples> new_samples = samples_of(new_report, new_order);
  Comparison comparison{.other_machine = warning_of(old_report, new_report)};
  for (const BenchCase& what : old_order) {
    if (!new_samples.contains(what)) comparison.only_old.push_back(what);
  }
  const double in_common = static_cast<double>(old_order.size() - comparison.only_old.size());
  for (const BenchCase& what : new_order) {
    const auto found = old_samples.find(what);
    if (found == old_samples.end()) {
      comparison.only_new.push_back(what);
      continue;
    }
    const Samples& before = found->second;
    const Samples& now = new_samples.at(what);
    const bool same_machine = comparison.other_machine.empty();
    Change change{.what = what, .of_ceiling = before.has_ceiling && now.has_ceiling};
    if (!change.of_ceiling && !same_machine) {
      comparison.without_ceiling.push_back(what);
      continue;
    }
    change.old_repetitions = before.seconds.size();
    change.new_repetitions = now.seconds.size();
    if (same_machine) change.times_old = median_of(now.seconds) / median_of(before.seconds);
    // Of many rows one would be beyond an interval made for one.
    const double error = kFalseAlarm / in_common;
    if (change.of_ceiling) {
      change.shift = shift_of(before.fractions, now.fractions, error);
      change.old_value = median_of(before.fractions);
      change.new_value = median_of(now.fractions);
    } else {
      change.shift = shift_of(now.seconds, before.seconds, error);  // speeds: the other way round
      change.old_value = median_of(before.seconds);
      change.new_value = median_of(now.seconds);
    }
    change.verdict = verdict_of(change.shift);
    comparison.changes.push_back(change);
  }
  return comparison;
}

std::string to_text(const Comparison& comparison) {
  std::string text = comparison.other_machine.empty() ? "" : fmt::format("Warning: {}.\n", comparison.other_machine);
  for (const Verdict verdict : {Verdict::slower, Verdict::faster, Verdict::undecided}) {
    for (const Change& change : comparison.changes) {
      if (change.verdict == verdict) text += line(change);
    }
  }
  const auto list = [&](const char* heading, const std::vector<BenchCase>& cases) {
    if (cases.empty()) return;
    text += fmt::format("{}\n", heading);
    for (const BenchCase& what : cases) text += fmt::format("  {}\n", host::printable(what.text()));
  };
  list("Only in the old report:", comparison.only_old);
  list("Only in the new report:", comparison.only_new);
  list("Not compared, because there is no ceiling and another machine measured:", comparison.without_ceiling);
  return text +
         fmt::format(
             "{} {} compared: {} slower, {} faster, {} with too few repetitions to tell, {} the same within noise.\n",
             comparison.changes.size(), comparison.changes.size() == 1 ? "row" : "rows",
             count_of(comparison, Verdict::slower), count_of(comparison, Verdict::faster),
             count_of(comparison, Verdict::undecided), count_of(comparison, Verdict::same));
}

}  // namespace adamant::tools
