// Measures candidate orders of floating point operations for the update of every method, one step against exact
// arithmetic and whole traces against PyTorch's float32 run, and prints the tables of docs/numerics.md (which explains
// the columns). The rules of the library themselves are not here: this program shares no code with them.
//
// usage: adamant_numerics_study [GOLDEN_FOLDER]

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

#include "host/safetensors.hpp"

namespace {

namespace st = adamant::safetensors;
using Json = nlohmann::json;

constexpr double kUnitRoundoff = 0x1p-24;

using Exact = long double;

enum class Method { kGradientDescent, kMomentum, kRmsProp, kAdam, kAdamW };

// One set of options for all methods; `beta` is Momentum's beta, RMSProp's gamma and Adam's beta_1.
struct Options {
  double rate = 1e-3;
  double beta = 0.9;
  double beta2 = 0.999;
  double epsilon = 1e-8;
  double weight_decay = 0;
  double dampening = 0;
  double buffer_beta = 0;  // RMSProp's momentum
  bool epsilon_inside = false;
  bool nesterov = false;
  bool maximize = false;
  bool centered = false;
  bool amsgrad = false;
};

// first: v, Adam's m, RMSProp's mean gradient. second: s. third: largest s, RMSProp's buffer.
template <class Real>
struct Element {
  Real x = 0;
  Real first = 0;
  Real second = 0;
  Real third = 0;
};

// The textbook, in any precision.

// What one step yields, and the same sums taken over absolute values, which bound its error.
template <class Real>
struct ExactStep {
  Element<Real> after;
  Element<Real> magnitude;  // x: of the update, weight decay part of it
};

template <class Real>
ExactStep<Real> exact_momentum(const Options& o, int64_t t, const Element<Real>& e, Real g, Real size) {
  const Real beta = t == 1 ? 0 : o.beta;
  const Real gain = t == 1 ? 1 : 1 - Real(o.dampening);
  ExactStep<Real> r;
  r.after.first = beta * e.first + gain * g;
  r.magnitude.first = beta * std::abs(e.first) + gain * size;
  const Real direction = o.nesterov ? g + Real(o.beta) * r.after.first : r.after.first;
  const Real reach = o.nesterov ? size + Real(o.beta) * r.magnitude.first : r.magnitude.first;
  r.after.x = e.x - Real(o.rate) * direction;
  r.magnitude.x = Real(o.rate) * reach;
  return r;
}

template <class Real>
ExactStep<Real> exact_rmsprop(const Options& o, const Element<Real>& e, Real g, Real size) {
  const Real gamma = o.beta;
  ExactStep<Real> r;
  r.after.second = gamma * e.second + (1 - gamma) * g * g;
  r.magnitude.second = gamma * e.second + (1 - gamma) * size * size;
  Real variance = r.after.second;
  if (o.centered) {
    r.after.first = gamma * e.first + (1 - gamma) * g;
    r.magnitude.first = gamma * std::abs(e.first) + (1 - gamma) * size;
    variance = std::max(variance - r.after.first * r.after.first, Real(0));
  }
  const Real epsilon = o.epsilon;
  const Real root = o.epsilon_inside ? std::sqrt(variance + epsilon) : std::sqrt(variance) + epsilon;
  r.after.third = Real(o.buffer_beta) * e.third + g / root;
  r.magnitude.third = Real(o.buffer_beta) * std::abs(e.third) + size / root;
  r.after.x = e.x - Real(o.rate) * r.after.third;
  r.magnitude.x = Real(o.rate) * r.magnitude.third;
  return r;
}

template <class Real>
ExactStep<Real> exact_adam(Method method, const Options& o, int64_t t, const Element<Real>& e, Real g, Real size) {
  const Real b1 = o.beta, b2 = o.beta2;
  ExactStep<Real> r;
  r.after.first = b1 * e.first + (1 - b1) * g;
  r.magnitude.first = b1 * std::abs(e.first) + (1 - b1) * size;
  r.after.second = b2 * e.second + (1 - b2) * g * g;
  r.magnitude.second = b2 * e.second + (1 - b2) * size * size;
  r.after.third = std::max(e.third, r.after.second);
  r.magnitude.third = std::max(e.third, r.magnitude.second);
  const Real correction1 = 1 - std::pow(b1, Real(t)), correction2 = 1 - std::pow(b2, Real(t));
  const Real square = o.amsgrad ? r.after.third : r.after.second;
  const Real scale = Real(o.rate) / correction1 / (std::sqrt(square / correction2) + Real(o.epsilon));
  const Real decay = method == Method::kAdamW ? Real(o.rate) * Real(o.weight_decay) * e.x : 0;
  r.after.x = e.x - (decay + scale * r.after.first);
  r.magnitude.x = std::abs(decay) + scale * r.magnitude.first;
  return r;
}

template <class Real>
ExactStep<Real> exact_step(Method method, const Options& o, int64_t t, const Element<Real>& e, Real gradient) {
  const Real decay = method == Method::kAdamW ? Real(0) : Real(o.weight_decay) * e.x;
  const Real g = (o.maximize ? -gradient : gradient) + decay;
  const Real size = std::abs(gradient) + std::abs(decay);
  switch (method) {
    case Method::kGradientDescent: return {{.x = e.x - Real(o.rate) * g}, {.x = Real(o.rate) * size}};
    case Method::kMomentum: return exact_momentum(o, t, e, g, size);
    case Method::kRmsProp: return exact_rmsprop(o, e, g, size);
    default: return exact_adam(method, o, t, e, g, size);
  }
}

// What PyTorch's float32 optimizers do.

// PyTorch's vectorised add and addcmul are fused on the processors its figures come from; addcdiv
// is not. The golden traces confirm this emulation bit for bit.
float add(float a, float alpha, float b) { return std::fma(alpha, b, a); }
float addcmul(float a, float value, float b, float c) { return std::fma(value * b, c, a); }
float addcdiv(float a, float value, float b, float c) { return a + value * b / c; }

Element<float> pytorch_adam(Method method, const Options& o, int64_t t, Element<float> e, float g) {
  if (method == Method::kAdamW) e.x *= float(1 - o.rate * o.weight_decay);
  e.first = add(e.first * float(o.beta), float(1 - o.beta), g);
  e.second = addcmul(e.second * float(o.beta2), float(1 - o.beta2), g, g);
  e.third = std::max(e.third, e.second);
  const double step = o.rate / (1 - std::pow(o.beta, double(t)));
  const double root = std::sqrt(1 - std::pow(o.beta2, double(t)));
  const float square = o.amsgrad ? e.third : e.second;
  const float denominator = std::sqrt(square) / float(root) + float(o.epsilon);
  e.x = addcdiv(e.x, float(-step), e.first, denominator);
  return e;
}

Element<float> pytorch_rmsprop(const Options& o, Element<float> e, float g) {
  e.second = addcmul(e.second * float(o.beta), float(1 - o.beta), g, g);
  float variance = e.second;
  if (o.centered) {
    e.first = add(e.first * float(o.beta), float(1 - o.beta), g);
    variance = addcmul(e.second, -1.0f, e.first, e.first);
  }
  // PyTorch has no epsilon inside the root: the nearest it could write.
  const float epsilon = float(o.epsilon);
  const float root = o.epsilon_inside ? std::sqrt(variance + epsilon) : std::sqrt(variance) + epsilon;
  if (o.buffer_beta > 0) {
    e.third = addcdiv(e.third * float(o.buffer_beta), 1.0f, g, root);
    e.x = add(e.x, float(-o.rate), e.third);
  } else {
    e.x = addcdiv(e.x, float(-o.rate), g, root);
  }
  return e;
}

Element<float> pytorch_step(Method method, const Options& o, int64_t t, Element<float> e, float g) {
  if (o.maximize) g = -g;
  if (method != Method::kAdamW && o.weight_decay != 0) g = add(g, float(o.weight_decay), e.x);
  switch (method) {
    case Method::kGradientDescent: e.x = add(e.x, float(-o.rate), g); return e;
    case Method::kMomentum: {
      e.first = t == 1 ? g : add(e.first * float(o.beta), float(1 - o.dampening), g);
      const float direction = o.nesterov ? add(g, float(o.beta), e.first) : e.first;
      e.x = add(e.x, float(-o.rate), direction);
      return e;
    }
    case Method::kRmsProp: return pytorch_rmsprop(o, e, g);
    default: return pytorch_adam(method, o, t, e, g);
  }
}

// The candidates.

// How `b old + w value` is computed, w = 1 - b for an average. k is 0 or 1, the nearer to b, and
// l = b - k: k old is exact and l is small where b is near 1, so rounding l costs next to nothing.
enum class Average {
  kTwoProducts,      // b old + w value
  kTwoProductsLeft,  // b old + (w g) g, squares only
  kLerp,             // old + w (value - old)
  kTwoSidedLerp,     // the same from the nearer end: value + b (old - value) for b < 1/2
  kSplitBeta,        // b_hi old + (b_lo old + w value)
  kKeepFirst,        // (k old + l old) + w value
  kKeepLast,         // k old + (l old + w value)
  kSplitWeight,      // k old + ((l old + w_lo value) + w_hi value)
};

enum class Quotient {
  kTextbook,       // rate (c1 m) / (sqrt(c2 s) + eps)
  kPyTorch,        // (rate / bc1) m / (sqrt(s) / sqrt(bc2) + eps)
  kRateFirst,      // (step m) / (sqrt(s) + eps')
  kQuotientFirst,  // step (m / (sqrt(s) + eps'))
  kDenominator,    // m / (a sqrt(s) + b)
  kSplitRate,      // step_hi q + step_lo q, q = m / (sqrt(s) + eps')
};

enum class Decay { kInUpdate, kFactor, kSubtractTwice };
enum class Variance { kDifference, kRoots };

struct Order {
  const char* name;
  Average first = Average::kTwoSidedLerp;
  Average second = Average::kTwoSidedLerp;
  Quotient quotient = Quotient::kQuotientFirst;
  Decay decay = Decay::kInUpdate;
  Variance variance = Variance::kDifference;
  bool fold_decay = false;  // (w g + (w lambda) x) instead of w (g + lambda x)
  bool pytorch = false;
  bool ideal = false;  // exact arithmetic, the results rounded once: what no order can better
};

// A double as the sum of two floats.
struct Split {
  float high;
  float low;
  explicit Split(double value = 0) : high(float(value)), low(float(value - double(float(value)))) {}
};

struct AverageScalars {
  Split beta;
  Split weight;
  float keep;
  float change;
  bool old_is_nearer;
  AverageScalars(double b, double w)
      : beta(b),
        weight(w),
        keep(b > 0.5 ? 1.0f : 0.0f),
        change(float(b - (b > 0.5 ? 1.0 : 0.0))),
        old_is_nearer(b >= 0.5) {}
};

// Everything that depends on options and step count alone: computed in double, rounded once.
struct Scalars {
  AverageScalars first;
  AverageScalars second;
  AverageScalars buffer;
  Split rate;
  Split step;
  float epsilon_inside;
  float epsilon_outside;
  float folded_epsilon;
  float correction1;
  float correction2;
  float correction2_root;
  float pytorch_step;
  float denominator_scale;
  float denominator_epsilon;
  float beta;
  float weight_decay;
  float folded_decay;
  float rate_decay;
  float decay_factor;
  float sign;
};

Scalars at_step(Method method, const Options& o, int64_t t) {
  const bool momentum = method == Method::kMomentum;
  const double b = momentum && t == 1 ? 0 : o.beta;
  const double w = !momentum ? 1 - o.beta : t == 1 ? 1 : 1 - o.dampening;
  const double b2 = method == Method::kRmsProp ? o.beta : o.beta2;
  const double bc1 = 1 - std::pow(o.beta, double(t)), bc2 = 1 - std::pow(o.beta2, double(t));
  const double step = o.rate * std::sqrt(bc2) / bc1;
  const bool adam = method == Method::kAdam || method == Method::kAdamW;
  const bool inside = method == Method::kRmsProp && o.epsilon_inside;
  const double lambda = method == Method::kAdamW ? 0 : o.weight_decay;
  return {
      .first = {b, w},
      .second = {b2, 1 - b2},
      .buffer = {o.buffer_beta, 1},
      .rate = Split(o.rate),
      .step = Split(adam ? step : o.rate),
      .epsilon_inside = inside ? float(o.epsilon) : 0.0f,
      .epsilon_outside = inside ? 0.0f : float(o.epsilon),
      .folded_epsilon = float(o.epsilon * std::sqrt(bc2)),
      .correction1 = float(1 / bc1),
      .correction2 = float(1 / bc2),
      .correction2_root = float(std::sqrt(bc2)),
      .pytorch_step = float(o.rate / bc1),
      .denominator_scale = float(adam ? 1 / step : 1 / o.rate),
      .denominator_epsilon = float(inside ? 0
                                   : adam ? o.epsilon * bc1 / o.rate
                                          : o.epsilon / o.rate),
      .beta = float(o.beta),
      .weight_decay = float(lambda),
      .folded_decay = float(w * lambda),
      .rate_decay = float(o.rate * o.weight_decay),
      .decay_factor = float(1 - o.rate * o.weight_decay),
      .sign = o.maximize ? -1.0f : 1.0f,
  };
}

float average(Average order, const AverageScalars& c, float old, float value) {
  const float w = c.weight.high;
  switch (order) {
    case Average::kLerp: return old + w * (value - old);
    case Average::kTwoSidedLerp: return c.old_is_nearer ? old + w * (value - old) : value + c.beta.high * (old - value);
    case Average::kSplitBeta: return c.beta.high * old + (c.beta.low * old + w * value);
    case Average::kKeepFirst: return (c.keep * old + c.change * old) + w * value;
    case Average::kKeepLast: return c.keep * old + (c.change * old + w * value);
    case Average::kSplitWeight: return c.keep * old + ((c.change * old + c.weight.low * value) + w * value);
    default: return c.beta.high * old + w * value;
  }
}

float average_square(Average order, const AverageScalars& c, float old, float g) {
  if (order == Average::kTwoProductsLeft) return c.beta.high * old + (c.weight.high * g) * g;
  return average(order, c, old, g * g);
}

// The rate times numerator / denominator for RMSProp, where nothing is to be bias corrected.
float rated_quotient(Quotient order, const Scalars& c, float numerator, float denominator) {
  const float quotient = numerator / denominator;
  switch (order) {
    case Quotient::kRateFirst: return c.step.high * numerator / denominator;
    case Quotient::kSplitRate: return c.step.high * quotient + c.step.low * quotient;
    default: return c.step.high * quotient;
  }
}

float adam_update(Quotient order, const Scalars& c, float m, float s) {
  switch (order) {
    case Quotient::kTextbook:
      return c.rate.high * (m * c.correction1) / (std::sqrt(s * c.correction2) + c.epsilon_outside);
    case Quotient::kPyTorch: return c.pytorch_step * m / (std::sqrt(s) / c.correction2_root + c.epsilon_outside);
    case Quotient::kDenominator: return m / (std::sqrt(s) * c.denominator_scale + c.denominator_epsilon);
    default: return rated_quotient(order, c, m, std::sqrt(s) + c.folded_epsilon);
  }
}

// A NaN stays a NaN; only rounding can have made the exact value's sign negative.
float clamped(float variance) { return variance < 0 ? 0.0f : variance; }

float centered_variance(Variance order, float s, float a) {
  if (order == Variance::kDifference) return clamped(s - a * a);
  const float root = std::sqrt(s);
  return clamped((root - std::abs(a)) * (root + std::abs(a)));
}

Element<float> rmsprop_step(const Order& order, const Options& o, const Scalars& c, Element<float> e, float g) {
  e.second = average_square(order.second, c.second, e.second, g);
  float variance = e.second;
  if (o.centered) {
    e.first = average(order.first, c.first, e.first, g);
    variance = centered_variance(order.variance, e.second, e.first);
  }
  const float root = std::sqrt(variance + c.epsilon_inside);
  if (o.buffer_beta == 0) {
    e.x -= order.quotient == Quotient::kDenominator ? g / (root * c.denominator_scale + c.denominator_epsilon)
                                                    : rated_quotient(order.quotient, c, g, root + c.epsilon_outside);
    return e;
  }
  const bool lerp = order.first == Average::kLerp || order.first == Average::kTwoSidedLerp;
  // A buffer is no average, so what is a lerp for the averages is two products here.
  const Average buffer = lerp ? Average::kTwoProducts : order.first;
  e.third = average(buffer, c.buffer, e.third, g / (root + c.epsilon_outside));
  e.x -= rated_quotient(order.quotient, c, e.third, 1.0f);
  return e;
}

Element<float> adam_step(const Order& order, const Options& o, const Scalars& c, Element<float> e, float g,
                         bool decoupled) {
  e.first = average(order.first, c.first, e.first, g);
  e.second = average_square(order.second, c.second, e.second, g);
  e.third = e.second > e.third ? e.second : e.third;
  const float update = adam_update(order.quotient, c, e.first, o.amsgrad ? e.third : e.second);
  if (!decoupled) {
    e.x -= update;
  } else if (order.decay == Decay::kInUpdate) {
    e.x -= c.rate_decay * e.x + update;
  } else if (order.decay == Decay::kFactor) {
    e.x = e.x * c.decay_factor - update;
  } else {
    e.x = (e.x - c.rate_decay * e.x) - update;
  }
  return e;
}

Element<float> momentum_step(const Order& order, const Options& o, const Scalars& c, Element<float> e, float raw,
                             float g) {
  const float w = c.first.weight.high;
  if (order.fold_decay) {
    const float push = w * raw + c.folded_decay * e.x;
    e.first = (c.first.keep * e.first + c.first.change * e.first) + push;
  } else {
    e.first = average(order.first, c.first, e.first, g);
  }
  e.x -= rated_quotient(order.quotient, c, o.nesterov ? g + c.beta * e.first : e.first, 1.0f);
  return e;
}

Element<float> ideal_step(Method method, const Options& o, int64_t t, const Element<float>& e, float gradient) {
  const Element<Exact> before{e.x, e.first, e.second, e.third};
  const Element<Exact> after = exact_step<Exact>(method, o, t, before, Exact(gradient)).after;
  return {float(after.x), float(after.first), float(after.second), float(after.third)};
}

Element<float> step_in_order(const Order& order, Method method, const Options& o, int64_t t, const Scalars& c,
                             Element<float> e, float gradient) {
  if (order.pytorch) return pytorch_step(method, o, t, e, gradient);
  if (order.ideal) return ideal_step(method, o, t, e, gradient);
  const float raw = c.sign * gradient;
  const float g = raw + c.weight_decay * e.x;
  switch (method) {
    case Method::kGradientDescent: e.x -= rated_quotient(order.quotient, c, g, 1.0f); return e;
    case Method::kMomentum: return momentum_step(order, o, c, e, raw, g);
    case Method::kRmsProp: return rmsprop_step(order, o, c, e, g);
    default: return adam_step(order, o, c, e, g, method == Method::kAdamW);
  }
}

// One step against exact arithmetic.

double ulp(double value) {
  int exponent;
  std::frexp(std::abs(value), &exponent);
  return std::ldexp(1.0, std::max(exponent, -125) - 24);
}

struct Input {
  Options options;
  int64_t t = 1;
  Element<float> before;
  float gradient = 0;
};

struct Errors {
  double update = 0;               // beyond half an ulp of x', in units of 2^-24 of the update's magnitude
  std::array<double, 3> states{};  // in units of 2^-24 of the state's magnitude
  double ulps = 0;                 // of x', in its own ulps
};

double relative(Exact error, Exact magnitude) {
  return magnitude > 0 ? double(std::abs(error) / magnitude) / kUnitRoundoff : 0;
}

Errors errors_of(const Order& order, Method method, const Input& in) {
  const Element<Exact> before{in.before.x, in.before.first, in.before.second, in.before.third};
  const ExactStep<Exact> exact = exact_step<Exact>(method, in.options, in.t, before, Exact(in.gradient));
  const Scalars scalars = at_step(method, in.options, in.t);
  const Element<float> got = step_in_order(order, method, in.options, in.t, scalars, in.before, in.gradient);
  Errors r;
  const Exact x_error = Exact(got.x) - exact.after.x;
  const Exact beyond = std::abs(x_error) - Exact(ulp(double(exact.after.x))) / 2;
  r.update = beyond > 0 ? relative(beyond, exact.magnitude.x) : 0;
  r.ulps = double(std::abs(x_error)) / ulp(double(exact.after.x));
  const bool buffered = method == Method::kRmsProp && in.options.buffer_beta > 0;
  const bool first_used = method != Method::kRmsProp || in.options.centered;
  const bool second_used = method != Method::kMomentum && method != Method::kGradientDescent;
  if (first_used) r.states[0] = relative(got.first - exact.after.first, exact.magnitude.first);
  if (second_used) r.states[1] = relative(got.second - exact.after.second, exact.magnitude.second);
  if (buffered) r.states[2] = relative(got.third - exact.after.third, exact.magnitude.third);
  return r;
}

class Random {
 public:
  explicit Random(uint64_t seed) : engine_(seed) {}
  double uniform(double low = 0, double high = 1) { return low + (high - low) * double(engine_() >> 11) * 0x1p-53; }
  int below(int bound) { return int(engine_() % uint64_t(bound)); }
  bool chance(double p) { return uniform() < p; }
  double power(double low, double high) { return std::exp2(uniform(low, high)); }
  double sign() { return chance(0.5) ? -1.0 : 1.0; }
  double normal() { return std::normal_distribution<double>()(engine_); }

