// Trains one small network on handwritten digits with every method that the library has, side by side.
//
// The network is 64 pixels -> 64 hidden units, ReLU -> 10 classes, softmax, cross entropy: everything but the update of
// its parameters is written out below. Read Trainee first if you only want to see how an Optimizer is used.
//
// The same --seed gives the same bits on every machine, whatever the compiler, its optimisation level and the number of
// threads. The library promises that for its own part; here it takes three things: sums in one fixed order, no fused
// multiply-add (-ffp-contract=off in CMakeLists.txt), and exp, log and random numbers of our own, because those of the
// standard library differ from one system to the next (portable_math.hpp). Of <cmath> only sqrt is used, which IEEE 754
// rounds correctly.
#include <adamant/adamant.hpp>

#include <algorithm>
#include <array>
#include <bit>
#include <cfloat>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <fstream>
#include <map>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "digit_images.hpp"
#include "portable_math.hpp"

static_assert(FLT_EVAL_METHOD == 0, "float arithmetic in float, or the bits depend on the compiler");

namespace {

constexpr int kHidden = 64;
constexpr std::size_t kBatch = 32;
constexpr int kHeldOutFraction = 5;         // one image in five is never trained on
constexpr std::uint64_t kSplitSeed = 1797;  // not --seed: the images held out are always the same

// ---- The network

/// One array of parameters and the array in which backward() adds up its gradient: all that the library sees.
struct Parameter {
  std::vector<float> value;
  std::vector<float> gradient;
};

struct Network {
  Parameter w1;  // [pixel][hidden]
  Parameter b1;  // [hidden]
  Parameter w2;  // [hidden][class]
  Parameter b2;  // [class]
};

/// Weights uniform within sqrt(6 / inputs) of zero (He et al. 2015, which keeps the scale through a ReLU), biases zero.
Network make_network(Random& random) {
  const auto make = [&](int count, float bound) {
    Parameter parameter{std::vector<float>(count), std::vector<float>(count)};
    for (float& value : parameter.value) value = bound * random.symmetric();
    return parameter;
  };
  return {.w1 = make(kPixels * kHidden, std::sqrt(6.0F / kPixels)),
          .b1 = make(kHidden, 0.0F),
          .w2 = make(kHidden * kClasses, std::sqrt(6.0F / kHidden)),
          .b2 = make(kClasses, 0.0F)};
}

/// to += factor * from. All products of matrices below are made of this instead of inner products: its terms belong to
/// different sums, so a compiler may vectorise it without changing the order within any of them.
void add_scaled(float* to, float factor, const float* from, int count) {
  for (int i = 0; i < count; ++i) to[i] += factor * from[i];
}

struct Prediction {
  std::array<float, kHidden> hidden;        // after the ReLU
  std::array<float, kClasses> probability;  // softmax
  int digit;                                // the likeliest
  double loss;                              // -log(probability of the right digit)
};

Prediction forward(const Network& network, const Example& example) {
  Prediction result;
  std::copy(network.b1.value.begin(), network.b1.value.end(), result.hidden.begin());
  for (int i = 0; i < kPixels; ++i) {
    add_scaled(result.hidden.data(), example.pixel[i], &network.w1.value[i * kHidden], kHidden);
  }
  for (float& hidden : result.hidden) hidden = hidden > 0.0F ? hidden : 0.0F;

  std::array<float, kClasses> logit;
  std::copy(network.b2.value.begin(), network.b2.value.end(), logit.begin());
  for (int j = 0; j < kHidden; ++j) {
    add_scaled(logit.data(), result.hidden[j], &network.w2.value[j * kClasses], kClasses);
  }
  result.digit = static_cast<int>(std::max_element(logit.begin(), logit.end()) - logit.begin());

  const double largest = logit[result.digit];
  std::array<double, kClasses> exponentials;
  double sum = 0.0;
  for (int c = 0; c < kClasses; ++c) {
    exponentials[c] = exponential(logit[c] - largest);
    sum += exponentials[c];
  }
  for (int c = 0; c < kClasses; ++c) result.probability[c] = static_cast<float>(exponentials[c] / sum);
  result.loss = logarithm(sum) - (logit[example.digit] - largest);
  return result;
}

/// Adds `weight` times the gradient of the example's loss to the network's gradients.
void backward(Network& network, const Example& example, const Prediction& prediction, float weight) {
  // Of softmax and cross entropy together: the probabilities, less one at the right digit.
  std::array<float, kClasses> d_logit = prediction.probability;
  d_logit[example.digit] -= 1.0F;
  add_scaled(network.b2.gradient.data(), weight, d_logit.data(), kClasses);

  std::array<float, kHidden> d_hidden;
  for (int j = 0; j < kHidden; ++j) {
    const float hidden = prediction.hidden[j];
    add_scaled(&network.w2.gradient[j * kClasses], weight * hidden, d_logit.data(), kClasses);
    const float* w2 = &network.w2.value[j * kClasses];
    float sum = 0.0F;
    for (int c = 0; c < kClasses; ++c) sum += w2[c] * d_logit[c];
    d_hidden[j] = hidden > 0.0F ? sum : 0.0F;
  }
  add_scaled(network.b1.gradient.data(), weight, d_hidden.data(), kHidden);
  for (int i = 0; i < kPixels; ++i) {
    add_scaled(&network.w1.gradient[i * kHidden], weight * example.pixel[i], d_hidden.data(), kHidden);
  }
}

struct Score {
  double loss;
  double accuracy;
};

Score evaluate(const Network& network, std::span<const Example> examples) {
  double loss = 0.0;
  int right = 0;
  for (const Example& example : examples) {
    const Prediction prediction = forward(network, example);
    loss += prediction.loss;
    right += prediction.digit == example.digit ? 1 : 0;
  }
  const auto count = static_cast<double>(examples.size());
  return {loss / count, right / count};
}

// ---- Training: this is where the library comes in

/// What each method is given; the values were found by trying.
std::map<std::string, std::string> options_for(const std::string& method) {
  std::map<std::string, std::map<std::string, std::string>> tuned = {
      {"gradient_descent", {{"learning_rate", "0.2"}}},
      {"momentum", {{"learning_rate", "0.05"}}},
      {"rmsprop", {{"learning_rate", "0.002"}}},
      {"adam", {{"learning_rate", "0.003"}}},
      {"adamw", {{"learning_rate", "0.003"}, {"weight_decay", "0.1"}}},
  };
  return tuned[method];  // none for a method that is not listed, which then trains with its defaults
}

/// A network and the Optimizer that trains it.
struct Trainee {
  Network network;
  adamant::Optimizer optimizer;

