// Tables of tiles of tensors that no machine here could hold: no pointer is followed, so the counts may be anything.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "adamant/adamant.hpp"
#include "host/plan.hpp"
#include "kernels/step_plan.hpp"
#include "kernels/storage_types.hpp"
#include "kernels/tuning.hpp"

namespace adamant::test {
namespace {

using kernels::StepPlan;
using kernels::TensorRow;
using kernels::Tile;
using kernels::TileRange;

StepPlan plan_of(const std::vector<std::int64_t>& counts, std::int64_t tile_size, std::int64_t small_tile) {
  std::vector<TensorRow> rows(counts.size());
  for (std::size_t i = 0; i < rows.size(); ++i) rows[i].count = counts[i];
  return host::make_plan(std::move(rows), tile_size, small_tile);
}

TEST(Plan, covers_every_element_of_tensors_beyond_32_bits_once) {
  constexpr std::int64_t k31 = std::int64_t{1} << 31;
  constexpr std::int64_t k32 = std::int64_t{1} << 32;
  constexpr std::int64_t kLargestTile = std::int64_t{1} << 30;
  struct Shape {
    std::int64_t count;
    std::int64_t tile_size;
  };
  for (const auto& [count, tile_size] :
       {Shape{k31 - 1, kernels::kDeviceTile}, Shape{k31, kernels::kDeviceTile}, Shape{k31 + 1, kernels::kDeviceTile},
        Shape{k32 - 1, kernels::kDeviceTile}, Shape{k32, kernels::kDeviceTile}, Shape{k32 + 1, kernels::kDeviceTile},
        Shape{k32 + 4099, kernels::kDeviceTile}, Shape{k32 + 4099, kLargestTile},
        Shape{(std::int64_t{1} << 45) + 2000, kLargestTile}, Shape{std::int64_t{1} << 45, kLargestTile}}) {
    SCOPED_TRACE(std::to_string(count) + " elements in tiles of " + std::to_string(tile_size));
    const StepPlan plan = plan_of({count}, tile_size, kernels::kPackedTile);
    const std::int64_t last = count % tile_size == 0 ? tile_size : count % tile_size;
    ASSERT_EQ(static_cast<std::int64_t>(plan.tiles.size()), (count - last) / tile_size + 1);
    std::int64_t first = 0;
    for (const Tile& tile : plan.tiles) {
      ASSERT_EQ(tile.first, first);
      ASSERT_EQ(tile.row, 0);
      first += tile_size;
    }
    EXPECT_GE(first, count);
    ASSERT_EQ(plan.ranges.size(), 1U);
    EXPECT_EQ(plan.ranges[0].begin, 0);
    EXPECT_EQ(plan.ranges[0].end, static_cast<std::int64_t>(plan.tiles.size()));
    EXPECT_EQ(plan.ranges[0].whole, plan.ranges[0].end - (last <= kernels::kPackedTile ? 1 : 0));
    EXPECT_EQ(plan.tile_size, tile_size);
  }
}

TEST(Plan, puts_the_small_ends_of_large_tensors_among_the_small_ones) {
  constexpr std::int64_t kLarge = (std::int64_t{1} << 32) + 5;
  const StepPlan plan = plan_of({64, kLarge, 0, kLarge}, kernels::kDeviceTile, kernels::kPackedTile);
  ASSERT_EQ(plan.ranges.size(), 1U);
  const TileRange range = plan.ranges[0];
  EXPECT_EQ(range.whole, 2 * (std::int64_t{1} << 20));
  ASSERT_EQ(range.end - range.whole, 4);
  const auto small = static_cast<std::size_t>(range.whole);
  const std::vector<Tile> expected{{0, 0}, {std::int64_t{1} << 32, 1}, {0, 2}, {std::int64_t{1} << 32, 3}};
  for (std::size_t i = 0; i < expected.size(); ++i) {
    EXPECT_EQ(plan.tiles[small + i].first, expected[i].first) << i;
    EXPECT_EQ(plan.tiles[small + i].row, expected[i].row) << i;
  }
  EXPECT_EQ(plan.tiles[small - 1].first, (std::int64_t{1} << 32) - kernels::kDeviceTile);
  EXPECT_EQ(plan.tiles[small - 1].row, 3);
}

// --- The norm's tree

// Where the sum of the squares of a run of elements comes from: built by following the plan's nodes downwards, and
// compared with what a recursion over the counts alone says.
struct Sum {
  std::int64_t row = -1;  // of a leaf
  std::int64_t first = -1;
  std::vector<Sum> parts{};  // of a node
  bool operator==(const Sum&) const = default;
};

// The leaves of a plan by the value that they make, and its nodes.
struct Values {
  std::map<std::int64_t, kernels::NormLeaf> leaves;
  std::map<std::int64_t, std::size_t> nodes;
};

Values values_of(const kernels::NormPlan& plan) {
  Values values;
  for (const kernels::NormLeaf& leaf : plan.leaves) {
    EXPECT_TRUE(values.leaves.emplace(leaf.value, leaf).second) << "two leaves make value " << leaf.value;
  }
  for (std::size_t i = 0; i < plan.nodes.size(); ++i) {
    const std::int64_t value = plan.nodes[i].value;
    EXPECT_TRUE(!values.leaves.contains(value) && values.nodes.emplace(value, i).second)
        << "value " << value << " is made twice";
  }
  EXPECT_EQ(static_cast<std::int64_t>(values.leaves.size() + values.nodes.size()), plan.values);
  return values;
}

Sum sum_at(const kernels::NormPlan& plan, const Values& values, std::int64_t value) {
  if (const auto leaf = values.leaves.find(value); leaf != values.leaves.end()) {
    return {leaf->second.row, leaf->second.first, {}};
  }
  const kernels::NormNode& node = plan.nodes.at(values.nodes.at(value));
  Sum sum;
  for (std::int64_t i = 0; i < node.count; ++i) sum.parts.push_back(sum_at(plan, values, node.begin + i));
  return sum;
}

// A list of more than 4,096 is added up in groups of so many, and those sums in the same way; a list of one is not.
Sum grouped(std::vector<Sum> parts) {
  constexpr std::size_t kGroup = 4096;
  while (parts.size() > kGroup) {
    std::vector<Sum> sums;
    for (std::size_t at = 0; at < parts.size(); at += kGroup) {
      const std::size_t end = std::min(at + kGroup, parts.size());
      sums.push_back(
          {-1,
           -1,
           {parts.begin() + static_cast<std::ptrdiff_t>(at), parts.begin() + static_cast<std::ptrdiff_t>(end)}});
    }
    parts = std::move(sums);
  }
  return {-1, -1, std::move(parts)};
}

Sum expected_sum(const std::vector<std::int64_t>& counts) {
  std::vector<Sum> tensors;
  for (std::size_t row = 0; row < counts.size(); ++row) {
    std::vector<Sum> chunks;
    for (std::int64_t first = 0; first == 0 || first < counts[row]; first += 4096) {
      chunks.push_back({static_cast<std::int64_t>(row), first, {}});
    }
    tensors.push_back(chunks.size() == 1 ? chunks[0] : grouped(std::move(chunks)));
  }
  return grouped(std::move(tensors));
}

std::vector<TensorRow> rows_of(const std::vector<std::int64_t>& counts, const std::vector<std::int32_t>& storages) {
  std::vector<TensorRow> rows(counts.size());
  for (std::size_t i = 0; i < rows.size(); ++i) {
    rows[i].count = counts[i];
    rows[i].storage = storages[i % storages.size()];
  }
  return rows;
}

void expect_norm_plan(const std::vector<std::int64_t>& counts, const std::vector<std::int32_t>& storages) {
  const std::vector<TensorRow> rows = rows_of(counts, storages);
  const kernels::NormPlan plan = host::make_norm_plan(rows);
  const Values values = values_of(plan);
  ASSERT_FALSE(plan.nodes.empty());
  ASSERT_FALSE(testing::Test::HasFailure());

  // Every value is added once, by a node behind the one that makes it, and says so.
  std::vector<std::int64_t> added_by(static_cast<std::size_t>(plan.values), -1);
  for (std::size_t i = 0; i < plan.nodes.size(); ++i) {
    const kernels::NormNode& node = plan.nodes[i];
    ASSERT_TRUE(node.count >= 1 && node.count <= 4096) << "node " << i << " adds " << node.count;
    ASSERT_TRUE(node.begin >= 0 && node.begin + node.count <= plan.values) << i;
    for (std::int64_t value = node.begin; value < node.begin + node.count; ++value) {
      ASSERT_EQ(std::exchange(added_by[static_cast<std::size_t>(value)], static_cast<std::int64_t>(i)), -1) << value;
      const auto made_by = values.nodes.find(value);
      const bool is_behind = made_by == values.nodes.end() || made_by->second < i;
      ASSERT_TRUE(is_behind) << "node " << i << " does not stand behind what it adds";
    }
  }
  for (const kernels::NormLeaf& leaf : plan.leaves) {
    ASSERT_EQ(leaf.parent, added_by[static_cast<std::size_t>(leaf.value)]) << leaf.row << ", " << leaf.first;
    ASSERT_GE(leaf.parent, 0);
  }
  for (const kernels::NormNode& node : plan.nodes) {
    ASSERT_EQ(node.parent, added_by[static_cast<std::size_t>(node.value)]);
  }
  EXPECT_EQ(plan.nodes.back().parent, -1) << "the last makes the sum of all";
  EXPECT_EQ(std::count(added_by.begin(), added_by.end(), -1), 1);

  EXPECT_TRUE(sum_at(plan, values, plan.nodes.back().value) == expected_sum(counts));

  // Every leaf is in the range of its gradient's type.
  std::int64_t leaves = 0;
  std::int32_t type_before = -1;
  for (const kernels::NormRange& range : plan.ranges) {
    EXPECT_GT(range.gradient_type, type_before);
    type_before = range.gradient_type;
    EXPECT_EQ(range.begin, leaves);
    EXPECT_GT(range.end, range.begin);
    leaves = range.end;
    const DataType type = std::array{DataType::float32, DataType::float64, DataType::bfloat16, DataType::float16}.at(
        static_cast<std::size_t>(range.gradient_type));
    for (std::int64_t i = range.begin; i < range.end; ++i) {
      const TensorRow& row = rows.at(static_cast<std::size_t>(plan.leaves.at(static_cast<std::size_t>(i)).row));
      ASSERT_EQ(kernels::storages()[static_cast<std::size_t>(row.storage)].gradient, type) << "leaf " << i;
    }
  }
  EXPECT_EQ(leaves, static_cast<std::int64_t>(plan.leaves.size()));
}

TEST(NormPlan, adds_every_chunk_of_every_tensor_once_in_the_order_of_tensors_and_chunks) {
  for (const std::vector<std::int64_t>& counts : std::vector<std::vector<std::int64_t>>{
           {1}, {0}, {4096}, {4097}, {0, 0, 0}, {8192, 1, 0, 4095, 4097, 12289}, {5, 1 << 24, 7}}) {
    SCOPED_TRACE(testing::PrintToString(counts));
    expect_norm_plan(counts, {0});
  }
}

TEST(NormPlan, has_three_levels_for_tensors_of_more_than_2_to_the_24_elements) {
  constexpr std::int64_t k24 = std::int64_t{1} << 24;
  for (const std::vector<std::int64_t>& counts :
       std::vector<std::vector<std::int64_t>>{{k24 + 1}, {3 * k24, 0, k24 + 4096, 1}}) {
    SCOPED_TRACE(testing::PrintToString(counts));
    expect_norm_plan(counts, {0});
    const kernels::NormPlan plan = host::make_norm_plan(rows_of(counts, {0}));
    std::int64_t levels = 1;
    for (std::int64_t node = plan.leaves.at(0).parent; node >= 0; ++levels) {
      node = plan.nodes.at(static_cast<std::size_t>(node)).parent;
    }
    EXPECT_EQ(levels, 1 + 3) << "chunks, their sums, those of a tensor, and the sum of all";
  }
}

TEST(NormPlan, has_four_levels_for_a_tensor_of_more_than_2_to_the_36_elements) {
  const kernels::NormPlan plan = host::make_norm_plan(rows_of({(std::int64_t{1} << 36) + 1}, {0}));
  ASSERT_EQ(plan.leaves.size(), (std::size_t{1} << 24) + 1);
  const auto is_added_by = [&](std::int64_t value, std::int64_t parent) {
    const kernels::NormNode& node = plan.nodes.at(static_cast<std::size_t>(parent));
    return value >= node.begin && value < node.begin + node.count;
  };
  std::int64_t wrong = 0;
  for (const kernels::NormLeaf& leaf : plan.leaves) wrong += is_added_by(leaf.value, leaf.parent) ? 0 : 1;
  for (const kernels::NormNode& node : plan.nodes) {
    if (node.parent >= 0) wrong += is_added_by(node.value, node.parent) ? 0 : 1;
  }
  EXPECT_EQ(wrong, 0);
  std::int64_t levels = 1;
  for (std::int64_t node = plan.leaves.back().parent; node >= 0; ++levels) {
    node = plan.nodes.at(static_cast<std::size_t>(node)).parent;
  }
  EXPECT_EQ(levels, 1 + 4) << "chunks, their sums, those of 4,096 sums, that of the tensor, and the sum of all";
}

TEST(NormPlan, adds_up_4096_tensors_by_one_node_and_more_by_groups) {
  for (const std::size_t tensors : {4095U, 4096U, 4097U, 10000U}) {
    SCOPED_TRACE(std::to_string(tensors) + " tensors");
    std::vector<std::int64_t> counts(tensors);
    for (std::size_t i = 0; i < tensors; ++i) counts[i] = static_cast<std::int64_t>(i % 5 == 4 ? 5000 : 64 * (i % 3));
    expect_norm_plan(counts, {0});
    EXPECT_EQ(host::make_norm_plan(rows_of(std::vector<std::int64_t>(tensors, 64), {0})).nodes.size(),
              tensors <= 4096 ? 1U : 1U + (tensors + 4095) / 4096);
  }
}

TEST(NormPlan, is_the_same_tree_whatever_the_types_of_gradients_are) {
  const std::vector<std::int64_t> counts{10000, 0, 5, 4097, 8192, 3, 1};
  std::vector<std::int32_t> all(kernels::storages().size());
  std::iota(all.begin(), all.end(), 0);
  expect_norm_plan(counts, all);
  std::reverse(all.begin(), all.end());
  expect_norm_plan(counts, all);
}

}  // namespace
}  // namespace adamant::test
