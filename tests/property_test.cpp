// Random lists of tensors, groups, freezes, removals, changes of options and gradients, against a model that is one
// textbook a tensor, and bit for bit against one Optimizer a tensor at baseline SIMD with one thread. RapidCheck prints
// what repeats a failure: RC_PARAMS="reproduce=..." or "seed=...".
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <cmath>
#include <cstdint>
#include <list>
#include <memory>
#include <string>
#include <vector>

#include "tests/single_tensor.hpp"

namespace adamant::test {
namespace {

// One thing that a caller does; the numbers are taken modulo what there is at the time.
struct Action {
  enum class Kind {
    add,
    remove,
    freeze,
    thaw,
    step,
    new_gradients,
    move_gradient,
    learning_rate,
    weight_decay,
    decay_rate,
    maximize,
    add_group,
    change_group,
    zero_gradients,
    set_step_count,
    mistake,
  };
  Kind kind;
  std::uint32_t which;
  std::uint32_t value;
};
constexpr int kKinds = static_cast<int>(Action::Kind::mistake) + 1;

std::ostream& operator<<(std::ostream& out, const Action& action) {
  static const char* const kNames[] = {"add",          "remove",         "freeze",         "thaw",
                                       "step",         "new_gradients",  "move_gradient",  "learning_rate",
                                       "weight_decay", "decay_rate",     "maximize",       "add_group",
                                       "change_group", "zero_gradients", "set_step_count", "mistake"};
  return out << kNames[static_cast<int>(action.kind)] << "(" << action.which << ", " << action.value << ")";
}

rc::Gen<Action> any_action() {
  return rc::gen::map(rc::gen::tuple(rc::gen::inRange(0, 2 * kKinds), rc::gen::inRange<std::uint32_t>(0, 1000),
                                     rc::gen::inRange<std::uint32_t>(0, 1000)),
                      [](const std::tuple<int, std::uint32_t, std::uint32_t>& numbers) {
                        const auto& [kind, which, value] = numbers;
                        // Half of all actions add or step, or little would happen.
                        const int chosen =
                            kind < kKinds ? kind : (kind % 3 == 0 ? 0 : static_cast<int>(Action::Kind::step));
                        return Action{static_cast<Action::Kind>(chosen), which, value};
                      });
}

// One tensor of the run: in the optimizer under test, alone in one of its own, and in the textbook.
class ModelTensor {
 public:
  virtual ~ModelTensor() = default;
  virtual TensorSpec spec(GroupId group) const = 0;
  virtual ConstArray move_gradient() = 0;
  virtual void new_gradient(std::uint64_t seed) = 0;
  virtual void zero_gradient() = 0;
  virtual void set_method(const Case& c) = 0;
  virtual void set_step_count(std::int64_t count) = 0;
  virtual void step() = 0;
  virtual void check(Optimizer& optimizer, TensorId id) const = 0;

  TensorId id{};
  std::size_t group = 0;
  bool frozen = false;
};

template <typename Real>
class TypedTensor final : public ModelTensor {
 public:
  TypedTensor(std::string name, std::int64_t count, std::uint64_t seed, const Case& c)
      : name_(std::move(name)),
        parameter_(spread_values<Real>(count, seed, -3, 1), static_cast<std::int64_t>(seed % 16)),
        alone_(c, parameter_.values(), {.threads = 1, .tile = kChunk, .simd = SimdLevel::baseline}),
        path_(parameter_.values()),
        case_(c) {
    gradients_.emplace_back(count, static_cast<std::int64_t>(seed / 16 % 16));
    new_gradient(seed + 1);
  }

