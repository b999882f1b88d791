#include "tools/run_options.hpp"

#include <fmt/format.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <stdexcept>

#include "host/text.hpp"

namespace adamant::tools {

void RunOptions::add_to(CLI::App& app) {
  app.add_option("--option", options, "an option of the method, name=value; may be given several times")
      ->type_name("NAME=VALUE")
      ->take_all();
  app.add_option("--device", device, "cpu, cuda or cuda:N")->capture_default_str();
  app.add_option("--dtype", type, "f32 or f64")->capture_default_str()->check(CLI::IsMember({"f32", "f64"}));
  app.add_option("--simd", simd, "CPU instruction set: baseline, avx2 or avx512 (default: the best there is)");
  app.add_option("--threads", threads, "CPU threads (default: all)")->check(CLI::NonNegativeNumber);
  app.add_flag("--json", json, "print JSON instead of a table");
  app.add_option("--json-file", json_file, "write the JSON to this file too")->type_name("FILE");
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

Tuning RunOptions::tuning() const {
  Tuning tuning;
  tuning.threads = threads;
  if (!simd.empty()) tuning.simd = parse_simd(simd);
  return tuning;
}

void RunOptions::emit(const nlohmann::json& report) const {
  const std::string text = report.dump(2) + "\n";
  if (json) fmt::print("{}", text);
  if (json_file.empty()) return;
  std::ofstream file(json_file);
  file << text << std::flush;
  if (!file) throw std::runtime_error(fmt::format("adamant: cannot write {}: {}", json_file, std::strerror(errno)));
}

Device parse_device(const std::string& text) {
  if (text == "cpu") return Device::cpu();
  if (text == "cuda") return Device::cuda(0);
  if (text.starts_with("cuda:")) {
    if (const auto index = host::from_text<int>(std::string_view(text).substr(5)); index && *index >= 0) {
      return Device::cuda(*index);
    }
  }
  throw std::invalid_argument(fmt::format("adamant: no device is called \"{}\"; there are cpu, cuda and cuda:N", text));
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
