// The images: what one is, and how a file of them is read and checked.
#pragma once

#include <algorithm>
#include <array>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <fstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

constexpr int kPixels = 64;
constexpr int kClasses = 10;

struct Example {
  std::array<float, kPixels> pixel;  // 0 to 1
  int digit;
};

/// The whole number that all of `text` is. Throws std::invalid_argument that begins with `what` otherwise.
inline std::uint64_t parse(std::string_view text, std::uint64_t low, std::uint64_t high, const std::string& what) {
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size() || value < low || value > high) {
    throw std::invalid_argument(what + ": '" + std::string(text) + "' is not a whole number from " +
                                std::to_string(low) + " to " + std::to_string(high));
  }
  return value;
}

/// The examples of a file of 65 comma-separated numbers a line. Throws with file and line where that is not so.
inline std::vector<Example> load(const std::string& path) {
  std::ifstream file(path);
  if (!file) throw std::runtime_error(path + ": cannot be opened");
  std::vector<Example> examples;
  for (std::string line; std::getline(file, line);) {
    if (line.ends_with('\r')) line.pop_back();
    const std::string place = path + ":" + std::to_string(examples.size() + 1);
    const auto columns = std::count(line.begin(), line.end(), ',') + 1;
    if (columns != kPixels + 1) {
      throw std::runtime_error(place + ": 64 pixels and the digit are 65 columns, not " + std::to_string(columns));
    }
    Example& example = examples.emplace_back();
    std::string_view rest = line;
    for (float& pixel : example.pixel) {
      const std::size_t comma = rest.find(',');
      pixel = static_cast<float>(parse(rest.substr(0, comma), 0, 16, place)) / 16.0F;
      rest.remove_prefix(comma + 1);
    }
    example.digit = static_cast<int>(parse(rest, 0, kClasses - 1, place));
  }
  if (file.bad()) throw std::runtime_error(path + ": cannot be read");
  return examples;
}
