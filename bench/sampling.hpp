// Times of repeated runs, and contenders measured side by side: interleaved, so that whatever else the machine does
// falls on all alike.
#pragma once

#include <functional>
#include <limits>
#include <span>
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
  int runs = 1;                    // of that batch
  Times times = {};
  int most_repetitions = std::numeric_limits<int>::max();  // of interleave(): for one that takes long
};

using ProgressTo = std::function<void(double)>;  // is told a fraction from 0 to 1
using StopAsked = std::function<bool()>;         // whether to take no further sample; asked before each

// How many runs of `once` seconds make a sample of at least `shortest`.
int batch_for(double once, double shortest);

// The shortest of a few looks at what a batch is to be made of: whatever else the machine does falls on a single one.
// What takes many times `shortest` is looked at twice, for the first look loads what it needs.
double least_of_looks(const std::function<double()>& look, double shortest);

// How many samples of that many seconds a contender gets that is to take no more than `budget` seconds of all, at least
// kFewestRepetitions.
inline constexpr int kFewestRepetitions = 3;
int repetitions_for(double sample_seconds, double budget);

// Looks at each several times and returns the fastest few, the fastest first, their times forgotten. One look would not
// do: on a shared machine a lucky one keeps out what is really the fastest. The slower half gets only one all the same,
// and so do all where that took very long. `looks`, where it is given, becomes how many the fastest had. None where it
// was asked to stop.
std::vector<Contender> finalists(std::vector<Contender> all, const ProgressTo& progress, const StopAsked& stop,
                                 int* looks = nullptr);

// Where a contender has fewer repetitions than others, they are the first of theirs. Returns how many repetitions were
// whole; of one that was asked to stop nothing is kept.
int interleave(std::vector<Contender>& contenders, int repetitions, const ProgressTo& progress, const StopAsked& stop);

// The one with the smallest median.
const Contender& fastest(std::span<const Contender> contenders);

}  // namespace adamant::bench
