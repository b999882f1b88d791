// Promise P6 on a CUDA device: whichever call of the CUDA runtime fails, there is an exception that says which, and
// parameters, states, step counts and options are as they were, or the whole call has happened. The linker hands the
// library's calls to the functions below (--wrap), which fail as told.
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "adamant/adamant.hpp"
#include "host/device_memory.hpp"
#include "host/method.hpp"
#include "host/safetensors.hpp"
#include "kernels/launch.hpp"
#include "kernels/tuning.hpp"
#include "tests/control.hpp"
#include "tests/device.hpp"
#include "tests/folder.hpp"
#include "tests/inputs.hpp"
#include "tests/own_stream.hpp"
#include "tests/refusal.hpp"
#include "tests/storages.hpp"

// NOLINTNEXTLINE(bugprone-reserved-identifier,cert-dcl37-c,cert-dcl51-cpp): the name that --wrap gives it
extern "C" cudaError_t __real_cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status);

namespace {

// Which call of the runtime fails, and how.
struct Failure {
  int number = 1;  // counted from 1; none where it is 0
  cudaError_t error = cudaErrorUnknown;
  std::string only = {};   // where not empty, only calls of this name count
  std::string after = {};  // where not empty, calls of this name fail once that one has
};
std::optional<Failure> failure;
int calls = 0;       // that were counted
std::string failed;  // the name of the call that did

// Counts calls, and makes one fail, for as long as it lives.
class Failing {
 public:
  explicit Failing(Failure what) {
    calls = 0;
    failed.clear();
    failure = std::move(what);
  }
  ~Failing() { failure.reset(); }
  Failing(const Failing&) = delete;
  Failing& operator=(const Failing&) = delete;
};

bool fails(std::string_view name) {
  if (!failure) return false;
  if (calls >= failure->number && failure->after == name) return true;
  if ((!failure->only.empty() && failure->only != name) || ++calls != failure->number) return false;
  failed = name;
  return true;
}

// Streams, events and pieces of memory that were made and not given back.
int alive = 0;

// Where false, every device says that it has no memory pools.
bool has_pools = true;

// Where given, the address that all pinned host memory has on the device.
std::optional<void*> pinned_is_at;

bool has(std::string_view name, std::string_view part) { return name.find(part) != std::string_view::npos; }

// A call, and the stream that it is for.
struct Seen {
  std::string name;
  std::optional<cudaStream_t> stream;
  bool begins_early = false;                 // a launch that may begin before the kernel in front of it has ended
  int* pools = nullptr;                      // where the answer goes, where it asks whether there are memory pools
  cudaPointerAttributes* pointer = nullptr;  // where it goes, where it asks about memory
};
std::vector<Seen>* seen = nullptr;  // where calls are written down, if anywhere

// Drivers refuse most questions about a stream while it is captured, and end the capture; an emulator may answer them.
bool ends_a_capture(const Seen& call) {
  if (!has(call.name, "StreamGet") || !call.stream) return false;
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  return __real_cudaStreamIsCapturing(*call.stream, &status) == cudaSuccess && status != cudaStreamCaptureStatusNone;
}

// What the arguments of a call say of it.
template <typename... Arguments>
Seen seen_in(const Arguments&... arguments) {
  Seen result;
  int* answer = nullptr;
  [[maybe_unused]] const auto look = [&]<typename Argument>(const Argument& argument) {
    if constexpr (std::is_same_v<Argument, cudaStream_t>) result.stream = argument;
    if constexpr (std::is_same_v<Argument, const cudaLaunchConfig_t*>) {
      result.stream = argument->stream;
      result.begins_early = argument->numAttrs == 1;
    }
    if constexpr (std::is_same_v<Argument, int*>) answer = argument;
    if constexpr (std::is_same_v<Argument, cudaPointerAttributes*>) result.pointer = argument;
    if constexpr (std::is_same_v<Argument, cudaDeviceAttr>) {
      if (argument == cudaDevAttrMemoryPoolsSupported) result.pools = answer;
    }
  };
  (look(arguments), ...);
  return result;
}

// Calls the runtime, or fails. What gives something back fails after it has done so.
template <typename Real>
cudaError_t call(const char* name, Seen what, const Real& real) {
  what.name = name;
  if (seen != nullptr) seen->push_back(what);
  const bool gives_back = has(name, "Free") || has(name, "Destroy");
  const bool makes = has(name, "Create") || has(name, "Malloc");
  const bool fail = fails(name);
  if (fail && !gives_back) return failure->error;
  if (ends_a_capture(what)) return cudaErrorStreamCaptureUnsupported;
  const cudaError_t result = real();
  if (result == cudaSuccess) alive += makes ? 1 : (gives_back ? -1 : 0);
  if (what.pools != nullptr && !has_pools) *what.pools = 0;
  if (what.pointer != nullptr && pinned_is_at && what.pointer->type == cudaMemoryTypeHost) {
    what.pointer->devicePointer = *pinned_is_at;
  }
  return fail ? failure->error : result;
}

}  // namespace

// NOLINTBEGIN(bugprone-reserved-identifier,cert-dcl37-c,cert-dcl51-cpp): the names that --wrap asks for
#define ADAMANT_WRAP(name, parameters, arguments)                                   \
  extern "C" {                                                                      \
  cudaError_t __real_##name parameters;                                             \
  cudaError_t __wrap_##name parameters {                                            \
    return call(#name, seen_in arguments, [&] { return __real_##name arguments; }); \
  }                                                                                 \
  }
