// Memory from the user's own allocator, on the CPU and on a CUDA device: every allocation and release goes through it,
// and what it does wrong or cannot do leaves everything as it was.
#include <gtest/gtest.h>

#include <functional>
#include <map>
#include <memory>
#include <new>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "adamant/adamant.hpp"
#include "host/device_memory.hpp"
#include "tests/device.hpp"
#include "tests/inputs.hpp"
#include "tests/refusal.hpp"

namespace adamant::test {
namespace {

// An allocator that keeps the books. Its memory holds anything but zeros, and is given back only with the object:
// nothing here waits for the stream in which it is released.
class Books {
 public:
  explicit Books(Device device) : memory_(device) {}

  Allocator allocator() {
    return {.allocate = [](std::size_t bytes, Stream stream,
                           void* user) { return static_cast<Books*>(user)->allocate(bytes, stream); },
            .release = [](void* data, std::size_t bytes, Stream stream,
                          void* user) { static_cast<Books*>(user)->release(data, bytes, stream); },
            .user = this};
  }

  int calls() const { return calls_; }
  std::size_t live() const { return live_.size(); }
  std::vector<std::string> mistakes() const { return mistakes_; }
  bool holds(const void* data) const {
    const auto* at = static_cast<const std::byte*>(data);
    auto after = live_.upper_bound(at);
    if (after == live_.begin()) return false;
    --after;
    return at < after->first + after->second;
  }

  int null_at = 0;                // this call, from 1, returns null
  std::size_t offset = 0;         // by which what it returns is misaligned
  std::function<void()> instead;  // what a call does, if anything, before it allocates

 private:
  void* allocate(std::size_t bytes, Stream stream) {
    ++calls_;
    note(bytes > 0, "0 bytes were asked for");
    note((stream == nullptr) == (memory_.device() == Device::cpu()), "the stream is not one of the optimizer's own");
    if (instead) instead();
    if (calls_ == null_at) return nullptr;
    kept_.push_back(memory_.allocate(static_cast<std::int64_t>(bytes + offset)));
    memory_.write(kept_.back().get(), std::vector<std::byte>(bytes + offset, std::byte{0xCD}));
    std::byte* const data = kept_.back().get() + offset;
    live_[data] = bytes;
    return data;
  }
  void release(void* data, std::size_t bytes, Stream stream) {
    const auto found = live_.find(static_cast<std::byte*>(data));
    note(found != live_.end(), "something was released that is not allocated");
    if (found == live_.end()) return;
    note(found->second == bytes,
         std::to_string(bytes) + " bytes were released and not " + std::to_string(found->second));
    note((stream == nullptr) == (memory_.device() == Device::cpu()), "the stream is not one of the optimizer's own");
    live_.erase(found);
  }
  void note(bool right, const std::string& mistake) {
    if (!right) mistakes_.push_back(mistake);
  }

  host::DeviceMemory memory_;
  int calls_ = 0;
  std::map<const std::byte*, std::size_t> live_;
  std::vector<std::shared_ptr<std::byte>> kept_;
  std::vector<std::string> mistakes_;
};

constexpr std::int64_t kCounts[] = {5000, 0, 33, 4097};
constexpr const char* kStates[] = {"exp_avg", "exp_avg_sq"};
const std::vector<std::string> kNoMistakes;

std::vector<float> initial(std::int64_t count) { return spread_values<float>(count, 1, -4, 1); }
std::vector<float> gradient_of(std::int64_t count) { return spread_values<float>(count, 2, -8, 2); }

// Tensors on a device.
class Tensors {
 public:
  explicit Tensors(Device device) : memory_(device) {
    for (const std::int64_t count : kCounts) {
      parameters_.emplace_back(memory_, std::span<const float>(initial(count)));
      gradients_.emplace_back(memory_, std::span<const float>(gradient_of(count)));
    }
  }
  TensorSpec spec(std::size_t i) {
    return {.name = std::to_string(i),
            .parameter = {parameters_[i].data(), parameters_[i].count()},
            .gradient = {gradients_[i].data(), gradients_[i].count()}};
  }
  std::size_t size() const { return parameters_.size(); }
  std::vector<std::vector<float>> values() const {
    std::vector<std::vector<float>> all;
    for (const auto& parameter : parameters_) all.push_back(parameter.read());
    return all;
  }

