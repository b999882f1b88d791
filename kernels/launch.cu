#include "kernels/launch.hpp"

#include <algorithm>
#include <cstring>

#include "kernels/apply.hpp"
#include "kernels/storage.hpp"
#include "kernels/tuning.hpp"
#include "kernels/update.cuh"

namespace adamant::kernels {
namespace {

template <typename Rule, typename Real>
__device__ void write_scalars(const typename Rule::Options& options, std::int64_t t, RowScalars& scalars) {
  using Step = typename Rule::template Step<Real>;
  static_assert(sizeof(Step) <= kScalarBytes && alignof(Step) <= alignof(Scalars));
  const Step step = Step::at_step(options, t);
  *reinterpret_cast<Step*>(scalars.step.bytes) = step;
  *reinterpret_cast<Real*>(scalars.gradient_scale) = static_cast<Real>(gradient_scale(options));
  scalars.step_count = t;
}

template <typename Rule, typename... List>
__device__ void write_scalars_of(std::int64_t storage, const typename Rule::Options& options, std::int64_t t,
                                 RowScalars& scalars, TypeList<List...> /*storages*/) {
  std::int64_t index = 0;
  ((storage == index++ ? write_scalars<Rule, typename List::Real>(options, t, scalars) : void()), ...);
}

}  // namespace

// One thread a tensor: the scalars of its next step, from options and step count in device memory.
template <typename Rule>
__global__ void __launch_bounds__(kScalarThreads) scalars(const DeviceTables tables) {
  let_update_begin();
  const std::int64_t index = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (index >= tables.row_count) return;
  const DeviceRow& row = tables.rows[index];
  write_scalars_of<Rule>(row.storage, *reinterpret_cast<const typename Rule::Options*>(row.options->bytes),
                         *row.step_count + 1, tables.scalars[index], Storages{});
}

template <typename T>
__global__ void store(T* to, const T value) {
  *to = value;
}

namespace {

struct Kernels {
  const void* scalars;
  const void* update[Storages::kSize];
  OptionBytes (*option_bytes)(const Method&);
};

template <typename Rule>
OptionBytes bytes_of(const Method& method) {
  using Options = typename Rule::Options;
  static_assert(sizeof(Options) <= kOptionBytes && std::is_trivially_copyable_v<Options>);
  OptionBytes bytes{};
  std::memcpy(bytes.bytes, &std::get<Options>(method), sizeof(Options));
  return bytes;
}

// A function by itself, because nvcc loses track of a pack in &update<Rule, Storages>.
template <typename Rule, typename Storage>
const void* update_kernel() {
  return reinterpret_cast<const void*>(&update<Rule, Storage>);
}

template <typename Rule, typename... List>
Kernels kernels_of(TypeList<List...> /*storages*/) {
  return {reinterpret_cast<const void*>(&scalars<Rule>), {update_kernel<Rule, List>()...}, &bytes_of<Rule>};
}

template <typename... List>
const Kernels& kernels_of_rule(int rule, TypeList<List...> /*rules*/) {
  static const Kernels all[] = {kernels_of<List>(Storages{})...};
  return all[rule];
}

const Kernels& kernels_of_rule(int rule) { return kernels_of_rule(rule, Rules{}); }

unsigned blocks_for(std::int64_t work, std::int64_t per_block) {
  return static_cast<unsigned>((work + per_block - 1) / per_block);
}

template <typename... Arguments>
cudaError_t launch(const void* kernel, unsigned blocks, int threads, cudaStream_t stream, Arguments... arguments) {
  void* pointers[] = {&arguments...};
  return cudaLaunchKernel(kernel, dim3(blocks), dim3(static_cast<unsigned>(threads)), pointers, 0, stream);
}

}  // namespace

OptionBytes option_bytes(int rule, const Method& options) { return kernels_of_rule(rule).option_bytes(options); }

cudaError_t launch_scalars(int rule, const DeviceTables& tables, cudaStream_t stream) {
  return launch(kernels_of_rule(rule).scalars, blocks_for(tables.row_count, kScalarThreads), kScalarThreads, stream,
                tables);
}

cudaError_t launch_update(int rule, const TileRange& range, const DeviceTables& tables, int threads, bool begins_early,
                          cudaStream_t stream) {
  const std::int64_t packed = range.end - range.begin - range.whole;
  cudaLaunchAttribute early{};
  early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  early.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(range.whole + blocks_for(packed, threads / 32)));
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.stream = stream;
  config.attrs = &early;
  config.numAttrs = begins_early ? 1 : 0;
  UpdateArguments arguments{tables, range.begin, range.whole, range.end};
  void* pointers[] = {&arguments};
  return cudaLaunchKernelExC(&config, kernels_of_rule(rule).update[range.storage], pointers);
}

cudaError_t launch_store(OptionBytes* to, const OptionBytes& value, cudaStream_t stream) {
  return launch(reinterpret_cast<const void*>(&store<OptionBytes>), 1, 1, stream, to, value);
}

cudaError_t launch_store(std::int64_t* to, std::int64_t value, cudaStream_t stream) {
  return launch(reinterpret_cast<const void*>(&store<std::int64_t>), 1, 1, stream, to, value);
}

cudaError_t find_kernels(int rule) {
  cudaFuncAttributes attributes{};
  if (const cudaError_t error = cudaFuncGetAttributes(&attributes, kernels_of_rule(rule).scalars); error != cudaSuccess)
    return error;
  for (const void* kernel : kernels_of_rule(rule).update) {
    if (const cudaError_t error = cudaFuncGetAttributes(&attributes, kernel); error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

bool can_begin_early(int rule) {
  // The architecture that a kernel was written for decides what it knows, whatever the driver made of it.
  constexpr int kFirst = 90;
  cudaFuncAttributes attributes{};
  if (cudaFuncGetAttributes(&attributes, kernels_of_rule(rule).update[0]) != cudaSuccess) {
    cudaGetLastError();
    return false;
  }
  return attributes.ptxVersion >= kFirst && attributes.binaryVersion >= kFirst;
}

}  // namespace adamant::kernels