ADAMANT_WRAP(cudaGetDevice, (int* device), (device))
ADAMANT_WRAP(cudaGetDeviceCount, (int* count), (count))
ADAMANT_WRAP(cudaSetDevice, (int device), (device))
ADAMANT_WRAP(cudaDeviceSynchronize, (), ())
ADAMANT_WRAP(cudaDeviceGetAttribute, (int* value, cudaDeviceAttr attribute, int device), (value, attribute, device))
ADAMANT_WRAP(cudaStreamCreateWithFlags, (cudaStream_t * stream, unsigned flags), (stream, flags))
ADAMANT_WRAP(cudaStreamDestroy, (cudaStream_t stream), (stream))
ADAMANT_WRAP(cudaStreamSynchronize, (cudaStream_t stream), (stream))
ADAMANT_WRAP(cudaStreamGetDevice, (cudaStream_t stream, int* device), (stream, device))
ADAMANT_WRAP(cudaStreamGetId, (cudaStream_t stream, unsigned long long* id), (stream, id))
ADAMANT_WRAP(cudaStreamIsCapturing, (cudaStream_t stream, cudaStreamCaptureStatus* status), (stream, status))
ADAMANT_WRAP(cudaStreamWaitEvent, (cudaStream_t stream, cudaEvent_t event, unsigned flags), (stream, event, flags))
ADAMANT_WRAP(cudaEventCreateWithFlags, (cudaEvent_t * event, unsigned flags), (event, flags))
ADAMANT_WRAP(cudaEventDestroy, (cudaEvent_t event), (event))
ADAMANT_WRAP(cudaEventRecord, (cudaEvent_t event, cudaStream_t stream), (event, stream))
ADAMANT_WRAP(cudaEventSynchronize, (cudaEvent_t event), (event))
ADAMANT_WRAP(cudaMalloc, (void** memory, std::size_t bytes), (memory, bytes))
ADAMANT_WRAP(cudaFree, (void* memory), (memory))
ADAMANT_WRAP(cudaMallocAsync, (void** memory, std::size_t bytes, cudaStream_t stream), (memory, bytes, stream))
ADAMANT_WRAP(cudaFreeAsync, (void* memory, cudaStream_t stream), (memory, stream))
ADAMANT_WRAP(cudaMallocHost, (void** memory, std::size_t bytes), (memory, bytes))
ADAMANT_WRAP(cudaFreeHost, (void* memory), (memory))
ADAMANT_WRAP(cudaMemsetAsync, (void* to, int value, std::size_t bytes, cudaStream_t stream), (to, value, bytes, stream))
ADAMANT_WRAP(cudaMemcpyAsync, (void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind, cudaStream_t stream),
             (to, from, bytes, kind, stream))
ADAMANT_WRAP(cudaLaunchKernelExC, (const cudaLaunchConfig_t* how, const void* kernel, void** arguments),
             (how, kernel, arguments))
ADAMANT_WRAP(cudaPointerGetAttributes, (cudaPointerAttributes * attributes, const void* pointer), (attributes, pointer))
ADAMANT_WRAP(cudaFuncGetAttributes, (cudaFuncAttributes * attributes, const void* function), (attributes, function))
// NOLINTEND(bugprone-reserved-identifier,cert-dcl37-c,cert-dcl51-cpp)

namespace adamant::test {
namespace {

// Two tensors of each type in two groups, stepped a few times, and one more that may be added and needs a master.
class Subject {
 public:
  explicit Subject(host::DeviceMemory& memory) : memory_(memory), optimizer_(std::in_place, Adam{}, cuda_device()) {
    group_ = optimizer_->add_group(Adam{.learning_rate = 0.01});
    for (const std::int64_t count : {100, 5000}) {
      optimizer_->add(make<float>(count));
      optimizer_->add(make<double>(count));
    }
    spare_ = make<bfloat16>(77);
    for (int i = 0; i < 3; ++i) optimizer_->step();
  }

  Optimizer& optimizer() { return *optimizer_; }
  GroupId group() const { return group_; }
  Stream stream() const { return stream_; }
  const TensorSpec& spare() const { return spare_; }
  void destroy_optimizer() { optimizer_.reset(); }
  ConstArray other_gradient(TensorId id) const {
    const TensorSpec& spec = optimizer_->tensor(id);
    return {static_cast<const void*>(arrays_[static_cast<std::size_t>(std::stoul(spec.name)) + 2].get()),
            spec.parameter.type(), spec.parameter.count()};
  }

  // Gradients of 16 bits too, and all that a step can do to gradients.
  void take_control() {
    add_narrow<bfloat16>(DataType::bfloat16, 4100);
    add_narrow<float16>(DataType::float16, 30);
    optimizer_->set_control(control());
    for (int i = 0; i < 2; ++i) optimizer_->step();
  }
  // What is beside parameters: a master, a copy, random bits and a loss scale.
  void add_kept() {
    optimizer_->add(spare_);
    TensorSpec spec = make<float>(60);
    copy_ = memory_.allocate(60 * 2);
    spec.copy = {reinterpret_cast<bfloat16*>(copy_.get()), 60};
    optimizer_->add(spec);
    TensorSpec random = make<bfloat16>(40);
    random.master = Master::stochastic;
    optimizer_->add(random);
    optimizer_->set_control({.loss_scale = LossScale{.initial = 8}});
    optimizer_->step();
  }
  static StepControl control() {
    return {.clip_norm = 9.0, .clip_value = 0.5, .loss_scale = LossScale{.initial = 8, .growth_interval = 5}};
  }

  // All that a failed call must leave as it was: the checkpoint has every parameter, state, count, option and freeze.
  std::string everything() {
    const Folder folder;
    optimizer_->save(folder.file("all"));
    std::string copy(copy_ ? 60 * 2 : 0, '\0');
    if (copy_) memory_.read(std::as_writable_bytes(std::span(copy)), copy_.get());
    return contents(folder.file("all")) + text_of(optimizer_->report()) + copy;
  }
  // The same after one more step, which shows what the device holds and a checkpoint does not.
  std::string everything_after_a_step() {
    optimizer_->step();
    return everything();
  }

