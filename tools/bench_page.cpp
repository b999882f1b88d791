// Bandwidth against size, a panel for each method, because each has a ceiling of its own; what others take, a line for
// each of them; and the tables. Text and lines have the colour of the text around the picture, which is legible on a
// light and on a dark ground.
#include "tools/bench_page.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "tools/bench_report.hpp"
#include "tools/method_colours.hpp"

namespace adamant::tools {
namespace {

using nlohmann::json;

constexpr double kPanelWidth = 270;
constexpr double kPanelHeight = 170;
constexpr double kLeft = 60;
constexpr double kTop = 62;
constexpr double kAcross = kPanelWidth + 72;  // from one panel to the next
constexpr double kDown = kPanelHeight + 84;
constexpr double kBottom = 62;
constexpr std::size_t kColumns = 3;

// As text of HTML and as the value of an attribute. What XML has no place for becomes a question mark.
std::string escaped(std::string_view text) {
  std::string result;
  for (const char character : text) {
    switch (character) {
      case '&': result += "&amp;"; break;
      case '<': result += "&lt;"; break;
      case '>': result += "&gt;"; break;
      case '"': result += "&quot;"; break;
      case '\'': result += "&#39;"; break;
      default: {
        const auto byte = static_cast<unsigned char>(character);
        result += byte < 0x20 && character != '\n' && character != '\t' ? '?' : character;
      }
    }
  }
  return result;
}

std::string_view ink_of(std::string_view method) {
  const std::string_view colour = colour_of(method);
  return colour == colour_of("") ? "currentColor" : colour;  // black would not be seen on a dark ground
}

// Four digits at most: 0.123, 12.35, 4231.
std::string short_text(double value) {
  if (value >= 999.95) return fmt::format("{:.0f}", value);
  return fmt::format("{:.4g}", value);
}

std::string times_text(double times) {
  return times < 100 ? fmt::format("{:.2f}×", times) : fmt::format("{:.0f}×", times);
}

// 2²⁶
std::string power_text(int base, int exponent) {
  static constexpr const char* kSuperscript[] = {"⁰", "¹", "²", "³", "⁴", "⁵", "⁶", "⁷", "⁸", "⁹"};
  std::string text = std::to_string(base);
  for (const char digit : std::to_string(exponent)) text += kSuperscript[digit - '0'];
  return text;
}

// Parameters: 2²⁶, 10⁹, or the number.
std::string count_text(std::int64_t count) {
  for (const int base : {2, 10}) {
    std::int64_t rest = count;
    int exponent = 0;
    for (; rest % base == 0; rest /= base) ++exponent;
    if (rest == 1 && count >= 1000) return power_text(base, exponent);
  }
  return std::to_string(count);
}

std::string size_words(const BenchCase& what) {
  if (!what.shape.empty()) return what.shape;
  return what.tensors == 1 ? count_text(what.count)
                           : fmt::format("{} × {}", what.tensors, count_text(what.count / what.tensors));
}

// In the order of their first use.
template <typename Value, typename List, typename Get>
std::vector<Value> distinct(const List& list, Get get) {
  std::vector<Value> values;
  for (const auto& item : list) {
    const Value value = get(item);
    if (std::find(values.begin(), values.end(), value) == values.end()) values.push_back(value);
  }
  return values;
}

// --- Pictures

// An axis of a picture, from a value to a place.
struct Axis {
  double low;
  double high;
  double length;
  bool logarithmic;

