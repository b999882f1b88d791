#include "bench/shapes.hpp"

#include <initializer_list>
#include <numeric>

#include "host/text.hpp"

namespace adamant::bench {
namespace {

using Counts = std::vector<std::int64_t>;

void append(Counts& counts, std::initializer_list<std::int64_t> more) {
  for (const std::int64_t count : more) counts.push_back(count);
}

// GPT-2 (Radford et al. 2019): the output layer shares the token embedding's weight.
Counts gpt2(std::int64_t layers, std::int64_t width) {
  constexpr std::int64_t kVocabulary = 50257;
  constexpr std::int64_t kPositions = 1024;
  Counts counts{kVocabulary * width, kPositions * width};
  for (std::int64_t layer = 0; layer < layers; ++layer) {
    append(counts, {width, width,                  // norm
                    3 * width * width, 3 * width,  // queries, keys and values
                    width * width, width,          // attention's output
                    width, width,                  // norm
                    4 * width * width, 4 * width,  // into the wide layer
                    4 * width * width, width});    // and out of it
  }
  append(counts, {width, width});
  return counts;
}

// ResNet-50 (He et al. 2015): convolutions without bias, each with a batch norm's weight and bias behind it.
Counts resnet50() {
  Counts counts;
  const auto convolution = [&](std::int64_t size, std::int64_t in, std::int64_t out) {
    append(counts, {size * size * in * out, out, out});
  };
  convolution(7, 3, 64);
  std::int64_t in = 64;
  struct Stage {
    int blocks;
    std::int64_t width;
  };
  for (const Stage& stage : {Stage{3, 64}, Stage{4, 128}, Stage{6, 256}, Stage{3, 512}}) {
    const std::int64_t out = 4 * stage.width;
    for (int block = 0; block < stage.blocks; ++block) {
      convolution(1, in, stage.width);
      convolution(3, stage.width, stage.width);
      convolution(1, stage.width, out);
      if (block == 0) convolution(1, in, out);  // the way past the block, where the width changes
      in = out;
    }
  }
  constexpr std::int64_t kClasses = 1000;
  append(counts, {in * kClasses, kClasses});
  return counts;
}

}  // namespace

std::int64_t Shape::total() const { return std::accumulate(counts.begin(), counts.end(), std::int64_t{0}); }

Shape one_tensor(std::int64_t count) { return {std::to_string(count), {count}}; }

const std::vector<Shape>& networks() {
  static const std::vector<Shape> all{
      {"gpt2-124m", gpt2(12, 768)}, {"gpt2-1.5b", gpt2(48, 1600)}, {"resnet-50", resnet50()}};
  return all;
}

std::vector<Shape> all_shapes() {
  constexpr int kSmallestPower = 10;
  constexpr int kLargestPower = 28;
  constexpr std::int64_t kLargest = 1000000000;
  std::vector<Shape> shapes;
  for (int power = kSmallestPower; power <= kLargestPower; power += 2) {
    shapes.push_back(one_tensor(std::int64_t{1} << power));
  }
  shapes.push_back(one_tensor(kLargest));
  for (const char* several : {"200x1048576", "10000x64"}) shapes.push_back(shape_from(several).value());
  shapes.insert(shapes.end(), networks().begin(), networks().end());
  return shapes;
}

std::optional<Shape> shape_from(std::string_view text) {
  for (const Shape& network : networks()) {
    if (network.name == text) return network;
  }
  const auto cross = text.find('x');
  if (cross == std::string_view::npos) return {};
  const auto tensors = host::from_text<std::int64_t>(text.substr(0, cross));
  const auto count = host::from_text<std::int64_t>(text.substr(cross + 1));
  if (!tensors || !count || *tensors < 2 || *tensors > kMostTensors || *count < 1 ||
      *count > kMostParameters / *tensors) {
    return {};
  }
  return Shape{std::string(text), Counts(static_cast<std::size_t>(*tensors), *count)};
}

}  // namespace adamant::bench
