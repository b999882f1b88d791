// Times of repeated runs, and contenders measured side by side: interleaved, so that whatever else the machine does
// falls on all alike.
#pragma once

#include <functional>
#include <string>
#include <vector>

namespace adamant::bench {

// Seconds of repeated runs.
struct Times {
  std::vector<double> seconds;
  double median() const;
  // Half the distance between the quartiles, relative to the median.
  double spread() const;
};

// The median over repetitions of left / right: within one repetition the two ran one after the other, so that a machine
// whose speed drifts during the run drifts for both.
double ratio(const Times& left, const Times& right);

struct Contender {
  std::string name;
  std::function<double()> sample;  // mean seconds of one run, over a batch that is long enough for the clock
  Times times = {};
};

using ProgressTo = std::function<void(double)>;  // is told a fraction from 0 to 1

// How many runs of `once` seconds make a sample of at least `shortest`.
int batch_for(double once, double shortest);

// Looks at each several times and returns the fastest few, their times forgotten. One look would not do: on a shared
// machine a lucky one keeps out what is really the fastest.
std::vector<Contender> finalists(std::vector<Contender> all, const ProgressTo& progress);

void interleave(std::vector<Contender>& contenders, int repetitions, const ProgressTo& progress);

// The one with the smallest median.
const Contender& fastest(const std::vector<Contender>& contenders);

}  // namespace adamant::bench
