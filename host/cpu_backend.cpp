// The CPU backend: tiles shared out among OpenMP threads, each in the same floating-point environment. A guard stands
// around every use of the OpenMP runtime too, because LLVM's computes when it starts and clears the caller's flags; it
// stands in another function than the region, because compilers call the runtime on entry to the one with the region.
#include "host/cpu_backend.hpp"

#include <omp.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "adamant/error.hpp"
#include "host/convert.hpp"
#include "host/floating_point.hpp"
#include "host/scalars.hpp"
#include "host/text.hpp"
#include "kernels/storage.hpp"
#include "kernels/storage_types.hpp"

namespace adamant::host {
namespace {

using kernels::Scalars;
using kernels::StepPlan;
using kernels::Tile;
using kernels::TileRange;

constexpr std::size_t kAlignment = 256;
// Transparent huge pages: with 4 KiB pages a stream of 2^26 floats is 65,536 page walks.
constexpr std::size_t kHugePage = std::size_t{1} << 21;
// Fewer elements than this take less time than it takes to wake other threads for them.
constexpr std::int64_t kWorthThreads = std::int64_t{1} << 15;
// What it costs to begin a tile, in elements.
constexpr std::int64_t kTileCost = 64;
// A step of so many elements leaves nothing in the caches of its first when it ends: writing past them costs the next
// reader nothing.
constexpr std::int64_t kPastCaches = std::int64_t{1} << 24;
// Memory is cleared in pieces of this size, one thread a piece.
constexpr std::int64_t kClearPiece = std::int64_t{1} << 20;

[[noreturn]] void fail_out_of_memory(std::size_t bytes, const char* why) {
  throw OutOfMemory("adamant: out of memory: " + to_text(bytes) +
                    " bytes were asked for, for the states of the tensors that were added" + why +
                    "; free some, or let states and masters take less (state_type, Master::remainder)");
}

class CpuBackend final : public kernels::Backend {
 public:
  CpuBackend(int rule, UpdateTable updates, int threads, const Allocator& allocator)
      : rule_(rule), updates_(updates), threads_(threads), allocator_(allocator) {}

  std::shared_ptr<std::byte> allocate(std::int64_t bytes) override {
    const auto size = static_cast<std::size_t>(std::max<std::int64_t>(bytes, 1));
    const std::size_t alignment = size >= kHugePage ? kHugePage : kAlignment;
    const std::size_t rounded = (size + alignment - 1) / alignment * alignment;
    if (allocator_.allocate != nullptr) return allocate_from_user(size);
    auto* memory = static_cast<std::byte*>(std::aligned_alloc(alignment, rounded));
    if (memory == nullptr) fail_out_of_memory(size, "");
    std::shared_ptr<std::byte> owner(memory, [](std::byte* p) { std::free(p); });
    if (alignment == kHugePage) madvise(memory, rounded, MADV_HUGEPAGE);  // advice: a refusal costs only speed
    // Clearing by the threads that will step it puts each page near the thread that uses it.
    zero(memory, static_cast<std::int64_t>(rounded), nullptr);
    return owner;
  }

  void reserve(std::int64_t slots, std::int64_t groups) override {
    // Grown by half, so that adding tensors one at a time stays linear.
    if (const auto wanted = static_cast<std::size_t>(slots); wanted > step_counts_.size()) {
      if (wanted > step_counts_.capacity()) step_counts_.reserve(wanted + wanted / 2);
      step_counts_.resize(wanted, 0);
    }
    if (const auto wanted = static_cast<std::size_t>(groups); wanted > options_.size()) {
      latest_row_.resize(wanted * kernels::Storages::kSize);
      options_.resize(wanted);
    }
  }

  TileSizes tile_sizes() const override { return {.usual = 16 * kChunk, .packed = 0}; }

