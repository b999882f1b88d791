// Checkpoints of every storage combination: a run goes on with the same bits, what may become of a tensor that has
// other types in the file, and files whose masters, remainders, identities or loss scales are not what they should be.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <list>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "host/convert.hpp"
#include "host/safetensors.hpp"
#include "kernels/storage_types.hpp"
#include "tests/folder.hpp"
#include "tests/inputs.hpp"
#include "tests/methods.hpp"
#include "tests/refusal.hpp"
#include "tests/seal.hpp"
#include "tests/storages.hpp"

namespace adamant::test {
namespace {

namespace fs = std::filesystem;
using kernels::StorageTypes;
using safetensors::File;
using Bytes = std::vector<std::byte>;
using Strings = std::vector<std::string>;

Bytes bytes_of(const std::vector<float>& values, DataType type) {
  return host::converted(std::as_bytes(std::span(values)), DataType::float32, type);
}

// A tensor of some types and what belongs to it.
struct Member {
  std::string name;
  StorageTypes types;
  std::int64_t count;
  Bytes parameter, gradient, copy;
};

Member make_member(const std::string& name, const StorageTypes& types, const std::vector<float>& values) {
  return {name,
          types,
          static_cast<std::int64_t>(values.size()),
          bytes_of(values, types.parameter),
          bytes_of(std::vector<float>(values.size()), types.gradient),
          {}};
}

TensorSpec spec_of(Member& member) {
  TensorSpec spec{.name = member.name,
                  .parameter = Array(member.parameter.data(), member.types.parameter, member.count),
                  .gradient = ConstArray(member.gradient.data(), member.types.gradient, member.count)};
  spec.state_type = member.types.state;
  spec.master = member.types.master;
  return spec;
}

// All that a file says, by name: every array by its digest, every key of the metadata.
std::map<std::string, std::string> everything_in(const fs::path& path) {
  const auto file = File::open(path);
  std::map<std::string, std::string> all(file.metadata().begin(), file.metadata().end());
  all.erase("adamant.header.xxh3");  // which goes by the order of the tensors too
  for (const auto& entry : file.entries()) all[entry.name] = xxh3_text(entry.data);
  return all;
}

std::map<std::string, std::string> everything_of(Optimizer& optimizer) {
  const Folder folder;
  optimizer.save(folder / "now");
  return everything_in(folder / "now");
}

// Loading is refused, says all of `parts`, and changes nothing.
void expect_not_loaded(Optimizer& optimizer, const fs::path& path, const Strings& parts,
                       const LoadOptions& allowed = {}) {
  const auto before = everything_of(optimizer);
  expect_refusal<NotLoaded>([&] { optimizer.load(path, allowed); }, parts);
  EXPECT_EQ(everything_of(optimizer), before);
}

// --- A run goes on as if nothing had been

// A tensor of each combination, of an odd size, and two with copies; one step has an infinity and is skipped. The
// gradients of a step depend on nothing but the step and the tensor's name.
class MixedTraining {
 public:
  enum class Order { forward, backward };

  MixedTraining(const Method& method, Order order, std::uint64_t seed, const Tuning& tuning = {})
      : optimizer(method, Device::cpu(), tuning) {
    optimizer.set_control(
        {.clip_value = 8.0, .loss_scale = LossScale{.initial = 1024, .growth_interval = 3}, .seed = seed});
    std::int64_t count = 19;
    for (const StorageTypes& types : kernels::storages()) {
      add(kernels::short_name(types), types, count, {});
      count += 10;
    }
    const StorageTypes plain = kernels::plain_storage(DataType::float32);
    add("copied to bfloat16", plain, 33, DataType::bfloat16);
    add("copied to float16", plain, 34, DataType::float16);
    if (order == Order::backward) members.reverse();
    for (Member& member : members) {
      TensorSpec spec = spec_of(member);
      if (!member.copy.empty()) spec.copy = Array(member.copy.data(), copy_types.at(member.name), member.count);
      optimizer.add(spec);
    }
  }

