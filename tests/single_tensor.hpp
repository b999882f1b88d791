// One tensor and its optimizer, and the textbook beside it: what the tests of single methods step.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include "adamant/adamant.hpp"
#include "host/measure.hpp"
#include "host/reference.hpp"
#include "tests/inputs.hpp"
#include "tests/methods.hpp"

namespace adamant::test {

template <typename Real>
double ulp(double x) {
  return measure::ulp(detail::kDataType<Real>, x);
}
// Half an ulp of 1: what one rounding errs at most, relatively.
template <typename Real>
inline constexpr double kRounding = sizeof(Real) == 4 ? 0x1p-24 : 0x1p-53;

using reference::Exact;

template <typename Real>
class SingleTensor {
 public:
  SingleTensor(const Case& c, const std::vector<Real>& initial, Tuning tuning = {.threads = 1})
      : SingleTensor(c.make(), initial, tuning) {}
  SingleTensor(const Method& method, const std::vector<Real>& initial, Tuning tuning = {.threads = 1})
      : optimizer(method, Device::cpu(), tuning), parameter(initial), gradient(parameter.count()) {
    id = optimizer.add({.name = "x", .parameter = parameter.span(), .gradient = gradient.span()});
  }

  void step(const std::vector<Real>& g) {
    gradient.fill(g);
    optimizer.step();
  }

  std::span<Real> state(const std::string& name) {
    const Array array = optimizer.state(id, name);
    return {array.template as<Real>(), static_cast<std::size_t>(array.count())};
  }
  std::vector<std::string> states() const { return state_names(optimizer.options()); }

  // Parameter and all states, one after the other.
  std::vector<Real> everything() {
    std::vector<Real> all = parameter.values();
    for (const std::string& name : states()) {
      const std::span<Real> values = state(name);
      all.insert(all.end(), values.begin(), values.end());
    }
    return all;
  }

  Optimizer optimizer;
  Fenced<Real> parameter;
  Fenced<Real> gradient;
  TensorId id{};
};

// The textbook's path of one tensor, with how far rounding may have carried a run away from it.
template <typename Real>
class Path {
 public:
  explicit Path(const std::vector<Real>& initial)
      : parameter(initial.begin(), initial.end()),
        half_ulps(initial.size(), 0.0),
        half_ulps_squared(initial.size(), 0.0),
        update(initial.size(), 0.0),
        largest_update(initial.size(), 0.0) {
    for (auto& slot : state) slot.assign(initial.size(), 0);
    for (auto& slot : largest_state) slot.assign(initial.size(), 0);
  }

  void step(const reference::Textbook<Exact<Real>>& textbook, const std::vector<Real>& gradient, std::int64_t t) {
    for (std::size_t i = 0; i < parameter.size(); ++i) {
      Exact<Real> before[reference::kMostStates];
      for (int slot = 0; slot < reference::kMostStates; ++slot) before[slot] = state[slot][i];
      const auto result = textbook.step(parameter[i], before, gradient[i], t);
      parameter[i] = result.parameter;
      const double half_ulp = 0.5 * ulp<Real>(static_cast<double>(result.parameter));
      half_ulps[i] += half_ulp;
      half_ulps_squared[i] += half_ulp * half_ulp;
      update[i] += static_cast<double>(result.update_magnitude);
      largest_update[i] = std::max(largest_update[i], static_cast<double>(result.update_magnitude));
      for (int slot = 0; slot < reference::kMostStates; ++slot) {
        state[slot][i] = result.state[slot];
        largest_state[slot][i] =
            std::max(largest_state[slot][i], static_cast<double>(std::fabs(result.state_magnitude[slot])));
      }
    }
  }

  // What rounding x once a step can have come to: half an ulp each, or, where those are many, four times what as many
  // independent errors of that size would.
  double rounding(std::size_t i) const { return std::min(half_ulps[i], 4 * std::sqrt(half_ulps_squared[i])); }

  std::vector<Exact<Real>> parameter;
  std::vector<Exact<Real>> state[reference::kMostStates];
  std::vector<double> half_ulps;  // of x, their sum over the steps
  std::vector<double> half_ulps_squared;
  std::vector<double> update;          // the sum of all update magnitudes
  std::vector<double> largest_update;  // the largest of them
  std::vector<double> largest_state[reference::kMostStates];
};

}  // namespace adamant::test
