// A request made ready to be measured: buffers filled, states some steps old, everything that is compared at hand. Both
// fronts take their contenders from here: throughput.cpp, which pairs them for `adamant bench`, and
// google_benchmark.cpp.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "bench/throughput.hpp"

namespace adamant::bench {

// What moves the bytes of an update, and, where gradients are clipped, what reads them once more: the finalists of
// their sweeps, the fastest first.
struct Ceilings {
  std::vector<Contender> of_update;
  std::vector<Contender> of_norm;  // empty where no norm is taken
  int looks = 0;                   // that the finalists were chosen by
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