 private:
  std::mt19937_64 engine_;
};

double random_beta(Random& random) {
  constexpr std::array kCommon{0.0, 0.3, 0.5, 0.9, 0.95, 0.99, 0.999, 0.9999, 0.99999};
  const int kind = random.below(3);
  if (kind == 0) return kCommon[size_t(random.below(int(kCommon.size())))];
  return kind == 1 ? random.uniform(0, 0.99999) : 1 - random.power(-16.5, -0.01);
}

Options random_options(Random& random, bool weight_decay) {
  Options o;
  o.rate = random.power(-17, 0);
  o.beta = random_beta(random);
  o.beta2 = random_beta(random);
  o.epsilon = random.power(-34, -7);
  o.weight_decay = weight_decay ? random.power(-10, 0) : 0;
  o.dampening = random.chance(0.5) ? 0 : random.uniform();
  o.buffer_beta = random.chance(0.5) ? 0 : random_beta(random);
  o.epsilon_inside = random.chance(0.5);
  o.nesterov = random.chance(0.3);
  o.maximize = random.chance(0.3);
  o.centered = random.chance(0.3);
  o.amsgrad = random.chance(0.2);
  return o;
}

Input random_input(Random& random, bool weight_decay) {
  Input in;
  in.options = random_options(random, weight_decay);
  in.t = 1 + int64_t(random.power(0, 14)) - random.below(2);
  in.t = std::max<int64_t>(in.t, 1);
  const double scale = random.power(-20, 10);
  in.gradient = float(random.sign() * scale * random.power(-4, 4));
  in.before.second = float(scale * scale * random.power(-12, 4));
  const double root = std::sqrt(double(in.before.second));
  in.before.first = float(random.uniform(-1, 1) * root);
  in.before.third = float(random.sign() * random.power(-4, 4));
  in.before.x = random.chance(0.3) ? 0.0f : float(random.sign() * random.power(-20, 6));
  if (in.options.amsgrad) in.before.third = in.before.second * float(random.power(-2, 2));
  return in;
}

// The promise speaks of states that gradients can have made, of sums that do not cancel (weight
// decay against the gradient, centred RMSProp's variance), and not of over- or underflow.
bool admissible(Method method, const Input& in) {
  const auto ordinary = [](double v) { return v == 0 || (std::abs(v) > 1e-14 && std::abs(v) < 1e9); };
  const Element<float>& e = in.before;
  if (!ordinary(in.gradient) || !ordinary(e.x) || !ordinary(e.first) || !ordinary(e.third)) {
    return false;
  }
  if (e.second < 0 || (e.second > 0 && e.second < 1e-28f)) return false;
  if (method != Method::kMomentum && e.first * e.first > e.second) return false;
  const Options& o = in.options;
  const double raw = o.maximize ? -in.gradient : in.gradient;
  const double decay = method == Method::kAdamW ? 0 : o.weight_decay * double(e.x);
  const double g = raw + decay;
  if (std::abs(g) < 0.5 * (std::abs(raw) + std::abs(decay))) return false;
  if (method != Method::kRmsProp || !o.centered) return true;
  const double a = o.beta * double(e.first) + (1 - o.beta) * g;
  const double s = o.beta * double(e.second) + (1 - o.beta) * g * g;
  return a * a < s / 2;
}

float nudged(Random& random, float value) {
  if (random.chance(0.1)) return value * float(random.power(-3, 3));
  return float(double(value) * (1 + random.normal() * random.power(-24, -1)));
}

double nudged(Random& random, double value) { return value * (1 + random.normal() * random.power(-26, -4)); }

double nudged_beta(Random& random, double beta) { return std::clamp(1 - nudged(random, 1 - beta), 0.0, 0.99999); }

Input nudged(Random& random, Input in) {
  switch (random.below(9)) {
    case 0: in.gradient = nudged(random, in.gradient); break;
    case 1: in.before.x = nudged(random, in.before.x); break;
    case 2: in.before.first = nudged(random, in.before.first); break;
    case 3: in.before.second = nudged(random, in.before.second); break;
    case 4: in.before.third = nudged(random, in.before.third); break;
    case 5: in.options.rate = nudged(random, in.options.rate); break;
    case 6: in.options.beta = nudged_beta(random, in.options.beta); break;
    case 7: in.options.beta2 = nudged_beta(random, in.options.beta2); break;
    default:
      in.options.epsilon = nudged(random, in.options.epsilon);
      in.options.weight_decay = nudged(random, in.options.weight_decay);
  }
  return in;
}

using Objective = std::function<double(const Errors&)>;

// Climbs from random starts by small changes of inputs and options alike.
double worst_found(const Order& order, Method method, bool weight_decay, const Objective& objective) {
  constexpr int kStarts = 50, kClimbs = 500;
  Random random(20240607);
  double worst = 0;
  for (int start = 0; start < kStarts; ++start) {
    Input best = random_input(random, weight_decay);
    if (!admissible(method, best)) continue;
    double score = objective(errors_of(order, method, best));
    for (int climb = 0; climb < kClimbs; ++climb) {
      Input next = nudged(random, best);
      if (random.chance(0.3)) next = nudged(random, next);
      if (!admissible(method, next)) continue;
      const double next_score = objective(errors_of(order, method, next));
      if (next_score >= score) best = next, score = next_score;
    }
    worst = std::max(worst, score);
  }
  return worst;
}

// Each pair: without and with weight decay.
using Pair = std::array<double, 2>;

struct OneStep {
  Pair update{};
  std::array<Pair, 3> states{};
  double mean_ulps = 0, p99_ulps = 0;
};

double quantile(std::vector<double> values, double q) {
  if (values.empty()) return 0;
  const size_t at = size_t(q * double(values.size() - 1));
  std::nth_element(values.begin(), values.begin() + long(at), values.end());
  return values[at];
}

std::vector<size_t> slots_of(Method method) {
  switch (method) {
    case Method::kGradientDescent: return {};
    case Method::kMomentum: return {0};
    case Method::kRmsProp: return {0, 1, 2};
    default: return {0, 1};
  }
}

OneStep measure_one_step(const Order& order, Method method) {
  const Objective update = [](const Errors& e) { return e.update; };
  OneStep r;
  for (size_t decayed = 0; decayed < 2; ++decayed) {
    r.update[decayed] = worst_found(order, method, decayed == 1, update);
    for (size_t slot : slots_of(method)) {
      const Objective state = [slot](const Errors& e) { return e.states[slot]; };
      r.states[slot][decayed] = worst_found(order, method, decayed == 1, state);
    }
  }
  Random random(7);
  std::vector<double> ulps;
  while (ulps.size() < 30000) {
    const Input in = random_input(random, method == Method::kAdamW);
    if (admissible(method, in)) ulps.push_back(errors_of(order, method, in).ulps);
  }
  for (double u : ulps) r.mean_ulps += u / double(ulps.size());
  r.p99_ulps = quantile(ulps, 0.99);
  return r;
}

// Traces.

struct Trace {
  std::vector<float> start;
  std::vector<float> gradients;  // steps x elements
  size_t count() const { return start.size(); }
  size_t steps() const { return gradients.size() / start.size(); }
};

struct TraceCase {
  std::string name;
  Method method;
  Options options{};
  const Trace* trace = nullptr;
  bool golden = false;
  std::vector<double> expected{}, path_max{};
  std::vector<Element<double>> states{};
  std::vector<double> largest_gradient{};
  std::vector<float> yardstick{};
  double ideal_rms = 0;
};

template <class Real, class Step>
std::vector<Element<Real>> run(const Trace& trace, const Step& step) {
  std::vector<Element<Real>> elements(trace.count());
  for (size_t i = 0; i < trace.count(); ++i) elements[i].x = Real(trace.start[i]);
  for (size_t t = 1; t <= trace.steps(); ++t) {
    step(int64_t(t), elements, &trace.gradients[(t - 1) * trace.count()]);
  }
  return elements;
}

std::vector<Element<float>> run_in_order(const Order& order, const TraceCase& c) {
  return run<float>(*c.trace, [&](int64_t t, std::vector<Element<float>>& elements, const float* g) {
    const Scalars scalars = at_step(c.method, c.options, t);
    for (size_t i = 0; i < elements.size(); ++i) {
      elements[i] = step_in_order(order, c.method, c.options, t, scalars, elements[i], g[i]);
    }
  });
}

constexpr Order kPyTorchOrder{.name = "PyTorch's, fused where PyTorch fuses", .pytorch = true};
constexpr Order kIdealOrder{.name = "exact, rounded once", .ideal = true};

// Fills in the float64 run and PyTorch's float32 run.
void complete(TraceCase& c) {
  const size_t count = c.trace->count();
  c.path_max.assign(count, 0);
  c.largest_gradient.assign(count, 0);
  c.states = run<double>(*c.trace, [&](int64_t t, std::vector<Element<double>>& es, const float* g) {
    for (size_t i = 0; i < count; ++i) {
      c.path_max[i] = std::max(c.path_max[i], std::abs(es[i].x));
      const double decay = c.method == Method::kAdamW ? 0 : c.options.weight_decay * es[i].x;
      c.largest_gradient[i] = std::max(c.largest_gradient[i], std::abs(g[i]) + std::abs(decay));
      es[i] = exact_step<double>(c.method, c.options, t, es[i], double(g[i])).after;
      c.path_max[i] = std::max(c.path_max[i], std::abs(es[i].x));
    }
  });
  c.expected.clear();
  c.yardstick.clear();
  for (const auto& e : c.states) c.expected.push_back(e.x);
  for (const auto& e : run_in_order(kPyTorchOrder, c)) c.yardstick.push_back(e.x);
}

struct Distance {
  double rms = 0, p99 = 0;
};

// Elements where PyTorch's own run ended in NaN say nothing and are left out.
template <class Get>
Distance distance(const TraceCase& c, const Get& got) {
  std::vector<double> errors;
  double squares = 0;
  for (size_t i = 0; i < c.expected.size(); ++i) {
    if (!std::isfinite(c.yardstick[i]) || !std::isfinite(c.expected[i])) continue;
    const double error = std::abs(double(got(i)) - c.expected[i]) / ulp(c.path_max[i]);
    errors.push_back(std::isfinite(error) ? error : 1e30);
    squares += errors.back() * errors.back();
  }
  return {std::sqrt(squares / double(std::max<size_t>(errors.size(), 1))), quantile(errors, 0.99)};
}

double worst_state(const TraceCase& c, const std::vector<Element<float>>& got) {
  double worst = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    if (!std::isfinite(c.yardstick[i])) continue;
    const double g = c.largest_gradient[i];
    const auto off = [&](double is, double should, double scale) {
      const double allowed = std::max(std::abs(should), scale);
      if (allowed > 0) worst = std::max(worst, std::abs(is - should) / allowed);
    };
    off(got[i].first, c.states[i].first, g);
    off(got[i].second, c.states[i].second, g * g);
  }
  return worst;
}