  TensorSpec spec(GroupId group) const override {
    return {.name = name_, .parameter = parameter_.span(), .gradient = gradients_.back().span(), .group = group};
  }
  ConstArray move_gradient() override {
    gradients_.emplace_back(gradients_.back().values(), static_cast<std::int64_t>(gradients_.size() % 16));
    // The place it was at must not be read again.
    for (Real& g : std::prev(gradients_.end(), 2)->span()) g = std::numeric_limits<Real>::quiet_NaN();
    return gradients_.back().span();
  }
  void new_gradient(std::uint64_t seed) override {
    gradients_.back().fill(spread_values<Real>(parameter_.count(), seed, -3, 0));
  }
  void zero_gradient() override {
    for (const Real g : gradients_.back().span()) RC_ASSERT(g == Real{0});
  }
  void set_method(const Case& c) override {
    case_ = c;
    alone_.optimizer.set_options(GroupId{}, c.make());
  }
  void set_step_count(std::int64_t count) override {
    count_ = count;
    alone_.optimizer.set_step_count(alone_.id, count);
  }
  void step() override {
    ++count_;
    ++steps_;
    alone_.step(gradients_.back().values());
    path_.step(reference::Textbook<Exact<Real>>(case_.method, case_.options), gradients_.back().values(), count_);
  }
  void check(Optimizer& optimizer, TensorId id) const override {
    RC_ASSERT(optimizer.step_count(id) == count_);
    RC_ASSERT(optimizer.tensor(id).name == name_);
    RC_ASSERT(optimizer.frozen(id) == frozen);
    RC_ASSERT(same_bits(parameter_.values(), alone_.parameter.values()));
    RC_ASSERT(parameter_.zones_untouched());
    for (const Fenced<Real>& gradient : gradients_) RC_ASSERT(gradient.zones_untouched());
    for (const std::string& state : state_names(optimizer.options())) {
      const Array array = optimizer.state(id, state);
      const std::span<const Real> values(array.template as<Real>(), static_cast<std::size_t>(array.count()));
      RC_ASSERT(same_bits(values, std::span<const Real>(const_cast<SingleTensor<Real>&>(alone_).state(state))));
    }
    for (std::size_t i = 0; i < path_.parameter.size(); ++i) {
      // Errors of a state last as long as it remembers, so every step may be as far off as the largest has been.
      const double allowed = path_.half_ulps[i] + kFarthest * kRounding<Real> * (1 + steps_) * path_.largest_update[i];
      const auto error = static_cast<double>(std::fabs(parameter_[static_cast<std::int64_t>(i)] - path_.parameter[i]));
      RC_ASSERT(error <= allowed);
    }
  }

 private:
  static constexpr double kFarthest = 1024;  // roundings: far from any wrong formula, and from any rounding

