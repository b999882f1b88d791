// Promises P1, P2 and P8 on the CPU: the same bits at every SIMD level, thread count, tile size and misalignment, for
// sizes around every vector width and tile edge, and no write outside a buffer.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "tests/inputs.hpp"
#include "tests/methods.hpp"

namespace adamant::test {
namespace {

#if ADAMANT_SANITIZED
constexpr int kSteps = 4;  // where each takes long, and what a sanitizer would see happens in every one
#else
constexpr int kSteps = 20;
#endif

constexpr std::int64_t kSmallSizes[] = {0, 1, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65};
constexpr std::int64_t kLargeSizes[] = {4095, 4096, 4097, 65535, 65536, 65537, 200001};

std::vector<std::int64_t> all_sizes() {
  std::vector<std::int64_t> sizes(std::begin(kLargeSizes), std::end(kLargeSizes));
  sizes.insert(sizes.begin(), std::begin(kSmallSizes), std::end(kSmallSizes));
  sizes.push_back(0);  // an empty tensor last, too
  return sizes;
}
std::vector<std::int64_t> small_sizes() {
  std::vector<std::int64_t> sizes(std::begin(kSmallSizes), std::end(kSmallSizes));
  sizes.push_back(40961);  // with this one there is enough to do for several threads
  sizes.push_back(0);
  return sizes;
}

// Where a tensor's parameter and gradient begin, in elements from a 64-byte boundary.
struct Layout {
  int parameter = 0;
  int gradient = 0;
};

struct Arrangement {
  Tuning tuning;
  Layout layout;  // of the first tensor; the others follow with other offsets where `staggered`
  bool staggered = false;
};

std::string describe(const Arrangement& a) {
  return std::string(name(*a.tuning.simd)) + ", " + std::to_string(a.tuning.threads) + " threads, tile " +
         std::to_string(a.tuning.tile) + ", offsets " + std::to_string(a.layout.parameter) + " and " +
         std::to_string(a.layout.gradient) + (a.staggered ? ", staggered" : "");
}

// Everything that `kSteps` steps of a list of tensors made, one array a tensor.
template <typename Real>
std::vector<std::vector<Real>> run(const Case& c, const std::vector<std::int64_t>& sizes, const Arrangement& how) {
  Optimizer optimizer(c.make(), Device::cpu(), how.tuning);
  EXPECT_EQ(optimizer.simd(), *how.tuning.simd) << "the path that ran";
  EXPECT_EQ(optimizer.threads(), how.tuning.threads);
  std::vector<Fenced<Real>> parameters;
  std::vector<Fenced<Real>> gradients;
  std::vector<TensorId> ids;
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    const int shift = how.staggered ? static_cast<int>(i) : 0;
    parameters.emplace_back(spread_values<Real>(sizes[i], i + 1, -4, 1), (how.layout.parameter + 3 * shift) % 16);
    gradients.emplace_back(spread_values<Real>(sizes[i], 1000 + i, -8, 2), (how.layout.gradient + 5 * shift) % 16);
    ids.push_back(optimizer.add({.name = std::to_string(i),
                                 .parameter = parameters.back().span(),
                                 .gradient = std::span<const Real>(gradients.back().span())}));
  }
  for (int t = 0; t < kSteps; ++t) {
    // Another gradient each time, exactly made of the last: the sign turned at times, halved, doubled.
    for (std::size_t i = 0; t > 0 && i < sizes.size(); ++i) {
      const auto factor = static_cast<Real>(t % 3 == 0 ? -2 : (t % 3 == 1 ? 0.5 : 1));
      for (Real& g : gradients[i].span()) g *= factor;
    }
    optimizer.step();
  }
  std::vector<std::vector<Real>> results;
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    EXPECT_TRUE(parameters[i].zones_untouched()) << sizes[i] << " elements, " << describe(how);
    EXPECT_TRUE(gradients[i].zones_untouched()) << sizes[i] << " elements, " << describe(how);
    EXPECT_EQ(optimizer.step_count(ids[i]), kSteps) << sizes[i] << " elements";
    std::vector<Real> all = parameters[i].values();
    for (const std::string& state : state_names(c.make())) {
      const Array array = optimizer.state(ids[i], state);
      EXPECT_EQ(array.count(), sizes[i]);
      const Real* const first = array.template as<Real>();
      if (sizes[i] > 0) all.insert(all.end(), first, first + sizes[i]);
    }
    results.push_back(std::move(all));
  }
  return results;
}

const Arrangement kPlain{.tuning = {.threads = 1, .tile = kChunk, .simd = SimdLevel::baseline}, .layout = {}};

template <typename Real>
void expect_same(const std::vector<std::vector<Real>>& expected, const std::vector<std::vector<Real>>& got,
                 const std::vector<std::int64_t>& sizes, const std::string& what) {
  ASSERT_EQ(expected.size(), got.size());
  for (std::size_t i = 0; i < expected.size(); ++i) {
    ASSERT_TRUE(same_bits(expected[i], got[i])) << "tensor " << i << " of " << sizes[i] << " elements, " << what;
  }
}