struct TraceScore {
  double rms = 0, p99 = 0;  // relative to PyTorch's float32 run; the worst over cases
  double mean_rms = 0;      // geometric mean over cases
  double over_exact = 0;    // RMS relative to exact arithmetic rounded once a step; the worst
  double state = 0;
  std::string worst_case;
};

// Where PyTorch's own run is this many ulps off, rounding is amplified from step to step (weights
// that oscillate around zero, variances that cancel) and the ratio of two errors is chance.
constexpr double kChaotic = 1000;

TraceScore score_traces(const Order& order, Method method, const std::vector<TraceCase>& cases, bool golden) {
  TraceScore r;
  int used = 0;
  for (const TraceCase& c : cases) {
    if (c.method != method || c.golden != golden) continue;
    const auto got = run_in_order(order, c);
    const Distance ours = distance(c, [&](size_t i) { return got[i].x; });
    const Distance theirs = distance(c, [&](size_t i) { return c.yardstick[i]; });
    if (theirs.rms > kChaotic) continue;
    const double rms = ours.rms / theirs.rms, p99 = ours.p99 / theirs.p99;
    r.over_exact = std::max(r.over_exact, ours.rms / c.ideal_rms);
    if (rms > r.rms) r.worst_case = c.name;
    r.rms = std::max(r.rms, rms);
    r.p99 = std::max(r.p99, p99);
    r.mean_rms += std::log(rms);
    r.state = std::max(r.state, worst_state(c, got));
    ++used;
  }
  r.mean_rms = used ? std::exp(r.mean_rms / used) : 0;
  return r;
}
// Traces made here.

