// Fits y = a x^2 + b x + c to eleven points by least squares: the smallest training loop there is.
#include <adamant/adamant.hpp>

#include <array>
#include <cstdio>

int main() {
  std::array<float, 3> coefficients{};  // a, b, c: what the Optimizer updates
  std::array<float, 3> gradient{};      // of the mean squared error: what it reads

  adamant::Optimizer optimizer(adamant::Adam{.learning_rate = 0.05});
  optimizer.add({.name = "coefficients", .parameter = {coefficients.data(), 3}, .gradient = {gradient.data(), 3}});

  for (int step = 1; step <= 1000; ++step) {
    float loss = 0.0F;
    optimizer.zero_gradients();
    for (int i = 0; i <= 10; ++i) {
      const float x = static_cast<float>(i - 5) / 5.0F;
      const float y = 3.0F * x * x - 2.0F * x + 0.5F;  // what the fit has to find out
      const auto [a, b, c] = coefficients;
      const float error = a * x * x + b * x + c - y;
      loss += error * error / 11.0F;
      gradient[0] += 2.0F * error * x * x / 11.0F;
      gradient[1] += 2.0F * error * x / 11.0F;
      gradient[2] += 2.0F * error / 11.0F;
    }
    optimizer.step();
    if (step % 200 == 0) std::printf("step %4d  loss %.2e\n", step, static_cast<double>(loss));
  }
  const auto [a, b, c] = coefficients;
  std::printf("y = %.4f x^2 %+.4f x %+.4f\n", static_cast<double>(a), static_cast<double>(b), static_cast<double>(c));
}
