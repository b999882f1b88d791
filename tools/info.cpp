// `adamant info`: what this program is, how it was built, and what of this machine it would use.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <exception>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "adamant/adamant.hpp"
#include "host/device_memory.hpp"
#include "kernels/backend.hpp"
#include "tools/commands.hpp"
#include "tools/run_options.hpp"
#include "tools/terminal.hpp"

namespace adamant::tools {
namespace {

// What a device says when it is asked for: nothing when it is there.
std::string why_not(Device device) try {
  const Optimizer probe(GradientDescent{}, device);
  return {};
} catch (const std::exception& error) {
  std::string why = error.what();
  const std::string prefix = "adamant: ";
  return why.starts_with(prefix) ? why.substr(prefix.size()) : why;
}

// The CPU, then every CUDA device that there is, or the first one that there could be, with the reason why it cannot be
// used where it cannot.
nlohmann::json devices() {
  // Not list{facts}, which is an array for g++ and a copy for clang.
  nlohmann::json list = nlohmann::json::array({facts_of(Device::cpu())});
  list[0]["available"] = true;
  const int count = std::max(1, static_cast<int>(kernels::cuda_devices().size()));
  for (int index = 0; index < count; ++index) {
    nlohmann::json facts = facts_of(Device::cuda(index));
    const std::string why = why_not(Device::cuda(index));
    facts["available"] = why.empty();
    if (!why.empty()) facts["why"] = why;
    list.push_back(facts);
  }
  return list;
}

nlohmann::json methods() {
  nlohmann::json list = nlohmann::json::array();
  for (const std::string& name : method_names()) {
    const Method method = make_method(name);
    nlohmann::json options = nlohmann::json::object();
    for (const Option& option : adamant::options(method)) options[option.name] = option.value;
    list.push_back({{"name", name}, {"states", state_names(method)}, {"options", options}});
  }
  return list;
}

nlohmann::json gather() {
  const Optimizer probe{GradientDescent{}};
  nlohmann::json machine = nlohmann::json::array();
  for (const SimdLevel level : simd_levels()) machine.push_back(name(level));
  const char* const toolkit = ADAMANT_BUILD_CUDA_TOOLKIT;  // empty without CUDA
  const std::string driver = host::nvidia_driver();
  return {{"version", std::string(version())},
          {"build",
           {{"commit", environment().at("commit")},
            {"type", ADAMANT_BUILD_TYPE},
            {"compiler", environment().at("compiler")},
            {"flags", ADAMANT_BUILD_FLAGS},
            {"cuda", ADAMANT_BUILD_CUDA},
            {"cuda_toolkit", (*toolkit == 0) ? nlohmann::json() : nlohmann::json(toolkit)},
            {"cuda_architectures", ADAMANT_BUILD_CUDA_ARCHITECTURES}}},
          {"devices", devices()},
          {"default_device", name(default_device())},
          {"nvidia_driver", driver.empty() ? nlohmann::json() : nlohmann::json(driver)},
          {"simd", {{"build", ADAMANT_BUILD_SIMD}, {"machine", machine}, {"chosen", name(probe.simd())}}},
          {"threads", probe.threads()},
          {"cores", std::thread::hardware_concurrency()},
          {"memory_available_bytes", host::memory_available()},
          {"methods", methods()}};
}

std::string list_text(const nlohmann::json& names) {
  return fmt::format("{}", fmt::join(names.get<std::vector<std::string>>(), ", "));
}

void print(const nlohmann::json& facts) {
  const auto line = [](std::string_view what, const std::string& is) { fmt::print("{:<9} {}\n", what, is); };
  const nlohmann::json& build = facts.at("build");
  line("version", facts.at("version").get<std::string>());
  line("build", fmt::format("{}, {}, flags {}; ADAMANT_CUDA={}", build.at("type").get<std::string>(),
                            build.at("compiler").get<std::string>(), build.at("flags").get<std::string>(),
                            build.at("cuda").get<std::string>()));
  if (!build.at("cuda_toolkit").is_null()) {
    line("CUDA",
         fmt::format("toolkit {}, for architectures {}; driver {}", build.at("cuda_toolkit").get<std::string>(),
                     build.at("cuda_architectures").get<std::string>(),
                     facts.at("nvidia_driver").is_null() ? "not found" : facts.at("nvidia_driver").get<std::string>()));
  }
  for (const nlohmann::json& device : facts.at("devices")) {
    const bool first = &device == &facts.at("devices").front();
    std::string text = device.at("name").get<std::string>();
    if (device.contains("what")) text += ": " + device.at("what").get<std::string>();
    if (!device.at("available").get<bool>()) {
      text = fmt::format("no {}: {}", device.contains("what") ? text : "CUDA", device.at("why").get<std::string>());
    }
    line(first ? "devices" : "", text);
  }
  line("default", fmt::format("{}, where --device says nothing else", facts.at("default_device").get<std::string>()));
  const nlohmann::json& simd = facts.at("simd");
  line("SIMD", fmt::format("{}; this build has {}, this machine runs {}", simd.at("chosen").get<std::string>(),
                           list_text(simd.at("build")), list_text(simd.at("machine"))));
  line("threads", fmt::format("{}, on {} cores", facts.at("threads").get<int>(), facts.at("cores").get<unsigned>()));
  line("memory", fmt::format("{} free", gibibytes(facts.at("memory_available_bytes").get<std::int64_t>())));
  for (const nlohmann::json& method : facts.at("methods")) {
    const bool first = &method == &facts.at("methods").front();
    const std::string states = list_text(method.at("states"));
    line(first ? "methods" : "",
         fmt::format("{:<17} {}", method.at("name").get<std::string>(), states.empty() ? "(no state)" : states));
  }
}

bool run(const RunOptions& options) {
  check_output("--json-file", options.json_file);
  const nlohmann::json facts = gather();
  if (!options.json) print(facts);
  options.emit(facts);
  return true;
}

}  // namespace

Command add_info(CLI::App& program) {
  CLI::App* app = program.add_subcommand("info", "Version, build, devices, instruction sets, threads and methods");
  auto options = std::make_shared<RunOptions>();
  options->add_output_to(*app);
  return {app, [options] { return run(*options); }};
}

}  // namespace adamant::tools
