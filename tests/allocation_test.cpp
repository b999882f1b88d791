// step() does not allocate once prepared (promise P5), and whichever allocation of whichever call fails, std::bad_alloc
// comes out and nothing has changed (promise P6). A program of its own, because it counts every allocation of the
// process and makes them fail. Where malloc belongs to a sanitizer, or OpenMP is LLVM's, which calls it for every
// parallel region, only operator new is counted.
#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <iterator>
#include <new>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "adamant/adamant.h"
#include "tests/folder.hpp"
#include "tests/inputs.hpp"
#include "tests/methods.hpp"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define ADAMANT_COUNTS_MALLOC 0
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || __has_feature(memory_sanitizer)
#define ADAMANT_COUNTS_MALLOC 0
#endif
#endif
#if !defined(ADAMANT_COUNTS_MALLOC)
#if defined(__GLIBC__) && !defined(__clang__)
#define ADAMANT_COUNTS_MALLOC 1
#else
#define ADAMANT_COUNTS_MALLOC 0
#endif
#endif

namespace {
std::atomic<std::int64_t> allocations{0};
// Those still to succeed before one fails; negative: none fails. Only what this library asks for itself, operator new
// and aligned_alloc: OpenMP's and C's own callers of malloc have their own ways to fail.
std::atomic<std::int64_t> until_failure{-1};
std::atomic<bool> goes_on_failing{false};  // all further ones too
std::atomic<int> failures{0};

bool fails_now() {
  if (until_failure < 0 || until_failure-- != 0) return false;
  if (goes_on_failing) until_failure = 0;
  ++failures;
  return true;
}
}  // namespace

#if ADAMANT_COUNTS_MALLOC
extern "C" {
void* __libc_malloc(std::size_t size);
void* __libc_calloc(std::size_t count, std::size_t size);
void* __libc_realloc(void* memory, std::size_t size);
void* __libc_memalign(std::size_t alignment, std::size_t size);
void* malloc(std::size_t size) {
  ++allocations;
  return __libc_malloc(size);
}
void* calloc(std::size_t count, std::size_t size) {
  ++allocations;
  return __libc_calloc(count, size);
}
void* realloc(void* memory, std::size_t size) {
  ++allocations;
  return __libc_realloc(memory, size);
}
void* aligned_alloc(std::size_t alignment, std::size_t size) {
  ++allocations;
  return fails_now() ? nullptr : __libc_memalign(alignment, size);
}
}
#endif

__attribute__((noinline)) void* operator new(std::size_t size) {
#if !ADAMANT_COUNTS_MALLOC
  ++allocations;
#endif
  void* const memory = fails_now() ? nullptr : std::malloc(size == 0 ? 1 : size);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}
__attribute__((noinline)) void* operator new(std::size_t size, const std::nothrow_t&) noexcept {
  try {
    return operator new(size);
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
}
__attribute__((noinline)) void operator delete(void* memory, const std::nothrow_t&) noexcept { std::free(memory); }
__attribute__((noinline)) void operator delete(void* memory) noexcept { std::free(memory); }
__attribute__((noinline)) void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }

namespace adamant::test {
namespace {

TEST(Allocation, is_counted) {
  const std::int64_t before = allocations;
  ::operator delete(::operator new(10));
  EXPECT_GT(allocations, before);
}

TEST(Allocation, does_not_happen_in_a_prepared_step_whatever_changes_between_steps) {
  for (const Case& c : cases()) {
    for (const int threads : {1, 3}) {
      Optimizer optimizer(c.make(), Device::cpu(), {.threads = threads, .tile = kChunk});
      const GroupId group = optimizer.add_group(c.make());
      const Fenced<float> parameter(20000), gradient(20000), other(20000);
      const Fenced<double> wide_parameter(300), wide_gradient(300);
      const TensorId id =
          optimizer.add({.name = "x", .parameter = parameter.span(), .gradient = gradient.span(), .group = group});
      optimizer.add({.name = "wide", .parameter = wide_parameter.span(), .gradient = wide_gradient.span()});
      const Method method = c.make();
      const StepControl control{.clip_norm = 1.0, .loss_scale = LossScale{}};
      optimizer.set_control(control);
      optimizer.step();  // prepares, and lets OpenMP make its threads
      const std::int64_t before = allocations;
      for (int t = 0; t < 5; ++t) {
        optimizer.set_options(group, method);
        optimizer.set_gradient(id, t % 2 == 0 ? other.span() : gradient.span());
        optimizer.set_step_count(id, 7);
        optimizer.set_control(t % 2 == 0 ? StepControl{.gradient_scale = 2, .clip_norm = 5.0} : control);
        optimizer.set_control(control);
        optimizer.step();
        optimizer.report();
        optimizer.zero_gradients();
      }
      EXPECT_EQ(allocations - before, 0) << c.name << ", " << threads << " threads";
    }
  }
}

TEST(Allocation, of_the_first_step_is_all_done_by_prepare) {
  const Fenced<float> parameter(20000), gradient(20000);
  Optimizer optimizer(Adam{}, Device::cpu(), {.threads = 1});
  optimizer.add({.name = "x", .parameter = parameter.span(), .gradient = gradient.span()});
  const std::int64_t unprepared = allocations;
  optimizer.prepare();
  EXPECT_GT(allocations, unprepared);
  const std::int64_t before = allocations;
  optimizer.prepare();
  optimizer.step();
  EXPECT_EQ(allocations - before, 0);
}

// --- Every allocation made to fail in turn

namespace fs = std::filesystem;

// An optimizer in the middle of a run: a tensor that steps, one that is frozen, an empty one, and one that has joined
// but is not prepared; and a checkpoint of another state of it.
class Scene {
 public:
  explicit Scene(const fs::path& folder) : file(folder / "checkpoint") {
    optimizer.set_control({.clip_norm = 3.0, .loss_scale = LossScale{.initial = 16, .growth_interval = 3}});
    weights_ = add("weights of the first layer", weights_parameter, weights_gradient, {});
    wide_ = add("wide", wide_parameter, wide_gradient, group);
    add("empty", nothing, nothing, {});
    optimizer.step();
    optimizer.freeze(wide_);
    optimizer.step();
    joined_ = add("joined", joined_parameter, joined_gradient, group);
    optimizer.save(file, {.parameters = true});
    optimizer.thaw(wide_);
    optimizer.step();
    optimizer.freeze(wide_);
    for (const TensorId id : {weights_, wide_, joined_}) {
      for (const std::string& state : state_names(optimizer.options())) states_.push_back(optimizer.state(id, state));
    }
    // Not prepared from here on.
    late_ = add("a tensor that has joined only now", late_parameter, late_gradient, {});
    former_file = contents(file);
  }

  template <typename Real>
  TensorId add(const std::string& name, const Fenced<Real>& parameter, const Fenced<Real>& gradient, GroupId of) {
    return optimizer.add({.name = name,
                          .parameter = parameter.span(),
                          .gradient = gradient.span(),
                          .group = of,
                          .shape = {parameter.count()}});
  }

  // All that can be seen without a call that prepares.
  std::string seen() const {
    std::string all;
    for (const TensorId id : optimizer.tensors()) {
      const TensorSpec& spec = optimizer.tensor(id);
      all += spec.name + " " + std::to_string(static_cast<std::int64_t>(id)) + " " +
             std::to_string(static_cast<int>(spec.group)) + " " + std::to_string(optimizer.step_count(id)) +
             (optimizer.frozen(id) ? " frozen" : "") + " " + std::to_string(spec.shape.size()) + "\n";
      all += bytes(spec.parameter) + bytes(spec.gradient);
      all += std::to_string(reinterpret_cast<std::uintptr_t>(spec.gradient.data()));
    }
    for (const Array& state : states_) all += bytes(state);
    for (std::int32_t i = 0; groups(i); ++i) {
      for (const Option& option : options(optimizer.options(GroupId{i}))) all += option.name + option.value + "\n";
    }
    return all + seen_of_control() + std::to_string(optimizer.state_bytes());
  }

