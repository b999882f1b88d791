/// \file
/// Methods by name: what a configuration file or a command line needs to choose one and set its options.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "adamant/macros.hpp"
#include "adamant/rules.hpp"

namespace adamant {

/// One option of a method as text.
struct Option {
  std::string name;     ///< as in the options struct: "learning_rate", "beta1", ...
  std::string value;    ///< the shortest text that reads back as the same value; "true"/"false"; an enumerator's name
  std::string allowed;  ///< "0 <= beta1 < 1", "true or false", ...
};

/// The names that make_method() knows: "gradient_descent", "momentum", "rmsprop", "adam", "adamw".
ADAMANT_API std::vector<std::string> method_names();

/// The name of a method.
ADAMANT_API std::string_view name(const Method& method);

/// A method by name, with options by name on top of the defaults.
/// \throws std::invalid_argument for an unknown name, an unknown option, or a value out of range; the text lists what
///   there is.
ADAMANT_API Method make_method(std::string_view name, const std::map<std::string, std::string>& options = {});

/// Sets one option from text: "true", "inside_root", a number in decimal or, after 0x, in hexadecimal ("0x1.8p-4");
/// `method` is unchanged when it throws.
/// \throws std::invalid_argument as make_method()
ADAMANT_API void set_option(Method& method, std::string_view option, std::string_view value);

/// All options of a method with their present values.
ADAMANT_API std::vector<Option> options(const Method& method);

/// The state slots of a method's variant under PyTorch's names: "exp_avg", "exp_avg_sq", ...
ADAMANT_API std::vector<std::string> state_names(const Method& method);

/// Checks every option.
/// \throws std::invalid_argument that names the option, its value and what is allowed
ADAMANT_API void validate(const Method& method);

}  // namespace adamant