  void steps(int from, int to) {
    for (int t = from; t <= to; ++t) {
      for (Member& member : members) {
        auto values = spread_values<float>(member.count, seed_of(member.name) + static_cast<std::uint64_t>(t), -6, 1);
        for (float& value : values) value *= 64.0F;
        if (t == 5 && member.types.gradient == DataType::bfloat16) {
          values.back() = std::numeric_limits<float>::infinity();
        }
        member.gradient = replaced(member.gradient, bytes_of(values, member.types.gradient));
      }
      optimizer.step();
    }
  }

  // What a save says and what it does not: copies and the report.
  std::map<std::string, std::string> everything() {
    auto all = everything_of(optimizer);
    for (const Member& member : members) {
      if (!member.copy.empty()) all[member.name + " copy"] = xxh3_text(member.copy);
    }
    const StepReport report = optimizer.report();
    all["report"] = std::to_string(report.loss_scale) + " " + std::to_string(report.good_steps) + " " +
                    std::to_string(report.skipped_steps);
    return all;
  }

  std::list<Member> members;
  std::map<std::string, DataType> copy_types;
  Optimizer optimizer;

 private:
  void add(const std::string& name, const StorageTypes& types, std::int64_t count, std::optional<DataType> copy) {
    Member& member = members.emplace_back(make_member(name, types, spread_values<float>(count, seed_of(name), -4, 1)));
    if (!copy) return;
    member.copy.resize(static_cast<std::size_t>(count * size_in_bytes(*copy)));
    copy_types[name] = *copy;
  }

  // Where it was.
  static Bytes replaced(Bytes& there, const Bytes& values) {
    std::copy(values.begin(), values.end(), there.begin());
    return std::move(there);
  }
};

class CheckpointOfEveryStorage : public testing::TestWithParam<Case> {};

TEST_P(CheckpointOfEveryStorage, continues_the_run_with_the_same_bits_in_a_fresh_object_of_another_order) {
  const Method method = GetParam().make();
  constexpr std::uint64_t kSeed = 0x8123456789ABCDEF;
  MixedTraining uninterrupted(method, MixedTraining::Order::forward, kSeed);
  uninterrupted.steps(1, 12);

  const Folder folder;
  const fs::path path = folder / "run.safetensors";
  MixedTraining saved(method, MixedTraining::Order::forward, kSeed, {.threads = 1, .simd = SimdLevel::baseline});
  saved.steps(1, 6);
  ASSERT_EQ(saved.optimizer.report().skipped_steps, 1);
  saved.optimizer.save(path);
  MixedTraining loaded(method, MixedTraining::Order::backward, 7, {.threads = 2, .tile = kChunk});
  loaded.steps(90, 95);  // all of this is to go
  loaded.optimizer.load(path);
  EXPECT_EQ(loaded.optimizer.control().seed, kSeed);
  EXPECT_EQ(loaded.everything(), saved.everything());
  loaded.steps(7, 12);
  EXPECT_EQ(loaded.everything(), uninterrupted.everything());
  // And the one that saved has not noticed.
  saved.steps(7, 12);
  EXPECT_EQ(saved.everything(), uninterrupted.everything());
}

INSTANTIATE_TEST_SUITE_P(Rules, CheckpointOfEveryStorage, testing::ValuesIn(one_case_per_rule()),
                         [](const auto& info) { return info.param.name; });

// --- Other types in the file

// A number as a type holds it; of 16 bits, made from a float32.
double rounded(double x, DataType type) {
  switch (type) {
    case DataType::float64: return x;
    case DataType::float32: return static_cast<float>(x);
    case DataType::bfloat16: return value_of(nearest<bfloat16>(static_cast<float>(x)));
    default: return value_of(nearest<float16>(static_cast<float>(x)));
  }
}

std::vector<double> numbers_in(const File& file, const std::string& name) {
  const auto as = [&]<typename T>(T /*type*/) {
    std::vector<double> numbers;
    for (const T x : read_as<T>(file, name)) numbers.push_back(value_of(x));
    return numbers;
  };
  switch (file.at(name).type) {
    case safetensors::Type::F64: return as(double{});
    case safetensors::Type::F32: return as(float{});
    case safetensors::Type::BF16: return as(bfloat16{});
    default: return as(float16{});
  }
}

// The numbers of a tensor in full, as docs/checkpoints.md says they are in a file.
std::vector<double> full_numbers(const File& file, const std::string& name) {
  if (file.find(name + ".master") != nullptr) return numbers_in(file, name + ".master");
  if (file.find(name + ".remainder") == nullptr) return numbers_in(file, name);
  const auto parameter = read_as<bfloat16>(file, name);
  const auto remainder = read_as<std::uint16_t>(file, name + ".remainder");
  std::vector<double> numbers;
  for (std::size_t i = 0; i < parameter.size(); ++i) numbers.push_back(joined(parameter[i], remainder[i]));
  return numbers;
}

// Two tensors of each of two combinations: what one has saved is loaded into the other.
class OtherTypes : public testing::Test {
 protected:
  // After a step, so that remainders and states are something. The first two elements of a float32 parameter lie in
  // the middle between two bfloat16 and float16, and stay there.
  static std::unique_ptr<Member> member_of(const StorageTypes& types) {
    std::vector<float> values = spread_values<float>(21, 5, -4, 1);
    values[0] = 1 + 0x1p-8F;
    values[1] = -(1 + 0x1p-11F);
    auto member = std::make_unique<Member>(make_member("w", types, values));
    values = spread_values<float>(21, 6, -4, 1);
    values[0] = values[1] = 0.0F;
    member->gradient = bytes_of(values, types.gradient);
    return member;
  }

