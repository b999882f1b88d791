// The combinations of kernels/storage.hpp as values, and their names.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "adamant/types.hpp"

namespace adamant::kernels {

// The types of one of Storages.
struct StorageTypes {
  DataType parameter;
  DataType gradient;
  DataType state;
  Master master;  // not automatic
  friend constexpr bool operator==(const StorageTypes&, const StorageTypes&) = default;
};

// Of a tensor that has one type throughout.
constexpr StorageTypes plain_storage(DataType type) { return {type, type, type, Master::none}; }

// Calls use(T{}), T being the type of the elements.
template <typename Use>
auto with_type(DataType type, const Use& use) {
  switch (type) {
    case DataType::float64: return use(double{});
    case DataType::bfloat16: return use(bfloat16{});
    case DataType::float16: return use(float16{});
    default: return use(float{});
  }
}

// Bytes of an element of what is kept beside a parameter: its master or remainder; 0 where nothing is.
std::int64_t kept_size(Master master);

// All of them, by index.
std::span<const StorageTypes> storages();

// The index in Storages of a combination of types, if it is supported.
std::optional<int> find_storage(const StorageTypes& types);

// "bfloat16 with float32 gradients, float32 states and a remainder"
std::string to_text(const StorageTypes& types);
// "bfloat16/float32/float32/remainder", without the last where there is none: what the command line takes.
std::string short_name(const StorageTypes& types);

// Texts of all with that type of parameter, separated by semicolons.
std::string supported_storages(DataType parameter);

}  // namespace adamant::kernels