 private:
  template <typename Real>
  TensorSpec make(std::int64_t count) {
    const auto i = arrays_.size();
    for (std::size_t which = 0; which < 3; ++which) {
      const std::vector<Real> values = stored_values<Real>(count, i + which, -4, 1);
      const auto bytes = std::as_bytes(std::span(values));
      arrays_.push_back(memory_.allocate(static_cast<std::int64_t>(bytes.size())));
      memory_.write(arrays_.back().get(), bytes);
    }
    return {.name = std::to_string(i),
            .parameter = {reinterpret_cast<Real*>(arrays_[i].get()), count},
            .gradient = {reinterpret_cast<Real*>(arrays_[i + 1].get()), count},
            .group = i % 2 == 0 ? group_ : GroupId{}};
  }

  // A float32 parameter with a gradient of another type.
  template <typename Gradient>
  void add_narrow(DataType type, std::int64_t count) {
    TensorSpec spec = make<float>(count);
    std::vector<std::byte> bytes(static_cast<std::size_t>(count) * sizeof(Gradient));
    const std::vector<double> values = numbers(type, count, arrays_.size(), -4, 1);
    for (std::size_t i = 0; i < values.size(); ++i) encode(values[i], type, bytes.data() + i * sizeof(Gradient));
    arrays_.push_back(memory_.allocate(std::ssize(bytes)));
    memory_.write(arrays_.back().get(), bytes);
    spec.gradient = {reinterpret_cast<const Gradient*>(arrays_.back().get()), count};
    optimizer_->add(spec);
  }

  host::DeviceMemory& memory_;
  std::vector<std::shared_ptr<std::byte>> arrays_;
  TensorSpec spare_;
  std::shared_ptr<std::byte> copy_;
  std::optional<Optimizer> optimizer_;
  GroupId group_{};
  OwnStream stream_{cudaStreamDefault};  // with which the default stream keeps the order
};

// A file that calls load.
std::string saved_file(const std::string& name) {
  static const Folder folder;
  return folder.file(name);
}

// One call of the Optimizer, and what is done before it and does not fail.
struct FailingCall {
  std::string name;
  std::function<void(Subject&)> run;
  std::function<void(Subject&)> before = [](Subject&) {};
  std::string only_calls = {};  // of the runtime, by this name, are made to fail; all where it is empty
  friend void PrintTo(const FailingCall& c, std::ostream* out) { *out << c.name; }
};

std::vector<FailingCall> all_calls() {
  constexpr TensorId kFirst{0};
  const auto step = [](Subject& s) { s.optimizer().step(); };
  const auto prepare = [](Subject& s) { s.optimizer().prepare(); };
  const auto point_elsewhere = [](Subject& s) { s.optimizer().set_gradient(kFirst, s.other_gradient(kFirst)); };
  const auto add = [](Subject& s) { s.optimizer().add(s.spare()); };
  return {
      {"step", step},
      {"step_in_a_stream", [](Subject& s) { s.optimizer().step(s.stream()); }},
      {"step_with_new_gradients", step, point_elsewhere},
      {"step_that_prepares", step, add},
      {"step_with_control", step, [](Subject& s) { s.take_control(); }},
      {"step_with_control_that_prepares", step,
       [add](Subject& s) {
         s.take_control();
         add(s);
       }},
      {"set_control", [](Subject& s) { s.optimizer().set_control(Subject::control()); }},
      {"set_control_of_other_values",
       [](Subject& s) { s.optimizer().set_control({.gradient_scale = 3, .clip_value = 0.1}); },
       [](Subject& s) { s.take_control(); }},
      {"report", [](Subject& s) { (void)s.optimizer().report(); }, [](Subject& s) { s.take_control(); }},
      {"prepare_with_new_gradients", prepare, point_elsewhere},
      {"prepare_with_a_new_tensor", prepare, add},
      {"prepare_after_a_freeze", prepare, [](Subject& s) { s.optimizer().freeze(kFirst); }},
      {"prepare_after_a_removal", prepare, [](Subject& s) { s.optimizer().remove(TensorId{2}); }},
      {"set_gradient", point_elsewhere},
      {"zero_gradients", [](Subject& s) { s.optimizer().zero_gradients(); }},
      {"add", add},
      {"add_group", [](Subject& s) { s.optimizer().add_group(Adam{.learning_rate = 1}); }},
      {"freeze", [](Subject& s) { s.optimizer().freeze(kFirst); }},
      {"set_group", [](Subject& s) { s.optimizer().set_group(kFirst, GroupId{}); }},
      {"set_learning_rate", [](Subject& s) { s.optimizer().set_learning_rate(s.group(), 0.5); }},
      {"set_learning_rate_in_a_stream",
       [](Subject& s) { s.optimizer().set_learning_rate(s.group(), 0.5, s.stream()); }},
      {"set_step_count", [](Subject& s) { s.optimizer().set_step_count(kFirst, 1234); }},
      {"step_count", [](Subject& s) { (void)s.optimizer().step_count(kFirst); }},
      {"state", [](Subject& s) { (void)s.optimizer().state(TensorId{4}, "exp_avg"); }, add},
      {"save",
       [](Subject& s) {
         const Folder folder;
         s.optimizer().save(folder.file("x"));
       }},
      {"load", [](Subject& s) { s.optimizer().load(saved_file("checkpoint")); }},
      {"load_with_a_loss_scale", [](Subject& s) { s.optimizer().load(saved_file("controlled")); },
       [](Subject& s) { s.take_control(); }, "cudaLaunchKernelExC"},
      {"load_of_what_is_kept", [](Subject& s) { s.optimizer().load(saved_file("kept")); },
       [](Subject& s) { s.add_kept(); }, "cudaLaunchKernelExC"},
      {"load_of_parameters_alone", [](Subject& s) { s.optimizer().load(saved_file("parameters")); }, [](Subject&) {},
       "cudaLaunchKernelExC"},
  };
}

class EveryCudaCall : public DeviceTestWithParam<FailingCall> {
 protected:
  void TearDown() override { cudaGetLastError(); }

