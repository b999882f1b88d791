// What shapes of work are measured: one tensor, many of one size, or the parameters of a network.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace adamant::bench {

struct Shape {
  std::string name;                  // "1048576", "200x1048576" or "gpt2-124m"
  std::vector<std::int64_t> counts;  // parameters of each tensor
  std::int64_t total() const;
  std::int64_t tensors() const { return static_cast<std::int64_t>(counts.size()); }
};

inline constexpr std::int64_t kMostParameters = std::int64_t{1} << 40;
inline constexpr std::int64_t kMostTensors = 1000000;

Shape one_tensor(std::int64_t count);

// The networks, computed from their architecture: "gpt2-124m", "gpt2-1.5b" and "resnet-50".
const std::vector<Shape>& networks();

// All that a full run measures: one tensor of 2^10, 2^12 ... 2^28 and 10^9 parameters, and those of several tensors.
std::vector<Shape> all_shapes();

// A network by its name, or TENSORSxPARAMETERS: from 2 to kMostTensors tensors, of all together from 1 to
// kMostParameters parameters. None where the text is neither.
std::optional<Shape> shape_from(std::string_view text);

}  // namespace adamant::bench
