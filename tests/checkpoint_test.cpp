// Checkpoints: a run that is saved and loaded goes on with the same bits, what is in the file, and every way in which a
// file can fail to be the right one.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <limits>
#include <list>
#include <map>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "host/safetensors.hpp"
#include "tests/folder.hpp"
#include "tests/inputs.hpp"
#include "tests/methods.hpp"
#include "tests/refusal.hpp"
#include "tests/seal.hpp"
#include "tests/single_tensor.hpp"

namespace adamant::test {
namespace {

namespace fs = std::filesystem;
using Strings = std::vector<std::string>;

void write_file(const fs::path& path, const std::string& bytes) {
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  ASSERT_TRUE(file.flush());
}

// A run of five tensors of both types and of two groups: one joins late, one is frozen for a while, one is empty. The
// gradients of a step depend on nothing but the step and the tensor, so two runs can be compared from any step on.
class Training {
 public:
  enum class Order { forward, backward };

  explicit Training(const Method& method, Order order = Order::forward, const Tuning& tuning = {})
      : optimizer(method, Device::cpu(), tuning) {
    Method other = method;
    set_option(other, "learning_rate", "0.0123");
    other_group = optimizer.add_group(other);
    std::vector<std::function<void()>> adds{[&] {
                                              add<float>("wte", {7, 5}, {});
                                            },
                                            [&] { add<double>("bias", {13}, other_group); },
                                            [&] {
                                              add<float>("empty", {0, 4}, {});
                                            },
                                            [&] { add<float>("head.weight", {129}, other_group); }};
    if (order == Order::backward) std::reverse(adds.begin(), adds.end());
    for (const auto& call : adds) call();
  }

  template <typename Real>
  void add(const std::string& name, const std::vector<std::int64_t>& shape, GroupId group) {
    std::int64_t count = 1;
    for (const std::int64_t size : shape) count *= size;
    auto& tensor = [&]() -> Member<Real>& {
      if constexpr (std::is_same_v<Real, float>) {
        return floats.emplace_back();
      } else {
        return doubles.emplace_back();
      }
    }();
    tensor.name = name;
    tensor.parameter = spread_values<Real>(count, seed_of(name), -4, 1);
    tensor.gradient.resize(static_cast<std::size_t>(count));
    optimizer.add(
        {.name = name, .parameter = tensor.parameter, .gradient = tensor.gradient, .group = group, .shape = shape});
  }

  void add_late() { add<float>("late", {3, 2, 2}, {}); }

  void step(int t) {
    const auto fill = [t](auto& members) {
      for (auto& member : members) {
        using Real = typename std::decay_t<decltype(member.gradient)>::value_type;
        const auto values = spread_values<Real>(static_cast<std::int64_t>(member.gradient.size()),
                                                seed_of(member.name) + static_cast<std::uint64_t>(t), -6, 1);
        std::copy(values.begin(), values.end(), member.gradient.begin());
      }
    };
    fill(floats);
    fill(doubles);
    optimizer.step();
  }

  // The first half of a run, in which much happens, and the second, in which all of it shows.
  void first_half() {
    for (int t = 1; t <= 7; ++t) {
      if (t == 3) add_late();
      if (t == 4) optimizer.freeze(optimizer.find("bias"));
      if (t == 6) optimizer.set_group(optimizer.find("late"), other_group);
      if (t == 6) optimizer.set_option({}, "learning_rate", 0.1 / 3.0);
      step(t);
    }
  }
  void second_half() {
    for (int t = 8; t <= 14; ++t) {
      if (t == 10) optimizer.thaw(optimizer.find("bias"));
      if (t == 12) optimizer.set_learning_rate(other_group, 1e-3);
      step(t);
    }
  }

  // All that a user can see, by name and so in an order of its own.
  std::map<std::string, std::string> everything() {
    std::map<std::string, std::string> all;
    const auto digest_of = [](const ConstArray& array) {
      return xxh3_text({static_cast<const std::byte*>(array.data()),
                        static_cast<std::size_t>(array.count() * size_in_bytes(array.type()))});
    };
    for (const TensorId id : optimizer.tensors()) {
      const TensorSpec& spec = optimizer.tensor(id);
      all[spec.name] = digest_of(spec.parameter);
      for (const std::string& state : state_names(optimizer.options())) {
        all[spec.name + "." + state] = digest_of(optimizer.state(id, state));
      }
      all[spec.name + " count, group, frozen"] = std::to_string(optimizer.step_count(id)) + " " +
                                                 std::to_string(static_cast<int>(spec.group)) + " " +
                                                 std::to_string(static_cast<int>(optimizer.frozen(id)));
    }
    for (const GroupId group : {GroupId{}, other_group}) {
      for (const Option& option : options(optimizer.options(group))) {
        all["group " + std::to_string(static_cast<int>(group)) + " " + option.name] = option.value;
      }
    }
    return all;
  }

