#include "tools/bench_report.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <fstream>
#include <iterator>
#include <map>
#include <set>
#include <stdexcept>
#include <utility>

#include "host/text.hpp"
#include "tools/terminal.hpp"

namespace adamant::tools {
namespace {

using nlohmann::json;

// Lists and objects within each other; those that are written have six.
constexpr int kDeepest = 100;

// The types of a report whose rows do not name theirs.
std::string storage_of_type(const json& report) {
  const auto type = report.find("dtype");
  return type != report.end() && *type == "f64" ? "float64/float64/float64" : "float32/float32/float32";
}

// What a part of a report has under a key; its name is what errors say.
class Part {
 public:
  Part(const json& object, std::string name) : object_(object), name_(std::move(name)) {
    if (!object.is_object()) refuse("is not an object");
  }

  [[noreturn]] void refuse(const std::string& why) const { throw std::invalid_argument(name_ + " " + why); }

  const json* find(std::string_view key) const {
    const auto found = object_.find(std::string(key));
    return found == object_.end() || found->is_null() ? nullptr : &*found;
  }

  std::string text(std::string_view key, const std::string& otherwise) const {
    const json* found = find(key);
    if (found == nullptr) return otherwise;
    if (!found->is_string()) refuse(fmt::format("has a \"{}\" that is not a string", key));
    return found->get<std::string>();
  }
  std::string text(std::string_view key) const {
    if (find(key) == nullptr) refuse(fmt::format("has no \"{}\"", key));
    return text(key, {});
  }

  // At least what is given for where there is none.
  std::int64_t whole_number(std::string_view key, std::int64_t otherwise) const {
    const json* found = find(key);
    if (found == nullptr) return otherwise;
    if (!found->is_number_integer() || found->get<std::int64_t>() < otherwise) {
      refuse(fmt::format("has a \"{}\" that is not a whole number of at least {}", key, otherwise));
    }
    return found->get<std::int64_t>();
  }
  std::int64_t whole_number(std::string_view key) const {
    if (find(key) == nullptr) refuse(fmt::format("has no \"{}\"", key));
    return whole_number(key, 1);
  }

  std::optional<double> positive(std::string_view key) const {
    const json* found = find(key);
    if (found == nullptr) return {};
    return positive(*found, key);
  }

  // Seconds of repetitions: none where there is no such key.
  bench::Times times(std::string_view key) const {
    bench::Times times;
    const json* found = find(key);
    if (found == nullptr) return times;
    if (!found->is_array()) refuse(fmt::format("has a \"{}\" that is not a list", key));
    for (const json& value : *found) times.seconds.push_back(positive(value, key));
    return times;
  }

  // The parts of a list: none where there is no such key.
  std::vector<Part> list(std::string_view key) const {
    const json* found = find(key);
    if (found == nullptr) return {};
    if (!found->is_array()) refuse(fmt::format("has a \"{}\" that is not a list", key));
    std::vector<Part> parts;
    for (std::size_t i = 0; i < found->size(); ++i) {
      parts.emplace_back((*found)[i], fmt::format("{}{}[{}]", name_ == kWhole ? "" : name_ + ".", key, i));
    }
    return parts;
  }

  static constexpr std::string_view kWhole = "the report";

 private:
  double positive(const json& value, std::string_view key) const {
    if (!value.is_number() || !std::isfinite(value.get<double>()) || value.get<double>() <= 0) {
      refuse(fmt::format("has a \"{}\" with something else than finite numbers above 0", key));
    }
    return value.get<double>();
  }

