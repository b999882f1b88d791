// Stochastic rounding on the CPU: the generator against its published answers, each rounding against an oracle that
// knows what its bits are keyed by, what must not be rounded at all, that no bits come twice, and that the mean is
// right. That a device gives the same bits is said by the tests of devices.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <functional>
#include <set>
#include <string>
#include <vector>

#include "kernels/apply.hpp"
#include "kernels/narrow.hpp"
#include "kernels/philox.hpp"
#include "tests/storages.hpp"

namespace adamant::test {
namespace {

using FloatStates = kernels::Storage<bfloat16, bfloat16, float, float, kernels::StochasticRounding>;
using NarrowStates = kernels::Storage<bfloat16, bfloat16, bfloat16, float, kernels::StochasticRounding>;

constexpr std::int64_t kMany = 100000;

using Words = std::array<std::uint32_t, 4>;

// Philox4x32 with ten rounds, as the paper writes it.
Words philox_of_the_paper(Words c, std::uint32_t k0, std::uint32_t k1) {
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t left = std::uint64_t{0xD2511F53} * c[0];
    const std::uint64_t right = std::uint64_t{0xCD9E8D57} * c[2];
    c = {static_cast<std::uint32_t>(right / 0x100000000) ^ c[1] ^ k0, static_cast<std::uint32_t>(right % 0x100000000),
         static_cast<std::uint32_t>(left / 0x100000000) ^ c[3] ^ k1, static_cast<std::uint32_t>(left % 0x100000000)};
    k0 += 0x9E3779B9;
    k1 += 0xBB67AE85;
  }
  return c;
}

// The 16 bits of an element of one array (0 the parameter, then the states) of a tensor in a step.
struct Place {
  std::uint64_t seed = 0;
  std::uint32_t step = 1;
  std::uint32_t tensor = 0;
  std::uint32_t array = 0;
  std::uint64_t element = 0;
};
std::uint32_t random_bits_at(const Place& at) {
  const std::uint64_t block = at.element / 8;
  const Words words =
      philox_of_the_paper({static_cast<std::uint32_t>(block),
                           static_cast<std::uint32_t>(block >> 32) + (at.array << 24), at.step, at.tensor},
                          static_cast<std::uint32_t>(at.seed), static_cast<std::uint32_t>(at.seed >> 32));
  const std::uint32_t word = words[at.element % 8 / 2];
  return at.element % 2 == 0 ? word % 65536 : word / 65536;
}

// Up when a uniform number below 65,536 and how far `x` is above the bfloat16 below come to a whole spacing.
bfloat16 rounded_as_documented(float x, std::uint32_t random) {
  if (x != x) return {0x7FC0};
  const auto sign = static_cast<std::uint16_t>(std::signbit(x) ? 0x8000 : 0);
  const double size = std::fabs(static_cast<double>(x));
  if (std::isinf(size)) return {static_cast<std::uint16_t>(0x7F80 | sign)};
  std::uint16_t below = 0;
  std::uint16_t beyond = 0x7F80;
  while (beyond - below > 1) {
    const auto middle = static_cast<std::uint16_t>((below + beyond) / 2);
    (magnitude_of<bfloat16>(middle) <= size ? below : beyond) = middle;
  }
  const double low = magnitude_of<bfloat16>(below);
  const double part = (size - low) / (magnitude_of<bfloat16>(beyond) - low);
  const bool up = part + random / 65536.0 >= 1 && beyond != 0x7F80;
  return {static_cast<std::uint16_t>((up ? beyond : below) | sign)};
}

// --- The generator

TEST(Philox, gives_the_known_answers_of_random123) {
  struct Known {
    Words counter;
    std::array<std::uint32_t, 2> key;
    Words answer;
  };
  // Random123's kat_vectors, "philox4x32 10".
  const Known all[] = {
      {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
      {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
       {0xffffffff, 0xffffffff},
       {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
      {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
       {0xa4093822, 0x299f31d0},
       {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
  };
  for (const Known& known : all) {
    const auto& c = known.counter;
    const kernels::PhiloxCounter got = kernels::philox({{c[0], c[1], c[2], c[3]}}, {{known.key[0], known.key[1]}});
    for (std::size_t i = 0; i < 4; ++i) EXPECT_EQ(got.word[i], known.answer[i]);
    EXPECT_EQ(philox_of_the_paper(c, known.key[0], known.key[1]), known.answer);
  }
}

TEST(Philox, is_keyed_by_seed_step_tensor_array_and_element_each_of_them) {
  const auto bits_at = [](const Place& at) {
    const kernels::RandomKey key{
        {{static_cast<std::uint32_t>(at.seed), static_cast<std::uint32_t>(at.seed >> 32)}}, at.step, at.tensor};
    return kernels::random_of_element(key.bits(at.element / 8, at.array), static_cast<int>(at.element % 8));
  };
  Random random(1);
  for (int i = 0; i < 1000; ++i) {
    const Place at{random.bits(), static_cast<std::uint32_t>(random.bits()), static_cast<std::uint32_t>(random.bits()),
                   static_cast<std::uint32_t>(random.below(5)), random.bits() >> (5 + random.below(54))};
    ASSERT_EQ(bits_at(at), random_bits_at(at));
  }
}

// --- One rounding

// As an update rounds.
bfloat16 rounded(float x, std::uint32_t random) { return kernels::rounded_at_random(kernels::canonical(x), random); }

TEST(RandomRounding, is_up_or_down_as_its_bits_say_for_every_kind_of_number) {
  for (const float x : telling_values<bfloat16>()) {
    for (const std::uint32_t random : {0U, 1U, 2U, 0x7FFFU, 0x8000U, 0x8001U, 0xFFFEU, 0xFFFFU}) {
      ASSERT_EQ(rounded(x, random).bits, rounded_as_documented(x, random).bits) << std::hexfloat << x << " " << random;
    }
  }
  Random random(2);
  for (int i = 0; i < 300000; ++i) {
    const auto x = std::bit_cast<float>(static_cast<std::uint32_t>(random.bits()));
    const auto bits = static_cast<std::uint32_t>(random.below(65536));
    ASSERT_EQ(rounded(x, bits).bits, rounded_as_documented(x, bits).bits) << std::hexfloat << x << " " << bits;
  }
}

TEST(Trap16StochasticRounding, makes_no_number_of_a_nan_and_no_infinity_of_a_number) {
  for (std::uint32_t random = 0; random < 65536; ++random) {
    const auto bits_rounded = [&](std::uint32_t bits) { return rounded(std::bit_cast<float>(bits), random).bits; };
    for (const std::uint32_t nan : {0x7FFFFFFFU, 0x7F800001U, 0x7FC00000U, 0xFFFFFFFFU, 0xFF800001U, 0xFFFF8000U}) {
      ASSERT_EQ(bits_rounded(nan), 0x7FC0) << std::hex << nan << " " << random;
    }
    ASSERT_EQ(bits_rounded(0x7F800000), 0x7F80);
    ASSERT_EQ(bits_rounded(0xFF800000), 0xFF80);
    ASSERT_EQ(bits_rounded(0x7F7FFFFF), 0x7F7F) << "the largest float32";
    ASSERT_EQ(bits_rounded(0xFF7FFFFF), 0xFF7F);
    ASSERT_EQ(bits_rounded(0x7F7F0001), 0x7F7F);
    ASSERT_EQ(bits_rounded(0x00000000), 0x0000);
    ASSERT_EQ(bits_rounded(0x80000000), 0x8000);
  }
}

TEST(Trap16StochasticRounding, leaves_what_is_a_bfloat16_as_it_is) {
  for (std::uint32_t bits = 0; bits < 65536; ++bits) {
    if ((bits & 0x7FFF) > 0x7F80) continue;
    for (const std::uint32_t random : {0U, 1U, 0x8000U, 0xFFFFU}) {
      ASSERT_EQ(rounded(std::bit_cast<float>(bits << 16), random).bits, bits);
    }
  }
}

// --- In the update

// Runs of between(), whose every step begins at its ones.
class BetweenNumbers {
 public:
  BetweenNumbers(std::uint64_t seed, const std::vector<std::string>& names, std::int64_t count, Tuning tuning = {})
      : ones_(static_cast<std::size_t>(count), bfloat16{0x3F80}), optimizer(between(), Device::cpu(), tuning) {
    optimizer.set_control({.seed = seed});
    for (const std::string& name : names) add(name);
  }
  void add(const std::string& name) {
    parameters.emplace_back(ones_);
    gradients_.emplace_back(ones_);
    ids.push_back(optimizer.add({.name = name,
                                 .parameter = parameters.back().span(),
                                 .gradient = gradients_.back().span(),
                                 .state_type = DataType::bfloat16,
                                 .master = Master::stochastic}));
  }
  void step() {
    for (std::size_t i = 0; i < ids.size(); ++i) {
      parameters[i].fill(ones_);
      std::copy(ones_.begin(), ones_.end(), state(i).begin());
      // The first step of Momentum takes v = g.
      if (optimizer.step_count(ids[i]) == 0) optimizer.set_step_count(ids[i], 1);
    }
    optimizer.step();
  }
  std::span<bfloat16> state(std::size_t tensor) {
    auto* const first = optimizer.state(ids[tensor], "momentum_buffer").as<bfloat16>();
    return {first, ones_.size()};
  }
  // Of each array: whether each element went up.
  std::vector<bool> ups(std::size_t tensor, int array) {
    std::vector<bool> all;
    const std::span<const bfloat16> values = array == 0 ? parameters[tensor].span() : state(tensor);
    for (const bfloat16 x : values) all.push_back(value_of(x) > (array == 0 ? kParameterBetween : kStateBetween));
    return all;
  }

 private:
  std::vector<bfloat16> ones_;

 public:
  Optimizer optimizer;
  std::vector<Fenced<bfloat16>> parameters;
  std::vector<TensorId> ids;

 private:
  std::vector<Fenced<bfloat16>> gradients_;
};

TEST(RandomRounding, in_the_update_takes_the_bits_of_its_seed_step_tensor_array_and_element) {
  for (const SimdLevel level : simd_levels()) {
    for (const std::uint64_t seed : std::vector<std::uint64_t>{0, 1, 0x123456789ABCDEF, ~std::uint64_t{0}}) {
      BetweenNumbers run(seed, {"a", "b", "c"}, 5003, {.threads = 1, .tile = kChunk, .simd = level});
      for (std::uint32_t t = 2; t < 6; ++t) {
        run.step();
        for (std::uint32_t tensor = 0; tensor < 3; ++tensor) {
          for (std::uint64_t i = 0; i < 5003; ++i) {
            const bfloat16 x = run.parameters[tensor][static_cast<std::int64_t>(i)];
            const bfloat16 v = run.state(tensor)[i];
            ASSERT_EQ(x.bits, rounded_as_documented(kParameterBetween, random_bits_at({seed, t, tensor, 0, i})).bits);
            ASSERT_EQ(v.bits, rounded_as_documented(kStateBetween, random_bits_at({seed, t, tensor, 1, i})).bits);
          }
        }
      }
    }
  }
}

TEST(Trap01Indexing, random_bits_are_those_of_the_element_across_2_to_the_31_and_2_to_the_32) {
  for (const host::UpdateTable& loops : host::update_tables()) {
    const FarOut<NarrowStates> far;
    far.step(5, loops, [&](std::int64_t i) {
      const auto element = static_cast<std::uint64_t>(i);
      ASSERT_EQ(far.parameter.data()[i].bits,
                rounded_as_documented(kParameterBetween, random_bits_at({5, 2, 0, 0, element})).bits);
      ASSERT_EQ(far.state.data()[i].bits,
                rounded_as_documented(kStateBetween, random_bits_at({5, 2, 0, 1, element})).bits);
    });
  }
}

TEST(RandomRounding, of_every_state_takes_bits_of_its_own) {
  // The rule with the most states, against the same step with float32 states: the first begins at the same numbers.
  const Case c{"", "rmsprop", {{"centered", "true"}, {"momentum", "0.9"}}};
  constexpr std::int64_t kCount = 3001;
  const auto initial = stored_values<bfloat16>(kCount, 1, -4, 1);
  const auto g = stored_values<bfloat16>(kCount, 2, -8, 2);
  StoredTensor<NarrowStates> narrow(c.make(), initial);
  StoredTensor<FloatStates> wide(c.make(), initial);
  for (Optimizer* each : {&narrow.optimizer, &wide.optimizer}) each->set_control({.seed = 77});
  narrow.step(g);
  wide.step(g);
  EXPECT_TRUE(same_bits(wide.parameter.values(), narrow.parameter.values()));
  std::uint32_t array = 0;
  ASSERT_EQ(narrow.states().size(), 3U);
  for (const std::string& state : narrow.states()) {
    ++array;
    int differs = 0;
    for (std::uint64_t i = 0; i < kCount; ++i) {
      const float exact = wide.state(state)[i];
      const bfloat16 expected = rounded_as_documented(exact, random_bits_at({77, 1, 0, array, i}));
      ASSERT_EQ(narrow.state(state)[i].bits, expected.bits) << state << " " << i;
      differs += expected.bits != nearest<bfloat16>(exact).bits ? 1 : 0;
    }
    EXPECT_GT(differs, 100) << state;
  }
}

TEST(Trap16StochasticRounding, never_takes_the_same_bits_twice_in_a_run) {
  constexpr std::int64_t kCount = 4096;
  std::vector<std::vector<bool>> all;
  std::vector<std::string> what;
  for (const std::uint64_t seed : {1, 2}) {
    BetweenNumbers run(seed, {"a", "b", "c"}, kCount);
    for (int t = 0; t < 6; ++t) {
      run.step();
      for (std::size_t tensor = 0; tensor < 3; ++tensor) {
        for (const int array : {0, 1}) {
          all.push_back(run.ups(tensor, array));
          what.push_back("seed " + std::to_string(seed) + " step " + std::to_string(t) + " tensor " +
                         std::to_string(tensor) + " array " + std::to_string(array));
        }
      }
    }
  }
  // Of two arrays rounded by different bits half the elements differ, give or take six deviations of 32: also of one
  // that is moved by some elements against the other.
  for (std::size_t i = 0; i < all.size(); ++i) {
    for (std::size_t j = 0; j < i; ++j) {
      for (const std::int64_t shift : {0, 1, 8, 512}) {
        std::int64_t differing = 0;
        for (std::int64_t k = 0; k < kCount; ++k) {
          differing += all[i][static_cast<std::size_t>(k)] != all[j][static_cast<std::size_t>((k + shift) % kCount)];
        }
        ASSERT_NEAR(static_cast<double>(differing), kCount / 2.0, 192) << what[i] << ", " << what[j] << ", " << shift;
      }
    }
  }
}

TEST(Trap16StochasticRounding, never_makes_the_same_block_twice) {
  std::set<Words> seen;
  std::size_t made = 0;
  for (const std::uint32_t seed : {0U, 1U}) {
    for (std::uint32_t step = 1; step < 40; ++step) {
      for (std::uint32_t tensor = 0; tensor < 4; ++tensor) {
        const kernels::RandomKey key{{{seed, 0}}, step, tensor};
        for (std::uint32_t array = 0; array < 5; ++array) {
          for (std::uint64_t block = 0; block < 40; ++block) {
            const kernels::PhiloxCounter bits = key.bits(block << (block % 3 * 20), array);
            seen.insert({bits.word[0], bits.word[1], bits.word[2], bits.word[3]});
            ++made;
          }
        }
      }
    }
  }
  EXPECT_EQ(seen.size(), made);
}

TEST(RandomRounding, follows_a_tensor_through_a_checkpoint_in_whatever_order_it_is_added_there) {
  constexpr std::int64_t kCount = 700;
  const Folder folder;
  BetweenNumbers first(9, {"a", "b", "c"}, kCount);
  for (int t = 0; t < 3; ++t) first.step();
  first.optimizer.save(folder.file("all"));
  BetweenNumbers second(0, {"c", "new", "a", "b"}, kCount);
  second.optimizer.load(folder.file("all"), {.allow_missing = true});
  EXPECT_EQ(second.optimizer.control().seed, 9U);
  first.add("new");
  for (int t = 0; t < 3; ++t) {
    first.step();
    second.step();
    for (const auto& [here, there] : {std::pair{0, 2}, {1, 3}, {2, 0}}) {
      for (const int array : {0, 1}) {
        ASSERT_EQ(first.ups(static_cast<std::size_t>(here), array), second.ups(static_cast<std::size_t>(there), array));
      }
    }
    // What the file does not have shares bits with none of those that it has.
    for (const std::size_t other : {0, 2, 3}) ASSERT_NE(second.ups(1, 0), second.ups(other, 0));
  }
}

// As it would have without the checkpoint: neither those of a tensor that is there nor of one that was.
TEST(RandomRounding, of_a_tensor_that_is_added_after_a_load_takes_the_bits_that_come_next) {
  constexpr std::int64_t kCount = 700;
  const Folder folder;
  BetweenNumbers unbroken(9, {"a", "b"}, kCount);
  BetweenNumbers removed(9, {"a", "b"}, kCount);
  unbroken.step();
  unbroken.optimizer.remove(unbroken.ids[1]);
  unbroken.ids.pop_back();
  unbroken.optimizer.save(folder.file("without_b"));
  BetweenNumbers loaded(0, {"a"}, kCount);
  loaded.optimizer.load(folder.file("without_b"));
  unbroken.parameters.pop_back();
  for (BetweenNumbers* run : {&unbroken, &loaded}) run->add("c");
  for (int t = 0; t < 3; ++t) {
    for (BetweenNumbers* run : {&unbroken, &loaded, &removed}) run->step();
    for (const int array : {0, 1}) {
      for (const std::size_t tensor : {0, 1}) ASSERT_EQ(loaded.ups(tensor, array), unbroken.ups(tensor, array));
      ASSERT_NE(loaded.ups(1, array), loaded.ups(0, array));
      ASSERT_NE(loaded.ups(1, array), removed.ups(1, array)) << "those of b in the same steps";
    }
  }
}

TEST(RandomRounding, of_a_tensor_that_is_added_after_another_was_removed_takes_other_bits) {
  constexpr std::int64_t kCount = 700;
  BetweenNumbers run(9, {"a", "b"}, kCount);
  run.step();
  const std::vector<bool> removed = run.ups(1, 0);
  run.optimizer.remove(run.ids[1]);
  run.ids.pop_back();
  run.parameters.pop_back();
  run.add("b");
  run.step();
  EXPECT_NE(run.ups(1, 0), removed);
}

// --- On average

// How many of kMany elements a step from 1 to 1 - `part` of the spacing below it took down.
std::int64_t lowered(double part, std::uint64_t seed) {
  const std::vector<bfloat16> ones(kMany, bfloat16{0x3F80});
  StoredTensor<FloatStates> run(GradientDescent{.learning_rate = part * 0x1p-8}, ones);  // of the binade below 1
  run.optimizer.set_control({.seed = seed});
  run.step(ones);
  std::int64_t down = 0;
  for (const bfloat16 x : run.parameter.span()) {
    EXPECT_TRUE(x.bits == 0x3F80 || x.bits == 0x3F7F) << x.bits;
    down += x.bits == 0x3F7F ? 1 : 0;
  }
  return down;
}

TEST(Trap16StochasticRounding, is_right_on_average) {
  // The mean of 10^5 roundings is within five deviations, for every fraction; and all together they deviate as much as
  // chance does, neither more (biased) nor less (not random): chi squared of 64 values is 64, give or take 11.3.
  double chi_squared = 0;
  for (int i = 0; i < 64; ++i) {
    const double part = (i * 1021 + 517) / 65536.0;  // from 0.008 to 0.99, a multiple of 2^-16
    const double expected = kMany * part;
    const double variance = kMany * part * (1 - part);
    const double deviation = static_cast<double>(lowered(part, static_cast<std::uint64_t>(i))) - expected;
    EXPECT_LT(std::fabs(deviation), 5 * std::sqrt(variance)) << part;
    chi_squared += deviation * deviation / variance;
  }
  EXPECT_GT(chi_squared, 64 - 4 * 11.4);
  EXPECT_LT(chi_squared, 64 + 5 * 11.4);
}

TEST(Trap16StochasticRounding, has_uniform_bits_that_do_not_follow_from_their_neighbours) {
  // Of each, 2^20 bits of 16: the upper and the lower byte, and the upper halves of bytes of neighbours and of the same
  // element in the next step, array and tensor, as cells of a chi squared test with 255 degrees of freedom: 255, give
  // or take 22.6.
  constexpr int kCount = 1 << 20;
  const auto expect_uniform = [&](const char* what, const std::function<std::uint32_t(std::uint64_t)>& cell) {
    std::vector<int> counts(256);
    for (std::uint64_t i = 0; i < kCount; ++i) ++counts[cell(i)];
    double chi_squared = 0;
    for (const int count : counts) chi_squared += std::pow(count - kCount / 256.0, 2) / (kCount / 256.0);
    EXPECT_LT(chi_squared, 255 + 5.5 * 22.6) << what;
    EXPECT_GT(chi_squared, 255 - 5.5 * 22.6) << what;
  };
  const auto at = [](Place place) {
    const kernels::RandomKey key{{{static_cast<std::uint32_t>(place.seed), 0}}, place.step, place.tensor};
    return kernels::random_of_element(key.bits(place.element / 8, place.array), static_cast<int>(place.element % 8));
  };
  const auto both = [&](Place a, Place b) { return (at(a) >> 12) * 16 + (at(b) >> 12); };
  using U = std::uint64_t;
  expect_uniform("upper byte", [&](U i) { return at({.element = i}) >> 8; });
  expect_uniform("lower byte", [&](U i) { return at({.element = i}) & 0xFF; });
  expect_uniform("neighbours", [&](U i) { return both({.element = 2 * i}, {.element = 2 * i + 1}); });
  expect_uniform("blocks", [&](U i) { return both({.element = i}, {.element = i + 8}); });
  expect_uniform("steps", [&](U i) { return both({.step = 1, .element = i}, {.step = 2, .element = i}); });
  expect_uniform("arrays", [&](U i) { return both({.array = 0, .element = i}, {.array = 1, .element = i}); });
  expect_uniform("tensors", [&](U i) { return both({.tensor = 0, .element = i}, {.tensor = 1, .element = i}); });
  expect_uniform("seeds", [&](U i) { return both({.seed = 0, .element = i}, {.seed = 1, .element = i}); });
}

TEST(Trap16StochasticRounding, takes_up_on_average_what_rounding_to_nearest_would_lose) {
  // 2^-12 a step is an eighth of half a spacing below 1: to nearest, 1 would stay 1. After 400 steps it is 1 - 400
  // 2^-12; a step's variance is less than a quarter of a spacing's square.
  constexpr std::int64_t kCount = 4096;
  constexpr int kSteps = 400;
  const std::vector<bfloat16> ones(kCount, bfloat16{0x3F80});
  ASSERT_EQ(nearest<bfloat16>(1 - 0x1p-12F).bits, 0x3F80);
  StoredTensor<FloatStates> run(GradientDescent{.learning_rate = 0x1p-12}, ones);
  for (int t = 0; t < kSteps; ++t) run.step(ones);
  double sum = 0;
  for (const bfloat16 x : run.parameter.span()) sum += value_of(x);
  const double deviation = std::sqrt(kSteps * 0.25 * 0x1p-16 / kCount);
  EXPECT_NEAR(sum / kCount, 1 - kSteps * 0x1p-12, 5 * deviation);
  EXPECT_GT(kSteps * 0x1p-12, 100 * deviation);
}

}  // namespace
}  // namespace adamant::test
