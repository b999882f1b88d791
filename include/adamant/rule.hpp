/// \file
/// What a method must provide: options that users write, and one rule (state slots, per-step scalars, the update of one
/// element) per variant. A rule knows no pointer, thread, storage type or backend.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string_view>
#include <type_traits>

#include "adamant/macros.hpp"

namespace adamant {

/// One parameter and its state, in the arithmetic type.
template <typename Real, int kSlots>
struct Element {
  Real parameter;  ///< x
  /// In the order of the rule's kStateNames. Never fewer than two: GCC copies a struct of two floats as one integer and
  /// then does not vectorise the loop around it.
  Real state[static_cast<unsigned>(kSlots > 2 ? kSlots : 2)];
};

/// The values a real-valued option may take: low <= value <= high, or value < high where `below_high`.
struct Range {
  double low;               ///< the smallest value allowed
  double high;              ///< the largest, or where `below_high` the first that is not
  bool below_high = false;  ///< `high` itself is not allowed
};

/// Rates, decays and epsilons: zero to the largest float32, so that an option fits the arithmetic of every tensor.
inline constexpr Range kNonNegative{0.0, static_cast<double>(std::numeric_limits<float>::max())};
/// Decay rates of moving averages: one itself would never take up a gradient.
inline constexpr Range kBelowOne{0.0, 1.0, true};
/// Fractions.
inline constexpr Range kFraction{0.0, 1.0};

/// A list of types, to be unpacked at compile time.
template <typename... Types>
struct TypeList {
  static constexpr std::size_t kSize = sizeof...(Types);  ///< how many
};

/// One variant of a method: what is needed to update one element.
template <typename Rule>
concept RuleLike = std::is_trivially_copyable_v<typename Rule::template Step<double>> &&
    requires(const typename Rule::Options& options, typename Rule::template Step<float> step,
             Element<float, Rule::kSlots> element) {
  { Rule::kStateNames[0] } -> std::convertible_to<std::string_view>;
  { Rule::template Step<float>::at_step(options, std::int64_t{1}) } -> std::same_as<decltype(step)>;
  { step(element, 1.0F) } -> std::same_as<decltype(element)>;
};

/// A method: an aggregate of options with a name, a table of its fields (`visit_fields`), its variants, the variant
/// that the options ask for, whether they can run in an Optimizer made for another variant, and what in them does not
/// go together (empty when all does).
template <typename Method>
concept MethodLike = std::is_aggregate_v<Method> && requires(const Method& method) {
  { Method::kName } -> std::convertible_to<std::string_view>;
  { method.learning_rate } -> std::convertible_to<double>;
  { method.maximize } -> std::convertible_to<bool>;
  { method.variant() } -> std::same_as<int>;
  { method.runs_as(0) } -> std::same_as<bool>;
  { method.conflict() } -> std::convertible_to<std::string_view>;
  { Method::Variants::kSize } -> std::convertible_to<std::size_t>;
};

}  // namespace adamant
