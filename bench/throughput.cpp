#include "bench/throughput.hpp"

#include <span>
#include <utility>

#include "bench/measurement.hpp"

namespace adamant::bench {

double Throughput::copy_gigabytes_per_second(const Times& of) const {
  return 2 * static_cast<double>(copy_element_bytes) * static_cast<double>(count) / of.median() * 1e-9;
}

std::optional<Throughput> measure(const Request& request, const ProgressTo& progress, const StopAsked& stop) {
  const Measurement measurement(request);
  Throughput result = measurement.facts();
  Ceilings ceilings = measurement.choose_ceilings([&](double done) { progress(0.3 * done); }, stop);
  if (stop()) return std::nullopt;
  result.ceiling_looks = ceilings.looks;
  std::vector<Contender> contenders = std::move(ceilings.finalists);
  const std::size_t finalists = contenders.size();
  contenders.push_back(measurement.update());
  for (Contender& other : measurement.others()) contenders.push_back(std::move(other));
  if (!request.only_ceiling) {
    result.baselines = measurement.baselines();
    result.no_baselines = measurement.no_baselines();
  }
  const int whole = interleave(
      contenders, request.repetitions, [&](double done) { progress(0.3 + 0.7 * done); }, stop);
  if (whole == 0) return std::nullopt;

  const auto times = [&](const std::string& name) {
    for (std::size_t i = finalists; i < contenders.size(); ++i) {
      if (contenders[i].name == name) return contenders[i].times;
    }
    return Times{};
  };
  result.update = times("update");
  result.graph = times("graph");
  result.copy = times("copy");
  result.plain_copy = times("plain-copy");
  result.one_tensor = times("one-tensor");
  for (BaselineTimes& baseline : result.baselines) baseline.times = times(baseline.name);
  const Contender& best = fastest(std::span(contenders).first(finalists));
  result.ceiling = best.times;
  result.ceiling_variant = best.name;
  if (request.only_ceiling) return result;
  std::vector<Contender> host = measurement.host(result.update.median());
  interleave(
      host, Measurement::kHostBlocks, [](double) {}, stop);
  if (!host.empty()) result.host = host.front().times;
  return result;
}

}  // namespace adamant::bench
