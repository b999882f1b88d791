// The options that several subcommands share: method, its options, device, threads, instruction set.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <initializer_list>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "adamant/adamant.hpp"
#include "kernels/storage_types.hpp"

namespace adamant::tools {

struct RunOptions {
  std::string method;
  std::vector<std::string> options;  // "name=value"
  std::string device = "auto";
  std::string type = "f32";
  std::vector<std::string> storages;  // as storages_from() reads them; empty: the plain one of `type`
  std::string simd;
  int threads = 0;
  bool json = false;
  std::string json_file;

  // Adds --option, --device, --dtype, --simd, --json and --json-file.
  void add_to(CLI::App& app);
  // Adds --threads, one number.
  void add_threads_to(CLI::App& app);
  // Adds --storage, which takes the place of --dtype.
  void add_storages_to(CLI::App& app);
  // Adds only --json and --json-file.
  void add_output_to(CLI::App& app);

  // `options` as a map. Throws std::invalid_argument for one that is not name=value or is given twice.
  std::map<std::string, std::string> option_map() const;
  Method make_method() const;
  Device make_device() const;
  DataType data_type() const;
  // Those of --storage, or the plain one of --dtype. Throws std::invalid_argument for one that there is not.
  std::vector<kernels::StorageTypes> all_storages() const;
  Tuning tuning() const;
  // Before any work: throws what an Optimizer of that device, instruction set and number of threads would.
  void check_machine() const;
  // Prints the report or writes it, as --json and --json-file ask for. Throws std::runtime_error when it cannot be
  // written.
  void emit(const nlohmann::json& report) const;
};

// Checks of what an option of the command line is given: a whole number in a range, a number that is not negative, a
// text that is not empty. (CLI11's own accept a NaN, take -1 for 2^64 - 1, and print bounds with 300 digits.)
CLI::Validator whole_number(std::uint64_t low, std::uint64_t high);
CLI::Validator non_negative_number();
CLI::Validator positive_number();
CLI::Validator not_empty();

// Before any work: whether a file may be written at `path`, as far as its folder tells, and is none of those that are
// read. Does nothing when `path` is empty. Throws std::invalid_argument naming `option` and `path`.
void check_output(const std::string& option, const std::string& path, std::initializer_list<std::string> read = {});
// Writes it: a file whole or not at all, a device, a pipe or what a link leads to as it is. Throws std::runtime_error.
void write_result(const std::string& path, const std::string& text);

// "cpu", "cuda", "cuda:N", or "auto": what default_device() says. Throws std::invalid_argument for anything else.
Device parse_device(const std::string& text);

// cuda:0 where an Optimizer can be made on it, else the CPU.
Device default_device();

// "cpu", or "cuda:0: NVIDIA H200, compute capability 9.0, 139.8 GiB"
std::string describe(Device device);
// Its name and, of a CUDA device, what it is.
nlohmann::json facts_of(Device device);

// Combinations of types by their short names, "bfloat16/float32/float32/remainder"; "all" for every one there is.
// Throws std::invalid_argument for any other, listing them.
std::vector<kernels::StorageTypes> storages_from(const std::vector<std::string>& names);

// "baseline", "avx2" or "avx512". Throws std::invalid_argument for anything else.
SimdLevel parse_simd(const std::string& text);

// "learning_rate=0.001 beta1=0.9 ..."
std::string describe(const Method& method);

}  // namespace adamant::tools
