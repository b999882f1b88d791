#include "bench/machine.hpp"

#include <algorithm>
#include <array>
#include <cstdio>
#include <fstream>
#include <set>
#include <vector>

#include "host/text.hpp"

namespace adamant::bench {
namespace {

namespace fs = std::filesystem;

// More than the caches of most machines.
constexpr std::int64_t kAssumedCacheBytes = std::int64_t{64} << 20;

std::string line_of(const fs::path& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

// "32768K" or "32M"
std::int64_t size_from(std::string text) {
  std::int64_t unit = 1;
  if (text.ends_with('K')) unit = 1024;
  if (text.ends_with('M')) unit = 1024 * 1024;
  if (unit != 1) text.pop_back();
  return host::from_text<std::int64_t>(text).value_or(0) * unit;
}

// The folders of a folder whose names are `stem` and a number.
std::vector<fs::path> numbered(const fs::path& folder, const std::string& stem) {
  std::vector<fs::path> found;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(folder, ignored)) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with(stem) && host::from_text<int>(std::string_view(name).substr(stem.size()))) {
      found.push_back(entry.path());
    }
  }
  std::sort(found.begin(), found.end());
  return found;
}

// Of the lines "name : value" of /proc/cpuinfo.
std::vector<std::string> cpuinfo(const std::string& name) {
  std::ifstream file("/proc/cpuinfo");
  std::vector<std::string> values;
  for (std::string line; std::getline(file, line);) {
    const auto colon = line.find(": ");
    if (line.starts_with(name) && colon != std::string::npos) values.push_back(line.substr(colon + 2));
  }
  return values;
}

std::optional<double> megahertz_of(const fs::path& path) {
  const auto kilohertz = host::from_text<double>(line_of(path));
  return kilohertz ? std::optional(*kilohertz * 1e-3) : std::nullopt;
}

}  // namespace

std::int64_t cpu_cache_bytes(const fs::path& folder) {
  std::set<std::string> seen;  // level and CPUs: every CPU lists those that it shares
  std::int64_t bytes = 0;
  for (const fs::path& cpu : numbered(folder, "cpu")) {
    for (const fs::path& cache : numbered(cpu / "cache", "index")) {
      const std::string level = line_of(cache / "level");
      if (line_of(cache / "type") == "Instruction" || level == "1") continue;
      if (seen.insert(level + " " + line_of(cache / "shared_cpu_list")).second) {
        bytes += size_from(line_of(cache / "size"));
      }
    }
  }
  return bytes;
}

std::int64_t assumed_cpu_cache_bytes() {
  const std::int64_t bytes = cpu_cache_bytes();
  return bytes > 0 ? bytes : kAssumedCacheBytes;
}

CpuClocks cpu_clocks() {
  CpuClocks clocks;
  double sum = 0;
  int count = 0;
  const auto add = [&](std::optional<double> megahertz) {
    if (!megahertz) return;
    sum += *megahertz;
    ++count;
  };
  for (const fs::path& cpu : numbered("/sys/devices/system/cpu", "cpu")) {
    add(megahertz_of(cpu / "cpufreq" / "scaling_cur_freq"));
  }
  if (count == 0) {
    for (const std::string& value : cpuinfo("cpu MHz")) add(host::from_text<double>(value));
  }
  if (count > 0) clocks.now = sum / count;
  const fs::path first = "/sys/devices/system/cpu/cpu0/cpufreq";
  clocks.least = megahertz_of(first / "cpuinfo_min_freq");
  clocks.most = megahertz_of(first / "cpuinfo_max_freq");
  clocks.governor = line_of(first / "scaling_governor");
  return clocks;
}

GpuClocks gpu_clocks(const std::string& pci_bus) {
  const std::string command =
      "nvidia-smi --id=" + pci_bus + " --query-gpu=clocks.sm,clocks.mem --format=csv,noheader,nounits 2> /dev/null";
  GpuClocks clocks;
  std::FILE* const pipe = popen(command.c_str(), "r");
  if (pipe == nullptr) return clocks;
  std::array<char, 80> line{};
  const bool read = std::fgets(line.data(), static_cast<int>(line.size()), pipe) != nullptr;
  pclose(pipe);
  double multiprocessors = 0;
  double memory = 0;
  if (read && std::sscanf(line.data(), "%lf, %lf", &multiprocessors, &memory) == 2) return {multiprocessors, memory};
  return clocks;
}

std::string cpu_name() {
  const std::vector<std::string> names = cpuinfo("model name");
  return names.empty() ? "" : names.front();
}

}  // namespace adamant::bench
