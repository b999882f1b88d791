/// \file
/// What Optimizer::save() and load() are told, and where the file format is described.
///
/// A checkpoint is a plain safetensors file. A tensor NAME has its states under PyTorch's names, NAME.exp_avg and so
/// on, its parameter under NAME, and what is kept beside that under NAME.master or NAME.remainder; `__metadata__` holds
/// format and library version, method, states, every option of every group as a hexadecimal float, of each tensor its
/// step count, its group, whether it is frozen and what its random bits are keyed by, their seed, and the loss scale;
/// an XXH3 digest of each array and one of the header. docs/checkpoints.md lists the keys.
#pragma once

#include <string>
#include <vector>

#include "adamant/macros.hpp"

namespace adamant {

/// What Optimizer::save() writes besides states, step counts, groups and options.
struct SaveOptions {
  bool parameters = true;  ///< the parameters too, so that one file is all that a run needs to go on
};

/// How far the tensors of a file and those of the Optimizer that loads it may differ. Groups go by their index, and the
/// options of those that the file has follow the file, whichever tensors are in them.
struct LoadOptions {
  bool allow_missing = false;  ///< tensors that the file does not have keep parameter, state, step count and group
  bool allow_extra = false;    ///< arrays of the file that belong to none of the tensors are not read
  /// Tensors whose parameter and states may be of another type in the file, by name, and whose master may be kept in
  /// another way: they are rounded to nearest even, a float32 master made of the most exact that the file has. (Not
  /// between float64 and 16 bits, which would round twice.)
  std::vector<std::string> change_types = {};
};

}  // namespace adamant