// Coordinates of every kind that tends to hurt: constant, noisy, sparse, fading and alternating.
float gradient_at(Random& random, size_t element, double t, double steps, double scale) {
  switch (element % 6) {
    case 0: return float(scale);
    case 1: return float(scale * (1 + 0.1 * random.normal()));
    case 2: return float(random.chance(0.05) ? scale * random.normal() : 0);
    case 3: return float(scale * random.normal() * std::exp(-5 * t / steps));
    case 4: return float(int(t) % 2 ? scale : -0.9 * scale);
    default: return float(scale * random.normal());
  }
}

Trace make_trace(uint64_t seed, size_t count, size_t steps, double low, double high, double start) {
  Random random(seed);
  Trace trace;
  std::vector<double> scales;
  for (size_t i = 0; i < count; ++i) {
    trace.start.push_back(float(i % 25 == 0 ? 0 : start * random.sign() * random.power(-6, 2)));
    scales.push_back(random.power(low, high));
  }
  for (size_t t = 0; t < steps; ++t) {
    for (size_t i = 0; i < count; ++i) {
      trace.gradients.push_back(gradient_at(random, i, double(t), double(steps), scales[i]));
    }
  }
  return trace;
}

struct NamedOptions {
  const char* name;
  Method method;
  Options options;
};

