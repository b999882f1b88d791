// A user's program that is compiled with whatever flags its target is given (-Ofast, -O0, AVX-512) and comes before the
// library on the link line. It makes copies of its own of every rule, so that a function of the library that had a
// symbol in common with them would be replaced; steps every method through the library; and prints a digest of each
// run, which must be the same whatever the flags were. The numbers it feeds in are made of integers only.
#include <adamant/adamant.hpp>
#include <array>
#include <bit>
#include <cstdint>
#include <cstdio>
#include <map>
#include <string>
#include <utility>
#include <variant>
#include <vector>

namespace {

// Makes the compiler emit a function although nobody calls it.
template <typename Function>
void keep(Function function) {
  asm volatile("" : : "r"(&function) : "memory");
}

template <typename Rule, typename Real>
void keep_step() {
  using Step = typename Rule::template Step<Real>;
  keep(&Step::at_step);
  keep(&Step::operator());
}

template <typename Method, typename... Rules>
void keep_rules(adamant::TypeList<Rules...> /*rules*/) {
  keep(&Method::variant);
  keep(&Method::runs_as);
  keep(&Method::conflict);
  (keep_step<Rules, float>(), ...);
  (keep_step<Rules, double>(), ...);
}

template <typename... Methods>
void keep_own_copies(const std::variant<Methods...>* /*tag*/) {
  (keep_rules<Methods>(typename Methods::Variants{}), ...);
  keep(&adamant::decay_power);
  keep(static_cast<float (*)(float)>(&adamant::square_root));
  keep(static_cast<double (*)(double)>(&adamant::square_root));
  keep(&adamant::RunningSum<float>::average);
  keep(&adamant::RunningSum<double>::average);
  keep(&adamant::RunningSum<float>::operator());
  keep(&adamant::RunningSum<double>::operator());
}

std::uint64_t scramble(std::uint64_t seed) {  // splitmix64
  std::uint64_t z = seed + 0x9E3779B97F4A7C15ULL;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ULL;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBULL;
  return z ^ (z >> 31);
}

// Magnitudes around 1 with now and then a subnormal, an infinity or a NaN.
template <typename Real>
Real value(std::uint64_t seed) {
  using Bits = std::conditional_t<sizeof(Real) == 4, std::uint32_t, std::uint64_t>;
  constexpr int kMantissa = sizeof(Real) == 4 ? 23 : 52;
  constexpr std::uint64_t kBias = sizeof(Real) == 4 ? 127 : 1023;
  const std::uint64_t random = scramble(seed);
  std::uint64_t exponent = kBias - 8 + (random >> 56) % 12;
  if (random % 16 == 0) exponent = 0;
  if (random % 1024 == 1) exponent = 2 * kBias + 1;
  const std::uint64_t mantissa = scramble(random) >> (64 - kMantissa);
  const std::uint64_t sign = (random >> 8) & 1;
  return std::bit_cast<Real>(static_cast<Bits>((sign << (sizeof(Real) * 8 - 1)) | (exponent << kMantissa) | mantissa));
}

class Digest {  // FNV-1a
 public:
  void add(const void* data, std::size_t bytes) {
    const auto* byte = static_cast<const unsigned char*>(data);
    for (std::size_t i = 0; i < bytes; ++i) hash_ = (hash_ ^ byte[i]) * 0x100000001B3ULL;
  }
  std::uint64_t value() const { return hash_; }

 private:
  std::uint64_t hash_ = 0xCBF29CE484222325ULL;
};

// Enough for the backend to wake its threads.
constexpr std::size_t kCount = 8 * adamant::kChunk + 37;

template <typename Real>
std::uint64_t run(const adamant::Method& method, adamant::SimdLevel level, int threads) {
  std::vector<Real> parameter(kCount);
  std::vector<Real> gradient(kCount);
  for (std::size_t i = 0; i < kCount; ++i) parameter[i] = value<Real>(i);
  adamant::Optimizer optimizer(method, adamant::Device::cpu(),
                               {.threads = threads, .tile = adamant::kChunk, .simd = level});
  const adamant::TensorId id =
      optimizer.add({.name = "x", .parameter = {parameter.data(), kCount}, .gradient = {gradient.data(), kCount}});
  for (std::uint64_t step = 1; step <= 3; ++step) {
    for (std::size_t i = 0; i < kCount; ++i) gradient[i] = value<Real>(step * kCount + i);
    optimizer.step();
  }
  Digest digest;
  digest.add(parameter.data(), kCount * sizeof(Real));
  for (const std::string& name : adamant::state_names(method)) {
    digest.add(optimizer.state(id, name).data(), kCount * sizeof(Real));
  }
  return digest.value();
}

using Options = std::map<std::string, std::string>;

// Every method as it is and with every term of its formula, and every variant.
std::vector<std::pair<std::string, Options>> configurations() {
  std::vector<std::pair<std::string, Options>> all;
  for (const std::string& method : adamant::method_names()) {
    all.push_back({method, {}});
    all.push_back({method, {{"weight_decay", "0.1"}, {"maximize", "true"}, {"learning_rate", "3e-4"}}});
  }
  all.push_back({"momentum", {{"nesterov", "true"}}});
  all.push_back({"momentum", {{"dampening", "0.3"}, {"momentum", "0.3"}}});
  for (const char* placement : {"inside_root", "outside_root"}) {
    for (const char* centered : {"false", "true"}) {
      for (const char* momentum : {"0", "0.8"}) {
        all.push_back({"rmsprop", {{"epsilon_placement", placement}, {"centered", centered}, {"momentum", momentum}}});
      }
    }
  }
  for (const char* method : {"adam", "adamw"}) {
    all.push_back({method, {{"amsgrad", "true"}}});
    all.push_back({method, {{"amsgrad", "true"}, {"beta1", "0.3"}, {"beta2", "0.97"}, {"epsilon", "1e-3"}}});
  }
  return all;
}

}  // namespace

int main() {
  keep_own_copies(static_cast<const adamant::Method*>(nullptr));
  for (const auto& [name, options] : configurations()) {
    const adamant::Method method = adamant::make_method(name, options);
    std::string text = name;
    for (const auto& [option, setting] : options) text += " " + option + "=" + setting;
    for (const adamant::SimdLevel level : adamant::simd_levels()) {
      for (const int threads : {1, 3}) {
        std::printf("%s %s threads=%d float32 %016llx float64 %016llx\n", text.c_str(),
                    std::string(adamant::name(level)).c_str(), threads,
                    static_cast<unsigned long long>(run<float>(method, level, threads)),
                    static_cast<unsigned long long>(run<double>(method, level, threads)));
      }
    }
  }
}
