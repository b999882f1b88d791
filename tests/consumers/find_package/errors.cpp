// Catches by type what the library throws, from the other side of a shared library when it is one.
#include <adamant/adamant.hpp>
#include <cstdio>
#include <functional>
#include <stdexcept>
#include <system_error>
#include <vector>

namespace {

int failures = 0;

template <typename Exception>
void expect(const char* name, const std::function<void()>& call) {
  try {
    call();
    std::printf("no %s was thrown\n", name);
    ++failures;
  } catch (const Exception& error) {
    std::printf("%s: %s\n", name, error.what());
  } catch (...) {
    std::printf("something else than %s was thrown\n", name);
    ++failures;
  }
}

}  // namespace

int main() {
  std::vector<float> parameter(3);
  std::vector<float> gradient(3);
  adamant::Optimizer optimizer(adamant::Adam{});
  optimizer.add({.name = "x", .parameter = parameter, .gradient = gradient});

  expect<std::invalid_argument>("std::invalid_argument", [&] { optimizer.find("y"); });
  expect<adamant::NotSaved>("NotSaved", [&] { optimizer.save("/no/such/folder/x.safetensors"); });
  expect<std::system_error>("std::system_error", [&] { optimizer.save("/no/such/folder/x.safetensors"); });
  expect<adamant::NotLoaded>("NotLoaded", [&] { optimizer.load("/no/such/folder/x.safetensors"); });
  expect<adamant::Unavailable>("Unavailable",
                               [&] { adamant::Optimizer(adamant::Adam{}, adamant::Device::cuda(1 << 20)); });
  if (adamant::version() != adamant::kVersion) ++failures;
  return failures == 0 ? 0 : 1;
}
