// The colour of each method in the program's pictures. bench/method_colours.gp says the same to gnuplot, and a test
// holds the two together.
#pragma once

#include <string_view>

namespace adamant::tools {

// As "#rrggbb", on white. Colours that stay apart for every kind of colour vision (Okabe and Ito 2008).
inline std::string_view colour_of(std::string_view method) {
  if (method == "gradient_descent") return "#0072B2";
  if (method == "momentum") return "#D55E00";
  if (method == "rmsprop") return "#009E73";
  if (method == "adam") return "#CC79A7";
  if (method == "adamw") return "#E69F00";
  return "#000000";
}

}  // namespace adamant::tools