  std::string name_;
  Fenced<Real> parameter_;
  std::list<Fenced<Real>> gradients_;
  SingleTensor<Real> alone_;
  Path<Real> path_;
  Case case_;
  std::int64_t count_ = 0;
  int steps_ = 0;
};

// Runs a list of actions and checks the model after each.
void run(const Case& base, const std::vector<Action>& actions, Tuning tuning) {
  Optimizer optimizer(base.make(), Device::cpu(), tuning);
  std::vector<Case> groups{base};
  std::vector<std::unique_ptr<ModelTensor>> tensors;
  std::uint64_t made = 0;

  const auto change_option = [&](std::size_t group, const std::string& option, const std::string& value) {
    if (groups[group].value(option).empty()) return;
    groups[group].options[option] = value;
    optimizer.set_option(GroupId{static_cast<std::int32_t>(group)}, option, std::string_view(value));
    for (const auto& tensor : tensors) {
      if (tensor->group == group) tensor->set_method(groups[group]);
    }
  };

  for (const Action& action : actions) {
    ModelTensor* const tensor = tensors.empty() ? nullptr : tensors[action.which % tensors.size()].get();
    const std::size_t group = action.which % groups.size();
    switch (action.kind) {
      case Action::Kind::add: {
        const std::int64_t sizes[] = {0, 1, 2, 5, 8, 17, 33, 70, 4099};
        const std::int64_t count = sizes[action.value % 9];
        const std::string name = "tensor " + std::to_string(made);
        const std::uint64_t seed = 7919 * ++made + action.value;
        if (action.value % 3 == 0) {
          tensors.push_back(std::make_unique<TypedTensor<double>>(name, count, seed, groups[group]));
        } else {
          tensors.push_back(std::make_unique<TypedTensor<float>>(name, count, seed, groups[group]));
        }
        tensors.back()->group = group;
        tensors.back()->id = optimizer.add(tensors.back()->spec(GroupId{static_cast<std::int32_t>(group)}));
        break;
      }
      case Action::Kind::remove:
        if (tensor == nullptr) break;
        optimizer.remove(tensor->id);
        tensors.erase(tensors.begin() + static_cast<std::ptrdiff_t>(action.which % tensors.size()));
        break;
      case Action::Kind::freeze:
      case Action::Kind::thaw:
        if (tensor == nullptr) break;
        tensor->frozen = action.kind == Action::Kind::freeze;
        if (tensor->frozen) {
          optimizer.freeze(tensor->id);
        } else {
          optimizer.thaw(tensor->id);
        }
        break;
      case Action::Kind::step:
        optimizer.step();
        for (const auto& each : tensors) {
          if (!each->frozen) each->step();
        }
        break;
      case Action::Kind::new_gradients:
        for (std::size_t i = 0; i < tensors.size(); ++i) tensors[i]->new_gradient(action.value * 31 + i);
        break;
      case Action::Kind::move_gradient:
        if (tensor != nullptr) optimizer.set_gradient(tensor->id, tensor->move_gradient());
        break;
      case Action::Kind::learning_rate:
        change_option(group, "learning_rate", std::to_string(action.value * 1e-5));
        break;
      case Action::Kind::weight_decay: change_option(group, "weight_decay", std::to_string(action.value * 1e-4)); break;
      case Action::Kind::decay_rate:
        for (const char* option : {"beta1", "decay"}) {
          change_option(group, option, std::to_string(0.5 + static_cast<double>(action.value % 50) * 0.009));
        }
        break;
      case Action::Kind::maximize: change_option(group, "maximize", action.value % 2 == 0 ? "true" : "false"); break;
      case Action::Kind::add_group:
        if (groups.size() == 4) break;
        groups.push_back(base.with({{"learning_rate", std::to_string(action.value * 1e-5)}}));
        RC_ASSERT(optimizer.add_group(groups.back().make()) == GroupId{static_cast<std::int32_t>(groups.size() - 1)});
        break;
      case Action::Kind::change_group:
        if (tensor == nullptr) break;
        tensor->group = action.value % groups.size();
        tensor->set_method(groups[tensor->group]);
        optimizer.set_group(tensor->id, GroupId{static_cast<std::int32_t>(tensor->group)});
        break;
      case Action::Kind::zero_gradients:
        optimizer.zero_gradients();
        for (const auto& each : tensors) each->zero_gradient();
        break;
      case Action::Kind::set_step_count:
        if (tensor == nullptr) break;
        tensor->set_step_count(1 + action.value);
        optimizer.set_step_count(tensor->id, 1 + action.value);
        break;
      case Action::Kind::mistake:
        RC_ASSERT_THROWS_AS(optimizer.set_learning_rate(GroupId{}, -1.0), std::invalid_argument);
        if (tensor != nullptr) {
          RC_ASSERT_THROWS_AS(optimizer.add(tensor->spec(GroupId{})), std::invalid_argument);
          RC_ASSERT_THROWS_AS(optimizer.set_group(tensor->id, GroupId{99}), std::invalid_argument);
        }
        break;
    }
    const std::vector<TensorId> ids = optimizer.tensors();
    RC_ASSERT(ids.size() == tensors.size());
    for (std::size_t i = 0; i < ids.size(); ++i) {
      RC_ASSERT(ids[i] == tensors[i]->id);  // in the order they were added
      tensors[i]->check(optimizer, ids[i]);
    }
  }
}

// Epsilons are large enough for a root of a sum of squares never to be small beside the errors of what it divides.
Case random_case() {
  const std::vector<Case> rules = one_case_per_rule();
  Case c = *rc::gen::elementOf(rules);
  if (!c.value("epsilon").empty()) c = c.with({{"epsilon", "0.01"}});
  return c;
}

RC_GTEST_PROP(AnyRun, matches_the_textbook_and_one_optimizer_per_tensor, ()) {
  const Case c = random_case();
  const auto actions = *rc::gen::container<std::vector<Action>>(any_action());
  const std::vector<SimdLevel> levels = simd_levels();
  const Tuning tuning{.threads = *rc::gen::inRange(1, 4), .tile = kChunk, .simd = *rc::gen::elementOf(levels)};
  RC_LOG() << c.name << ", " << name(*tuning.simd) << ", " << tuning.threads << " threads\n";
  run(c, actions, tuning);
}

// The names and texts of options read back as what they were.
RC_GTEST_PROP(AnyOption, reads_back_from_its_own_text, ()) {
  const std::string method = *rc::gen::elementOf(method_names());
  const double rate = static_cast<double>(*rc::gen::inRange<std::int64_t>(0, std::int64_t{1} << 53)) * 0x1p-53;
  Method written = make_method(method);
  for (const Option& option : options(written)) {
    if (option.allowed.find("<=") != std::string::npos) {
      char text[40];
      std::snprintf(text, sizeof text, "%.17g", rate);
      set_option(written, option.name, text);
    }
  }
  Method read = make_method(method);
  for (const Option& option : options(written)) set_option(read, option.name, option.value);
  const std::vector<Option> left = options(written);
  const std::vector<Option> right = options(read);
  RC_ASSERT(left.size() == right.size());
  for (std::size_t i = 0; i < left.size(); ++i) {
    RC_ASSERT(left[i].value == right[i].value);
    if (left[i].allowed.find("<=") != std::string::npos) RC_ASSERT(std::stod(left[i].value) == rate);
  }
}

}  // namespace
}  // namespace adamant::test
