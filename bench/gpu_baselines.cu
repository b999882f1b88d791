// Compiled as nvcc does by default, as a user's own kernels would be. Every stream of a tensor is read once and all but
// the gradient written once by Thrust and CUB; the unfused sequences read and write as often as their operations say.
#include "bench/gpu_baselines.hpp"

#include <thrust/for_each.h>
#include <thrust/iterator/zip_iterator.h>
#include <thrust/system/cuda/execution_policy.h>
#include <cub/device/device_transform.cuh>
#include <cuda/std/tuple>

#include <cmath>
#include <utility>

#include "adamant/rules.hpp"
#include "kernels/cuda_error.hpp"

namespace adamant::bench {
namespace {

// --- The formulas for one element: parameter, gradient and states to parameter and states

template <int kStates>
using Element = std::conditional_t<
    kStates == 0, cuda::std::tuple<float>,
    std::conditional_t<kStates == 1, cuda::std::tuple<float, float>, cuda::std::tuple<float, float, float>>>;

float single(double value) { return static_cast<float>(value); }

struct GradientDescentFormula {
  static constexpr std::size_t kStates = 0;
  float rate;

  static GradientDescentFormula at(std::int64_t /*t*/) { return {single(GradientDescent{}.learning_rate)}; }
  __host__ __device__ Element<0> operator()(float x, float g) const { return {x - rate * g}; }
};

struct MomentumFormula {
  static constexpr std::size_t kStates = 1;
  float rate, beta;

  static MomentumFormula at(std::int64_t /*t*/) {
    return {single(Momentum{}.learning_rate), single(Momentum{}.momentum)};
  }
  __host__ __device__ Element<1> operator()(float x, float g, float v) const {
    v = beta * v + g;
    return {x - rate * v, v};
  }
};

struct RMSPropFormula {
  static constexpr std::size_t kStates = 1;
  float rate, gamma, rest, epsilon;

  static RMSPropFormula at(std::int64_t /*t*/) {
    constexpr RMSProp options;
    return {single(options.learning_rate), single(options.decay), single(1 - options.decay), single(options.epsilon)};
  }
  __host__ __device__ Element<1> operator()(float x, float g, float s) const {
    s = gamma * s + rest * g * g;
    return {x - rate * g / sqrtf(s + epsilon), s};
  }
};

// AdamW with its decay, Adam with none.
template <typename Options>
struct AdamFormula {
  static constexpr std::size_t kStates = 2;
  float rate, beta1, rest1, beta2, rest2, root2, epsilon, keep;

