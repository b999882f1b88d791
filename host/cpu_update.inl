// The update loop of the CPU backend, compiled once for each SIMD level with that level's flags. Everything but
// update_table() has internal linkage and everything it calls is inlined: no symbol of this file can be replaced by a
// copy that was compiled with other flags, and none of it can be picked by a machine that lacks the instructions.
//
// Bytes per parameter: every stream is read once and all but the gradient are written once. No alignment is assumed
// beyond that of the element.
#ifndef ADAMANT_SIMD_LEVEL
#error "define ADAMANT_SIMD_LEVEL and include this file from one .cpp per level"
#endif

#include "host/cpu_update.hpp"
#include "kernels/apply.hpp"
#include "kernels/rule_list.hpp"
#include "kernels/storage.hpp"

namespace adamant::host::ADAMANT_SIMD_LEVEL {
namespace {

// The slots are parameters of their own because compilers keep `restrict` for those and lose it in arrays; without it
// they do not vectorise. Slots that the rule does not have are never touched.
template <typename Rule, typename Storage>
void update_streams(const typename Rule::template Step<typename Storage::Real> step, const typename Storage::Real scale,
                    const std::int64_t count, typename Storage::Parameter* __restrict parameter,
                    const typename Storage::Gradient* __restrict gradient, typename Storage::State* __restrict state0,
                    typename Storage::State* __restrict state1, typename Storage::State* __restrict state2,
                    typename Storage::State* __restrict state3) {
  using Real = typename Storage::Real;
  static_assert(kernels::kMaxSlots == 4);
  for (std::int64_t i = 0; i < count; ++i) {
    Element<Real, Rule::kSlots> element;
    element.parameter = parameter[i];
    if constexpr (Rule::kSlots > 0) element.state[0] = state0[i];
    if constexpr (Rule::kSlots > 1) element.state[1] = state1[i];
    if constexpr (Rule::kSlots > 2) element.state[2] = state2[i];
    if constexpr (Rule::kSlots > 3) element.state[3] = state3[i];
    element = kernels::apply<Rule, Real>(step, scale, element, gradient[i]);
    parameter[i] = element.parameter;
    if constexpr (Rule::kSlots > 0) state0[i] = element.state[0];
    if constexpr (Rule::kSlots > 1) state1[i] = element.state[1];
    if constexpr (Rule::kSlots > 2) state2[i] = element.state[2];
    if constexpr (Rule::kSlots > 3) state3[i] = element.state[3];
  }
}

template <typename Rule, typename Storage>
void update(const kernels::TensorRow& row, std::int64_t first, std::int64_t count, const kernels::Scalars& scalars,
            double gradient_scale) {
  using Real = typename Storage::Real;
  using State = typename Storage::State;
  using Step = typename Rule::template Step<Real>;
  static_assert(sizeof(Step) <= kernels::kScalarBytes && alignof(Step) <= alignof(kernels::Scalars));

  Step step;
  __builtin_memcpy(&step, scalars.bytes, sizeof(Step));
  // Null where the rule has no such slot: adding even to a null pointer that nobody uses is undefined.
  const auto slot = [&](int index) {
    return index < Rule::kSlots ? static_cast<State*>(row.state[index]) + first : nullptr;
  };
  update_streams<Rule, Storage>(
      step, static_cast<Real>(gradient_scale), count, static_cast<typename Storage::Parameter*>(row.parameter) + first,
      static_cast<const typename Storage::Gradient*>(row.gradient) + first, slot(0), slot(1), slot(2), slot(3));
}

template <typename Rule, typename... Storages>
constexpr void fill(UpdateFunction* functions, TypeList<Storages...>) {
  ((*functions++ = &update<Rule, Storages>), ...);
}

// All loops in one array: those of the first rule in the order of Storages, then those of the second, and so on.
struct Functions {
  UpdateFunction list[kernels::Rules::kSize * kernels::Storages::kSize];

  template <typename... Rules>
  constexpr explicit Functions(TypeList<Rules...>) : list() {
    UpdateFunction* next = list;
    ((fill<Rules>(next, kernels::Storages{}), next += kernels::Storages::kSize), ...);
  }
};

constexpr Functions kFunctions{kernels::Rules{}};

}  // namespace

UpdateTable update_table() { return {SimdLevel::ADAMANT_SIMD_LEVEL, kFunctions.list}; }

}  // namespace adamant::host::ADAMANT_SIMD_LEVEL
