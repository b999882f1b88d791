// Storage types on the CPU: conversions against an oracle of their own for every pattern, masters and remainders
// against the float32 run, one step of every combination against the textbook, and the traps that other libraries fell
// into. That a device gives the same bits is said by the tests of devices; random rounding has a file of its own.
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "host/cpu_update.hpp"
#include "host/method.hpp"
#include "host/scalars.hpp"
#include "kernels/apply.hpp"
#include "kernels/narrow.hpp"
#include "tests/single_tensor.hpp"
#include "tests/storages.hpp"

namespace adamant::test {
namespace {

using kernels::Narrow;
using kernels::RemainderMaster;
using kernels::Storage;

constexpr std::uint32_t kInfinityBits = 0x7F800000;

// --- Conversions

// As an update narrows.
template <typename T>
T narrowed(float x) {
  return Narrow<T>::of(kernels::canonical(x));
}
bfloat16 split(float x, std::uint16_t& remainder) {
  bfloat16 parameter{};
  RemainderMaster::split(kernels::canonical(x), 0, parameter, remainder);
  return parameter;
}

template <typename T>
void expect_every_pattern_to_come_back() {
  for (std::uint32_t bits = 0; bits < 65536; ++bits) {
    const T narrow{static_cast<std::uint16_t>(bits)};
    const auto wide = kernels::widened<float>(narrow);
    if ((bits & 0x7FFF) > Format<T>::kInfinity) {
      ASSERT_TRUE(wide != wide) << std::hex << bits;
      ASSERT_EQ(narrowed<T>(wide).bits, Format<T>::kNan) << std::hex << bits;
      continue;
    }
    ASSERT_EQ(static_cast<double>(wide), value_of(narrow)) << std::hex << bits;
    ASSERT_EQ(std::signbit(wide), bits >> 15 != 0) << std::hex << bits;
    ASSERT_EQ(narrowed<T>(wide).bits, bits) << std::hex << bits;
  }
}

TEST(Conversions, all_65536_patterns_stand_for_their_number_and_come_back) {
  expect_every_pattern_to_come_back<bfloat16>();
  expect_every_pattern_to_come_back<float16>();
}

// Every `stride`th float32, walked upwards beside the patterns of T: half way to the next one it is that one's turn.
template <typename T>
void expect_nearest(std::uint32_t stride) {
  std::uint16_t pattern = 0;
  const auto halfway = [](std::uint16_t from) {
    return (magnitude_of<T>(from) + magnitude_of<T>(static_cast<std::uint16_t>(from + 1))) / 2;
  };
  double turn = halfway(0);
  std::uint32_t wrong = 0;
  std::uint32_t bits = 0;
  for (; bits <= kInfinityBits && wrong == 0; bits += stride) {
    const auto x = std::bit_cast<float>(bits);
    const auto value = static_cast<double>(x);
    while (pattern < Format<T>::kInfinity && (value > turn || (value == turn && pattern % 2 != 0))) {
      turn = halfway(++pattern);
    }
    wrong |= static_cast<std::uint32_t>(narrowed<T>(x).bits ^ pattern);
    wrong |= static_cast<std::uint32_t>(narrowed<T>(-x).bits ^ (pattern | 0x8000U));
  }
  ASSERT_EQ(wrong, 0U) << std::hex << "before " << bits << ", expected " << pattern;
  for (std::uint64_t nan = kInfinityBits + 1; nan < 0x80000000U; nan += stride) {
    for (const std::uint32_t sign : {0U, 0x80000000U}) {
      const auto x = std::bit_cast<float>(static_cast<std::uint32_t>(nan) | sign);
      ASSERT_EQ(narrowed<T>(x).bits, Format<T>::kNan) << std::hex << nan;
    }
  }
}

TEST(Conversions, round_to_nearest_even) {
  expect_nearest<bfloat16>(127);
  expect_nearest<float16>(127);
}

TEST(Conversions, Full_round_to_nearest_even_for_every_float32) {
  expect_nearest<bfloat16>(1);
  expect_nearest<float16>(1);
}

template <typename T>
void expect_edges_to_round() {
  for (const float x : telling_values<T>()) {
    ASSERT_EQ(narrowed<T>(x).bits, nearest<T>(x).bits) << std::hexfloat << x << " " << std::bit_cast<std::uint32_t>(x);
  }
}

TEST(Conversions, round_ties_and_their_neighbours_subnormals_and_what_overflows) {
  expect_edges_to_round<bfloat16>();
  expect_edges_to_round<float16>();
  // The oracle itself, on numbers that the standards name.
  EXPECT_EQ(nearest<float16>(65519.996F).bits, 0x7BFF);
  EXPECT_EQ(nearest<float16>(65520.0F).bits, 0x7C00);
  EXPECT_EQ(nearest<float16>(0x1p-25F).bits, 0x0000);
  EXPECT_EQ(nearest<float16>(0x1.000002p-25F).bits, 0x0001);
  EXPECT_EQ(nearest<float16>(1.0F).bits, 0x3C00);
  EXPECT_EQ(nearest<bfloat16>(1.0F).bits, 0x3F80);
  EXPECT_EQ(nearest<bfloat16>(1.00390625F).bits, 0x3F80);   // half way: the even one below
  EXPECT_EQ(nearest<bfloat16>(1.01171875F).bits, 0x3F82);   // half way: the even one above
  EXPECT_EQ(nearest<bfloat16>(-0x1.FFp127F).bits, 0xFF80);  // half way to what would come after the largest
}

template <typename T>
void expect_the_update_to_round() {
  const std::vector<float> values = telling_values_of_updates<T>();
  const std::vector<T> expected = nearest_of<T>(values);
  std::vector<T> patterns;
  std::vector<float> negated;
  for (std::uint32_t bits = 0; bits < 65536; ++bits) {
    patterns.push_back({static_cast<std::uint16_t>(bits)});
    const double value = -value_of(patterns.back());
    negated.push_back(value == value ? static_cast<float>(value) : std::bit_cast<float>(kCanonicalNan<float>));
  }
  for (const SimdLevel level : simd_levels()) {
    const Tuning tuning{.threads = 1, .simd = level};
    EXPECT_TRUE(same_bits(expected, narrowed_on<T>(Device::cpu(), values, tuning))) << name(level);
    EXPECT_TRUE(same_bits(negated, widened_and_negated_on(Device::cpu(), patterns, tuning))) << name(level);
  }
}

TEST(Conversions, in_the_update_are_the_same_at_every_simd_level) {
  expect_the_update_to_round<bfloat16>();
  expect_the_update_to_round<float16>();
  const std::vector<float> values = telling_values_of_updates<bfloat16>();
  std::vector<float> as_states = values;
  for (float& value : as_states) value = 0.0F + value;
  for (const SimdLevel level : simd_levels()) {
    EXPECT_TRUE(same_bits(nearest_of<bfloat16>(as_states),
                          narrowed_to_state_on(Device::cpu(), values, {.threads = 1, .simd = level})))
        << name(level);
  }
}

// --- Remainders

TEST(Remainders, parameter_and_remainder_are_the_float32_for_all_2_to_the_32_patterns) {
  for (std::uint32_t upper = 0; upper < 65536; ++upper) {
    std::uint32_t wrong = 0;
    for (std::uint32_t lower = 0; lower < 65536; ++lower) {
      const std::uint32_t bits = upper << 16 | lower;
      std::uint16_t remainder = 0;
      const bfloat16 parameter = split(std::bit_cast<float>(bits), remainder);
      const auto whole = std::bit_cast<std::uint32_t>(RemainderMaster::full<float>(parameter, remainder));
      const std::uint32_t expected = (bits & 0x7FFFFFFF) > kInfinityBits ? kCanonicalNan<float> : bits;
      wrong |= whole ^ expected;
    }
    ASSERT_EQ(wrong, 0U) << "upper half " << std::hex << upper;
  }
}

TEST(Trap18Ties, all_65536_lower_halves_come_back_and_a_tie_rounds_away_from_zero) {
  for (const std::uint32_t upper : {0x0000U, 0x0001U, 0x3F80U, 0x3F81U, 0x7F7EU, 0x7F7FU, 0x8000U, 0xBF80U, 0xFF7FU}) {
    for (std::uint32_t lower = 0; lower < 65536; ++lower) {
      const auto x = std::bit_cast<float>(upper << 16 | lower);
      std::uint16_t remainder = 0;
      const bfloat16 parameter = split(x, remainder);
      ASSERT_EQ(std::bit_cast<std::uint32_t>(joined(parameter, remainder)), upper << 16 | lower);
      ASSERT_EQ(remainder, lower);
      ASSERT_EQ(parameter.bits, lower < 0x8000 ? upper : upper + 1) << std::hex << upper << " " << lower;
    }
  }
}

TEST(Remainders, of_any_nan_are_those_of_the_canonical_one_and_infinities_stay) {
  const auto halves = [](std::uint32_t bits) {
    std::uint16_t remainder = 0;
    const bfloat16 parameter = split(std::bit_cast<float>(bits), remainder);
    return static_cast<std::uint32_t>(parameter.bits) << 16 | remainder;
  };
  // Of these the upper half plus one would be -0, or infinity: a number out of what is none.
  for (const std::uint32_t nan : {0x7FFFFFFFU, 0xFFFFFFFFU, 0x7FFF8000U, 0x7F800001U, 0x7F80FFFFU, 0xFF808000U}) {
    EXPECT_EQ(halves(nan), 0x7FC00000U) << std::hex << nan;
  }
  EXPECT_EQ(halves(0x7F800000), 0x7F800000U);
  EXPECT_EQ(halves(0xFF800000), 0xFF800000U);
  EXPECT_EQ(halves(0x7F7FFFFF), 0x7F80FFFFU) << "the largest float32: its parameter is infinite, together they are not";
}

TEST(Remainders, in_the_update_are_the_same_at_every_simd_level) {
  const std::vector<float> values = telling_values_of_updates<bfloat16>();
  for (const SimdLevel level : simd_levels()) {
    const Halves halves = halves_on(Device::cpu(), values, {.threads = 1, .simd = level});
    for (std::size_t i = 0; i < values.size(); ++i) {
      const bool is_nan = values[i] != values[i];
      const std::uint32_t bits = is_nan ? kCanonicalNan<float> : std::bit_cast<std::uint32_t>(values[i]);
      ASSERT_EQ(std::bit_cast<std::uint32_t>(joined(halves.parameter[i], halves.remainder[i])), bits) << name(level);
      ASSERT_EQ(halves.remainder[i], bits & 0xFFFF) << name(level);
    }
  }
}

// --- Every combination

class EveryStorage : public testing::TestWithParam<int> {
 protected:
  template <typename Body>
  static void with(const Body& body) {
    with_storage(GetParam(), body);
  }
};

std::string name_of_storage(const testing::TestParamInfo<int>& info) { return storage_name(info.param); }

INSTANTIATE_TEST_SUITE_P(Storages, EveryStorage, testing::ValuesIn(every_storage()), name_of_storage);

// Promise P4 at the precision of the storage: what is kept in float32 within the float32 bound, and what is rounded to
// 16 bits by half a spacing more, or by one where it is rounded at random.
template <typename Storage>
void expect_steps_within_bounds(const Case& c, double& worst_rounding) {
  using Real = typename Storage::Real;
  using State = typename Storage::State;
  constexpr std::int64_t kCount = 64;
  constexpr int kSteps = 8;
  constexpr bool kRandom = Storage::Master::kIsRandom;
  constexpr double kScalars = sizeof(Real) == 8 ? 9 : 0;  // as tests/error_bound_test.cpp
  const auto allowed_rounding = []<typename T>(double a, double b) {
    if constexpr (std::is_floating_point_v<T>) return 0.0;
    return (kRandom ? 1.0 : 0.5) * std::max(spacing<T>(a), spacing<T>(b));
  };
  const reference::Textbook<Exact<Real>> textbook(c.method, c.options);
  StoredTensor<Storage> run(c.make(), stored_values<typename Storage::Parameter>(kCount, seed_of(c.name), -4, 1));
  std::vector<Real> before = run.full();
  for (int t = 1; t <= kSteps; ++t) {
    const auto g = stored_values<typename Storage::Gradient>(kCount, seed_of(c.name) + static_cast<unsigned>(t), -8, 2);
    std::vector<std::vector<State>> states_before;
    for (const std::string& state : run.states()) {
      states_before.emplace_back(run.state(state).begin(), run.state(state).end());
    }
    run.step(g);
    const std::vector<Real> after = run.full();
    for (std::size_t i = 0; i < after.size(); ++i) {
      SCOPED_TRACE(testing::Message() << c.name << ", step " << t << ", element " << i);
      Exact<Real> start[reference::kMostStates] = {};
      for (std::size_t slot = 0; slot < states_before.size(); ++slot) start[slot] = value_of(states_before[slot][i]);
      const auto exact = textbook.step(before[i], start, static_cast<Exact<Real>>(value_of(g[i])), t);
      for (std::size_t slot = 0; slot < states_before.size(); ++slot) {
        if (exact.cancels && run.states()[slot] == "momentum_buffer") continue;
        const auto state = static_cast<Exact<Real>>(value_of(run.state(run.states()[slot])[i]));
        const auto error = static_cast<double>(std::fabs(state - exact.state[slot]));
        const double rounding = allowed_rounding.template operator()<State>(static_cast<double>(exact.state[slot]),
                                                                            static_cast<double>(state));
        const double bound = static_cast<double>(textbook.state_units(slot)) * kRounding<Real> *
                             static_cast<double>(exact.state_magnitude[slot]);
        ASSERT_LE(error, bound + rounding) << run.states()[slot];
        if (rounding > 0) worst_rounding = std::max(worst_rounding, error / rounding);
      }
      if (exact.cancels) continue;
      const auto exact_x = static_cast<double>(exact.parameter);
      const double bound = (static_cast<double>(reference::Textbook<Exact<Real>>::kUpdateUnits) + kScalars) *
                           kRounding<Real> * static_cast<double>(exact.update_magnitude);
      if constexpr (!kRandom) {
        ASSERT_LE(static_cast<double>(std::fabs(after[i] - exact.parameter)),
                  0.5 * std::max(ulp<Real>(exact_x), ulp<Real>(static_cast<double>(after[i]))) + bound)
            << "what the run goes on from";
      }
      const auto stored = static_cast<Exact<Real>>(value_of(run.parameter[static_cast<std::int64_t>(i)]));
      const auto error = static_cast<double>(std::fabs(stored - exact.parameter));
      const double rounding =
          allowed_rounding.template operator()<typename Storage::Parameter>(exact_x, static_cast<double>(stored));
      ASSERT_LE(error, 0.5 * ulp<Real>(exact_x) + bound + rounding) << "the parameter";
      if (rounding > 0) worst_rounding = std::max(worst_rounding, error / rounding);
    }
    before = after;
  }
}

TEST_P(EveryStorage, steps_within_the_bound_of_its_precision_from_the_textbook) {
  with([]<typename Storage>(std::type_identity<Storage>) {
    double worst_rounding = 0;
    for (const Case& c : cases()) {
      expect_steps_within_bounds<Storage>(c, worst_rounding);
      if (testing::Test::HasFatalFailure()) return;
    }
    if constexpr (sizeof(typename Storage::Parameter) == 2 || sizeof(typename Storage::State) == 2) {
      EXPECT_GT(worst_rounding, 0.9) << "a search that finds no error is not looking";
    }
  });
}

// Tensors of one combination, of many sizes, each array at a misalignment of its own; the gradients of every other one
// are zeroed, and where there is a float32 master every third has the user's parameter for it and is a copy. Everything
// that steps leave, as bytes.
template <typename Storage>
std::vector<std::string> bytes_after(const Case& c, const std::vector<std::int64_t>& sizes, const Tuning& tuning,
                                     int offset) {
  using Parameter = typename Storage::Parameter;
  using Gradient = typename Storage::Gradient;
  constexpr bool kHasMaster = Storage::Master::kMaster == Master::float32;
  Optimizer optimizer(c.make(), Device::cpu(), tuning);
  EXPECT_EQ(optimizer.simd(), *tuning.simd) << "the path that ran";
  optimizer.set_control({.seed = 5});
  std::vector<Fenced<Parameter>> parameters;
  std::vector<Fenced<float>> masters;
  std::vector<Fenced<Gradient>> gradients;
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    const auto shift = static_cast<std::int64_t>(i);
    const auto values = stored_values<Parameter>(sizes[i], i + 1, -4, 1);
    parameters.emplace_back(values, (offset + 3 * shift) % 32);
    gradients.emplace_back(sizes[i], (2 * offset + 5 * shift) % 32);
    masters.emplace_back(sizes[i], (offset + shift) % 16);
    TensorSpec spec{.name = std::to_string(i), .gradient = gradients.back().span()};
    spec.state_type = detail::kDataType<typename Storage::State>;
    spec.zero_gradient = i % 2 == 1;
    if (kHasMaster && i % 3 == 2) {
      for (std::int64_t j = 0; j < sizes[i]; ++j) {
        masters.back()[j] = static_cast<float>(value_of(values[static_cast<std::size_t>(j)]));
      }
      spec.parameter = masters.back().span();
      if constexpr (kHasMaster) spec.copy = parameters.back().span();
    } else {
      spec.parameter = parameters.back().span();
      spec.master = Storage::Master::kMaster;
    }
    optimizer.add(spec);
  }
  for (int t = 0; t < 4; ++t) {
    for (std::size_t i = 0; i < sizes.size(); ++i) {
      Random random(static_cast<std::uint64_t>(1000 * t) + i);
      for (Gradient& g : gradients[i].span()) {
        if constexpr (std::is_floating_point_v<Gradient>) {
          g = random.spread<Gradient>(-8, 2);
        } else {
          g = Narrow<Gradient>::of(random.spread<float>(-8, 2));
        }
      }
    }
    optimizer.step();
  }
  const Folder folder;
  optimizer.save(folder.file("all"));
  std::vector<std::string> all{contents(folder.file("all"))};
  const auto append = [&](const auto& array) {
    EXPECT_TRUE(array.zones_untouched());
    all.emplace_back(reinterpret_cast<const char*>(array.data()), array.span().size_bytes());
  };
  for (const auto& array : parameters) append(array);
  for (const auto& array : masters) append(array);
  for (const auto& array : gradients) append(array);
  for (std::size_t i = 1; i < sizes.size(); i += 2) {
    for (const Gradient g : gradients[i].span()) EXPECT_EQ(value_of(g), 0) << "asked to be zeroed";
  }
  return all;
}

TEST_P(EveryStorage, has_the_same_bits_at_every_simd_level_thread_count_tile_and_misalignment) {
  // With the large ones there is enough to do for several threads; random bits are made for 512 elements at a time.
  const std::vector<std::int64_t> sizes{0,   1,   2,   7,   8,    9,    15,   16,    17,   31, 33, 63,
                                        511, 512, 513, 520, 4095, 4096, 4097, 36001, 8191, 1,  64, 0};
  with([&]<typename Storage>(std::type_identity<Storage>) {
    for (const Case& c : one_case_per_rule()) {
      const auto expected =
          bytes_after<Storage>(c, sizes, {.threads = 1, .tile = kChunk, .simd = SimdLevel::baseline}, 0);
      for (const SimdLevel level : simd_levels()) {
        for (const int threads : {1, 3}) {
          const std::int64_t tile = threads == 1 ? 4 * kChunk : kChunk;
          const auto got = bytes_after<Storage>(c, sizes, {.threads = threads, .tile = tile, .simd = level}, threads);
          ASSERT_EQ(expected.size(), got.size());
          for (std::size_t i = 0; i < expected.size(); ++i) {
            ASSERT_TRUE(expected[i] == got[i])
                << c.name << " " << name(level) << ", " << threads << " threads, array " << i;
          }
        }
      }
    }
  });
}

// What the processors of this machine choose is run by all other tests; here both ways are, on any machine.
TEST_P(EveryStorage, has_the_same_bits_whether_or_not_the_loops_ask_memory_ahead_and_write_past_the_caches) {
  constexpr std::int64_t kFirst = 64;
  constexpr std::int64_t kSize = kFirst + 4096 + 9;  // all of which is compared, whatever part of it is updated
  with([&]<typename Storage>(std::type_identity<Storage>) {
    using State = typename Storage::State;
    const auto parameters = stored_values<typename Storage::Parameter>(kSize, 1, -4, 1);
    const auto gradients = stored_values<typename Storage::Gradient>(kSize, 2, -4, 2);
    std::vector<State> positive = stored_values<State>(kSize, 3, -4, 1);
    for (State& state : positive) {
      if constexpr (std::is_floating_point_v<State>) {
        state = std::fabs(state);
      } else {
        state.bits &= 0x7FFF;
      }
    }
    for (const Case& c : one_case_per_rule()) {
      const Method method = c.make();
      const int rule = host::rule_index(method);
      const kernels::Scalars scalars = host::scalars_at_step(rule, GetParam(), method, 7);
      const kernels::Decision decision{.gradient_factor = 0.75, .clip_value = 2.0, .skip = false};
      const auto slots = static_cast<int>(state_names(method).size());
      struct Way {
        bool prefetches;
        bool past_caches;
        std::int64_t offset;  // of the parameter, from a line of memory
      };
      const auto after = [&](const host::UpdateTable& table, const Way& way, std::int64_t count) {
        const Fenced<typename Storage::Parameter> parameter(parameters, way.offset);
        const Fenced<typename Storage::Gradient> gradient(gradients, 5);
        const Fenced<typename Storage::Kept> kept(kSize, 1);
        std::vector<Fenced<State>> states;
        kernels::TensorRow row{};
        row.parameter = parameter.data();
        row.gradient = gradient.data();
        row.kept = Storage::Master::kKeeps ? kept.data() : nullptr;
        for (int slot = 0; slot < slots; ++slot) {
          states.emplace_back(positive, 7 + slot);
          row.state[slot] = states.back().data();
        }
        row.count = kSize;
        const std::size_t loop =
            static_cast<std::size_t>(rule) * kernels::Storages::kSize + static_cast<std::size_t>(GetParam());
        table.functions[loop](row, kFirst, count,
                              {.scalars = scalars,
                               .decision = decision,
                               .gradient_sign = -1.0,
                               .random = {{{17, 4}}, 7, 5},
                               .prefetches = way.prefetches,
                               .past_caches = way.past_caches});
        std::vector<std::string> all;
        const auto append = [&](const auto& array) {
          EXPECT_TRUE(array.zones_untouched());
          all.emplace_back(reinterpret_cast<const char*>(array.data()), array.span().size_bytes());
        };
        append(parameter);
        append(gradient);
        append(kept);
        for (const auto& state : states) append(state);
        return all;
      };
      for (const host::UpdateTable& table : host::update_tables()) {
        for (const std::int64_t count : {0, 1, 31, 32, 33, 63, 64, 65, 128, 229, 4096}) {
          const auto without = after(table, {false, false, 3}, count);
          for (const Way& way : {Way{true, false, 3}, Way{false, true, 3}, Way{true, true, 0}}) {
            ASSERT_EQ(without, after(table, way, count))
                << c.name << ", " << name(table.level) << ", " << count << ", asks ahead: " << way.prefetches
                << ", writes past caches: " << way.past_caches << ", offset " << way.offset;
          }
          if (count == 4096) {
            ASSERT_NE(without, after(table, {true, true, 3}, 0)) << "a step that moves nothing";
          }
        }
      }
    }
  });
}

TEST(Trap01Indexing, loops_of_every_simd_level_find_elements_across_2_to_the_31_and_2_to_the_32) {
  constexpr std::int64_t kCount = 4096;
  constexpr std::int64_t kMost = (std::int64_t{1} << 32) + kCount;
  const Method method = Adam{};
  const int rule = host::rule_index(method);
  const int storage = *kernels::find_storage(kernels::plain_storage(DataType::float32));
  const kernels::Scalars scalars = host::scalars_at_step(rule, storage, method, 3);
  const kernels::Decision decision{.gradient_factor = 1.0, .clip_value = 10.0, .skip = false};
  const std::vector<float> values = spread_values<float>(kCount, 1, -4, 1);
  for (const host::UpdateTable& table : host::update_tables()) {
    const Reserved<float> arrays[4] = {Reserved<float>(kMost), Reserved<float>(kMost), Reserved<float>(kMost),
                                       Reserved<float>(kMost)};
    kernels::TensorRow row{};
    row.parameter = arrays[0].data();
    row.gradient = arrays[1].data();
    row.state[0] = arrays[2].data();
    row.state[1] = arrays[3].data();
    row.count = kMost;
    for (const Reserved<float>& array : arrays) ASSERT_NE(array.data(), nullptr);
    const auto after = [&](std::int64_t first) {
      for (const Reserved<float>& array : arrays) std::copy(values.begin(), values.end(), array.data() + first);
      for (std::int64_t i = first; i < first + kCount; ++i) arrays[3].data()[i] = std::abs(arrays[3].data()[i]);
      const auto loop = static_cast<std::size_t>(rule) * kernels::Storages::kSize + static_cast<std::size_t>(storage);
      table.functions[loop](row, first, kCount,
                            {.scalars = scalars,
                             .decision = decision,
                             .gradient_sign = 1.0,
                             .random = {{{1, 2}}, 3, 4},
                             .prefetches = table.prefetches,
                             .past_caches = false});
      std::vector<std::vector<float>> all;
      for (const Reserved<float>& array : arrays) all.emplace_back(array.data() + first, array.data() + first + kCount);
      return all;
    };
    const auto at_the_beginning = after(0);
    EXPECT_NE(at_the_beginning[0], values);
    for (const int power : {31, 32}) {
      // Half of the elements before that number, half behind it: where an index of 32 bits would begin anew.
      EXPECT_EQ(after((std::int64_t{1} << power) - kCount / 2), at_the_beginning)
          << name(table.level) << ", 2^" << power;
    }
  }
}

TEST(Trap01Indexing,
     remainders_norms_and_zeroed_gradients_are_those_of_the_element_across_2_to_the_31_and_2_to_the_32) {
  for (const host::UpdateTable& loops : host::update_tables()) {
    const FarOut<Storage<bfloat16, bfloat16, float, float, RemainderMaster>> far;
    far.step(0, loops, [&](std::int64_t i) {
      ASSERT_EQ(joined(far.parameter.data()[i], far.kept.data()[i]), kParameterBetween) << i;
      ASSERT_EQ(far.state.data()[i], kStateBetween) << i;
    });
  }
}

// --- Masters and remainders: the float32 run

// The combination beside the run of a float32 parameter on the same numbers, whose gradients are float32.
template <typename Storage>
class BesideFloat32 {
 public:
  using Parameter = typename Storage::Parameter;
  using Gradient = typename Storage::Gradient;
  using Plain = kernels::Storage<float, float, typename Storage::State, float>;

