#include "kernels/storage_types.hpp"

#include <algorithm>
#include <array>

#include "kernels/storage.hpp"

namespace adamant::kernels {
namespace {

template <typename... List>
constexpr auto types_of(TypeList<List...> /*tag*/) {
  return std::array{StorageTypes{adamant::detail::kDataType<typename List::Parameter>,
                                 adamant::detail::kDataType<typename List::Gradient>,
                                 adamant::detail::kDataType<typename List::State>, List::Master::kMaster}...};
}

constexpr auto kTypes = types_of(Storages{});

template <typename... List>
std::int64_t kept_size_in(TypeList<List...> /*tag*/, Master master) {
  std::size_t size = 0;
  ((size = List::Master::kKeeps && List::Master::kMaster == master ? sizeof(typename List::Kept) : size), ...);
  return static_cast<std::int64_t>(size);
}

}  // namespace

std::int64_t kept_size(Master master) { return kept_size_in(Storages{}, master); }

std::span<const StorageTypes> storages() { return kTypes; }

std::optional<int> find_storage(const StorageTypes& types) {
  const auto* const found = std::find(kTypes.begin(), kTypes.end(), types);
  if (found == kTypes.end()) return std::nullopt;
  return static_cast<int>(found - kTypes.begin());
}

std::string to_text(const StorageTypes& types) {
  std::string text = std::string(name(types.parameter)) + " with " + std::string(name(types.gradient)) +
                     " gradients and " + std::string(name(types.state)) + " states";
  switch (types.master) {
    case Master::float32: return text + " and a float32 master";
    case Master::remainder: return text + " and a remainder";
    case Master::stochastic: return text + " and stochastic rounding";
    default: return text;
  }
}

std::string short_name(const StorageTypes& types) {
  const auto of = [](DataType type) { return std::string(name(type)); };
  return of(types.parameter) + "/" + of(types.gradient) + "/" + of(types.state) +
         (types.master == Master::none ? "" : "/" + std::string(name(types.master)));
}

std::string supported_storages(DataType parameter) {
  std::string all;
  for (const StorageTypes& types : kTypes) {
    if (types.parameter == parameter) all += (all.empty() ? "" : "; ") + to_text(types);
  }
  return all;
}

}  // namespace adamant::kernels