  void set_plan(StepPlan plan) override {
    std::vector<Scalars> scalars(plan.rows.size());
    std::vector<std::int64_t> scalars_of_row(plan.rows.size());
    std::vector<std::int64_t> work_before;
    work_before.reserve(plan.tiles.size() + 1);
    work_before.push_back(0);
    for (const Tile& tile : plan.tiles) {
      const std::int64_t count = plan.rows[static_cast<std::size_t>(tile.row)].count - tile.first;
      work_before.push_back(work_before.back() + kTileCost + std::min(plan.tile_size, count));
    }
    std::vector<double> values(static_cast<std::size_t>(plan.norm.values));
    work_before_ = std::move(work_before);
    elements_ = 0;
    for (const kernels::TensorRow& row : plan.rows) elements_ += row.count;
    values_ = std::move(values);
    plan_ = std::move(plan);
    scalars_ = std::move(scalars);
    scalars_of_row_ = std::move(scalars_of_row);
  }

  std::string why_unusable(const void* /*data*/, std::int64_t /*bytes*/) const override { return {}; }
  void check_not_capturing(Stream /*stream*/, const char* /*what*/) const override {}
  void finish(Stream /*stream*/, const char* /*what*/) const override {}

  void set_gradient(std::int64_t row, const void* gradient) override {
    plan_.rows[static_cast<std::size_t>(row)].gradient = gradient;
  }
  void refresh(Stream /*stream*/) override {}

  void set_first_options(std::int32_t group, const Method& options) override { set_options(group, options, nullptr); }
  void set_options(std::int32_t group, const Method& options, Stream /*stream*/) override {
    options_[static_cast<std::size_t>(group)] = options;
  }

  void set_step_count(std::int64_t slot, std::int64_t count, Stream /*stream*/) override {
    step_counts_[static_cast<std::size_t>(slot)] = count;
  }
  void read_step_counts(std::int64_t first, std::span<std::int64_t> counts, Stream /*stream*/) const override {
    std::copy_n(step_counts_.begin() + first, counts.size(), counts.begin());
  }

  void set_control(const kernels::Control& control, Stream /*stream*/) override { control_ = control; }
  const StepReport* report() const override { return &report_; }
  void set_report(const StepReport& report, Stream /*stream*/) override { report_ = report; }
  StepReport read_report(Stream /*stream*/) const override { return report_; }

  void make_master(std::int32_t storage, void* kept, const void* parameter, std::int64_t count,
                   Stream /*stream*/) override {
    const FloatingPointGuard guard;
    host::make_master(storage, kept, parameter, count);
  }

  void step(Stream /*stream*/) override {
    if (plan_.rows.empty()) return;
    const FloatingPointGuard guard;
    kernels::Measured measured{};
    if (control_.measures != 0) measured = measure();
    decision_ = kernels::decide(control_, control_.measures != 0 ? &measured : nullptr, report_);
    if (!decision_.skip) compute_scalars();
    for (const TileRange& range : plan_.ranges) update_range(range);
    if (decision_.skip) return;
    for (const kernels::TensorRow& row : plan_.rows) ++step_counts_[static_cast<std::size_t>(row.slot)];
  }

  void zero(void* data, std::int64_t bytes, Stream /*stream*/) override {
    const FloatingPointGuard guard;
    clear(static_cast<std::byte*>(data), bytes);
  }

  std::span<const std::byte> read(const void* data, std::int64_t bytes, std::vector<std::byte>& /*staging*/,
                                  Stream /*stream*/) const override {
    return {static_cast<const std::byte*>(data), static_cast<std::size_t>(bytes)};
  }

  void write(void* data, std::span<const std::byte> bytes, Stream /*stream*/) override {
    if (!bytes.empty()) std::memcpy(data, bytes.data(), bytes.size());
  }

