#include "bench/sampling.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>

namespace adamant::bench {
namespace {

constexpr int kLooks = 3;
constexpr std::size_t kFinalists = 5;
constexpr int kLargestBatch = 10000;
constexpr double kMany = 10;     // nothing that comes between lasts as long
constexpr double kVeryLong = 3;  // seconds for a look at all

double quantile(std::vector<double> values, double q) {
  std::sort(values.begin(), values.end());
  const double place = q * static_cast<double>(values.size() - 1);
  const auto below = static_cast<std::size_t>(place);
  const std::size_t above = std::min(below + 1, values.size() - 1);
  return std::lerp(values[below], values[above], place - static_cast<double>(below));
}

bool is_faster(const Contender& left, const Contender& right) { return left.times.median() < right.times.median(); }

}  // namespace

double Times::median() const { return quantile(seconds, 0.5); }
double Times::spread() const { return 0.5 * (quantile(seconds, 0.75) - quantile(seconds, 0.25)) / median(); }

double ratio(const Times& left, const Times& right) {
  std::vector<double> ratios;
  ratios.reserve(left.seconds.size());
  for (std::size_t i = 0; i < left.seconds.size(); ++i) ratios.push_back(left.seconds[i] / right.seconds.at(i));
  return quantile(std::move(ratios), 0.5);
}

int batch_for(double once, double shortest) {
  return static_cast<int>(std::clamp(std::ceil(shortest / std::max(once, 1e-9)), 1.0, double{kLargestBatch}));
}

double least_of_looks(const std::function<double()>& look, double shortest) {
  double least = look();
  for (int more = 1; more < kLooks; ++more) {
    least = std::min(least, look());
    if (least > kMany * shortest) break;
  }
  return least;
}

int repetitions_for(double sample_seconds, double budget) {
  const double most = std::floor(budget / std::max(sample_seconds, 1e-9));
  return static_cast<int>(std::clamp<double>(most, kFewestRepetitions, std::numeric_limits<int>::max()));
}

std::vector<Contender> finalists(std::vector<Contender> all, const ProgressTo& progress, const StopAsked& stop,
                                 int* looks) {
  const auto start = std::chrono::steady_clock::now();
  const int first = interleave(
      all, 1, [&](double done) { progress(0.5 * done); }, stop);
  if (first == 0) return {};
  const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
  std::sort(all.begin(), all.end(), is_faster);
  if (all.size() > kFinalists) all.resize(std::max(kFinalists, (all.size() + 1) / 2));
  const int more = taken.count() < kVeryLong ? kLooks - 1 : 0;
  if (interleave(
          all, more, [&](double done) { progress(0.5 + 0.5 * done); }, stop) < more)
    return {};
  std::sort(all.begin(), all.end(), is_faster);
  if (all.size() > kFinalists) all.resize(kFinalists);
  for (Contender& contender : all) contender.times = {};
  if (looks != nullptr) *looks = first + more;
  return all;
}

int interleave(std::vector<Contender>& contenders, int repetitions, const ProgressTo& progress, const StopAsked& stop) {
  for (int repetition = 0; repetition < repetitions; ++repetition) {
    for (auto contender = contenders.begin(); contender != contenders.end(); ++contender) {
      if (repetition >= contender->most_repetitions) continue;
      if (stop()) {
        for (auto begun = contenders.begin(); begun != contender; ++begun) {
          if (repetition < begun->most_repetitions) begun->times.seconds.pop_back();
        }
        return repetition;
      }
      contender->times.seconds.push_back(contender->sample());
    }
    progress((repetition + 1.0) / repetitions);
  }
  return repetitions;
}

const Contender& fastest(std::span<const Contender> contenders) {
  return *std::min_element(contenders.begin(), contenders.end(), is_faster);
}

}  // namespace adamant::bench
