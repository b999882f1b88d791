// What each of the files update_0.cu, update_1.cu, ... instantiates.
#pragma once

#include <type_traits>

#include "kernels/rule_list.hpp"
#include "kernels/storage.hpp"
#include "kernels/update.cuh"
#include "kernels/update_kernels.hpp"

namespace adamant::kernels {

// A function by itself, because nvcc loses track of a pack in &update<Rule, Storage>.
template <typename Rule, typename Storage>
UpdateKernel update_kernel() {
  return {reinterpret_cast<const void*>(&update<Rule, Storage>), kVector<Storage>};
}

// Of one storage combination, by rule; null where it belongs to another group, whose file has them.
template <bool kIsOurs, typename Storage, typename... List>
UpdateKernel update_kernel_of_rule(int rule, TypeList<List...> /*rules*/) {
  if constexpr (kIsOurs) {
    static const UpdateKernel all[] = {update_kernel<List, Storage>()...};
    return all[rule];
  } else {
    return {};
  }
}

template <int kGroup, typename... List, std::size_t... kIndices>
UpdateKernel update_kernel_of_group(int rule, int storage, TypeList<List...> /*storages*/,
                                    std::index_sequence<kIndices...> /*indices*/) {
  UpdateKernel found{};
  ((storage == static_cast<int>(kIndices)
        ? void(found = update_kernel_of_rule<kIndices % kUpdateGroups == kGroup, List>(rule, Rules{}))
        : void()),
   ...);
  return found;
}

template <int kGroup>
UpdateKernel update_kernel_of_group(int rule, int storage) {
  return update_kernel_of_group<kGroup>(rule, storage, Storages{}, std::make_index_sequence<Storages::kSize>{});
}

}  // namespace adamant::kernels
