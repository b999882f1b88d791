// What the host layer asks of a method beyond the public interface: which rule it is, and its options to the last bit.
#pragma once

#include <map>
#include <span>
#include <string>
#include <string_view>
#include <variant>

#include "adamant/method.hpp"

namespace adamant::host {

// The index in kernels::Rules of the variant that the options ask for.
int rule_index(const Method& method);

// Whether a group with these options can be stepped by an Optimizer made for `rule`.
bool runs_as(const Method& method, int rule);

// Every option with its value as text that make_method() reads back to the last bit; numbers in hexadecimal.
std::map<std::string, std::string> exact_options(const Method& method);

// Whether a step depends on how many there were before it, but for whether it is the first.
bool counts_steps(const Method& method);

// An option and its value, a text or a number.
struct OptionValue {
  std::string_view option;
  std::variant<std::string_view, double> value;
};

// As adamant::make_method(); of two values of an option the later one counts.
Method method_from(std::string_view name, std::span<const OptionValue> options);

// As adamant::set_option(), from a number; true and false are 1 and 0.
void set_option(Method& method, std::string_view option, double value);

}  // namespace adamant::host
