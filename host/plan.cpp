#include "host/plan.hpp"

#include <algorithm>
#include <utility>

#include "adamant/tuning.hpp"
#include "kernels/storage.hpp"
#include "kernels/storage_types.hpp"

namespace adamant::host {
namespace {

template <typename... Types>
constexpr std::int32_t gradient_type(DataType type, TypeList<Types...> /*tag*/) {
  std::int32_t index = 0;
  bool found = false;
  ((found = found || detail::kDataType<Types> == type, index += found ? 0 : 1), ...);
  return index;
}

// Makes the nodes of a NormPlan and numbers its values.
class NormTree {
 public:
  explicit NormTree(std::int64_t tensors) : next_value_(tensors) { root_ = next_value_++; }

  // Adds the values from `begin` on up to one at `value`; returns the node that adds the first of them, and the next
  // kChunk have the next node.
  std::int64_t add_up(std::int64_t begin, std::int64_t count, std::int64_t value, std::int64_t parent) {
    const std::int64_t groups = (count + kChunk - 1) / kChunk;
    const auto first = static_cast<std::int64_t>(nodes.size());
    if (groups <= 1) {
      nodes.push_back({begin, count, value, parent});
      return first;
    }
    const std::int64_t sums = reserve_values(groups);
    nodes.resize(nodes.size() + static_cast<std::size_t>(groups));
    const std::int64_t above = add_up(sums, groups, value, parent);
    for (std::int64_t i = 0; i < groups; ++i) {
      nodes[static_cast<std::size_t>(first + i)] = {begin + i * kChunk, std::min(kChunk, count - i * kChunk), sums + i,
                                                    above + i / kChunk};
    }
    return first;
  }

  std::int64_t reserve_values(std::int64_t count) { return std::exchange(next_value_, next_value_ + count); }
  std::int64_t root() const { return root_; }
  std::int64_t values() const { return next_value_; }

  std::vector<kernels::NormNode> nodes;

 private:
  std::int64_t next_value_;
  std::int64_t root_;
};

}  // namespace

kernels::NormPlan make_norm_plan(std::span<const kernels::TensorRow> rows) {
  kernels::NormPlan plan;
  NormTree tree(static_cast<std::int64_t>(rows.size()));
  // A node stands behind those that it adds: those of tensors come first, and the sums of all tensors last.
  std::vector<std::int64_t> first_node(rows.size(), -1);  // of tensors with more than one chunk
  std::vector<std::int64_t> first_value(rows.size());
  for (std::size_t row = 0; row < rows.size(); ++row) {
    const auto own = static_cast<std::int64_t>(row);
    const std::int64_t chunks = (rows[row].count + kChunk - 1) / kChunk;
    first_value[row] = own;
    if (chunks <= 1) continue;
    first_value[row] = tree.reserve_values(chunks);
    first_node[row] = tree.add_up(first_value[row], chunks, own, 0);
  }
  const std::int64_t last = tree.add_up(0, static_cast<std::int64_t>(rows.size()), tree.root(), -1);
  for (kernels::NormNode& node : tree.nodes) {
    // What adds up a tensor hands on to what adds up tensors.
    if (node.value < static_cast<std::int64_t>(rows.size())) node.parent = last + node.value / kChunk;
  }
  for (std::int32_t type = 0; type < static_cast<std::int32_t>(kernels::GradientTypes::kSize); ++type) {
    const auto begin = static_cast<std::int64_t>(plan.leaves.size());
    for (std::size_t row = 0; row < rows.size(); ++row) {
      const kernels::StorageTypes& types = kernels::storages()[static_cast<std::size_t>(rows[row].storage)];
      if (gradient_type(types.gradient, kernels::GradientTypes{}) != type) continue;
      const auto own = static_cast<std::int64_t>(row);
      std::int64_t chunk = 0;
      do {  // an empty tensor, too, has a leaf: its sum is zero
        plan.leaves.push_back({chunk * kChunk, own, first_value[row] + chunk,
                               first_node[row] < 0 ? last + own / kChunk : first_node[row] + chunk / kChunk});
        ++chunk;
      } while (chunk * kChunk < rows[row].count);
    }
    const auto end = static_cast<std::int64_t>(plan.leaves.size());
    if (end > begin) plan.ranges.push_back({type, begin, end});
  }
  plan.nodes = std::move(tree.nodes);
  plan.values = tree.values();
  return plan;
}

kernels::StepPlan make_plan(std::vector<kernels::TensorRow> rows, std::int64_t tile_size, std::int64_t small_tile) {
  kernels::StepPlan plan;
  plan.tile_size = tile_size;
  for (int storage = 0; storage < static_cast<int>(kernels::storages().size()); ++storage) {
    const auto begin = static_cast<std::int64_t>(plan.tiles.size());
    std::vector<kernels::Tile> small;
    for (std::size_t row = 0; row < rows.size(); ++row) {
      if (rows[row].storage != storage) continue;
      std::int64_t first = 0;
      do {  // an empty tensor, too, has a tile: the one that stands for it
        const bool is_small = rows[row].count - first <= small_tile;
        (is_small ? small : plan.tiles).push_back({first, static_cast<std::int64_t>(row)});
        first += tile_size;
      } while (first < rows[row].count);
    }
    const auto whole = static_cast<std::int64_t>(plan.tiles.size()) - begin;
    plan.tiles.insert(plan.tiles.end(), small.begin(), small.end());
    const auto end = static_cast<std::int64_t>(plan.tiles.size());
    if (end > begin) plan.ranges.push_back({storage, begin, whole, end});
  }
  plan.rows = std::move(rows);
  return plan;
}

}  // namespace adamant::host
