// A state that PyTorch wrote (scripts/make_pytorch_states.py) is loaded and the run goes on as PyTorch's does; and what
// is saved here has the arrays that PyTorch's state has.
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <list>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "host/safetensors.hpp"
#include "tests/folder.hpp"
#include "tests/inputs.hpp"
#include "tests/methods.hpp"
#include "tests/refusal.hpp"

namespace adamant::test {
namespace {

namespace fs = std::filesystem;
using safetensors::File;

// The cases of scripts/make_pytorch_states.py under the library's names.
std::vector<Case> pytorch_cases() {
  return {{"sgd", "gradient_descent", {{"learning_rate", "0.05"}}},
          {"momentum", "momentum", {{"learning_rate", "0.05"}, {"momentum", "0.9"}, {"dampening", "0.5"}}},
          {"rmsprop",
           "rmsprop",
           {{"learning_rate", "0.01"},
            {"decay", "0.9"},
            {"epsilon", "1e-6"},
            {"epsilon_placement", "outside_root"},
            {"centered", "true"},
            {"momentum", "0.8"}}},
          {"adam", "adam", {{"learning_rate", "0.01"}, {"amsgrad", "true"}, {"weight_decay", "0.1"}}},
          {"adamw", "adamw", {{"learning_rate", "0.01"}, {"beta1", "0.8"}, {"beta2", "0.97"}}}};
}

constexpr std::int64_t kStepsBefore = 10;  // STEPS of the script

fs::path file_of(const Case& c, const std::string& what) {
  return fs::path(ADAMANT_SOURCE_DIR) / "tests" / "pytorch" / (c.name + "." + what + ".safetensors");
}

// The parameters of PyTorch's model, all zero, in the order of their names.
struct Model {
  explicit Model(const Case& c) : optimizer(c.make()), rest(File::open(file_of(c, "rest"))) {
    for (const auto& entry : rest.entries()) {
      if (entry.name.ends_with(".grad")) continue;
      Layer& layer = layers.emplace_back();
      layer.name = entry.name;
      layer.parameter.resize(static_cast<std::size_t>(entry.count()));
      layer.gradient.resize(layer.parameter.size());
      layer.gradients = rest.read<float>(entry.name + ".grad");
      optimizer.add(
          {.name = layer.name, .parameter = layer.parameter, .gradient = layer.gradient, .shape = entry.shape});
    }
  }

  void take_the_rest() {
    const std::size_t steps = layers.front().gradients.size() / layers.front().gradient.size();
    for (std::size_t step = 0; step < steps; ++step) {
      for (Layer& layer : layers) {
        const auto from = layer.gradients.begin() + static_cast<std::ptrdiff_t>(step * layer.gradient.size());
        std::copy(from, from + static_cast<std::ptrdiff_t>(layer.gradient.size()), layer.gradient.begin());
      }
      optimizer.step();
    }
  }

