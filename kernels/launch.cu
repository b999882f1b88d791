#include "kernels/launch.hpp"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>

#include "kernels/apply.hpp"
#include "kernels/dependent_launch.cuh"
#include "kernels/device_stream.cuh"
#include "kernels/norm.cuh"
#include "kernels/storage.hpp"
#include "kernels/tuning.hpp"
#include "kernels/update_kernels.hpp"

namespace adamant::kernels {
namespace {

template <typename Rule, typename Real>
__device__ void write_scalars(const typename Rule::Options& options, std::int64_t t, const Decision& decision,
                              RowScalars& scalars) {
  using Step = typename Rule::template Step<Real>;
  static_assert(sizeof(Step) <= kScalarBytes && alignof(Step) <= alignof(Scalars));
  static_assert(sizeof(Conditions<Real>) <= sizeof(scalars.conditions));
  const Step step = Step::at_step(options, t);
  *reinterpret_cast<Step*>(scalars.step.bytes) = step;
  *reinterpret_cast<Conditions<Real>*>(scalars.conditions) = Conditions<Real>::of(decision, gradient_sign(options));
}

// There are two arithmetic types and many storages.
template <typename... List>
__device__ bool is_double(std::int64_t storage, TypeList<List...> /*storages*/) {
  std::int64_t index = 0;
  bool result = false;
  ((result = result || (storage == index++ && std::is_same_v<typename List::Real, double>)), ...);
  return result;
}

}  // namespace

// One thread a tensor: the scalars of its next step, from options, step count and control in device memory.
template <typename Rule>
__global__ void __launch_bounds__(kScalarThreads, kScalarBlocksPerSm) scalars(const DeviceTables tables) {
  using Options = typename Rule::Options;
  // In a step without a norm this kernel is the first and waits for nothing, and the update may look up its tiles.
  if (tables.measured == nullptr) trigger_next_kernel();
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * blockDim.x;
  // Threads beyond the last tensor do that one again.
  const std::int64_t index = min(first + threadIdx.x, tables.row_count - 1);
  // All at once what does not depend on the row. With few tensors the time to memory and back is what a step takes.
  if (threadIdx.x == 0) {
    prefetch(tables.first_step_count);
    prefetch(tables.first_options);
  }
  prefetch(tables.control);
  prefetch(tables.report);
  // What the first blocks of the update will look up.
  prefetch(tables.gradients + index);
  constexpr std::int64_t kTilesOfALine = kLineBytes / static_cast<std::int64_t>(sizeof(Tile));
  if (const std::int64_t tile = (first + threadIdx.x) * kTilesOfALine; tile < tables.tile_count) {
    prefetch(tables.tiles + tile);
  }
  const DeviceRow& row = tables.rows[index];
  const auto* const step_count = DeviceStream<const std::int64_t>{row.step_count}.global();
  const auto* const options_there =
      DeviceStream<const Options>{reinterpret_cast<const Options*>(row.options->bytes)}.global();
  const bool is_of_double = is_double(row.storage, Storages{});
  const std::uint32_t identity = row.identity;
  prefetch(step_count);
  prefetch(options_there);

  wait_for_previous_kernel();
  trigger_next_kernel();  // with a norm only now: while it runs, waiting blocks of the update would be in its way
  const auto options = load_in_pieces<Options>(options_there);
  const auto control = load_in_pieces<Control>(tables.control);
  auto report = load_in_pieces<StepReport>(tables.report);
  const std::int64_t t = *step_count;
  compiler_barrier();  // all four loads are issued before the first use
  const Decision decision = decide(control, tables.measured, report);
  // Collected in shared memory and written in full, a line at a time: to read a sector back that was written in part,
  // the rest of it would have to be fetched first.
  __shared__ RowScalars results[kScalarThreads];
  RowScalars& result = results[threadIdx.x];
  result = {};
  if (is_of_double) {
    write_scalars<Rule, double>(options, t + 1, decision, result);
  } else {
    write_scalars<Rule, float>(options, t + 1, decision, result);
  }
  result.random = {control.seed, static_cast<std::uint32_t>(t + 1), identity};
  result.step_count = decision.skip ? t : t + 1;
  result.skip = decision.skip ? 1 : 0;
  if (blockIdx.x == 0 && threadIdx.x == 0) *tables.next_report = report;
  __syncthreads();
  constexpr int kPieces = sizeof(RowScalars) / sizeof(uint4);
  const int pieces = static_cast<int>(min(tables.row_count - first, std::int64_t{kScalarThreads})) * kPieces;
  for (int piece = static_cast<int>(threadIdx.x); piece < pieces; piece += kScalarThreads) {
    reinterpret_cast<uint4*>(tables.scalars + first)[piece] = reinterpret_cast<const uint4*>(results)[piece];
  }
}

template <typename Storage>
__global__ void make_master(typename Storage::Kept* kept, const typename Storage::Parameter* parameter,
                            std::int64_t count) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < count) kept[i] = canonical(widened<typename Storage::Real>(parameter[i]));
}

