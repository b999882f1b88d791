// What a step does to gradients, decided from a few numbers in device memory; one source for every backend.
#pragma once

#include <cstdint>
#include <limits>

#include "adamant/arithmetic.hpp"
#include "adamant/macros.hpp"
#include "adamant/step_control.hpp"
#include "kernels/philox.hpp"

namespace adamant::kernels {

// An adamant::StepControl as it lies in device memory.
struct Control {
  double gradient_scale;
  const float* gradient_scale_pointer;
  const float* found_non_finite;
  double clip_norm;   // infinity: not asked for
  double clip_value;  // infinity: not asked for
  double growth;
  double backoff;
  PhiloxKey seed;
  std::int32_t growth_interval;
  std::int32_t has_loss_scale;
  std::int32_t skips;
  std::int32_t measures;  // whether the norm is taken
};

// Gradients as they are.
constexpr Control plain_control() {
  Control control{};
  control.gradient_scale = 1.0;
  control.clip_norm = std::numeric_limits<double>::infinity();
  control.clip_value = std::numeric_limits<double>::infinity();
  return control;
}

constexpr StepReport first_report() {
  return {.gradient_norm = std::numeric_limits<double>::quiet_NaN(),
          .skipped_steps = 0,
          .loss_scale = 1.0F,
          .good_steps = 0,
          .skipped = 0};
}

// What the norm kernels leave behind.
struct Measured {
  double sum_of_squares;
  std::int32_t non_finite;  // whether a gradient is
};

// What the update of every tensor is told.
struct Decision {
  double gradient_factor;
  double clip_value;
  bool skip;
};

// Constants because device code may call no function of the standard library.
inline constexpr double kLargest = std::numeric_limits<double>::max();
inline constexpr double kNotMeasured = std::numeric_limits<double>::quiet_NaN();
inline constexpr float kLargestScale = std::numeric_limits<float>::max();

// The decision of one step, and what the report becomes when the step is done.
// `measured` is null in a step that took no norm, whatever the control asks for by now.
ADAMANT_HOST_DEVICE Decision decide(const Control& control, const Measured* measured, StepReport& report) {
  constexpr double kTiny = 1e-6;  // as PyTorch, against a norm of zero
  double scale = control.gradient_scale;
  if (control.gradient_scale_pointer != nullptr) scale = *control.gradient_scale_pointer;
  if (control.has_loss_scale != 0) scale = report.loss_scale;
  const double inverse = scale == 1.0 ? 1.0 : 1.0 / scale;  // what is usual is spared a long division

  const bool measures = control.measures != 0 && measured != nullptr;

  // Nor is a scale of use whose inverse is no float32: zero times infinity is no number.
  bool found = !(scale > 0 && scale <= kLargest && inverse <= static_cast<double>(kLargestScale));
  if (control.found_non_finite != nullptr) found = found || *control.found_non_finite != 0.0F;
  if (measures) found = found || measured->non_finite != 0;

  Decision decision{inverse, control.clip_value, found && control.skips != 0};
  report.gradient_norm = kNotMeasured;
  if (measures) {
    const double norm = square_root(measured->sum_of_squares) * inverse;
    report.gradient_norm = norm != norm ? kNotMeasured : norm;  // one NaN, as that of apply()
    if (control.clip_norm <= kLargest) {
      const double coefficient = control.clip_norm / (report.gradient_norm + kTiny);
      // A NaN stays one, as in PyTorch.
      decision.gradient_factor = inverse * (coefficient > 1.0 ? 1.0 : coefficient);
    }
  }
  report.skipped = decision.skip ? 1 : 0;
  report.skipped_steps += report.skipped;
  if (control.has_loss_scale == 0) {
    // A graph with a setter of its own may have turned one on meanwhile.
    report.loss_scale = 1.0F;
    report.good_steps = 0;
  } else if (found) {
    report.loss_scale = static_cast<float>(static_cast<double>(report.loss_scale) * control.backoff);
    report.good_steps = 0;
  } else if (++report.good_steps >= control.growth_interval) {
    const auto grown = static_cast<float>(static_cast<double>(report.loss_scale) * control.growth);
    if (grown <= kLargestScale) report.loss_scale = grown;
    report.good_steps = 0;
  }
  return decision;
}

}  // namespace adamant::kernels
