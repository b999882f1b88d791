// Where the instances of the update kernel are. They are compiled in groups, a file each, so that they compile side by
// side: group k has the storage combinations k, k + kUpdateGroups, k + 2 kUpdateGroups, ... for every rule.
#pragma once

namespace adamant::kernels {

inline constexpr int kUpdateGroups = 4;

// The kernel of a rule and of a storage combination of the group, and the elements of a vector of it.
struct UpdateKernel {
  const void* kernel;
  int vector;
};
template <int kGroup>
UpdateKernel update_kernel_of_group(int rule, int storage);

}  // namespace adamant::kernels
