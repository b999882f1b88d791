#include "bench/baseline_check.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "host/text.hpp"

namespace adamant::bench {
namespace {

// What the library makes of the windows.
std::vector<Window> stepped(const Method& method, std::vector<Window> windows) {
  Optimizer optimizer(method);
  const std::vector<std::string> names = state_names(method);
  for (std::size_t i = 0; i < windows.size(); ++i) {
    Window& window = windows[i];
    const TensorId id =
        optimizer.add({.name = std::to_string(i), .parameter = window.parameter, .gradient = window.gradient});
    for (std::size_t s = 0; s < names.size(); ++s) {
      std::copy(window.states[s].begin(), window.states[s].end(), optimizer.state(id, names[s]).as<float>());
    }
    optimizer.set_step_count(id, kCheckedStep - 1);
  }
  optimizer.step();
  for (std::size_t i = 0; i < windows.size(); ++i) {
    for (std::size_t s = 0; s < names.size(); ++s) {
      const float* const state = optimizer.state(optimizer.find(std::to_string(i)), names[s]).as<float>();
      std::copy(state, state + windows[i].states[s].size(), windows[i].states[s].begin());
    }
  }
  return windows;
}

// Where `got` is further from `expected` than a few roundings: of the old and of the new value, and of the largest
// change `slack` times. Empty when it is nowhere.
std::string difference(const std::string& what, const std::vector<float>& before, const std::vector<float>& got,
                       const std::vector<float>& expected, double roundings, double slack) {
  constexpr double kRounding = std::numeric_limits<float>::epsilon() / 2.0;
  double largest_change = 0;
  for (std::size_t i = 0; i < got.size(); ++i) {
    largest_change = std::max(largest_change, std::abs(double{expected[i]} - double{before[i]}));
  }
  for (std::size_t i = 0; i < got.size(); ++i) {
    const double allowed = kRounding * (roundings * (std::abs(double{before[i]}) + std::abs(double{expected[i]})) +
                                        slack * largest_change);
    if (std::abs(double{got[i]} - double{expected[i]}) <= allowed) continue;  // not for a NaN
    return what + " became " + host::to_text(got[i]) + " from " + host::to_text(before[i]) + ", and with adamant " +
           host::to_text(expected[i]);
  }
  return {};
}

}  // namespace

std::string disagreement(const Method& method, const std::vector<Window>& before, const std::vector<Window>& after) {
  const std::vector<std::string> names = state_names(method);
  const std::vector<Window> expected = stepped(method, before);
  for (std::size_t i = 0; i < after.size(); ++i) {
    std::string found =
        difference("a parameter", before[i].parameter, after[i].parameter, expected[i].parameter, 2, 64);
    for (std::size_t s = 0; s < names.size() && found.empty(); ++s) {
      found =
          difference("an element of " + names[s], before[i].states[s], after[i].states[s], expected[i].states[s], 8, 8);
    }
    if (!found.empty()) return found;
  }
  return {};
}

}  // namespace adamant::bench
