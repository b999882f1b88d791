#include "host/measure.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

namespace adamant::measure {
namespace {

double spacing(double x, int digits, int least_exponent) {
  if (!std::isfinite(x)) return std::numeric_limits<double>::infinity();
  if (x == 0) return std::ldexp(1.0, least_exponent);
  return std::ldexp(1.0, std::max(std::ilogb(x) - (digits - 1), least_exponent));
}

}  // namespace

double ulp(DataType type, double x) {
  switch (type) {
    case DataType::float64: return spacing(x, 53, -1074);
    case DataType::bfloat16: return spacing(x, 8, -133);
    case DataType::float16: return spacing(x, 11, -24);
    default: return spacing(x, 24, -149);
  }
}

Errors errors_in_ulps(std::span<const double> got, std::span<const double> expected, std::span<const double> scale) {
  Errors result;
  if (got.empty()) return result;
  std::vector<double> errors(got.size());
  double squares = 0;
  double sum = 0;
  for (std::size_t i = 0; i < got.size(); ++i) {
    const bool same = got[i] == expected[i] || (std::isnan(got[i]) && std::isnan(expected[i]));
    double error = same ? 0.0 : std::fabs(got[i] - expected[i]) / ulp(DataType::float32, scale[i]);
    if (std::isnan(error) || (!same && !std::isfinite(got[i]))) error = std::numeric_limits<double>::infinity();
    errors[i] = error;
    squares += error * error;
    sum += error;
    if (result.largest_at < 0 || error > result.largest) {
      result.largest = error;
      result.largest_at = static_cast<std::int64_t>(i);
    }
  }
  const auto count = static_cast<double>(errors.size());
  result.root_mean_square = std::sqrt(squares / count);
  result.mean = sum / count;
  const auto rank = static_cast<std::ptrdiff_t>(std::ceil(0.99 * count)) - 1;
  std::nth_element(errors.begin(), errors.begin() + rank, errors.end());
  result.percentile_99 = errors[static_cast<std::size_t>(rank)];
  return result;
}

}  // namespace adamant::measure
