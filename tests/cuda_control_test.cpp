// What a step does to gradients, on a CUDA device: scale, clipping, skipping and loss scale give the bits that the CPU
// gives, eagerly and in graphs, and the norm those of its fixed order. tests/control_test.cpp has the oracles.
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "tests/control.hpp"
#include "tests/device.hpp"
#include "tests/methods.hpp"
#include "tests/own_stream.hpp"
#include "tests/refusal.hpp"

namespace adamant::test {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInfinity = std::numeric_limits<double>::infinity();

// Few elements, all types of gradients, and a tensor of two chunks.
const std::vector<std::int64_t> kFewCounts{70, 5, 4100, 18, 1, 0, 33, 9};

class CudaControl : public NeedsDevice {
 protected:
  static void expect_same(ControlModel& on_cpu, ControlModel& on_device, const std::string& where = {}) {
    ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
    ASSERT_EQ(text_of(on_cpu.optimizer.report()), text_of(on_device.optimizer.report())) << where;
    ASSERT_TRUE(on_cpu.everything() == on_device.everything()) << where;
  }
};

const std::vector<StepControl>& controls() {
  static const std::vector<StepControl> all{
      {.measure_norm = true},
      {.gradient_scale = 3.0, .clip_value = 0.3},
      {.gradient_scale = 0.1, .clip_norm = 20.0},
      {.non_finite = NonFinite::skip},
      {.gradient_scale = 7.0, .non_finite = NonFinite::skip, .clip_norm = 3.0, .clip_value = 0.11},
      {.clip_norm = 20.0,
       .clip_value = 1.0,
       .loss_scale = LossScale{.initial = 3000, .growth = 1.7, .backoff = 0.3, .growth_interval = 2}}};
  return all;
}

TEST_F(CudaControl, gives_the_bits_of_the_CPU_with_every_method_and_gradients_that_are_not_finite) {
  std::size_t first = 0;
  for (const Case& c : one_case_per_rule()) {
    for (std::size_t i = first++ % 3; i < controls().size(); i += 3) {  // each with each third rule
      ControlModel on_cpu(c.make(), Device::cpu(), mixed(kFewCounts, i));
      ControlModel on_device(c.make(), cuda_device(), mixed(kFewCounts, i));
      for (ControlModel* model : {&on_cpu, &on_device}) {
        model->optimizer.set_control(controls()[i]);
        for (std::uint64_t step = 0; step < 5; ++step) {
          model->set_gradients(step, step == 2 ? -10 : -4, 2);
          if (step == 0) model->spoil(7, 8, kInfinity);  // the last element of the last tensor
          if (step == 3) model->spoil(0, 0, -kNan);
          model->optimizer.step();
        }
      }
      expect_same(on_cpu, on_device, c.name + ", control " + std::to_string(i));
    }
  }
}

// A sum of squares that is not finite says nothing of float64 gradients, which are looked at once more.
TEST_F(CudaControl, takes_a_step_of_finite_gradients_of_64_bits_whose_squares_overflow) {
  const StepControl control{.non_finite = NonFinite::skip, .measure_norm = true};
  for (const int offset : {0, 1}) {  // wide accesses and others
    for (const double last : {1e200, kInfinity}) {
      std::vector<Shape> shapes;  // a whole chunk and a tail
      for (const std::int64_t count : {4096, 70}) shapes.push_back(shape(count, DataType::float64, false, offset));
      for (const std::int64_t element : {std::int64_t{4095}, std::int64_t{0}}) {
        ControlModel on_cpu(Momentum{}, Device::cpu(), shapes);
        ControlModel on_device(Momentum{}, cuda_device(), shapes);
        for (ControlModel* model : {&on_cpu, &on_device}) {
          model->optimizer.set_control(control);
          model->set_gradients(1);
          model->spoil(0, element, 1e200);
          model->spoil(1, 69, last);
          model->optimizer.step();
        }
        EXPECT_EQ(on_device.optimizer.report().skipped, std::isfinite(last) ? 0 : 1);
        expect_same(on_cpu, on_device);
      }
    }
  }
}

TEST_F(CudaControl, reports_what_the_CPU_does_after_every_step) {
  for (const StepControl& control : controls()) {
    ControlModel on_cpu(Momentum{}, Device::cpu(), mixed(kFewCounts));
    ControlModel on_device(Momentum{}, cuda_device(), mixed(kFewCounts));
    for (ControlModel* model : {&on_cpu, &on_device}) model->optimizer.set_control(control);
    for (std::uint64_t step = 0; step < 8; ++step) {
      for (ControlModel* model : {&on_cpu, &on_device}) {
        model->set_gradients(step);
        if (step == 2 || step == 6) model->spoil(step, 0, kNan);
        model->optimizer.step();
      }
      expect_same(on_cpu, on_device);
      StepReport there{};
      ASSERT_EQ(cudaMemcpy(&there, on_device.optimizer.device_report(), sizeof there, cudaMemcpyDeviceToHost),
                cudaSuccess);
      EXPECT_EQ(text_of(there), text_of(on_cpu.optimizer.report()));
      float scale = 0;
      ASSERT_EQ(cudaMemcpy(&scale, on_device.optimizer.loss_scale(), sizeof scale, cudaMemcpyDeviceToHost),
                cudaSuccess);
      EXPECT_EQ(scale, *on_cpu.optimizer.loss_scale());
    }
  }
}

// Scale and flag in device memory, written by kernels of somebody else's between steps.
TEST_F(CudaControl, reads_scale_and_flag_from_device_memory_in_every_step) {
  ControlModel on_cpu(Adam{}, Device::cpu(), mixed(kFewCounts));
  ControlModel on_device(Adam{}, cuda_device(), mixed(kFewCounts));
  host::DeviceArray<float> here(on_cpu.memory, 2);
  host::DeviceArray<float> there(on_device.memory, 2);
  on_cpu.optimizer.set_control({.gradient_scale_pointer = here.data(),
                                .found_non_finite = here.data() + 1,
                                .non_finite = NonFinite::skip,
                                .clip_norm = 5.0});
  on_device.optimizer.set_control({.gradient_scale_pointer = there.data(),
                                   .found_non_finite = there.data() + 1,
                                   .non_finite = NonFinite::skip,
                                   .clip_norm = 5.0});
  constexpr float kFloatNan = std::numeric_limits<float>::quiet_NaN();
  constexpr float kDenormal = std::numeric_limits<float>::denorm_min();
  const std::vector<std::vector<float>> written{{1, 0},         {3, 0},         {3, 1},     {0.7F, -2},
                                                {5, kFloatNan}, {5, kDenormal}, {5, -0.0F}, {0, 0},
                                                {-1, 0},        {kFloatNan, 0}, {1e-3F, 0}};
  for (const std::vector<float>& values : written) {
    here.write(values);
    there.write(values);
    for (ControlModel* model : {&on_cpu, &on_device}) model->optimizer.step();
    expect_same(on_cpu, on_device, std::to_string(values[0]) + ", " + std::to_string(values[1]));
  }
  EXPECT_EQ(on_cpu.optimizer.report().skipped_steps, 7);
}

using Trap20NormBits = CudaControl;  // run with threads in other orders too: PTXCPU_ORDER=rand:SEED of the emulator

TEST_F(Trap20NormBits, on_a_device_are_those_of_the_promised_order_for_every_type_size_and_alignment) {
  const std::vector<std::int64_t> counts{0, 1, 7, 1023, 1024, 1025, 4095, 4096, 4097, 5121, 8192, 8193, 12289, 3, 64};
  for (std::size_t first_type = 0; first_type < std::size(kGradientTypes); ++first_type) {
    for (const int offset : {0, 1, 3}) {
      ControlModel model(GradientDescent{}, cuda_device(), mixed(counts, first_type, offset));
      model.optimizer.set_control({.measure_norm = true});
      for (std::uint64_t step = 0; step < 2; ++step) {  // the second finds what the first has left
        model.set_gradients(step, -14, 3);
        model.optimizer.step();
        EXPECT_EQ(model.optimizer.report().gradient_norm, norm_in_order(model)) << first_type << ", " << offset;
      }
    }
  }
  for (const DataType type : kGradientTypes) {
    for (const std::int64_t count : {1025, 4096, 12289}) {
      ControlModel model(GradientDescent{}, cuda_device(), {shape(count, type)});
      model.optimizer.set_control({.measure_norm = true});
      for (std::uint64_t step = 0; step < 5; ++step) {
        model.set_gradients(step, -14, 3);
        model.optimizer.step();
        EXPECT_EQ(model.optimizer.report().gradient_norm, norm_in_order(model)) << name(type) << ", " << count;
      }
    }
  }
}

TEST_F(Trap20NormBits, on_a_device_of_more_tensors_than_a_node_adds_up_are_those_of_the_promised_order) {
  std::vector<std::int64_t> counts;
  for (int i = 0; i < 4097; ++i) counts.push_back(i % 5);  // types go round by four
  ControlModel model(GradientDescent{}, cuda_device(), mixed(counts, 1));
  model.optimizer.set_control({.measure_norm = true});
  for (std::uint64_t step = 0; step < 2; ++step) {
    model.set_gradients(step, -14, 3);
    model.optimizer.step();
    EXPECT_EQ(model.optimizer.report().gradient_norm, norm_in_order(model));
  }
}

using Trap10ControlledGraph = CudaControl;  // values are read from device memory by each replay, none is baked in

TEST_F(Trap10ControlledGraph, of_the_whole_sequence_replays_as_the_eager_run_and_the_CPU_do) {
  // Two norm kernels, one after the other; an emulator takes its time for each launch.
  const std::vector<Shape> kFewest{shape(37, DataType::float32), shape(70, DataType::bfloat16),
                                   shape(5, DataType::float32), shape(18, DataType::bfloat16)};
  constexpr int kEagerSteps = 300;
  const StepControl control{
      .clip_norm = 40.0, .clip_value = 1.5, .loss_scale = LossScale{.initial = 4096, .growth_interval = 150}};
  ControlModel on_cpu(Adam{}, Device::cpu(), kFewest);
  ControlModel eager(Adam{}, cuda_device(), kFewest);
  ControlModel replayed(Adam{}, cuda_device(), kFewest);
  const OwnStream stream;
  const std::vector<ControlModel*> all{&on_cpu, &eager, &replayed};
  for (ControlModel* model : all) model->optimizer.set_control(control, stream);
  replayed.optimizer.prepare(stream);
  stream.begin_capture();
  replayed.optimizer.step(stream);
  const Graph graph = stream.end_capture();
  for (int i = 0; i < 1000; ++i) {
    if (i % 100 == 0 || i == 250 || i == 251 || i == 777 || i == 778) {
      stream.wait();  // for steps that read the gradients that are written now
      for (ControlModel* model : all) {
        model->set_gradients(static_cast<std::uint64_t>(i), -2, 12);
        if (i == 250) model->spoil(3, 17, kNan);
        if (i == 777) model->spoil(1, 69, kInfinity);
      }
    }
    const double rate = 0.1 / (1 + i);
    for (ControlModel* model : all) model->optimizer.set_learning_rate(GroupId{}, rate, stream);
    on_cpu.optimizer.step();
    if (i < kEagerSteps) eager.optimizer.step(stream);
    stream.launch(graph);
    if (i % 250 != 0 && i != 777 && i != kEagerSteps - 1) continue;
    stream.wait();
    if (i < kEagerSteps) expect_same(on_cpu, eager, "eager, step " + std::to_string(i));
    expect_same(on_cpu, replayed, "replay " + std::to_string(i));
  }
  stream.wait();
  expect_same(on_cpu, replayed);
  EXPECT_EQ(on_cpu.optimizer.report().skipped_steps, 2);
  EXPECT_EQ(on_cpu.optimizer.step_count(TensorId{0}), 998);
  EXPECT_EQ(*on_cpu.optimizer.loss_scale(), 4096.0F * 8) << "grown 1, 3 and 1 times, backed off twice";
}

TEST_F(Trap10ControlledGraph, has_new_values_as_a_node_and_heeds_those_that_are_set_between_replays) {
  ControlModel on_cpu(Momentum{}, Device::cpu(), mixed(kFewCounts));
  ControlModel on_device(Momentum{}, cuda_device(), mixed(kFewCounts));
  const OwnStream stream;
  const StepControl first{.gradient_scale = 3, .clip_norm = 10.0};
  const StepControl second{.gradient_scale = 0.3, .clip_norm = 50.0, .clip_value = 2.0};
  on_device.optimizer.set_control(first, stream);
  on_device.optimizer.prepare(stream);
  stream.begin_capture();
  on_device.optimizer.step(stream);
  on_device.optimizer.set_control(second, stream);
  on_device.optimizer.step(stream);
  const Graph graph = stream.end_capture();
  for (const double clip_norm : {10.0, 1.0, 1e9}) {
    StepControl changed = first;
    changed.clip_norm = clip_norm;
    on_device.optimizer.set_control(changed, stream);
    stream.launch(graph);
    on_cpu.optimizer.set_control(changed);
    on_cpu.optimizer.step();
    on_cpu.optimizer.set_control(second);
    on_cpu.optimizer.step();
  }
  stream.wait();
  expect_same(on_cpu, on_device);
}

TEST_F(Trap10ControlledGraph, cannot_have_the_norm_turned_on_in_it_and_is_none_the_worse) {
  ControlModel on_cpu(Adam{}, Device::cpu(), mixed(kFewCounts));
  ControlModel on_device(Adam{}, cuda_device(), mixed(kFewCounts));
  const OwnStream stream;
  on_device.optimizer.prepare(stream);
  stream.begin_capture();
  for (const StepControl& control : std::vector<StepControl>{
           {.clip_norm = 1.0}, {.measure_norm = true}, {.non_finite = NonFinite::skip}, {.loss_scale = LossScale{}}}) {
    expect_refusal([&] { on_device.optimizer.set_control(control, stream); }, {"set_control", "norm", "captured"});
    EXPECT_FALSE(on_device.optimizer.control().clip_norm || on_device.optimizer.control().measure_norm);
  }
  on_device.optimizer.set_control({.gradient_scale = 2, .clip_value = 0.25}, stream);  // needs no norm
  on_device.optimizer.step(stream);
  const Graph graph = stream.end_capture();
  for (int i = 0; i < 3; ++i) stream.launch(graph);
  stream.wait();
  on_cpu.optimizer.set_control({.gradient_scale = 2, .clip_value = 0.25});
  for (int i = 0; i < 3; ++i) on_cpu.optimizer.step();
  expect_same(on_cpu, on_device);
}

TEST_F(CudaControl, refuses_pointers_that_the_device_cannot_read_and_changes_nothing) {
  ControlModel on_cpu(Adam{}, Device::cpu(), mixed(kFewCounts));
  ControlModel on_device(Adam{}, cuda_device(), mixed(kFewCounts));
  for (ControlModel* model : {&on_cpu, &on_device}) model->optimizer.set_control({.clip_norm = 3.0});
  const float host_memory = 1;
  const host::DeviceArray<float> there(on_device.memory, 2);
  const auto* const odd = reinterpret_cast<const float*>(reinterpret_cast<const std::byte*>(there.data()) + 2);
  const auto refused = [&](const StepControl& control, const char* field, const char* why) {
    expect_refusal([&] { on_device.optimizer.set_control(control); }, {field, why});
  };
  refused({.gradient_scale_pointer = &host_memory}, "gradient_scale_pointer", "ordinary host memory");
  refused({.found_non_finite = &host_memory, .non_finite = NonFinite::skip}, "found_non_finite",
          "ordinary host memory");
  refused({.gradient_scale_pointer = odd}, "gradient_scale_pointer", "not aligned");
  refused({.found_non_finite = odd}, "found_non_finite", "not aligned");
  EXPECT_EQ(on_device.optimizer.control().clip_norm, 3.0);
  for (ControlModel* model : {&on_cpu, &on_device}) model->optimizer.step();
  expect_same(on_cpu, on_device);
}

}  // namespace
}  // namespace adamant::test