  static AdamFormula at(std::int64_t t) {
    constexpr Options options;
    const double decay = std::is_same_v<Options, AdamW> ? options.learning_rate * options.weight_decay : 0.0;
    return {single(options.learning_rate / (1 - std::pow(options.beta1, t))),
            single(options.beta1),
            single(1 - options.beta1),
            single(options.beta2),
            single(1 - options.beta2),
            single(1 / std::sqrt(1 - std::pow(options.beta2, t))),
            single(options.epsilon),
            single(1 - decay)};
  }
  __host__ __device__ Element<2> operator()(float x, float g, float m, float s) const {
    m = beta1 * m + rest1 * g;
    s = beta2 * s + rest2 * g * g;
    return {keep * x - rate * m / (sqrtf(s) * root2 + epsilon), m, s};
  }
};

// --- Thrust: for_each over a zip of all streams

template <typename Formula, typename Indices = std::make_index_sequence<Formula::kStates>>
struct InPlace;
template <typename Formula, std::size_t... kState>
struct InPlace<Formula, std::index_sequence<kState...>> {
  Formula formula;
  template <typename Streams>
  __host__ __device__ void operator()(const Streams& streams) const {
    using cuda::std::get;
    const auto after = formula(get<0>(streams), get<1>(streams), get<2 + kState>(streams)...);
    get<0>(streams) = get<0>(after);
    ((get<2 + kState>(streams) = get<1 + kState>(after)), ...);
  }
};

template <typename Formula, std::size_t... kState>
void with_thrust(const BaselineTensor& tensor, std::int64_t t, Stream stream,
                 std::index_sequence<kState...> /*states*/) {
  thrust::for_each_n(thrust::cuda::par_nosync.on(stream),
                     thrust::make_zip_iterator(tensor.parameter, tensor.gradient, tensor.state[kState]...),
                     tensor.count, InPlace<Formula>{Formula::at(t)});
}
template <typename Formula>
void with_thrust(const BaselineTensor& tensor, std::int64_t t, Stream stream) {
  with_thrust<Formula>(tensor, t, stream, std::make_index_sequence<Formula::kStates>{});
}

// --- CUB: DeviceTransform has one output, which may be a zip of several

template <typename Formula, std::size_t... kState>
void with_cub(const BaselineTensor& tensor, std::int64_t t, Stream stream, std::index_sequence<kState...> /*states*/) {
  kernels::check(
      cub::DeviceTransform::Transform(
          cuda::std::make_tuple(static_cast<const float*>(tensor.parameter), tensor.gradient,
                                static_cast<const float*>(tensor.state[kState])...),
          thrust::make_zip_iterator(tensor.parameter, tensor.state[kState]...), tensor.count, Formula::at(t), stream),
      "cub::DeviceTransform::Transform", "a baseline");
}
template <typename Formula>
void with_cub(const BaselineTensor& tensor, std::int64_t t, Stream stream) {
  with_cub<Formula>(tensor, t, stream, std::make_index_sequence<Formula::kStates>{});
}

// --- Unfused: the operations of PyTorch's optimizers when neither `foreach` nor `fused` is on, a kernel each

constexpr int kVector = 4;
constexpr unsigned kThreads = 256;

// out[i] = operation(in[0][i], ...), four elements a thread, 16 bytes an access. `out` may be one of `in`. All
// addresses are multiples of 16: the caller's buffers are aligned to 256.
template <typename Operation>
struct Operands {
  float* out;
  const float* in[Operation::kInputs];
  std::int64_t count;
};

template <typename Operation>
__device__ float apply(const Operation& operation, const float (&x)[Operation::kInputs]) {
  if constexpr (Operation::kInputs == 1) {
    return operation(x[0]);
  } else if constexpr (Operation::kInputs == 2) {
    return operation(x[0], x[1]);
  } else {
    return operation(x[0], x[1], x[2]);
  }
}

template <typename Operation>
__global__ void elementwise(const Operands<Operation> operands, const Operation operation) {
  constexpr int kInputs = Operation::kInputs;
  const std::int64_t first = (static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) * kVector;
  if (first + kVector <= operands.count) {
    float4 in[kInputs];
    for (int k = 0; k < kInputs; ++k) in[k] = *reinterpret_cast<const float4*>(operands.in[k] + first);
    float4 out;
    for (int i = 0; i < kVector; ++i) {
      float x[kInputs];
      for (int k = 0; k < kInputs; ++k) x[k] = reinterpret_cast<const float*>(&in[k])[i];
      reinterpret_cast<float*>(&out)[i] = apply(operation, x);
    }
    *reinterpret_cast<float4*>(operands.out + first) = out;
  } else {
    for (std::int64_t i = first; i < operands.count; ++i) {
      float x[kInputs];
      for (int k = 0; k < kInputs; ++k) x[k] = operands.in[k][i];
      operands.out[i] = apply(operation, x);
    }
  }
}

struct Scale {
  static constexpr int kInputs = 1;
  float factor;
  __device__ float operator()(float a) const { return a * factor; }
};
struct AddNumber {
  static constexpr int kInputs = 1;
  float number;
  __device__ float operator()(float a) const { return a + number; }
};
struct Root {
  static constexpr int kInputs = 1;
  __device__ float operator()(float a) const { return sqrtf(a); }
};
struct AddScaled {
  static constexpr int kInputs = 2;
  float factor;
  __device__ float operator()(float a, float b) const { return a + factor * b; }
};
struct Interpolate {
  static constexpr int kInputs = 2;
  float weight;
  __device__ float operator()(float a, float b) const { return a + weight * (b - a); }
};
struct AddProduct {
  static constexpr int kInputs = 3;
  float factor;
  __device__ float operator()(float a, float b, float c) const { return a + factor * b * c; }
};
struct AddQuotient {
  static constexpr int kInputs = 3;
  float factor;
  __device__ float operator()(float a, float b, float c) const { return a + factor * b / c; }
};

// Runs operations on whole tensors of one length.
class Eager {
 public:
  Eager(std::int64_t count, Stream stream) : count_(count), stream_(stream) {}