  static bool is_narrow(DataType type) { return type == DataType::bfloat16 || type == DataType::float16; }
  static bool can_become(DataType from, DataType to) {
    return !(from == DataType::float64 && is_narrow(to)) && !(is_narrow(from) && to == DataType::float64);
  }

  void expect_that_it_is_the_same(const StorageTypes& types) {
    const auto from = File::open(path);
    const auto to = File::open(folder / "after");
    const std::vector<double> before = full_numbers(from, "w");
    const std::vector<double> after = full_numbers(to, "w");
    const bool keeps_all = types.master != Master::stochastic;
    for (std::size_t i = 0; i < before.size(); ++i) {
      const double exact = types.parameter == DataType::float64 ? before[i] : static_cast<float>(before[i]);
      EXPECT_EQ(after[i], keeps_all ? exact : rounded(exact, types.parameter)) << i;
      // Beside a remainder only one parameter makes the number.
      if (types.master == Master::remainder) continue;
      EXPECT_EQ(numbers_in(to, "w")[i], rounded(exact, types.parameter)) << i;
    }
    for (const std::string state : {"w.exp_avg", "w.exp_avg_sq"}) {
      std::vector<double> expected = numbers_in(from, state);
      for (double& value : expected) value = rounded(value, types.state);
      EXPECT_EQ(numbers_in(to, state), expected) << state;
    }
  }