 private:
  host::DeviceMemory memory_;
  std::vector<host::DeviceArray<float>> parameters_;
  std::vector<host::DeviceArray<float>> gradients_;
};

// What three steps on the CPU make of them, with memory that nobody gave.
std::vector<std::vector<float>> after_three_steps() {
  Tensors tensors(Device::cpu());
  Optimizer optimizer(Adam{});
  for (std::size_t i = 0; i < tensors.size(); ++i) optimizer.add(tensors.spec(i));
  for (int step = 0; step < 3; ++step) optimizer.step();
  return tensors.values();
}

class AllocatorTest : public testing::TestWithParam<Device> {
 protected:
  void SetUp() override {
    if (GetParam() == Device::cpu() || why_no_device().empty()) return;
    if (device_required()) FAIL() << why_no_device() << ", and ADAMANT_REQUIRE_CUDA=1";
    GTEST_SKIP() << why_no_device();
  }
};

TEST_P(AllocatorTest, serves_every_allocation_and_gets_all_of_it_back) {
  Books books(GetParam());
  Tensors tensors(GetParam());
  {
    Optimizer optimizer(Adam{}, GetParam(), {}, books.allocator());
    std::vector<TensorId> ids;
    for (std::size_t i = 0; i < tensors.size(); ++i) ids.push_back(optimizer.add(tensors.spec(i)));
    optimizer.prepare();
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      for (const char* state : kStates) {
        EXPECT_TRUE(kCounts[i] == 0 || books.holds(optimizer.state(ids[i], state).data())) << i << " " << state;
      }
    }
    const int calls = books.calls();
    EXPECT_GE(calls, GetParam() == Device::cpu() ? 1 : 4);  // a device has its tables there, too
    for (int step = 0; step < 3; ++step) optimizer.step();
    EXPECT_EQ(books.calls(), calls) << "a step allocates";
    const auto wanted = after_three_steps();
    for (std::size_t i = 0; i < tensors.size(); ++i) EXPECT_TRUE(same_bits(tensors.values()[i], wanted[i])) << i;

    // Groups and tensors without number, and states that go before the optimizer does.
    for (int i = 0; i < 300; ++i) optimizer.add_group(Adam{});
    Tensors more(GetParam());
    std::vector<TensorId> added;
    for (int round = 0; round < 3; ++round) {
      for (std::size_t i = 0; i < more.size(); ++i) {
        TensorSpec spec = more.spec(i);
        spec.name += " of " + std::to_string(round);
        if (round > 0) optimizer.remove(added[i]);
        added.resize(more.size());
        added[i] = optimizer.add(spec);
      }
      optimizer.step();
    }
    Optimizer moved(Adam{}, GetParam(), {}, books.allocator());
    const std::size_t live = books.live();
    moved = std::move(optimizer);
    EXPECT_LE(books.live(), live);
    moved.step();
  }
  EXPECT_EQ(books.live(), 0U);
  EXPECT_EQ(books.mistakes(), kNoMistakes);
}

// Every call of the allocator returns null once; what was asked for fails, changes nothing, and works the next time.
TEST_P(AllocatorTest, that_has_nothing_left_changes_nothing) {
  const auto wanted = after_three_steps();
  int failures = 0;
  for (int null_at = 1; null_at <= failures + 1; ++null_at) {
    SCOPED_TRACE(null_at);
    Books books(GetParam());
    books.null_at = null_at;
    Tensors tensors(GetParam());
    const auto before = tensors.values();
    std::optional<Optimizer> optimizer;
    std::size_t there = 0;
    const auto attempt = [&](const std::function<void()>& call) {
      try {
        call();
        return;
      } catch (const std::bad_alloc& error) {
        ++failures;
        const auto* on_device = dynamic_cast<const OutOfDeviceMemory*>(&error);
        EXPECT_EQ(on_device != nullptr, GetParam().kind == Device::Kind::cuda) << error.what();
        EXPECT_NE(dynamic_cast<const OutOfMemory*>(&error), nullptr);
        EXPECT_NE(std::string(error.what()).find("the allocator that was given returned null"), std::string::npos)
            << error.what();
      }
      for (std::size_t i = 0; i < tensors.size(); ++i) EXPECT_TRUE(same_bits(tensors.values()[i], before[i])) << i;
      if (optimizer) {
        EXPECT_EQ(optimizer->tensors().size(), there);
        for (const TensorId id : optimizer->tensors()) EXPECT_EQ(optimizer->step_count(id), 0);
      } else {
        EXPECT_EQ(books.live(), 0U);
      }
      call();
    };
    attempt([&] { optimizer.emplace(Adam{}, GetParam(), Tuning{}, books.allocator()); });
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      attempt([&] { optimizer->add(tensors.spec(i)); });
      ++there;
    }
    attempt([&] { optimizer->step(); });
    for (int step = 1; step < 3; ++step) optimizer->step();
    for (std::size_t i = 0; i < tensors.size(); ++i) EXPECT_TRUE(same_bits(tensors.values()[i], wanted[i])) << i;
    optimizer.reset();
    EXPECT_EQ(books.live(), 0U);
    EXPECT_EQ(books.mistakes(), kNoMistakes);
  }
  EXPECT_GE(failures, GetParam() == Device::cpu() ? 1 : 4);
}

