// Promise P5 on a CUDA device: a step takes part in streams and graphs as it is. Replays go on from the step counts and
// options that they find; what cannot be part of a graph is refused and leaves the capture as it was.
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <initializer_list>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "adamant/adamant.hpp"
#include "host/device_memory.hpp"
#include "host/safetensors.hpp"
#include "kernels/backend.hpp"
#include "kernels/tuning.hpp"
#include "tests/control.hpp"
#include "tests/device.hpp"
#include "tests/folder.hpp"
#include "tests/inputs.hpp"
#include "tests/methods.hpp"
#include "tests/own_stream.hpp"
#include "tests/refusal.hpp"

namespace adamant::test {
namespace {

constexpr std::int64_t kCounts[] = {5000, 64, 0, 7};

// The same tensors on one device: parameters, and two gradients for each.
struct Model {
  Model(const Method& method, Device device) : memory(device), optimizer(method, device) {
    for (std::size_t i = 0; i < std::size(kCounts); ++i) add(kCounts[i]);
  }
  TensorId add(std::int64_t count) {
    const auto i = parameters.size();
    parameters.emplace_back(memory, std::span<const float>(spread_values<float>(count, i + 1, -4, 1)));
    gradients.emplace_back(memory, std::span<const float>(spread_values<float>(count, i + 100, -8, 2)));
    others.emplace_back(memory, std::span<const float>(spread_values<float>(count, i + 200, -8, 2)));
    return optimizer.add({.name = std::to_string(i),
                          .parameter = {parameters.back().data(), count},
                          .gradient = {gradients.back().data(), count}});
  }
  ConstArray other(std::size_t i) const { return {others[i].data(), others[i].count()}; }
  ConstArray first(std::size_t i) const { return {gradients[i].data(), gradients[i].count()}; }

