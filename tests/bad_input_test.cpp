// Every mistake a caller can make against the API is refused with an exception that says what is wrong and what is
// allowed, and has changed nothing: parameters, gradients, states, step counts, options, tensors.
#include <gtest/gtest.h>

#include <functional>
#include <limits>
#include <sstream>
#include <string>
#include <vector>

#include "host/text.hpp"
#include "kernels/storage_types.hpp"
#include "tests/inputs.hpp"
#include "tests/methods.hpp"
#include "tests/refusal.hpp"

namespace adamant::test {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInfinity = std::numeric_limits<double>::infinity();

using Strings = std::vector<std::string>;

// An optimizer in the middle of a run: two groups, three tensors, one of them frozen and one empty.
class BadInput : public testing::Test {
 protected:
  BadInput() {
    wte = optimizer.add({.name = "wte", .parameter = wte_parameter.span(), .gradient = wte_gradient.span()});
    bias = optimizer.add(
        {.name = "bias", .parameter = bias_parameter.span(), .gradient = bias_gradient.span(), .group = other});
    empty = optimizer.add({.name = "empty",
                           .parameter = Array(static_cast<float*>(nullptr), 0),
                           .gradient = Array(static_cast<float*>(nullptr), 0)});
    for (int t = 0; t < 3; ++t) optimizer.step();
    optimizer.freeze(bias);
    optimizer.step();
  }

  // All that a caller can see of an optimizer and its buffers.
  std::string snapshot() {
    std::string all;
    const auto add_bytes = [&](const void* data, std::int64_t bytes) {
      if (bytes > 0) all.append(static_cast<const char*>(data), static_cast<std::size_t>(bytes));
    };
    const auto add_text = [&](const std::string& text) { all += text + "\n"; };
    for (const GroupId group : {GroupId{}, other}) {
      for (const Option& option : options(optimizer.options(group))) add_text(option.name + " " + option.value);
    }
    add_text(std::to_string(optimizer.state_bytes()));
    for (const TensorId id : optimizer.tensors()) {
      const TensorSpec& tensor = optimizer.tensor(id);
      add_text(std::to_string(static_cast<std::int64_t>(id)) + tensor.name +
               std::to_string(static_cast<int>(tensor.group)));
      add_text(std::to_string(optimizer.step_count(id)) + (optimizer.frozen(id) ? " frozen" : ""));
      add_text(std::to_string(reinterpret_cast<std::uintptr_t>(tensor.parameter.data())) + " " +
               std::to_string(reinterpret_cast<std::uintptr_t>(tensor.gradient.data())) + " " +
               std::to_string(tensor.gradient.count()) + " " +
               std::to_string(static_cast<int>(tensor.gradient.type())));
      const std::int64_t bytes = tensor.parameter.count() * size_in_bytes(tensor.parameter.type());
      add_bytes(tensor.parameter.data(), bytes);
      add_bytes(tensor.gradient.data(), bytes);
      for (const std::string& state : state_names(optimizer.options()))
        add_bytes(optimizer.state(id, state).data(), bytes);
    }
    return all;
  }

  template <typename Exception = std::invalid_argument>
  void expect_refused(const std::function<void()>& mistake, const Strings& parts) {
    const std::string before = snapshot();
    expect_refusal<Exception>(mistake, parts);
    EXPECT_TRUE(snapshot() == before) << "something has changed";
    // And the next step is the one it would have been.
    const std::int64_t count = optimizer.step_count(wte);
    optimizer.step();
    EXPECT_EQ(optimizer.step_count(wte), count + 1);
  }
  void expect_add_refused(const TensorSpec& spec, const Strings& parts) {
    expect_refused([&] { optimizer.add(spec); }, parts);
  }
  TensorSpec good() const {
    return {.name = "new", .parameter = new_parameter.span(), .gradient = new_gradient.span()};
  }