  const json& object_;
  std::string name_;
};

Part whole(const json& report) { return {report, std::string(Part::kWhole)}; }

bool is_of_gpu(const json& report) {
  const json* device = whole(report).find("device");
  return device != nullptr && device->is_object() && device->contains("compute_capability");
}

// {"amsgrad": "true"} as "amsgrad=true".
std::string options_of(const Part& part) {
  const json* options = part.find("options");
  if (options == nullptr) return "";
  if (!options->is_object()) part.refuse("has \"options\" that are not an object");
  std::map<std::string, std::string> map;
  for (const auto& [name, value] : options->items()) {
    if (!value.is_string()) part.refuse("has \"options\" with something else than strings");
    map[name] = value.get<std::string>();
  }
  return options_text(map);
}

BenchCase case_of(const Part& part, const json& report) {
  BenchCase what{.method = part.text("method"),
                 .options = options_of(part),
                 .storage = part.text("storage", storage_of_type(report)),
                 .pipeline = part.text("pipeline", "update"),
                 .count = part.whole_number("count"),
                 .tensors = part.whole_number("tensors", 1),
                 .shape = part.text("shape", ""),
                 .device = is_of_gpu(report) ? "cuda" : "cpu",
                 .threads = static_cast<int>(std::min<std::int64_t>(part.whole_number("threads", 0), 1 << 20))};
  what.forget_plain_shape();
  const json* hot = part.find("hot");
  if (hot == nullptr) hot = whole(report).find("hot");
  // Reports without it are of a time when a CPU's runs stayed on one set of buffers.
  what.hot = hot != nullptr ? *hot == true : what.device == "cpu";
  return what;
}

json read_json(std::string_view option, const std::string& path) {
  const auto refuse = [&](const std::string& why) {
    throw std::invalid_argument(fmt::format("adamant: {} {}: {}", option, path, why));
  };
  std::ifstream file(path, std::ios::binary);
  std::string text;
  if (!file || (text.assign(std::istreambuf_iterator<char>(file), {}), file.bad())) {
    refuse(fmt::format("cannot be read: {}", std::strerror(errno)));
  }
  // What a report is copied and written by calls itself for each level.
  const auto not_too_deep = [&](int depth, json::parse_event_t /*event*/, json& /*parsed*/) {
    if (depth > kDeepest) refuse(fmt::format("is nested more than {} deep", kDeepest));
    return true;
  };
  try {
    return json::parse(text, not_too_deep);
  } catch (const json::exception& error) {
    refuse(fmt::format("is not JSON, or not all of it: {}", host::printable(error.what())));
  }
  return {};
}

// But for those that are there: a file may be given twice, or be part of another.
void append(json& list, const json& report, const char* key) {
  const auto more = report.find(key);
  if (more == report.end() || !more->is_array()) return;
  if (!list.is_array()) list = json::array();  // the first report had none
  std::set<json> there(list.begin(), list.end());
  for (const json& item : *more) {
    if (there.insert(item).second) list.push_back(item);
  }
}

// What several reports have under a path: all that differ, in a list.
void join(json& merged, const json& report, const json::json_pointer& path) {
  const json more = report.value(path, json());
  if (more.is_null() || !merged.value(path.parent_pointer(), json::object()).is_object()) return;
  json all = merged.value(path, json());
  if (!all.is_array()) all = all.is_null() ? json::array() : json::array({all});
  for (const json& value : more.is_array() ? more : json::array({more})) {
    if (std::find(all.begin(), all.end(), value) == all.end()) all.push_back(value);
  }
  merged[path] = all.size() == 1 ? all[0] : all;
}

// What the peers of bench/peers.py ran on; empty where the report does not say.
std::string machine_of_peers(const json& report) {
  const json* const named = whole(report).find("environment");
  if (named == nullptr || !named->is_object()) return "";
  const auto device = named->find("device");
  return device != named->end() && device->is_string() && *device != "cpu" ? device->get<std::string>() : "";
}

// What measured, for a message.
std::string device_text(const json& report) {
  const std::string machine = machine_of(report);
  return machine.empty() ? (is_of_gpu(report) ? "a GPU" : "a CPU") : machine;
}

}  // namespace

void BenchCase::forget_plain_shape() {
  if (tensors == 1 || shape == fmt::format("{}x{}", tensors, count / tensors)) shape = "";
}

std::string BenchCase::method_text() const { return options.empty() ? method : method + " " + options; }

std::string BenchCase::size_text() const {
  if (!shape.empty()) return shape;
  return tensors == 1 ? fmt::format("{}", count) : fmt::format("{}x{}", tensors, count / tensors);
}

std::string BenchCase::kind_text() const {
  std::string text;
  if (pipeline != "update" || storage != "float32/float32/float32") text = fmt::format(", {} of {}", pipeline, storage);
  if (threads > 0) text += fmt::format(", {} thread{}", threads, threads == 1 ? "" : "s");
  return text + (hot ? ", hot" : "");
}

std::string BenchCase::text() const { return fmt::format("{}, {}{}", method_text(), size_text(), kind_text()); }

double BenchRow::gigabytes_per_second() const {
  return 1e-9 * static_cast<double>(what.count) * bytes_per_parameter / update.median();
}

std::optional<double> BenchRow::ceiling_gigabytes_per_second() const {
  if (ceiling.seconds.empty()) return {};
  return 1e-9 * static_cast<double>(what.count) * bytes_per_parameter / ceiling.median();
}

std::optional<double> BenchRow::fraction_of_ceiling() const {
  if (ceiling.seconds.empty()) return {};
  return bench::ratio(ceiling, update);
}

std::vector<BenchRow> rows_of(const json& report) {
  std::vector<BenchRow> rows;
  for (const Part& part : whole(report).list("results")) {
    BenchRow row{.what = case_of(part, report),
                 .update = part.times("seconds"),
                 .ceiling = part.times("ceiling_seconds"),
                 .ceiling_variant = part.text("ceiling_variant", ""),
                 .graph_seconds = part.positive("graph_median_seconds"),
                 .host_seconds = part.positive("host_median_seconds"),
                 .times_one_tensor = part.positive("times_one_tensor")};
    if (row.update.seconds.empty()) part.refuse("has no \"seconds\"");
    const std::optional<double> bytes = part.positive("bytes_per_parameter");
    if (!bytes) part.refuse("has no \"bytes_per_parameter\"");
    row.bytes_per_parameter = *bytes;
    if (row.ceiling.seconds.size() > row.update.seconds.size()) row.ceiling.seconds.resize(row.update.seconds.size());
    rows.push_back(std::move(row));
  }
  return rows;
}

std::vector<BenchRatio> ratios_of(const json& report) {
  std::vector<BenchRatio> ratios;
  const Part all = whole(report);
  for (const Part& row : all.list("results")) {
    for (const Part& baseline : row.list("baselines")) {
      const std::optional<double> times = baseline.positive("times_update");
      if (!times) continue;  // its result differed: it was not timed
      const bench::Times seconds = baseline.times("seconds");
      ratios.push_back({case_of(row, report), baseline.text("name"), *times,
                        seconds.seconds.empty() ? std::optional<double>() : seconds.spread()});
    }
  }
  for (const Part& peer : all.list("peers")) {
    const std::optional<double> times = peer.positive("times_update");
    if (!times) continue;  // it disagreed
    const json* spread = peer.find("spread");
    ratios.push_back({case_of(peer, report), peer.text("peer"), *times,
                      spread != nullptr && spread->is_number() ? std::optional(spread->get<double>()) : std::nullopt});
  }
  return ratios;
}

std::optional<double> pin_rate_of(const json& report) {
  return whole(report).positive("pin_rate_gigabytes_per_second");
}

std::string machine_of(const json& report) {
  for (const auto& [part, key] :
       {std::pair{"device", "name"}, {"device", "what"}, {"machine", "cpu"}, {"provenance", "machine"}}) {
    const auto object = report.find(part);
    if (object == report.end() || !object->is_object()) continue;
    const auto found = object->find(key);
    if (found != object->end() && found->is_string() && *found != "cpu") return found->get<std::string>();
  }
  return "";
}

json read_reports(std::string_view option, const std::vector<std::string>& paths) {
  json merged;
  std::string base;  // the file of the first rows
  json peers = json::array();
  json complete;                                                       // whether all are that say so
  std::vector<std::pair<std::string, std::string>> machines_of_peers;  // files, and what ran them
  const auto refuse_file = [&](const std::string& path, const std::string& why) {
    throw std::invalid_argument(fmt::format("adamant: {} {}: {}", option, path, why));
  };
  for (const std::string& path : paths) {
    const auto refuse = [&](const std::string& why) { refuse_file(path, why); };
    json report = read_json(option, path);
    try {
      machines_of_peers.emplace_back(path, machine_of_peers(report));
      const Part part = whole(report);
      if (part.find("results") == nullptr && part.find("peers") == nullptr) {
        part.refuse("has neither \"results\" nor \"peers\": it is of neither adamant bench nor bench/peers.py");
      }
      ratios_of(report);
      append(peers, report, "peers");
      if (const json* whole_run = part.find("complete")) {
        complete = *whole_run == true && (complete.is_null() || complete == true);
      }
      if (rows_of(report).empty()) continue;
      // What rows leave to their report goes with them.
      for (json& row : report["results"]) {
        row.emplace("storage", storage_of_type(report));
        row.emplace("hot", part.find("hot") != nullptr ? report["hot"] : json(!is_of_gpu(report)));
      }
    } catch (const std::invalid_argument& error) {
      refuse(error.what());
    }
    if (merged.is_null()) {
      merged = std::move(report);
      base = path;
      continue;
    }
    if (is_of_gpu(merged) != is_of_gpu(report) || machine_of(merged) != machine_of(report)) {
      refuse(fmt::format("is of {}, and {} of {}; allowed together: reports of one machine", device_text(report), base,
                         device_text(merged)));
    }
    append(merged["results"], report, "results");
    for (const char* path : {"/adamant", "/environment/commit", "/started"})
      join(merged, report, json::json_pointer(path));
    if (!pin_rate_of(merged)) join(merged, report, json::json_pointer("/pin_rate_gigabytes_per_second"));
    if (report.contains("left_out")) append(merged["left_out"], report, "left_out");
  }
  if (merged.is_null()) {
    throw std::invalid_argument(
        fmt::format("adamant: {} {}: has no row that adamant bench measured", option, host::joined(paths)));
  }
  for (const auto& [path, machine] : machines_of_peers) {
    const std::string there = machine_of(merged);
    if (machine.empty() || there.empty() || machine == there) continue;
    refuse_file(path, fmt::format("its peers ran on {}, and {} is of {}; allowed together: reports of one machine",
                                  machine, base, there));
  }
  if (!peers.empty()) merged["peers"] = std::move(peers);
  if (!complete.is_null()) merged["complete"] = complete;
  return merged;
}

}  // namespace adamant::tools