  template <typename Operation, typename... Inputs>
  void operator()(Operation operation, float* out, const Inputs*... in) const {
    Operands<Operation> operands{out, {in...}, count_};
    void* pointers[] = {&operands, &operation};
    constexpr std::int64_t kPerBlock = std::int64_t{kThreads} * kVector;
    kernels::check(cudaLaunchKernel(reinterpret_cast<const void*>(&elementwise<Operation>),
                                    dim3(static_cast<unsigned>((count_ + kPerBlock - 1) / kPerBlock)), dim3(kThreads),
                                    pointers, 0, stream_),
                   "cudaLaunchKernel", "a baseline");
  }

 private:
  std::int64_t count_;
  Stream stream_;
};

void unfused(const GradientDescentFormula& scalars, const BaselineTensor& tensor, const Eager& run) {
  run(AddScaled{-scalars.rate}, tensor.parameter, tensor.parameter, tensor.gradient);
}

void unfused(const MomentumFormula& scalars, const BaselineTensor& tensor, const Eager& run) {
  float* const v = tensor.state[0];
  run(Scale{scalars.beta}, v, v);
  run(AddScaled{1}, v, v, tensor.gradient);
  run(AddScaled{-scalars.rate}, tensor.parameter, tensor.parameter, v);
}

void unfused(const RMSPropFormula& scalars, const BaselineTensor& tensor, const Eager& run) {
  float* const s = tensor.state[0];
  run(Scale{scalars.gamma}, s, s);
  run(AddProduct{scalars.rest}, s, s, tensor.gradient, tensor.gradient);
  run(AddNumber{scalars.epsilon}, tensor.scratch, s);
  run(Root{}, tensor.scratch, tensor.scratch);
  run(AddQuotient{-scalars.rate}, tensor.parameter, tensor.parameter, tensor.gradient, tensor.scratch);
}

template <typename Options>
void unfused(const AdamFormula<Options>& scalars, const BaselineTensor& tensor, const Eager& run) {
  float* const m = tensor.state[0];
  float* const s = tensor.state[1];
  if (std::is_same_v<Options, AdamW>) run(Scale{scalars.keep}, tensor.parameter, tensor.parameter);
  run(Interpolate{scalars.rest1}, m, m, tensor.gradient);
  run(Scale{scalars.beta2}, s, s);
  run(AddProduct{scalars.rest2}, s, s, tensor.gradient, tensor.gradient);
  run(Root{}, tensor.scratch, s);
  run(Scale{scalars.root2}, tensor.scratch, tensor.scratch);
  run(AddNumber{scalars.epsilon}, tensor.scratch, tensor.scratch);
  run(AddQuotient{-scalars.rate}, tensor.parameter, tensor.parameter, m, tensor.scratch);
}

template <typename Formula>
void unfused(const BaselineTensor& tensor, std::int64_t t, Stream stream) {
  unfused(Formula::at(t), tensor, Eager(tensor.count, stream));
}

template <typename Formula>
std::vector<Baseline> baselines_of() {
  return {{"thrust", &with_thrust<Formula>}, {"cub", &with_cub<Formula>}, {"unfused", &unfused<Formula>}};
}

}  // namespace

std::vector<Baseline> gpu_baselines(std::string_view method) {
  if (method == GradientDescent::kName) return baselines_of<GradientDescentFormula>();
  if (method == Momentum::kName) return baselines_of<MomentumFormula>();
  if (method == RMSProp::kName) return baselines_of<RMSPropFormula>();
  if (method == Adam::kName) return baselines_of<AdamFormula<Adam>>();
  if (method == AdamW::kName) return baselines_of<AdamFormula<AdamW>>();
  return {};
}

}  // namespace adamant::bench