  template <typename Real>
  struct Member {
    std::string name;
    std::vector<Real> parameter;
    std::vector<Real> gradient;
  };
  std::list<Member<float>> floats;
  std::list<Member<double>> doubles;
  Optimizer optimizer;
  GroupId other_group{};
};

// Loading is refused, says all of `parts`, and changes nothing.
void expect_not_loaded(Training& run, const fs::path& path, const Strings& parts, LoadOptions allowed = {}) {
  const auto before = run.everything();
  Strings all = parts;
  all.insert(all.end(), {"adamant: nothing was loaded", path.string()});
  expect_refusal<NotLoaded>([&] { run.optimizer.load(path, allowed); }, all);
  EXPECT_EQ(run.everything(), before);
}

// --- A run goes on as if nothing had been

class Trap13EveryCheckpoint : public testing::TestWithParam<Case> {};

TEST_P(Trap13EveryCheckpoint, continues_the_run_with_the_same_bits_in_a_fresh_object_of_another_order_and_backend) {
  const Method method = GetParam().make();
  Training uninterrupted(method);
  uninterrupted.first_half();
  uninterrupted.second_half();

  const Folder folder;
  const fs::path path = folder / "run.safetensors";
  Training saved(method, Training::Order::forward, {.threads = 1, .simd = SimdLevel::baseline});
  saved.first_half();
  saved.optimizer.save(path);
  Training loaded(method, Training::Order::backward, {.threads = 2, .tile = kChunk});
  loaded.add_late();
  loaded.step(99);  // all of this is to go
  loaded.optimizer.load(path);
  EXPECT_EQ(loaded.everything(), saved.everything());
  loaded.second_half();
  EXPECT_EQ(loaded.everything(), uninterrupted.everything());
  // And the one that saved has not noticed.
  saved.second_half();
  EXPECT_EQ(saved.everything(), uninterrupted.everything());
}

INSTANTIATE_TEST_SUITE_P(Methods, Trap13EveryCheckpoint, testing::ValuesIn(cases()),
                         [](const auto& info) { return info.param.name; });

class Checkpoint : public testing::Test {
 protected:
  Checkpoint() {
    run.add_late();
    for (int t = 1; t <= 3; ++t) run.step(t);
    run.optimizer.freeze(run.optimizer.find("bias"));
    run.optimizer.save(path);
  }

  // Writes the file again with other metadata or arrays, and digests that fit.
  void rewrite(const std::function<void(safetensors::Metadata&, std::vector<safetensors::Entry>&)>& change) {
    rewrite_sealed(path, path, change);
  }

  Folder folder;
  fs::path path = folder / "run.safetensors";
  Training run{Adam{}};
  Training other{Adam{}};
};

TEST_F(Checkpoint, fits_where_one_side_knows_only_the_count) {
  std::vector<float> x(35);
  const std::vector<float> g(35);
  Optimizer flat(Adam{});
  flat.add({.name = "wte", .parameter = x, .gradient = g, .shape = {35}});
  EXPECT_NO_THROW(flat.load(path, {.allow_extra = true})) << "[7, 5] in the file";
  flat.save(folder / "flat");
  Optimizer shaped(Adam{});
  shaped.add({.name = "wte", .parameter = x, .gradient = g, .shape = {7, 5}});
  EXPECT_NO_THROW(shaped.load(folder / "flat")) << "[35] in the file";
}

TEST_F(Checkpoint, is_plain_safetensors_with_states_under_the_names_of_pytorch_and_exact_options) {
  const auto file = safetensors::File::open(path);
  std::vector<std::string> names;
  for (const auto& entry : file.entries()) names.push_back(entry.name);
  // float64 first, so that every array is aligned to its element.
  EXPECT_EQ(names, (Strings{"bias", "bias.exp_avg", "bias.exp_avg_sq", "wte", "wte.exp_avg", "wte.exp_avg_sq", "empty",
                            "empty.exp_avg", "empty.exp_avg_sq", "head.weight", "head.weight.exp_avg",
                            "head.weight.exp_avg_sq", "late", "late.exp_avg", "late.exp_avg_sq"}));
  for (const auto& entry : file.entries()) {
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(entry.data.data()) % safetensors::type_size_bytes(entry.type), 0U);
  }
  EXPECT_EQ(file.at("wte.exp_avg").shape, (std::vector<std::int64_t>{7, 5}));
  EXPECT_EQ(file.at("bias.exp_avg").type, safetensors::Type::F64);
  EXPECT_EQ(file.read<float>("wte"), run.floats.front().parameter);

