// `adamant descend`.
#include "tools/descend.hpp"

#include <fmt/format.h>

#include <cmath>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <stdexcept>

#include "host/device_memory.hpp"
#include "host/text.hpp"
#include "tools/commands.hpp"
#include "tools/run_options.hpp"
#include "tools/terminal.hpp"

namespace adamant::tools {
namespace {

namespace fs = std::filesystem;

// Beyond these a picture shows nothing: the paths have arrived or left, and float32 overflows while it squares.
constexpr std::uint64_t kMostSteps = 10000;
constexpr double kFarthestStart = 1e6;

// f has fallen to this part of what it was: there.
constexpr double kArrived = 1e-3;

template <typename Real>
std::vector<Point> path_of(const Method& method, const Course& course) {
  Real x[2] = {static_cast<Real>(course.start.x1), static_cast<Real>(course.start.x2)};
  Real gradient[2] = {};
  const auto here = [&] { return Point{static_cast<double>(x[0]), static_cast<double>(x[1])}; };
  host::DeviceMemory memory(course.device);
  host::DeviceArray<Real> device_x(memory, std::span<const Real>(x));
  host::DeviceArray<Real> device_gradient(memory, 2);
  Optimizer optimizer(method, course.device, course.tuning);
  optimizer.add({.name = "x", .parameter = {device_x.data(), 2}, .gradient = {device_gradient.data(), 2}});
  std::vector<Point> path{here()};
  path.reserve(static_cast<std::size_t>(course.steps) + 1);
  for (int step = 0; step < course.steps; ++step) {
    const Point up = slope(here());
    gradient[0] = static_cast<Real>(up.x1);
    gradient[1] = static_cast<Real>(up.x2);
    device_gradient.write(gradient);
    optimizer.step();
    memory.read(std::as_writable_bytes(std::span(x)), device_x.data());
    path.push_back(here());
  }
  return path;
}

// Whether the steps still throw x2, which makes up most of f, from one side of the valley to the other.
bool swings(const std::vector<Point>& path) {
  constexpr std::size_t kSteps = 4;
  if (path.size() <= kSteps || 2 * path.back().x2 * path.back().x2 < valley(path.back()) / 2) return false;
  for (std::size_t i = path.size() - kSteps; i < path.size(); ++i) {
    if (std::signbit(path[i].x2) == std::signbit(path[i - 1].x2)) return false;
  }
  return true;
}

std::string number_text(double value, DataType type) {
  if (std::isnan(value)) return "nan";  // never "-nan"
  return type == DataType::float32 ? host::to_text(static_cast<float>(value)) : host::to_text(value);
}

struct DescendOptions : RunOptions {
  std::string start = "-5,-2";
  int steps = 20;
  std::string out;
};

std::optional<Point> point_from(const std::string& text) {
  const auto comma = text.find(',');
  if (comma == std::string::npos) return {};
  const auto x1 = host::from_text<double>(std::string_view(text).substr(0, comma));
  const auto x2 = host::from_text<double>(std::string_view(text).substr(comma + 1));
  if (!x1 || !x2 || !(std::fabs(*x1) <= kFarthestStart) || !(std::fabs(*x2) <= kFarthestStart)) return {};
  return Point{*x1, *x2};
}

CLI::Validator point() {
  const auto check = [](const std::string& text) {
    if (point_from(text)) return std::string();
    return fmt::format("\"{}\" is not two numbers x1,x2 from {} to {}", text, -kFarthestStart, kFarthestStart);
  };
  return CLI::Validator(check, "");
}

nlohmann::json to_json(const Descent& descent) {
  nlohmann::json path = nlohmann::json::array();
  for (const Point& point : descent.path) path.push_back({number(point.x1), number(point.x2), number(valley(point))});
  return {{"method", descent.method}, {"options", descent.options}, {"path", path}, {"verdict", descent.verdict()}};
}

void print(const std::vector<Descent>& descents, const Course& course) {
  fmt::print("f(x) = 0.1 x1^2 + 2 x2^2, {} steps from ({:g}, {:g}), where f = {:.4g}, in {} on {}.\n\n", course.steps,
             course.start.x1, course.start.x2, valley(course.start), name(course.type), describe(course.device));
  fmt::print("{:<17} {:<33} {:>12} {:>12} {:>12}\n", "method", "options", "x1", "x2", "f");
  for (const Descent& descent : descents) {
    const Point end = descent.path.back();
    fmt::print("{:<17} {:<33} {:>12.4g} {:>12.4g} {:>12.4g}  {}\n", descent.method, options_text(descent.options),
               end.x1, end.x2, valley(end), descent.verdict());
  }
  fmt::print(
      "\nAcross the valley the slope is 4 x2, so gradient descent multiplies x2 by 1 - 4 learning_rate at each step:\n"
      "by -0.6 at 0.4, by -1.4 at 0.6. With momentum b the factors are the roots of z^2 - (1 + b - 4 learning_rate) z "
      "+ b,\nat 0.6 of magnitude 0.71 for b = 0.5 and 0.86 for b = 0.25: the one converges, the other barely. Adam "
      "takes\nRMSProp's learning rate; its averages carry it past the lowest point, and it comes back.\n");
}

bool run(const DescendOptions& options) {
  if (options.method.empty() && !options.options.empty()) {
    throw std::invalid_argument("adamant: --option needs a --method");
  }
  options.check_machine();
  const Course course{.start = *point_from(options.start),
                      .steps = options.steps,
                      .type = options.data_type(),
                      .device = options.make_device(),
                      .tuning = options.tuning()};
  std::optional<Descent> own;  // first, so that nothing is done where it is refused
  if (!options.method.empty()) own = descend(options.method, options.option_map(), course);

  const std::string csv_path = options.out.empty() ? "" : (fs::path(options.out) / "descend.csv").string();
  const std::string svg_path = options.out.empty() ? "" : (fs::path(options.out) / "descend.svg").string();
  std::error_code why;
  if (!options.out.empty()) {
    fs::create_directory(options.out, why);  // where there is one it stays
    if (!fs::is_directory(options.out)) {
      throw std::invalid_argument(fmt::format("adamant: --out {}: {}; allowed: a folder, or the name of one to make",
                                              options.out, why ? why.message() : "it is not a folder"));
    }
  }
  check_output("--out", csv_path);
  check_output("--out", svg_path);
  check_output("--json-file", options.json_file, {csv_path, svg_path});
  std::vector<Descent> descents = textbook_descents(course);
  if (own) descents.push_back(*own);

  if (!options.out.empty()) {
    write_result(csv_path, to_csv(descents, course.type));
    write_result(svg_path, to_svg(descents));
  }
  if (!options.json) print(descents, course);
  if (!options.json && !options.out.empty()) {
    fmt::print("\nEvery point is in {}, a picture in {}.\n", csv_path, svg_path);
  }
  nlohmann::json runs = nlohmann::json::array();
  for (const Descent& descent : descents) runs.push_back(to_json(descent));
  options.emit({{"environment", environment()},
                {"device", facts_of(course.device)},
                {"dtype", options.type},
                {"start", {course.start.x1, course.start.x2}},
                {"steps", course.steps},
                {"runs", runs}});
  return true;
}

}  // namespace

double valley(Point at) { return 0.1 * at.x1 * at.x1 + 2 * at.x2 * at.x2; }
Point slope(Point at) { return {0.2 * at.x1, 4 * at.x2}; }

bool Descent::diverged() const { return !(valley(path.back()) <= valley(path.front())); }

std::string Descent::verdict() const {
  if (diverged()) return "diverges";
  if (valley(path.back()) <= kArrived * valley(path.front())) return "converges";
  if (!swings(path)) return "on its way";
  const bool shrinks = std::fabs(path.back().x2) < std::fabs(path[path.size() - 2].x2);
  return shrinks ? "barely converges, still swinging" : "swings from side to side, never less";
}

Descent descend(const std::string& method, const std::map<std::string, std::string>& options, const Course& course) {
  const Method made = make_method(method, options);
  Descent descent{method, {}, {}};
  for (const Option& option : adamant::options(made)) {
    if (options.contains(option.name)) descent.options[option.name] = option.value;
  }
  descent.path = course.type == DataType::float32 ? path_of<float>(made, course) : path_of<double>(made, course);
  return descent;
}

std::vector<Descent> textbook_descents(const Course& course) {
  return {descend("gradient_descent", {{"learning_rate", "0.4"}}, course),
          descend("gradient_descent", {{"learning_rate", "0.6"}}, course),
          descend("momentum", {{"learning_rate", "0.6"}, {"momentum", "0.5"}}, course),
          descend("momentum", {{"learning_rate", "0.6"}, {"momentum", "0.25"}}, course),
          descend("rmsprop", {{"learning_rate", "0.4"}, {"decay", "0.9"}}, course),
          descend("adam", {{"learning_rate", "0.4"}}, course)};
}

std::string to_csv(const std::vector<Descent>& descents, DataType type) {
  std::string text = "run,method,options,step,x1,x2,f\n";
  for (std::size_t run = 0; run < descents.size(); ++run) {
    const Descent& descent = descents[run];
    for (std::size_t step = 0; step < descent.path.size(); ++step) {
      const Point point = descent.path[step];
      text += fmt::format("{},{},{},{},{},{},{}\n", run + 1, descent.method, options_text(descent.options), step,
                          number_text(point.x1, type), number_text(point.x2, type),
                          number_text(valley(point), DataType::float64));
    }
  }
  return text;
}

Command add_descend(CLI::App& program) {
  CLI::App* app = program.add_subcommand(
      "descend", "The paths of six runs down the valley 0.1 x1^2 + 2 x2^2: where momentum converges and others do not");
  auto options = std::make_shared<DescendOptions>();
  app->add_option("--start", options->start, "where to start")
      ->capture_default_str()
      ->type_name("X1,X2")
      ->check(point());
  app->add_option("--steps", options->steps, "steps of each run")
      ->capture_default_str()
      ->check(whole_number(1, kMostSteps));
  app->add_option("--out", options->out, "write descend.csv, every point, and descend.svg, a picture, into this folder")
      ->type_name("FOLDER")
      ->check(not_empty());
  app->add_option("--method", options->method,
                  "one more path, of this method with its --option: " + host::joined(method_names()))
      ->check(not_empty());
  options->add_to(*app);
  options->add_threads_to(*app);
  return {app, [options] { return run(*options); }};
}

}  // namespace adamant::tools