  struct Layer {
    std::string name;
    std::vector<float> parameter;
    std::vector<float> gradient;
    std::vector<float> gradients;  // [steps, ...]
  };
  Optimizer optimizer;
  File rest;
  std::list<Layer> layers;
};

class PyTorchState : public testing::TestWithParam<Case> {
 protected:
  // Its name begins with the case's, by which scripts/make_pytorch_states.py knows it.
  static fs::path saved_file() {
    return in_memory_where_possible() / (GetParam().name + "." + std::to_string(::getpid()) + ".safetensors");
  }
};

TEST_P(PyTorchState, is_loaded_and_the_run_goes_on_as_in_pytorch) {
  Model model(GetParam());
  ASSERT_EQ(model.layers.size(), 3U);
  const Method options = model.optimizer.options();
  const GroupId group = model.optimizer.add_group(options);
  model.optimizer.set_learning_rate({}, 0.25);
  model.optimizer.set_group(model.optimizer.find("0.bias"), group);
  model.optimizer.freeze(model.optimizer.find("2.weight"));
  model.optimizer.load(file_of(GetParam(), "state"));
  // What the file says nothing of stays as it is.
  EXPECT_TRUE(model.optimizer.frozen(model.optimizer.find("2.weight")));
  EXPECT_EQ(model.optimizer.tensor(model.optimizer.find("0.bias")).group, group);
  for (const Option& option : adamant::options(model.optimizer.options())) {
    if (option.name == "learning_rate") {
      EXPECT_EQ(option.value, "0.25");
    }
  }
  model.optimizer.set_options({}, options);
  model.optimizer.thaw(model.optimizer.find("2.weight"));

  const auto state = File::open(file_of(GetParam(), "state"));
  const bool has_steps = state.find("0.weight.step") != nullptr;
  for (const auto& layer : model.layers) {
    EXPECT_EQ(layer.parameter, state.read<float>(layer.name));
    const TensorId id = model.optimizer.find(layer.name);
    for (const std::string& name : state_names(options)) {
      const Array there = model.optimizer.state(id, name);
      EXPECT_EQ(std::vector<float>(there.as<float>(), there.as<float>() + there.count()),
                state.read<float>(layer.name + "." + name));
    }
    // SGD has no count: what matters is that the next step is not the first.
    EXPECT_EQ(model.optimizer.step_count(id), has_steps ? kStepsBefore : state_names(options).empty() ? 0 : 1);
  }
  model.take_the_rest();
  for (const auto& layer : model.layers) {
    const std::vector<double> wanted = model.rest.read<double>(layer.name);
    double largest = 0.0;
    for (const double value : wanted) largest = std::max(largest, std::fabs(value));
    for (std::size_t i = 0; i < wanted.size(); ++i) {
      EXPECT_NEAR(static_cast<double>(layer.parameter[i]), wanted[i], 4 * 0x1p-23 * largest) << layer.name;
    }
  }
}

TEST_P(PyTorchState, is_what_a_checkpoint_of_the_same_model_looks_like) {
  Model model(GetParam());
  model.optimizer.load(file_of(GetParam(), "state"));
  const fs::path path = saved_file();
  model.optimizer.save(path);
  const auto saved = File::open(path);
  fs::remove(path);
  const auto state = File::open(file_of(GetParam(), "state"));
  std::size_t arrays = 0;
  for (const auto& entry : state.entries()) {
    if (entry.name.ends_with(".step")) {  // a whole number of any size, in the metadata
      EXPECT_EQ(saved.metadata().at("adamant.step." + entry.name.substr(0, entry.name.size() - 5)), "10");
      continue;
    }
    ++arrays;
    const auto& there = saved.at(entry.name);
    EXPECT_EQ(there.type, entry.type);
    EXPECT_EQ(there.shape, entry.shape);
    EXPECT_TRUE(std::equal(there.data.begin(), there.data.end(), entry.data.begin(), entry.data.end())) << entry.name;
  }
  EXPECT_EQ(saved.entries().size(), arrays);
}

// ADAMANT_PYTHON names a Python that has torch and safetensors, where the one on the path has not.
TEST_P(PyTorchState, goes_back_to_pytorch_and_the_run_goes_on_there) {
  const char* const named = std::getenv("ADAMANT_PYTHON");
  const std::string python = named != nullptr ? named : "python3";
  const auto run = [](const std::string& command) { return std::system(command.c_str()); };
  if (run("'" + python + "' -c 'import torch, safetensors' > /dev/null 2>&1") != 0) {
    GTEST_SKIP() << python << " has no torch or no safetensors; ADAMANT_PYTHON may name one that has";
  }
  Model model(GetParam());
  model.optimizer.load(file_of(GetParam(), "state"));
  const fs::path path = saved_file();
  model.optimizer.save(path);
  const std::string script = std::string(ADAMANT_SOURCE_DIR) + "/scripts/make_pytorch_states.py";
  EXPECT_EQ(run("'" + python + "' '" + script + "' --read '" + path.string() + "'"), 0);  // prints how far off it ends
  fs::remove(path);
}

INSTANTIATE_TEST_SUITE_P(Written, PyTorchState, testing::ValuesIn(pytorch_cases()),
                         [](const auto& info) { return info.param.name; });

// --- Files of PyTorch's that do not fit

class PyTorchFile : public testing::Test {
 protected:
  ~PyTorchFile() override { fs::remove(path); }

