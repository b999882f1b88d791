#include "host/step_control.hpp"

#include <cstdint>
#include <limits>

#include "host/refusal.hpp"

namespace adamant::host {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kLargestFloat = std::numeric_limits<float>::max();

void check_number(const char* field, double value, double low, double high, const char* allowed) {
  if (value > low && value < high) return;
  refuse_control(field, to_text(value) + "; allowed: " + allowed);
}

// Gradients are multiplied by the inverse of the scale that is kept of what was given: one that is 0 as a float32 would
// lose them without a word, and a step whose scale has an infinite one is no step.
void check_inverse(const char* field, double given, double kept) {
  if (kept > 0 && 1.0 / kept <= kLargestFloat && static_cast<float>(1.0 / kept) > 0.0F) return;
  refuse_control(field, to_text(given) + "; allowed: a number whose inverse is, as a float32, neither 0 nor infinite");
}

}  // namespace

void refuse_control(const char* field, const std::string& what) {
  refuse("control: " + std::string(field) + ": " + what);
}

void check_control(const StepControl& control) {
  check_number("gradient_scale", control.gradient_scale, 0, kInfinity, "greater than 0 and finite");
  check_inverse("gradient_scale", control.gradient_scale, control.gradient_scale);
  if (control.clip_norm) check_number("clip_norm", *control.clip_norm, 0, kInfinity, "greater than 0 and finite");
  if (control.clip_value) check_number("clip_value", *control.clip_value, 0, kInfinity, "greater than 0 and finite");
  if (control.clip_value && static_cast<float>(*control.clip_value) == 0.0F) {
    refuse_control("clip_value", to_text(*control.clip_value) + "; allowed: what is not 0 as a float32, 1e-45 or more");
  }
  if (control.gradient_scale_pointer != nullptr && control.gradient_scale != 1.0) {
    refuse_control("gradient_scale",
                   to_text(control.gradient_scale) + " beside a gradient_scale_pointer; allowed: 1 there");
  }
  const auto check_aligned = [](const char* field, const float* pointer) {
    const auto address = reinterpret_cast<std::uintptr_t>(pointer);
    if (address % alignof(float) != 0)
      refuse_control(field, "address " + address_text(pointer) + " is not aligned to 4 bytes; allowed: multiples of 4");
  };
  check_aligned("gradient_scale_pointer", control.gradient_scale_pointer);
  check_aligned("found_non_finite", control.found_non_finite);
  if (control.non_finite > NonFinite::skip) {
    refuse_control("non_finite", "unknown value " + to_text(static_cast<int>(control.non_finite)) +
                                     "; allowed: propagate (0) and skip (1)");
  }
  if (control.found_non_finite != nullptr && control.non_finite != NonFinite::skip && !control.loss_scale) {
    // Else a flag that was meant to guard the parameters would be read by nobody.
    refuse_control("found_non_finite",
                   "nothing is skipped, so that nobody reads it; allowed: with non_finite = skip or a loss_scale");
  }
  if (!control.loss_scale) return;
  if (control.gradient_scale != 1.0) {
    refuse_control("loss_scale",
                   "gradient_scale is " + to_text(control.gradient_scale) + "; allowed: 1 beside a loss scale");
  }
  if (control.gradient_scale_pointer != nullptr) {
    refuse_control("loss_scale", "there is a gradient_scale_pointer too; allowed: one of them");
  }
  const LossScale& scale = *control.loss_scale;
  check_number("loss_scale.initial", scale.initial, 0, kLargestFloat, "greater than 0, less than the largest float32");
  check_inverse("loss_scale.initial", scale.initial, static_cast<float>(scale.initial));
  check_number("loss_scale.growth", scale.growth, 1, kInfinity, "greater than 1 and finite");
  check_number("loss_scale.backoff", scale.backoff, 0, 1, "between 0 and 1");
  if (scale.growth_interval < 1) {
    refuse_control("loss_scale.growth_interval", to_text(scale.growth_interval) + "; allowed: 1 or more");
  }
}

StepReport first_report(const StepControl& control) {
  StepReport report = kernels::first_report();
  if (control.loss_scale) report.loss_scale = static_cast<float>(control.loss_scale->initial);
  return report;
}

kernels::Control to_kernel_control(const StepControl& control) {
  kernels::Control there = kernels::plain_control();
  there.gradient_scale = control.gradient_scale;
  there.gradient_scale_pointer = control.gradient_scale_pointer;
  there.found_non_finite = control.found_non_finite;
  if (control.clip_norm) there.clip_norm = *control.clip_norm;
  if (control.clip_value) there.clip_value = *control.clip_value;
  there.seed = {{static_cast<std::uint32_t>(control.seed), static_cast<std::uint32_t>(control.seed >> 32)}};
  there.skips = control.non_finite == NonFinite::skip || control.loss_scale ? 1 : 0;
  there.measures =
      control.clip_norm || control.measure_norm || (there.skips != 0 && control.found_non_finite == nullptr) ? 1 : 0;
  if (control.loss_scale) {
    there.has_loss_scale = 1;
    there.growth = control.loss_scale->growth;
    there.backoff = control.loss_scale->backoff;
    there.growth_interval = control.loss_scale->growth_interval;
  }
  return there;
}

}  // namespace adamant::host