  // Runs `call` with the n-th runtime call failing, or none where n is 0. What it threw; empty when it did not throw.
  static std::string run(Subject& subject, const FailingCall& call, int n) {
    std::string what;
    const Failing failing({.number = n, .only = call.only_calls});
    try {
      call.run(subject);
    } catch (const CudaError& error) {
      what = error.what();
      EXPECT_EQ(error.code(), cudaErrorUnknown);
      EXPECT_FALSE(error.sticky());
      EXPECT_NE(what.find("cudaErrorUnknown"), std::string::npos) << what;
      EXPECT_NE(std::min(what.find(".cpp:"), what.find(".hpp:")), std::string::npos)
          << "the place of the call: " << what;
    } catch (const std::exception& error) {
      what = error.what();
      ADD_FAILURE() << failed << ": " << what;
    }
    EXPECT_EQ(cudaPeekAtLastError(), cudaSuccess) << failed << ": what was reported is not left behind";
    return what;
  }
};

TEST_P(EveryCudaCall, that_fails_leaves_everything_as_it_was_and_the_call_may_be_made_again) {
  host::DeviceMemory memory(cuda_device());
  {
    Subject saved(memory);
    saved.optimizer().set_learning_rate(saved.group(), 0.77);
    for (int i = 0; i < 4; ++i) saved.optimizer().step();
    saved.optimizer().save(saved_file("checkpoint"));
    saved.take_control();
    for (int i = 0; i < 4; ++i) saved.optimizer().step();
    saved.optimizer().save(saved_file("controlled"));
    Subject kept(memory);
    kept.add_kept();
    kept.optimizer().set_control({.loss_scale = LossScale{.initial = 16}, .seed = 77});
    for (int i = 0; i < 4; ++i) kept.optimizer().step();
    kept.optimizer().save(saved_file("kept"));
    const auto file = safetensors::File::open(saved_file("checkpoint"));
    std::vector<safetensors::Entry> entries(file.entries().begin(), file.entries().end());
    std::erase_if(entries, [](const auto& entry) { return entry.name.find('.') != std::string::npos; });
    safetensors::write(saved_file("parameters"), entries, {{"format", "pt"}});
  }
  std::string before;
  std::string step_before;
  {
    Subject whole(memory);
    GetParam().before(whole);
    before = whole.everything();
    step_before = whole.everything_after_a_step();
  }
  Subject whole(memory);
  GetParam().before(whole);
  ASSERT_EQ(run(whole, GetParam(), 0), "");
  const int all = calls;
  ASSERT_GT(all, 0);
  const std::string after = whole.everything();
  const std::string step_after = whole.everything_after_a_step();

  const int alive_at_first = alive;
  int thrown = 0;
  for (int n = 1; n <= all; ++n) {
    Subject subject(memory);
    GetParam().before(subject);
    const std::string report = text_of(subject.optimizer().report());
    std::map<TensorId, std::int64_t> counts;
    for (const TensorId id : subject.optimizer().tensors()) counts[id] = subject.optimizer().step_count(id);
    const std::string error = run(subject, GetParam(), n);
    SCOPED_TRACE(testing::Message() << "call " << n << " of " << all << ", " << failed << ": " << error);
    ASSERT_FALSE(failed.empty());
    if (const auto list = error.find("stepped were those of "); list != std::string::npos) {
      // Each tensor is wholly stepped or untouched, and the step is none that the report or the loss scale knows of.
      int tensors_stepped = 0;
      for (const TensorId id : subject.optimizer().tensors()) {
        const TensorSpec& spec = subject.optimizer().tensor(id);
        const bool stepped = error.find(std::string(name(spec.parameter.type())) + " with " +
                                            std::string(name(spec.gradient.type())) + " gradients",
                                        list) != std::string::npos;
        EXPECT_EQ(subject.optimizer().step_count(id), counts[id] + (stepped ? 1 : 0));
        tensors_stepped += stepped ? 1 : 0;
      }
      EXPECT_GT(tensors_stepped, 0);
      EXPECT_EQ(text_of(subject.optimizer().report()), report);
      ++thrown;
      continue;
    }
    if (!error.empty()) {
      ++thrown;
      EXPECT_TRUE(subject.everything() == before) << "something has changed";
      Subject given_up(memory);  // which does not make the call again
      GetParam().before(given_up);
      ASSERT_EQ(run(given_up, GetParam(), n), error);
      if (GetParam().name != "zero_gradients") {  // gradients are the caller's: some may be zero by then
        EXPECT_TRUE(given_up.everything_after_a_step() == step_before) << "something has changed on the device";
      }
      ASSERT_EQ(run(subject, GetParam(), 0), "");
    }
    EXPECT_TRUE(subject.everything() == after) << "something is left undone";
    EXPECT_TRUE(subject.everything_after_a_step() == step_after) << "the next step differs";
  }
  EXPECT_GT(thrown, 0);
  EXPECT_EQ(alive, alive_at_first) << "streams, events and memory that nobody gave back";
}

INSTANTIATE_TEST_SUITE_P(Optimizer, EveryCudaCall, testing::ValuesIn(all_calls()),
                         [](const auto& info) { return info.param.name; });

class CudaFailures : public NeedsDevice {
 protected:
  void TearDown() override {
    has_pools = true;
    cudaGetLastError();
  }
};

TEST_F(CudaFailures, of_the_constructor_leave_nothing_behind) {
  const Folder folder;
  const auto make = [] { const Optimizer made(Adam{}, cuda_device()); };
  {
    const Failing none({.number = 0});
    make();
  }
  const int all = calls;
  const int alive_at_first = alive;
  int thrown = 0;
  for (int n = 1; n <= all; ++n) {
    const Failing failing({.number = n});
    try {
      make();
    } catch (const CudaError&) {
      ++thrown;
    } catch (const Unavailable&) {  // the number of devices
      ++thrown;
    }
    EXPECT_EQ(alive, alive_at_first) << failed;
  }
  EXPECT_GT(thrown, 3);
}

// Where a launch of the norm fails, some of the tree has been added up, and a gradient that is not finite may have been
// found. Whatever comes next, another step, a graph that was captured before, another plan, takes the norm anew; a step
// that is only captured does not do so for those after it.
TEST_F(CudaFailures, of_a_launch_of_the_norm_leave_the_next_step_the_right_norm) {
  const std::vector<std::int64_t> counts{70, 5, 4100, 18, 1, 33};
  const StepControl control{.non_finite = NonFinite::skip, .clip_norm = 5.0};
  enum class Next { step, graph, new_plan, captured_step };
  // Whether what the failed step does for the next fails too, which the next then does.
  for (const auto& [next, is_left_to_it] :
       {std::pair(Next::step, false), std::pair(Next::step, true), std::pair(Next::graph, false),
        std::pair(Next::new_plan, false), std::pair(Next::new_plan, true), std::pair(Next::captured_step, true)}) {
    ControlModel whole(Adam{}, Device::cpu(), mixed(counts));
    whole.optimizer.set_control(control);
    if (next == Next::new_plan) whole.optimizer.freeze(TensorId{5});
    for (int i = 0; i < 2; ++i) whole.optimizer.step();
    for (int launch = 1; launch <= 5; ++launch) {
      SCOPED_TRACE(testing::Message() << "launch " << launch << ", then " << static_cast<int>(next)
                                      << (is_left_to_it ? ", to which all is left" : ""));
      ControlModel model(Adam{}, cuda_device(), mixed(counts));
      model.optimizer.set_control(control);
      model.optimizer.prepare();
      const OwnStream stream;
      const auto capture = [&] {
        stream.begin_capture();
        model.optimizer.step(stream);
        return stream.end_capture();
      };
      const Graph graph = capture();
      model.spoil(0, 3, std::numeric_limits<double>::quiet_NaN());
      {
        const Failing failing(
            {.number = launch, .only = "cudaLaunchKernelExC", .after = is_left_to_it ? "cudaMemsetAsync" : ""});
        EXPECT_THROW(model.optimizer.step(), CudaError);
      }
      model.set_gradients(0);
      if (next == Next::new_plan) model.optimizer.freeze(TensorId{5});
      if (next == Next::captured_step) capture();  // and nobody launches it
      for (int i = 0; i < 2; ++i) {
        if (next == Next::graph) {
          EXPECT_EQ(cudaGraphLaunch(graph.get(), nullptr), cudaSuccess);
        } else {
          model.optimizer.step();
        }
      }
      EXPECT_EQ(text_of(model.optimizer.report()), text_of(whole.optimizer.report()));
      EXPECT_TRUE(model.everything() == whole.everything());
    }
  }
}

// What was launched before the call that failed still runs, and uses memory that goes back behind it. The emulator
// tells when work waits until something waits for it (PTXCPU_LAZY=1).
TEST_F(CudaFailures, of_a_launch_let_those_before_it_finish_before_memory_goes_back) {
  host::DeviceMemory memory(cuda_device());
  for (int launch = 1; launch <= 5; ++launch) {
    Subject subject(memory);
    subject.take_control();
    ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
    cudaStream_t stream = nullptr;  // younger than the optimizer's own, and so the last that an emulator runs
    ASSERT_EQ(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), cudaSuccess);
    {
      const Failing failing({.number = launch, .only = "cudaLaunchKernelExC"});
      EXPECT_THROW(subject.optimizer().step(stream), CudaError);
    }
    subject.destroy_optimizer();
    EXPECT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
    EXPECT_EQ(cudaStreamDestroy(stream), cudaSuccess);
  }
}

// Where it could not be noted in which stream memory is used, a checkpoint comes behind everything on the device. The
// emulator tells when work waits until something waits for it (PTXCPU_LAZY=1).
TEST_F(CudaFailures, to_note_a_use_put_a_checkpoint_behind_it_all_the_same) {
  host::DeviceMemory memory(cuda_device());
  const OwnStream stream;
  for (const std::string call : {"cudaStreamGetId", "cudaEventRecord"}) {
    Subject subject(memory);
    Subject whole(memory);
    for (Subject* each : {&subject, &whole}) each->take_control();
    ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
    {
      const Failing failing({.only = call});
      subject.optimizer().step(stream);
    }
    EXPECT_EQ(failed, call);
    EXPECT_TRUE(subject.everything() != whole.everything());
    whole.optimizer().step();
    EXPECT_TRUE(subject.everything() == whole.everything()) << call;
  }
}

// Each allocation of device memory refused in turn: what was asked for and where is said, and nothing is lost.
TEST_F(CudaFailures, of_memory_say_how_much_was_asked_for) {
  host::DeviceMemory memory(cuda_device());
  Subject subject(memory);
  Subject whole(memory);
  for (Subject* each : {&subject, &whole}) each->optimizer().add(each->spare());
  int thrown = 0;
  for (int n = 1;; ++n) {
    const Failing failing({.number = n, .error = cudaErrorMemoryAllocation, .only = "cudaMallocAsync"});
    try {
      subject.optimizer().prepare();
      break;
    } catch (const OutOfDeviceMemory& error) {
      ++thrown;
      const std::string what = error.what();
      EXPECT_NE(what.find("cuda:0"), std::string::npos) << what;
      EXPECT_NE(what.find("GiB"), std::string::npos) << what;
      EXPECT_NE(what.find("free"), std::string::npos) << what;
    }
  }
  EXPECT_EQ(thrown, 2) << "the states and the tables";
  for (Subject* each : {&subject, &whole}) each->optimizer().remove(TensorId{4});
  EXPECT_TRUE(subject.everything() == whole.everything());
}

TEST_F(CudaFailures, of_pinned_memory_are_a_lack_of_memory_too) {
  host::DeviceMemory memory(cuda_device());
  const host::DeviceArray<float> parameter(memory, 100);
  const host::DeviceArray<float> gradient(memory, 100);
  Optimizer optimizer(Adam{}, cuda_device());
  const TensorId id =
      optimizer.add({.name = "x", .parameter = {parameter.data(), 100}, .gradient = {gradient.data(), 100}});
  for (int n = 1; n <= kernels::kStagedRefreshes; ++n) {
    const Failing failing({.number = n, .error = cudaErrorMemoryAllocation, .only = "cudaMallocHost"});
    EXPECT_THROW(optimizer.prepare(), OutOfMemory) << n;
    EXPECT_EQ(cudaPeekAtLastError(), cudaSuccess);
  }
  optimizer.step();
  EXPECT_EQ(optimizer.step_count(id), 1);
}

// Without, memory comes from the current device, and goes back when what the optimizer's own stream waits for is done.
TEST_F(CudaFailures, to_have_memory_pools_change_nothing) {
  const std::vector<Shape> shapes{{5000}, {33, DataType::bfloat16, DataType::bfloat16}};
  const auto run = [&](Device device) {
    ControlModel model(Adam{}, device, shapes);
    model.optimizer.step();
    model.optimizer.remove(TensorId{1});
    model.optimizer.step();
    return model.everything();
  };
  const std::string on_cpu = run(Device::cpu());
  const int alive_at_first = alive;
  int devices = 0;
  ASSERT_EQ(cudaGetDeviceCount(&devices), cudaSuccess);
  ASSERT_EQ(cudaSetDevice(devices - 1), cudaSuccess);  // another, where there is one
  std::vector<Seen> all;
  seen = &all;
  has_pools = false;
  const std::string on_device = run(cuda_device());
  seen = nullptr;
  ASSERT_EQ(cudaSetDevice(0), cudaSuccess);
  EXPECT_TRUE(on_device == on_cpu);
  EXPECT_EQ(alive, alive_at_first);
  int given_back = 0;
  for (std::size_t i = 0; i < all.size(); ++i) {
    EXPECT_FALSE(has(all[i].name, "MallocAsync") || has(all[i].name, "FreeAsync")) << all[i].name;
    if (all[i].name != "cudaFree") continue;
    ++given_back;
    EXPECT_EQ(all.at(i - 1).name, "cudaStreamSynchronize");
  }
  EXPECT_GE(given_back, 4) << "the states and the tables of two plans, and what a step needs";
}

// What an Optimizer says where `call` of the runtime returns `code`.
std::string why_not_made(const char* call, cudaError_t code) {
  const Failing failing({.error = code, .only = call});
  try {
    const Optimizer made(Adam{}, cuda_device());
  } catch (const Unavailable& error) {
    return error.what();
  }
  return "nothing";
}

TEST_F(CudaFailures, of_a_driver_that_is_too_old_and_of_a_device_that_the_library_was_not_built_for_say_what_to_do) {
  const std::string driver = why_not_made("cudaGetDeviceCount", cudaErrorInsufficientDriver);
  for (const char* word : {"cuda:0", "driver is too old", "built with CUDA", "update the driver", "CPU"}) {
    EXPECT_NE(driver.find(word), std::string::npos) << word << " is not in: " << driver;
  }
  for (const cudaError_t error :
       {cudaErrorNoKernelImageForDevice, cudaErrorInvalidDeviceFunction, cudaErrorUnsupportedPtxVersion,
        cudaErrorJitCompilerNotFound, cudaErrorJitCompilationDisabled, cudaErrorInvalidPtx}) {
    const std::string device = why_not_made("cudaFuncGetAttributes", error);
    for (const char* word : {"cuda:0", "compute capability", "ADAMANT_CUDA_ARCHITECTURES"}) {
      EXPECT_NE(device.find(word), std::string::npos) << word << " is not in: " << device;
    }
  }
  EXPECT_EQ(cudaPeekAtLastError(), cudaSuccess);
}

// What the device reports of an earlier kernel is sticky, and not this call's doing.
TEST_F(CudaFailures, of_an_earlier_kernel_are_reported_as_such) {
  host::DeviceMemory memory(cuda_device());
  Subject subject(memory);
  const std::string before = subject.everything();
  // Those of which driver_types.h says that the process has to end: "terminated and relaunched".
  for (const cudaError_t code :
       {cudaErrorECCUncorrectable, cudaErrorIllegalAddress, cudaErrorLaunchTimeout, cudaErrorAssert,
        cudaErrorHardwareStackError, cudaErrorIllegalInstruction, cudaErrorMisalignedAddress,
        cudaErrorInvalidAddressSpace, cudaErrorInvalidPc, cudaErrorLaunchFailure, cudaErrorExternalDevice,
        cudaErrorContained, cudaErrorNvlinkUncorrectable, cudaErrorTensorMemoryLeak, cudaErrorMpsClientTerminated}) {
    try {
      const Failing failing({.error = code, .only = "cudaLaunchKernelExC"});
      subject.optimizer().step();
      ADD_FAILURE() << "not reported";
    } catch (const CudaError& error) {
      const std::string what = error.what();
      EXPECT_TRUE(error.sticky()) << what;
      EXPECT_EQ(error.code(), code);
      EXPECT_NE(what.find("launched before"), std::string::npos) << what;
      EXPECT_NE(what.find("cannot go on"), std::string::npos) << what;
    }
  }
  EXPECT_TRUE(subject.everything() == before);
}

// An error that somebody else's call left behind for this thread is theirs: it is reported, and left to them.
TEST_F(CudaFailures, of_somebody_elses_calls_are_reported_as_such_and_left_to_them) {
  host::DeviceMemory memory(cuda_device());
  Subject subject(memory);
  const std::string before = subject.everything();
  ASSERT_NE(cudaSetDevice(1 << 20), cudaSuccess);
  for (const auto& call : {std::function<void()>([&] { subject.optimizer().step(); }),
                           std::function<void()>([&] { subject.optimizer().set_learning_rate(GroupId{}, 1); })}) {
    const auto reported = [&] {
      try {
        call();
      } catch (const CudaError& error) {
        EXPECT_FALSE(error.sticky());
        throw;
      }
    };
    expect_refusal<CudaError>(reported, {"not one of adamant's", "cudaErrorInvalidDevice", "cudaGetLastError()"});
  }
  EXPECT_EQ(cudaGetLastError(), cudaErrorInvalidDevice) << "it is still there for its owner";
  EXPECT_TRUE(subject.everything() == before);
}

// --- what a device cannot use ---------------------------------------------------------------------------------------

// Promise P5: a prepared step neither waits nor allocates, and all of it is in the caller's stream.
using Trap11Streams = CudaFailures;

TEST_F(Trap11Streams, of_others_see_nothing_of_a_prepared_step_which_waits_for_nobody_and_allocates_nothing) {
  host::DeviceMemory memory(cuda_device());
  Subject subject(memory);
  subject.take_control();
  cudaStream_t stream = nullptr;
  ASSERT_EQ(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), cudaSuccess);
  const auto in_stream = [&] {
    Optimizer& optimizer = subject.optimizer();
    optimizer.set_gradient(TensorId{0}, subject.other_gradient(TensorId{0}), stream);
    optimizer.set_learning_rate(subject.group(), 0.02, stream);
    optimizer.step(stream);
  };
  in_stream();  // the first refresh of all finds its staging memory unused
  std::vector<Seen> calls_of_a_step;
  seen = &calls_of_a_step;
  in_stream();
  seen = nullptr;
  int launches = 0;
  for (const Seen& call : calls_of_a_step) {
    EXPECT_FALSE(has(call.name, "Malloc") || has(call.name, "Free") || has(call.name, "Create")) << call.name;
    // Of a refresh two steps ago: at most four may be on their way, and this one is there.
    EXPECT_FALSE(has(call.name, "DeviceSynchronize") || has(call.name, "StreamSynchronize")) << call.name;
    if (call.stream) {
      EXPECT_EQ(*call.stream, stream) << call.name;
    }
    launches += has(call.name, "Launch") ? 1 : 0;
  }
  EXPECT_GE(launches, 5);  // the setter, a norm, the scalars, an update of each combination of types
  EXPECT_EQ(cudaStreamDestroy(stream), cudaSuccess);
}

