// The types in which parameter, gradient and state are stored, and the list of combinations that are supported: adding
// one is a line. Storage is an axis of load and store; the arithmetic in between is Real.
#pragma once

#include <cstdint>
#include <type_traits>

#include "adamant/rule.hpp"
#include "adamant/types.hpp"
#include "kernels/narrow.hpp"

namespace adamant::kernels {

// --- What is kept beside a parameter of 16 bits: `kept` is an array of Kept, as long as the parameter

// Nothing: the parameter is the number.
struct NoMaster {
  static constexpr Master kMaster = Master::none;
  static constexpr bool kKeeps = false;
  static constexpr bool kReadsParameter = true;
  static constexpr bool kIsRandom = false;
  using Kept = std::uint16_t;  // of none

  template <typename Real, typename Parameter>
  ADAMANT_HOST_DEVICE static Real full(Parameter parameter, Kept /*kept*/) {
    return widened<Real>(parameter);
  }
  template <typename Real, typename Parameter>
  ADAMANT_HOST_DEVICE static void split(Real x, std::uint32_t /*random*/, Parameter& parameter, Kept& /*kept*/) {
    parameter = Narrow<Parameter>::of(x);
  }
};

// The number itself; the parameter is its rounding to nearest even, only written.
struct FloatMaster {
  static constexpr Master kMaster = Master::float32;
  static constexpr bool kKeeps = true;
  static constexpr bool kReadsParameter = false;
  static constexpr bool kIsRandom = false;
  using Kept = float;

  template <typename Real, typename Parameter>
  ADAMANT_HOST_DEVICE static Real full(Parameter /*parameter*/, Kept kept) {
    return kept;
  }
  template <typename Real, typename Parameter>
  ADAMANT_HOST_DEVICE static void split(Real x, std::uint32_t /*random*/, Parameter& parameter, Kept& kept) {
    kept = x;
    parameter = Narrow<Parameter>::of(x);
  }
};

// The lower half of a float32's bits, beside the upper half rounded to nearest, ties away from zero: with ties to even
// two numbers would have the same two halves. A lower half of 2^15 or more says that the upper was rounded up.
struct RemainderMaster {
  static constexpr Master kMaster = Master::remainder;
  static constexpr bool kKeeps = true;
  static constexpr bool kReadsParameter = true;
  static constexpr bool kIsRandom = false;
  using Kept = std::uint16_t;

  template <typename Real>
  ADAMANT_HOST_DEVICE static Real full(bfloat16 parameter, Kept kept) {
    const std::uint32_t upper = static_cast<std::uint32_t>(parameter.bits) - (static_cast<std::uint32_t>(kept) >> 15);
    return from_bits(upper << 16 | kept);
  }
  template <typename Real>
  ADAMANT_HOST_DEVICE static void split(Real x, std::uint32_t /*random*/, bfloat16& parameter, Kept& kept) {
    const std::uint32_t bits = bits_of(x);
    parameter = {upper_half(bits + 0x8000U)};
    kept = static_cast<Kept>(bits & 0xFFFFU);
  }
};

// Nothing: the parameter, and states of 16 bits, are rounded up or down at random.
struct StochasticRounding {
  static constexpr Master kMaster = Master::stochastic;
  static constexpr bool kKeeps = false;
  static constexpr bool kReadsParameter = true;
  static constexpr bool kIsRandom = true;
  using Kept = std::uint16_t;  // of none

  template <typename Real>
  ADAMANT_HOST_DEVICE static Real full(bfloat16 parameter, Kept /*kept*/) {
    return widened<Real>(parameter);
  }
  template <typename Real>
  ADAMANT_HOST_DEVICE static void split(Real x, std::uint32_t random, bfloat16& parameter, Kept& /*kept*/) {
    parameter = rounded_at_random(x, random);
  }
};

// --- Combinations

template <typename ParameterType, typename GradientType, typename StateType, typename RealType,
          typename MasterType = NoMaster>
struct Storage {
  using Parameter = ParameterType;
  using Gradient = GradientType;
  using State = StateType;
  using Real = RealType;
  using Master = MasterType;
  using Kept = typename Master::Kept;
  // Whether states are rounded at random too: they move by less than their own ulp as well.
  static constexpr bool kRandomStates = Master::kIsRandom && std::is_same_v<State, bfloat16>;

  ADAMANT_HOST_DEVICE static State narrowed_state(Real x, std::uint32_t random) {
    if constexpr (kRandomStates) {
      return rounded_at_random(x, random);
    } else {
      return Narrow<State>::of(x);
    }
  }
};

using Storages = TypeList<
    Storage<float, float, float, float>,      //
    Storage<double, double, double, double>,  //
    Storage<float, bfloat16, float, float>,   //
    Storage<float, float16, float, float>,    //
    Storage<float, float, bfloat16, float>,   //
    Storage<bfloat16, bfloat16, float, float, FloatMaster>, Storage<bfloat16, float, float, float, FloatMaster>,
    Storage<float16, float16, float, float, FloatMaster>, Storage<float16, float, float, float, FloatMaster>,
    Storage<bfloat16, bfloat16, float, float, RemainderMaster>, Storage<bfloat16, float, float, float, RemainderMaster>,
    Storage<bfloat16, bfloat16, bfloat16, float, RemainderMaster>,
    Storage<bfloat16, float, bfloat16, float, RemainderMaster>,
    Storage<bfloat16, bfloat16, float, float, StochasticRounding>,
    Storage<bfloat16, bfloat16, bfloat16, float, StochasticRounding>>;

// The types that gradients may have, each with a norm kernel.
using GradientTypes = TypeList<float, double, bfloat16, float16>;

}  // namespace adamant::kernels
