// What a user would write without this library: the methods with their default options through Thrust, through CUB, and
// as an eager framework runs them, one elementwise kernel an operation. Plain C++.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "adamant/types.hpp"

namespace adamant::bench {

// One float32 tensor in device memory.
struct BaselineTensor {
  float* parameter;
  const float* gradient;
  std::array<float*, 2> state;  // in the order of state_names(); as many as the method has
  float* scratch;               // as many elements, for intermediate results; several tensors may share it
  std::int64_t count;
};

struct Baseline {
  std::string name;
  // Enqueues step number `t`, from 2 on, of one tensor.
  void (*step)(const BaselineTensor& tensor, std::int64_t t, Stream stream);
};

// Those of the method of that name; none for a method that nobody has written down yet.
std::vector<Baseline> gpu_baselines(std::string_view method);

}  // namespace adamant::bench
