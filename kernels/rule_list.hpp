// Every rule of every method as one flat list, so that backends can make tables of their instantiations. A rule's index
// is its place in this list; nothing here names a method.
#pragma once

#include <cstddef>
#include <iterator>
#include <type_traits>
#include <variant>

#include "adamant/rules.hpp"
#include "kernels/step_plan.hpp"

namespace adamant::kernels {
namespace detail {

template <typename... Lists>
struct Concatenate;
template <typename... Types>
struct Concatenate<TypeList<Types...>> {
  using Type = TypeList<Types...>;
};
template <typename... Left, typename... Right, typename... Rest>
struct Concatenate<TypeList<Left...>, TypeList<Right...>, Rest...> {
  using Type = typename Concatenate<TypeList<Left..., Right...>, Rest...>::Type;
};

template <typename Variant>
struct RulesOf;
template <typename... Methods>
struct RulesOf<std::variant<Methods...>> {
  static_assert((MethodLike<Methods> && ...),
                "a method lacks something that the contract in adamant/rule.hpp asks for");
  using Type = typename Concatenate<typename Methods::Variants...>::Type;
};

template <typename... Types>
constexpr bool all_keep_the_contract(TypeList<Types...>) {
  return (RuleLike<Types> && ...) && ((Types::kSlots <= kMaxSlots) && ...) &&
         ((std::size(Types::kStateNames) >= static_cast<std::size_t>(Types::kSlots)) && ...);
}

}  // namespace detail

using Rules = typename detail::RulesOf<Method>::Type;
static_assert(detail::all_keep_the_contract(Rules{}), "a rule does not keep the contract in adamant/rule.hpp");

// The index in Rules of a method's first variant.
template <typename Options, typename... Methods>
constexpr int first_rule(const std::variant<Methods...>*) {
  int index = 0;
  bool found = false;
  ((found = found || std::is_same_v<Options, Methods>, index += found ? 0 : static_cast<int>(Methods::Variants::kSize)),
   ...);
  return index;
}

// Room for the scalars of any rule.
inline constexpr std::size_t kScalarBytes = 128;
struct alignas(8) Scalars {
  std::byte bytes[kScalarBytes];
};

}  // namespace adamant::kernels
