// Measures the throughput of updates, of their ceilings, of a copy and, on a CUDA device, of what a user would write
// without this library, interleaved in one run on the same buffers.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "adamant/adamant.hpp"
#include "bench/moved.hpp"
#include "bench/sampling.hpp"
#include "bench/shapes.hpp"

namespace adamant::bench {

inline constexpr kernels::StorageTypes kPlainFloat32 = kernels::plain_storage(DataType::float32);

struct Request {
  Method method;
  kernels::StorageTypes storage = kPlainFloat32;
  Pipeline pipeline = Pipeline::update;
  Shape shape;
  int repetitions = 15;
  Device device = Device::cpu();
  Tuning tuning = {};
  bool hot = false;           // one set of buffers, which stays in the cache where it is small enough
  bool only_ceiling = false;  // nothing but the step, as a graph too where there are graphs, and its ceiling

  // What the baselines do, too.
  bool is_plain_float32() const { return storage == kPlainFloat32 && pipeline == Pipeline::update; }
};

// One of the ways without this library.
struct BaselineTimes {
  std::string name;
  std::string disagreement;  // where its result is not the library's: then it has no times
  Times times;
};

struct Throughput {
  std::int64_t count = 0;  // parameters, of all tensors
  std::int64_t tensors = 1;
  int streams_read = 0;
  int streams_written = 0;
  std::int64_t bytes_per_parameter = 0;
  MovedBytes moved{};   // of which these are read and written
  int buffer_sets = 1;  // steps went round so many sets of buffers, of this many bytes together
  std::int64_t rotated_bytes = 0;
  int threads = 0;  // of the CPU, as `simd`
  SimdLevel simd{};

  Times update;
  Times ceiling;                // of the best variant
  std::string ceiling_variant;  // its name
  int ceiling_looks = 0;        // that the finalists were chosen by
  std::int64_t copy_element_bytes = 0;
  Times copy;        // of count elements, as the system copies
  Times plain_copy;  // by a kernel that loads and stores
  Times one_tensor;  // one tensor of as many parameters; where there are several

  // What follows is measured on CUDA devices only.
  Times graph;  // the update as a CUDA graph
  Times host;   // the CPU's part of step(); where the whole takes no longer than that can be repeated
  std::vector<BaselineTimes> baselines;
  std::string no_baselines;  // why there are none

  double bytes() const { return static_cast<double>(count) * static_cast<double>(bytes_per_parameter); }
  double update_gigabytes_per_second() const { return bytes() / update.median() * 1e-9; }
  double ceiling_gigabytes_per_second() const { return bytes() / ceiling.median() * 1e-9; }
  double copy_gigabytes_per_second(const Times& of) const;  // of copy or plain_copy
  double fraction_of_ceiling() const { return ratio(ceiling, update); }
};

// The norm that gradients are clipped to: some are larger, so that the factor is not 1.
inline constexpr double kClipNorm = 1.0;

// Bytes of the device's memory that a request needs.
std::int64_t bytes_needed(const Request& request);

// None where it was asked to stop before every contender had a first sample; fewer repetitions where that was later.
std::optional<Throughput> measure(const Request& request, const ProgressTo& progress, const StopAsked& stop);

}  // namespace adamant::bench
