#include "host/plan.hpp"

#include <algorithm>
#include <array>
#include <string>
#include <utility>

#include "host/text.hpp"
#include "kernels/storage.hpp"

namespace adamant::host {
namespace {

struct StorageTypes {
  DataType parameter;
  DataType gradient;
  DataType state;
};

template <typename... Storages>
constexpr auto types_of(TypeList<Storages...> /*tag*/) {
  return std::array{StorageTypes{detail::kDataType<typename Storages::Parameter>,
                                 detail::kDataType<typename Storages::Gradient>,
                                 detail::kDataType<typename Storages::State>}...};
}

constexpr auto kTypes = types_of(kernels::Storages{});

}  // namespace

std::optional<int> find_storage(DataType parameter, DataType gradient) {
  for (std::size_t i = 0; i < kTypes.size(); ++i) {
    if (kTypes.at(i).parameter == parameter && kTypes.at(i).gradient == gradient) return static_cast<int>(i);
  }
  return std::nullopt;
}

DataType state_type(int storage) { return kTypes.at(static_cast<std::size_t>(storage)).state; }

std::string supported_storages() {
  std::array<std::string, kTypes.size()> texts;
  std::transform(kTypes.begin(), kTypes.end(), texts.begin(), [](const StorageTypes& types) {
    return std::string(name(types.parameter)) + " with " + std::string(name(types.gradient)) + " gradients";
  });
  return joined(texts);
}

kernels::StepPlan make_plan(std::vector<kernels::TensorRow> rows, std::int64_t tile_size, std::int64_t small_tile) {
  kernels::StepPlan plan;
  plan.tile_size = tile_size;
  for (int storage = 0; storage < static_cast<int>(kTypes.size()); ++storage) {
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