  Optimizer optimizer{Adam{}};
  GroupId other = optimizer.add_group(Adam{.learning_rate = 0.5});
  Fenced<float> wte_parameter{spread_values<float>(40, 1, -4, 1)};
  Fenced<float> wte_gradient{spread_values<float>(40, 2, -4, 1)};
  Fenced<double> bias_parameter{spread_values<double>(7, 3, -4, 1)};
  Fenced<double> bias_gradient{spread_values<double>(7, 4, -4, 1)};
  Fenced<float> new_parameter{spread_values<float>(16, 5, -4, 1)};
  Fenced<float> new_gradient{spread_values<float>(16, 6, -4, 1)};
  TensorId wte{}, bias{}, empty{};
};

TEST_F(BadInput, null_pointers_are_refused_unless_the_tensor_is_empty) {
  TensorSpec spec = good();
  spec.parameter = {static_cast<float*>(nullptr), 16};
  expect_add_refused(spec, {"\"new\"", "parameter", "null", "16"});
  spec = good();
  spec.gradient = {static_cast<const float*>(nullptr), 16};
  expect_add_refused(spec, {"\"new\"", "gradient", "null", "16"});
  spec.parameter = {static_cast<float*>(nullptr), 0};
  spec.gradient = {static_cast<const float*>(nullptr), 0};
  EXPECT_NO_THROW(optimizer.add(spec));
  expect_refused(
      [&] {
        optimizer.set_gradient(wte, {static_cast<const float*>(nullptr), 40});
      },
      {"\"wte\"", "gradient", "null"});
}

TEST_F(BadInput, pointers_that_are_not_aligned_to_their_element_are_refused) {
  for (const int shift : {1, 2, 3}) {
    TensorSpec spec = good();
    auto* const bytes = reinterpret_cast<std::byte*>(new_parameter.data()) + shift;
    spec.parameter = {static_cast<void*>(bytes), DataType::float32, 15};
    spec.gradient = {new_gradient.data(), 15};
    expect_add_refused(spec, {"\"new\"", "parameter", "not aligned", "4 bytes", "float32",
                              (std::ostringstream() << static_cast<void*>(bytes)).str()});
  }
  TensorSpec spec = good();
  spec.gradient = {static_cast<const void*>(reinterpret_cast<const std::byte*>(new_gradient.data()) + 2),
                   DataType::float32, 15};
  spec.parameter = {new_parameter.data(), 15};
  expect_add_refused(spec, {"\"new\"", "gradient", "not aligned"});
  spec.parameter = {static_cast<void*>(new_parameter.data() + 1), DataType::float64,
                    4};  // 4 is not enough for a double
  spec.gradient = {static_cast<const void*>(new_gradient.data()), DataType::float64, 4};
  expect_add_refused(spec, {"\"new\"", "parameter", "not aligned", "8 bytes", "float64"});
}

TEST_F(BadInput, counts_that_are_negative_or_overflow_are_refused) {
  TensorSpec spec = good();
  spec.parameter = {new_parameter.data(), -1};
  spec.gradient = {new_gradient.data(), -1};
  expect_add_refused(spec, {"\"new\"", "parameter", "count", "negative", "allowed: 0 to 2305843009213693951"});
  spec.parameter = {new_parameter.data(), std::numeric_limits<std::uint64_t>::max()};
  expect_add_refused(spec, {"\"new\"", "parameter", "count", "2^63 - 1"});
  const std::int64_t too_many = std::int64_t{1} << 61;  // of 4 bytes: 2^63
  spec.parameter = {new_parameter.data(), too_many};
  spec.gradient = {new_gradient.data(), too_many};
  expect_add_refused(
      spec, {"\"new\"", "parameter", "2305843009213693952", "address space", "allowed: 0 to 2305843009213693951"});
  spec.parameter = {new_parameter.data(), std::int64_t{1} << 62};  // times 4 is 2^64, which is 0 in 64 bits
  spec.gradient = {new_gradient.data(), std::int64_t{1} << 62};
  expect_add_refused(spec, {"\"new\"", "parameter", "4611686018427387904", "address space"});
  const auto near_end = std::numeric_limits<std::uintptr_t>::max() - 63;  // 64 bytes before the end of all addresses
  spec.parameter = {reinterpret_cast<float*>(near_end), 17};
  spec.gradient = {new_gradient.data(), 17};
  expect_add_refused(spec, {"\"new\"", "parameter", "17", "address space"});
  expect_refused([&] { optimizer.set_gradient(wte, {wte_gradient.data(), -40}); }, {"\"wte\"", "gradient", "count"});
}

TEST_F(BadInput, counts_and_types_that_differ_between_parameter_and_gradient_are_refused) {
  TensorSpec spec = good();
  spec.gradient = {new_gradient.data(), 15};
  expect_add_refused(spec, {"\"new\"", "gradient", "15", "16"});
  spec.gradient = {static_cast<const void*>(bias_gradient.data()), DataType::float64, 16};
  expect_add_refused(spec, {"\"new\"", "gradient", "float64", "float32", "supported"});
  spec = good();
  spec.parameter = {static_cast<void*>(new_parameter.data()), static_cast<DataType>(77), 16};
  expect_add_refused(spec, {"\"new\"", "parameter", "type", "77"});
  expect_refused([&] { optimizer.set_gradient(wte, {wte_gradient.data(), 39}); }, {"\"wte\"", "gradient", "39", "40"});
  expect_refused(
      [&] {
        optimizer.set_gradient(bias, {new_gradient.data(), 7});
      },
      {"\"bias\"", "gradient", "float32", "float64"});
}

TEST_F(BadInput, a_parameter_that_shares_memory_with_any_other_buffer_is_refused) {
  TensorSpec spec = good();
  spec.gradient = new_parameter.span();
  expect_add_refused(spec, {"\"new\"", "gradient", "shares memory", "own parameter"});
  spec.parameter = {new_parameter.data(), 8};  // by one element at either end
  spec.gradient = {new_parameter.data() + 7, 8};
  expect_add_refused(spec, {"\"new\"", "gradient", "own parameter"});
  spec.parameter = {new_parameter.data() + 7, 8};
  spec.gradient = {new_parameter.data(), 8};
  expect_add_refused(spec, {"\"new\"", "gradient", "own parameter"});

  spec = good();
  spec.parameter = {wte_parameter.data() + 39, 16};
  expect_add_refused(spec, {"\"new\"", "parameter", "shares memory", "\"wte\""});
  spec.parameter = {wte_parameter.data() - 15, 16};
  expect_add_refused(spec, {"\"new\"", "parameter", "shares memory", "\"wte\""});
  spec.parameter = {wte_parameter.data() + 3, 1};  // inside
  spec.gradient = {new_gradient.data(), 1};
  expect_add_refused(spec, {"\"new\"", "parameter", "shares memory", "\"wte\""});
  spec.parameter = {wte_parameter.data() - 4, 48};  // around
  spec.gradient = {reinterpret_cast<float*>(std::uintptr_t{1} << 40), 48};
  expect_add_refused(spec, {"\"new\"", "parameter", "shares memory", "\"wte\""});
  spec = good();
  spec.parameter = {reinterpret_cast<float*>(bias_parameter.data()) + 13, 1};  // of another type
  spec.gradient = {new_gradient.data(), 1};
  expect_add_refused(spec, {"\"new\"", "parameter", "shares memory", "\"bias\""});

  spec = good();
  spec.gradient = {wte_parameter.data() + 39, 16};  // a gradient on another tensor's parameter
  expect_add_refused(spec, {"\"new\"", "gradient", "shares memory", "\"wte\""});
  spec = good();
  spec.parameter = {wte_gradient.data() + 39, 16};  // a parameter on another tensor's gradient
  expect_add_refused(spec, {"\"new\"", "parameter", "shares memory", "gradient", "\"wte\""});

  expect_refused([&] { optimizer.set_gradient(wte, wte_parameter.span()); }, {"\"wte\"", "gradient", "shares memory"});
  expect_refused(
      [&] {
        optimizer.set_gradient(wte, {reinterpret_cast<float*>(bias_parameter.data()) + 13, 40});
      },
      {"\"wte\"", "gradient", "shares memory", "\"bias\""});
}

TEST_F(BadInput, buffers_that_only_touch_and_gradients_that_are_shared_are_allowed) {
  TensorSpec spec{
      .name = "touching", .parameter = {wte_parameter.data() + 40, 4}, .gradient = {wte_gradient.data(), 4}};
  EXPECT_NO_THROW(optimizer.add(spec));
  spec = {.name = "before", .parameter = {wte_parameter.data() - 4, 4}, .gradient = {wte_parameter.data() + 44, 4}};
  EXPECT_NO_THROW(optimizer.add(spec));
}

TEST_F(BadInput, an_empty_buffer_overlaps_nothing_wherever_it_is) {
  TensorSpec spec{
      .name = "inside", .parameter = {wte_parameter.data() + 3, 0}, .gradient = {wte_parameter.data() + 5, 0}};
  const TensorId inside = optimizer.add(spec);
  EXPECT_EQ(optimizer.tensor(inside).parameter.data(), wte_parameter.data() + 3);
  spec = {.name = "at the beginning", .parameter = {wte_parameter.data(), 0}, .gradient = {wte_gradient.data(), 0}};
  const TensorId beginning = optimizer.add(spec);
  optimizer.set_gradient(inside, {new_parameter.data(), 0});
  optimizer.step();
  optimizer.remove(beginning);  // and takes nothing of the other's with it
  spec = {.name = "new", .parameter = {wte_parameter.data(), 1}, .gradient = {new_gradient.data(), 1}};
  expect_add_refused(spec, {"\"new\"", "parameter", "shares memory", "\"wte\""});
  // A tensor that joins around an empty one.
  spec = {.name = "empty there", .parameter = {new_parameter.data() + 4, 0}, .gradient = {new_parameter.data() + 4, 0}};
  optimizer.add(spec);
  EXPECT_NO_THROW(optimizer.add(good()));
}

TEST_F(BadInput, states_of_the_optimizer_are_refused_as_parameter_and_as_gradient) {
  float* const state = optimizer.state(wte, "exp_avg_sq").as<float>();
  expect_add_refused({.name = "new", .parameter = {state + 2, 16}, .gradient = new_gradient.span()},
                     {"\"new\"", "parameter", "the optimizer's own states"});
  expect_add_refused({.name = "new", .parameter = new_parameter.span(), .gradient = {state + 2, 16}},
                     {"\"new\"", "gradient", "the optimizer's own states"});
  expect_refused([&] { optimizer.set_gradient(wte, {state, 40}); }, {"\"wte\"", "gradient", "own states"});
  // Another optimizer may be given them, and so may this one once they are gone and the memory is somebody else's.
  Optimizer another{GradientDescent{}};
  EXPECT_NO_THROW(another.add({.name = "w", .parameter = {state, 40}, .gradient = wte_gradient.span()}));
}

TEST_F(BadInput, counts_whose_states_do_not_fit_the_address_space_are_refused) {
  // Nothing of these arrays is touched: they are no memory. 2^60 floats fit, but two states of that size beside them do
  // not.
  const auto at = [](int quarter) { return static_cast<std::uintptr_t>(quarter) << 62; };
  TensorSpec spec = good();
  const std::int64_t count = std::int64_t{1} << 60;
  spec.parameter = {reinterpret_cast<float*>(at(1)), count};
  spec.gradient = {reinterpret_cast<float*>(at(2)), count};
  expect_add_refused(spec,
                     {"\"new\"", "parameter", "states", std::to_string(count), "address space", "allowed: 0 to "});
  spec.parameter = {reinterpret_cast<double*>(at(1)), count / 2};
  spec.gradient = {reinterpret_cast<double*>(at(2)), count / 2};
  expect_add_refused(spec, {"\"new\"", "parameter", "states", "address space"});
  // The states of all tensors count: each of these would fit alone.
  Optimizer many(Adam{});
  const auto part = [](int k) { return reinterpret_cast<float*>(static_cast<std::uintptr_t>(k) << 59); };
  const auto add = [&](int k) {
    many.add({.name = std::to_string(k), .parameter = {part(k), count / 8}, .gradient = {part(20), count / 8}});
  };
  for (int k = 1; k <= 5; ++k) add(k);
  const std::int64_t bytes = many.state_bytes();
  EXPECT_GE(bytes, 5 * count);
  expect_refusal([&] { add(6); }, {"\"6\"", "parameter", "states", "address space", "allowed: 0 to "});
  EXPECT_EQ(many.state_bytes(), bytes);
  EXPECT_EQ(many.tensors().size(), 5U);
  many.remove(many.find("3"));
  EXPECT_NO_THROW(add(6));
}

// --- Storage types

TEST_F(BadInput, combinations_of_types_that_are_not_in_the_list_are_refused_all_of_them) {
  constexpr DataType kTypes[] = {DataType::float32, DataType::float64, DataType::bfloat16, DataType::float16};
  alignas(8) static std::byte parameter[64];
  alignas(8) static std::byte gradient[64];
  std::size_t allowed = 0;
  int refused = 0;
  for (const DataType of_parameter : kTypes) {
    for (const DataType of_gradient : kTypes) {
      for (const DataType of_state : kTypes) {
        for (const Master master : {Master::none, Master::float32, Master::remainder, Master::stochastic}) {
          const TensorSpec spec{.name = "new",
                                .parameter = {static_cast<void*>(parameter), of_parameter, 8},
                                .gradient = {static_cast<const void*>(gradient), of_gradient, 8},
                                .state_type = of_state,
                                .master = master};
          if (kernels::find_storage({of_parameter, of_gradient, of_state, master})) {
            optimizer.remove(optimizer.add(spec));
            ++allowed;
            continue;
          }
          ++refused;
          const std::string before = refused % 16 == 0 ? snapshot() : std::string();
          expect_refusal([&] { optimizer.add(spec); },
                         {"\"new\"", std::string(name(of_parameter)) + " with " + std::string(name(of_gradient)),
                          std::string(name(of_state)) + " states", "do not go together",
                          "supported: " + std::string(name(of_parameter)) + " with"});
          if (!before.empty()) {
            EXPECT_TRUE(snapshot() == before);
          }
        }
      }
    }
  }
  EXPECT_EQ(allowed, kernels::storages().size());
}

TEST_F(BadInput, a_combination_is_refused_by_the_field_that_goes_with_nothing_before_it) {
  TensorSpec spec = good();
  spec.master = Master::remainder;  // without bfloat16
  expect_add_refused(spec, {"\"new\": master: ", "float32 with float32 gradients and float32 states and a remainder"});
  spec.master = Master::stochastic;
  expect_add_refused(spec, {"\"new\": master: ", "stochastic rounding"});
  spec.master = Master::float32;
  expect_add_refused(spec, {"\"new\": master: ", "float32 master"});
  spec = good();
  spec.state_type = DataType::float16;
  expect_add_refused(spec, {"\"new\": state_type: ", "float16 states"});
  spec.state_type = static_cast<DataType>(77);
  expect_add_refused(spec, {"\"new\": state_type: ", "77"});
  spec = good();
  spec.master = static_cast<Master>(9);
  expect_add_refused(spec, {"\"new\": master: ", "9"});

  Fenced<bfloat16> brain(16);
  Fenced<float16> half(16);
  spec = good();
  spec.parameter = half.span();
  for (const Master master : {Master::none, Master::remainder, Master::stochastic}) {
    spec.master = master;
    expect_add_refused(spec, {"\"new\": master: ", "float16 with float32 gradients"});
  }
  spec.parameter = brain.span();
  spec.master = Master::none;  // would stop taking up small updates
  expect_add_refused(spec, {"\"new\": master: ", "bfloat16 with float32 gradients and float32 states"});
  spec.master = Master::stochastic;  // has no master, and takes bfloat16 gradients
  expect_add_refused(spec, {"\"new\": master: ", "stochastic rounding"});
  spec.master = Master::remainder;
  spec.gradient = half.span();
  expect_add_refused(spec, {"\"new\": gradient: ", "bfloat16 with float16 gradients"});
  expect_refused([&] { optimizer.set_gradient(wte, {half.data(), 16}); }, {"\"wte\"", "gradient", "16", "40"});
  Fenced<bfloat16> forty(40);
  expect_refused([&] { optimizer.set_gradient(wte, forty.span()); }, {"\"wte\"", "gradient", "bfloat16", "float32"});
}

TEST_F(BadInput, pointers_to_16_bits_at_odd_addresses_are_refused) {
  Fenced<bfloat16> brain(17);
  TensorSpec spec = good();
  auto* const odd = reinterpret_cast<std::byte*>(brain.data()) + 1;
  spec.parameter = {static_cast<void*>(odd), DataType::bfloat16, 16};
  expect_add_refused(spec, {"\"new\": parameter: ", "not aligned", "2 bytes", "bfloat16"});
  spec = good();
  spec.gradient = {static_cast<const void*>(odd), DataType::float16, 16};
  expect_add_refused(spec, {"\"new\": gradient: ", "not aligned", "2 bytes", "float16"});
  spec = good();
  spec.copy = {static_cast<void*>(odd), DataType::bfloat16, 16};
  expect_add_refused(spec, {"\"new\": copy: ", "not aligned", "2 bytes"});
}

TEST_F(BadInput, copies_of_what_has_none_of_the_wrong_type_or_count_are_refused) {
  Fenced<bfloat16> copy(16);
  Fenced<bfloat16> brain(16);
  TensorSpec spec = good();
  spec.copy = {copy.data(), 15};
  expect_add_refused(spec, {"\"new\": copy: ", "15", "16"});
  spec.copy = {static_cast<bfloat16*>(nullptr), 16};
  expect_add_refused(spec, {"\"new\": copy: ", "null"});
  spec.copy = {copy.data(), 0};
  expect_add_refused(spec, {"\"new\": copy: ", "0", "16"});
  spec.copy = {copy.data(), -1};
  expect_add_refused(spec, {"\"new\": copy: ", "negative"});
  spec.copy = {static_cast<void*>(copy.data()), static_cast<DataType>(77), 16};
  expect_add_refused(spec, {"\"new\": copy: ", "77"});
  spec.copy = {static_cast<void*>(copy.data()), DataType::float32, 8};
  expect_add_refused(spec, {"\"new\": copy: ", "8", "16"});
  Fenced<float> wide(16);
  spec.copy = wide.span();
  expect_add_refused(spec, {"\"new\": copy: ", "supported"});
  spec.copy = copy.span();
  spec.state_type = DataType::bfloat16;
  expect_add_refused(spec, {"\"new\": copy: ", "bfloat16 states", "supported"});
  spec = good();
  spec.copy = copy.span();
  spec.parameter = brain.span();
  expect_add_refused(spec, {"\"new\": copy: ", "float32 parameter", "bfloat16"});
  spec.master = Master::stochastic;
  expect_add_refused(spec, {"\"new\": copy: ", "float32 parameter"});
  spec = good();
  spec.copy = copy.span();
  spec.master = Master::float32;
  expect_add_refused(spec, {"\"new\": copy: ", "master"});
  Fenced<double> parameter64(16);
  Fenced<double> gradient64(16);
  spec = {.name = "new", .parameter = parameter64.span(), .gradient = gradient64.span(), .copy = copy.span()};
  expect_add_refused(spec, {"\"new\": copy: ", "float64"});
}

TEST(Texts, are_cut_off_between_two_characters) {
  const std::string most(199, 'a');
  EXPECT_EQ(host::printable(most + "b"), most + "b");
  EXPECT_EQ(host::printable(most + "bc"), most + "b...");
  for (const std::string character : {"\xC3\xA9", "\xE2\x82\xAC", "\xF0\x9F\x98\x80"}) {
    EXPECT_EQ(host::printable(most + character + "b"), most + "...") << character;
  }
}

TEST_F(BadInput, texts_say_what_there_is_instead) {
  expect_refusal([&] { optimizer.find("wtf"); },
                 {"there is no tensor called \"wtf\"; there are [\"bias\", \"empty\", \"wte\"]"});
  expect_refusal([&] { optimizer.state(wte, "exp"); }, {"no state is called \"exp\"; there are [exp_avg, exp_avg_sq]"});
  TensorSpec spec = good();
  spec.gradient = {};
  expect_add_refused(spec, {"\"new\": gradient: none was given"});
  const Array nothing(static_cast<float*>(nullptr), 0);
  Optimizer large(Adam{});
  for (int i = 0; i < 30; ++i) {
    large.add({.name = "x" + std::to_string(i), .parameter = nothing, .gradient = nothing});
  }
  expect_refusal([&] { large.find("y"); }, {"\"x0\", ", "] and 10 more, which tensors() lists"});
}

TEST_F(BadInput, a_copy_that_shares_memory_with_any_other_buffer_is_refused) {
  const auto at = [](const auto& array, std::int64_t bytes) {
    return Array(static_cast<void*>(reinterpret_cast<std::byte*>(array.data()) + bytes), DataType::bfloat16, 16);
  };
  TensorSpec spec = good();
  spec.copy = at(new_parameter, 62);
  expect_add_refused(spec, {"\"new\": copy: ", "shares memory", "own parameter"});
  spec.copy = at(new_gradient, -30);
  expect_add_refused(spec, {"\"new\": copy: ", "shares memory", "gradient"});
  spec.copy = at(wte_parameter, 158);
  expect_add_refused(spec, {"\"new\": copy: shares memory with the parameter of tensor \"wte\""});
  spec.copy = {static_cast<void*>(wte_gradient.data()), DataType::bfloat16, 16};
  expect_add_refused(spec, {"\"new\": copy: shares memory with the gradient of tensor \"wte\"; a copy "});
  spec.copy = {static_cast<void*>(optimizer.state(wte, "exp_avg").data()), DataType::bfloat16, 16};
  expect_add_refused(spec, {"\"new\": copy: ", "the optimizer's own states"});

  // And a copy that is there is in the way of everything that comes.
  Fenced<bfloat16> copy(16);
  Fenced<float> parameter(16);
  Fenced<float> gradient(16);
  const TensorId there =
      optimizer.add({.name = "there", .parameter = parameter.span(), .gradient = gradient.span(), .copy = copy.span()});
  spec = good();
  spec.copy = at(copy, 30);
  expect_add_refused(spec, {"\"new\": copy: shares memory with the copy of tensor \"there\"; a copy "});
  spec = good();
  auto* const inside = reinterpret_cast<float*>(copy.data()) + 2;
  spec.parameter = {inside, 16};
  expect_add_refused(spec, {"\"new\": parameter: shares memory with the copy of tensor \"there\""});
  spec = good();
  spec.gradient = {inside, 16};
  expect_add_refused(spec, {"\"new\": gradient: shares memory with the copy of tensor \"there\""});
  expect_refused([&] { optimizer.set_gradient(there, {inside, 16}); }, {"\"there\"", "gradient", "shares memory"});
  optimizer.remove(there);
  EXPECT_NO_THROW(optimizer.add(spec)) << "the memory is free again";
}

TEST_F(BadInput, gradients_that_are_to_be_zeroed_and_cannot_be_are_refused) {
  TensorSpec spec = good();
  spec.zero_gradient = true;
  spec.gradient = {static_cast<const float*>(new_gradient.data()), 16};
  expect_add_refused(spec, {"\"new\": zero_gradient: ", "const"});
  spec.gradient = {wte_gradient.data() + 39, 16};  // another tensor's
  expect_add_refused(spec, {"\"new\": gradient: ", "shares memory", "\"wte\"", "zero_gradient of this"});
  EXPECT_NO_THROW(optimizer.add({.name = "nothing to zero", .zero_gradient = true}));
  spec.gradient = new_gradient.span();
  const TensorId zeroed = optimizer.add(spec);
  Fenced<float> another(16);
  spec = {.name = "other", .parameter = another.span(), .gradient = {new_gradient.data() + 15, 16}};
  expect_add_refused(spec, {"\"other\": gradient: ", "shares memory", "\"new\"", "zero_gradient of that"});
  expect_refused(
      [&] {
        optimizer.set_gradient(wte, {new_gradient.data(), 40});
      },
      {"\"wte\": gradient: ", "shares memory", "\"new\"", "zero_gradient of that"});
  expect_refused(
      [&] {
        optimizer.set_gradient(zeroed, {wte_gradient.data(), 16});
      },
      {"\"new\": gradient: ", "shares memory", "\"wte\"", "zero_gradient of this"});
  expect_refused(
      [&] {
        optimizer.set_gradient(zeroed, {static_cast<const float*>(another.data()), 16});
      },
      {"\"new\": zero_gradient: ", "const"});
  EXPECT_NO_THROW(optimizer.set_gradient(zeroed, {new_gradient.data(), 16})) << "its own may be given again";
  optimizer.remove(zeroed);
  EXPECT_NO_THROW(optimizer.add(spec)) << "nobody zeroes it any more";
}

// They are found by their addresses, which change.
TEST_F(BadInput, gradients_that_are_to_be_zeroed_are_refused_wherever_they_have_gone) {
  Fenced<float> parameters(30);
  Fenced<float> gradients(60);
  const auto spec = [&](int i, int at) -> TensorSpec {
    return {.name = std::string(1, static_cast<char>('a' + i)),
            .parameter = {parameters.data() + 10 * i, 10},
            .gradient = {gradients.data() + at, 10},
            .zero_gradient = true};
  };
  const TensorId a = optimizer.add(spec(0, 0));
  const TensorId b = optimizer.add(spec(1, 10));
  const auto move = [&](TensorId tensor, int at) { optimizer.set_gradient(tensor, {gradients.data() + at, 10}); };
  expect_refused([&] { move(a, 1); }, {"\"a\": gradient: ", "gradient of tensor \"b\""});
  expect_refused([&] { move(b, 9); }, {"\"b\": gradient: ", "gradient of tensor \"a\""});
  move(b, 15);  // over its own
  expect_refused([&] { move(a, 6); }, {"gradient of tensor \"b\""});
  EXPECT_NO_THROW(move(a, 5)) << "they only touch";
  move(a, 50);
  EXPECT_NO_THROW(move(b, 0));
  move(b, 30);
  TensorSpec third = spec(2, 21);
  expect_add_refused(third, {"\"c\": gradient: ", "gradient of tensor \"b\""});
  third.zero_gradient = false;
  expect_add_refused(third, {"gradient of tensor \"b\"", "zero_gradient of that"});
  third.gradient = {gradients.data() + 59, 1};
  third.parameter = {parameters.data() + 20, 1};
  expect_add_refused(third, {"gradient of tensor \"a\"", "zero_gradient of that"});
  third.parameter = {gradients.data() + 35, 1};
  third.gradient = {gradients.data(), 1};
  expect_add_refused(third, {"\"c\": parameter: ", "gradient of tensor \"b\""});
  optimizer.remove(b);
  EXPECT_NO_THROW(optimizer.add(third)) << "the memory is free again";
}

TEST_F(BadInput, shapes_that_are_not_of_the_parameter_s_count_are_refused) {
  constexpr std::int64_t kMost = std::numeric_limits<std::int64_t>::max();
  const auto with_shape = [&](std::vector<std::int64_t> shape) {
    TensorSpec spec = good();  // of 16 elements
    spec.shape = std::move(shape);
    return spec;
  };
  expect_add_refused(with_shape({15}), {"\"new\"", "shape", "15", "16"});
  expect_add_refused(with_shape({4, 5}), {"\"new\"", "shape", "16"});
  expect_add_refused(with_shape({0}), {"\"new\"", "shape", "0", "16"});
  expect_add_refused(with_shape({-4, -4}), {"\"new\"", "shape", "-4"});
  expect_add_refused(with_shape({16, -1}), {"\"new\"", "shape", "-1"});
  expect_add_refused(with_shape({kMost, kMost}), {"\"new\"", "shape", "16"});
  expect_add_refused(with_shape({std::int64_t{1} << 62, 4, 16}), {"\"new\"", "shape", "16"});  // 2^64 times 16
  expect_add_refused(with_shape({std::int64_t{1} << 32, std::int64_t{1} << 32, 16}), {"\"new\"", "shape", "16"});
  expect_add_refused(with_shape({0, std::int64_t{1} << 62, std::int64_t{1} << 62}), {"\"new\"", "shape", "too large"});
  expect_add_refused(with_shape(std::vector<std::int64_t>(65, 1)), {"\"new\"", "shape", "65", "64"});

  TensorSpec spec = good();
  spec.parameter = {new_parameter.data(), 1};
  spec.gradient = {new_gradient.data(), 1};
  spec.shape.assign(64, 1);
  EXPECT_NO_THROW(optimizer.add(spec));
  for (const std::vector<std::int64_t>& shape :
       {std::vector<std::int64_t>{}, {0}, {3, 0, 5}, {std::int64_t{1} << 40, 0, 1, 2}}) {
    spec = {.name = "empty " + std::to_string(shape.size()),
            .parameter = {new_parameter.data(), 0},
            .gradient = {},
            .shape = shape};
    EXPECT_NO_THROW(optimizer.add(spec));
    EXPECT_EQ(optimizer.tensor(optimizer.find(spec.name)).shape, shape);
  }
}

TEST_F(BadInput, memory_of_a_removed_tensor_and_of_a_replaced_gradient_is_free_again) {
  const Fenced<float> elsewhere(40);
  optimizer.set_gradient(wte, elsewhere.span());
  EXPECT_NO_THROW(
      optimizer.add({.name = "old gradient", .parameter = {wte_gradient.data(), 16}, .gradient = new_gradient.span()}));
  optimizer.remove(wte);
  EXPECT_NO_THROW(optimizer.add(
      {.name = "old parameter", .parameter = {wte_parameter.data(), 16}, .gradient = new_gradient.span()}));
  EXPECT_THROW(
      optimizer.add(
          {.name = "again", .parameter = {wte_parameter.data() + 15, 1}, .gradient = {new_gradient.data(), 1}}),
      std::invalid_argument);
}

TEST_F(BadInput, names_that_are_empty_or_taken_and_the_same_tensor_twice_are_refused) {
  TensorSpec spec = good();
  spec.name = "";
  expect_add_refused(spec, {"name"});
  spec.name = "wte";
  expect_add_refused(spec, {"\"wte\"", "name", "already"});
  spec = optimizer.tensor(wte);
  expect_add_refused(spec, {"\"wte\"", "already"});
  spec.name = "wte again";
  expect_add_refused(spec, {"\"wte again\"", "parameter", "\"wte\""});
}

TEST_F(BadInput, unknown_groups_tensors_states_and_options_are_refused_by_name) {
  TensorSpec spec = good();
  spec.group = GroupId{2};
  expect_add_refused(spec, {"\"new\"", "group", "2", "allowed: 0 to 1"});
  spec.group = GroupId{-1};
  expect_add_refused(spec, {"\"new\"", "group", "-1", "allowed: 0 to 1"});
  expect_refused([&] { optimizer.set_group(wte, GroupId{7}); }, {"\"wte\"", "group", "7", "allowed: 0 to 1"});
  expect_refused([&] { optimizer.options(GroupId{2}); }, {"group", "2"});
  expect_refused([&] { optimizer.set_options(GroupId{2}, Adam{}); }, {"set_options: group 2 ", "allowed: 0 to 1"});
  expect_refused([&] { optimizer.set_learning_rate(GroupId{-3}, 0.1); }, {"set_learning_rate: group -3 "});
  expect_refused([&] { optimizer.set_option(GroupId{2}, "beta1", 0.5); }, {"set_option: group 2 "});
  expect_refused([&] { optimizer.set_option(GroupId{2}, "beta1", "0.5"); }, {"set_option: group 2 "});

  const TensorId never{999};
  const TensorId negative{-1};
  for (const TensorId id : {never, negative}) {
    const std::string number = std::to_string(static_cast<std::int64_t>(id));
    expect_refused([&] { optimizer.remove(id); }, {number});
    expect_refused([&] { optimizer.freeze(id); }, {number});
    expect_refused([&] { optimizer.thaw(id); }, {number});
    expect_refused([&] { static_cast<void>(optimizer.frozen(id)); }, {number});
    expect_refused([&] { optimizer.set_group(id, other); }, {number});
    expect_refused([&] { optimizer.set_gradient(id, new_gradient.span()); }, {number});
    expect_refused([&] { static_cast<void>(optimizer.step_count(id)); }, {number});
    expect_refused([&] { optimizer.set_step_count(id, 3); }, {number});
    expect_refused([&] { static_cast<void>(optimizer.state(id, "exp_avg")); }, {number});
    expect_refused([&] { static_cast<void>(optimizer.tensor(id)); }, {number});
  }
  expect_refused([&] { optimizer.find("nobody"); }, {"\"nobody\""});
  expect_refused([&] { static_cast<void>(optimizer.state(wte, "momentum_buffer")); },
                 {"\"wte\"", "\"momentum_buffer\"", "exp_avg, exp_avg_sq"});
  expect_refused([&] { static_cast<void>(optimizer.state(wte, "max_exp_avg_sq")); }, {"\"max_exp_avg_sq\""});
  expect_refused([&] { optimizer.set_option(other, "momentum", 0.9); },
                 {"adam", "\"momentum\"", "beta1", "weight_decay"});
  expect_refused([&] { optimizer.set_option(other, "lr", "0.1"); }, {"adam", "\"lr\"", "learning_rate"});
  expect_refused([&] { optimizer.set_step_count(wte, -1); }, {"\"wte\"", "step count", "-1", "0 to 2^62"});
  expect_refused([&] { optimizer.set_step_count(wte, std::numeric_limits<std::int64_t>::max()); },
                 {"\"wte\"", "step count", "9223372036854775807", "0 to 2^62"});
}

TEST_F(BadInput, a_group_of_another_method_or_variant_is_refused) {
  const Method others[] = {AdamW{}, Momentum{}, Adam{.amsgrad = true}};
  for (const Method& method : others) {
    const std::string method_name(name(method));
    expect_refused([&] { optimizer.add_group(method); }, {method_name, "made for adam", "exp_avg"});
    expect_refused([&] { optimizer.set_options(other, method); }, {method_name, "made for adam"});
  }
  expect_refused([&] { optimizer.set_option(other, "amsgrad", "true"); }, {"max_exp_avg_sq"});
  Optimizer plain(RMSProp{});
  expect_refusal([&] { plain.add_group(RMSProp{.momentum = 0.5}); }, {"rmsprop", "momentum_buffer"});
  expect_refusal([&] { plain.add_group(RMSProp{.centered = true}); }, {"rmsprop", "grad_avg"});
  Optimizer with_momentum(RMSProp{.momentum = 0.5});
  EXPECT_NO_THROW(with_momentum.add_group(RMSProp{}));  // a momentum of zero has a buffer there
  expect_refusal([&] { with_momentum.add_group(RMSProp{.centered = true}); }, {"rmsprop", "grad_avg"});
}

TEST_F(BadInput, zero_gradients_refuses_const_gradients_and_clears_none) {
  optimizer.add(
      {.name = "const", .parameter = new_parameter.span(), .gradient = std::span<const float>(new_gradient.span())});
  expect_refused([&] { optimizer.zero_gradients(); }, {"\"const\"", "gradient", "const"});
}

// Every way to give an option, for every number option of every method, at every kind of value out of range.
TEST(BadOptions, numbers_out_of_range_are_refused_wherever_they_are_given) {
  for (const std::string& method : method_names()) {
    for (const Option& option : options(make_method(method))) {
      if (option.allowed.find("<=") == std::string::npos) continue;
      SCOPED_TRACE(method + " " + option.name);
      const bool fraction = option.allowed.find("3.4e38") == std::string::npos;
      const bool below_one =
          option.allowed.find("< 1") != std::string::npos && option.allowed.find("<= 1") == std::string::npos;
      std::vector<std::pair<double, std::string>> bad{{kNan, "nan"},      {-1e-9, "-1e-09"},    {-1, "-1"},
                                                      {kInfinity, "inf"}, {-kInfinity, "-inf"}, {1e39, "1e+39"}};
      if (fraction) bad.emplace_back(1.5, "1.5");
      if (below_one) bad.emplace_back(1.0, "1");
      for (const std::pair<double, std::string>& value_and_text : bad) {
        const double value = value_and_text.first;
        const std::string& text = value_and_text.second;
        SCOPED_TRACE(text);
        const Strings parts{method, option.name, text, option.allowed};
        Optimizer optimizer(make_method(method));
        const auto value_now = [&] {
          for (const Option& now : options(optimizer.options())) {
            if (now.name == option.name) return now.value;
          }
          return std::string();
        };
        expect_refusal([&] { make_method(method, {{option.name, text}}); }, parts);
        Method changed = make_method(method);
        expect_refusal([&] { set_option(changed, option.name, text); }, parts);
        EXPECT_EQ(options(changed).size(), options(make_method(method)).size());
        for (const Option& now : options(changed)) {
          EXPECT_TRUE(now.name != option.name || now.value == option.value) << now.value;
        }
        expect_refusal([&] { optimizer.set_option(GroupId{}, option.name, value); }, parts);
        expect_refusal([&] { optimizer.set_option(GroupId{}, option.name, std::string_view(text)); }, parts);
        if (option.name == "learning_rate") {
          expect_refusal([&] { optimizer.set_learning_rate(GroupId{}, value); }, parts);
        }
        // Written into the struct, which nothing checks before the optimizer sees it.
        Method written = make_method(method);
        std::visit(
            [&](auto& fields) {
              fields.visit_fields(fields, [&](std::string_view field, auto& there, const auto&...) {
                if constexpr (std::is_same_v<std::remove_reference_t<decltype(there)>, double>) {
                  if (field == option.name) there = value;
                }
              });
            },
            written);
        expect_refusal([&] { validate(written); }, parts);
        expect_refusal([&] { Optimizer made(written); }, parts);
        expect_refusal([&] { optimizer.add_group(written); }, parts);
        expect_refusal([&] { optimizer.set_options(GroupId{}, written); }, parts);
        EXPECT_EQ(value_now(), option.value);
        EXPECT_THROW(static_cast<void>(optimizer.options(GroupId{1})), std::invalid_argument) << "no group was added";
      }
    }
  }
}

TEST(BadOptions, the_ends_of_the_ranges_are_allowed) {
  EXPECT_NO_THROW(make_method("adam", {{"beta1", "0"}, {"beta2", "0"}, {"epsilon", "0"}, {"learning_rate", "0"}}));
  EXPECT_NO_THROW(make_method("adam", {{"beta1", "0.99999999999"}, {"learning_rate", "3.4e38"}}));
  EXPECT_NO_THROW(make_method("momentum", {{"dampening", "1"}}));
}

TEST(BadOptions, text_that_is_no_value_and_unknown_names_are_refused) {
  expect_refusal([] { make_method("adm"); }, {"\"adm\"", "gradient_descent, momentum, rmsprop, adam, adamw"});
  expect_refusal([] { make_method(""); }, {"\"\""});
  expect_refusal([] { make_method("Adam"); }, {"\"Adam\""});
  expect_refusal([] { make_method("adam", {{"beta3", "0.5"}}); }, {"adam", "\"beta3\"", "beta1, beta2"});
  for (const char* text : {"", "fast", "0.1x", " 0.1", "0.1 ", "0,1", "--1", "true"}) {
    expect_refusal(
        [&] {
          make_method("adam", {{"learning_rate", text}});
        },
        {"adam", "learning_rate", std::string("\"") + text + '"', "0 <= learning_rate"});
  }
  for (const char* text : {"", "yes", "True", "1", "0"}) {
    expect_refusal([&] { make_method("adam", {{"amsgrad", text}}); }, {"adam", "amsgrad", "true or false"});
  }
  expect_refusal(
      [] {
        make_method("rmsprop", {{"epsilon_placement", "inside"}});
      },
      {"rmsprop", "epsilon_placement", "\"inside\"", "inside_root or outside_root"});
  expect_refusal([] { validate(RMSProp{.epsilon_placement = static_cast<EpsilonPlacement>(9)}); },
                 {"rmsprop", "epsilon_placement", "9"});
  Optimizer optimizer(RMSProp{});
  expect_refusal([&] { optimizer.set_option(GroupId{}, "maximize", 0.5); }, {"maximize", "0.5", "true or false"});
  expect_refusal([&] { optimizer.set_option(GroupId{}, "epsilon_placement", 1.0); },
                 {"epsilon_placement", "inside_root"});
}

TEST(BadOptions, options_that_do_not_go_together_are_refused) {
  expect_refusal(
      [] {
        make_method("momentum", {{"nesterov", "true"}, {"dampening", "0.1"}});
      },
      {"momentum", "nesterov", "dampening"});
  expect_refusal([] { make_method("momentum", {{"nesterov", "true"}, {"momentum", "0"}}); }, {"momentum", "nesterov"});
  Optimizer optimizer(Momentum{.nesterov = true});
  expect_refusal([&] { optimizer.set_option(GroupId{}, "dampening", 0.1); }, {"nesterov"});
  expect_refusal([&] { optimizer.set_option(GroupId{}, "momentum", 0.0); }, {"nesterov"});
  EXPECT_EQ(std::get<Momentum>(optimizer.options()).dampening, 0.0);
  EXPECT_EQ(std::get<Momentum>(optimizer.options()).momentum, 0.9);
}

TEST(BadTuning, threads_and_tiles_out_of_range_are_refused) {
  expect_refusal([] { Optimizer optimizer(Adam{}, Device::cpu(), {.threads = -1}); }, {"threads", "-1"});
  expect_refusal([] { Optimizer optimizer(Adam{}, Device::cpu(), {.threads = 1000000}); },
                 {"threads", "1000000", "4096"});
  for (const std::int64_t tile : {std::int64_t{-4096}, std::int64_t{1}, std::int64_t{4095}, std::int64_t{4097},
                                  std::int64_t{-1}, (std::int64_t{1} << 30) + kChunk, std::int64_t{1} << 40}) {
    expect_refusal([&] { Optimizer optimizer(Adam{}, Device::cpu(), {.tile = tile}); },
                   {"tile", std::to_string(tile), "4096"});
  }
  EXPECT_NO_THROW(Optimizer(Adam{}, Device::cpu(), {.tile = std::int64_t{1} << 30}));
}

TEST(BadDevice, that_is_not_there_says_so) {
  expect_refusal([] { Optimizer optimizer(Adam{}, Device::cuda(-1)); }, {"cuda:-1"});
  expect_refusal([] { Optimizer optimizer(Adam{}, Device{.index = 1}); }, {"the CPU with index 1", "Device::cuda(1)"});
  expect_refusal<Unavailable>([] { Optimizer optimizer(Adam{}, Device::cuda(1 << 20)); },
                              {"cuda:1048576 was asked for, but "});
  bool all_there = true;
  for (const SimdLevel level : {SimdLevel::baseline, SimdLevel::avx2, SimdLevel::avx512}) {
    const std::vector<SimdLevel> there = simd_levels();
    if (std::find(there.begin(), there.end(), level) != there.end()) continue;
    all_there = false;
    expect_refusal<Unavailable>([&] { Optimizer optimizer(Adam{}, Device::cpu(), {.simd = level}); },
                                {std::string(name(level)), "baseline"});
  }
  if (all_there)
    expect_refusal<Unavailable>([] { Optimizer optimizer(Adam{}, Device::cpu(), {.simd = static_cast<SimdLevel>(9)}); },
                                {"SIMD"});
}

}  // namespace
}  // namespace adamant::test
