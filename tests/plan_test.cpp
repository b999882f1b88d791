// Tables of tiles of tensors that no machine here could hold: no pointer is followed, so the counts may be anything.
#include <gtest/gtest.h>

#include <cstdint>
#include <vector>

#include "adamant/adamant.hpp"
#include "host/plan.hpp"
#include "kernels/step_plan.hpp"
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

}  // namespace
}  // namespace adamant::test
