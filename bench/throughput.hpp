// Measures the throughput of updates and of their ceilings, interleaved in one run on the same buffers.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "adamant/adamant.hpp"

namespace adamant::bench {

// Seconds of repeated runs.
struct Times {
  std::vector<double> seconds;
  double median() const;
  // Half the distance between the quartiles, relative to the median.
  double spread() const;
};

struct Request {
  Method method;
  DataType type = DataType::float32;
  std::int64_t count = 0;
  int repetitions = 15;
  Tuning tuning;
};

struct Throughput {
  std::int64_t count = 0;
  int streams_read = 0;
  int streams_written = 0;
  std::int64_t bytes_per_parameter = 0;
  Times update;
  Times ceiling;                // of the best variant
  std::string ceiling_variant;  // its name
  int threads = 0;
  SimdLevel simd{};

  double bytes() const { return static_cast<double>(count) * static_cast<double>(bytes_per_parameter); }
  double update_gigabytes_per_second() const { return bytes() / update.median() * 1e-9; }
  double ceiling_gigabytes_per_second() const { return bytes() / ceiling.median() * 1e-9; }
  // The median over repetitions: within one, update and ceiling ran one after the other, so that a machine whose speed
  // drifts during the run drifts for both.
  double fraction_of_ceiling() const;
};

// Bytes of memory that a request needs.
std::int64_t bytes_needed(const Request& request);

// Runs one request. `progress` is told a fraction from 0 to 1.
Throughput measure(const Request& request, const std::function<void(double)>& progress);

}  // namespace adamant::bench