// Nobody waits for the device to give back tables that were made after the last capture, which no graph can use.
TEST_F(Trap11Streams, are_not_waited_for_where_no_graph_can_use_what_goes_back) {
  host::DeviceMemory memory(cuda_device());
  Subject subject(memory);
  Optimizer& optimizer = subject.optimizer();
  cudaStream_t stream = nullptr;
  cudaGraph_t graph = nullptr;
  ASSERT_EQ(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), cudaSuccess);
  ASSERT_EQ(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), cudaSuccess);
  optimizer.step(stream);
  ASSERT_EQ(cudaStreamEndCapture(stream, &graph), cudaSuccess);
  optimizer.freeze(TensorId{0});
  optimizer.step(stream);
  const auto waits = [&](const auto& call) {
    std::vector<Seen> calls;
    seen = &calls;
    call();
    seen = nullptr;
    return std::count_if(calls.begin(), calls.end(), [](const Seen& each) { return has(each.name, "DeviceSync"); });
  };
  EXPECT_EQ(waits([&] {
              optimizer.thaw(TensorId{0});
              optimizer.step(stream);
            }),
            0);
  EXPECT_GT(waits([&] { subject.destroy_optimizer(); }), 0) << "what the graph uses";
  EXPECT_EQ(cudaGraphDestroy(graph), cudaSuccess);
  EXPECT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
  EXPECT_EQ(cudaStreamDestroy(stream), cudaSuccess);
}