void sweep(const TypedCase& c, const std::vector<std::int64_t>& sizes, const std::vector<int>& threads,
           const std::vector<std::int64_t>& tiles) {
  with_type(c.type, [&]<typename Real>(Real) {
    const auto expected = run<Real>(c.method_case, sizes, kPlain);
    for (const SimdLevel level : simd_levels()) {
      for (const int thread_count : threads) {
        for (const std::int64_t tile : tiles) {
          const Arrangement how{.tuning = {.threads = thread_count, .tile = tile, .simd = level},
                                .layout = {.parameter = thread_count, .gradient = 1},
                                .staggered = thread_count != 1};
          expect_same(expected, run<Real>(c.method_case, sizes, how), sizes, describe(how));
        }
      }
    }
  });
}

class BitsOfEveryRule : public testing::TestWithParam<TypedCase> {};

TEST_P(BitsOfEveryRule, depend_on_neither_simd_threads_nor_tile) {
  sweep(GetParam(), all_sizes(), {1, 3}, {kChunk, 65536});
}

TEST_P(BitsOfEveryRule, Full_depend_on_neither_simd_threads_nor_tile) {
  sweep(GetParam(), all_sizes(), {1, 2, 3, 5}, {kChunk, 2 * kChunk, 65536});
}

// 256 tensors with the same numbers, one for each pair of offsets from a 64-byte boundary.
TEST_P(BitsOfEveryRule, depend_on_no_misalignment_of_parameter_or_gradient) {
  const Case& c = GetParam().method_case;
  with_type(GetParam().type, [&]<typename Real>(Real) {
    constexpr std::int64_t kCount = 67;
    const auto initial = spread_values<Real>(kCount, 1, -4, 1);
    const auto g = spread_values<Real>(kCount, 2, -8, 2);
    for (const SimdLevel level : simd_levels()) {
      Optimizer optimizer(c.make(), Device::cpu(), {.threads = 1, .simd = level});
      ASSERT_EQ(optimizer.simd(), level);
      std::vector<Fenced<Real>> parameters;
      std::vector<Fenced<Real>> gradients;
      for (int left = 0; left < 16; ++left) {
        for (int right = 0; right < 16; ++right) {
          parameters.emplace_back(initial, left);
          gradients.emplace_back(g, right);
          optimizer.add({.name = std::to_string(left) + " " + std::to_string(right),
                         .parameter = parameters.back().span(),
                         .gradient = gradients.back().span()});
        }
      }
      for (int t = 0; t < kSteps; ++t) optimizer.step();
      const std::vector<TensorId> ids = optimizer.tensors();
      for (std::size_t i = 0; i < ids.size(); ++i) {
        SCOPED_TRACE(testing::Message() << name(level) << ", offsets " << optimizer.tensor(ids[i]).name);
        ASSERT_FALSE(same_bits(parameters[i].values(), initial));
        ASSERT_TRUE(same_bits(parameters[0].values(), parameters[i].values()));
        ASSERT_TRUE(same_bits(gradients[i].values(), g)) << "a gradient is only read";
        ASSERT_TRUE(parameters[i].zones_untouched());
        ASSERT_TRUE(gradients[i].zones_untouched());
        for (const std::string& state : state_names(c.make())) {
          const auto span_of = [&](TensorId id) {
            return std::span<const Real>(optimizer.state(id, state).template as<Real>(), kCount);
          };
          ASSERT_TRUE(same_bits(span_of(ids[0]), span_of(ids[i]))) << state;
        }
      }
    }
  });
}

INSTANTIATE_TEST_SUITE_P(Rules, BitsOfEveryRule, testing::ValuesIn(typed(one_case_per_rule())), test_name);

class BitsOfEveryCase : public testing::TestWithParam<TypedCase> {};

TEST_P(BitsOfEveryCase, depend_on_neither_simd_nor_threads) { sweep(GetParam(), small_sizes(), {1, 3}, {kChunk}); }

INSTANTIATE_TEST_SUITE_P(Table, BitsOfEveryCase, testing::ValuesIn(typed(cases())), test_name);

TEST(SimdLevels, baseline_is_first_and_the_best_is_what_an_optimizer_takes) {
  const std::vector<SimdLevel> levels = simd_levels();
  ASSERT_FALSE(levels.empty());
  EXPECT_EQ(levels.front(), SimdLevel::baseline);
  EXPECT_EQ(Optimizer(Adam{}).simd(), levels.back());
#if defined(__x86_64__)
  EXPECT_EQ(levels.size() > 1, __builtin_cpu_supports("avx2") != 0);
#endif
}

}  // namespace
}  // namespace adamant::test
