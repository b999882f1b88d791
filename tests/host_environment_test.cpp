// Promise P9 in one process: the rounding mode, flush-to-zero, traps and exception flags that the host program has set
// change no bit of any result, and are as they were after every call. What its compiler flags may do is in
// fast_math_program/.
#include <gtest/gtest.h>

#include <bit>
#include <cfenv>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <iterator>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include <unistd.h>

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

#include "adamant/adamant.hpp"
#include "tests/control.hpp"
#include "tests/folder.hpp"
#include "tests/inputs.hpp"
#include "tests/methods.hpp"
#include "tests/single_tensor.hpp"

namespace adamant::test {
namespace {

// The control register that flush-to-zero is in; on x86-64 it holds rounding mode, masks and flags of SSE too.
#if defined(__x86_64__)
constexpr std::uint64_t kFlushToZero = 0x8040;  // FTZ and DAZ
constexpr std::uint64_t kMasks = 0x1F80;
std::uint64_t control() { return _mm_getcsr(); }
void set_control(std::uint64_t value) { _mm_setcsr(static_cast<unsigned>(value)); }
std::uint64_t x87_control() {
  std::uint16_t value = 0;
  asm volatile("fnstcw %0" : "=m"(value));
  return value;
}
void set_x87_control(std::uint16_t value) { asm volatile("fldcw %0" : : "m"(value)); }
#elif defined(__aarch64__)
std::uint64_t x87_control() { return 0; }
constexpr std::uint64_t kFlushToZero = std::uint64_t{1} << 24;
std::uint64_t control() {
  std::uint64_t value;
  asm volatile("mrs %0, fpcr" : "=r"(value));
  return value;
}
void set_control(std::uint64_t value) { asm volatile("msr fpcr, %0" : : "r"(value)); }
#endif

// What a caller can see of its floating-point environment.
struct Seen {
  std::uint64_t control_bits = control();
  std::uint64_t x87_bits = x87_control();
  int rounding = std::fegetround();
  int flags = std::fetestexcept(FE_ALL_EXCEPT);
  int traps = fegetexcept();
  friend bool operator==(const Seen&, const Seen&) = default;
  friend void PrintTo(const Seen& seen, std::ostream* out) {
    *out << std::hex << "control " << seen.control_bits << " x87 " << seen.x87_bits << " rounding " << seen.rounding
         << " flags " << seen.flags << " traps " << seen.traps;
  }
};

struct Environment {
  std::string name;
  void (*enter)();
  friend void PrintTo(const Environment& environment, std::ostream* out) { *out << environment.name; }
};

// In force for its lifetime. Nothing of GoogleTest runs meanwhile: it may compute with floating point.
class Entered {
 public:
  explicit Entered(const Environment& environment) {
    std::feholdexcept(&before_);
    environment.enter();
  }
  ~Entered() { std::fesetenv(&before_); }
  Entered(const Entered&) = delete;
  Entered& operator=(const Entered&) = delete;

