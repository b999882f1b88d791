#include "bench/throughput.hpp"

#include <algorithm>
#include <iterator>
#include <utility>

#include "bench/measurement.hpp"

namespace adamant::bench {
namespace {

// Of the best of each, as they turned out; the time of both passes is the ceiling where a norm is taken.
void set_ceiling(Throughput& result, std::span<const Contender> of_update, std::span<const Contender> of_norm) {
  const Contender& best = fastest(of_update);
  result.ceiling = best.times;
  result.ceiling_variant = best.name;
  if (of_norm.empty()) return;
  const Contender& reading = fastest(of_norm);
  result.ceiling = sum(best.times, reading.times);
  result.ceiling_variant += " + reading: " + reading.name;
}

}  // namespace

double Throughput::copy_gigabytes_per_second() const {
  return 2 * static_cast<double>(copy_element_bytes) * static_cast<double>(count) / copy.median() * 1e-9;
}

std::optional<Throughput> measure(const Request& request, const ProgressTo& progress, const StopAsked& stop) {
  const Measurement measurement(request);
  Throughput result = measurement.facts();
  Ceilings ceilings = measurement.choose_ceilings([&](double done) { progress(0.3 * done); }, stop);
  if (stop()) return std::nullopt;
  result.ceiling_looks = ceilings.looks;
  const std::size_t of_update = ceilings.of_update.size();
  const std::size_t of_norm = ceilings.of_norm.size();
  std::vector<Contender> contenders = std::move(ceilings.of_update);
  std::move(ceilings.of_norm.begin(), ceilings.of_norm.end(), std::back_inserter(contenders));
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
    for (std::size_t i = of_update + of_norm; i < contenders.size(); ++i) {
      if (contenders[i].name == name) return contenders[i].times;
    }
    return Times{};
  };
  result.update = times("update");
  result.graph = times("graph");
  result.copy = times("copy");
  result.one_tensor = times("one-tensor");
  for (BaselineTimes& baseline : result.baselines) baseline.times = times(baseline.name);
  set_ceiling(result, std::span(contenders).first(of_update), std::span(contenders).subspan(of_update, of_norm));
  if (request.only_ceiling) return result;
  std::vector<Contender> host = measurement.host(result.update.median());
  interleave(
      host, Measurement::kHostBlocks, [](double) {}, stop);
  if (!host.empty()) result.host = host.front().times;
  return result;
}

}  // namespace adamant::bench