  Folder folder;
  fs::path path = folder / "before";
};

TEST_F(OtherTypes, are_taken_on_by_the_tensors_that_are_named_and_by_no_others) {
  int changed = 0;
  for (const StorageTypes& from : kernels::storages()) {
    const auto source = member_of(from);
    Optimizer saved(Adam{});
    saved.add(spec_of(*source));
    saved.step();
    saved.save(path);
    for (const StorageTypes& to : kernels::storages()) {
      SCOPED_TRACE(kernels::short_name(from) + " -> " + kernels::short_name(to));
      const auto target = member_of(to);
      Optimizer loaded(Adam{});
      loaded.add(spec_of(*target));
      loaded.step();
      const bool keeps = from.master == Master::float32 || from.master == Master::remainder ||  //
                         to.master == Master::float32 || to.master == Master::remainder;
      const bool same =
          from.parameter == to.parameter && from.state == to.state && (!keeps || from.master == to.master);
      const bool possible = can_become(from.parameter, to.parameter) && can_become(from.state, to.state);
      if (!same) {
        expect_not_loaded(loaded, path, {possible ? "; LoadOptions::change_types would allow it" : "is needed"});
        expect_not_loaded(loaded, path, {}, {.allow_missing = true, .allow_extra = true});
      }
      if (!possible) {
        expect_not_loaded(loaded, path, {"is of type", "is needed"}, {.change_types = {"w"}});
        continue;
      }
      ASSERT_NO_THROW(loaded.load(path, {.change_types = same ? Strings{} : Strings{"w"}}));
      loaded.save(folder / "after");
      expect_that_it_is_the_same(to);
      ++changed;
    }
  }
  EXPECT_GT(changed, 150);
}

TEST_F(OtherTypes, hold_the_canonical_nan_whatever_nan_was_saved) {
  // Rounded as numbers are, these would be -0, an infinity, 0 and an infinity.
  const std::vector<std::uint32_t> nans = {0x7FFFFFFF, 0x7F800001, 0xFFFFFFFF, 0xFF800001};
  Member source = make_member("w", kernels::plain_storage(DataType::float32), std::vector<float>(nans.size()));
  std::memcpy(source.parameter.data(), nans.data(), source.parameter.size());
  Optimizer saved(Adam{});
  saved.add(spec_of(source));
  saved.save(path);
  for (const Master master : {Master::float32, Master::remainder, Master::stochastic}) {
    Member target = make_member("w", {DataType::bfloat16, DataType::bfloat16, DataType::float32, master},
                                std::vector<float>(nans.size()));
    Optimizer loaded(Adam{});
    loaded.add(spec_of(target));
    loaded.load(path, {.change_types = {"w"}});
    std::vector<std::uint16_t> bits(nans.size());
    std::memcpy(bits.data(), target.parameter.data(), target.parameter.size());
    EXPECT_EQ(bits, std::vector<std::uint16_t>(nans.size(), 0x7FC0)) << name(master);
  }
}

TEST_F(OtherTypes, of_one_tensor_do_not_change_with_those_of_another) {
  const auto source = member_of(kernels::storages()[0]);
  const auto second = member_of(kernels::storages()[0]);
  second->name = "v";
  Optimizer saved(Adam{});
  saved.add(spec_of(*source));
  saved.add(spec_of(*second));
  saved.save(path);
  StorageTypes narrow{DataType::bfloat16, DataType::float32, DataType::float32, Master::remainder};
  const auto w = member_of(narrow);
  const auto v = member_of(narrow);
  v->name = "v";
  Optimizer loaded(Adam{});
  loaded.add(spec_of(*w));
  loaded.add(spec_of(*v));
  expect_not_loaded(loaded, path, {"\"v\" is of type F32 in the file, BF16 is needed"}, {.change_types = {"w"}});
  expect_not_loaded(loaded, path, {"change_types: there is no tensor called \"u\" in the optimizer"},
                    {.change_types = {"w", "v", "u"}});
  EXPECT_NO_THROW(loaded.load(path, {.change_types = {"w", "v"}}));
}

// --- Masters and remainders

class KeptInAFile : public testing::Test {
 protected:
  KeptInAFile() {
    const std::vector<float> values = spread_values<float>(3, 9, -4, 1);
    for (const auto& [name, master] : {std::pair{"m", Master::float32}, std::pair{"r", Master::remainder}}) {
      Member& member = members.emplace_back(
          make_member(name, {DataType::bfloat16, DataType::bfloat16, DataType::float32, master}, values));
      member.gradient = bytes_of(spread_values<float>(3, 10, -4, 1), DataType::bfloat16);
      optimizer.add(spec_of(member));
    }
    optimizer.step();
    optimizer.save(good);
  }

  void rewrite(const Change& change) { rewrite_sealed(good, path, change); }
  static safetensors::Entry& named(std::vector<safetensors::Entry>& entries, const std::string& name) {
    return *std::find_if(entries.begin(), entries.end(), [&](const auto& entry) { return entry.name == name; });
  }

