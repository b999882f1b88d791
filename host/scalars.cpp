#include "host/scalars.hpp"

#include <cstring>

#include "kernels/apply.hpp"
#include "kernels/storage.hpp"

namespace adamant::host {
namespace {

using AtStep = kernels::Scalars (*)(const Method&, std::int64_t);

template <typename Rule, typename Storage>
kernels::Scalars at_step(const Method& method, std::int64_t t) {
  using Step = typename Rule::template Step<typename Storage::Real>;
  const Step step = Step::at_step(std::get<typename Rule::Options>(method), t);
  kernels::Scalars scalars{};
  std::memcpy(scalars.bytes, &step, sizeof step);
  return scalars;
}

struct Functions {
  AtStep list[kernels::Rules::kSize][kernels::Storages::kSize];
};

template <typename... Rules, typename... Storages>
constexpr Functions make_functions(TypeList<Rules...> /*rules*/, TypeList<Storages...> /*storages*/) {
  Functions functions{};
  std::size_t rule = 0;
  const auto fill = [&]<typename Rule>(const Rule*) {
    std::size_t storage = 0;
    ((functions.list[rule][storage++] = &at_step<Rule, Storages>), ...);
    ++rule;
  };
  (fill(static_cast<const Rules*>(nullptr)), ...);
  return functions;
}

constexpr Functions kFunctions = make_functions(kernels::Rules{}, kernels::Storages{});

}  // namespace

kernels::Scalars scalars_at_step(int rule, int storage, const Method& options, std::int64_t t) {
  return kFunctions.list[rule][storage](options, t);
}

double gradient_sign(const Method& options) {
  return std::visit([](const auto& fields) { return kernels::gradient_sign(fields); }, options);
}

}  // namespace adamant::host