  // Loads a changed copy of the state of a case.
  void load(const std::string& name, const std::function<void(std::vector<safetensors::Entry>&)>& change,
            LoadOptions allowed = {}) {
    const std::vector<Case> all = pytorch_cases();
    const Case& c = *std::find_if(all.begin(), all.end(), [&](const Case& each) { return each.name == name; });
    const auto file = File::open(file_of(c, "state"));
    std::vector<safetensors::Entry> entries(file.entries().begin(), file.entries().end());
    change(entries);
    safetensors::write(path, entries, {{"format", "pt"}});  // as PyTorch's own files say
    model.emplace(c);
    model->optimizer.load(path, allowed);
  }

  void expect_refused(const std::string& name, const std::function<void(std::vector<safetensors::Entry>&)>& change,
                      const std::string& why) {
    expect_refusal<NotLoaded>([&] { load(name, change); }, {why});
    for (const auto& layer : model->layers) {
      EXPECT_EQ(layer.parameter, std::vector<float>(layer.parameter.size()));
      EXPECT_EQ(model->optimizer.step_count(model->optimizer.find(layer.name)), 0);
    }
  }

  static auto named(std::vector<safetensors::Entry>& entries, const std::string& name) {
    return std::find_if(entries.begin(), entries.end(), [&](const auto& entry) { return entry.name == name; });
  }
  template <typename Number>
  void set_step(std::vector<safetensors::Entry>& entries, const Number& number) {
    auto& entry = *named(entries, "0.bias.step");
    entry.type = safetensors::ElementType<Number>::value;
    entry.data = std::as_bytes(std::span(&number, 1));
  }