  // What every step does to gradients, and what became of those so far.
  std::string seen_of_control() const {
    const StepReport report = optimizer.report();
    const StepControl& control = optimizer.control();
    return std::to_string(report.gradient_norm) + " " + std::to_string(report.loss_scale) + " " +
           std::to_string(report.good_steps) + " " + std::to_string(report.skipped_steps) + " " +
           std::to_string(control.clip_norm.value_or(0)) + " " + std::to_string(control.seed) + "\n";
  }

  // What comes of it, in values: addresses differ from one scene to the next.
  std::string outcome() {
    std::string all;
    for (int t = 0; t < 2; ++t) optimizer.step();
    optimizer.thaw(wide_);
    optimizer.step();
    for (const TensorId id : optimizer.tensors()) {
      const TensorSpec& spec = optimizer.tensor(id);
      all += spec.name + std::to_string(optimizer.step_count(id)) + bytes(spec.parameter);
      for (const std::string& state : state_names(optimizer.options())) all += bytes(optimizer.state(id, state));
    }
    return all + seen_of_control();
  }

  TensorId weights() const { return weights_; }
  TensorId wide() const { return wide_; }
  TensorId late() const { return late_; }

  Fenced<float> weights_parameter{spread_values<float>(300, 1, -4, 1)},
      weights_gradient{spread_values<float>(300, 2, -4, 1)};
  Fenced<double> wide_parameter{spread_values<double>(70, 3, -4, 1)},
      wide_gradient{spread_values<double>(70, 4, -4, 1)};
  Fenced<float> joined_parameter{spread_values<float>(40, 5, -4, 1)},
      joined_gradient{spread_values<float>(40, 6, -4, 1)};
  Fenced<float> late_parameter{spread_values<float>(40, 5, -4, 1)}, late_gradient{spread_values<float>(40, 6, -4, 1)};
  Fenced<float> new_parameter{spread_values<float>(40, 7, -4, 1)}, new_gradient{spread_values<float>(300, 8, -4, 1)};
  Fenced<float> nothing{0};
  fs::path file;
  std::string former_file;
  Optimizer optimizer{RMSProp{.momentum = 0.9, .centered = true}, Device::cpu(), {.threads = 1}};
  GroupId group = optimizer.add_group(RMSProp{.learning_rate = 0.5, .momentum = 0.5, .centered = true});
  std::optional<Optimizer> other;

 private:
  static std::string bytes(const ConstArray& array) {
    const auto size = static_cast<std::size_t>(array.count() * size_in_bytes(array.type()));
    return size == 0 ? std::string() : std::string(static_cast<const char*>(array.data()), size);
  }
  bool groups(std::int32_t index) const {
    try {
      optimizer.options(GroupId{index});
      return true;
    } catch (const std::invalid_argument&) {
      return false;
    }
  }

