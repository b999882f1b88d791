// The picture of `adamant descend`: a panel for each path, all with the same axes, so that each can be followed where
// it would hide the others. Drawn here and not by gnuplot, so that it needs nothing and is the same bytes everywhere.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <utility>

#include "tools/descend.hpp"
#include "tools/method_colours.hpp"

namespace adamant::tools {
namespace {

// Pixels.
constexpr double kPanelWidth = 268;
constexpr double kPanelHeight = 190;
constexpr double kLeft = 56;     // of the first panel, with its ticks and label
constexpr double kTop = 92;      // of the first panel, with the picture's title and its own
constexpr double kAcross = 312;  // from panel to panel
constexpr double kDown = 266;    // from panel to panel
constexpr double kRight = 16;    // of the last panel
constexpr double kBottom = 78;   // of the last panel, with ticks, label and legend
constexpr std::size_t kColumns = 3;
// Farther out than this no line to a point is drawn, long before the products of clipping overflow.
constexpr double kFarthest = 1e30;

struct Range {
  double low;
  double high;
  bool holds(double x) const { return low <= x && x <= high; }
};

// The part of the plane that every panel shows.
struct Frame {
  Range x1;
  Range x2;
  bool holds(Point point) const { return x1.holds(point.x1) && x2.holds(point.x2); }
  double right_of(double x) const { return kPanelWidth * (x - x1.low) / (x1.high - x1.low); }
  double below(double y) const { return kPanelHeight * (x2.high - y) / (x2.high - x2.low); }
};

// From behind the start to beyond the lowest point, and to both sides of the valley, which most paths swing across.
Frame frame_around(Point start) {
  double reach1 = std::fabs(start.x1);
  double reach2 = std::fabs(start.x2);
  if (reach1 == 0 && reach2 == 0) reach1 = 1;
  if (reach1 == 0) reach1 = reach2;
  if (reach2 == 0) reach2 = reach1;
  const Range x1 = start.x1 < 0 ? Range{-1.2 * reach1, 0.4 * reach1} : Range{-0.4 * reach1, 1.2 * reach1};
  return {x1, {-1.6 * reach2, 1.6 * reach2}};
}

// 1, 2 or 5 times a power of ten: the largest that is no larger.
double round_number(double x) {
  const double power = std::pow(10.0, std::floor(std::log10(x)));
  const double digits = x / power;
  return power * (digits >= 5 ? 5 : (digits >= 2 ? 2 : 1));
}

std::string number_text(double x) {
  std::string text = fmt::format("{:.4g}", x);
  for (auto at = text.find('-'); at != std::string::npos; at = text.find('-', at)) text.replace(at, 1, "−");
  return text;
}

// Every k-th contour lies k times as far out as the first.
std::vector<double> levels(const Frame& frame) {
  const Point corner{std::max(-frame.x1.low, frame.x1.high), frame.x2.high};
  const double first = round_number(valley(corner) / 40);
  std::vector<double> heights;
  for (int k = 1; first * k * k < valley(corner); ++k) heights.push_back(first * k * k);
  return heights;
}

std::string contours(const Frame& frame) {
  std::string svg;
  for (const double height : levels(frame)) {
    const double across = frame.right_of(std::sqrt(height / 0.1)) - frame.right_of(0);
    const double down = frame.below(0) - frame.below(std::sqrt(height / 2));
    svg += fmt::format("<ellipse cx=\"{:.2f}\" cy=\"{:.2f}\" rx=\"{:.2f}\" ry=\"{:.2f}\"/>\n", frame.right_of(0),
                       frame.below(0), across, down);
  }
  return svg;
}

// What lies within the frame of the line from `from` to `to` (Liang and Barsky 1984).
std::optional<std::pair<Point, Point>> clipped(Point from, Point to, const Frame& frame) {
  const double d1 = to.x1 - from.x1;
  const double d2 = to.x2 - from.x2;
  double enter = 0;
  double leave = 1;
  const auto cut = [&](double direction, double distance) {  // inside where t * direction <= distance
    if (direction == 0) return distance >= 0;
    const double t = distance / direction;
    (direction < 0 ? enter : leave) = direction < 0 ? std::max(enter, t) : std::min(leave, t);
    return enter <= leave;
  };
  if (!cut(-d1, from.x1 - frame.x1.low) || !cut(d1, frame.x1.high - from.x1) || !cut(-d2, from.x2 - frame.x2.low) ||
      !cut(d2, frame.x2.high - from.x2)) {
    return {};
  }
  // A point far outside leaves few digits for the place where its line meets the frame.
  const auto at = [&](double t) {
    return Point{std::clamp(from.x1 + t * d1, frame.x1.low, frame.x1.high),
                 std::clamp(from.x2 + t * d2, frame.x2.low, frame.x2.high)};
  };
  return std::pair{at(enter), at(leave)};
}

bool can_be_drawn(Point point) { return std::fabs(point.x1) < kFarthest && std::fabs(point.x2) < kFarthest; }

std::string line(const std::vector<Point>& path, const Frame& frame) {
  std::string data;
  std::string pen;  // where it is
  for (std::size_t i = 1; i < path.size() && can_be_drawn(path[i]); ++i) {
    const auto part = clipped(path[i - 1], path[i], frame);
    if (!part) continue;
    const auto place = [&](Point at) {
      return fmt::format("{:.2f} {:.2f}", frame.right_of(at.x1), frame.below(at.x2));
    };
    const std::string from = place(part->first);
    const std::string to = place(part->second);
    if (from != pen) data += fmt::format("{}M{}", data.empty() ? "" : " ", from);
    if (to != from) data += " L" + to;
    pen = to;
  }
  return fmt::format("<path d=\"{}\"/>\n", data);
}

std::string dots(const std::vector<Point>& path, const Frame& frame) {
  std::string svg;
  std::string last;
  for (std::size_t i = 1; i < path.size(); ++i) {
    if (!frame.holds(path[i])) continue;
    std::string dot = fmt::format("<circle cx=\"{:.2f}\" cy=\"{:.2f}\" r=\"2.8\"/>\n", frame.right_of(path[i].x1),
                                  frame.below(path[i].x2));
    if (dot != last) svg += dot;
    last = std::move(dot);
  }
  return svg;
}

std::string axes(const Frame& frame) {
  std::string svg;
  const auto ticks = [](Range range) {
    const double step = round_number((range.high - range.low) / 4);
    std::vector<double> places;
    for (double k = std::ceil(range.low / step); k * step <= range.high; ++k) places.push_back(k * step);
    return places;
  };
  for (const double x : ticks(frame.x1)) {
    svg += fmt::format(
        "<path d=\"M{0:.2f} {1:.2f} v4\" stroke=\"#555555\"/>"
        "<text x=\"{0:.2f}\" y=\"{2:.2f}\" text-anchor=\"middle\">{3}</text>\n",
        frame.right_of(x), kPanelHeight, kPanelHeight + 17, number_text(x));
  }
  for (const double y : ticks(frame.x2)) {
    svg += fmt::format(
        "<path d=\"M0 {0:.2f} h-4\" stroke=\"#555555\"/>"
        "<text x=\"-8\" y=\"{1:.2f}\" text-anchor=\"end\">{2}</text>\n",
        frame.below(y), frame.below(y) + 4, number_text(y));
  }
  svg += fmt::format(
      "<text x=\"{:.2f}\" y=\"{:.2f}\" text-anchor=\"middle\">x₁</text>"
      "<text x=\"-34\" y=\"{:.2f}\" text-anchor=\"middle\">x₂</text>\n",
      kPanelWidth / 2, kPanelHeight + 32, kPanelHeight / 2 + 4);
  return svg + fmt::format("<rect width=\"{}\" height=\"{}\" fill=\"none\" stroke=\"#555555\"/>\n", kPanelWidth,
                           kPanelHeight);
}

// The paper's letter of an option, or its name.
std::string letter(const std::string& option) {
  static const std::map<std::string, std::string> kLetters{{"learning_rate", "η"}, {"momentum", "β"}, {"decay", "γ"},
                                                           {"beta1", "β₁"},        {"beta2", "β₂"},   {"epsilon", "ε"},
                                                           {"weight_decay", "λ"},  {"dampening", "τ"}};
  const auto found = kLetters.find(option);
  return found == kLetters.end() ? option : found->second;
}

std::string title(const Descent& descent) {
  std::string text = descent.method;
  for (const auto& [name, value] : descent.options) text += fmt::format(", {} = {}", letter(name), value);
  return text;
}

// How it ends, and whether the picture shows that.
std::string ending(const Descent& descent, const Frame& frame) {
  const std::string what = frame.holds(descent.path.back()) ? "" : ", leaves the picture";
  return fmt::format("{}{}: f = {}", descent.verdict(), what, number_text(valley(descent.path.back())));
}

std::string panel(const Descent& descent, const Frame& frame, double left, double top) {
  const std::string_view colour = colour_of(descent.method);
  const Point start = descent.path.front();
  const Point end = descent.path.back();
  std::string svg = fmt::format("<g transform=\"translate({:g} {:g})\">\n", left, top);
  svg += fmt::format(
      "<path d=\"M0 -27.5 h20\" stroke=\"{0}\" stroke-width=\"2\"/><circle cx=\"10\" cy=\"-27.5\" r=\"3.5\" "
      "fill=\"{0}\"/>\n",
      colour);
  svg += fmt::format("<text x=\"27\" y=\"-23\" font-weight=\"bold\">{}</text>\n", title(descent));
  svg += fmt::format("<text x=\"27\" y=\"-7\">{}</text>\n", ending(descent, frame));
  svg +=
      fmt::format("<g clip-path=\"url(#descend-frame)\" fill=\"none\" stroke=\"#bbbbbb\">\n{}</g>\n", contours(frame));
  svg += fmt::format("<path d=\"M{:.2f} {:.2f} m-5 0 h10 m-5 -5 v10\" stroke=\"#222222\" stroke-width=\"1.5\"/>\n",
                     frame.right_of(0), frame.below(0));
  svg += fmt::format("<g fill=\"none\" stroke=\"{}\" stroke-width=\"1.6\" stroke-linejoin=\"round\">\n{}</g>\n", colour,
                     line(descent.path, frame));
  svg += fmt::format("<g fill=\"{}\" stroke=\"#ffffff\" stroke-width=\"0.7\">\n{}</g>\n", colour,
                     dots(descent.path, frame));
  svg += fmt::format(
      "<circle cx=\"{:.2f}\" cy=\"{:.2f}\" r=\"4.5\" fill=\"#ffffff\" stroke=\"#222222\" "
      "stroke-width=\"1.5\"/>\n",
      frame.right_of(start.x1), frame.below(start.x2));
  if (frame.holds(end)) {
    svg += fmt::format("<rect x=\"{:.2f}\" y=\"{:.2f}\" width=\"8\" height=\"8\" fill=\"#222222\"/>\n",
                       frame.right_of(end.x1) - 4, frame.below(end.x2) - 4);
  }
  return svg + axes(frame) + "</g>\n";
}

std::string legend(const Frame& frame, double y) {
  std::string heights;
  for (const double height : levels(frame)) heights += (heights.empty() ? "" : ", ") + number_text(height);
  return fmt::format(
      "<g transform=\"translate({:g} {:g})\"><circle cx=\"5\" cy=\"-4\" r=\"4.5\" fill=\"#ffffff\" stroke=\"#222222\" "
      "stroke-width=\"1.5\"/><text x=\"16\">start</text><rect x=\"62\" y=\"-8\" width=\"8\" height=\"8\" "
      "fill=\"#222222\"/><text x=\"77\">end</text><path d=\"M117 -4 m-5 0 h10 m-5 -5 v10\" stroke=\"#222222\" "
      "stroke-width=\"1.5\"/><text x=\"129\">lowest point</text><path d=\"M224 -4 h20\" stroke=\"#bbbbbb\"/>"
      "<text x=\"251\">contours at f = {}</text></g>\n",
      kLeft, y, heights);
}

}  // namespace

std::string to_svg(const std::vector<Descent>& descents) {
  const Point start = descents.front().path.front();
  const Frame frame = frame_around(start);
  const std::size_t rows = (descents.size() + kColumns - 1) / kColumns;
  const double width = kLeft + kAcross * (kColumns - 1) + kPanelWidth + kRight;
  const double height = kTop + kDown * static_cast<double>(rows - 1) + kPanelHeight + kBottom;
  const std::string heading =
      fmt::format("f(x) = 0.1 x₁² + 2 x₂² from ({}, {}): {} steps of each method", number_text(start.x1),
                  number_text(start.x2), descents.front().path.size() - 1);
  std::string svg = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0:g} {1:g}\" width=\"{0:g}\" height=\"{1:g}\" "
      "role=\"img\" "
      "aria-labelledby=\"descend-title\" font-family=\"DejaVu Sans, Helvetica, Arial, sans-serif\" font-size=\"12\" "
      "fill=\"#222222\">\n<title id=\"descend-title\">{2}</title>\n"
      "<defs><clipPath id=\"descend-frame\"><rect width=\"{3}\" height=\"{4}\"/></clipPath></defs>\n"
      "<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n"
      "<text x=\"{5:g}\" y=\"30\" font-size=\"16\">{2}</text>\n",
      width, height, heading, kPanelWidth, kPanelHeight, kLeft);
  for (std::size_t i = 0; i < descents.size(); ++i) {
    const std::size_t row = i / kColumns;
    const std::size_t column = i % kColumns;
    svg += panel(descents[i], frame, kLeft + kAcross * static_cast<double>(column),
                 kTop + kDown * static_cast<double>(row));
  }
  return svg + legend(frame, height - 20) + "</svg>\n";
}

}  // namespace adamant::tools