  BesideFloat32(const Method& method, std::int64_t count, std::uint64_t seed)
      : initial_(stored_values<Parameter>(count, seed, -4, 1)),
        stored(method, initial_),
        plain(method, floats(initial_)),
        initial_floats(floats(initial_)) {
    for (int i = 0; i < kGradients; ++i) {
      gradients_.push_back(stored_values<Gradient>(count, seed + 100 + static_cast<unsigned>(i), -8, 2));
      float_gradients_.push_back(floats(gradients_.back()));
    }
  }

  void step() {
    const std::size_t which = static_cast<std::size_t>(steps_++ % kGradients);
    stored.step(gradients_[which]);
    plain.step(float_gradients_[which]);
  }

  // Whether master, states and step count are those of the float32 run, and the parameter its rounding.
  void expect_same() {
    const std::vector<float> expected = plain.parameter.values();
    ASSERT_TRUE(same_bits(expected, stored.full())) << "after " << steps_ << " steps";
    for (const std::string& state : stored.states()) {
      ASSERT_TRUE(same_bits(std::span<const typename Storage::State>(plain.state(state)),
                            std::span<const typename Storage::State>(stored.state(state))))
          << state << " after " << steps_ << " steps";
    }
    ASSERT_EQ(stored.optimizer.step_count(stored.id), plain.optimizer.step_count(plain.id));
    for (std::size_t i = 0; i < expected.size(); ++i) {
      const std::uint32_t bits = std::bit_cast<std::uint32_t>(expected[i]);
      const std::uint16_t rounded = Storage::Master::kMaster == Master::remainder
                                        ? static_cast<std::uint16_t>((bits + 0x8000) >> 16)  // ties away from zero
                                        : nearest<Parameter>(expected[i]).bits;
      ASSERT_EQ(stored.parameter[static_cast<std::int64_t>(i)].bits, rounded) << std::hexfloat << expected[i];
    }
  }