  std::list<Member> members;
  Optimizer optimizer{Momentum{}};
  Folder folder;
  fs::path good = folder / "good";
  fs::path path = folder / "changed";
};

TEST_F(KeptInAFile, has_the_names_and_types_that_the_page_says) {
  const auto file = File::open(good);
  Strings names;
  for (const auto& entry : file.entries()) {
    names.push_back(entry.name + " " + std::string(safetensors::type_name(entry.type)));
  }
  EXPECT_EQ(names, (Strings{"m.master F32", "m.momentum_buffer F32", "r.momentum_buffer F32", "m BF16", "r BF16",
                            "r.remainder U16"}));
  EXPECT_EQ(full_numbers(file, "m"), full_numbers(file, "r"));
}

TEST_F(KeptInAFile, with_any_byte_flipped_is_refused_and_the_tensor_named) {
  const auto file = File::open(good);
  const std::string whole = contents(good);
  std::size_t at = file.header().size();
  for (const auto& entry : file.entries()) {
    for (std::size_t i = 0; i < entry.data.size(); ++i, ++at) {
      std::string damaged = whole;
      damaged[at] = static_cast<char>(damaged[at] ^ 0x10);
      std::ofstream(path, std::ios::binary | std::ios::trunc) << damaged;
      expect_not_loaded(optimizer, path,
                        {"tensor \"" + entry.name.substr(0, 1) + "\": \"" + entry.name + "\" is damaged"});
    }
  }
  EXPECT_EQ(at, whole.size());
}

TEST_F(KeptInAFile, is_not_done_without) {
  for (const std::string name : {"m.master", "r.remainder"}) {
    rewrite([&](auto&, auto& entries) { std::erase_if(entries, [&](auto& entry) { return entry.name == name; }); });
    expect_not_loaded(optimizer, path, {"there is no \"" + name + "\" in the file"}, {.allow_missing = true});
  }
}

// With digests that fit: what would be read past its end, or written past another's.
TEST_F(KeptInAFile, of_another_type_than_its_own_is_refused_whatever_may_change) {
  const std::vector<std::byte> data(64);
  const auto refused = [&](const std::string& name, safetensors::Type type, const std::string& why) {
    SCOPED_TRACE(name);
    rewrite([&](auto&, auto& entries) {
      auto& entry = named(entries, name);
      const auto bytes = static_cast<std::size_t>(entry.count()) * safetensors::type_size_bytes(type);
      entry.type = type;
      entry.data = std::span(data).first(bytes);
      // The widest first, so that all are aligned.
      std::stable_sort(entries.begin(), entries.end(), [](const auto& left, const auto& right) {
        return safetensors::type_size_bytes(left.type) > safetensors::type_size_bytes(right.type);
      });
    });
    expect_not_loaded(optimizer, path, {why}, {.change_types = {"m", "r"}});
  };
  refused("m.master", safetensors::Type::F64, "\"m.master\" is of type F64 in the file, F32 is needed");
  refused("m.master", safetensors::Type::BF16, "\"m.master\" is of type BF16 in the file, F32 is needed");
  refused("r.remainder", safetensors::Type::BF16, "\"r.remainder\" is of type BF16 in the file, U16 is needed");
  refused("r.remainder", safetensors::Type::F32, "\"r.remainder\" is of type F32 in the file, U16 is needed");
  refused("r", safetensors::Type::F32, "a remainder belongs to a parameter of type BF16, but \"r\" is of type F32");
  refused("r", safetensors::Type::F16, "a remainder belongs to a parameter of type BF16, but \"r\" is of type F16");
}

TEST_F(KeptInAFile, twice_is_refused) {
  rewrite([](auto&, auto& entries) {
    safetensors::Entry another = named(entries, "m.master");
    another.name = "r.master";
    entries.insert(entries.begin(), another);
  });
  expect_not_loaded(optimizer, path, {"tensor \"r\": the file has a master and a remainder of it"},
                    {.change_types = {"r"}});
  expect_not_loaded(optimizer, path, {"\"r.master\" of the file is not what the optimizer keeps"});
}

// A remainder has no meaning beside another parameter; beside the same it has.
TEST_F(KeptInAFile, without_the_parameters_stays_what_it_is) {
  optimizer.save(path, {.parameters = false});
  const auto before = everything_of(optimizer);
  optimizer.load(path);
  EXPECT_EQ(everything_of(optimizer), before);
  Member wide = make_member("r", kernels::plain_storage(DataType::float32), {1, 2, 3});
  Optimizer other(Momentum{});
  other.add(spec_of(wide));
  expect_not_loaded(other, path, {"a remainder without the parameter it belongs to"},
                    {.allow_extra = true, .change_types = {"r"}});
}

// "w.master" may be a tensor's own name, where "w" has none.
TEST_F(KeptInAFile, is_no_other_tensor_of_that_name) {
  const StorageTypes plain = kernels::plain_storage(DataType::float32);
  const StorageTypes random{DataType::bfloat16, DataType::bfloat16, DataType::float32, Master::stochastic};
  Member w = make_member("w", plain, {1, 2, 3});
  Member tensor = make_member("w.master", plain, {4, 5, 6});
  Optimizer saved(Momentum{});
  saved.add(spec_of(w));
  saved.add(spec_of(tensor));
  saved.save(path);
  Member narrow = make_member("w", random, {0, 0, 0});
  Optimizer loaded(Momentum{});
  loaded.add(spec_of(narrow));
  loaded.load(path, {.allow_extra = true, .change_types = {"w"}});
  EXPECT_EQ(narrow.parameter, bytes_of({1, 2, 3}, DataType::bfloat16));
  // And where both would be in the file, it is not written.
  Member master = make_member("w", {DataType::bfloat16, DataType::float32, DataType::float32, Master::float32}, {1});
  Member clash = make_member("w.master", plain, {1});
  Optimizer refused(Momentum{});
  refused.add(spec_of(master));
  refused.add(spec_of(clash));
  expect_refusal([&] { refused.save(path); },
                 {"tensor \"w.master\" has the name of the state \"master\" of tensor \"w\""});
}

// --- Identities, seed and loss scale

class KeysOfASecondFormat : public testing::Test {
 protected:
  KeysOfASecondFormat() {
    for (const char* name : {"a", "b"}) {
      Member& member = members.emplace_back(
          make_member(name, {DataType::bfloat16, DataType::bfloat16, DataType::bfloat16, Master::stochastic}, {1, 2}));
      optimizer.add(spec_of(member));
    }
    optimizer.set_control(
        {.loss_scale = LossScale{.initial = 4096}, .seed = std::numeric_limits<std::uint64_t>::max()});
    optimizer.step();
    optimizer.save(good);
  }