// What is in front of a step may let others begin early, or not wait for what is in front of itself.
using CudaEarlyLaunches = NeedsDevice;

TEST_F(CudaEarlyLaunches, are_all_of_a_step_but_the_first) {
  host::DeviceMemory memory(cuda_device());
  if (!kernels::can_begin_early(host::rule_index(Adam{}))) {
    GTEST_SKIP() << "this device, or a build without code for it, begins no kernel early";
  }
  Subject subject(memory);
  for (const bool measures : {false, true}) {
    if (measures) subject.take_control();
    subject.optimizer().prepare();
    for (int step = 0; step < 2; ++step) {
      std::vector<Seen> calls_of_a_step;
      seen = &calls_of_a_step;
      subject.optimizer().step();
      seen = nullptr;
      std::vector<bool> early;
      for (const Seen& call : calls_of_a_step) {
        if (has(call.name, "Launch")) early.push_back(call.begins_early);
      }
      ASSERT_GE(early.size(), measures ? 4U : 3U);
      EXPECT_FALSE(early.front());
      EXPECT_EQ(std::count(early.begin(), early.end(), false), 1);
    }
  }
}

class CudaPointers : public NeedsDevice {
 protected:
  void expect_refused(const Array& parameter, const ConstArray& gradient, const std::vector<std::string>& words) {
    expect_refusal([&] { optimizer.add({.name = "the tensor", .parameter = parameter, .gradient = gradient}); }, words);
    EXPECT_TRUE(optimizer.tensors().empty());
  }
  void expect_steps(float* parameter, const float* gradient) {
    const TensorId id = optimizer.add({.name = "x", .parameter = {parameter, 4}, .gradient = {gradient, 4}});
    optimizer.step();
    EXPECT_EQ(optimizer.step_count(id), 1);
    optimizer.remove(id);
  }