 private:
  std::shared_ptr<std::byte> allocate_from_user(std::size_t size) {
    auto* memory = static_cast<std::byte*>(allocator_.allocate(size, nullptr, allocator_.user));
    if (memory == nullptr) fail_out_of_memory(size, ", and the allocator that was given returned null");
    std::shared_ptr<std::byte> owner(
        memory, [from = allocator_, size](std::byte* p) { from.release(p, size, nullptr, from.user); });
    if (reinterpret_cast<std::uintptr_t>(memory) % kAlignment != 0) {
      throw std::invalid_argument("adamant: allocator: the memory it returned is not aligned to 256 bytes");
    }
    zero(memory, static_cast<std::int64_t>(size), nullptr);
    return owner;
  }

  // Tensors that follow the same options and have taken as many steps share their scalars: usually all of a group do.
  void compute_scalars() {
    std::fill(latest_row_.begin(), latest_row_.end(), -1);
    for (std::size_t i = 0; i < plan_.rows.size(); ++i) {
      const kernels::TensorRow& row = plan_.rows[i];
      const std::int64_t t = steps_of(row) + 1;
      std::int64_t& latest = latest_row_[static_cast<std::size_t>(row.group) * kernels::Storages::kSize +
                                         static_cast<std::size_t>(row.storage)];
      if (latest < 0 || steps_of(plan_.rows[static_cast<std::size_t>(latest)]) + 1 != t) {
        latest = static_cast<std::int64_t>(i);
        scalars_[i] = scalars_at_step(rule_, row.storage, options_[static_cast<std::size_t>(row.group)], t);
      }
      scalars_of_row_[i] = latest;
    }
  }

  std::int64_t steps_of(const kernels::TensorRow& row) const {
    return step_counts_[static_cast<std::size_t>(row.slot)];
  }

  [[gnu::noinline]] void update_range(const TileRange& range) {
#pragma omp parallel num_threads(threads_) if (elements_ >= kWorthThreads)
    {
      const FloatingPointGuard guard;
      const std::int64_t begin = first_tile_of(omp_get_thread_num(), omp_get_num_threads(), range);
      const std::int64_t end = first_tile_of(omp_get_thread_num() + 1, omp_get_num_threads(), range);
      for (std::int64_t i = begin; i < end; ++i) update_tile(range.storage, plan_.tiles[static_cast<std::size_t>(i)]);
    }
  }

  [[gnu::noinline]] void clear(std::byte* begin, std::int64_t bytes) const {
#pragma omp parallel for schedule(static) num_threads(threads_) if (bytes > kClearPiece)
    for (std::int64_t at = 0; at < bytes; at += kClearPiece) {
      std::memset(begin + at, 0, static_cast<std::size_t>(std::min(kClearPiece, bytes - at)));
    }
  }

  // The first tile of a thread's share: shares are as many elements each, however they are cut into tensors, and the
  // same in every step, so that memory stays with the thread that uses it.
  std::int64_t first_tile_of(int thread, int threads, const TileRange& range) const {
    const auto begin = work_before_.begin() + range.begin;
    const auto end = work_before_.begin() + range.end;
    const std::int64_t share = (*end - *begin) / threads;
    if (thread == threads) return range.end;
    return std::lower_bound(begin, end, *begin + share * thread) - work_before_.begin();
  }

  kernels::Measured measure() {
    bool all_finite = true;
    for (const kernels::NormRange& range : plan_.norm.ranges) all_finite = add_up_leaves(range) && all_finite;
    for (const kernels::NormNode& node : plan_.norm.nodes) {
      values_[static_cast<std::size_t>(node.value)] =
          updates_.sum(values_.data() + static_cast<std::size_t>(node.begin), node.count);
    }
    return {values_[static_cast<std::size_t>(plan_.norm.nodes.back().value)], all_finite ? 0 : 1};
  }