  const auto& metadata = file.metadata();
  const auto value = [&](const std::string& key) {
    const auto found = metadata.find(key);
    return found == metadata.end() ? "no " + key : found->second;
  };
  EXPECT_EQ(value("adamant.format"), "2");
  EXPECT_EQ(value("adamant.version"), version());
  EXPECT_EQ(value("adamant.method"), "adam");
  EXPECT_EQ(value("adamant.states"), "exp_avg, exp_avg_sq");
  EXPECT_EQ(value("adamant.parameters"), "true");
  EXPECT_EQ(value("adamant.groups"), "2");
  EXPECT_EQ(value("adamant.group.0.beta1"), "0x1.ccccccccccccdp-1");  // as Python's (0.9).hex()
  EXPECT_EQ(value("adamant.group.1.learning_rate"), "0x1.930be0ded288dp-7");
  EXPECT_EQ(value("adamant.group.0.amsgrad"), "false");
  EXPECT_EQ(value("adamant.step.late"), "3");
  EXPECT_EQ(value("adamant.group_of.bias"), "1");
  EXPECT_EQ(value("adamant.frozen.bias"), "true");
  EXPECT_EQ(value("adamant.frozen.wte"), "false");
  EXPECT_EQ(value("adamant.seed"), "0");
  EXPECT_EQ(value("adamant.identity.wte"), "0");  // in the order they were added
  EXPECT_EQ(value("adamant.identity.late"), "4");
  for (const auto& entry : file.entries()) {
    EXPECT_EQ(value("adamant.xxh3." + entry.name), xxh3_text(entry.data)) << entry.name;
  }
  EXPECT_EQ(value("adamant.next_identity"), "5");
  EXPECT_EQ(metadata.size(), 8 + 2 * options(Adam{}).size() + 4 * 5 + 15 + 1);
}

// Arrays are read in pieces: two whole ones here and a part of one, of which no two are alike.
TEST(CheckpointOfLargeArrays, has_every_piece_of_them) {
  constexpr std::int64_t kCount = 600'001;
  const Folder folder;
  SingleTensor<float> tensor(Momentum{}, spread_values<float>(kCount, 1, -4, 1));
  tensor.step(spread_values<float>(kCount, 2, -4, 1));
  tensor.optimizer.save(folder / "run");
  const auto file = safetensors::File::open(folder / "run");
  std::vector<float> saved = file.read<float>("x");
  for (const float value : file.read<float>("x.momentum_buffer")) saved.push_back(value);
  EXPECT_TRUE(same_bits(saved, tensor.everything()));
}

TEST_F(Checkpoint, of_the_same_run_is_the_same_bytes) {
  run.optimizer.save(folder / "again");
  EXPECT_EQ(contents(folder / "again"), contents(path));
}

TEST_F(Checkpoint, without_parameters_leaves_them_alone) {
  run.optimizer.save(path, {.parameters = false});
  EXPECT_EQ(safetensors::File::open(path).find("wte"), nullptr);
  other.add_late();
  const std::vector<float> before = other.floats.front().parameter;
  other.optimizer.load(path);
  EXPECT_EQ(other.floats.front().parameter, before);
  EXPECT_EQ(other.optimizer.step_count(other.optimizer.find("wte")), 3);
  auto states = other.everything();
  for (const auto& [name, digest] : run.everything()) {
    const bool is_state = name.find('.') != std::string::npos && name != "head.weight";
    if (is_state) {
      EXPECT_EQ(states[name], digest) << name;
    }
  }
}

TEST_F(Checkpoint, adds_the_groups_that_are_lacking_and_leaves_those_it_does_not_have) {
  std::vector<float> parameter(35, 1.0F);
  std::vector<float> gradient(35, 1.0F);
  Optimizer few(Adam{});
  few.add({.name = "wte", .parameter = parameter, .gradient = gradient});
  few.load(path, {.allow_extra = true});
  EXPECT_EQ(std::get<Adam>(few.options(GroupId{1})).learning_rate, 0.0123);
  EXPECT_THROW(few.options(GroupId{2}), std::invalid_argument);
  EXPECT_EQ(few.groups(), (std::vector<GroupId>{GroupId{}, GroupId{1}}));
  EXPECT_EQ(parameter, run.floats.front().parameter);

  few.save(folder / "few");
  const GroupId third = run.optimizer.add_group(Adam{.learning_rate = 0.5});
  run.optimizer.set_learning_rate({}, 0.25);
  run.optimizer.load(folder / "few", {.allow_missing = true});
  EXPECT_EQ(std::get<Adam>(run.optimizer.options(third)).learning_rate, 0.5);
  EXPECT_EQ(std::get<Adam>(run.optimizer.options()).learning_rate, 1e-3);
}

// Into the very object that saved it, whose plan was made since.
TEST_F(Checkpoint, brings_back_groups_and_freezes_that_have_changed_since) {
  for (const bool by_group : {true, false}) {
    Training kept(Adam{});
    Training changed(Adam{});
    for (Training* training : {&kept, &changed}) {
      training->step(1);
      if (by_group) training->optimizer.set_group(training->optimizer.find("wte"), training->other_group);
      if (!by_group) training->optimizer.freeze(training->optimizer.find("wte"));
    }
    changed.optimizer.save(path);
    if (by_group) changed.optimizer.set_group(changed.optimizer.find("wte"), GroupId{});
    if (!by_group) changed.optimizer.thaw(changed.optimizer.find("wte"));
    changed.step(2);
    changed.optimizer.load(path);
    for (Training* training : {&kept, &changed}) training->step(3);
    EXPECT_EQ(changed.everything(), kept.everything()) << by_group;
  }
}

TEST_F(Checkpoint, may_be_saved_onto_the_file_just_loaded_and_onto_one_that_is_mapped) {
  other.add_late();
  other.optimizer.load(path);
  const auto mapped = safetensors::File::open(path);
  const auto before = mapped.read<float>("wte.exp_avg");
  other.step(4);
  other.optimizer.save(path);
  EXPECT_EQ(mapped.read<float>("wte.exp_avg"), before);
  EXPECT_NE(safetensors::File::open(path).read<float>("wte.exp_avg"), before);
  run.optimizer.load(path);
  EXPECT_EQ(run.everything(), other.everything());
}

TEST_F(Checkpoint, loads_states_that_are_set_to_zero_again) {
  Training fresh(Adam{});
  fresh.add_late();
  fresh.optimizer.save(folder / "fresh");
  run.optimizer.load(folder / "fresh");
  EXPECT_EQ(run.everything(), fresh.everything());
}

TEST_F(Checkpoint, of_the_largest_step_count_and_one_more_step_is_read) {
  run.optimizer.set_step_count(run.optimizer.find("wte"), std::int64_t{1} << 62);
  run.step(4);
  run.optimizer.save(path);
  other.add_late();
  other.optimizer.load(path);
  EXPECT_EQ(other.everything(), run.everything());
}

TEST_F(Checkpoint, keeps_step_counts_that_no_float_holds_and_options_that_no_decimal_of_six_digits_does) {
  const std::int64_t count = (std::int64_t{1} << 53) + 1;
  run.optimizer.set_step_count(run.optimizer.find("wte"), count);
  run.optimizer.set_option({}, "beta2", std::nextafter(0.999, 1.0));
  run.optimizer.set_option({}, "epsilon", std::numeric_limits<double>::denorm_min());
  run.optimizer.save(path);
  other.add_late();
  other.optimizer.load(path);
  EXPECT_EQ(other.everything(), run.everything());
  EXPECT_EQ(other.optimizer.step_count(other.optimizer.find("wte")), count);
}

// --- Damage

TEST_F(Checkpoint, with_any_byte_flipped_is_refused_and_the_tensor_named) {
  std::vector<float> parameter(3, 1.0F);
  std::vector<float> gradient(3, 0.5F);
  Optimizer small(Momentum{});
  small.add({.name = "weights", .parameter = parameter, .gradient = gradient});
  small.add({.name = "empty", .parameter = std::span<float>(), .gradient = std::span<float>()});
  small.step();
  small.save(path);
  const std::string whole = contents(path);
  const std::size_t header = safetensors::File::open(path).header().size();
  ASSERT_EQ(whole.size(), header + 6 * sizeof(float));
  const std::vector<float> before = parameter;
  for (std::size_t i = 0; i < whole.size(); ++i) {
    for (const int mask : {0x01, 0x20, 0xFF}) {
      std::string damaged = whole;
      damaged[i] = static_cast<char>(damaged[i] ^ mask);
      write_file(path, damaged);
      try {
        small.load(path);
        ADD_FAILURE() << "byte " << i << " xor " << mask << " was not noticed";
      } catch (const NotLoaded& error) {
        const std::string array = i < header + 3 * sizeof(float) ? "\"weights\"" : "\"weights.momentum_buffer\"";
        if (i >= header) {
          EXPECT_NE(std::string(error.what()).find("tensor \"weights\": " + array + " is damaged"), std::string::npos)
              << error.what();
        }
      }
      ASSERT_EQ(parameter, before);
    }
  }
  write_file(path, whole);
  EXPECT_NO_THROW(small.load(path));
}

TEST_F(Checkpoint, cut_short_or_with_something_behind_it_is_refused) {
  const std::string whole = contents(path);
  for (std::size_t size = 0; size < whole.size(); size += 1 + size / 50) {
    write_file(path, whole.substr(0, size));
    expect_not_loaded(run, path, {});
  }
  write_file(path, whole + '\0');
  expect_not_loaded(run, path, {"follow the last tensor"});
}

TEST_F(Checkpoint, with_arrays_exchanged_is_refused) {
  rewrite_sealed(
      path, path, [](auto&, auto& entries) { std::swap(entries[4].data, entries[5].data); }, Seal::header);
  expect_not_loaded(run, path, {"tensor \"wte\": \"wte.exp_avg\" is damaged", "\"wte.exp_avg_sq\" is damaged"});
}

// --- The wrong file

TEST_F(Checkpoint, of_another_method_or_variant_is_refused) {
  Training adamw{AdamW{}};
  expect_not_loaded(adamw, path, {"it is of method adam", "the optimizer's is adamw"});
  Training amsgrad{Adam{.amsgrad = true}};
  expect_not_loaded(amsgrad, path, {"[exp_avg, exp_avg_sq]", "[exp_avg, exp_avg_sq, max_exp_avg_sq]"});
  Training descent{GradientDescent{}};
  expect_not_loaded(descent, path, {"gradient_descent with states []"});
}

TEST_F(Checkpoint, of_another_format_is_refused_with_the_version_that_wrote_it) {
  rewrite([](auto& metadata, auto&) {
    metadata["adamant.format"] = "3";
    metadata["adamant.version"] = "9.8.7";
  });
  expect_not_loaded(run, path, {"format \"3\"", "adamant 9.8.7", "reads formats 1 and 2"});
}

TEST_F(Checkpoint, of_another_version_of_the_library_and_the_same_format_is_read) {
  rewrite([](auto& metadata, auto&) { metadata["adamant.version"] = "9.8.7"; });
  EXPECT_NO_THROW(run.optimizer.load(path));
}

TEST_F(Checkpoint, lacking_tensors_or_having_others_is_refused_with_a_list_unless_that_is_allowed) {
  other.add<float>("wpe", {4}, {});  // and there is no "late"
  expect_not_loaded(other, path,
                    {"tensor \"wpe\" is not in the file", "tensor \"late\" of the file is not in the optimizer"});
  expect_not_loaded(other, path, {"tensor \"wpe\" is not in the file"}, {.allow_extra = true});
  expect_not_loaded(other, path, {"tensor \"late\" of the file"}, {.allow_missing = true});

  other.step(1);
  auto expected = other.everything();
  other.optimizer.load(path, {.allow_missing = true, .allow_extra = true});
  for (const auto& [name, digest] : run.everything()) {
    if (name.find("late") == std::string::npos) expected[name] = digest;
  }
  EXPECT_EQ(other.everything(), expected);
}

TEST_F(Checkpoint, names_at_most_twenty_of_many_differences) {
  for (int i = 0; i < 30; ++i) other.add<float>("layer" + std::to_string(i), {1}, {});
  expect_not_loaded(other, path, {"\"layer0\"", "\"layer19\"", "and 11 more"});
}

TEST_F(Checkpoint, of_other_types_or_shapes_is_refused) {
  std::vector<float> few(34);
  std::vector<float> right(35);
  std::vector<double> wide(35);
  std::vector<float> gradient(35);
  const auto refused = [&](auto& values, const std::vector<std::int64_t>& shape, const std::string& why) {
    Optimizer optimizer(Adam{});
    auto zeros = values;
    optimizer.add({.name = "wte", .parameter = values, .gradient = zeros, .shape = shape});
    expect_refusal<NotLoaded>([&] { optimizer.load(path, {.allow_extra = true}); }, {why});
    EXPECT_EQ(values, zeros);
  };
  refused(few, {}, "\"wte.exp_avg\" is of shape [7, 5] in the file, [34] is needed");
  refused(few, {2, 17}, "\"wte.exp_avg_sq\" is of shape [7, 5] in the file, [2, 17] is needed");
  refused(right, {5, 7}, "\"wte\" is of shape [7, 5] in the file, [5, 7] is needed");
  refused(right, {7, 5, 1}, "[7, 5, 1] is needed");
  refused(wide, {7, 5}, "\"wte\" is of type F32 in the file, F64 is needed");
  // Who knows only the count takes any shape of it.
  Optimizer flat(Adam{});
  flat.add({.name = "wte", .parameter = right, .gradient = gradient});
  EXPECT_NO_THROW(flat.load(path, {.allow_extra = true}));
  EXPECT_EQ(right, run.floats.front().parameter);
}

TEST_F(Checkpoint, whose_metadata_is_incomplete_or_out_of_range_is_refused_by_key) {
  run.optimizer.save(folder / "good");
  const auto refused = [&](const std::string& key, const std::string& value, const std::string& why) {
    rewrite_sealed(folder / "good", path, [&](auto& metadata, auto&) {
      ASSERT_TRUE(metadata.contains(key)) << key;
      if (value == "remove") {
        metadata.erase(key);
      } else {
        metadata[key] = value;
      }
    });
    expect_not_loaded(run, path, {why});
  };
  refused("adamant.format", "remove", "no \"adamant.format\"");
  refused("adamant.method", "remove", "no \"adamant.method\"");
  refused("adamant.groups", "0", "no group");
  refused("adamant.groups", "3", "no \"adamant.group.2.");
  refused("adamant.groups", "99999999999", "allowed: 0 to 2147483647");
  refused("adamant.group.1.beta1", "remove", "no \"adamant.group.1.beta1\"");
  refused("adamant.group.1.beta1", "0x1p0", "group 1: adamant: adam: beta1 = 1 is not allowed");
  refused("adamant.group.1.beta1", "0x1p", "beta1 = \"0x1p\"");
  refused("adamant.group.0.amsgrad", "true", "ask for other states");
  refused("adamant.group.0.amsgrad", "maybe", "amsgrad");
  refused("adamant.step.wte", "-1", "\"adamant.step.wte\" is \"-1\"");
  refused("adamant.step.wte", "9223372036854775808", "allowed: 0 to 6917529027641081856");
  refused("adamant.step.wte", "3.0", "\"3.0\"");
  refused("adamant.step.wte", "remove", "tensor \"wte\" is not in the file");
  refused("adamant.group_of.wte", "2", "allowed: 0 to 1");
  refused("adamant.group_of.wte", "remove", "no \"adamant.group_of.wte\"");
  refused("adamant.frozen.wte", "yes", "allowed: true or false");
  refused("adamant.parameters", "", "allowed: true or false");
  rewrite_sealed(
      folder / "good", path, [](auto& metadata, auto&) { metadata.erase("adamant.xxh3.wte"); }, Seal::header);
  expect_not_loaded(run, path, {"no \"adamant.xxh3.wte\""});
  rewrite_sealed(folder / "good", path, [](auto& metadata, auto&) { metadata["adamant.group.0.beta3"] = "0x0p+0"; });
  expect_not_loaded(run, path, {"no option \"beta3\""});
}

// What digests cannot hide, because they fit: any key changed, lost or of another's value is refused, or what was
// loaded can be stepped, saved and loaded again.
TEST_F(Checkpoint, with_any_metadata_and_digests_that_fit_is_refused_or_can_be_gone_on_with) {
  run.optimizer.save(folder / "good");
  Random random(run_seed());
  const Strings values{"",
                       "0",
                       "1",
                       "-1",
                       "2",
                       "true",
                       "false",
                       "adam",
                       "adamw",
                       "exp_avg",
                       "nan",
                       "0xinf",
                       "0x1p-1074",
                       "0x1.fffffep+127",
                       "0x1p0",
                       "1e-3",
                       "-0x0p+0",
                       "0x1p999",
                       "\x7f\n",
                       "inside_root",
                       "9223372036854775807",
                       "4611686018427387904",
                       "18446744073709551616"};
  int loaded = 0;
  int refused = 0;
  for (int i = 0; i < 1500; ++i) {
    std::string changes;
    rewrite_sealed(folder / "good", path, [&](auto& metadata, auto& entries) {
      for (int change = 0; change <= random.below(3); ++change) {
        const auto at = std::next(metadata.begin(), random.below(static_cast<std::int64_t>(metadata.size())));
        changes += at->first + " ";
        const std::int64_t kind = random.below(8);
        if (kind == 0 && metadata.size() > 1) {
          metadata.erase(at);
        } else if (kind == 1) {
          at->second = std::next(metadata.begin(), random.below(static_cast<std::int64_t>(metadata.size())))->second;
        } else if (kind == 2) {
          entries[static_cast<std::size_t>(random.below(static_cast<std::int64_t>(entries.size())))].shape = {35};
        } else if (kind == 3 && !at->second.empty()) {
          at->second[static_cast<std::size_t>(random.below(static_cast<std::int64_t>(at->second.size())))] =
              static_cast<char>('0' + random.below(10));
        } else {
          at->second = values[static_cast<std::size_t>(random.below(static_cast<std::int64_t>(values.size())))];
        }
      }
      std::erase_if(entries, [](const auto& entry) {  // of a shape that is not its data's, which write() refuses
        std::int64_t count = 1;
        for (const std::int64_t size : entry.shape) count *= size;
        return count != entry.count();
      });
    });
    Training target{Adam{}};
    target.add_late();
    const auto before = target.everything();
    try {
      target.optimizer.load(path);
      ++loaded;
    } catch (const NotLoaded&) {
      ++refused;
      ASSERT_EQ(target.everything(), before) << changes;
      continue;
    }
    target.step(1);
    target.optimizer.save(folder / "again");
    Training again{Adam{}};
    again.add_late();
    ASSERT_NO_THROW(again.optimizer.load(folder / "again")) << changes;
    ASSERT_EQ(again.everything(), target.everything()) << changes;
  }
  EXPECT_GT(loaded, 50);
  EXPECT_GT(refused, 500);
}

TEST_F(Checkpoint, with_arrays_missing_or_too_many_is_refused) {
  run.optimizer.save(folder / "good");
  rewrite_sealed(folder / "good", path, [](auto&, auto& entries) { entries.erase(entries.begin() + 4); });
  expect_not_loaded(run, path, {"tensor \"wte\": there is no \"wte.exp_avg\" in the file"});
  rewrite_sealed(folder / "good", path, [](auto&, auto& entries) {
    entries.push_back({"wte.max_exp_avg_sq", safetensors::Type::F32, {0}, {}});
    entries.push_back({"stray", safetensors::Type::F32, {0}, {}});
  });
  expect_not_loaded(run, path, {"\"stray\" of the file belongs to no tensor", "\"wte.max_exp_avg_sq\" of the file"});
  EXPECT_NO_THROW(run.optimizer.load(path, {.allow_extra = true}));
}

TEST_F(Checkpoint, that_is_no_file_is_refused) {
  expect_not_loaded(run, folder / "absent", {"No such file"});
  expect_not_loaded(run, folder.path(), {"is a directory"});
  write_file(path, "");
  expect_not_loaded(run, path, {"size is 0 bytes"});
  write_file(path, "{\"not\": \"safetensors\"}");
  expect_not_loaded(run, path, {});
  ASSERT_EQ(::mkfifo((folder / "fifo").c_str(), 0600), 0);
  expect_not_loaded(run, folder / "fifo", {"is a FIFO"});
}

// --- What cannot be saved

void expect_not_saved(Training& run, const fs::path& path, std::errc code, const std::string& part) {
  const auto before = run.everything();
  try {
    run.optimizer.save(path);
    ADD_FAILURE() << path << " was saved";
  } catch (const NotSaved& error) {
    EXPECT_EQ(error.code(), std::make_error_condition(code)) << error.what();
    const std::string text = error.what();
    EXPECT_NE(text.find("adamant: '" + path.string() + "' was not saved"), std::string::npos) << text;
    EXPECT_NE(text.find(part), std::string::npos) << text;
  }
  EXPECT_EQ(run.everything(), before);
}

TEST_F(Checkpoint, is_not_saved_over_a_folder_or_a_device_or_into_a_folder_that_is_not_there) {
  expect_not_saved(run, folder.path(), std::errc::is_a_directory, "not a regular file");
  // Through a link, so that a broken check costs the link and not the machine's device.
  fs::create_symlink("/dev/null", folder / "null");
  expect_not_saved(run, folder / "null", std::errc::not_supported, "not a regular file");
  expect_not_saved(run, folder / "none/run", std::errc::no_such_file_or_directory, "create a file beside it");
  expect_not_saved(run, path / "run", std::errc::not_a_directory, "examine what is there");
}

TEST_F(Checkpoint, is_not_saved_into_a_folder_that_may_not_be_written) {
  const std::string before = contents(path);
  fs::permissions(folder.path(),
                  fs::perms::owner_read | fs::perms::owner_exec | fs::perms::others_read | fs::perms::others_exec);
  const pid_t child = ::fork();  // root may write anywhere, so the test is done by somebody else
  ASSERT_GE(child, 0);
  if (child == 0) {
    if (::getuid() == 0 && ::setuid(65534) != 0) ::_exit(2);
    try {
      run.optimizer.save(path);
      ::_exit(3);
    } catch (const NotSaved& error) {
      ::_exit(error.code() == std::errc::permission_denied ? 0 : 4);
    }
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << WEXITSTATUS(status);
  fs::permissions(folder.path(), fs::perms::owner_all);
  EXPECT_EQ(contents(path), before);
  EXPECT_EQ(std::distance(fs::directory_iterator(folder.path()), {}), 1);
}

TEST_F(Checkpoint, refuses_names_that_would_be_the_same_in_the_file_or_are_not_text) {
  Optimizer optimizer(Momentum{});
  std::vector<float> one(2);
  std::vector<float> two(2);
  std::vector<float> gradient(2);
  optimizer.add({.name = "w", .parameter = one, .gradient = gradient});
  const TensorId clash = optimizer.add({.name = "w.momentum_buffer", .parameter = two, .gradient = gradient});
  const std::string before = contents(path);
  const auto refused = [&](const std::string& why) { expect_refusal([&] { optimizer.save(path); }, {why}); };
  refused("tensor \"w.momentum_buffer\" has the name of the state \"momentum_buffer\" of tensor \"w\"");
  EXPECT_NO_THROW(optimizer.save(folder / "states", {.parameters = false}));
  optimizer.remove(clash);
  const TensorId garbled = optimizer.add({.name = "\xff", .parameter = two, .gradient = gradient});
  refused("is not valid UTF-8");
  optimizer.remove(garbled);
  optimizer.add({.name = "__metadata__", .parameter = two, .gradient = gradient});
  refused("'__metadata__'");
  EXPECT_EQ(contents(path), before);
}

TEST_F(Checkpoint, of_names_with_dots_quotes_and_other_alphabets_finds_them_again) {
  const Strings names{"a", "a.b", "a.exp", "step", "adamant.step.a", "\"quoted\"", "\\", "重み", "\n", "group.0"};
  const auto make = [&](Training& target, bool backward) {
    for (std::size_t i = 0; i < names.size(); ++i) {
      target.add<float>(names[backward ? names.size() - 1 - i : i], {2}, {});
    }
    target.add_late();
  };
  Training first{Adam{}};
  Training second{Adam{}, Training::Order::backward};
  make(first, false);
  make(second, true);
  first.step(1);
  first.optimizer.save(path);
  second.optimizer.load(path);
  EXPECT_EQ(second.everything(), first.everything());
}

TEST_F(Checkpoint, with_a_null_byte_in_its_path_is_neither_saved_nor_loaded) {
  const fs::path other_path = folder.path() / std::string("run.safetensors\0.more", 20);
  EXPECT_THROW(run.optimizer.save(other_path), NotSaved);
  EXPECT_THROW(run.optimizer.save(""), NotSaved);
  EXPECT_THROW(run.optimizer.load(other_path), NotLoaded);
}

TEST_F(Checkpoint, with_control_characters_is_refused_in_text_that_a_terminal_can_show) {
  rewrite([](auto& metadata, auto&) {
    metadata["adamant.method"] =
        "\xC2\x9B"
        "31m\xC2\x85\xC3\xA9" +
        std::string(2000, '\x1b') + "\n";
  });
  try {
    run.optimizer.load(path);
    ADD_FAILURE() << "loaded";
  } catch (const NotLoaded& error) {
    const std::string text = error.what();
    EXPECT_LT(text.size(), 2000U);
    EXPECT_NE(text.find("\\x1b"), std::string::npos);
    EXPECT_EQ(std::count(text.begin(), text.end(), '\x1b'), 0);
    EXPECT_NE(text.find("\\xc2\\x9b31m\\xc2\\x85\xC3\xA9"), std::string::npos) << text;  // and \u00E9 as it is
  }
}

// Those that the umask takes from a file when it is made, too.
TEST_F(Checkpoint, keeps_the_permissions_of_the_file_it_replaces) {
  const auto shared = fs::perms::owner_read | fs::perms::owner_write | fs::perms::group_read | fs::perms::group_write;
  fs::permissions(path, shared);
  const mode_t former = ::umask(077);
  run.optimizer.save(path);
  ::umask(former);
  EXPECT_EQ(fs::status(path).permissions(), shared);
}

}  // namespace
}  // namespace adamant::test