  TensorId weights_{}, wide_{}, joined_{}, late_{};
  std::vector<Array> states_;
};

struct Call {
  std::string name;
  bool allocates;
  std::function<void(Scene&)> make;
  friend void PrintTo(const Call& call, std::ostream* out) { *out << call.name; }
};

std::vector<Call> calls() {
  const RMSProp method{.learning_rate = 0.125, .momentum = 0.25, .centered = true};
  return {
      {"constructor", true, [](Scene& s) { s.other.emplace(Adam{}, Device::cpu(), Tuning{.threads = 1}); }},
      {"move", false, [](Scene& s) { s.optimizer = Optimizer(std::move(s.optimizer)); }},
      {"add_group", true, [=](Scene& s) { s.optimizer.add_group(method); }},
      {"add", true,
       [](Scene& s) {
         s.add("a name that is longer than a short string", s.new_parameter, s.joined_gradient, s.group);
       }},
      {"remove", false, [](Scene& s) { s.optimizer.remove(s.weights()); }},
      {"remove_unprepared", false, [](Scene& s) { s.optimizer.remove(s.late()); }},
      {"find", false, [](Scene& s) { s.optimizer.find("wide"); }},
      {"tensors", true, [](Scene& s) { static_cast<void>(s.optimizer.tensors()); }},
      {"tensor", false, [](Scene& s) { s.optimizer.tensor(s.wide()); }},
      {"freeze", false, [](Scene& s) { s.optimizer.freeze(s.weights()); }},
      {"thaw", false, [](Scene& s) { s.optimizer.thaw(s.wide()); }},
      {"set_group", true, [](Scene& s) { s.optimizer.set_group(s.weights(), s.group); }},
      {"set_gradient", false, [](Scene& s) { s.optimizer.set_gradient(s.weights(), s.new_gradient.span()); }},
      {"set_options", false, [=](Scene& s) { s.optimizer.set_options(s.group, method); }},
      {"set_option_by_number", true, [](Scene& s) { s.optimizer.set_option(s.group, "weight_decay", 0.5); }},
      {"set_option_by_text", true, [](Scene& s) { s.optimizer.set_option(s.group, "epsilon", "0.5"); }},
      {"set_learning_rate", true, [](Scene& s) { s.optimizer.set_learning_rate(s.group, 0.75); }},
      {"set_control", false, [](Scene& s) { s.optimizer.set_control({.clip_norm = 1.0, .seed = 7}); }},
      {"set_control_without_the_norm", false, [](Scene& s) { s.optimizer.set_control({.clip_value = 0.25}); }},
      {"prepare", true, [](Scene& s) { s.optimizer.prepare(); }},
      {"step", true, [](Scene& s) { s.optimizer.step(); }},
      {"zero_gradients", false, [](Scene& s) { s.optimizer.zero_gradients(); }},
      {"set_step_count", false, [](Scene& s) { s.optimizer.set_step_count(s.wide(), 9); }},
      {"state", true, [](Scene& s) { s.optimizer.state(s.late(), "momentum_buffer"); }},
      {"save", true, [](Scene& s) { s.optimizer.save(s.file); }},
      {"save_without_parameters", true, [](Scene& s) { s.optimizer.save(s.file, {.parameters = false}); }},
      {"load", true, [](Scene& s) { s.optimizer.load(s.file, {.allow_missing = true}); }},
      {"make_method", true,
       [](Scene&) {
         make_method("rmsprop", {{"decay", "0.95"}, {"epsilon_placement", "outside_root"}});
       }},
      {"options", true, [](Scene& s) { options(s.optimizer.options()); }},
      {"state_names", true, [](Scene& s) { state_names(s.optimizer.options()); }},
      {"method_names", true, [](Scene&) { method_names(); }},
      {"simd_levels", true, [](Scene&) { simd_levels(); }},
  };
}

class AllocationFailures {
 protected:
  // Makes the call with the nth allocation failing; whether it failed, and with what.
  enum class Ended { well, with_bad_alloc, otherwise };
  static Ended with_failure(std::int64_t nth, const std::function<void()>& call) {
    Ended ended = Ended::well;
    until_failure = nth;
    try {
      call();
    } catch (const std::bad_alloc&) {
      ended = Ended::with_bad_alloc;
    } catch (...) {
      ended = Ended::otherwise;
    }
    until_failure = -1;
    return ended;
  }

