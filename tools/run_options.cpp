#include "tools/run_options.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <span>
#include <stdexcept>

#include "host/cpu_backend.hpp"
#include "host/replacement.hpp"
#include "host/text.hpp"
#include "kernels/backend.hpp"

namespace adamant::tools {

void RunOptions::add_to(CLI::App& app) {
  app.add_option("--option", options, "an option of the method, name=value; may be given several times")
      ->type_name("NAME=VALUE")
      ->take_all();
  app.add_option("--device", device, "cpu, cuda, cuda:N, or auto: cuda:0 where there is one")
      ->capture_default_str()
      ->check(not_empty());
  app.add_option("--dtype", type, "f32 or f64")->capture_default_str()->check(CLI::IsMember({"f32", "f64"}));
  app.add_option("--simd", simd, "CPU instruction set: baseline, avx2 or avx512 (default: the best there is)")
      ->check(not_empty());
  add_output_to(app);
}

void RunOptions::add_threads_to(CLI::App& app) {
  app.add_option("--threads", threads, "CPU threads (default, and 0: all)")->check(whole_number(0, host::kMostThreads));
}

void RunOptions::add_storages_to(CLI::App& app) {
  app.add_option("--storage", storages,
                 "types of parameter, gradient and state, and what is kept beside the parameter, such as "
                 "bfloat16/bfloat16/float32/remainder, separated by commas, or all; in place of --dtype")
      ->type_name("TYPE/TYPE/TYPE[/MASTER]")
      ->delimiter(',')
      ->check(not_empty())
      ->excludes("--dtype");
}

void RunOptions::add_output_to(CLI::App& app) {
  app.add_flag("--json", json, "print JSON instead of a table");
  app.add_option("--json-file", json_file, "write the JSON to this file too")->type_name("FILE")->check(not_empty());
}

std::map<std::string, std::string> RunOptions::option_map() const {
  std::map<std::string, std::string> map;
  for (const std::string& option : options) {
    const auto equals = option.find('=');
    if (equals == std::string::npos || equals == 0) {
      throw std::invalid_argument(fmt::format("adamant: --option {} is not of the form name=value", option));
    }
    if (!map.emplace(option.substr(0, equals), option.substr(equals + 1)).second) {
      throw std::invalid_argument(fmt::format("adamant: --option {} is given twice", option.substr(0, equals)));
    }
  }
  return map;
}

Method RunOptions::make_method() const { return adamant::make_method(method, option_map()); }
Device RunOptions::make_device() const { return parse_device(device); }
DataType RunOptions::data_type() const { return type == "f64" ? DataType::float64 : DataType::float32; }

std::vector<kernels::StorageTypes> RunOptions::all_storages() const {
  if (!storages.empty()) return storages_from(storages);
  return {kernels::plain_storage(data_type())};
}

Tuning RunOptions::tuning() const {
  Tuning tuning;
  tuning.threads = threads;
  if (!simd.empty()) tuning.simd = parse_simd(simd);
  return tuning;
}

void RunOptions::check_machine() const { const Optimizer probe(GradientDescent{}, make_device(), tuning()); }

namespace {
// A device, a pipe or a link, which is written through: /dev/stdout is one, of a file that may be open already.
bool is_special(const std::string& path) {
  std::error_code ignored;
  const std::filesystem::file_status status = std::filesystem::symlink_status(path, ignored);
  return std::filesystem::exists(status) && !std::filesystem::is_regular_file(status);
}
}  // namespace

void write_result(const std::string& path, const std::string& text) {
  if (is_special(path)) {
    std::ofstream file(path);
    file << text << std::flush;
    if (!file) throw std::runtime_error(fmt::format("adamant: cannot write {}: {}", path, std::strerror(errno)));
    return;
  }
  host::Replacement file(path);
  file.append(std::as_bytes(std::span(text)));
  file.commit();
}

void RunOptions::emit(const nlohmann::json& report) const {
  const std::string text =
      report.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";  // a path need not be UTF-8
  if (!json_file.empty()) {  // first: standard output may be a pipe that nobody reads any more
    write_result(json_file, text);
  }
  if (json) fmt::print("{}", text);
}

CLI::Validator whole_number(std::uint64_t low, std::uint64_t high) {
  const auto check = [low, high](const std::string& text) {
    const auto value = host::from_text<std::uint64_t>(text);
    if (value && *value >= low && *value <= high) return std::string();
    return fmt::format("\"{}\" is not a whole number from {} to {}", text, low, high);
  };
  return CLI::Validator(check, fmt::format("[{} - {}]", low, high));
}

CLI::Validator non_negative_number() {
  const auto check = [](const std::string& text) {
    const auto value = host::from_text<double>(text);
    if (value && *value >= 0 && std::isfinite(*value)) return std::string();
    return fmt::format("\"{}\" is not a finite number from 0 on", text);
  };
  return CLI::Validator(check, "");
}

CLI::Validator positive_number() {
  const auto check = [](const std::string& text) {
    const auto value = host::from_text<double>(text);
    if (value && *value > 0 && std::isfinite(*value)) return std::string();
    return fmt::format("\"{}\" is not a finite number above 0", text);
  };
  return CLI::Validator(check, "");
}

CLI::Validator not_empty() {
  return CLI::Validator([](const std::string& text) { return text.empty() ? "is empty" : std::string(); }, "");
}

void check_output(const std::string& option, const std::string& path, std::initializer_list<std::string> read) {
  namespace fs = std::filesystem;
  if (path.empty()) return;
  const auto refuse = [&](const std::string& why) {
    throw std::invalid_argument(fmt::format("adamant: {} {}: {}", option, path, why));
  };
  std::error_code ignored;
  // Of a file that is not there yet all spellings are one, too.
  const auto place = [&](const std::string& file) {
    const fs::path found = fs::weakly_canonical(fs::absolute(file, ignored), ignored);
    return found.empty() ? fs::path(file) : found;
  };
  for (const std::string& other : read) {
    if (other.empty()) continue;
    if (fs::equivalent(path, other, ignored) || place(path) == place(other)) {
      refuse("this file is also read or written as something else; allowed: one of its own");
    }
  }
  if (fs::is_directory(path, ignored)) refuse("is a folder; allowed: a file");
  const fs::path folder = fs::path(path).has_parent_path() ? fs::path(path).parent_path() : fs::path(".");
  if (!fs::is_directory(folder, ignored)) refuse("there is no folder " + folder.string());
  if (!is_special(path) && access(folder.c_str(), W_OK) != 0) {
    refuse(fmt::format("cannot write in folder {}: {}", folder.string(), std::strerror(errno)));
  }
}

Device parse_device(const std::string& text) {
  if (text == "auto") return default_device();
  if (text == "cpu") return Device::cpu();
  if (text == "cuda") return Device::cuda(0);
  if (text.starts_with("cuda:")) {
    if (const auto index = host::from_text<int>(std::string_view(text).substr(5)); index && *index >= 0) {
      return Device::cuda(*index);
    }
  }
  throw std::invalid_argument(
      fmt::format("adamant: no device is called \"{}\"; there are cpu, cuda, cuda:N and auto", text));
}

Device default_device() {
  static const Device device = [] {
    if (kernels::cuda_devices().empty()) return Device::cpu();
    try {
      const Optimizer probe(GradientDescent{}, Device::cuda(0));
      return Device::cuda(0);
    } catch (const std::exception&) {  // `adamant info` says why
      return Device::cpu();
    }
  }();
  return device;
}

nlohmann::json facts_of(Device device) {
  nlohmann::json json{{"name", name(device)}};
  const std::vector<std::string> all = kernels::cuda_devices();
  const auto index = static_cast<std::size_t>(device.index);
  if (device.kind == Device::Kind::cuda && index < all.size()) json["what"] = all[index];
  return json;
}

std::string describe(Device device) {
  const nlohmann::json json = facts_of(device);
  return json.contains("what") ? fmt::format("{}: {}", name(device), json.at("what").get<std::string>())
                               : std::string(name(device));
}

std::vector<kernels::StorageTypes> storages_from(const std::vector<std::string>& names) {
  const auto all = kernels::storages();
  std::vector<kernels::StorageTypes> found;
  for (const std::string& name : names) {
    if (name == "all") {
      found.insert(found.end(), all.begin(), all.end());
      continue;
    }
    const auto* const there =
        std::find_if(all.data(), all.data() + all.size(),
                     [&](const kernels::StorageTypes& types) { return kernels::short_name(types) == name; });
    if (there == all.data() + all.size()) {
      std::vector<std::string> short_names;
      for (const kernels::StorageTypes& types : all) short_names.push_back(kernels::short_name(types));
      throw std::invalid_argument(fmt::format("adamant: --storage: unknown storage {}; allowed: {} and all",
                                              host::in_quotes(name), host::joined(short_names)));
    }
    found.push_back(*there);
  }
  return found;
}

SimdLevel parse_simd(const std::string& text) {
  for (const SimdLevel level : {SimdLevel::baseline, SimdLevel::avx2, SimdLevel::avx512}) {
    if (text == name(level)) return level;
  }
  throw std::invalid_argument(
      fmt::format("adamant: no SIMD level is called \"{}\"; there are baseline, avx2 and avx512", text));
}

std::string describe(const Method& method) {
  std::string text;
  for (const Option& option : adamant::options(method)) {
    text += fmt::format("{}{}={}", text.empty() ? "" : " ", option.name, option.value);
  }
  return text;
}

}  // namespace adamant::tools