  host::DeviceMemory memory;
  std::vector<host::DeviceArray<float>> parameters;
  std::vector<host::DeviceArray<float>> gradients;
  std::vector<host::DeviceArray<float>> others;
  Optimizer optimizer;
};

// A model on the device and its twin on the CPU.
class CudaStreams : public NeedsDevice {
 protected:
  void expect_same(Model& on_cpu, Model& on_device) {
    ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
    const std::vector<TensorId> ids = on_cpu.optimizer.tensors();
    for (std::size_t i = 0; i < ids.size(); ++i) {
      ASSERT_EQ(on_cpu.optimizer.step_count(ids[i]), on_device.optimizer.step_count(ids[i])) << "tensor " << i;
      ASSERT_TRUE(same_bits(on_cpu.parameters[i].read(), on_device.parameters[i].read())) << "tensor " << i;
      ASSERT_TRUE(same_bits(on_cpu.gradients[i].read(), on_device.gradients[i].read())) << "gradient " << i;
      for (const std::string& name : state_names(on_cpu.optimizer.options())) {
        const Array expected = on_cpu.optimizer.state(ids[i], name);
        std::vector<float> got(static_cast<std::size_t>(expected.count()));
        on_device.memory.read(std::as_writable_bytes(std::span(got)), on_device.optimizer.state(ids[i], name).data());
        ASSERT_TRUE(same_bits(std::span<const float>(expected.as<float>(), got.size()), std::span<const float>(got)))
            << "tensor " << i << ", " << name;
      }
    }
    EXPECT_EQ(cudaPeekAtLastError(), cudaSuccess);
  }
};

class Trap10GraphOfEveryRule : public CudaStreams, public testing::WithParamInterface<Case> {};

TEST_P(Trap10GraphOfEveryRule, replays_on_from_the_step_counts_and_options_that_it_finds) {
  const Method method = GetParam().make();
  Model on_cpu(method, Device::cpu());
  Model on_device(method, cuda_device());
  const OwnStream stream;
  on_device.optimizer.prepare(stream);
  stream.begin_capture();
  on_device.optimizer.step(stream);
  const Graph graph = stream.end_capture();
  for (const TensorId id : on_device.optimizer.tensors()) {
    EXPECT_EQ(on_device.optimizer.step_count(id, stream), 0) << "capturing is not stepping";
  }
  for (int i = 0; i < 20; ++i) {
    const double rate = 0.1 / (i + 1);
    for (Model* model : {&on_cpu, &on_device}) model->optimizer.set_learning_rate(GroupId{}, rate, stream);
    stream.launch(graph);
    on_cpu.optimizer.step();
    if (i % 5 != 4) continue;  // eager steps between the replays
    for (Model* model : {&on_cpu, &on_device}) model->optimizer.step(stream);
  }
  for (Model* model : {&on_cpu, &on_device}) model->optimizer.set_step_count(TensorId{1}, 5, stream);
  stream.launch(graph);
  on_cpu.optimizer.step();
  stream.wait();
  expect_same(on_cpu, on_device);
}

INSTANTIATE_TEST_SUITE_P(Rules, Trap10GraphOfEveryRule, testing::ValuesIn(one_case_per_rule()),
                         [](const auto& info) { return info.param.name; });

TEST_F(CudaStreams, have_a_setter_that_is_captured_as_a_node_of_the_graph) {
  Model on_cpu(Adam{}, Device::cpu());
  Model on_device(Adam{}, cuda_device());
  const OwnStream stream;
  on_device.optimizer.prepare(stream);
  stream.begin_capture();
  on_device.optimizer.set_learning_rate(GroupId{}, 0.5, stream);
  on_device.optimizer.step(stream);
  on_device.optimizer.set_learning_rate(GroupId{}, 0.25, stream);
  on_device.optimizer.set_step_count(TensorId{0}, 7, stream);
  on_device.optimizer.step(stream);
  const Graph graph = stream.end_capture();
  for (int i = 0; i < 3; ++i) {
    on_device.optimizer.set_learning_rate(GroupId{}, 1e-9, stream);  // the graph sets its own
    stream.launch(graph);
    on_cpu.optimizer.set_learning_rate(GroupId{}, 0.5);
    on_cpu.optimizer.step();
    on_cpu.optimizer.set_learning_rate(GroupId{}, 0.25);
    on_cpu.optimizer.set_step_count(TensorId{0}, 7);
    on_cpu.optimizer.step();
  }
  stream.wait();
  expect_same(on_cpu, on_device);
}

TEST_F(CudaStreams, replay_with_the_gradients_that_prepare_brought_to_the_device) {
  Model on_cpu(Momentum{}, Device::cpu());
  Model on_device(Momentum{}, cuda_device());
  const OwnStream stream;
  on_device.optimizer.prepare(stream);
  stream.begin_capture();
  on_device.optimizer.step(stream);
  const Graph graph = stream.end_capture();
  // More often than there is staging memory for.
  for (int i = 0; i < 3 * kernels::kStagedRefreshes; ++i) {
    // What changes nothing: another plan would take the gradients in place of the graph's.
    on_device.optimizer.thaw(TensorId{0}, stream);
    on_device.optimizer.set_group(TensorId{0}, GroupId{}, stream);
    for (Model* model : {&on_cpu, &on_device}) {
      for (std::size_t tensor = 0; tensor < std::size(kCounts); ++tensor) {
        if (i % 2 == 0 || tensor % 2 == 1) {
          model->optimizer.set_gradient(TensorId{static_cast<std::int64_t>(tensor)},
                                        i % 2 == 0 ? model->other(tensor) : model->first(tensor), stream);
        }
      }
    }
    on_device.optimizer.prepare(stream);
    stream.launch(graph);
    on_cpu.optimizer.step();
  }
  stream.wait();
  expect_same(on_cpu, on_device);
}

TEST_F(CudaStreams, take_new_gradients_with_a_step_as_often_as_they_change) {
  Model on_cpu(Adam{}, Device::cpu());
  Model on_device(Adam{}, cuda_device());
  const OwnStream stream;
  for (int i = 0; i < 5 * kernels::kStagedRefreshes; ++i) {
    for (Model* model : {&on_cpu, &on_device}) {
      const std::size_t tensor = static_cast<std::size_t>(i) % std::size(kCounts);
      model->optimizer.set_gradient(TensorId{static_cast<std::int64_t>(tensor)},
                                    i % 3 == 0 ? model->other(tensor) : model->first(tensor), stream);
      model->optimizer.step(stream);
    }
  }
  stream.wait();
  expect_same(on_cpu, on_device);
}

TEST_F(CudaStreams, zero_gradients_behind_the_step_that_uses_them_and_ahead_of_the_next) {
  Model on_cpu(Adam{}, Device::cpu());
  Model on_device(Adam{}, cuda_device());
  const OwnStream stream;
  for (Model* model : {&on_cpu, &on_device}) {
    model->optimizer.step(stream);
    model->optimizer.zero_gradients(stream);
    model->optimizer.step(stream);
  }
  stream.wait();
  expect_same(on_cpu, on_device);
}

TEST_F(CudaStreams, zero_the_states_that_a_loaded_file_lacks) {
  Model on_cpu(Adam{}, Device::cpu());
  Model on_device(Adam{}, cuda_device());
  const Folder folder;
  std::vector<safetensors::Entry> only_parameters;
  for (std::size_t i = 0; i < std::size(kCounts); ++i) {
    only_parameters.push_back(
        {.name = std::to_string(i),
         .type = safetensors::Type::F32,
         .shape = {kCounts[i]},
         .data = std::as_bytes(std::span(on_cpu.others[i].data(), on_cpu.others[i].data() + kCounts[i]))});
  }
  safetensors::write(folder / "file", only_parameters, {{"format", "pt"}});
  const OwnStream stream;
  for (Model* model : {&on_cpu, &on_device}) {
    model->optimizer.step(stream);
    model->optimizer.load(folder / "file", {}, stream);
    model->optimizer.step(stream);
  }
  stream.wait();
  expect_same(on_cpu, on_device);
}

// A master is made of the value that the parameter has in the order of the stream.
TEST_F(CudaStreams, make_masters_behind_what_they_have_written_to_the_parameter) {
  constexpr std::int64_t kCount = 100;
  std::vector<bfloat16> values(kCount);
  for (std::size_t i = 0; i < values.size(); ++i) values[i].bits = static_cast<std::uint16_t>(0x3F00 + i);
  const OwnStream stream;
  std::vector<std::vector<bfloat16>> results;
  for (const Device device : {Device::cpu(), cuda_device()}) {
    host::DeviceMemory memory(device);
    host::DeviceArray<bfloat16> parameter(memory, kCount);
    const host::DeviceArray<bfloat16> gradient(memory, std::span<const bfloat16>(values));
    Optimizer optimizer(Momentum{}, device);
    optimizer.add({.name = "x", .parameter = {parameter.data(), kCount}, .gradient = {gradient.data(), kCount}});
    if (device == Device::cpu()) {
      parameter.write(values);
    } else {
      ASSERT_EQ(cudaMemcpyAsync(parameter.data(), values.data(), kCount * sizeof(bfloat16), cudaMemcpyDefault, stream),
                cudaSuccess);
    }
    optimizer.prepare(stream);
    optimizer.step(stream);
    stream.wait();
    results.push_back(parameter.read());
  }
  EXPECT_TRUE(same_bits(results[0], results[1]));
}

// What reads or is read, in the order of a stream that the legacy one does not wait for.
TEST_F(CudaStreams, are_waited_for_by_what_is_read_saved_and_loaded) {
  Model on_cpu(Adam{}, Device::cpu());
  Model on_device(Adam{}, cuda_device());
  const OwnStream stream;
  const Folder folder;
  const auto step = [&] {
    for (Model* model : {&on_cpu, &on_device}) model->optimizer.step(stream);
  };
  for (Model* model : {&on_cpu, &on_device}) model->optimizer.set_control({.measure_norm = true}, stream);
  step();
  EXPECT_EQ(text_of(on_device.optimizer.report(stream)), text_of(on_cpu.optimizer.report()));
  step();
  EXPECT_EQ(on_device.optimizer.step_count(TensorId{0}, stream), 2);
  step();
  on_device.optimizer.save(folder / "device", {}, stream);
  on_cpu.optimizer.save(folder / "cpu");
  EXPECT_TRUE(contents(folder / "device") == contents(folder / "cpu"));
  step();
  on_device.optimizer.load(folder / "cpu", {}, stream);
  on_cpu.optimizer.load(folder / "cpu");
  step();
  stream.wait();
  expect_same(on_cpu, on_device);
}

// Saving and loading look at the report first, and wait for that; here nothing else waits.
void expect_copies_in_the_order_of(Stream stream) {
  const std::unique_ptr<kernels::Backend> backend = kernels::make_cuda_backend(0, 0);
  const std::vector<std::byte> zeros(1000, std::byte{0});
  const std::vector<std::byte> ones(1000, std::byte{1});
  const std::shared_ptr<std::byte> memory = backend->allocate(1000);
  const auto there = [&] {
    std::vector<std::byte> staging;
    const std::span<const std::byte> bytes = backend->read(memory.get(), 1000, staging, stream);
    return std::vector<std::byte>(bytes.begin(), bytes.end());
  };
  backend->write(memory.get(), ones, stream);
  backend->zero(memory.get(), 1000, stream);
  EXPECT_EQ(there(), zeros);
  backend->zero(memory.get(), 1000, stream);
  backend->write(memory.get(), ones, stream);
  EXPECT_EQ(there(), ones);
}

TEST_F(CudaStreams, are_waited_for_by_what_is_copied_from_and_to_the_device) {
  const OwnStream stream;
  expect_copies_in_the_order_of(stream);
}

// Two optimizers, of which one steps what is the other's gradient, so that every kernel reads what those before it have
// written.
struct Chain {
  Chain(Device device, std::int64_t count)
      : memory(device),
        drive(memory, std::span<const float>(spread_values<float>(count, 1, -8, 2))),
        link(memory, std::span<const float>(spread_values<float>(count, 2, -8, 2))),
        fresh(memory, std::span<const float>(spread_values<float>(count, 3, -8, 2))),
        parameter(memory, std::span<const float>(spread_values<float>(count, 4, -4, 1))),
        first(Momentum{.learning_rate = 0.5}, device),
        second(Adam{.learning_rate = 0.1}, device) {
    first.add({.name = "link", .parameter = {link.data(), count}, .gradient = {drive.data(), count}});
    second.add({.name = "parameter", .parameter = {parameter.data(), count}, .gradient = {link.data(), count}});
  }
  void prepare(Stream stream) {
    second.set_control({.clip_norm = 1e3}, stream);
    first.prepare(stream);
    second.prepare(stream);
  }
  void step(Stream stream) {
    for (int i = 0; i < 2; ++i) {
      first.step(stream);
      second.step(stream);
    }
  }