std::vector<NamedOptions> more_options() {
  using enum Method;
  return {
      {"sgd", kGradientDescent, {.rate = 0.01}},
      {"sgd rate 0.3 maximize", kGradientDescent, {.rate = 0.3, .maximize = true}},
      {"sgd decay", kGradientDescent, {.rate = 0.01, .weight_decay = 0.01}},
      {"momentum", kMomentum, {.rate = 0.01}},
      {"momentum dampening", kMomentum, {.rate = 0.01, .beta = 0.99, .dampening = 0.3}},
      {"momentum dampening as an average", kMomentum, {.rate = 0.1, .beta = 0.9, .dampening = 0.9}},
      {"momentum 0.4", kMomentum, {.rate = 0.05, .beta = 0.4}},
      {"momentum 0.999", kMomentum, {.rate = 0.001, .beta = 0.999}},
      {"nesterov decay", kMomentum, {.rate = 0.1, .weight_decay = 5e-4, .nesterov = true}},
      {"nesterov decay maximize",
       kMomentum,
       {.rate = 0.01, .beta = 0.95, .weight_decay = 0.01, .nesterov = true, .maximize = true}},
      {"rmsprop 0.99", kRmsProp, {.rate = 0.01, .beta = 0.99}},
      {"rmsprop 0.999", kRmsProp, {.rate = 1e-3, .beta = 0.999}},
      {"rmsprop inside", kRmsProp, {.rate = 1e-2, .beta = 0.9, .epsilon = 1e-6, .epsilon_inside = true}},
      {"rmsprop 0.3", kRmsProp, {.rate = 1e-2, .beta = 0.3}},
      {"rmsprop decay", kRmsProp, {.rate = 1e-2, .beta = 0.99, .weight_decay = 0.01}},
      {"rmsprop momentum", kRmsProp, {.rate = 1e-3, .beta = 0.99, .buffer_beta = 0.9}},
      {"rmsprop momentum decay", kRmsProp, {.rate = 1e-3, .beta = 0.9, .weight_decay = 0.1, .buffer_beta = 0.99}},
      {"rmsprop centered", kRmsProp, {.rate = 1e-3, .beta = 0.99, .centered = true}},
      {"rmsprop centered epsilon", kRmsProp, {.rate = 1e-2, .beta = 0.9, .epsilon = 1e-3, .centered = true}},
      {"rmsprop centered momentum",
       kRmsProp,
       {.rate = 1e-3, .beta = 0.99, .epsilon = 1e-5, .buffer_beta = 0.9, .centered = true}},
      {"adam", kAdam, {}},
      {"adam 0.5", kAdam, {.rate = 2e-4, .beta = 0.5}},
      {"adam 0 0.99", kAdam, {.beta = 0, .beta2 = 0.99}},
      {"adam 0.3 0.4", kAdam, {.rate = 1e-2, .beta = 0.3, .beta2 = 0.4}},
      {"adam 0.99 0.9999", kAdam, {.beta = 0.99, .beta2 = 0.9999}},
      {"adam 0.9 0.95", kAdam, {.rate = 3e-4, .beta2 = 0.95}},
      {"adam decay", kAdam, {.weight_decay = 0.01}},
      {"adam amsgrad", kAdam, {.rate = 1e-2, .beta2 = 0.99, .amsgrad = true}},
      {"adam epsilon", kAdam, {.epsilon = 1e-3, .maximize = true}},
      {"adamw", kAdamW, {.weight_decay = 0.01}},
      {"adamw 1e-2 0.1", kAdamW, {.rate = 1e-2, .weight_decay = 0.1}},
      {"adamw 0.9 0.95", kAdamW, {.rate = 3e-4, .beta2 = 0.95, .weight_decay = 0.1}},
      {"adamw amsgrad", kAdamW, {.rate = 3e-3, .weight_decay = 0.3, .amsgrad = true}},
  };
}