  fs::path path = in_memory_where_possible() / ("adamant-pytorch-" + std::to_string(::getpid()) + ".safetensors");
  std::optional<Model> model;
};

TEST_F(PyTorchFile, without_a_count_of_steps_is_refused_where_it_matters) {
  expect_refused(
      "adam", [](auto& entries) { entries.erase(named(entries, "0.bias.step")); },
      "tensor \"0.bias\": there is no \"0.bias.step\" in the file");
  EXPECT_NO_THROW(load("rmsprop", [](auto& entries) { entries.erase(named(entries, "0.bias.step")); }));
}

TEST_F(PyTorchFile, with_a_count_that_is_none_is_refused) {
  const float half = 2.5F;
  const float negative = -1.0F;
  const float nothing = std::nanf("");
  const double huge = 0x1p63;
  const std::int64_t below = -3;
  const std::int64_t beyond = (std::int64_t{1} << 62) + 1;
  const std::int32_t narrow = 3;
  const auto refused = [&](const auto& number, const std::string& why) {
    expect_refused(
        "adam", [&](auto& entries) { set_step(entries, number); }, "\"0.bias.step\" is " + why);
  };
  refused(half, "not a step count");
  refused(negative, "not a step count");
  refused(nothing, "not a step count");
  refused(huge, "not a step count");
  refused(below, "not a step count");
  refused(beyond, "not a step count");
  refused(narrow, "1 elements of I32");
  const double wide = 0x1p53;  // as a float64 run has it
  load("adam", [&](auto& entries) { set_step(entries, wide); });
  EXPECT_EQ(model->optimizer.step_count(model->optimizer.find("0.bias")), std::int64_t{1} << 53);
  const std::int64_t many = (std::int64_t{1} << 40) + 1;
  load("adam", [&](auto& entries) { set_step(entries, many); });
  EXPECT_EQ(model->optimizer.step_count(model->optimizer.find("0.bias")), many);
}

TEST_F(PyTorchFile, of_another_method_or_with_arrays_too_many_or_too_few_is_refused) {
  expect_refused(
      "adam", [](auto& entries) { entries.erase(named(entries, "0.bias.max_exp_avg_sq")); },
      "there is no \"0.bias.max_exp_avg_sq\" in the file");
  expect_refused(
      "adam", [](auto& entries) { named(entries, "0.bias.exp_avg")->name = "0.bias.exp_average"; },
      "\"0.bias.exp_average\" of the file belongs to no tensor");
  expect_refused(
      "adam", [](auto& entries) { entries.erase(named(entries, "0.bias")); },
      "its parameter is not in the file, though those of other tensors are");
  expect_refused(
      "momentum", [](auto& entries) { std::erase_if(entries, [](auto& e) { return e.name.starts_with("0.bias"); }); },
      "tensor \"0.bias\" is not in the file: there is neither \"0.bias\" nor a state of it");
}

TEST_F(PyTorchFile, of_a_parameter_that_was_not_stepped_has_no_state_of_it_which_is_zero_then) {
  for (const std::string name : {"adam", "momentum", "rmsprop"}) {
    load(name,
         [](auto& entries) { std::erase_if(entries, [](auto& entry) { return entry.name.starts_with("0.bias."); }); });
    Optimizer& optimizer = model->optimizer;
    const TensorId bias = optimizer.find("0.bias");
    EXPECT_NE(model->layers.front().parameter, std::vector<float>(model->layers.front().parameter.size()));
    // A state that was there before goes, too.
    optimizer.step();
    optimizer.load(path);
    EXPECT_EQ(optimizer.step_count(bias), 0);
    for (const std::string& state : state_names(optimizer.options())) {
      const Array there = optimizer.state(bias, state);
      EXPECT_EQ(std::vector<float>(there.as<float>(), there.as<float>() + there.count()), std::vector<float>(3));
    }
  }
}

TEST_F(PyTorchFile, without_states_is_refused_where_a_tensor_is_not_in_it_at_all) {
  const auto only_the_bias = [](auto& entries) {
    std::erase_if(entries, [](auto& entry) { return entry.name != "0.bias"; });
  };
  expect_refused("sgd", only_the_bias, "tensor \"0.weight\" is not in the file");
  load("sgd", only_the_bias, {.allow_missing = true});
  EXPECT_NE(model->layers.front().parameter, std::vector<float>(model->layers.front().parameter.size()));
  expect_refused(
      "sgd", [](auto& entries) { entries.clear(); }, "tensor \"0.bias\" is not in the file");
}

TEST_F(PyTorchFile, without_parameters_or_with_some_tensors_is_loaded_when_that_is_said) {
  const auto only_states = [](auto& entries) {
    std::erase_if(entries, [](auto& entry) { return entry.name == "0.bias" || entry.name.ends_with("weight"); });
  };
  load("adam", only_states);
  EXPECT_EQ(model->layers.front().parameter, std::vector<float>(model->layers.front().parameter.size()));
  EXPECT_EQ(model->optimizer.step_count(model->optimizer.find("0.bias")), kStepsBefore);

  const auto only_the_bias = [](auto& entries) {
    std::erase_if(entries, [](auto& entry) { return !entry.name.starts_with("0.bias"); });
  };
  load("adam", only_the_bias, {.allow_missing = true});
  EXPECT_EQ(model->optimizer.step_count(model->optimizer.find("0.bias")), kStepsBefore);
  EXPECT_EQ(model->optimizer.step_count(model->optimizer.find("0.weight")), 0);
}

}  // namespace
}  // namespace adamant::test