TEST_P(AllocatorTest, may_throw_what_it_likes_through_the_optimizer) {
  struct Refusal {};
  Books books(GetParam());
  Tensors tensors(GetParam());
  {
    Optimizer optimizer(Adam{}, GetParam(), {}, books.allocator());
    optimizer.add(tensors.spec(0));
    books.instead = [] { throw Refusal(); };
    EXPECT_THROW(optimizer.step(), Refusal);
    books.instead = nullptr;
    for (int step = 0; step < 3; ++step) optimizer.step();
    EXPECT_TRUE(same_bits(tensors.values()[0], after_three_steps()[0]));
  }
  EXPECT_EQ(books.live(), 0U);
  EXPECT_EQ(books.mistakes(), kNoMistakes);
}

TEST_P(AllocatorTest, that_returns_misaligned_memory_is_refused_and_gets_it_back) {
  for (const std::size_t offset : {4U, 128U}) {
    Books books(GetParam());
    Tensors tensors(GetParam());
    books.offset = offset;
    const auto take = [&] {
      Optimizer optimizer(Adam{}, GetParam(), {}, books.allocator());
      optimizer.add(tensors.spec(0));
      optimizer.prepare();
    };
    expect_refusal(take, {"allocator", "256"});
    EXPECT_EQ(books.calls(), 1);
    EXPECT_EQ(books.live(), 0U);
    EXPECT_EQ(books.mistakes(), kNoMistakes);
  }
}

TEST_P(AllocatorTest, of_one_function_is_refused) {
  Books books(GetParam());
  for (const bool allocates : {false, true}) {
    Allocator half = books.allocator();
    if (allocates) {
      half.release = nullptr;
    } else {
      half.allocate = nullptr;
    }
    expect_refusal([&] { const Optimizer optimizer(Adam{}, GetParam(), {}, half); },
                   {"allocator: one of its functions is null"});
  }
  EXPECT_EQ(books.calls(), 0);
}

INSTANTIATE_TEST_SUITE_P(Devices, AllocatorTest, testing::Values(Device::cpu(), Device::cuda(0)),
                         [](const auto& info) { return info.param == Device::cpu() ? "cpu" : "cuda"; });

}  // namespace
}  // namespace adamant::test
