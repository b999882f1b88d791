// The options that several subcommands share: method, its options, device, threads, instruction set.
#pragma once

#include <CLI/CLI.hpp>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "adamant/adamant.hpp"

namespace adamant::tools {

struct RunOptions {
  std::string method;
  std::vector<std::string> options;  // "name=value"
  std::string device = "cpu";
  std::string type = "f32";
  std::string simd;
  int threads = 0;
  bool json = false;
  std::string json_file;

  // Adds --option, --device, --dtype, --simd, --threads, --json and --json-file.
  void add_to(CLI::App& app);

  // `options` as a map. Throws std::invalid_argument for one that is not name=value or is given twice.
  std::map<std::string, std::string> option_map() const;
  Method make_method() const;
  Device make_device() const;
  DataType data_type() const;
  Tuning tuning() const;
  // Prints the report or writes it, as --json and --json-file ask for. Throws std::runtime_error when it cannot be written.
  void emit(const nlohmann::json& report) const;
};

// "cpu", "cuda" or "cuda:N". Throws std::invalid_argument for anything else.
Device parse_device(const std::string& text);

// "baseline", "avx2" or "avx512". Throws std::invalid_argument for anything else.
SimdLevel parse_simd(const std::string& text);

// "learning_rate=0.001 beta1=0.9 ..."
std::string describe(const Method& method);

}  // namespace adamant::tools
