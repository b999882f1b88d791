// A mistake is an exception, whatever the project around the library defines for its own copy of nlohmann's JSON.
#include <adamant/adamant.hpp>
#include <cstdio>
#include <stdexcept>

int main() {
  float parameter = 1;
  const float gradient = 1;
  adamant::Optimizer optimizer(adamant::Adam{});
  optimizer.add({.name = "\xff", .parameter = {&parameter, 1}, .gradient = {&gradient, 1}});
  try {
    optimizer.save("bad_name.safetensors");
  } catch (const std::invalid_argument& error) {
    std::puts(error.what());
  }
}
