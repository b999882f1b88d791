/// \file
/// What a step does to gradients before a method sees them: their scale, clipping, and what becomes of a step with a
/// gradient that is not finite. The same for all tensors and groups of an Optimizer, and decided on the device.
#pragma once

#include "adamant/macros.hpp"

// The standard's headers come second: in C++17 the first error is ours.
#include <cstdint>
#include <optional>

namespace adamant {

/// What becomes of a step in which a gradient is an infinity or a NaN.
enum class NonFinite : std::uint8_t {
  /// It goes into its own element's parameter and states and no other. But with `clip_norm` all gradients are
  /// multiplied by one number, as in PyTorch: after a NaN all of them are NaN, after an infinity its own is NaN and the
  /// others are 0.
  propagate,
  skip,  ///< no parameter, state or step count changes; gradients are zeroed where that was asked for
};

/// A loss scale that the Optimizer keeps on the device, with the semantics of PyTorch's GradScaler: in a step with a
/// gradient that is not finite, which is skipped, it is multiplied by `backoff`; after `growth_interval` steps without
/// one by `growth`, unless that would be infinite. The loss is to be multiplied by what Optimizer::loss_scale() points
/// to; the gradients are divided by it.
struct LossScale {
  double initial = 65536.0;             ///< > 0, as a float32, and so is its inverse
  double growth = 2.0;                  ///< > 1
  double backoff = 0.5;                 ///< in (0, 1)
  std::int32_t growth_interval = 2000;  ///< >= 1
};

/// What every step does to gradients. In this order: they are divided by the scale; the global norm is taken; they are
/// multiplied by the sign of `maximize` and what the norm asks for, all of it one factor that is rounded once; they are
/// clipped by value. None of it changes the gradients in memory.
struct StepControl {
  /// The gradients are so many times too large. > 0, finite; its inverse, as a float32, is neither 0 nor infinite,
  /// also where all tensors are float64
  double gradient_scale = 1.0;
  /// The same as a float32 in device memory that is read by every step, as GradScaler has it; then gradient_scale is 1.
  /// A value there that is not positive and finite, or whose inverse is not finite as a float32, makes the step one
  /// with a gradient that is not finite.
  const float* gradient_scale_pointer = nullptr;
  /// A float32 in device memory that somebody else has set to other than zero where a gradient is not finite, as
  /// GradScaler's found_inf. Only with `skip` or a `loss_scale`. When there is none, these look at every gradient; when
  /// there is one, gradients are looked at only where the norm is taken for another reason.
  const float* found_non_finite = nullptr;
  /// What becomes of such a step. With `loss_scale` it is skipped.
  NonFinite non_finite = NonFinite::propagate;
  /// Gradients are multiplied by min(1, clip_norm / (norm + 1e-6)), as torch.nn.utils.clip_grad_norm_ does with the
  /// 2-norm of all gradients of a step together. > 0
  std::optional<double> clip_norm = {};
  /// Then each is clipped to [-clip_value, clip_value], as torch.nn.utils.clip_grad_value_. > 0
  std::optional<double> clip_value = {};
  /// Takes the place of gradient_scale.
  std::optional<LossScale> loss_scale = {};
  /// Whether the global norm is to be taken for StepReport even where nothing else needs it.
  bool measure_norm = false;
  /// What the random bits of stochastic rounding come from. load() takes the file's; a set_control() after it must be
  /// given that one (`optimizer.control().seed`) where the run is to go on with the bits it would have had.
  std::uint64_t seed = 0;
};

/// What became of the steps, as it lies in device memory. A step with no tensor to step, because all are frozen, leaves
/// it as it was.
struct StepReport {
  /// The 2-norm of all gradients of the last step, divided by their scale, before clipping; NaN where it was not taken.
  double gradient_norm;
  std::int64_t skipped_steps;  ///< since the Optimizer was made or a loss scale began or ended
  float loss_scale;            ///< for the next step; 1 without a LossScale
  std::int32_t good_steps;     ///< since the loss scale changed
  std::int32_t skipped;        ///< whether the last step was: 0 or 1
};

}  // namespace adamant
