// The example on which textbooks show what momentum is for: a long valley, f(x) = 0.1 x1^2 + 2 x2^2, and the paths that
// methods take down it. Here the paths are the library's own steps; the picture of them is in descend_picture.cpp.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "adamant/adamant.hpp"

namespace adamant::tools {

struct Point {
  double x1;
  double x2;
};

// f, and its gradient.
double valley(Point at);
Point slope(Point at);

// Where to start, how far to go, and on what.
struct Course {
  Point start{-5, -2};
  int steps = 20;
  DataType type = DataType::float32;
  Device device = Device::cpu();
  Tuning tuning = {};
};

// A method, the options that it does not leave at their defaults, and its way.
struct Descent {
  std::string method;
  std::map<std::string, std::string> options;
  std::vector<Point> path;  // the start, then the point after each step

  // Whether it ended higher than it began, or nowhere.
  bool diverged() const;
  // One or a few words: "diverges", "converges", ...
  std::string verdict() const;
};

// Throws std::invalid_argument for a method or an option that there is not.
Descent descend(const std::string& method, const std::map<std::string, std::string>& options, const Course& course);

// The six paths: gradient descent, and what each of the other methods makes of the same valley.
std::vector<Descent> textbook_descents(const Course& course);

// One row for each point, every number as the shortest text that reads back as the same.
std::string to_csv(const std::vector<Descent>& descents, DataType type);

// A picture of the paths over the contours of f, a panel for each: an SVG that needs nothing else. The same paths give
// the same bytes.
std::string to_svg(const std::vector<Descent>& descents);

}  // namespace adamant::tools
