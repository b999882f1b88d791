// `adamant info`: what this program is, how it was built, and what of this machine it would use.
#include <fmt/format.h>

#include <algorithm>
#include <exception>
#include <memory>
#include <thread>

#include "adamant/adamant.hpp"
#include "host/text.hpp"
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

// The CPU, then the CUDA devices up to the first that is not there, with the reason.
nlohmann::json devices() {
  nlohmann::json list{{{"name", name(Device::cpu())}, {"available", true}}};
  for (int index = 0;; ++index) {
    const Device device = Device::cuda(index);
    const std::string why = why_not(device);
    if (why.empty()) {
      list.push_back({{"name", name(device)}, {"available", true}});
      continue;
    }
    if (index == 0) list.push_back({{"name", name(device)}, {"available", false}, {"why", why}});
    return list;
  }
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
  return {{"version", ADAMANT_VERSION},
          {"build",
           {{"type", ADAMANT_BUILD_TYPE},
            {"compiler", environment().at("compiler")},
            {"flags", ADAMANT_BUILD_FLAGS},
            {"cuda", ADAMANT_BUILD_CUDA}}},
          {"devices", devices()},
          {"simd", {{"build", ADAMANT_BUILD_SIMD}, {"machine", machine}, {"chosen", name(probe.simd())}}},
          {"threads", probe.threads()},
          {"cores", std::thread::hardware_concurrency()},
          {"memory_available_bytes", memory_available()},
          {"methods", methods()}};
}

std::string list_text(const nlohmann::json& names) {
  std::string text;
  for (const auto& name : names) text += (text.empty() ? "" : ", ") + name.get<std::string>();
  return text;
}

void print(const nlohmann::json& facts) {
  const auto line = [](std::string_view what, const std::string& is) { fmt::print("{:<9} {}\n", what, is); };
  const nlohmann::json& build = facts.at("build");
  line("version", facts.at("version").get<std::string>());
  line("build", fmt::format("{}, {}, flags {}; ADAMANT_CUDA={}", build.at("type").get<std::string>(),
                            build.at("compiler").get<std::string>(), build.at("flags").get<std::string>(),
                            build.at("cuda").get<std::string>()));
  for (const nlohmann::json& device : facts.at("devices")) {
    const bool first = &device == &facts.at("devices").front();
    line(first ? "devices" : "", device.at("available").get<bool>()
                                     ? device.at("name").get<std::string>()
                                     : fmt::format("no CUDA: {}", device.at("why").get<std::string>()));
  }
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