  double at(double value) const {
    return length * (logarithmic ? std::log(value / low) / std::log(high / low) : (value - low) / (high - low));
  }
};

// 1, 2 or 5 times a power of ten, at least `least`.
double round_step(double least) {
  const double power = std::pow(10, std::floor(std::log10(least)));
  for (const double factor : {1.0, 2.0, 5.0}) {
    if (factor * power >= least * (1 - 1e-9)) return factor * power;
  }
  return 10 * power;
}

std::string svg_head(const std::string& name, const std::string& title, const std::string& description, double width,
                     double height) {
  return fmt::format(
      "<figure class=\"bench\"><svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0:g} {1:g}\" width=\"{0:g}\" "
      "height=\"{1:g}\" role=\"img\" aria-labelledby=\"{2}-title {2}-desc\" font-family=\"system-ui, DejaVu Sans, "
      "Helvetica, Arial, sans-serif\" font-size=\"12\" fill=\"currentColor\">\n<title id=\"{2}-title\">{3}</title>\n"
      "<desc id=\"{2}-desc\">{4}</desc>\n<text x=\"{5:g}\" y=\"24\" font-size=\"15\">{3}</text>\n",
      width, height, name, escaped(title), escaped(description), kLeft);
}

std::string svg_text(double x, double y, std::string_view anchor, std::string_view text) {
  return fmt::format("<text x=\"{:.2f}\" y=\"{:.2f}\" text-anchor=\"{}\">{}</text>\n", x, y, anchor, escaped(text));
}

std::string svg_line(double x1, double y1, double x2, double y2, std::string_view more) {
  return fmt::format("<path d=\"M{:.2f} {:.2f} L{:.2f} {:.2f}\" fill=\"none\" stroke=\"currentColor\"{}/>\n", x1, y1,
                     x2, y2, more);
}

constexpr std::string_view kGrid = " stroke-opacity=\"0.15\"";
constexpr std::string_view kPins = " stroke-dasharray=\"2 4\"";
constexpr std::string_view kCeiling = " stroke-dasharray=\"7 4\" stroke-width=\"1.4\" stroke-opacity=\"0.75\"";

// What panels of bandwidth against size share.
struct BandwidthFrame {
  Axis x;
  Axis y;
  double pin_rate;  // 0: not known
};

std::string bandwidth_axes(const BandwidthFrame& frame) {
  std::string svg;
  const int first = static_cast<int>(std::ceil(std::log2(frame.x.low)));
  const int last = static_cast<int>(std::floor(std::log2(frame.x.high)));
  const int step = std::max(1, (last - first + 4) / 5);
  for (int exponent = first; exponent <= last; ++exponent) {
    if (exponent % step != 0) continue;
    const double x = frame.x.at(std::exp2(exponent));
    svg += svg_line(x, 0, x, kPanelHeight, kGrid);
    svg += svg_text(x, kPanelHeight + 16, "middle", power_text(2, exponent));
  }
  const double between = round_step(frame.y.high / 5);
  for (int k = 0; k * between <= frame.y.high; ++k) {
    const double y = kPanelHeight - frame.y.at(k * between);
    svg += svg_line(0, y, kPanelWidth, y, kGrid);
    svg += svg_text(-7, y + 4, "end", fmt::format("{:g}", k * between));
  }
  svg += svg_text(kPanelWidth / 2, kPanelHeight + 33, "middle", "parameters");
  svg += fmt::format("<text transform=\"translate(-46 {:.2f}) rotate(-90)\" text-anchor=\"middle\">GB/s</text>\n",
                     kPanelHeight / 2);
  return svg;
}

// A line through values of rows that are sorted by size.
template <typename Value>
std::string line_through(const std::vector<const BenchRow*>& rows, const BandwidthFrame& frame, Value value) {
  std::string data;
  for (const BenchRow* row : rows) {
    const std::optional<double> rate = value(*row);
    if (!rate) continue;
    data += fmt::format("{}{:.2f} {:.2f}", data.empty() ? "M" : " L", frame.x.at(static_cast<double>(row->what.count)),
                        kPanelHeight - frame.y.at(*rate));
  }
  return data;
}

std::string bandwidth_panel(const std::string& method, const std::vector<const BenchRow*>& rows,
                            const BandwidthFrame& frame) {
  const std::string_view ink = ink_of(rows.front()->what.method);
  std::string svg = fmt::format("<text x=\"0\" y=\"-9\" font-weight=\"bold\">{}</text>\n", escaped(method));
  svg += bandwidth_axes(frame);
  if (frame.pin_rate > 0) {
    const double y = kPanelHeight - frame.y.at(frame.pin_rate);
    svg += svg_line(0, y, kPanelWidth, y, kPins);
  }
  const std::string ceiling =
      line_through(rows, frame, [](const BenchRow& row) { return row.ceiling_gigabytes_per_second(); });
  if (!ceiling.empty()) {
    svg +=
        fmt::format("<path class=\"ceiling\" d=\"{}\" fill=\"none\" stroke=\"currentColor\"{}/>\n", ceiling, kCeiling);
  }
  svg += fmt::format(
      "<path class=\"rate\" d=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"2\"/>\n",
      line_through(rows, frame, [](const BenchRow& row) { return std::optional(row.gigabytes_per_second()); }), ink);
  for (const BenchRow* row : rows) {
    const std::optional<double> fraction = row->fraction_of_ceiling();
    svg += fmt::format(
        "<circle class=\"rate\" cx=\"{:.2f}\" cy=\"{:.2f}\" r=\"3.5\" fill=\"{}\"><title>{}</title></circle>\n",
        frame.x.at(static_cast<double>(row->what.count)), kPanelHeight - frame.y.at(row->gigabytes_per_second()), ink,
        escaped(fmt::format("{}: {} GB/s{}", row->what.text(), short_text(row->gigabytes_per_second()),
                            fraction ? fmt::format(", {:.1f} percent of the ceiling", 100 * *fraction) : "")));
  }
  return svg;
}

std::string bandwidth_legend(const BandwidthFrame& frame, double y) {
  std::string svg = fmt::format("<g transform=\"translate({:g} {:g})\">\n", kLeft, y);
  svg += svg_line(0, -4, 26, -4, " stroke-width=\"2\"") + "<circle cx=\"13\" cy=\"-4\" r=\"3.5\"/>\n";
  svg += svg_text(33, 0, "start", "one step");
  svg += svg_line(108, -4, 134, -4, kCeiling);
  svg += svg_text(141, 0, "start", "same-mix ceiling: only moves the same bytes");
  if (frame.pin_rate > 0) {
    svg += svg_line(450, -4, 476, -4, kPins);
    svg += svg_text(483, 0, "start", fmt::format("pin rate, {:.0f} GB/s", frame.pin_rate));
  }
  return svg + "</g>\n";
}

std::string bandwidth_picture(const std::string& name, const std::string& of_what,
                              const std::vector<const BenchRow*>& rows, double pin_rate) {
  double least = 1e300;
  double most = 0;
  double fastest = pin_rate;
  for (const BenchRow* row : rows) {
    least = std::min(least, static_cast<double>(row->what.count));
    most = std::max(most, static_cast<double>(row->what.count));
    fastest = std::max({fastest, row->gigabytes_per_second(), row->ceiling_gigabytes_per_second().value_or(0)});
  }
  const BandwidthFrame frame{
      {least / 1.3, most * 1.3, kPanelWidth, true}, {0, 1.05 * fastest, kPanelHeight, false}, pin_rate};
  const auto methods = distinct<std::string>(rows, [](const BenchRow* row) { return row->what.method_text(); });
  const std::size_t columns = std::min(kColumns, methods.size());
  const std::size_t lines = (methods.size() + kColumns - 1) / kColumns;
  const double height = kTop + kDown * static_cast<double>(lines) + kBottom - 50;
  std::string svg = svg_head(
      name, "Memory bandwidth of one step against its size, " + of_what,
      "A panel for each method. Across: parameters of one tensor, logarithmic. Up: gigabytes per second of the bytes "
      "that "
      "must move. Dashed: the rate at which a kernel moves the same bytes and computes nothing. The table of all rows "
      "has the numbers.",
      std::max(660.0, kLeft + kAcross * static_cast<double>(columns)), height);
  for (std::size_t i = 0; i < methods.size(); ++i) {
    std::vector<const BenchRow*> of_method;
    std::copy_if(rows.begin(), rows.end(), std::back_inserter(of_method),
                 [&](const BenchRow* row) { return row->what.method_text() == methods[i]; });
    std::stable_sort(of_method.begin(), of_method.end(),
                     [](const BenchRow* left, const BenchRow* right) { return left->what.count < right->what.count; });
    const std::size_t line = i / kColumns;
    svg += fmt::format("<g transform=\"translate({:g} {:g})\">\n{}</g>\n",
                       kLeft + kAcross * static_cast<double>(i % kColumns), kTop + kDown * static_cast<double>(line),
                       bandwidth_panel(methods[i], of_method, frame));
  }
  return svg + bandwidth_legend(frame, height - 14) + "</svg></figure>\n";
}

// What others take for steps of one size: a line for each of them, a dot for each method.
std::string ratio_picture(const std::string& name, const std::string& of_what,
                          const std::vector<const BenchRatio*>& ratios) {
  constexpr double kWidth = 620;
  constexpr double kLine = 24;
  constexpr double kLetter = 7.2;  // on average, at most
  double least = 0.8;
  double most = 1.25;
  for (const BenchRatio* ratio : ratios) {
    least = std::min(least, ratio->times_update);
    most = std::max(most, ratio->times_update);
  }
  const Axis x{least / 1.15, most * 1.15, kWidth, true};
  const auto others = distinct<std::string>(ratios, [](const BenchRatio* ratio) { return ratio->name; });
  const auto methods = distinct<std::string>(ratios, [](const BenchRatio* ratio) { return ratio->what.method; });
  double room = 250;  // of the longest name: "pytorch 2.11.0 GradScaler + clip_grad_norm_ + fused"
  for (const std::string& other : others) room = std::max(room, kLetter * static_cast<double>(other.size()));
  const double bottom = kLine * static_cast<double>(others.size()) + 8;
  const double height = kTop + bottom + 84;
  std::string svg =
      svg_head(name, "How many times as long others take, " + of_what,
               "A line for each other way to do the same step, a dot for each method. Across, logarithmic: its time "
               "divided by the library's; to the right of 1 it is slower. The table below has the numbers.",
               room + kWidth + 60, height);
  svg += fmt::format("<g transform=\"translate({:g} {:g})\">\n", room + 20, kTop);
  // The powers of ten, and between them as many as there is room for.
  const int last = static_cast<int>(std::floor(std::log10(x.high)));
  for (int exponent = static_cast<int>(std::floor(std::log10(x.low))); exponent <= last; ++exponent) {
    const double power = std::pow(10, exponent);
    for (const double factor : {1.0, 1.2, 1.5, 2.0, 3.0, 5.0, 7.0}) {
      const double value = factor * power;
      const double span = x.high / x.low;
      if (value < x.low || value > x.high) continue;
      if (factor != 1 && span > 200) continue;
      if (factor != 1 && factor != 2 && factor != 5 && span > 8) continue;
      const double at = x.at(value);
      svg += svg_line(at, 0, at, bottom, std::fabs(value - 1) < 1e-9 ? " stroke-width=\"1.5\"" : kGrid);
      svg += svg_text(at, bottom + 17, "middle", fmt::format("{:g}", value));
    }
  }
  svg += svg_text(kWidth / 2, bottom + 35, "middle", "times the library's time (right of 1: slower than the library)");
  for (std::size_t i = 0; i < others.size(); ++i) {
    const double y = kLine * (static_cast<double>(i) + 0.5) + 4;
    svg += svg_text(-10, y + 4, "end", others[i]);
    for (const BenchRatio* ratio : ratios) {
      if (ratio->name != others[i]) continue;
      const std::string_view ink = ink_of(ratio->what.method);
      const double spread = std::clamp(ratio->spread.value_or(0), 0.0, 0.9);
      if (spread > 0.01) {
        svg += fmt::format("<path d=\"M{:.2f} {:.2f} H{:.2f}\" stroke=\"{}\" stroke-width=\"1.5\"/>\n",
                           std::max(0.0, x.at(ratio->times_update * (1 - spread))), y,
                           std::min(kWidth, x.at(ratio->times_update * (1 + spread))), ink);
      }
      svg += fmt::format(
          "<circle class=\"ratio\" cx=\"{:.2f}\" cy=\"{:.2f}\" r=\"4.5\" fill=\"{}\" fill-opacity=\"0.85\">"
          "<title>{}</title></circle>\n",
          x.at(ratio->times_update), y, ink,
          escaped(fmt::format("{}, {}: {}", ratio->what.method_text(), ratio->name, times_text(ratio->times_update))));
    }
  }
  double at = 0;
  for (const std::string& method : methods) {
    svg += fmt::format("<circle cx=\"{:.2f}\" cy=\"{:.2f}\" r=\"4.5\" fill=\"{}\"/>\n", at + 5, bottom + 58,
                       ink_of(method));
    svg += svg_text(at + 15, bottom + 62, "start", method);
    at += 40 + kLetter * static_cast<double>(method.size());
  }
  return svg + "</g>\n</svg></figure>\n";
}

// --- Tables

// A table whose first cells are words and whose others are numbers.
struct Table {
  std::string caption;
  std::vector<std::string> head;
  std::size_t words = 1;
  std::vector<std::vector<std::string>> rows = {};