void add_case(TraceCase c, std::vector<TraceCase>& cases) {
  const auto ideal = run_in_order(kIdealOrder, c);
  c.ideal_rms = distance(c, [&](size_t i) { return ideal[i].x; }).rms;
  cases.push_back(std::move(c));
}

void add_generated(const std::vector<Trace>& traces, std::vector<TraceCase>& cases) {
  for (size_t k = 0; k < traces.size(); ++k) {
    for (const NamedOptions& named : more_options()) {
      TraceCase c{.name = named.name + std::string(", trace ") + std::to_string(k),
                  .method = named.method,
                  .options = named.options,
                  .trace = &traces[k]};
      complete(c);
      add_case(std::move(c), cases);
    }
  }
}

// Golden traces.

Method method_of(const std::string& optimizer, const Json& arguments) {
  if (optimizer == "AdamW") return Method::kAdamW;
  if (optimizer == "Adam") return Method::kAdam;
  if (optimizer == "RMSprop") return Method::kRmsProp;
  return arguments.value("momentum", 0.0) > 0 ? Method::kMomentum : Method::kGradientDescent;
}

// Arguments that are not there have PyTorch's defaults.
Options options_of(Method method, const Json& arguments) {
  Options o;
  o.rate = arguments.value("lr", method == Method::kRmsProp ? 1e-2 : 1e-3);
  o.epsilon = arguments.value("eps", 1e-8);
  o.weight_decay = arguments.value("weight_decay", method == Method::kAdamW ? 1e-2 : 0.0);
  o.dampening = arguments.value("dampening", 0.0);
  o.maximize = arguments.value("maximize", false);
  o.amsgrad = arguments.value("amsgrad", false);
  o.centered = arguments.value("centered", false);
  o.nesterov = arguments.value("nesterov", false);
  if (method == Method::kMomentum) o.beta = arguments.value("momentum", 0.0);
  if (method == Method::kRmsProp) {
    o.beta = arguments.value("alpha", 0.99);
    o.buffer_beta = arguments.value("momentum", 0.0);
  }
  if (arguments.contains("betas")) {
    o.beta = arguments["betas"][0];
    o.beta2 = arguments["betas"][1];
  }
  return o;
}