  Trainee(const std::string& method, const Network& start)
      : network(start),
        // One thread: these arrays are so small that waking a second one costs more than it would save.
        optimizer(adamant::make_method(method, options_for(method)), adamant::Device::cpu(), {.threads = 1}) {
    // The Optimizer keeps addresses. They stay good when a Trainee is moved, as a moved vector keeps its elements.
    const auto add = [&](const char* name, Parameter& parameter) {
      optimizer.add({.name = name, .parameter = std::span(parameter.value), .gradient = std::span(parameter.gradient)});
    };
    add("w1", network.w1);
    add("b1", network.b1);
    add("w2", network.w2);
    add("b2", network.b2);
  }

  std::string method() const { return std::string(adamant::name(optimizer.options())); }

  void train(std::span<const Example> batch) {
    optimizer.zero_gradients();  // backward() adds to them
    for (const Example& example : batch) {
      backward(network, example, forward(network, example), 1.0F / static_cast<float>(batch.size()));
    }
    optimizer.step();
  }
};

/// FNV-1a over the bits of all parameters, least significant byte first.
std::uint64_t digest(const Network& network) {
  std::uint64_t hash = 0xCBF29CE484222325ULL;
  for (const Parameter* parameter : {&network.w1, &network.b1, &network.w2, &network.b2}) {
    for (const float value : parameter->value) {
      const auto bits = std::bit_cast<std::uint32_t>(value);
      for (int shift = 0; shift < 32; shift += 8) hash = (hash ^ ((bits >> shift) & 0xFF)) * 0x100000001B3ULL;
    }
  }
  return hash;
}

// ---- Command line

constexpr const char* kUsage =
    "usage: digits [--epochs N] [--seed N] [--method NAME] [--data FILE] [--out FOLDER] [--help]\n"
    "Trains a network of two layers on handwritten digits with each method of adamant, side by side.\n"
    "  --epochs N     passes over the training images (default 30)\n"
    "  --seed N       of the first weights and of the order of the images (default 1)\n"
    "  --method NAME  one method instead of all\n"
    "  --data FILE    65 comma-separated numbers a line; by default\n"
    "                 " DIGITS_FOLDER
    "/digits.csv\n"
    "  --out FOLDER   also write FOLDER/digits.csv: method,epoch,loss,accuracy\n";

struct Arguments {
  std::uint64_t epochs = 30;
  std::uint64_t seed = 1;
  std::vector<std::string> methods = adamant::method_names();
  std::string data = DIGITS_FOLDER "/digits.csv";
  std::string out;
  bool help = false;
};

/// Throws std::invalid_argument that says what is wrong.
Arguments parse_arguments(std::span<char*> words) {
  Arguments arguments;
  for (std::size_t i = 0; i < words.size(); ++i) {
    const std::string name = words[i];
    const auto value = [&]() -> std::string {
      if (++i == words.size() || *words[i] == '\0') throw std::invalid_argument(name + " needs a value");
      return words[i];
    };
    if (name == "--help") {
      arguments.help = true;
    } else if (name == "--epochs") {
      arguments.epochs = parse(value(), 1, 10000, name);
    } else if (name == "--seed") {
      arguments.seed = parse(value(), 0, UINT64_MAX, name);
    } else if (name == "--method") {
      arguments.methods = {value()};
      adamant::make_method(arguments.methods.front());  // throws with a list of the methods if there is no such one
    } else if (name == "--data") {
      arguments.data = value();
    } else if (name == "--out") {
      arguments.out = value();
    } else {
      throw std::invalid_argument("unknown argument '" + name + "'");
    }
  }
  return arguments;
}

void run(const Arguments& arguments) {
  std::vector<Example> examples = load(arguments.data);
  Random split{kSplitSeed};
  shuffle(examples, split);
  const std::span<const Example> held_out(examples.data(), examples.size() / kHeldOutFraction);
  if (held_out.empty()) throw std::runtime_error(arguments.data + ": too few images to hold one in five out");
  std::vector<Example> training(examples.begin() + std::ssize(held_out), examples.end());

  const std::string csv_path = arguments.out + "/digits.csv";
  std::ofstream csv;  // stays closed without --out, and then ignores what is written to it
  if (!arguments.out.empty()) {
    std::filesystem::create_directories(arguments.out);
    csv.open(csv_path);
    if (!csv) throw std::runtime_error(csv_path + ": cannot be written");
    csv.precision(9);
    csv << "method,epoch,loss,accuracy\n";
  }

  // Every method starts from the same weights and sees the same batches, whichever others run beside it.
  Random random{arguments.seed};
  const Network start = make_network(random);
  std::vector<Trainee> trainees;
  for (const std::string& method : arguments.methods) trainees.emplace_back(method, start);

  std::printf("Loss on %zu images, and accuracy on %zu that are held out\n\n     ", training.size(), held_out.size());
  for (const Trainee& trainee : trainees) std::printf("%20s", trainee.method().c_str());
  std::printf("\nepoch");
  for (std::size_t i = 0; i < trainees.size(); ++i) std::printf("       loss accuracy");
  std::printf("\n");
  for (std::uint64_t epoch = 0; epoch <= arguments.epochs; ++epoch) {
    if (epoch > 0) {  // the first row is the untrained network
      shuffle(training, random);
      for (std::size_t first = 0; first < training.size(); first += kBatch) {
        const std::size_t size = std::min(kBatch, training.size() - first);
        for (Trainee& trainee : trainees) trainee.train(std::span(training).subspan(first, size));
      }
    }
    std::printf("%5d", static_cast<int>(epoch));
    for (const Trainee& trainee : trainees) {
      const double loss = evaluate(trainee.network, training).loss;
      const double accuracy = evaluate(trainee.network, held_out).accuracy;
      std::printf("   %8.5f %7.2f%%", loss, 100.0 * accuracy);
      csv << trainee.method() << ',' << epoch << ',' << loss << ',' << accuracy << '\n';
    }
    std::printf("\n");
    std::fflush(stdout);  // each epoch as it comes, also into a pipe
  }

  std::printf("\nFNV-1a of the trained parameters, the same on every machine:\n");
  for (const Trainee& trainee : trainees) {
    const auto hash = static_cast<unsigned long long>(digest(trainee.network));
    std::printf("digest %-16s %016llx\n", trainee.method().c_str(), hash);
  }
  if (arguments.out.empty()) return;
  csv.close();
  if (!csv) throw std::runtime_error(csv_path + ": cannot be written");
  std::printf("\nThe table is in %s; for a picture of it:\n  gnuplot -c %s/curves.gp %s\n", csv_path.c_str(),
              DIGITS_FOLDER, arguments.out.c_str());
}

}  // namespace

int main(int count, char** words) {
  Arguments arguments;
  try {
    arguments = parse_arguments(std::span(words, static_cast<std::size_t>(count)).subspan(1));
  } catch (const std::invalid_argument& error) {
    std::fprintf(stderr, "digits: %s\n%s", error.what(), kUsage);
    return 2;
  }
  if (arguments.help) {
    std::fputs(kUsage, stdout);
    return 0;
  }
  try {
    run(arguments);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "digits: %s\n", error.what());
    return 1;
  }
  return 0;
}
