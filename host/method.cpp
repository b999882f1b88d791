// Methods by name, and the checks of their options: all of it driven by each method's visit_fields(). Whatever reads,
// converts or compares a number does so under a FloatingPointGuard: std::from_chars rounds as the caller's mode says,
// comparing a NaN traps where the caller wants traps, and a subnormal momentum is zero to a caller who flushes them.
#include "adamant/method.hpp"

#include <array>
#include <cstring>
#include <optional>
#include <stdexcept>

#include "host/floating_point.hpp"
#include "host/method.hpp"
#include "host/scalars.hpp"
#include "host/text.hpp"
#include "kernels/rule_list.hpp"
#include "kernels/storage.hpp"

namespace adamant {
namespace {

using host::in_quotes;
using host::to_text;

constexpr std::array<std::string_view, 2> kPlacements{"inside_root", "outside_root"};

std::string text_of(double value) { return to_text(value); }
std::string text_of(bool value) { return value ? "true" : "false"; }
std::string text_of(EpsilonPlacement value) { return std::string(kPlacements.at(static_cast<std::size_t>(value))); }

std::string allowed(std::string_view name, double /*tag*/, const Range& range) {
  const std::string high = range.high == kNonNegative.high ? "3.4e38" : to_text(range.high);
  return to_text(range.low) + " <= " + std::string(name) + (range.below_high ? " < " : " <= ") + high;
}
std::string allowed(std::string_view /*name*/, bool /*tag*/) { return "true or false"; }
std::string allowed(std::string_view /*name*/, EpsilonPlacement /*tag*/) { return "inside_root or outside_root"; }

[[noreturn]] void refuse(std::string_view method, std::string_view option, std::string_view value,
                         std::string_view allowed_values) {
  throw std::invalid_argument("adamant: " + std::string(method) + ": " + std::string(option) + " = " +
                              std::string(value) + " is not allowed; allowed: " + std::string(allowed_values));
}

// Calls visit(name, field) or, for a number, visit(name, field, range) for every field.
template <typename Options, typename Visit>
void for_each_field(Options& options, const Visit& visit) {
  std::remove_const_t<Options>::visit_fields(options, visit);
}

// Sets the field from a text or a number; says whether the value is one for a field of that type.
bool assign(double& field, std::string_view text) {
  const std::optional<double> number = host::number_from_text(text);
  if (number) field = *number;
  return number.has_value();
}
bool assign(bool& field, std::string_view text) {
  field = text == "true";
  return text == "true" || text == "false";
}
bool assign(EpsilonPlacement& field, std::string_view text) {
  for (std::size_t i = 0; i < kPlacements.size(); ++i) {
    if (text == kPlacements.at(i)) {
      field = static_cast<EpsilonPlacement>(i);
      return true;
    }
  }
  return false;
}
bool assign(double& field, double value) {
  field = value;
  return true;
}
bool assign(bool& field, double value) {
  field = value != 0.0;
  return value == 0.0 || value == 1.0;
}
bool assign(EpsilonPlacement& /*field*/, double /*value*/) { return false; }

std::string text_of(std::string_view text) { return in_quotes(text); }

std::string exact_text_of(double value) { return host::hexadecimal_text(value); }
template <typename Value>
std::string exact_text_of(Value value) {
  return text_of(value);
}

// Sets one field without looking at its range or at the other fields.
template <typename Value>
void assign_option(Method& method, std::string_view option, Value value) {
  std::visit(
      [&](auto& options) {
        std::vector<std::string> names;
        bool found = false;
        for_each_field(options, [&](std::string_view name, auto& field, const auto&... range) {
          names.emplace_back(name);
          if (name != option) return;
          found = true;
          if (!assign(field, value)) refuse(options.kName, name, text_of(value), allowed(name, field, range...));
        });
        if (!found) {
          throw std::invalid_argument("adamant: " + std::string(options.kName) + " has no option " + in_quotes(option) +
                                      "; it has " + host::joined(names));
        }
      },
      method);
}

template <typename... Methods>
Method default_method(std::string_view wanted, const std::variant<Methods...>* /*tag*/) {
  Method method;
  bool found = false;
  ((wanted == Methods::kName ? (method = Methods{}, found = true) : false), ...);
  if (!found) {
    throw std::invalid_argument("adamant: no method is called " + in_quotes(wanted) + "; there are " +
                                host::joined(method_names()));
  }
  return method;
}

template <typename Value>
void change_option(Method& method, std::string_view option, Value value) {
  const host::FloatingPointGuard guard;
  Method changed = method;
  assign_option(changed, option, value);
  validate(changed);
  method = changed;
}

template <typename... Methods>
std::vector<std::string> names_of(const std::variant<Methods...>* /*tag*/) {
  return {std::string(Methods::kName)...};
}

template <typename... Rules>
std::vector<std::string> state_names_of(int rule, TypeList<Rules...> /*tag*/) {
  static constexpr const std::string_view* kNames[] = {Rules::kStateNames...};
  static constexpr int kSlots[] = {Rules::kSlots...};
  return {kNames[rule], kNames[rule] + kSlots[rule]};
}

}  // namespace

std::vector<std::string> method_names() { return names_of(static_cast<const Method*>(nullptr)); }

std::string_view name(const Method& method) {
  return std::visit([](const auto& options) { return std::remove_cvref_t<decltype(options)>::kName; }, method);
}

void validate(const Method& method) {
  const host::FloatingPointGuard guard;
  std::visit(
      [](const auto& options) {
        for_each_field(options, [&](std::string_view name, const auto& field, const auto&... range) {
          if constexpr (sizeof...(range) > 0) {
            const auto inside = [&](const Range& r) {
              return field >= r.low && (r.below_high ? field < r.high : field <= r.high);
            };
            if (!(inside(range) && ...)) refuse(options.kName, name, text_of(field), allowed(name, field, range...));
          } else if constexpr (std::is_enum_v<std::remove_cvref_t<decltype(field)>>) {
            if (static_cast<std::size_t>(field) >= kPlacements.size()) {
              refuse(options.kName, name, to_text(static_cast<int>(field)), allowed(name, field));
            }
          }
        });
        if (const std::string_view conflict = options.conflict(); !conflict.empty()) {
          throw std::invalid_argument("adamant: " + std::string(options.kName) + ": " + std::string(conflict));
        }
      },
      method);
}

void set_option(Method& method, std::string_view option, std::string_view value) {
  change_option(method, option, value);
}

Method make_method(std::string_view name, const std::map<std::string, std::string>& options) {
  std::vector<host::OptionValue> values;
  values.reserve(options.size());
  for (const auto& [option, value] : options) values.push_back({option, value});
  return host::method_from(name, values);
}

std::vector<Option> options(const Method& method) {
  const host::FloatingPointGuard guard;
  std::vector<Option> list;
  std::visit(
      [&](const auto& fields) {
        for_each_field(fields, [&](std::string_view name, const auto& field, const auto&... range) {
          list.push_back({std::string(name), text_of(field), allowed(name, field, range...)});
        });
      },
      method);
  return list;
}

std::vector<std::string> state_names(const Method& method) {
  return state_names_of(host::rule_index(method), kernels::Rules{});
}

namespace host {

Method method_from(std::string_view name, std::span<const OptionValue> options) {
  const FloatingPointGuard guard;
  Method method = default_method(name, static_cast<const Method*>(nullptr));
  // All are set before any is checked: some are only right together.
  for (const OptionValue& each : options) {
    std::visit([&](auto value) { assign_option(method, each.option, value); }, each.value);
  }
  validate(method);
  return method;
}

void set_option(Method& method, std::string_view option, double value) { change_option(method, option, value); }

std::map<std::string, std::string> exact_options(const Method& method) {
  const FloatingPointGuard guard;
  std::map<std::string, std::string> texts;
  std::visit(
      [&](const auto& fields) {
        for_each_field(fields, [&](std::string_view name, const auto& field, const auto&... /*range*/) {
          texts.emplace(name, exact_text_of(field));
        });
      },
      method);
  return texts;
}

bool counts_steps(const Method& method) {
  const FloatingPointGuard guard;
  const int rule = rule_index(method);
  for (int storage = 0; storage < static_cast<int>(kernels::Storages::kSize); ++storage) {
    const kernels::Scalars second = scalars_at_step(rule, storage, method, 2);
    const kernels::Scalars later = scalars_at_step(rule, storage, method, 3);
    if (std::memcmp(second.bytes, later.bytes, sizeof second.bytes) != 0) return true;
  }
  return false;
}

int rule_index(const Method& method) {
  const FloatingPointGuard guard;
  return std::visit(
      [](const auto& options) {
        using Options = std::remove_cvref_t<decltype(options)>;
        return kernels::first_rule<Options>(static_cast<const Method*>(nullptr)) + options.variant();
      },
      method);
}

bool runs_as(const Method& method, int rule) {
  const FloatingPointGuard guard;
  return std::visit(
      [&](const auto& options) {
        using Options = std::remove_cvref_t<decltype(options)>;
        const int first = kernels::first_rule<Options>(static_cast<const Method*>(nullptr));
        const int variant = rule - first;
        return variant >= 0 && variant < static_cast<int>(Options::Variants::kSize) && options.runs_as(variant);
      },
      method);
}

}  // namespace host
}  // namespace adamant