  static Optimizer make() {
    return why_no_device().empty() ? Optimizer(GradientDescent{.learning_rate = 1}, cuda_device())
                                   : Optimizer(GradientDescent{});
  }
  Optimizer optimizer = make();
  host::DeviceMemory memory{why_no_device().empty() ? cuda_device() : Device::cpu()};
  host::DeviceArray<float> there{memory, 12};
};

TEST_F(CudaPointers, of_ordinary_host_memory_are_refused) {
  float here[4] = {};
  expect_refused({here, 4}, {there.data(), 4},
                 {"the tensor", "parameter", "cuda:0", "ordinary host memory", "allowed"});
  expect_refused({there.data(), 4}, {here, 4}, {"the tensor", "gradient", "cuda:0", "ordinary host memory", "allowed"});
  const TensorId id = optimizer.add({.name = "x", .parameter = {there.data(), 4}, .gradient = {there.data() + 4, 4}});
  EXPECT_THROW(optimizer.set_gradient(id, {here, 4}), std::invalid_argument);
  EXPECT_EQ(optimizer.tensor(id).gradient.data(), there.data() + 4);
  bfloat16 narrow[4] = {};
  expect_refusal(
      [&] {
        optimizer.add({.name = "with a copy",
                       .parameter = {there.data() + 8, 4},
                       .gradient = {there.data() + 4, 4},
                       .copy = {narrow, 4}});
      },
      {"\"with a copy\": copy: ", "ordinary host memory"});
}