  std::list<Member> members;
  Optimizer optimizer{Adam{}};
  Folder folder;
  fs::path good = folder / "good";
  fs::path path = folder / "changed";
};

TEST_F(KeysOfASecondFormat, are_these) {
  const auto metadata = File::open(good).metadata();
  EXPECT_EQ(metadata.at("adamant.format"), "2");
  EXPECT_EQ(metadata.at("adamant.seed"), "18446744073709551615");
  EXPECT_EQ(metadata.at("adamant.identity.a"), "0");
  EXPECT_EQ(metadata.at("adamant.identity.b"), "1");
  EXPECT_EQ(metadata.at("adamant.next_identity"), "2");
  EXPECT_EQ(metadata.at("adamant.loss_scale"), "0x1p+12");
  EXPECT_EQ(metadata.at("adamant.good_steps"), "1");
  EXPECT_EQ(metadata.at("adamant.skipped_steps"), "0");
}

TEST_F(KeysOfASecondFormat, are_refused_by_name_where_they_are_missing_or_out_of_range) {
  const auto refused = [&](const std::string& key, const std::string& value, const std::string& why) {
    SCOPED_TRACE(key + " = " + value);
    rewrite_sealed(good, path, [&](auto& metadata, auto&) {
      ASSERT_TRUE(metadata.contains(key));
      if (value == "remove") {
        metadata.erase(key);
      } else {
        metadata[key] = value;
      }
    });
    expect_not_loaded(optimizer, path, {why});
  };
  for (const std::string value : {"-1", "18446744073709551616", "1.5", "", "0x1p0", "nan"}) {
    refused("adamant.seed", value, "\"adamant.seed\" is \"" + value + "\"; allowed: 0 to 2^64 - 1");
  }
  refused("adamant.seed", "remove", "no \"adamant.seed\"");
  refused("adamant.identity.b", "0", "tensor \"b\": another tensor of the file has the same identity 0");
  refused("adamant.identity.b", "-1", "allowed: 0 to 4294967294");
  refused("adamant.identity.b", "4294967295", "allowed: 0 to 4294967294");
  refused("adamant.identity.b", "remove", "no \"adamant.identity.b\"");
  refused("adamant.next_identity", "-1", "allowed: 0 to 4294967295");
  refused("adamant.next_identity", "4294967296", "allowed: 0 to 4294967295");
  for (const std::string value :
       {"nan", "0xnan", "inf", "0xinf", "-0x1p+0", "0x1p+128", "65536", "", "0x", "0x1p+0 "}) {
    refused("adamant.loss_scale", value, "\"adamant.loss_scale\" is \"" + value + "\"; allowed: hexadecimal floats");
  }
  refused("adamant.good_steps", "-1", "allowed: 0 to 2147483646");
  refused("adamant.good_steps", "2147483647", "allowed: 0 to 2147483646");
  refused("adamant.good_steps", "remove", "no \"adamant.good_steps\"");
  refused("adamant.skipped_steps", "9223372036854775807", "allowed: 0 to ");
  refused("adamant.skipped_steps", "remove", "no \"adamant.skipped_steps\"");
}

// A tensor that the file does not have gets another identity where the file gives its own away, also where there is
// none above the largest that a file may have.
TEST_F(KeysOfASecondFormat, leave_no_two_tensors_with_the_same_identity) {
  const auto load_only_a = [&](const std::string& identity) {
    rewrite_sealed(good, path, [&](auto& metadata, auto& entries) {
      metadata["adamant.identity.a"] = identity;
      metadata.erase("adamant.step.b");
      std::erase_if(entries, [](const auto& entry) { return entry.name.starts_with("b"); });
    });
    optimizer.load(path, {.allow_missing = true});
    const auto all = everything_of(optimizer);
    return std::pair{all.at("adamant.identity.a"), all.at("adamant.identity.b")};
  };
  EXPECT_EQ(load_only_a("5"), (std::pair<std::string, std::string>{"5", "1"}));
  EXPECT_EQ(load_only_a("1"), (std::pair<std::string, std::string>{"1", "6"}));
  EXPECT_EQ(load_only_a("4294967294"), (std::pair<std::string, std::string>{"4294967294", "6"}));
  EXPECT_EQ(load_only_a("6"), (std::pair<std::string, std::string>{"6", "0"}));
  // None is given twice in a run, so one that has given them all away adds no other tensor, and goes on as it is.
  Member c = make_member("c", {DataType::bfloat16, DataType::bfloat16, DataType::bfloat16, Master::stochastic}, {1, 2});
  expect_refusal<std::invalid_argument>([&] { optimizer.add(spec_of(c)); }, {"2^32 - 1 times; make another"});
  optimizer.step();
  optimizer.save(path);
  EXPECT_NO_THROW(optimizer.load(path));
}

TEST_F(KeysOfASecondFormat, of_identities_are_heeded_where_there_is_no_tensor_yet) {
  Optimizer none(Adam{});
  none.load(good, {.allow_extra = true});
  Member c = make_member("c", {DataType::bfloat16, DataType::bfloat16, DataType::bfloat16, Master::stochastic}, {1, 2});
  none.add(spec_of(c));
  EXPECT_EQ(everything_of(none).at("adamant.identity.c"), "2");
}

TEST_F(KeysOfASecondFormat, of_a_loss_scale_are_passed_over_where_there_is_none) {
  Optimizer plain(Adam{});
  for (Member& member : members) plain.add(spec_of(member));
  plain.load(good);
  EXPECT_EQ(*plain.loss_scale(), 1.0F);  // what the loss is multiplied by, and gradients are not divided by any other
  // And a file without leaves the scale that there is.
  plain.save(path);
  EXPECT_FALSE(File::open(path).metadata().contains("adamant.loss_scale"));
  optimizer.set_control({.loss_scale = LossScale{.initial = 4096, .growth_interval = 1}});
  optimizer.step();
  ASSERT_EQ(*optimizer.loss_scale(), 8192.0F);
  optimizer.load(path);
  EXPECT_EQ(*optimizer.loss_scale(), 8192.0F);
}

// --- Files of others

// Three steps of Adam in two groups, written by version 0.2.0 when there was one format, and read as it was.
TEST(FirstFormat, is_read_as_before) {
  const fs::path path = fs::path(ADAMANT_SOURCE_DIR) / "tests/checkpoints/format-1.safetensors";
  const auto file = File::open(path);
  ASSERT_EQ(file.metadata().at("adamant.format"), "1");
  std::vector<float> weight(6);
  std::vector<double> bias(2);
  const std::vector<float> weight_gradient(6);
  const std::vector<double> bias_gradient(2);
  Optimizer optimizer(Adam{});
  optimizer.set_control({.seed = 11});
  const TensorId second = optimizer.add({.name = "bias", .parameter = bias, .gradient = bias_gradient});
  const TensorId first =
      optimizer.add({.name = "weight", .parameter = weight, .gradient = weight_gradient, .shape = {2, 3}});
  optimizer.load(path);
  EXPECT_EQ(weight, file.read<float>("weight"));
  EXPECT_EQ(bias, file.read<double>("bias"));
  EXPECT_EQ(optimizer.step_count(first), 3);
  EXPECT_TRUE(optimizer.frozen(second));
  EXPECT_EQ(optimizer.tensor(second).group, GroupId{1});
  EXPECT_EQ(std::get<Adam>(optimizer.options(GroupId{1})).learning_rate, 0.0625);
  EXPECT_EQ(optimizer.control().seed, 11U);  // which it says nothing of
  const Array average = optimizer.state(first, "exp_avg");
  EXPECT_EQ(std::vector<float>(average.as<float>(), average.as<float>() + 6), file.read<float>("weight.exp_avg"));
}

// PyTorch keeps no master: it is made of the parameter that was loaded, whatever was kept before.
TEST(PyTorchStateOf16Bits, gives_a_master_that_is_the_parameter_and_a_remainder_of_zeros) {
  const Folder folder;
  const fs::path path = folder / "pytorch";
  const std::vector<float> numbers{0.5F, -1.375F, 96.0F};
  const std::vector<float> average{0.1F, 0.2F, -0.3F};
  const float step = 7;
  const Bytes narrow = bytes_of(numbers, DataType::bfloat16);
  for (const Master master : {Master::float32, Master::remainder, Master::stochastic}) {
    SCOPED_TRACE(name(master));
    Member member = make_member("w", {DataType::bfloat16, DataType::bfloat16, DataType::float32, master},
                                spread_values<float>(3, 4, -4, 1));
    member.gradient = bytes_of({0.1F, 0.2F, 0.3F}, DataType::bfloat16);
    Optimizer optimizer(Adam{});
    const TensorId id = optimizer.add(spec_of(member));
    optimizer.step();  // so that the master is something else
    safetensors::write(path,
                       std::vector<safetensors::Entry>{
                           {"w", safetensors::Type::BF16, {3}, narrow},
                           {"w.exp_avg", safetensors::Type::F32, {3}, std::as_bytes(std::span(average))},
                           {"w.exp_avg_sq", safetensors::Type::F32, {3}, std::as_bytes(std::span(average))},
                           {"w.step", safetensors::Type::F32, {}, std::as_bytes(std::span(&step, 1))}},
                       {});
    optimizer.load(path);
    EXPECT_EQ(member.parameter, narrow);
    EXPECT_EQ(optimizer.step_count(id), 7);
    optimizer.save(folder / "after");
    const auto after = File::open(folder / "after");
    EXPECT_EQ(full_numbers(after, "w"), std::vector<double>(numbers.begin(), numbers.end()));
    EXPECT_EQ(after.read<float>("w.exp_avg"), average);
    // States of 16 bits are taken only when that was asked for.
    safetensors::write(
        path,
        std::vector<safetensors::Entry>{{"w", safetensors::Type::BF16, {3}, narrow},
                                        {"w.exp_avg", safetensors::Type::BF16, {3}, narrow},
                                        {"w.exp_avg_sq", safetensors::Type::BF16, {3}, narrow},
                                        {"w.step", safetensors::Type::F32, {}, std::as_bytes(std::span(&step, 1))}},
        {});
    expect_not_loaded(optimizer, path, {"\"w.exp_avg\" is of type BF16 in the file, F32 is needed; LoadOptions::"});
    EXPECT_NO_THROW(optimizer.load(path, {.change_types = {"w"}}));
    EXPECT_EQ(*static_cast<const float*>(optimizer.state(id, "exp_avg").data()), 0.5F);
  }
}

}  // namespace
}  // namespace adamant::test