  host::DeviceMemory memory;
  host::DeviceArray<float> drive;
  host::DeviceArray<float> link;
  host::DeviceArray<float> fresh;
  host::DeviceArray<float> parameter;
  Optimizer first;
  Optimizer second;
};

// Whatever comes before: kernels that let the next one begin, copies, and what another stream has done.
TEST_F(CudaStreams, read_nothing_before_what_comes_before_has_written_it) {
  const std::int64_t count = is_emulated() ? 5000 : 3'000'001;
  constexpr int kRounds = 5;
  const OwnStream stream;
  const OwnStream other;
  cudaEvent_t there = nullptr;
  cudaEvent_t back = nullptr;
  ASSERT_EQ(cudaEventCreateWithFlags(&there, cudaEventDisableTiming), cudaSuccess);
  ASSERT_EQ(cudaEventCreateWithFlags(&back, cudaEventDisableTiming), cudaSuccess);
  for (const bool captured : {false, true}) {
    SCOPED_TRACE(captured ? "captured" : "eager");
    Chain on_cpu(Device::cpu(), count);
    Chain on_device(cuda_device(), count);
    on_cpu.prepare({});
    on_device.prepare(stream);
    const auto size = static_cast<std::size_t>(count) * sizeof(float);
    const auto bring_fresh = [&](Stream to) {
      EXPECT_EQ(cudaMemcpyAsync(on_device.link.data(), on_device.fresh.data(), size, cudaMemcpyDeviceToDevice, to),
                cudaSuccess);
    };
    const auto round = [&] {
      on_device.step(stream);
      bring_fresh(stream);  // straight before a norm, and then straight before scalars
      on_device.second.step(stream);
      on_device.step(stream);
      EXPECT_EQ(cudaEventRecord(there, stream), cudaSuccess);
      EXPECT_EQ(cudaStreamWaitEvent(other, there, 0), cudaSuccess);
      bring_fresh(other);
      EXPECT_EQ(cudaEventRecord(back, other), cudaSuccess);
      EXPECT_EQ(cudaStreamWaitEvent(stream, back, 0), cudaSuccess);
      on_device.step(stream);
      EXPECT_EQ(cudaEventRecord(there, stream), cudaSuccess);
      EXPECT_EQ(cudaStreamWaitEvent(other, there, 0), cudaSuccess);
      on_device.first.step(other);  // kernels on both sides of the join
      EXPECT_EQ(cudaEventRecord(back, other), cudaSuccess);
      EXPECT_EQ(cudaStreamWaitEvent(stream, back, 0), cudaSuccess);
      on_device.second.step(stream);
    };
    if (captured) {
      stream.begin_capture();
      round();
      const Graph graph = stream.end_capture();
      for (int i = 0; i < kRounds; ++i) stream.launch(graph);
      stream.wait();
    } else {
      for (int i = 0; i < kRounds; ++i) round();
      stream.wait();
    }
    for (int i = 0; i < kRounds; ++i) {
      on_cpu.step({});
      on_cpu.link.write(on_cpu.fresh.read());
      on_cpu.second.step({});
      on_cpu.step({});
      on_cpu.link.write(on_cpu.fresh.read());
      on_cpu.step({});
      on_cpu.first.step({});
      on_cpu.second.step({});
    }
    EXPECT_TRUE(same_bits(on_cpu.link.read(), on_device.link.read()));
    EXPECT_TRUE(same_bits(on_cpu.parameter.read(), on_device.parameter.read()));
    EXPECT_EQ(on_cpu.second.step_count(TensorId{}), on_device.second.step_count(TensorId{}));
  }
  EXPECT_EQ(cudaEventDestroy(there), cudaSuccess);
  EXPECT_EQ(cudaEventDestroy(back), cudaSuccess);
}

// The legacy default stream and one that is ordered with it take turns, without an event.
TEST_F(CudaStreams, take_turns_with_the_legacy_default_stream) {
  const std::int64_t count = is_emulated() ? 5000 : 3'000'001;
  cudaStream_t blocking = nullptr;
  ASSERT_EQ(cudaStreamCreate(&blocking), cudaSuccess);
  Chain on_cpu(Device::cpu(), count);
  Chain on_device(cuda_device(), count);
  for (Chain* chain : {&on_cpu, &on_device}) {
    chain->prepare(blocking);
    for (int i = 0; i < 5; ++i) {
      chain->first.step(nullptr);
      chain->second.step(blocking);
      chain->step(nullptr);
      chain->step(blocking);
    }
  }
  ASSERT_EQ(cudaStreamSynchronize(blocking), cudaSuccess);
  EXPECT_TRUE(same_bits(on_cpu.link.read(), on_device.link.read()));
  EXPECT_TRUE(same_bits(on_cpu.parameter.read(), on_device.parameter.read()));
  EXPECT_EQ(cudaStreamDestroy(blocking), cudaSuccess);
}

// Tensors side by side, none of which begins at a multiple of 16 bytes: what one block writes lies in the same 32 bytes
// as what another reads in the next step.
TEST_F(CudaStreams, keep_apart_what_lies_in_the_same_bytes_of_a_cache) {
  const int tensors = is_emulated() ? 40 : 10000;
  const int steps = is_emulated() ? 3 : 200;
  constexpr std::int64_t kCount = 33;
  const std::vector<float> values = spread_values<float>(tensors * kCount + 1, 1, -4, 1);
  const std::vector<float> slopes = spread_values<float>(tensors * kCount + 1, 2, -8, 2);
  struct Side {
    Side(Device device, std::span<const float> values, std::span<const float> slopes, int tensors)
        : memory(device), parameter(memory, values), gradient(memory, slopes), optimizer(Adam{}, device) {
      std::int64_t at = 1;
      for (int i = 0; i < tensors; ++i, at += kCount) {
        optimizer.add({.name = std::to_string(i),
                       .parameter = {parameter.data() + at, kCount},
                       .gradient = {static_cast<const float*>(gradient.data()) + at, kCount}});
      }
    }
    host::DeviceMemory memory;
    host::DeviceArray<float> parameter;
    host::DeviceArray<float> gradient;
    Optimizer optimizer;
  };
  Side on_cpu(Device::cpu(), values, slopes, tensors);
  for (int i = 0; i < steps; ++i) on_cpu.optimizer.step();
  const OwnStream stream;
  for (const bool captured : {false, true}) {
    Side on_device(cuda_device(), values, slopes, tensors);
    on_device.optimizer.prepare(stream);
    if (captured) stream.begin_capture();
    for (int i = 0; i < steps; ++i) on_device.optimizer.step(stream);
    if (captured) {
      const Graph graph = stream.end_capture();
      stream.launch(graph);
      stream.wait();
    }
    stream.wait();
    EXPECT_TRUE(same_bits(on_cpu.parameter.read(), on_device.parameter.read())) << (captured ? "captured" : "eager");
  }
}

// A graph goes on stepping what it was captured with, whatever is added later; options stay where it looks for them.
TEST_F(CudaStreams, replay_a_graph_after_tensors_and_groups_were_added) {
  Model on_cpu(Adam{}, Device::cpu());
  Model on_device(Adam{}, cuda_device());
  const OwnStream stream;
  on_device.optimizer.prepare(stream);
  stream.begin_capture();
  on_device.optimizer.step(stream);
  const Graph graph = stream.end_capture();
  const auto more = static_cast<int>(kernels::kOptionsPerChunk) + 3;
  for (int i = 0; i < more; ++i) on_device.optimizer.add_group(Adam{});
  for (int i = 0; i < 5; ++i) on_device.add(100);
  on_device.optimizer.freeze(TensorId{3});
  on_device.optimizer.step(stream);
  on_device.optimizer.thaw(TensorId{3});
  for (Model* model : {&on_cpu, &on_device}) model->optimizer.set_learning_rate(GroupId{}, 0.3, stream);
  stream.launch(graph);
  stream.launch(graph);
  stream.wait();
  on_cpu.optimizer.set_learning_rate(GroupId{}, 1e-3);
  on_cpu.optimizer.freeze(TensorId{3});
  on_cpu.optimizer.step();
  on_cpu.optimizer.thaw(TensorId{3});
  on_cpu.optimizer.set_learning_rate(GroupId{}, 0.3);
  on_cpu.optimizer.step();
  on_cpu.optimizer.step();
  expect_same(on_cpu, on_device);
  EXPECT_EQ(on_device.optimizer.step_count(TensorId{5}), 1) << "added after the capture, stepped once since";
}

// More tensors and groups than a chunk of step counts or options holds, and more gradients that change than the first
// plan had room for.
TEST_F(CudaStreams, step_more_tensors_and_groups_than_there_was_room_for_at_first) {
  constexpr std::int64_t kGroups = kernels::kOptionsPerChunk + 2;
  constexpr std::int64_t kTensors = kernels::kStepCountsPerChunk / kGroups * kGroups + kGroups;
  static_assert(kTensors > kernels::kStepCountsPerChunk);
  const Folder folder;
  const auto run = [&](Device device, const std::string& file) {
    host::DeviceMemory memory(device);
    const host::DeviceArray<float> parameter(memory, spread_values<float>(kTensors, 1, -4, 1));
    const host::DeviceArray<float> gradient(memory, spread_values<float>(kTensors, 2, -8, 2));
    const host::DeviceArray<float> other(memory, spread_values<float>(kTensors, 3, -8, 2));
    Optimizer optimizer(Adam{}, device);
    for (int i = 1; i < kGroups; ++i) optimizer.add_group(Adam{.learning_rate = 1e-3 * (i + 1)});
    const auto add = [&](std::int64_t i) {
      optimizer.add({.name = std::to_string(i),
                     .parameter = {parameter.data() + i, 1},
                     .gradient = {gradient.data() + i, 1},
                     .group = GroupId{static_cast<std::int32_t>(i % kGroups)}});
    };
    add(0);
    optimizer.step();
    for (std::int64_t i = 1; i < kTensors - 1; ++i) add(i);
    optimizer.step();
    add(kTensors - 1);
    optimizer.step();
    for (const std::int64_t i : {std::int64_t{0}, kTensors - 2, kTensors - 1}) {
      optimizer.set_gradient(TensorId{i}, {other.data() + i, 1});
    }
    optimizer.set_learning_rate(GroupId{kGroups - 1}, 0.25);
    optimizer.step();
    EXPECT_EQ(optimizer.step_count(TensorId{kTensors - 1}), 2);
    optimizer.save(folder / file);
  };
  run(Device::cpu(), "cpu");
  run(cuda_device(), "device");
  EXPECT_TRUE(contents(folder / "cpu") == contents(folder / "device"));
}

TEST_F(CudaStreams, that_are_captured_refuse_what_cannot_be_part_of_a_graph_and_go_on) {
  Model on_cpu(Adam{}, Device::cpu());
  Model on_device(Adam{}, cuda_device());
  Optimizer& optimizer = on_device.optimizer;
  const OwnStream stream;
  const TensorId first{0};
  const std::string file = testing::TempDir() + "adamant-cuda-stream-test.safetensors";
  optimizer.save(file, {}, stream);
  const auto refused = [&](const char* what, const auto& call) {
    expect_refusal(call, {what, "captured"});
    EXPECT_TRUE(stream.is_capturing()) << what;
  };
  stream.begin_capture();
  refused("set_gradient", [&] { optimizer.set_gradient(first, on_device.other(0), stream); });
  refused("freeze", [&] { optimizer.freeze(first, stream); });
  refused("thaw", [&] { optimizer.thaw(first, stream); });
  refused("set_group", [&] { optimizer.set_group(first, GroupId{}, stream); });
  refused("step count", [&] { (void)optimizer.step_count(first, stream); });
  refused("report", [&] { (void)optimizer.report(stream); });
  refused("save", [&] { optimizer.save(file, {}, stream); });
  refused("load", [&] { optimizer.load(file, {}, stream); });
  optimizer.step(stream);
  const Graph graph = stream.end_capture();
  EXPECT_FALSE(optimizer.frozen(first));

  // With something still to be brought to the device, through a stream that is not captured.
  optimizer.set_gradient(first, on_device.other(0));
  stream.begin_capture();
  refused("set_gradient", [&] { optimizer.step(stream); });
  refused("prepare", [&] { optimizer.prepare(stream); });
  stream.end_capture();
  optimizer.set_gradient(first, on_device.first(0));
  const TensorId added = on_device.add(10);
  stream.begin_capture();
  refused("step", [&] { optimizer.step(stream); });
  refused("prepare", [&] { optimizer.prepare(stream); });
  stream.end_capture();
  optimizer.remove(added);
  optimizer.prepare(stream);
  stream.launch(graph);
  on_cpu.optimizer.step();
  stream.wait();
  expect_same(on_cpu, on_device);
}

TEST_F(CudaStreams, that_are_captured_turn_no_norm_on_or_off) {
  Model model(Adam{}, cuda_device());
  const OwnStream stream;
  model.optimizer.prepare(stream);
  for (const bool on : {true, false}) {
    StepControl plain;
    StepControl with_norm;
    with_norm.non_finite = NonFinite::skip;
    model.optimizer.set_control(on ? plain : with_norm, stream);
    model.optimizer.prepare(stream);
    stream.begin_capture();
    EXPECT_THROW(model.optimizer.set_control(on ? with_norm : plain, stream), std::invalid_argument) << on;
    model.optimizer.set_control(on ? plain : with_norm, stream);
    EXPECT_TRUE(stream.is_capturing());
    stream.end_capture();
    EXPECT_EQ(model.optimizer.control().non_finite, on ? NonFinite::propagate : NonFinite::skip);
  }
}

// Every replay would begin the report anew.
TEST_F(CudaStreams, that_are_captured_begin_and_end_no_loss_scale) {
  Model model(Adam{}, cuda_device());
  const OwnStream stream;
  const StepControl with_norm{.clip_norm = 1.0};  // which a loss scale needs too
  model.optimizer.set_control(with_norm, stream);
  model.optimizer.prepare(stream);
  stream.begin_capture();
  EXPECT_THROW(model.optimizer.set_control({.clip_norm = 1.0, .loss_scale = LossScale{}}, stream),
               std::invalid_argument);
  EXPECT_TRUE(stream.is_capturing());
  stream.end_capture();
  EXPECT_FALSE(model.optimizer.control().loss_scale);
  model.optimizer.set_control({.clip_norm = 1.0, .loss_scale = LossScale{}}, stream);
  stream.begin_capture();
  model.optimizer.set_control({.clip_norm = 2.0, .loss_scale = LossScale{}}, stream);  // it goes on as it is
  EXPECT_THROW(model.optimizer.set_control(with_norm, stream), std::invalid_argument);
  EXPECT_TRUE(stream.is_capturing());
  stream.end_capture();
  EXPECT_TRUE(model.optimizer.control().loss_scale);
}

TEST_F(CudaStreams, have_no_loss_scale_but_that_of_the_last_setter) {
  Model model(Adam{}, cuda_device());
  const OwnStream stream;
  model.optimizer.set_control({.clip_norm = 1.0, .loss_scale = LossScale{}}, stream);
  model.optimizer.prepare(stream);
  stream.begin_capture();
  model.optimizer.set_control({.clip_norm = 2.0, .loss_scale = LossScale{.growth_interval = 1}}, stream);
  model.optimizer.step(stream);
  const Graph graph = stream.end_capture();
  model.optimizer.set_control({.clip_norm = 2.0}, stream);
  stream.launch(graph);  // turns it on again
  EXPECT_EQ(model.optimizer.report(stream).loss_scale, 2.0F);
  model.optimizer.set_control({.clip_norm = 1.0}, stream);
  model.optimizer.step(stream);
  EXPECT_EQ(model.optimizer.report(stream).loss_scale, 1.0F);
}

// The order of the legacy stream, in which state() prepares, is not to be had while a stream that it waits for is
// captured.
TEST_F(CudaStreams, that_are_captured_go_on_when_a_state_is_asked_for_that_is_not_there_yet) {
  host::DeviceMemory memory(cuda_device());
  const host::DeviceArray<bfloat16> parameter(memory, 100);
  const host::DeviceArray<bfloat16> gradient(memory, 100);
  Optimizer optimizer(Adam{}, cuda_device());
  const TensorId tensor =
      optimizer.add({.name = "x", .parameter = {parameter.data(), 100}, .gradient = {gradient.data(), 100}});
  cudaStream_t blocking = nullptr;
  ASSERT_EQ(cudaStreamCreate(&blocking), cudaSuccess);
  ASSERT_EQ(cudaStreamBeginCapture(blocking, cudaStreamCaptureModeRelaxed), cudaSuccess);
  EXPECT_ANY_THROW(optimizer.state(tensor, "master"));
  cudaGraph_t graph = nullptr;
  ASSERT_EQ(cudaStreamEndCapture(blocking, &graph), cudaSuccess) << "state() ended it";
  EXPECT_EQ(cudaGraphDestroy(graph), cudaSuccess);
  EXPECT_EQ(cudaStreamDestroy(blocking), cudaSuccess);
  cudaGetLastError();
  EXPECT_EQ(optimizer.state(tensor, "master").count(), 100);
}

// Steps and setters of other streams come before a checkpoint, and a loaded one before those of any stream. That can be
// seen where work waits until something waits for it.
TEST_F(CudaStreams, need_not_be_named_for_a_checkpoint_of_the_steps_in_them) {
  const Folder folder;
  const std::filesystem::path path = folder / "steps.safetensors";
  Model on_cpu(Adam{}, Device::cpu());
  Model on_device(Adam{}, cuda_device());
  const OwnStream stream;
  const GroupId unused = on_device.optimizer.add_group(Adam{});
  on_device.optimizer.prepare(stream);
  std::vector<std::unique_ptr<OwnStream>> others(6);  // more than are remembered apart
  for (int i = 0; i < 3; ++i) on_cpu.optimizer.step();
  for (int i = 0; i < 3; ++i) on_device.optimizer.step(stream);
  for (auto& other : others) {
    other = std::make_unique<OwnStream>();
    on_device.optimizer.set_learning_rate(unused, 0.5, *other);
  }
  on_device.optimizer.save(path);

  Model loaded(Adam{}, cuda_device());
  loaded.optimizer.load(path);
  loaded.optimizer.step(stream);  // at once with what was loaded
  on_cpu.optimizer.step();
  stream.wait();
  expect_same(on_cpu, loaded);

  for (int i = 0; i < 20; ++i) loaded.optimizer.step(stream);
  loaded.optimizer.load(path);  // not before these
  loaded.optimizer.step(stream);
  stream.wait();
  expect_same(on_cpu, loaded);
}

// The default stream waits for it, so that what is enqueued there would be captured too.
TEST_F(CudaStreams, that_are_captured_refuse_what_is_said_to_be_in_the_default_stream) {
  Model model(Adam{}, cuda_device());
  model.optimizer.prepare();
  cudaStream_t blocking = nullptr;
  ASSERT_EQ(cudaStreamCreate(&blocking), cudaSuccess);
  ASSERT_EQ(cudaStreamBeginCapture(blocking, cudaStreamCaptureModeRelaxed), cudaSuccess);
  for (const auto& call : std::initializer_list<std::function<void()>>{
           [&] { model.optimizer.freeze(TensorId{0}); },
           [&] { model.optimizer.set_gradient(TensorId{0}, model.other(0)); }, [&] { model.optimizer.report(); },
           [&] { model.optimizer.save("/nowhere"); }, [&] { model.optimizer.step(); },
           [&] { model.optimizer.set_learning_rate(GroupId{}, 0.5); }, [&] { model.optimizer.set_control({}); },
           [&] { model.optimizer.zero_gradients(); }}) {
    expect_refusal<std::invalid_argument>(call, {"the default stream", "is being captured"});
  }
  EXPECT_EQ(cudaPeekAtLastError(), cudaSuccess);
  cudaGraph_t graph = nullptr;
  ASSERT_EQ(cudaStreamEndCapture(blocking, &graph), cudaSuccess);
  EXPECT_EQ(cudaGraphDestroy(graph), cudaSuccess);
  EXPECT_EQ(cudaStreamDestroy(blocking), cudaSuccess);
}

// Kernels are refused there by CUDA, but not the copy that re-points gradients, which then would come at any time.
TEST_F(CudaStreams, of_another_device_are_refused_by_name_before_anything_is_enqueued) {
  int devices = 0;
  ASSERT_EQ(cudaGetDeviceCount(&devices), cudaSuccess);
  if (devices < 2) GTEST_SKIP() << "one CUDA device";
  Model on_cpu(Adam{}, Device::cpu());
  Model model(Adam{}, cuda_device());
  const OwnStream stream;
  model.optimizer.step(stream);
  on_cpu.optimizer.step();
  model.optimizer.set_gradient(TensorId{0}, model.other(0));
  on_cpu.optimizer.set_gradient(TensorId{0}, on_cpu.other(0));
  ASSERT_EQ(cudaSetDevice(1), cudaSuccess);
  cudaStream_t elsewhere = nullptr;
  ASSERT_EQ(cudaStreamCreateWithFlags(&elsewhere, cudaStreamNonBlocking), cudaSuccess);
  for (const auto& call : std::initializer_list<std::function<void()>>{
           [&] { model.optimizer.step(elsewhere); }, [&] { model.optimizer.prepare(elsewhere); },
           [&] { model.optimizer.set_learning_rate(GroupId{}, 0.5, elsewhere); },
           [&] { model.optimizer.zero_gradients(elsewhere); }, [&] { model.optimizer.report(elsewhere); },
           [&] { model.optimizer.save("/nowhere", {}, elsewhere); }}) {
    expect_refusal<std::invalid_argument>(call, {"the stream belongs to cuda:1; allowed: streams of cuda:0"});
  }
  EXPECT_EQ(cudaStreamDestroy(elsewhere), cudaSuccess);
  ASSERT_EQ(cudaSetDevice(0), cudaSuccess);
  EXPECT_EQ(cudaPeekAtLastError(), cudaSuccess);
  model.optimizer.step(stream);
  on_cpu.optimizer.step();
  stream.wait();
  expect_same(on_cpu, model);
}

// Whether `left` had nothing left to do when memory was given back in order of the Optimizer's own stream.
struct GivenBack {
  cudaStream_t left = nullptr;
  cudaEvent_t done = nullptr;  // shortly before the last use of the memory
  int pieces = 0;
  int too_early = 0;

