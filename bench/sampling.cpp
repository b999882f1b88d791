#include "bench/sampling.hpp"

#include <algorithm>
#include <cmath>

namespace adamant::bench {
namespace {

constexpr int kLooks = 3;
constexpr std::size_t kFinalists = 5;
constexpr int kLargestBatch = 10000;

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

std::vector<Contender> finalists(std::vector<Contender> all, const ProgressTo& progress) {
  interleave(all, kLooks, progress);
  std::sort(all.begin(), all.end(), is_faster);
  if (all.size() > kFinalists) all.resize(kFinalists);
  for (Contender& contender : all) contender.times = {};
  return all;
}

void interleave(std::vector<Contender>& contenders, int repetitions, const ProgressTo& progress) {
  for (int repetition = 0; repetition < repetitions; ++repetition) {
    for (Contender& contender : contenders) contender.times.seconds.push_back(contender.sample());
    progress((repetition + 1.0) / repetitions);
  }
}

const Contender& fastest(const std::vector<Contender>& contenders) {
  return *std::min_element(contenders.begin(), contenders.end(), is_faster);
}

}  // namespace adamant::bench