 private:
  std::fenv_t before_{};
};

void raise_flags() {
#if defined(__x86_64__)
  set_control(control() | 0x3F);
#else
  std::feraiseexcept(FE_ALL_EXCEPT);
#endif
}

void unmask_traps() {
  feenableexcept(FE_ALL_EXCEPT);
#if defined(__x86_64__)
  set_control(control() & ~kMasks);  // the trap for subnormal operands too, which feenableexcept does not know
#endif
}

const std::vector<Environment>& environments() {
  static const std::vector<Environment> all {
    {"untouched", [] {}}, {"rounding_up", [] { std::fesetround(FE_UPWARD); }},
        {"rounding_down", [] { std::fesetround(FE_DOWNWARD); }},
        {"rounding_toward_zero", [] { std::fesetround(FE_TOWARDZERO); }},
        {"flush_to_zero", [] { set_control(control() | kFlushToZero); }}, {"flags_raised", [] { raise_flags(); }},
        {"traps_unmasked", [] { unmask_traps(); }},
#if defined(__x86_64__)
        {"x87_single_precision", [] { set_x87_control(0x007F); }},  // what a program of another age may have asked for
        {"x87_rounding_up_and_traps", [] { set_x87_control(0x0B40); }},
#endif
        {"all_at_once", [] {
           std::fesetround(FE_UPWARD);
           set_control(control() | kFlushToZero);
           unmask_traps();
         }},
  };
  return all;
}

class HostEnvironment : public testing::TestWithParam<Environment> {};

// Eight whole tiles of the smallest size and a part of one: enough for the backend to wake its threads.
constexpr std::int64_t kCount = 8 * kChunk + 37;
constexpr int kThreads = 3;

// Ordinary values, subnormals, and any bits at all: NaN, infinities, huge values.
template <typename Real>
std::vector<Real> mixed_values(std::int64_t count, std::uint64_t seed) {
  constexpr int kMantissa = sizeof(Real) == 4 ? 23 : 52;
  Random random(seed);
  std::vector<Real> values(static_cast<std::size_t>(count));
  for (Real& value : values) {
    switch (random.below(8)) {
      case 0: value = std::bit_cast<Real>(static_cast<Bits<Real>>(random.bits())); break;
      case 1: value = std::bit_cast<Real>(static_cast<Bits<Real>>(random.bits() >> (65 - kMantissa))); break;
      case 2: value = random.spread<Real>(sizeof(Real) == 4 ? -126 : -1022, -60); break;
      default: value = random.spread<Real>(-12, 4); break;
    }
  }
  // Shows the rate itself as the first element of the parameter.
  values[0] = seed % 2 == 0 ? Real{0} : Real{1};
  return values;
}

// Everything that three steps leave behind. The method is made from text, also in the environment.
template <typename Real>
std::vector<Real> run(const Case& c, std::int64_t count, const Tuning& tuning, const Environment& environment) {
  const std::vector<Real> initial = mixed_values<Real>(count, 2);
  const std::vector<std::vector<Real>> gradients{mixed_values<Real>(count, 3), mixed_values<Real>(count, 5),
                                                 mixed_values<Real>(count, 7)};
  const Entered entered(environment);
  SingleTensor<Real> tensor(c, initial, tuning);
  for (const std::vector<Real>& gradient : gradients) tensor.step(gradient);
  return tensor.everything();
}

void expect_default_bits(const TypedCase& c, const Tuning& tuning, const Environment& environment) {
  with_type(c.type, [&]<typename Real>(Real) {
    SCOPED_TRACE(c.method_case.name + " " + std::string(name(c.type)) + " threads " + std::to_string(tuning.threads));
    const std::int64_t count = tuning.threads == 1 ? kChunk + 37 : kCount;
    const auto expected = run<Real>(c.method_case, count, {.threads = 1, .tile = kChunk}, environments().front());
    const auto actual = run<Real>(c.method_case, count, tuning, environment);
    EXPECT_TRUE(same_bits(actual, expected));
  });
}

TEST_P(HostEnvironment, changes_no_bit_of_any_method_with_any_option) {
  for (const TypedCase& c : typed(cases())) expect_default_bits(c, {.threads = 1, .tile = kChunk}, GetParam());
}

TEST_P(HostEnvironment, changes_no_bit_of_any_rule_at_any_simd_level_with_one_or_three_threads) {
  for (const TypedCase& c : typed(one_case_per_rule())) {
    for (const SimdLevel level : simd_levels()) {
      for (const int threads : {1, 3}) {
        SCOPED_TRACE(name(level));
        expect_default_bits(c, {.threads = threads, .tile = kChunk, .simd = level}, GetParam());
      }
    }
  }
}

TEST_P(HostEnvironment, changes_no_bit_of_a_subnormal_per_step_scalar) {
  std::vector<Case> tiny;
  for (const Case& c : one_case_per_rule()) tiny.push_back(c.with({{"learning_rate", "1.2345e-39"}}));
  for (Case& c : std::vector<Case>(tiny)) tiny.push_back(c.with({{"learning_rate", "1.2345e-310"}}));
  for (const TypedCase& c : typed(tiny)) expect_default_bits(c, {.threads = 3, .tile = kChunk}, GetParam());
}

TEST_P(HostEnvironment, changes_no_bit_with_subnormal_options) {
  std::vector<Case> tiny;
  for (const Case& c : one_case_per_rule()) {
    for (const Option& option : options(c.make())) {
      if (option.allowed.find("<=") == std::string::npos || option.name == "momentum") continue;
      tiny.push_back(c.with({{option.name, "1.2345e-39"}}));
      tiny.push_back(c.with({{option.name, "4.9e-324"}}));
    }
  }
  for (const TypedCase& c : typed(tiny)) expect_default_bits(c, {.threads = 1, .tile = kChunk}, GetParam());
}

// A NaN of any payload, quiet or signalling, in a gradient, a parameter or a state: canonical afterwards, in its own
// element, and the neighbours have the bits they would have had.
TEST_P(HostEnvironment, changes_nothing_about_a_nan_of_any_payload) {
  const auto with_nans = []<typename Real>(std::vector<Real> values, std::size_t first) {
    constexpr auto kExponent = static_cast<Bits<Real>>(sizeof(Real) == 4 ? 0x7F800000ULL : 0x7FF0000000000000ULL);
    constexpr auto kSign = static_cast<Bits<Real>>(Bits<Real>{1} << (8 * sizeof(Real) - 1));
    Bits<Real> payload = 1;  // signalling, as most of them
    for (std::size_t i = first; i < values.size(); i += 17) {
      values[i] = std::bit_cast<Real>(static_cast<Bits<Real>>(kExponent | payload | (i % 2 == 0 ? kSign : 0)));
      payload = static_cast<Bits<Real>>((payload * 3 + 1) & (kExponent - 1) & ~kExponent) | 1;
    }
    return values;
  };
  const Environment& environment = GetParam();
  for (const TypedCase& c : typed(one_case_per_rule())) {
    with_type(c.type, [&]<typename Real>(Real) {
      constexpr std::int64_t kElements = 300;
      const auto initial = with_nans(spread_values<Real>(kElements, 1, -3, 1), 3);
      const auto gradient = with_nans(spread_values<Real>(kElements, 2, -3, 1), 8);
      const auto state = with_nans(spread_values<Real>(kElements, 3, -3, 1), 11);
      const auto result = [&](const Environment& in) {
        const Entered entered(in);
        SingleTensor<Real> tensor(c.method_case, initial);
        tensor.optimizer.set_step_count(tensor.id, 4);
        for (const std::string& name : tensor.states())
          std::copy(state.begin(), state.end(), tensor.state(name).begin());
        tensor.step(gradient);
        return tensor.everything();
      };
      const std::vector<Real> actual = result(environment);
      EXPECT_TRUE(same_bits(actual, result(environments().front()))) << c.method_case.name;
      std::int64_t nans = 0;
      for (std::size_t i = 0; i < actual.size(); ++i) {
        const std::size_t element = i % kElements;
        if (actual[i] == actual[i]) continue;
        ++nans;
        EXPECT_EQ(std::bit_cast<Bits<Real>>(actual[i]), kCanonicalNan<Real>) << c.method_case.name << " " << element;
        // A negative second moment has no root: the states here have any sign.
        const bool of_a_root = c.method_case.method != "gradient_descent" && c.method_case.method != "momentum";
        EXPECT_TRUE(element % 17 == 3 || element % 17 == 8 || element % 17 == 11 || of_a_root) << element;
      }
      EXPECT_GT(nans, 0);
    });
  }
}

// What a checkpoint holds, and what of it is read back: digests, hexadecimal options, subnormals and NaNs of any
// payload.
TEST_P(HostEnvironment, changes_no_byte_of_a_checkpoint_and_nothing_that_is_loaded) {
  // Made here: to put paths together, libstdc++ computes in floating point, which may trap.
  const Folder folder;
  const std::filesystem::path one = folder / "one";
  const std::filesystem::path two = folder / "two";
  for (const TypedCase& c : typed(one_case_per_rule())) {
    const Case method_case = c.method_case.with({{"learning_rate", "0.1"}, {"weight_decay", "1.2345e-310"}});
    with_type(c.type, [&]<typename Real>(Real) {
      const std::vector<Real> initial = mixed_values<Real>(kCount, 2);
      const std::vector<Real> gradient = mixed_values<Real>(kCount, 3);
      SingleTensor<Real> ordinary(method_case, initial, {.threads = kThreads, .tile = kChunk});
      ordinary.step(gradient);
      ordinary.optimizer.save(one);
      SingleTensor<Real> other(method_case, std::vector<Real>(initial.size()), {.threads = kThreads, .tile = kChunk});
      std::vector<Real> loaded;
      std::vector<Seen> after;
      Seen before;
      bool failed = false;
      {
        const Entered entered(GetParam());
        before = Seen();
        try {
          ordinary.optimizer.save(two);
          after.emplace_back();
          other.optimizer.load(one);
          after.emplace_back();
          other.optimizer.load(two);
          after.emplace_back();
          other.optimizer.step();
        } catch (const std::exception&) {
          failed = true;
        }
      }
      ASSERT_FALSE(failed) << method_case.name;
      for (const Seen& seen : after) EXPECT_EQ(seen, before);
      EXPECT_TRUE(contents(two) == contents(one)) << method_case.name;
      ordinary.gradient.fill(other.gradient.values());
      ordinary.optimizer.step();
      EXPECT_TRUE(same_bits(other.everything(), ordinary.everything())) << method_case.name;
      EXPECT_EQ(options(other.optimizer.options()).front().value, "0.1");
    });
  }
}

// Float32 masters that are made of parameters of 16 bits, and what load() makes of numbers of another type.
TEST_P(HostEnvironment, changes_no_bit_of_a_master_that_is_made_nor_of_a_type_that_is_changed) {
  const Folder folder;
  const std::filesystem::path file = folder / "float32";
  constexpr std::int64_t kHalves = std::int64_t{1} << 16;  // every float16
  std::vector<float> values = mixed_values<float>(kHalves, 2);
  const std::vector<float> gradient(kHalves);
  Optimizer source{GradientDescent{}};
  source.add({.name = "x", .parameter = {values.data(), kHalves}, .gradient = {gradient.data(), kHalves}});
  source.save(file);

  struct Made {
    std::vector<float> masters;
    std::vector<std::uint16_t> narrowed;  // to float16, and then to bfloat16
    std::vector<std::uint64_t> widened;
  };
  const auto made = [&](const Environment& environment) {
    std::vector<float16> halves(kHalves);
    for (std::size_t i = 0; i < halves.size(); ++i) halves[i].bits = static_cast<std::uint16_t>(i);
    std::vector<double> doubles(kHalves);
    const std::vector<double> gradient_of_doubles(kHalves);
    Optimizer of_halves{GradientDescent{}};
    const TensorId id = of_halves.add({.name = "x",
                                       .parameter = {halves.data(), kHalves},
                                       .gradient = {gradient.data(), kHalves},
                                       .master = Master::float32});
    std::vector<bfloat16> uppers(kHalves);
    Optimizer of_uppers{GradientDescent{}};
    of_uppers.add({.name = "x",
                   .parameter = {uppers.data(), kHalves},
                   .gradient = {gradient.data(), kHalves},
                   .master = Master::float32});
    Optimizer of_doubles{GradientDescent{}};
    of_doubles.add(
        {.name = "x", .parameter = {doubles.data(), kHalves}, .gradient = {gradient_of_doubles.data(), kHalves}});
    Made result;
    const LoadOptions allowed{.change_types = {"x"}};
    {
      const Entered entered(environment);
      of_halves.prepare();
      const auto* const masters = static_cast<const float*>(of_halves.state(id, "master").data());
      result.masters.assign(masters, masters + kHalves);
      of_halves.load(file, allowed);
      of_uppers.load(file, allowed);
      of_doubles.load(file, allowed);
    }
    for (const float16 half : halves) result.narrowed.push_back(half.bits);
    for (const bfloat16 upper : uppers) result.narrowed.push_back(upper.bits);
    for (const double wide : doubles) result.widened.push_back(std::bit_cast<std::uint64_t>(wide));
    return result;
  };
  const Made expected = made(environments().front());
  const Made actual = made(GetParam());
  EXPECT_TRUE(same_bits(actual.masters, expected.masters));
  EXPECT_EQ(actual.narrowed, expected.narrowed);
  EXPECT_EQ(actual.widened, expected.widened);
  for (std::size_t i = 0; i < kHalves; ++i) {
    if ((i & 0x7FFF) > 0x7C00) {
      ASSERT_EQ(std::bit_cast<std::uint32_t>(actual.masters[i]), kCanonicalNan<float>) << i;
    }
    if (values[i] != values[i]) {
      ASSERT_EQ(actual.narrowed[i], 0x7E00) << i;
      ASSERT_EQ(actual.narrowed[kHalves + i], 0x7FC0) << i;
      ASSERT_EQ(actual.widened[i], kCanonicalNan<double>) << i;
    }
  }
  EXPECT_EQ(std::bit_cast<std::uint32_t>(actual.masters[0]), 0U) << "the sign of a zero";
}

TEST_P(HostEnvironment, changes_no_option_that_is_read_from_text_or_written_as_text) {
  for (const Case& c : cases()) {
    const Method expected = c.make();
    const std::vector<Option> expected_texts = options(expected);
    std::vector<Option> texts;
    {
      const Entered entered(GetParam());
      texts = options(c.make());
    }
    ASSERT_EQ(texts.size(), expected_texts.size());
    for (std::size_t i = 0; i < texts.size(); ++i) {
      EXPECT_EQ(texts[i].value, expected_texts[i].value) << c.name << " " << texts[i].name;
      EXPECT_EQ(texts[i].allowed, expected_texts[i].allowed) << c.name << " " << texts[i].name;
    }
  }
}

TEST_P(HostEnvironment, does_not_decide_which_variant_a_subnormal_momentum_asks_for) {
  RMSProp method;
  method.momentum = std::numeric_limits<double>::denorm_min();
  std::size_t slots = 0;
  bool refused = false;
  Optimizer plain{RMSProp{}};
  {
    const Entered entered(GetParam());
    slots = state_names(method).size();
    try {
      plain.add_group(method);
    } catch (const std::invalid_argument&) {
      refused = true;
    }
  }
  EXPECT_EQ(slots, 2U);
  EXPECT_TRUE(refused) << "an optimizer without momentum buffers";
}

TEST_P(HostEnvironment, is_as_it_was_after_every_call) {
  std::vector<float> parameter(kCount, 1.5F);
  std::vector<float> gradient = mixed_values<float>(kCount, 9);
  std::vector<std::string> calls;
  std::vector<Seen> after;
  Seen before;
  {
    const Entered entered(GetParam());
    before = Seen();
    const auto check = [&](const char* call) {
      calls.emplace_back(call);
      after.push_back(Seen());
    };
    Method method = make_method("rmsprop", {{"learning_rate", "3e-4"}, {"momentum", "0.9"}});
    check("make_method");
    validate(method);
    check("validate");
    set_option(method, "epsilon", "1e-7");
    check("set_option of a method");
    options(method);
    check("options");
    Optimizer optimizer(method, Device::cpu(), {.threads = 3, .tile = kChunk});
    check("constructor");
    optimizer.add_group(method);
    check("add_group");
    const TensorId id =
        optimizer.add({.name = "x", .parameter = {parameter.data(), kCount}, .gradient = {gradient.data(), kCount}});
    check("add");
    optimizer.prepare();
    check("prepare");
    optimizer.step();
    check("step");
    optimizer.set_control({.clip_norm = 1.0, .loss_scale = LossScale{.initial = 1000.1}});
    check("set_control");
    optimizer.set_learning_rate({}, 0.1);
    check("set_learning_rate");
    optimizer.set_option({}, "decay", 0.3);
    check("set_option by number");
    optimizer.set_option({}, "decay", "0.7");
    check("set_option by text");
    optimizer.set_options({}, method);
    check("set_options");
    optimizer.set_step_count(id, std::int64_t{1} << 53);
    check("set_step_count");
    optimizer.step();
    check("second step");
    optimizer.state(id, "square_avg");
    optimizer.state_bytes();
    check("state");
    optimizer.zero_gradients();
    check("zero_gradients");
    optimizer.remove(id);
    check("remove");
  }
  for (std::size_t i = 0; i < after.size(); ++i) EXPECT_EQ(after[i], before) << "after " << calls[i];
}

TEST_P(HostEnvironment, does_not_turn_a_refused_value_into_a_trap) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  std::vector<float> values(3, 1.0F);
  int refused = 0;
  bool unchanged = true;
  {
    const Entered entered(GetParam());
    const Seen before;
    const auto attempt = [&](const std::function<void()>& call) {
      try {
        call();
      } catch (const std::invalid_argument&) {
        ++refused;
      }
      unchanged = unchanged && Seen() == before;
    };
    Optimizer optimizer{Adam{}};
    attempt([&] { optimizer.set_learning_rate({}, nan); });
    attempt([&] { optimizer.set_option({}, "beta1", nan); });
    attempt([&] { optimizer.set_option({}, "amsgrad", nan); });
    attempt([&] { optimizer.set_option({}, "beta1", "nan"); });
    attempt([&] { Optimizer other(Momentum{.learning_rate = nan}); });
    attempt([&] { validate(RMSProp{.momentum = nan}); });
  }
  EXPECT_EQ(refused, 6);
  EXPECT_TRUE(unchanged) << "an exception left the environment changed";
}

// The threads of OpenMP belong to the program, which may have set them too. Here they do all that there is to do: add
// up the norm, update, and narrow parameters that have a master; and the loss scale is a number that has to be rounded.
TEST_P(HostEnvironment, of_every_worker_thread_changes_no_bit_and_is_as_it_was_after_a_step) {
  const StepControl wanted{.clip_norm = 1.0, .loss_scale = LossScale{.initial = 1000.1}};
  const auto model = [] {
    return ControlModel(Adam{}, Device::cpu(),
                        {shape(kCount, DataType::float32),
                         {.count = kCount, .gradient = DataType::bfloat16, .parameter = DataType::bfloat16}},
                        {.threads = kThreads, .tile = kChunk});
  };
  ControlModel ordinary = model();
  ControlModel other = model();
  // Some are subnormal when they are unscaled.
  for (ControlModel* const each : {&ordinary, &other}) each->set_gradients(1, -126, 2);
  ordinary.optimizer.set_control(wanted);
  ordinary.optimizer.step();
  other.optimizer.prepare();

  const Environment environment = GetParam();
  const Seen usual;
  std::vector<std::fenv_t> original(kThreads);
  const auto on_every_worker = [](const auto& body) {
#pragma omp parallel for num_threads(kThreads) schedule(static, 1)
    for (std::size_t i = 0; i < kThreads; ++i) body(i);
  };
  const auto seen = [&] {
    std::vector<Seen> all(kThreads);
    on_every_worker([&](std::size_t i) { all[i] = Seen(); });
    return all;
  };
  on_every_worker([&](std::size_t i) {
    std::feholdexcept(&original[i]);
    environment.enter();
  });
  const std::vector<Seen> before = seen();
  const bool kept_by_runtime = seen() == before && (environment.name == "untouched" || before[1] != usual);
  other.optimizer.set_control(wanted);
  other.optimizer.step();
  const std::vector<Seen> after = seen();
  on_every_worker([&](std::size_t i) { std::fesetenv(&original[i]); });
  EXPECT_EQ(text_of(other.optimizer.report()), text_of(ordinary.optimizer.report()));
  EXPECT_TRUE(other.everything() == ordinary.everything());
  EXPECT_EQ(other.optimizer.report().skipped_steps, 0);
  if (!kept_by_runtime)
    GTEST_SKIP() << "this OpenMP runtime gives its workers the environment of the thread they serve";
  for (std::size_t i = 0; i < kThreads; ++i) EXPECT_EQ(after[i], before[i]) << "thread " << i;
}

INSTANTIATE_TEST_SUITE_P(Every, HostEnvironment, testing::ValuesIn(environments()),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace adamant::test
