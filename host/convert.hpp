// Arrays from one storage to another on the host: masters made of parameters, and what a checkpoint holds in other
// types than an Optimizer's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "adamant/types.hpp"

namespace adamant::host {

// Gives a tensor of one of kernels::Storages the master that its parameter makes, where it has a float32 one; a
// remainder begins as zeros.
void make_master(int storage, void* kept, const void* parameter, std::int64_t count);

// The numbers of an array in another type, rounded to nearest even, every NaN the canonical one. From float64 to 16
// bits there would be two roundings, and nobody goes the other way: `is_convertible` says no to both.
bool is_convertible(DataType from, DataType to);
std::vector<std::byte> converted(std::span<const std::byte> values, DataType from, DataType to);

// A float32 array, as converted() makes it, as parameter and what is kept beside it, and back.
struct SplitParameter {
  std::vector<std::byte> parameter;
  std::vector<std::byte> kept;  // empty where nothing is
};
SplitParameter split(std::span<const std::byte> values, DataType parameter, Master master);
std::vector<std::byte> joined_with_remainder(std::span<const std::byte> parameter,
                                             std::span<const std::byte> remainder);

}  // namespace adamant::host