  // Whether all of them are finite.
  [[gnu::noinline]] bool add_up_leaves(const kernels::NormRange& range) {
    bool all_finite = true;
#pragma omp parallel num_threads(threads_) reduction(&& : all_finite) if (elements_ >= kWorthThreads)
    {
      const FloatingPointGuard guard;
#pragma omp for schedule(static)
      for (std::int64_t i = range.begin; i < range.end; ++i) {
        const kernels::NormLeaf& leaf = plan_.norm.leaves[static_cast<std::size_t>(i)];
        const kernels::TensorRow& row = plan_.rows[static_cast<std::size_t>(leaf.row)];
        const SumOfSquares of_chunk =
            updates_.norms[range.gradient_type](gradient_at(row, leaf.first), std::min(kChunk, row.count - leaf.first));
        values_[static_cast<std::size_t>(leaf.value)] = of_chunk.sum;
        all_finite = all_finite && of_chunk.all_finite;
      }
    }
    return all_finite;
  }

  static std::byte* gradient_at(const kernels::TensorRow& row, std::int64_t first) {
    const kernels::StorageTypes& types = kernels::storages()[static_cast<std::size_t>(row.storage)];
    // A gradient that is to be zeroed was given as one that may be written.
    return static_cast<std::byte*>(const_cast<void*>(row.gradient)) + first * size_in_bytes(types.gradient);
  }

  void update_tile(std::int32_t storage, const Tile& tile) {
    const auto row_index = static_cast<std::size_t>(tile.row);
    const kernels::TensorRow& row = plan_.rows[row_index];
    const std::int64_t count = std::min(plan_.tile_size, row.count - tile.first);
    if (count <= 0) return;
    if (!decision_.skip) update_elements(storage, row_index, tile.first, count);
    if (row.zero_gradient == 0) return;
    const std::int64_t size = size_in_bytes(kernels::storages()[static_cast<std::size_t>(storage)].gradient);
    std::memset(gradient_at(row, tile.first), 0, static_cast<std::size_t>(count * size));
  }

  void update_elements(std::int32_t storage, std::size_t row_index, std::int64_t first, std::int64_t count) const {
    const kernels::TensorRow& row = plan_.rows[row_index];
    const std::size_t loop =
        static_cast<std::size_t>(rule_) * kernels::Storages::kSize + static_cast<std::size_t>(storage);
    const UpdateFunction function = updates_.functions[loop];
    function(row, first, count,
             {.scalars = scalars_[static_cast<std::size_t>(scalars_of_row_[row_index])],
              .decision = decision_,
              .gradient_sign = gradient_sign(options_[static_cast<std::size_t>(row.group)]),
              .random = {control_.seed, static_cast<std::uint32_t>(steps_of(row) + 1), row.identity},
              .prefetches = updates_.prefetches,
              .past_caches = elements_ >= kPastCaches});
  }

  const int rule_;
  const UpdateTable updates_;
  const int threads_;
  const Allocator allocator_;
  StepPlan plan_;
  std::vector<std::int64_t> work_before_;     // by tile, and one more: elements of the tiles before it, with kTileCost
  std::int64_t elements_ = 0;                 // of all tensors of the plan
  std::vector<Scalars> scalars_;              // by row, filled where scalars_of_row_ points
  std::vector<std::int64_t> scalars_of_row_;  // the row whose scalars a row shares
  std::vector<std::int64_t> latest_row_;      // by group and storage: whose scalars were computed last in this step
  std::vector<std::int64_t> step_counts_;     // by slot
  std::vector<Method> options_;               // by group
  kernels::Control control_ = kernels::plain_control();
  StepReport report_ = kernels::first_report();
  kernels::Decision decision_{};  // of the step that runs
  std::vector<double> values_;    // of the norm's tree
};

}  // namespace

int default_threads() {
  const FloatingPointGuard guard;
  return std::min(omp_get_max_threads(), kMostThreads);
}

std::unique_ptr<kernels::Backend> make_cpu_backend(int rule, UpdateTable updates, int threads,
                                                   const Allocator& allocator) {
  return std::make_unique<CpuBackend>(rule, updates, threads, allocator);
}

}  // namespace adamant::host