  const Folder own_folder;
  const fs::path folder = own_folder.path();
};

class FailingAllocation : public AllocationFailures, public testing::TestWithParam<Call> {};

TEST_P(FailingAllocation, changes_nothing_whichever_it_is) {
  const Call& call = GetParam();
  // What comes of the scene without the call, and with it.
  Scene without(folder), with(folder);
  const std::string outcome_without = without.outcome();
  call.make(with);
  const std::string outcome_with = with.outcome();

  int refused = 0;
  bool failed = true;
  for (std::int64_t nth = 0; failed; ++nth) {
    ASSERT_LT(nth, 10000);
    for (const bool again : {false, true}) {
      Scene scene(folder);
      const std::string before = scene.seen();
      const int failures_before = failures;
      const Ended ended = with_failure(nth, [&] { call.make(scene); });
      failed = failures > failures_before;
      ASSERT_NE(ended, Ended::otherwise) << "allocation " << nth;
      // Some code asks for more than it needs and does with less: std::stable_sort.
      if (ended == Ended::well) {
        EXPECT_EQ(scene.outcome(), outcome_with) << "allocation " << nth;
        continue;
      }
      ++refused;
      ASSERT_TRUE(scene.seen() == before) << "allocation " << nth << " has changed something";
      EXPECT_TRUE(contents(scene.file) == scene.former_file) << "allocation " << nth;
      ASSERT_EQ(std::distance(fs::directory_iterator(folder), {}), 1) << "allocation " << nth << " left a file";
      // And it has not changed what cannot be seen: the call can be made again, or left.
      if (again) call.make(scene);
      EXPECT_TRUE(scene.outcome() == (again ? outcome_with : outcome_without)) << "allocation " << nth << again;
    }
  }
  EXPECT_EQ(refused > 0, call.allocates) << refused;
}

// A mistake that cannot be described for want of memory is no less refused.
class FailingDescription : public AllocationFailures, public testing::Test {};

TEST_F(FailingDescription, of_a_mistake_changes_nothing) {
  const std::vector<std::function<void(Scene&)>> mistakes{
      [](Scene& s) { s.add("wide", s.new_parameter, s.joined_gradient, {}); },
      [](Scene& s) { s.add("new", s.weights_parameter, s.new_gradient, {}); },
      [](Scene& s) { s.optimizer.set_learning_rate({}, -1.0); },
      [](Scene& s) { s.optimizer.set_option({}, "beta1", "0.5"); },
      [](Scene& s) { s.optimizer.set_options({}, Adam{}); },
      [](Scene& s) { s.optimizer.find("nobody at all of such a long name"); },
      [](Scene& s) { s.optimizer.set_group(s.wide(), GroupId{77}); },
      [](Scene& s) { s.optimizer.load(s.file); },  // one tensor is not in the file
      [](Scene& s) { s.optimizer.load(s.file.parent_path() / "nothing"); },
      [](Scene& s) { s.optimizer.save(s.file.parent_path() / "nowhere" / "file"); },
  };
  for (std::size_t i = 0; i < mistakes.size(); ++i) {
    int refused = 0;
    bool failed = true;
    for (std::int64_t nth = 0; failed; ++nth) {
      Scene scene(folder);
      const std::string before = scene.seen();
      const int failures_before = failures;
      const Ended ended = with_failure(nth, [&] { mistakes[i](scene); });
      failed = failures > failures_before;
      ASSERT_NE(ended, Ended::well) << "mistake " << i << ", allocation " << nth;
      if (ended == Ended::with_bad_alloc) ++refused;
      ASSERT_TRUE(scene.seen() == before) << "mistake " << i << ", allocation " << nth;
      EXPECT_TRUE(contents(scene.file) == scene.former_file) << "mistake " << i << ", allocation " << nth;
    }
    EXPECT_GT(refused, 0) << "mistake " << i;
  }
}

INSTANTIATE_TEST_SUITE_P(Calls, FailingAllocation, testing::ValuesIn(calls()),
                         [](const auto& info) { return info.param.name; });

// --- Through the C interface, out of which no exception may come

// What another optimizer in the middle of a run looks like from there.
class SceneInC {
 public:
  explicit SceneInC(const fs::path& folder) : file((folder / "checkpoint in C").string()) {
    const adamant_option options[] = {{"momentum", 0.9, nullptr}, {"centered", 0, "true"}};
    adamant_settings settings{};
    settings.struct_size = sizeof settings;
    settings.threads = 1;
    check(adamant_create("rmsprop", options, 2, &settings, &optimizer));
    check(add("weights of the first layer, a long name", weights, gradient, &id));
    check(adamant_step(optimizer, nullptr));
    check(adamant_save(optimizer, file.c_str(), nullptr, nullptr));
    check(adamant_step(optimizer, nullptr));
    check(add("a tensor that has joined only now", late, late_gradient, nullptr));
  }
  ~SceneInC() { adamant_destroy(optimizer); }
  SceneInC(const SceneInC&) = delete;
  SceneInC& operator=(const SceneInC&) = delete;

  adamant_status add(const char* name, const Fenced<float>& parameter, const Fenced<float>& of,
                     std::int64_t* added) const {
    adamant_tensor tensor{};
    tensor.struct_size = sizeof tensor;
    tensor.name = name;
    tensor.parameter = {parameter.data(), parameter.count(), ADAMANT_FLOAT32, 0};
    tensor.gradient = {of.data(), of.count(), ADAMANT_FLOAT32, 0};
    return adamant_add(optimizer, &tensor, added);
  }
  static void check(adamant_status status) { ASSERT_EQ(status, ADAMANT_SUCCESS) << adamant_last_error(); }