 private:
  template <typename T>
  static std::vector<float> floats(const std::vector<T>& values) {
    std::vector<float> all;
    for (const T value : values) all.push_back(static_cast<float>(value_of(value)));
    return all;
  }
  static constexpr int kGradients = 64;
  std::vector<Parameter> initial_;
  std::vector<std::vector<Gradient>> gradients_;
  std::vector<std::vector<float>> float_gradients_;
  std::int64_t steps_ = 0;

 public:
  StoredTensor<Storage> stored;
  StoredTensor<Plain> plain;
  const std::vector<float> initial_floats;
};

// Calls body with the combination if it has a master.
template <typename Body>
void where_there_is_a_master(int storage, const Body& body) {
  with_storage(storage, [&]<typename Storage>(std::type_identity<Storage> tag) {
    if constexpr (Storage::Master::kKeeps) body(tag);
  });
}

class StorageWithMaster : public EveryStorage {};
INSTANTIATE_TEST_SUITE_P(Storages, StorageWithMaster, testing::ValuesIn(storages_with_a_master()), name_of_storage);

TEST_P(StorageWithMaster, or_remainder_equals_the_float32_run_in_bits_after_10000_steps) {
  where_there_is_a_master(GetParam(), []<typename Storage>(std::type_identity<Storage>) {
    for (const Case& c : one_case_per_rule()) {
      SCOPED_TRACE(c.name);
      BesideFloat32<Storage> runs(c.make(), 67, seed_of(c.name));
      for (int t = 1; t <= 10000; ++t) {
        runs.step();
        if (t > 3 && t % 2500 != 0) continue;
        runs.expect_same();
        if (testing::Test::HasFatalFailure()) return;
      }
      EXPECT_FALSE(same_bits(runs.plain.parameter.values(), runs.initial_floats)) << "nothing has moved";
    }
  });
}

class Trap04MomentsInTheParametersType : public EveryStorage {};
INSTANTIATE_TEST_SUITE_P(Storages, Trap04MomentsInTheParametersType,
                         testing::ValuesIn(storages_where([](const kernels::StorageTypes& types) {
                           return size_in_bytes(types.parameter) == 2 && types.state == DataType::float32;
                         })),
                         name_of_storage);

TEST_P(Trap04MomentsInTheParametersType, are_neither_left_by_a_step_nor_by_those_that_follow) {
  with([]<typename Storage>(std::type_identity<Storage>) {
    using Parameter = typename Storage::Parameter;
    if constexpr (sizeof(Parameter) == 2 && sizeof(typename Storage::State) == 4) {
      for (const Case& c : one_case_per_rule()) {
        if (state_names(c.make()).empty()) continue;
        SCOPED_TRACE(c.name);
        // The first step begins at the same numbers with and without a master.
        BesideFloat32<Storage> runs(c.make(), 200, 7);
        runs.step();
        for (const std::string& state : runs.stored.states()) {
          ASSERT_TRUE(same_bits(std::span<const float>(runs.plain.state(state)),
                                std::span<const float>(runs.stored.state(state))));
        }
        // Nor does any later step leave states that are numbers of the parameter's type.
        for (int t = 0; t < 4; ++t) runs.step();
        for (const std::string& state : runs.stored.states()) {
          int beyond = 0;
          for (const float x : runs.stored.state(state)) {
            beyond += value_of(nearest<Parameter>(x)) != static_cast<double>(x) ? 1 : 0;
          }
          ASSERT_GT(beyond, 190) << state;
        }
      }
    }
  });
}

class Trap05MasterIgnored : public EveryStorage {};
INSTANTIATE_TEST_SUITE_P(Storages, Trap05MasterIgnored, testing::ValuesIn(storages_with_a_master()), name_of_storage);

TEST_P(Trap05MasterIgnored, never_because_it_takes_up_what_the_parameter_cannot_and_is_what_is_stepped) {
  where_there_is_a_master(GetParam(), []<typename Storage>(std::type_identity<Storage>) {
    using Parameter = typename Storage::Parameter;
    using Gradient = typename Storage::Gradient;
    constexpr std::int64_t kCount = 40;
    // Each step takes 2^-14 off 1: nothing that a number of 16 bits below 1 can take up, and 2^-7 after 128 steps.
    StoredTensor<Storage> run(GradientDescent{.learning_rate = 0x1p-14},
                              std::vector<Parameter>(kCount, nearest<Parameter>(1.0F)));
    const std::vector<Gradient> ones(kCount, nearest<Gradient>(1.0F));
    run.step(ones);
    EXPECT_EQ(value_of(run.parameter[0]), 1);
    EXPECT_EQ(run.full(), std::vector<float>(kCount, 1 - 0x1p-14F));
    for (int t = 1; t < 128; ++t) run.step(ones);
    EXPECT_EQ(run.full(), std::vector<float>(kCount, 1 - 0x1p-7F));
    for (const Parameter x : run.parameter.span()) EXPECT_EQ(value_of(x), 1 - 0x1p-7);
    if constexpr (Storage::Master::kMaster == Master::float32) {
      // The master is what is stepped; the parameter is only written.
      float* const master = run.optimizer.state(run.id, "master").template as<float>();
      std::fill(master, master + kCount, 3.0F);
      for (Parameter& x : run.parameter.span()) x = {Format<Parameter>::kNan};
      run.step(std::vector<Gradient>(kCount));
      for (const Parameter x : run.parameter.span()) EXPECT_EQ(value_of(x), 3);
    } else {
      EXPECT_THROW(run.optimizer.state(run.id, "master"), std::invalid_argument);
    }
  });
}

TEST(Masters, are_automatic_for_parameters_of_16_bits) {
  Fenced<bfloat16> a(8);
  Fenced<float16> b(8);
  Fenced<float> c(8);
  Fenced<float> gradient(8);
  Optimizer optimizer(GradientDescent{});
  const TensorId first = optimizer.add({.name = "a", .parameter = a.span(), .gradient = gradient.span()});
  const TensorId second = optimizer.add({.name = "b", .parameter = b.span(), .gradient = gradient.span()});
  const TensorId third = optimizer.add({.name = "c", .parameter = c.span(), .gradient = gradient.span()});
  EXPECT_EQ(optimizer.state(first, "master").type(), DataType::float32);
  EXPECT_EQ(optimizer.state(second, "master").count(), 8);
  EXPECT_THROW(optimizer.state(third, "master"), std::invalid_argument);
  EXPECT_EQ(optimizer.state_bytes(), 512);
}

TEST(Masters, are_made_of_the_parameter_when_it_is_prepared_whatever_its_bits) {
  std::vector<bfloat16> first;
  std::vector<float16> second;
  for (std::uint32_t bits = 0; bits < 65536; ++bits) {
    first.push_back({static_cast<std::uint16_t>(bits)});
    second.push_back({static_cast<std::uint16_t>(bits)});
  }
  const auto expect_master = []<typename T>(std::vector<T>& parameter) {
    const std::vector<float> gradient(parameter.size());
    Optimizer optimizer(GradientDescent{});
    const TensorId id = optimizer.add({.name = "x", .parameter = parameter, .gradient = gradient});
    const float* const master = optimizer.state(id, "master").template as<float>();
    for (std::size_t i = 0; i < parameter.size(); ++i) {
      const double value = value_of(parameter[i]);
      if (value != value) {
        ASSERT_TRUE(master[i] != master[i]);
        continue;
      }
      ASSERT_EQ(std::bit_cast<std::uint32_t>(master[i]), std::bit_cast<std::uint32_t>(static_cast<float>(value)));
    }
  };
  expect_master(first);
  expect_master(second);
}

// --- Step counts and epsilons that 16 bits cannot hold

class Trap14StepInLowPrecisionStorage : public EveryStorage {};
INSTANTIATE_TEST_SUITE_P(Storages, Trap14StepInLowPrecisionStorage, testing::ValuesIn(every_storage()),
                         name_of_storage);

TEST_P(Trap14StepInLowPrecisionStorage, advances_by_one_beyond_256_and_2048_and_corrects_biases_as_in_float32) {
  with([]<typename Storage>(std::type_identity<Storage>) {
    using Parameter = typename Storage::Parameter;
    // A bfloat16 count would stay at 256, a float16 at 2048.
    for (const std::int64_t first : {254, 2046, 65534}) {
      const auto initial = stored_values<Parameter>(9, 1, -4, 1);
      StoredTensor<Storage> run(Adam{}, initial);
      run.optimizer.set_step_count(run.id, first);
      for (std::int64_t t = first + 1; t < first + 8; ++t) {
        run.step(stored_values<typename Storage::Gradient>(9, 2, -8, 2));
        ASSERT_EQ(run.optimizer.step_count(run.id), t);
      }
    }
    // And what a step makes of its count is the float32 run's.
    if constexpr (Storage::Master::kKeeps) {
      BesideFloat32<Storage> runs(AdamW{.beta1 = 0.999, .beta2 = 0.9999}, 33, 3);
      for (int t = 1; t < 2100; ++t) {
        runs.step();
        if (t > 250 && t < 260) runs.expect_same();
        if (testing::Test::HasFatalFailure()) return;
      }
      runs.expect_same();
    }
  });
}

class Trap15EpsilonInLowPrecision : public EveryStorage {};
INSTANTIATE_TEST_SUITE_P(Storages, Trap15EpsilonInLowPrecision, testing::ValuesIn(every_storage()), name_of_storage);

TEST_P(Trap15EpsilonInLowPrecision, neither_vanishes_nor_makes_a_nan_of_a_gradient) {
  with([]<typename Storage>(std::type_identity<Storage>) {
    using Parameter = typename Storage::Parameter;
    using Gradient = typename Storage::Gradient;
    for (const Case& c : cases()) {
      SCOPED_TRACE(c.name);
      // No gradient, the smallest that the type has, and one whose square is nothing in a float16.
      std::vector<Gradient> g(3);
      if constexpr (sizeof(Gradient) == 2) g[1] = {1};
      if constexpr (sizeof(Gradient) > 2) g[1] = std::numeric_limits<Gradient>::denorm_min();
      g[2] = nearest<Gradient>(0x1p-20F);
      StoredTensor<Storage> run(c.make(), std::vector<Parameter>(3, nearest<Parameter>(0.5F)));
      for (int t = 0; t < 3; ++t) run.step(g);
      for (std::int64_t i = 0; i < 3; ++i) ASSERT_TRUE(std::isfinite(value_of(run.parameter[i]))) << i;
      for (const std::string& state : run.states()) {
        for (const auto x : run.state(state)) ASSERT_TRUE(std::isfinite(value_of(x))) << state;
      }
    }
    // The first step is eta |g| / (|g| + epsilon): an epsilon of 1e-8 counts beside a gradient of 2^-24.
    if constexpr (Storage::Master::kKeeps || sizeof(Parameter) == 4) {
      StoredTensor<Storage> run(Adam{.learning_rate = 1}, std::vector<Parameter>(3, nearest<Parameter>(0.0F)));
      run.step(std::vector<Gradient>(3, nearest<Gradient>(0x1p-24F)));
      const double expected = 0x1p-24 / (0x1p-24 + 1e-8);
      EXPECT_NEAR(static_cast<double>(-run.full()[0]), expected, 1e-6);
    }
    // With no epsilon, 0/0 is the one canonical NaN, where no gradient has come and nowhere else.
    StoredTensor<Storage> run(Adam{.epsilon = 0}, std::vector<Parameter>(2, nearest<Parameter>(0.5F)));
    run.step({Gradient{}, nearest<Gradient>(1.0F)});
    if constexpr (sizeof(Parameter) == 2) {
      EXPECT_EQ(run.parameter[0].bits, Format<Parameter>::kNan);
    } else {
      EXPECT_EQ(std::bit_cast<Bits<Parameter>>(run.parameter[0]), kCanonicalNan<Parameter>);
    }
    EXPECT_TRUE(std::isfinite(value_of(run.parameter[1])));
  });
}

// --- Beside the update: a copy, and gradients set to zero

template <typename Copy, typename Gradient>
void expect_copy(const Case& c) {
  constexpr std::int64_t kCount = 1037;
  const auto initial = spread_values<float>(kCount, 1, -4, 1);
  Fenced<float> parameter(initial, 3);
  Fenced<float> alone(initial);
  Fenced<Copy> copy(kCount, 1);
  Fenced<Gradient> gradient(kCount);
  Optimizer with(c.make(), Device::cpu(), {.threads = 1});
  Optimizer without(c.make(), Device::cpu(), {.threads = 1});
  const TensorId id =
      with.add({.name = "x", .parameter = parameter.span(), .gradient = gradient.span(), .copy = copy.span()});
  const TensorId other = without.add({.name = "x", .parameter = alone.span(), .gradient = gradient.span()});
  EXPECT_EQ(with.state_bytes(), without.state_bytes()) << "the user's parameter is the master";
  for (int t = 0; t < 5; ++t) {
    gradient.fill(stored_values<Gradient>(kCount, static_cast<unsigned>(t) + 2, -8, 2));
    with.step();
    without.step();
    ASSERT_TRUE(same_bits(alone.values(), parameter.values()));
    ASSERT_TRUE(same_bits(nearest_of<Copy>(alone.values()), copy.values()));
    for (const std::string& state : state_names(c.make())) {
      ASSERT_EQ(std::memcmp(with.state(id, state).data(), without.state(other, state).data(), kCount * sizeof(float)),
                0);
    }
  }
  EXPECT_TRUE(parameter.zones_untouched() && copy.zones_untouched() && gradient.zones_untouched());
  EXPECT_FALSE(same_bits(parameter.values(), initial));
}

TEST(Copies, are_the_rounded_parameter_and_change_nothing_else) {
  for (const Case& c : one_case_per_rule()) {
    SCOPED_TRACE(c.name);
    expect_copy<bfloat16, float>(c);
    expect_copy<float16, float>(c);
    expect_copy<bfloat16, bfloat16>(c);
    expect_copy<float16, float16>(c);
  }
}

TEST(Copies, are_never_read) {
  Fenced<float> parameter({1, 2, 3});
  Fenced<float> gradient(3);
  Fenced<bfloat16> copy(std::vector<bfloat16>(3, bfloat16{0x7FC0}));
  Optimizer optimizer(GradientDescent{});
  optimizer.add({.name = "x", .parameter = parameter.span(), .gradient = gradient.span(), .copy = copy.span()});
  parameter[1] = 5;  // between steps a parameter is the user's
  optimizer.step();
  EXPECT_EQ(parameter.values(), (std::vector<float>{1, 5, 3}));
  EXPECT_EQ(value_of(copy[1]), 5);
}

TEST_P(EveryStorage, zeroes_gradients_when_they_have_been_used_and_only_where_asked) {
  with([]<typename Storage>(std::type_identity<Storage>) {
    using Parameter = typename Storage::Parameter;
    using Gradient = typename Storage::Gradient;
    constexpr std::int64_t kCount = 4099;
    const auto initial = stored_values<Parameter>(kCount, 1, -4, 1);
    const auto g = stored_values<Gradient>(kCount, 2, -8, 2);
    const auto is_zero = [](const Fenced<Gradient>& gradient) {
      return std::all_of(gradient.span().begin(), gradient.span().end(),
                         [](Gradient each) { return std::bit_cast<Bits<Gradient>>(each) == 0; });
    };
    for (const Case& c : one_case_per_rule()) {
      SCOPED_TRACE(c.name);
      Fenced<Parameter> parameters[] = {{initial, 1}, {initial, 1}};
      Fenced<Gradient> gradients[] = {{g, 3}, {g, 3}};
      std::vector<Optimizer> optimizers;
      for (int zeroes = 0; zeroes < 2; ++zeroes) {
        Optimizer& made = optimizers.emplace_back(c.make(), Device::cpu(), Tuning{.threads = 1});
        made.set_control({.non_finite = NonFinite::skip});
        TensorSpec spec{.name = "x",
                        .parameter = parameters[zeroes].span(),
                        .gradient = gradients[zeroes].span(),
                        .state_type = detail::kDataType<typename Storage::State>};
        spec.master = Storage::Master::kMaster;
        spec.zero_gradient = zeroes == 1;
        made.add(spec);
      }
      const Folder folder;
      const auto expect_same = [&] {
        optimizers[0].save(folder.file("0"));
        optimizers[1].save(folder.file("1"));
        ASSERT_TRUE(contents(folder.file("0")) == contents(folder.file("1")));
        ASSERT_TRUE(is_zero(gradients[1]));
        ASSERT_TRUE(gradients[1].zones_untouched());
      };
      for (Optimizer& each : optimizers) each.step();
      expect_same();
      EXPECT_TRUE(same_bits(gradients[0].values(), g));
      // A skipped step, too: what made it be skipped must not come again.
      const std::vector<Parameter> before = parameters[1].values();
      auto broken = g;
      broken.back() = nearest<Gradient>(std::numeric_limits<float>::infinity());
      for (Fenced<Gradient>& each : gradients) each.fill(broken);
      for (Optimizer& each : optimizers) each.step();
      expect_same();
      EXPECT_EQ(optimizers[1].report().skipped, 1);
      EXPECT_TRUE(same_bits(parameters[1].values(), before));
      EXPECT_EQ(optimizers[1].step_count(optimizers[1].find("x")), 1);
    }
  });
}

}  // namespace
}  // namespace adamant::test