  std::string html() const {
    std::string text =
        fmt::format("<div class=\"table\"><table>\n<caption>{}</caption>\n<thead><tr>", escaped(caption));
    for (const std::string& cell : head) text += fmt::format("<th scope=\"col\">{}</th>", escaped(cell));
    text += "</tr></thead>\n<tbody>\n";
    for (const auto& row : rows) {
      text += "<tr>";
      for (std::size_t i = 0; i < row.size(); ++i) {
        text += i == 0      ? fmt::format("<th scope=\"row\">{}</th>", escaped(row[i]))
                : i < words ? fmt::format("<td>{}</td>", escaped(row[i]))
                            : fmt::format("<td class=\"number\">{}</td>", escaped(row[i]));
      }
      text += "</tr>\n";
    }
    return text + "</tbody>\n</table></div>\n";
  }
};

constexpr const char* kNone = "–";

std::string or_none(std::optional<double> value, double factor = 1) {
  return value ? short_text(*value * factor) : kNone;
}

std::string percent_or_none(std::optional<double> fraction) {
  return fraction ? fmt::format("{:.1f}", 100 * *fraction) : kNone;
}

std::optional<double> of_pins(const BenchRow& row, std::optional<double> pin_rate) {
  return pin_rate ? std::optional(row.gigabytes_per_second() / *pin_rate) : std::nullopt;
}

std::string table_of_shapes(const std::vector<BenchRow>& rows) {
  Table table{
      .caption = "Many tensors in one step",
      .head = {"shape", "method", "µs", "µs in a graph", "µs of the CPU", "/ one tensor", "GB/s", "% of the ceiling"},
      .words = 2};
  for (const BenchRow& row : rows) {
    if (row.what.tensors == 1) continue;
    table.rows.push_back({size_words(row.what), row.what.method_text(), short_text(1e6 * row.update.median()),
                          or_none(row.graph_seconds, 1e6), or_none(row.host_seconds, 1e6),
                          row.times_one_tensor ? times_text(*row.times_one_tensor) : kNone,
                          short_text(row.gigabytes_per_second()), percent_or_none(row.fraction_of_ceiling())});
  }
  return table.rows.empty() ? "" : "<h2>Many tensors</h2>\n" + table.html();
}

// The largest tensor of each combination of types, where there are several.
std::string table_of_storages(const std::vector<BenchRow>& rows, std::optional<double> pin_rate) {
  const auto kind = [](const BenchRow& row) {
    return std::tuple(row.what.method_text(), row.what.storage, row.what.pipeline, row.what.hot);
  };
  if (distinct<std::pair<std::string, std::string>>(rows, [](const BenchRow& row) {
        return std::pair(row.what.storage, row.what.pipeline);
      }).size() < 2) {
    return "";
  }
  std::map<std::tuple<std::string, std::string, std::string, bool>, const BenchRow*> largest;
  std::vector<const BenchRow*> order;
  for (const BenchRow& row : rows) {
    if (row.what.tensors != 1) continue;
    const BenchRow*& there = largest[kind(row)];
    if (there == nullptr ||
        std::pair(row.what.count, row.what.threads) > std::pair(there->what.count, there->what.threads)) {
      there = &row;
    }
  }
  Table table{.caption = "Types and pipelines, each at the largest size of one tensor that was measured",
              .head = {"parameter/gradient/state[/beside]", "pipeline", "method", "cache", "parameters", "bytes each",
                       "ms", "GB/s", "% of the ceiling", "% of the pin rate"},
              .words = 4};
  for (const BenchRow& row : rows) {
    const auto found = largest.find(kind(row));
    if (found == largest.end() || found->second != &row) continue;
    table.rows.push_back({row.what.storage, row.what.pipeline, row.what.method_text(), row.what.hot ? "hot" : "cold",
                          count_text(row.what.count), short_text(row.bytes_per_parameter),
                          short_text(1e3 * row.update.median()), short_text(row.gigabytes_per_second()),
                          percent_or_none(row.fraction_of_ceiling()), percent_or_none(of_pins(row, pin_rate))});
  }
  return "<h2>Types and pipelines</h2>\n" + table.html();
}

std::string table_of_rows(const std::vector<BenchRow>& rows, std::optional<double> pin_rate) {
  Table table{.caption =
                  "Every row: median of the repetitions, half the distance between the quartiles, and the bytes that "
                  "must move divided by the median",
              .head = {"method", "size", "pipeline", "types", "cache", "threads", "best ceiling", "runs", "ms",
                       "spread %", "GB/s", "ceiling GB/s", "% of the ceiling", "% of the pin rate"},
              .words = 5};
  for (const BenchRow& row : rows) {
    table.rows.push_back(
        {row.what.method_text(), size_words(row.what), row.what.pipeline, row.what.storage,
         row.what.hot ? "hot" : "cold", row.what.threads > 0 ? std::to_string(row.what.threads) : kNone,
         row.ceiling_variant.empty() ? kNone : row.ceiling_variant, std::to_string(row.update.seconds.size()),
         short_text(1e3 * row.update.median()), fmt::format("{:.1f}", 100 * row.update.spread()),
         short_text(row.gigabytes_per_second()), or_none(row.ceiling_gigabytes_per_second()),
         percent_or_none(row.fraction_of_ceiling()), percent_or_none(of_pins(row, pin_rate))});
  }
  return "<h2>All rows</h2>\n" + table.html();
}

// --- The parts of the page

std::string kind_words(const BenchCase& what) {
  std::string words = what.storage;
  if (what.pipeline != "update") words += ", " + what.pipeline;
  if (what.threads > 0) words += fmt::format(", {} thread{}", what.threads, what.threads == 1 ? "" : "s");
  return words + (what.hot ? ", hot: on one set of buffers" : "");
}

// Where a kind was measured at one size only, there is nothing to draw: the tables have it.
std::string bandwidth_section(const std::vector<BenchRow>& rows, std::optional<double> pin_rate) {
  std::map<std::string, std::vector<const BenchRow*>> of_kind;
  std::vector<std::string> kinds;
  for (const BenchRow& row : rows) {
    if (row.what.tensors != 1) continue;
    auto& list = of_kind[kind_words(row.what)];
    if (list.empty()) kinds.push_back(kind_words(row.what));
    list.push_back(&row);
  }
  std::string html;
  std::size_t pictures = 0;
  for (const std::string& kind : kinds) {
    const auto& list = of_kind[kind];
    if (distinct<std::int64_t>(list, [](const BenchRow* row) { return row->what.count; }).size() < 2) continue;
    const std::string picture =
        bandwidth_picture(fmt::format("bench-rate-{}", ++pictures), kind, list, pin_rate.value_or(0));
    html +=
        pictures == 1 ? picture : fmt::format("<details><summary>{}</summary>\n{}</details>\n", escaped(kind), picture);
  }
  return html.empty() ? "" : "<h2>Bandwidth against size</h2>\n" + html;
}

std::string ratio_section(const std::vector<BenchRatio>& ratios) {
  if (ratios.empty()) return "";
  std::map<std::string, std::vector<const BenchRatio*>> of_size;
  std::vector<std::string> sizes;
  const auto words = [](const BenchCase& what) { return size_words(what) + " parameters" + what.kind_text(); };
  for (const BenchRatio& ratio : ratios) {
    auto& list = of_size[words(ratio.what)];
    if (list.empty()) sizes.push_back(words(ratio.what));
    list.push_back(&ratio);
  }
  std::string html = "<h2>Beside others</h2>\n";
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    html += ratio_picture(fmt::format("bench-ratio-{}", i + 1), sizes[i], of_size[sizes[i]]);
  }
  Table table{.caption = "Time of the others divided by the library's (and its spread, where that is known)",
              .head = {"size", "method"},
              .words = 2};
  const auto others = distinct<std::string>(ratios, [](const BenchRatio& ratio) { return ratio.name; });
  table.head.insert(table.head.end(), others.begin(), others.end());
  for (const std::string& size : sizes) {
    const auto& list = of_size[size];
    for (const std::string& method :
         distinct<std::string>(list, [](const BenchRatio* ratio) { return ratio->what.method_text(); })) {
      std::vector<std::string> row{size, method};
      for (const std::string& other : others) {
        std::string cell;
        for (const BenchRatio* ratio : list) {
          if (ratio->name != other || ratio->what.method_text() != method) continue;
          cell += (cell.empty() ? "" : ", ") + times_text(ratio->times_update);
          if (ratio->spread) cell += fmt::format(" ±{:.1f}%", 100 * *ratio->spread);
        }
        row.push_back(cell.empty() ? kNone : cell);
      }
      table.rows.push_back(row);
    }
  }
  return html + table.html();
}

std::string value_text(const json& value) {
  if (value.is_string()) return value.get<std::string>();
  if (!value.is_array()) return value.dump(-1, ' ', false, json::error_handler_t::replace);
  std::string text;
  for (const json& part : value) text += (text.empty() ? "" : ", ") + value_text(part);
  return text;
}

void add_fact(std::string& html, const std::string& name, const json& value) {
  if (value.is_null()) return;
  if (value.is_object()) {
    for (const auto& [key, inner] : value.items()) {
      add_fact(html, name.empty() ? key : fmt::format("{}: {}", name, key), inner);
    }
    return;
  }
  std::string words = name;
  std::replace(words.begin(), words.end(), '_', ' ');
  html += fmt::format("<tr><th scope=\"row\">{}</th><td>{}</td></tr>\n", escaped(words), escaped(value_text(value)));
}

// Whatever the report says of the machine, the versions and the run: later ones say more.
std::string facts_section(json report) {
  for (const char* elsewhere : {"results", "peers", "left_out"}) report.erase(elsewhere);
  std::string html =
      "<table class=\"facts\">\n<caption>Machine, versions and run, as the report has them</caption>\n<tbody>\n";
  add_fact(html, "", report);
  return html + "</tbody>\n</table>\n";
}

constexpr std::string_view kStyle =
    ":root { color-scheme: light dark; --ground: #ffffff; --ink: #1c1c1c; --faint: #f2f2f0; --edge: #d0d0cc; }\n"
    "@media (prefers-color-scheme: dark) {\n"
    "  :root { --ground: #16181a; --ink: #e4e4e0; --faint: #202326; --edge: #3a3e42; }\n"
    "}\n"
    "body { background: var(--ground); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; max-width: 72rem;\n"
    "  margin: 0 auto; padding: 1.5rem; }\n"
    "h1 { font-size: 1.6rem; margin: 0 0 .5rem; }\n"
    "h2 { font-size: 1.2rem; margin: 2.5rem 0 .75rem; }\n"
    "figure { margin: 0 0 1rem; padding: .5rem; border: 1px solid var(--edge); border-radius: 6px; overflow-x: auto; "
    "}\n"
    "figure svg { display: block; max-width: 100%; height: auto; }\n"
    "table { border-collapse: collapse; font: 13px/1.4 system-ui, sans-serif; font-variant-numeric: tabular-nums; }\n"
    "caption { text-align: left; padding: 0 0 .5rem; }\n"
    "th, td { padding: .2rem .7rem; border-bottom: 1px solid var(--edge); text-align: left; font-weight: normal; }\n"
    "thead th { font-weight: bold; background: var(--faint); vertical-align: bottom; }\n"
    ".number { text-align: right; }\n"
    ".table { overflow-x: auto; margin: 0 0 1rem; }\n"
    ".facts th { white-space: nowrap; }\n";

// Text of a report may hold bytes that are no UTF-8, which no page may: they become U+FFFD, as in the JSON.
json as_utf8(const json& report) { return json::parse(report.dump(-1, ' ', false, json::error_handler_t::replace)); }

}  // namespace