__global__ void store(std::uint64_t* to, const Stored value, int words) {
#pragma unroll
  for (int i = 0; i < static_cast<int>(Stored::kMostWords); ++i) {
    if (i < words) to[i] = value.words[i];
  }
}

namespace {

template <typename Storage>
const void* make_master_kernel() {
  if constexpr (std::is_same_v<typename Storage::Master, FloatMaster>) {
    return reinterpret_cast<const void*>(&make_master<Storage>);
  } else {
    return nullptr;  // none is kept, or zeros are right
  }
}
template <typename... List>
const void* make_master_kernel(int storage, TypeList<List...> /*storages*/) {
  static const void* const all[] = {make_master_kernel<List>()...};
  return all[storage];
}

template <int... kGroups>
UpdateKernel update_kernel(int rule, int storage, std::integer_sequence<int, kGroups...> /*groups*/) {
  static constexpr UpdateKernel (*kAll[])(int, int) = {&update_kernel_of_group<kGroups>...};
  return kAll[storage % kUpdateGroups](rule, storage);
}
UpdateKernel update_kernel(int rule, int storage) {
  return update_kernel(rule, storage, std::make_integer_sequence<int, kUpdateGroups>{});
}

template <typename Gradient>
const void* norm_kernel() {
  return reinterpret_cast<const void*>(&gradient_norm<Gradient>);
}
template <typename... List>
const void* norm_kernel(int type, TypeList<List...> /*types*/) {
  const void* const all[] = {norm_kernel<List>()...};
  return all[type];
}

struct Kernels {
  const void* scalars;
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

template <typename Rule>
Kernels kernels_of() {
  return {reinterpret_cast<const void*>(&scalars<Rule>), &bytes_of<Rule>};
}

template <typename... List>
const Kernels& kernels_of_rule(int rule, TypeList<List...> /*rules*/) {
  static const Kernels all[] = {kernels_of<List>()...};
  return all[rule];
}

const Kernels& kernels_of_rule(int rule) { return kernels_of_rule(rule, Rules{}); }

unsigned blocks_for(std::int64_t work, std::int64_t per_block) {
  return static_cast<unsigned>((work + per_block - 1) / per_block);
}

constexpr std::int64_t kMostBlocks = std::numeric_limits<std::int32_t>::max();  // of a grid

template <typename... Arguments>
cudaError_t launch(const void* kernel, unsigned blocks, int threads, bool begins_early, cudaStream_t stream,
                   Arguments... arguments) {
  cudaLaunchAttribute early{};
  early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  early.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(blocks);
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.stream = stream;
  config.attrs = &early;
  config.numAttrs = begins_early ? 1 : 0;
  void* pointers[] = {&arguments...};
  return cudaLaunchKernelExC(&config, kernel, pointers);
}

// The runtime loads a kernel when it is first asked for it.
cudaError_t load(const void* kernel) {
  cudaFuncAttributes attributes{};
  return cudaFuncGetAttributes(&attributes, kernel);
}

}  // namespace

OptionBytes option_bytes(int rule, const Method& options) { return kernels_of_rule(rule).option_bytes(options); }

cudaError_t launch_scalars(int rule, const DeviceTables& tables, bool begins_early, cudaStream_t stream) {
  if (begins_early && tables.measured == nullptr) return cudaErrorInvalidValue;
  return launch(kernels_of_rule(rule).scalars, blocks_for(tables.row_count, kScalarThreads), kScalarThreads,
                begins_early, stream, tables);
}

cudaError_t launch_update(int rule, const TileRange& range, const DeviceTables& tables, const UpdateLaunch& how,
                          cudaStream_t stream) {
  const std::int64_t packed = range.end - range.begin - range.whole;
  const UpdateKernel update = update_kernel(rule, range.storage);
  const unsigned packed_blocks = blocks_for(packed, how.threads / kPackedThreads);
  // Splits a tile into a power of two of parts, as many as leave each part a whole number of vectors and at least
  // kPasses passes for each thread, and as a grid has blocks for.
  const std::int64_t of_a_block = std::int64_t{kPasses} * how.threads * update.vector;
  int part_bits = 0;
  while ((tables.tile_size >> (part_bits + 1)) >= of_a_block &&
         tables.tile_size % (std::int64_t{update.vector} << (part_bits + 1)) == 0 &&
         (range.whole << (part_bits + 1)) + packed_blocks <= kMostBlocks) {
    ++part_bits;
  }
  const unsigned blocks = static_cast<unsigned>(range.whole << part_bits) + packed_blocks;
  return launch(update.kernel, blocks, how.threads, how.begins_early, stream,
                UpdateArguments{tables, range.begin, range.whole, range.end, part_bits, how.is_last ? 1 : 0});
}

cudaError_t launch_norm(const NormRange& range, const DeviceTables& tables, const NormTables& norm, bool begins_early,
                        cudaStream_t stream) {
  return launch(norm_kernel(range.gradient_type, GradientTypes{}),
                blocks_for(range.end - range.begin, kNormThreads / 32), kNormThreads, begins_early, stream,
                NormArguments{tables, norm, range.begin, range.end});
}

cudaError_t launch_make_master(int storage, void* kept, const void* parameter, std::int64_t count,
                               cudaStream_t stream) {
  const void* const kernel = make_master_kernel(storage, Storages{});
  if (kernel == nullptr || count == 0) return cudaSuccess;
  return launch(kernel, blocks_for(count, kUpdateThreads), kUpdateThreads, false, stream, kept, parameter, count);
}

cudaError_t launch_store(void* to, const Stored& value, int words, cudaStream_t stream) {
  return launch(reinterpret_cast<const void*>(&store), 1, 1, false, stream, static_cast<std::uint64_t*>(to), value,
                words);
}

cudaError_t find_kernels(int rule) {
  const cudaError_t error = load(kernels_of_rule(rule).scalars);
  return error == cudaSuccess ? load(reinterpret_cast<const void*>(&store)) : error;
}

cudaError_t load_kernels(int rule, const TileRange& range) { return load(update_kernel(rule, range.storage).kernel); }

cudaError_t load_kernels(const NormRange& range) { return load(norm_kernel(range.gradient_type, GradientTypes{})); }

bool can_begin_early(int rule) {
  // Whether a kernel contains the wait depends on the architecture its PTX was compiled for, whatever device the driver
  // compiled that PTX for.
  constexpr int kFirst = 90;
  cudaFuncAttributes attributes{};
  if (cudaFuncGetAttributes(&attributes, update_kernel(rule, 0).kernel) != cudaSuccess) {
    cudaGetLastError();
    return false;
  }
  return attributes.ptxVersion >= kFirst && attributes.binaryVersion >= kFirst;
}

}  // namespace adamant::kernels