  // All that can be seen without a call that prepares, and then, of what comes of it.
  std::string seen() const {
    std::int64_t steps = 0, bytes = 0;
    std::size_t tensors = 0;
    const char *option = nullptr, *decay = nullptr;
    check(adamant_step_count(optimizer, id, nullptr, &steps));
    check(adamant_state_bytes(optimizer, &bytes));
    check(adamant_tensors(optimizer, nullptr, 0, &tensors));
    check(adamant_get_option(optimizer, 0, "learning_rate", &option));
    std::string all =
        std::to_string(steps) + " " + std::to_string(bytes) + " " + std::to_string(tensors) + " " + option;
    check(adamant_get_option(optimizer, 0, "weight_decay", &decay));
    return all + decay + bytes_of(weights) + bytes_of(gradient) + bytes_of(late) + contents(file);
  }
  std::string outcome() const {
    check(adamant_step(optimizer, nullptr));
    check(adamant_step(optimizer, nullptr));
    return seen();
  }
  static std::string bytes_of(const Fenced<float>& array) {
    return {reinterpret_cast<const char*>(array.data()), static_cast<std::size_t>(array.count()) * sizeof(float)};
  }

  Fenced<float> weights{spread_values<float>(300, 1, -4, 1)}, gradient{spread_values<float>(300, 2, -4, 1)};
  Fenced<float> late{spread_values<float>(40, 3, -4, 1)}, late_gradient{spread_values<float>(40, 4, -4, 1)};
  Fenced<float> another{spread_values<float>(40, 5, -4, 1)};
  std::string file;
  adamant_optimizer* optimizer = nullptr;
  std::int64_t id = -1;
};

struct CallInC {
  std::string name;
  std::function<adamant_status(SceneInC&)> make;
  adamant_status ends = ADAMANT_SUCCESS;  // where there is memory
  friend void PrintTo(const CallInC& call, std::ostream* out) { *out << call.name; }
};

std::vector<CallInC> calls_in_c() {
  static constexpr adamant_option kOptions[] = {{"momentum", 0.5, nullptr}, {"centered", 0, "true"}};
  static const char* const kNames[] = {"a name that is longer than a short string"};
  return {
      {"method_name",
       [](SceneInC&) {
         const char* name = nullptr;
         return adamant_method_name(0, &name);
       }},
      {"simd_available",
       [](SceneInC&) {
         std::int32_t available = 0;
         return adamant_simd_available(ADAMANT_SIMD_BASELINE, &available);
       }},
      {"create",
       [](SceneInC&) {
         adamant_optimizer* made = nullptr;
         const adamant_status status = adamant_create("rmsprop", kOptions, 2, nullptr, &made);
         EXPECT_EQ(made == nullptr, status != ADAMANT_SUCCESS);
         adamant_destroy(made);
         return status;
       }},
      {"add_group",
       [](SceneInC& s) {
         std::int32_t group = 0;
         return adamant_add_group(s.optimizer, kOptions, 2, &group);
       }},
      {"add", [](SceneInC& s) { return s.add(kNames[0], s.another, s.late_gradient, nullptr); }},
      {"tensors",
       [](SceneInC& s) {
         std::size_t count = 0;
         std::int64_t ids[2];
         return adamant_tensors(s.optimizer, ids, 2, &count);
       }},
      {"option_at",
       [](SceneInC& s) {
         const char* name = nullptr;
         return adamant_option_at(s.optimizer, 0, 1, &name, nullptr, nullptr);
       }},
      {"get_option",
       [](SceneInC& s) {
         const char* value = nullptr;
         return adamant_get_option(s.optimizer, 0, "epsilon_placement", &value);
       }},
      {"set_options", [](SceneInC& s) { return adamant_set_options(s.optimizer, 0, kOptions, 2, nullptr); }},
      {"set_option", [](SceneInC& s) { return adamant_set_option(s.optimizer, 0, "weight_decay", "0.5", nullptr); }},
      {"set_learning_rate", [](SceneInC& s) { return adamant_set_learning_rate(s.optimizer, 0, 0.75, nullptr); }},
      {"prepare", [](SceneInC& s) { return adamant_prepare(s.optimizer, nullptr); }},
      {"step", [](SceneInC& s) { return adamant_step(s.optimizer, nullptr); }},
      {"state",
       [](SceneInC& s) {
         adamant_array state{};
         return adamant_state(s.optimizer, s.id, "square_avg", &state);
       }},
      {"save", [](SceneInC& s) { return adamant_save(s.optimizer, s.file.c_str(), nullptr, nullptr); }},
      {"load",
       [](SceneInC& s) {
         adamant_load_options allowed{};
         allowed.struct_size = sizeof allowed;
         allowed.allow_missing = 1;
         return adamant_load(s.optimizer, s.file.c_str(), &allowed, nullptr);
       }},
      {"a_mistake", [](SceneInC& s) { return s.add("", s.another, s.late_gradient, nullptr); },
       ADAMANT_INVALID_ARGUMENT},
      {"a_file_that_does_not_fit",
       [](SceneInC& s) { return adamant_load(s.optimizer, s.file.c_str(), nullptr, nullptr); }, ADAMANT_NOT_LOADED},
  };
}

class FailingAllocationInC : public testing::TestWithParam<CallInC> {
 protected:
  const Folder own_folder;
};

TEST_P(FailingAllocationInC, is_a_status_and_changes_nothing_whichever_it_is) {
  const CallInC& call = GetParam();
  const fs::path folder = own_folder.path();
  SceneInC without(folder), with(folder);
  const std::string outcome_without = without.outcome();
  ASSERT_EQ(call.make(with), call.ends) << adamant_last_error();
  const std::string outcome_with = with.outcome();
  int refused = 0;
  for (const bool for_good : {false, true}) {
    bool failed = true;
    for (std::int64_t nth = 0; failed; ++nth) {
      ASSERT_LT(nth, 10000);
      SceneInC scene(folder);
      const std::string before = scene.seen();
      const int failures_before = failures;
      goes_on_failing = for_good;
      until_failure = nth;
      const adamant_status status = call.make(scene);
      until_failure = -1;
      goes_on_failing = false;
      failed = failures > failures_before;
      if (status == call.ends && status == ADAMANT_SUCCESS) {
        EXPECT_EQ(scene.outcome(), outcome_with) << nth;
        continue;
      }
      ASSERT_TRUE(status == ADAMANT_OUT_OF_MEMORY || status == call.ends) << nth << ": " << adamant_last_error();
      if (status == ADAMANT_OUT_OF_MEMORY) {
        ++refused;
        EXPECT_TRUE(std::string(adamant_last_error()).starts_with("adamant: out of memory")) << adamant_last_error();
      }
      ASSERT_TRUE(scene.seen() == before) << nth << " has changed something";
      EXPECT_EQ(scene.outcome(), outcome_without) << nth;
    }
  }
  // The names of methods are made once in a process, and the first to ask may have been another test.
  EXPECT_TRUE(refused > 0 || call.name == "method_name");
}

INSTANTIATE_TEST_SUITE_P(Calls, FailingAllocationInC, testing::ValuesIn(calls_in_c()),
                         [](const auto& info) { return info.param.name; });

// Nor for the words.
TEST(LastError, of_a_text_that_there_is_no_memory_for_says_so) {
  const std::string long_name(100, 'x');
  adamant_optimizer* made = nullptr;
  std::set<std::string> seen;
  for (std::int64_t nth = 0; nth < 50; ++nth) {
    goes_on_failing = true;
    until_failure = nth;
    const adamant_status status = adamant_create(long_name.c_str(), nullptr, 0, nullptr, &made);
    until_failure = -1;
    goes_on_failing = false;
    EXPECT_TRUE(status == ADAMANT_OUT_OF_MEMORY || status == ADAMANT_INVALID_ARGUMENT);
    seen.insert(adamant_last_error());
  }
  EXPECT_EQ(seen.size(), 3U);
  EXPECT_TRUE(seen.contains("adamant: out of memory for the text of this error"));
}

}  // namespace
}  // namespace adamant::test