// Replaces what `complete` made by what the file says and reports where the two differ.
TraceCase read_case(const std::filesystem::path& path, const Trace& trace) {
  const st::File file = st::File::open(path);
  const Json arguments = Json::parse(file.metadata().at("arguments"));
  TraceCase c{
      .name = path.stem().string(), .method = method_of(file.metadata().at("optimizer"), arguments), .trace = &trace};
  c.options = options_of(c.method, arguments);
  c.golden = true;
  complete(c);
  const auto expected = file.read<double>("param");
  const auto yardstick = file.read<float>("param_f32");
  size_t same = 0;
  double off = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    same += yardstick[i] == c.yardstick[i];
    off = std::max(off, std::abs(expected[i] - c.expected[i]) / ulp(c.path_max[i]));
  }
  if (same < expected.size() || off > 1e-3) {
    std::fprintf(stderr, "%s: %zu of %zu float32 results as emulated; float64 within %.1g ulp\n", c.name.c_str(), same,
                 expected.size(), off);
  }
  c.path_max = file.read<double>("param_path_max");
  c.expected = expected;
  c.yardstick = yardstick;
  return c;
}

std::map<std::string, Trace> read_traces(const std::filesystem::path& folder) {
  std::map<std::string, Trace> traces;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    const std::string stem = entry.path().stem().string();
    if (!stem.ends_with(".trace")) continue;
    const st::File file = st::File::open(entry.path());
    traces[stem.substr(0, stem.size() - 6)] = {file.read<float>("param"), file.read<float>("grad")};
  }
  return traces;
}

void add_golden(const std::filesystem::path& folder, const std::map<std::string, Trace>& traces,
                std::vector<TraceCase>& cases) {
  std::vector<std::filesystem::path> paths;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) paths.push_back(entry.path());
  std::sort(paths.begin(), paths.end());
  for (const auto& path : paths) {
    const std::string stem = path.stem().string();
    const auto trace = traces.find(stem.substr(0, stem.find('.')));
    if (path.extension() != ".safetensors" || stem.ends_with(".trace") || trace == traces.end()) {
      continue;
    }
    add_case(read_case(path, trace->second), cases);
  }
}

// Tables.

struct Section {
  const char* title;
  Method method;
  std::vector<Order> orders;  // the chosen one first
};

