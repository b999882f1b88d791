// Tensors of any types on any device, whose gradients the test knows as numbers: what the tests of step control step;
// and the sum of squares in the order that promise P2 fixes, which shares nothing with the library's. No CUDA header.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "adamant/adamant.hpp"
#include "host/device_memory.hpp"
#include "tests/folder.hpp"
#include "tests/inputs.hpp"

namespace adamant::test {

inline constexpr DataType kGradientTypes[] = {DataType::float32, DataType::float64, DataType::bfloat16,
                                              DataType::float16};

// A number that its type can hold, as it is stored.
inline void encode(double value, DataType type, std::byte* to) {
  const auto put = [&](auto bits) { std::memcpy(to, &bits, sizeof bits); };
  switch (type) {
    case DataType::float64: return put(value);
    case DataType::float32: return put(static_cast<float>(value));
    case DataType::bfloat16:
      return put(static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(static_cast<float>(value)) >> 16));
    case DataType::float16: break;
  }
  const std::uint32_t sign = std::signbit(value) ? 0x8000U : 0U;
  if (value != value) return put(static_cast<std::uint16_t>(0x7E00));
  if (std::isinf(value)) return put(static_cast<std::uint16_t>(sign | 0x7C00U));
  if (value == 0) return put(static_cast<std::uint16_t>(sign));
  int exponent = 0;
  const double mantissa = 2 * std::frexp(std::fabs(value), &exponent) - 1;  // in [0, 1)
  put(static_cast<std::uint16_t>(sign | static_cast<std::uint32_t>(exponent - 1 + 15) << 10 |
                                 static_cast<std::uint32_t>(std::ldexp(mantissa, 10))));
}

// Numbers of magnitudes in [2^lowest, 2^(highest+1)) that the type can hold.
inline std::vector<double> numbers(DataType type, std::int64_t count, std::uint64_t seed, int lowest, int highest) {
  const int bits = type == DataType::float64    ? 52
                   : type == DataType::float32  ? 23
                   : type == DataType::bfloat16 ? 7
                                                : 10;
  Random random(seed);
  std::vector<double> values(static_cast<std::size_t>(count));
  for (double& value : values) {
    const auto mantissa = static_cast<double>(random.bits() >> (64 - bits));
    const int exponent = lowest + static_cast<int>(random.below(highest - lowest + 1));
    value = (random.one_in(2) ? -1 : 1) * std::ldexp(1 + std::ldexp(mantissa, -bits), exponent);
  }
  return values;
}

struct Shape {
  std::int64_t count;
  DataType gradient = DataType::float32;
  DataType parameter = DataType::float32;
  Master master = Master::automatic;
  bool frozen = false;
  int offset = 0;  // elements behind a boundary of 16 bytes
  std::optional<DataType> state = {};
};

// A parameter in which a gradient of that type can be read off, float32 but for float64.
inline Shape shape(std::int64_t count, DataType gradient, bool frozen = false, int offset = 0) {
  return {.count = count,
          .gradient = gradient,
          .parameter = gradient == DataType::float64 ? DataType::float64 : DataType::float32,
          .frozen = frozen,
          .offset = offset};
}

// Tensors of those gradient types in turn, beginning with one of them.
inline std::vector<Shape> mixed(const std::vector<std::int64_t>& counts, std::size_t first_type = 0, int offset = 0) {
  std::vector<Shape> shapes;
  for (std::size_t i = 0; i < counts.size(); ++i) {
    shapes.push_back(shape(counts[i], kGradientTypes[(i + first_type) % std::size(kGradientTypes)], false, offset));
  }
  return shapes;
}

// An Optimizer and the memory of its tensors.
class ControlModel {
 public:
  ControlModel(const Method& method, Device device, std::vector<Shape> of, Tuning tuning = {})
      : shapes(std::move(of)),
        gradients(shapes.size()),
        memory(device),
        optimizer(method, device, tuning),
        parameter_bytes_(place(parameters_at_, &Shape::parameter)),
        gradient_bytes_(place(gradients_at_, &Shape::gradient)),
        parameters_(memory.allocate(std::ssize(parameter_bytes_))),
        gradients_(memory.allocate(std::ssize(gradient_bytes_))) {
    for (std::size_t i = 0; i < shapes.size(); ++i) {
      const Shape& shape = shapes[i];
      optimizer.add({.name = std::to_string(i),
                     .parameter = {parameters_.get() + parameters_at_[i], shape.parameter, shape.count},
                     .gradient = {gradients_.get() + gradients_at_[i], shape.gradient, shape.count},
                     .state_type = shape.state,
                     .master = shape.master});
      if (shape.frozen) optimizer.freeze(TensorId{static_cast<std::int64_t>(i)});
    }
    set_parameters(17);
    set_gradients(0);
  }

  // All gradients anew, multiplied by a power of two.
  void set_gradients(std::uint64_t seed, int lowest = -4, int highest = 2, double factor = 1) {
    for (std::size_t i = 0; i < shapes.size(); ++i) {
      gradients[i] = numbers(shapes[i].gradient, shapes[i].count, 1000 * seed + i, lowest, highest);
      for (double& value : gradients[i]) value *= factor;
    }
    bring_gradients();
  }
  // One element of one gradient, until the next set_gradients().
  void spoil(std::size_t tensor, std::int64_t element, double value) {
    gradients[tensor][static_cast<std::size_t>(element)] = value;
    bring_gradients();
  }
  void bring_gradients() {
    for (std::size_t i = 0; i < shapes.size(); ++i) {
      encode_all(gradients[i], shapes[i].gradient, gradient_bytes_.data() + gradients_at_[i]);
    }
    memory.write(gradients_.get(), gradient_bytes_);
  }

