// Replays a trace of gradients through a method and holds the result against a file.
#pragma once

#include <filesystem>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "adamant/adamant.hpp"
#include "host/measure.hpp"
#include "kernels/storage_types.hpp"

namespace adamant::tools {

// Gradients of one parameter array over several steps, as a safetensors file holds them: `param` [n] and `grad`
// [steps, n], both F32 or F64. The elements are kept as doubles, which hold both exactly.
struct Trace {
  std::vector<double> parameter;
  std::vector<double> gradients;  // steps * n
  std::int64_t steps = 0;
};

// Throws std::runtime_error naming file, tensor and what is wrong.
Trace read_trace(const std::filesystem::path& path);

struct State {
  std::string name;
  DataType type;
  std::vector<double> values;
  std::vector<double> largest;        // largest |value| it has had
  bool takes_up_more_than_gradients;  // weight decay joins them, or it is RMSProp's buffer of quotients
};

struct Replayed {
  DataType type;
  std::vector<double> parameter;
  std::vector<double> largest_parameter;  // largest |value| on the way, the initial one included
  std::vector<double> largest_gradient;
  std::vector<State> states;
  std::vector<double> master;  // empty where there is no float32 one
};

using OnStep = std::function<void(std::int64_t done, std::int64_t steps)>;
// With parameters and gradients rounded to these types. The parameter of the result is what is stored in the
// parameter's type, also where there is a master.
Replayed replay(const Trace& trace, const Method& method, Device device, const Tuning& tuning,
                const kernels::StorageTypes& types, const OnStep& on_step);

// Writes `param` and the states under PyTorch's names, in the type they have, and `master` where there is a float32
// one.
void write(const std::filesystem::path& path, const Replayed& result, const Method& method, std::int64_t steps);

struct ReplayComparison {
  struct Figure {
    std::string name;  // "param", or a state
    double value;      // what was measured
    double allowed;    // and what it may be at most
    std::string what;  // "root mean square, ulps", ...
    bool passed() const { return value <= allowed && allowed < std::numeric_limits<double>::infinity(); }
  };
  std::vector<Figure> figures;
  std::vector<std::string> notes;
  bool passed() const;
};

// Holds a result against a file. When the file has `param_f32` and `param_path_max` it is a float64 run with a float32
// run as yardstick, and the yardstick applies to float32 results; otherwise, and for states, `tolerance` does, relative
// to the larger of |state| and the element's largest |gradient| (squared where the state is) or, where a state takes up
// more than the gradient, to what the element has been at its largest. `path` is the same replay in float64, from which
// that is known.
ReplayComparison compare(const Replayed& result, const Replayed& path, const std::filesystem::path& expected,
                         double tolerance);

}  // namespace adamant::tools