std::vector<Section> sections() {
  using enum Average;
  using enum Quotient;
  constexpr Order kChosen{.name = "chosen", .first = kSplitWeight, .second = kSplitWeight};
  const auto but = [&](const char* name, auto change) {
    Order order = kChosen;
    order.name = name;
    change(order);
    return order;
  };
  const auto averages = [&](const char* name, Average first, Average second) {
    return but(name, [&](Order& o) { o.first = first, o.second = second; });
  };
  const auto quotient = [&](const char* name, Quotient q) { return but(name, [&](Order& o) { o.quotient = q; }); };
  const auto decay = [&](const char* name, Decay d) { return but(name, [&](Order& o) { o.decay = d; }); };
  const std::vector<Order> moments{
      kChosen,
      averages("b old + w value", kTwoProducts, kTwoProducts),
      averages("b old + w value, (w g) g", kTwoProducts, kTwoProductsLeft),
      averages("old + w (value - old)", kLerp, kLerp),
      averages("two-sided lerp", kTwoSidedLerp, kTwoSidedLerp),
      averages("b_hi old + (b_lo old + w value)", kSplitBeta, kSplitBeta),
      averages("(k old + l old) + w value", kKeepFirst, kKeepFirst),
      averages("k old + (l old + w value)", kKeepLast, kKeepLast),
  };
  const auto with = [&](std::vector<Order> more) {
    std::vector<Order> all = moments;
    all.insert(all.end(), more.begin(), more.end());
    all.push_back(kPyTorchOrder);
    all.push_back(kIdealOrder);
    return all;
  };
  return {
      {"GradientDescent",
       Method::kGradientDescent,
       {kChosen, quotient("rate_hi g + rate_lo g", kSplitRate), kPyTorchOrder, kIdealOrder}},
      {"Momentum",
       Method::kMomentum,
       {kChosen, averages("b v + w g", kTwoProducts, kTwoProducts),
        averages("b_hi v + (b_lo v + w g)", kSplitBeta, kSplitBeta),
        averages("(k v + l v) + w g", kKeepFirst, kKeepFirst),
        but("(k v + l v) + (w g + (w lambda) x)", [](Order& o) { o.fold_decay = true; }),
        averages("k v + (l v + w g)", kKeepLast, kKeepLast), quotient("rate_hi v + rate_lo v", kSplitRate),
        kPyTorchOrder, kIdealOrder}},
      {"RMSProp", Method::kRmsProp,
       with({quotient("(rate g) / d", kRateFirst), quotient("rate_hi q + rate_lo q", kSplitRate),
             quotient("g / (a root + b)", kDenominator),
             but("variance (sqrt(s) - a) (sqrt(s) + a)", [](Order& o) { o.variance = Variance::kRoots; })})},
      {"Adam", Method::kAdam,
       with({quotient("rate (m c1) / (sqrt(s c2) + eps)", kTextbook),
             quotient("(rate / bc1) m / (sqrt(s) / sqrt(bc2) + eps)", kPyTorch), quotient("(step m) / d", kRateFirst),
             quotient("m / (a sqrt(s) + b)", kDenominator), quotient("step_hi q + step_lo q", kSplitRate)})},
      {"AdamW", Method::kAdamW,
       with({decay("x (1 - rate lambda) - update", Decay::kFactor),
             decay("(x - rate lambda x) - update", Decay::kSubtractTwice), quotient("(step m) / d", kRateFirst),
             quotient("step_hi q + step_lo q", kSplitRate)})},
  };
}

std::string pair_text(const Pair& pair) {
  std::array<char, 64> text;
  const char* format = std::max(pair[0], pair[1]) < 1e4 ? "%.2f, %.2f" : "%.1e, %.1e";
  std::snprintf(text.data(), text.size(), format, pair[0], pair[1]);
  return text.data();
}

std::string states_text(Method method, const OneStep& one) {
  std::string text;
  for (size_t slot : slots_of(method)) {
    text += (text.empty() ? "" : "; ") + pair_text(one.states[slot]);
  }
  return text;
}

void print_section(const Section& section, const std::vector<TraceCase>& cases) {
  std::printf("\n## %s\n\n", section.title);
  std::printf(
      "| order | update | states | mean ulp | p99 ulp | golden RMS | golden p99 | more RMS | "
      "more p99 | mean RMS | / exact | state error | worst trace |\n"
      "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|---|\n");
  for (const Order& order : section.orders) {
    const OneStep one = measure_one_step(order, section.method);
    const TraceScore golden = score_traces(order, section.method, cases, true);
    const TraceScore more = score_traces(order, section.method, cases, false);
    std::printf(
        "| %s | %s | %s | %.2f | %.2f | %.3f | %.3f | %.3f | %.3f | %.3f | %.3f | %.1e | "
        "%s |\n",
        order.name, pair_text(one.update).c_str(), states_text(section.method, one).c_str(), one.mean_ulps,
        one.p99_ulps, golden.rms, golden.p99, more.rms, more.p99, more.mean_rms,
        std::max(golden.over_exact, more.over_exact), std::max(golden.state, more.state), more.worst_case.c_str());
    std::fflush(stdout);
  }
}

// What each quotient makes of learning rates and moments at the ends of the range.
void print_extremes() {
  struct Extreme {
    const char* name;
    double rate;
    float m, s;
  };
  constexpr std::array kExtremes{
      Extreme{"rate 0", 0, 0.1f, 0.01f},         Extreme{"rate 0, no gradient yet", 0, 0, 0},
      Extreme{"rate 1e-42", 1e-42, 0.1f, 0.01f}, Extreme{"rate 1e30, m 1e15", 1e30, 1e15f, 1e30f},
      Extreme{"m 1e-37", 1e-3, 1e-37f, 0},       Extreme{"m 1e18", 1e-3, 1e18f, 1e36f},
  };
  constexpr std::array kQuotients{Quotient::kTextbook, Quotient::kPyTorch, Quotient::kRateFirst,
                                  Quotient::kQuotientFirst, Quotient::kDenominator};
  std::printf(
      "\n## Adam's quotient at the ends of the range, t = 1000\n\n"
      "| m, s, rate | exact | textbook | PyTorch's | (step m) / d | step (m / d) | m / (a sqrt(s) "
      "+ "
      "b) |\n|---|--:|--:|--:|--:|--:|--:|\n");
  for (const Extreme& extreme : kExtremes) {
    const Options options{.rate = extreme.rate};
    const Scalars scalars = at_step(Method::kAdam, options, 1000);
    const double bc1 = 1 - std::pow(options.beta, 1000), bc2 = 1 - std::pow(options.beta2, 1000);
    const double root = std::sqrt(double(extreme.s) / bc2) + options.epsilon;
    std::printf("| %s | %.8g ", extreme.name, options.rate * double(extreme.m) / bc1 / root);
    for (Quotient quotient : kQuotients) {
      std::printf("| %.8g ", double(adam_update(quotient, scalars, extreme.m, extreme.s)));
    }
    std::printf("|\n");
  }
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<TraceCase> cases;
  std::map<std::string, Trace> golden;
  if (argc > 1) {
    golden = read_traces(argv[1]);
    add_golden(argv[1], golden, cases);
  }
  const std::vector<Trace> generated{
      make_trace(11, 450, 200, -10, 4, 1.0),
      make_trace(12, 450, 1000, -10, 4, 0.02),
      make_trace(13, 450, 500, -30, -6, 0.1),
  };
  add_generated(generated, cases);
  for (const Section& section : sections()) print_section(section, cases);
  print_extremes();
}
