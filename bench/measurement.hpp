// A request made ready to be measured: buffers filled, states some steps old, everything that is compared at hand. Both
// fronts take their contenders from here: throughput.cpp, which pairs them for `adamant bench`, and
// google_benchmark.cpp.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "bench/throughput.hpp"

namespace adamant::bench {

// What moves the bytes of a step: the finalists of the sweep, the fastest first. Where gradients are clipped each run
// reads them, by the best of a sweep of that, and then moves the same set of buffers, as a step does: what a cache
// keeps from the one for the other it keeps for both.
struct Ceilings {
  std::vector<Contender> finalists;
  int looks = 0;  // that they were chosen by
};

class Measurement {
 public:
  explicit Measurement(const Request& request);
  ~Measurement();
  Measurement(const Measurement&) = delete;
  Measurement& operator=(const Measurement&) = delete;

  // What is known before anything is timed.
  Throughput facts() const;
  // Of the first set of buffers.
  const std::vector<MovedArray>& arrays() const;

  Contender update() const;
  // No finalists where it was asked to stop.
  Ceilings choose_ceilings(const ProgressTo& progress, const StopAsked& stop) const;
  // On a CUDA device "graph"; and unless nothing but the ceiling is asked for "copy", "one-tensor" where there are
  // several, and on a CUDA device the baselines that agree.
  std::vector<Contender> others() const;
  // All baselines, without times; `no_baselines` says why there are none.
  const std::vector<BaselineTimes>& baselines() const;
  const std::string& no_baselines() const;
  // What step() costs the CPU. Empty where the CPU does all of it, or where the device takes too long with each.
  std::vector<Contender> host(double seconds_of_step) const;
  static constexpr int kHostBlocks = 10;  // samples of it

 private:
  class Implementation;
  std::unique_ptr<Implementation> implementation_;
};

}  // namespace adamant::bench
