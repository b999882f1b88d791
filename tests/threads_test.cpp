// Different Optimizers in different threads, each with OpenMP threads of its own: the results are those of one after
// the other. Under ThreadSanitizer this is the program that shows data races.
#include <gtest/gtest.h>
#include <unistd.h>

#include <array>
#include <filesystem>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "tests/folder.hpp"
#include "tests/inputs.hpp"
#include "tests/methods.hpp"

namespace adamant::test {
namespace {

// Enough elements for a step to wake its threads.
constexpr std::int64_t kCount = 10 * kChunk + 37;
constexpr int kThreads = 3;

// Two tensors in two groups and what an Optimizer has made of them.
class Training {
 public:
  Training(const Case& c, std::uint64_t seed)
      : case_(c),
        parameter_(spread_values<float>(kCount, seed, -3, 1)),
        gradient_(spread_values<float>(kCount, seed + 1, -3, 0)),
        wide_parameter_(spread_values<double>(kCount, seed + 2, -3, 1)),
        wide_gradient_(spread_values<double>(kCount, seed + 3, -3, 0)) {}

  Optimizer make() {
    Optimizer optimizer(case_.make(), Device::cpu(), {.threads = kThreads, .tile = kChunk});
    const GroupId group = optimizer.add_group(case_.with({{"learning_rate", "0.25"}}).make());
    optimizer.add({.name = "x", .parameter = parameter_.span(), .gradient = gradient_.span(), .group = group});
    optimizer.add({.name = "wide", .parameter = wide_parameter_.span(), .gradient = wide_gradient_.span()});
    return optimizer;
  }

  // Makes, steps, saves, loads and destroys Optimizers; returns the bits of everything.
  std::vector<double> live(const std::filesystem::path& file) {
    Optimizer optimizer = make();
    for (int t = 0; t < 3; ++t) optimizer.step();
    optimizer.save(file);
    optimizer.step();
    optimizer.zero_gradients();
    optimizer.remove(optimizer.find("wide"));
    optimizer.add({.name = "wide", .parameter = wide_parameter_.span(), .gradient = wide_gradient_.span()});
    Optimizer other = make();
    other.load(file);
    optimizer = std::move(other);
    optimizer.set_learning_rate({}, 0.125);
    optimizer.step();
    return everything(optimizer);
  }

  std::vector<double> everything(Optimizer& optimizer) const {
    std::vector<double> all(parameter_.span().begin(), parameter_.span().end());
    all.insert(all.end(), wide_parameter_.span().begin(), wide_parameter_.span().end());
    for (const std::string& state : state_names(optimizer.options())) {
      const Array narrow = optimizer.state(optimizer.find("x"), state);
      all.insert(all.end(), narrow.as<float>(), narrow.as<float>() + narrow.count());
      const Array wide = optimizer.state(optimizer.find("wide"), state);
      all.insert(all.end(), wide.as<double>(), wide.as<double>() + wide.count());
    }
    return all;
  }

 private:
  Case case_;
  Fenced<float> parameter_, gradient_;
  Fenced<double> wide_parameter_, wide_gradient_;
};

void in_two_threads(const std::function<void(std::size_t)>& body) {
  std::thread first([&] { body(0); });
  std::thread second([&] { body(1); });
  first.join();
  second.join();
}

TEST(Threads, two_optimizers_in_two_threads_get_the_bits_of_one_after_the_other) {
  const Folder folder;
  const auto file = [&](std::size_t i) { return folder / ("checkpoint" + std::to_string(i)); };
  const std::vector<Case> rules = one_case_per_rule();
  for (std::size_t r = 0; r < rules.size(); ++r) {
    const std::array<const Case*, 2> chosen{&rules[r], &rules[(r + 1) % rules.size()]};
    std::array<std::vector<double>, 2> expected, actual;
    for (std::size_t i = 0; i < 2; ++i) expected[i] = Training(*chosen[i], 10 * r + i).live(file(i));
    in_two_threads([&](std::size_t i) { actual[i] = Training(*chosen[i], 10 * r + i).live(file(i)); });
    for (std::size_t i = 0; i < 2; ++i) EXPECT_TRUE(same_bits(actual[i], expected[i])) << chosen[i]->name;
  }
}

TEST(Threads, two_optimizers_that_save_to_one_path_leave_the_checkpoint_of_either) {
  const Folder folder;
  const std::filesystem::path file = folder / "checkpoint";
  const Case adam{"adam", "adam", {}};
  std::array<std::vector<double>, 2> expected;
  in_two_threads([&](std::size_t i) {
    Training run(adam, i);
    Optimizer optimizer = run.make();
    for (int t = 0; t < 4; ++t) {
      optimizer.step();
      optimizer.save(file);
    }
    expected[i] = run.everything(optimizer);
  });
  Training run(adam, 7);
  Optimizer optimizer = run.make();
  optimizer.load(file);
  const std::vector<double> loaded = run.everything(optimizer);
  EXPECT_TRUE(same_bits(loaded, expected[0]) || same_bits(loaded, expected[1]));
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder.path()), {}), 1) << "a temporary file was left";
}

// Reading what belongs to the whole library: names, options, instruction sets.
TEST(Threads, methods_are_made_and_options_read_in_two_threads) {
  in_two_threads([](std::size_t) {
    for (const Case& c : cases()) {
      Optimizer optimizer(c.make());
      for (const Option& option : options(optimizer.options())) EXPECT_FALSE(option.value.empty());
      EXPECT_GT(optimizer.threads(), 0);
      EXPECT_THROW(optimizer.find("nobody"), std::invalid_argument);
    }
    EXPECT_FALSE(simd_levels().empty());
  });
}

}  // namespace
}  // namespace adamant::test