std::string to_page(const json& original) {
  const json report = as_utf8(original);
  const std::vector<BenchRow> rows = rows_of(report);
  const std::vector<BenchRatio> ratios = ratios_of(report);
  const std::optional<double> pin_rate = pin_rate_of(report);
  const std::string machine = machine_of(report);
  const std::string title = "adamant bench" + (machine.empty() ? "" : ": " + machine);
  std::string html = fmt::format(
      "<!DOCTYPE html>\n<html xmlns=\"http://www.w3.org/1999/xhtml\" lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n<meta name=\"color-scheme\" "
      "content=\"light dark\"/>\n<title>{0}</title>\n<style>\n{1}</style>\n</head>\n<body>\n<h1>{0}</h1>\n",
      escaped(title), kStyle);
  html +=
      "<p>The throughput of one fused optimizer step. The yardstick is the same-mix ceiling: the best of a sweep of "
      "kernels "
      "that move the same bytes in the same mix of reads and writes and compute nothing, measured in the same run on "
      "the "
      "same buffers. Percentages pair runs a moment apart, and may pass 100.</p>\n";
  html += facts_section(report);
  html += bandwidth_section(rows, pin_rate);
  html += ratio_section(ratios);
  html += table_of_shapes(rows);
  html += table_of_storages(rows, pin_rate);
  html += table_of_rows(rows, pin_rate);
  return html + "</body>\n</html>\n";
}

}  // namespace adamant::tools