  Allocator allocator() {
    return {.allocate = [](std::size_t bytes, Stream stream, void*) -> void* {
              void* memory = nullptr;
              return cudaMallocAsync(&memory, bytes, stream) == cudaSuccess ? memory : nullptr;
            },
            .release =
                [](void* memory, std::size_t, Stream stream, void* user) {
                  auto& self = *static_cast<GivenBack*>(user);
                  ++self.pieces;
                  EXPECT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
                  if (self.left != nullptr && cudaStreamQuery(self.left) != cudaSuccess) ++self.too_early;
                  if (self.done != nullptr && cudaEventQuery(self.done) != cudaSuccess) ++self.too_early;
                  EXPECT_EQ(cudaFreeAsync(memory, stream), cudaSuccess);
                },
            .user = this};
  }
};

// One whose step takes a while.
class LargeTensor {
 public:
  TensorSpec spec() const {
    return {.name = "x",
            .parameter = {parameter_.data(), parameter_.count()},
            .gradient = {gradient_.data(), gradient_.count()}};
  }

 private:
  host::DeviceMemory memory_{cuda_device()};
  host::DeviceArray<float> parameter_{memory_, spread_values<float>(100'000, 1, -4, 1)};
  host::DeviceArray<float> gradient_{memory_, spread_values<float>(100'000, 2, -4, 1)};
};

// A setter in another stream, which nobody ordered behind the step, does not let memory go before the step is done.
// That can be seen where work waits until something waits for it; elsewhere the step is done anyway.
TEST_F(CudaStreams, give_memory_back_behind_the_last_step_in_each_of_them) {
  const LargeTensor tensor;
  std::vector<std::unique_ptr<OwnStream>> others(6);  // more than are remembered apart
  for (auto& other : others) other = std::make_unique<OwnStream>();
  const OwnStream left;
  GivenBack given_back;
  {
    Optimizer optimizer(Adam{}, cuda_device(), {}, given_back.allocator());
    const GroupId unused = optimizer.add_group(Adam{});
    optimizer.add(tensor.spec());
    optimizer.prepare(left);
    for (int i = 0; i < 20; ++i) optimizer.step(left);
    for (const auto& other : others) optimizer.set_learning_rate(unused, 0.5, *other);
    given_back.left = left;
  }
  EXPECT_GT(given_back.pieces, 0);
  EXPECT_EQ(given_back.too_early, 0);
  left.wait();
}

// One handle, and another stream in every thread.
TEST_F(CudaStreams, of_each_thread_are_told_apart_when_memory_goes_back) {
  const LargeTensor tensor;
  cudaEvent_t done = nullptr;
  ASSERT_EQ(cudaEventCreateWithFlags(&done, cudaEventDisableTiming), cudaSuccess);
  GivenBack given_back;
  {
    Optimizer optimizer(Adam{}, cuda_device(), {}, given_back.allocator());
    const GroupId unused = optimizer.add_group(Adam{});
    optimizer.add(tensor.spec());
    optimizer.prepare();
    std::thread([&] {
      for (int i = 0; i < 20; ++i) optimizer.step(cudaStreamPerThread);
      EXPECT_EQ(cudaEventRecord(done, cudaStreamPerThread), cudaSuccess);
      optimizer.step(cudaStreamPerThread);
    }).join();
    optimizer.set_learning_rate(unused, 0.5, cudaStreamPerThread);
    given_back.done = done;
  }
  EXPECT_GT(given_back.pieces, 0);
  EXPECT_EQ(given_back.too_early, 0);
  EXPECT_EQ(cudaEventSynchronize(done), cudaSuccess);
  EXPECT_EQ(cudaEventDestroy(done), cudaSuccess);
}

// Waiting for a device whose graphs may run is not allowed while one of its streams is captured.
TEST_F(CudaStreams, that_are_captured_keep_the_memory_of_a_graph_from_being_used_twice) {
  const OwnStream stream;
  const OwnStream captured;
  GivenBack given_back;
  Graph graph;
  host::DeviceMemory memory(cuda_device());
  const host::DeviceArray<float> parameter(memory, std::span<const float>(spread_values<float>(1000, 1, -4, 1)));
  const host::DeviceArray<float> gradient(memory, std::span<const float>(spread_values<float>(1000, 2, -4, 1)));
  {
    Optimizer optimizer(Adam{}, cuda_device(), {}, given_back.allocator());
    optimizer.add({.name = "x", .parameter = {parameter.data(), 1000}, .gradient = {gradient.data(), 1000}});
    optimizer.prepare(stream);
    stream.begin_capture();
    optimizer.step(stream);
    graph = stream.end_capture();
    stream.launch(graph);
    captured.begin_capture();
  }
  cudaGraph_t nothing = nullptr;
  if (cudaStreamEndCapture(captured, &nothing) == cudaSuccess) {  // a CUDA that allows it
    EXPECT_GT(given_back.pieces, 0);
    EXPECT_EQ(cudaGraphDestroy(nothing), cudaSuccess);
  } else {
    EXPECT_EQ(given_back.pieces, 0);
    cudaGetLastError();
  }
  stream.wait();
}

// Allocating on the optimizer's own stream disturbs nobody's capture, nor does waiting for others.
TEST_F(CudaStreams, can_be_captured_while_another_optimizer_is_made_and_prepared) {
  Model captured(Adam{}, cuda_device());
  Model on_cpu(Adam{}, Device::cpu());
  host::DeviceMemory memory(cuda_device());
  const host::DeviceArray<float> parameter(memory, 100);
  const host::DeviceArray<float> gradient(memory, 100);
  const OwnStream stream;
  captured.optimizer.prepare(stream);
  stream.begin_capture();
  captured.optimizer.step(stream);
  {
    Optimizer another(Adam{}, cuda_device());
    another.add({.name = "x", .parameter = {parameter.data(), 100}, .gradient = {gradient.data(), 100}});
    const Stream own = cudaStreamPerThread;
    another.prepare(own);
    another.step(own);
    another.set_gradient(another.find("x"), {gradient.data(), 100});
    another.step(own);
    EXPECT_EQ(another.step_count(another.find("x"), own), 2);
    EXPECT_EQ(another.report(own).skipped_steps, 0);
    another.set_step_count(another.find("x"), 7, own);
    const Folder folder;
    another.save(folder / "x", {}, own);
    another.load(folder / "x", {}, own);
  }
  ASSERT_TRUE(stream.is_capturing());
  const Graph graph = stream.end_capture();
  stream.launch(graph);
  stream.wait();
  on_cpu.optimizer.step();
  expect_same(on_cpu, captured);
}

using Trap11Streams = CudaStreams;  // no step in any other stream than the caller's, none that waits

TEST_F(Trap11Streams, of_their_own_keep_the_order_that_events_give_them) {
  Model on_cpu(Adam{}, Device::cpu());
  Model on_device(Adam{}, cuda_device());
  const OwnStream left;
  const OwnStream right;
  cudaEvent_t done = nullptr;
  ASSERT_EQ(cudaEventCreateWithFlags(&done, cudaEventDisableTiming), cudaSuccess);
  for (int i = 0; i < 10; ++i) {
    const OwnStream& from = i % 2 == 0 ? left : right;
    const OwnStream& to = i % 2 == 0 ? right : left;
    on_device.optimizer.step(from);
    on_cpu.optimizer.step();
    ASSERT_EQ(cudaEventRecord(done, from), cudaSuccess);
    ASSERT_EQ(cudaStreamWaitEvent(to, done, 0), cudaSuccess);
  }
  expect_same(on_cpu, on_device);
  EXPECT_EQ(cudaEventDestroy(done), cudaSuccess);
}

// Memory goes back behind the steps that use it, in whatever stream they are.
TEST_F(CudaStreams, finish_their_steps_before_memory_that_they_use_goes_back) {
  const OwnStream stream;
  Model on_cpu(Adam{}, Device::cpu());
  Model on_device(Adam{}, cuda_device());
  on_device.optimizer.step(stream);
  on_cpu.optimizer.step();
  on_device.add(3000);
  on_device.optimizer.step(stream);  // with new tables; the old ones go back behind the step before
  on_cpu.optimizer.step();
  on_device.optimizer.remove(TensorId{4});
  on_device.optimizer.step(stream);
  on_cpu.optimizer.step();
  {
    Model gone(Adam{}, cuda_device());
    gone.optimizer.step(stream);
    stream.wait();
  }
  expect_same(on_cpu, on_device);
}

TEST_F(CudaStreams, leave_the_current_device_as_it_was) {
  int devices = 0;
  ASSERT_EQ(cudaGetDeviceCount(&devices), cudaSuccess);
  if (devices < 2) GTEST_SKIP() << "there is one CUDA device; a second is needed";
  const Folder folder;
  ASSERT_EQ(cudaSetDevice(1), cudaSuccess);
  {
    const std::vector<Shape> shapes{{5000}, {5000}, {33, DataType::bfloat16, DataType::bfloat16}};
    ControlModel on_cpu(Adam{}, Device::cpu(), shapes);
    ControlModel on_device(Adam{}, cuda_device(), shapes);
    const OwnStream stream_of_the_other;
    const auto both = [&](const char* what, const auto& call) {
      for (ControlModel* model : {&on_cpu, &on_device}) call(model->optimizer);
      int current = -1;
      ASSERT_EQ(cudaGetDevice(&current), cudaSuccess);
      EXPECT_EQ(current, 1) << what;
    };
    const auto step = [](Optimizer& o) { o.step(); };
    both("prepare", [](Optimizer& o) { o.prepare(); });
    both("step", step);
    both("zero_gradients", [](Optimizer& o) { o.zero_gradients(); });
    both("step", step);
    both("step_count", [](Optimizer& o) { EXPECT_EQ(o.step_count(TensorId{0}), 2); });
    both("set_control", [](Optimizer& o) { o.set_control({.measure_norm = true}); });
    on_cpu.set_gradients(5);
    on_device.set_gradients(5);
    both("step", step);
    both("report", [](Optimizer& o) { EXPECT_GT(o.report().gradient_norm, 0); });
    both("set_learning_rate", [](Optimizer& o) { o.set_learning_rate(GroupId{}, 0.1); });
    both("set_step_count", [](Optimizer& o) { o.set_step_count(TensorId{0}, 7); });
    both("set_gradient", [](Optimizer& o) { o.set_gradient(TensorId{0}, o.tensor(TensorId{1}).gradient); });
    both("prepare", [](Optimizer& o) { o.prepare(); });
    both("step", step);
    both("save", [&](Optimizer& o) { o.save(folder / "file"); });
    both("step", step);
    EXPECT_TRUE(on_device.everything() == on_cpu.everything());
    both("load", [&](Optimizer& o) { o.load(folder / "file"); });
    both("step", step);
    EXPECT_TRUE(on_device.everything() == on_cpu.everything());
    expect_copies_in_the_order_of(nullptr);
  }
  ASSERT_EQ(cudaSetDevice(0), cudaSuccess);
}

}  // namespace
}  // namespace adamant::test