TEST_F(CudaPointers, that_end_outside_of_the_devices_memory_are_refused) {
  // Far enough to leave any allocation's neighbours.
  const std::int64_t count = std::int64_t{1} << 50;
  const auto* const elsewhere = reinterpret_cast<const float*>(std::uintptr_t{1} << 60);
  expect_refused({there.data(), count}, {elsewhere, count},
                 {"the tensor", "parameter", "cuda:0", "its last byte does not"});
}

TEST_F(CudaPointers, that_are_misaligned_or_overlap_are_refused) {
  const auto odd = reinterpret_cast<float*>(reinterpret_cast<std::byte*>(there.data()) + 2);
  expect_refused({odd, 1}, {there.data() + 4, 1}, {"the tensor", "parameter", "not aligned"});
  expect_refused({there.data(), 4}, {there.data() + 3, 4}, {"the tensor", "gradient", "shares memory"});
}

TEST_F(CudaPointers, of_managed_and_of_mapped_host_memory_are_taken) {
  void* managed = nullptr;
  void* pinned = nullptr;
  ASSERT_EQ(cudaMallocManaged(&managed, 64, cudaMemAttachGlobal), cudaSuccess);
  ASSERT_EQ(cudaHostAlloc(&pinned, 64, cudaHostAllocMapped | cudaHostAllocPortable), cudaSuccess);
  auto* const parameter = static_cast<float*>(managed);
  auto* const gradient = static_cast<float*>(pinned);
  for (int i = 0; i < 4; ++i) {
    parameter[i] = 10;
    gradient[i] = static_cast<float>(i);
  }
  expect_steps(parameter, gradient);
  EXPECT_EQ(parameter[3], 7.0F);
  expect_steps(gradient, parameter);
  EXPECT_EQ(gradient[3], -4.0F);
  EXPECT_EQ(cudaFree(managed), cudaSuccess);
  EXPECT_EQ(cudaFreeHost(pinned), cudaSuccess);
}

TEST_F(CudaPointers, of_host_memory_that_the_device_does_not_find_there_are_refused) {
  void* pinned = nullptr;
  ASSERT_EQ(cudaHostAlloc(&pinned, 64, cudaHostAllocPortable), cudaSuccess);
  pinned_is_at = nullptr;
  expect_refused({static_cast<float*>(pinned), 4}, {there.data(), 4}, {"pinned host memory that is not mapped"});
  pinned_is_at = there.data();
  expect_refused({static_cast<float*>(pinned), 4}, {there.data(), 4}, {"cudaHostGetDevicePointer()"});
  pinned_is_at.reset();
  EXPECT_EQ(cudaFreeHost(pinned), cudaSuccess);
}

TEST_F(CudaPointers, of_another_device_are_refused) {
  int devices = 0;
  ASSERT_EQ(cudaGetDeviceCount(&devices), cudaSuccess);
  if (devices < 2) GTEST_SKIP() << "there is one CUDA device; a second is needed";
  host::DeviceMemory of_another(Device::cuda(1));
  const host::DeviceArray<float> elsewhere(of_another, 4);
  expect_refused({elsewhere.data(), 4}, {there.data(), 4},
                 {"the tensor", "parameter", "memory of cuda:1", "allowed: memory of cuda:0"});
}

TEST_F(CudaPointers, may_not_be_asked_of_a_device_that_does_not_exist) {
  expect_refusal<Unavailable>([] { const Optimizer none(Adam{}, Device::cuda(1000)); }, {"cuda:1000", "cuda:0"});
}

}  // namespace
}  // namespace adamant::test