  void set_parameters(std::uint64_t seed) {
    for (std::size_t i = 0; i < shapes.size(); ++i) {
      encode_all(numbers(shapes[i].parameter, shapes[i].count, 77 * seed + i, -2, 1), shapes[i].parameter,
                 parameter_bytes_.data() + parameters_at_[i]);
    }
    memory.write(parameters_.get(), parameter_bytes_);
  }
  void clear_parameters() {
    std::fill(parameter_bytes_.begin(), parameter_bytes_.end(), std::byte{0});
    memory.write(parameters_.get(), parameter_bytes_);
  }
  // A parameter of float32 or float64 as numbers.
  std::vector<double> parameter(std::size_t tensor) const {
    const Shape& shape = shapes[tensor];
    std::vector<double> values(static_cast<std::size_t>(shape.count));
    const void* const from = parameters_.get() + parameters_at_[tensor];
    if (shape.parameter == DataType::float64) {
      memory.read(std::as_writable_bytes(std::span(values)), from);
    } else {
      std::vector<float> narrow(values.size());
      memory.read(std::as_writable_bytes(std::span(narrow)), from);
      std::copy(narrow.begin(), narrow.end(), values.begin());
    }
    return values;
  }

  // All that a step may change but the report: what a checkpoint holds of it.
  std::string everything() {
    const Folder folder;
    optimizer.save(folder.file("all"));
    return contents(folder.file("all"));
  }

  std::vector<Shape> shapes;
  std::vector<std::vector<double>> gradients;
  host::DeviceMemory memory;
  Optimizer optimizer;

 private:
  static void encode_all(const std::vector<double>& values, DataType type, std::byte* to) {
    for (std::size_t k = 0; k < values.size(); ++k) {
      encode(values[k], type, to + static_cast<std::int64_t>(k) * size_in_bytes(type));
    }
  }
  std::vector<std::byte> place(std::vector<std::int64_t>& at, DataType Shape::*type) const {
    std::int64_t bytes = 0;
    for (const Shape& shape : shapes) {
      const std::int64_t size = size_in_bytes(shape.*type);
      at.push_back(bytes + shape.offset * size);
      bytes = (at.back() + shape.count * size + 15) / 16 * 16;
    }
    return std::vector<std::byte>(static_cast<std::size_t>(bytes));
  }

  std::vector<std::int64_t> parameters_at_;
  std::vector<std::int64_t> gradients_at_;
  std::vector<std::byte> parameter_bytes_;
  std::vector<std::byte> gradient_bytes_;
  std::shared_ptr<std::byte> parameters_;
  std::shared_ptr<std::byte> gradients_;
};

// The sum of `count` values: up to 4,096 of them as 1,024 sums of every 1,024th, the even halves and the odd halves of
// which are added up by themselves, again and again; more as the sum of the sums of every 4,096.
inline double sum_in_order(std::int64_t count, const std::function<double(std::int64_t)>& value) {
  if (count <= 4096) {
    const std::function<double(std::int64_t, std::int64_t)> folded = [&](std::int64_t j, std::int64_t stride) {
      if (stride < 1024) return folded(j, 2 * stride) + folded(j + stride, 2 * stride);
      double sum = 0;
      for (std::int64_t i = j; i < count; i += 1024) sum = sum + value(i);
      return sum;
    };
    return folded(0, 1);
  }
  std::vector<double> sums;
  for (std::int64_t first = 0; first < count; first += 4096) {
    sums.push_back(
        sum_in_order(std::min<std::int64_t>(4096, count - first), [&](std::int64_t i) { return value(first + i); }));
  }
  return sum_in_order(std::ssize(sums), [&](std::int64_t i) { return sums[static_cast<std::size_t>(i)]; });
}

// The norm of all gradients but those of frozen tensors, added up in that order.
inline double norm_in_order(const ControlModel& model) {
  std::vector<double> sums;
  for (std::size_t i = 0; i < model.shapes.size(); ++i) {
    if (model.shapes[i].frozen) continue;
    sums.push_back(sum_in_order(model.shapes[i].count, [&](std::int64_t k) {
      const double value = model.gradients[i][static_cast<std::size_t>(k)];
      return value * value;
    }));
  }
  return std::sqrt(sum_in_order(std::ssize(sums), [&](std::int64_t i) { return sums[static_cast<std::size_t>(i)]; }));
}

// The same as PyTorch defines it, in long double.
inline long double exact_norm(const ControlModel& model) {
  long double sum = 0;
  for (std::size_t i = 0; i < model.shapes.size(); ++i) {
    if (model.shapes[i].frozen) continue;
    for (const double value : model.gradients[i]) sum += static_cast<long double>(value) * value;
  }
  return std::sqrt(sum);
}

// A report's fields; a NaN by its bits.
inline std::string text_of(const StepReport& report) {
  return "norm " + std::to_string(std::bit_cast<std::uint64_t>(report.gradient_norm)) + " (" +
         std::to_string(report.gradient_norm) + "), skipped steps " + std::to_string(report.skipped_steps) +
         ", loss scale " + std::to_string(report.loss_scale) + ", good steps " + std::to_string(report.good_steps) +
         ", skipped " + std::to_string(report.skipped);
}

}  // namespace adamant::test
