// step() does not allocate once prepared (promise P5). A program of its own, because it counts every allocation of the
// process. Where malloc belongs to a sanitizer, or OpenMP is LLVM's, which calls it for every parallel region, only
// operator new is counted.
#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <new>

#include "tests/inputs.hpp"
#include "tests/methods.hpp"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define ADAMANT_COUNTS_MALLOC 0
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || __has_feature(memory_sanitizer)
#define ADAMANT_COUNTS_MALLOC 0
#endif
#endif
#if !defined(ADAMANT_COUNTS_MALLOC)
#if defined(__GLIBC__) && !defined(__clang__)
#define ADAMANT_COUNTS_MALLOC 1
#else
#define ADAMANT_COUNTS_MALLOC 0
#endif
#endif

namespace {
std::atomic<std::int64_t> allocations{0};
}  // namespace

#if ADAMANT_COUNTS_MALLOC
extern "C" {
void* __libc_malloc(std::size_t size);
void* __libc_calloc(std::size_t count, std::size_t size);
void* __libc_realloc(void* memory, std::size_t size);
void* __libc_memalign(std::size_t alignment, std::size_t size);
void* malloc(std::size_t size) {
  ++allocations;
  return __libc_malloc(size);
}
void* calloc(std::size_t count, std::size_t size) {
  ++allocations;
  return __libc_calloc(count, size);
}
void* realloc(void* memory, std::size_t size) {
  ++allocations;
  return __libc_realloc(memory, size);
}
void* aligned_alloc(std::size_t alignment, std::size_t size) {
  ++allocations;
  return __libc_memalign(alignment, size);
}
}
#else
__attribute__((noinline)) void* operator new(std::size_t size) {
  ++allocations;
  if (void* memory = std::malloc(size == 0 ? 1 : size)) return memory;
  throw std::bad_alloc();
}
__attribute__((noinline)) void operator delete(void* memory) noexcept { std::free(memory); }
__attribute__((noinline)) void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
#endif

namespace adamant::test {
namespace {

TEST(Allocation, is_counted) {
  const std::int64_t before = allocations;
  ::operator delete(::operator new(10));
  EXPECT_GT(allocations, before);
}

TEST(Allocation, does_not_happen_in_a_prepared_step_whatever_changes_between_steps) {
  for (const Case& c : cases()) {
    for (const int threads : {1, 3}) {
      Optimizer optimizer(c.make(), Device::cpu(), {.threads = threads, .tile = kChunk});
      const GroupId group = optimizer.add_group(c.make());
      const Fenced<float> parameter(20000), gradient(20000), other(20000);
      const Fenced<double> wide_parameter(300), wide_gradient(300);
      const TensorId id =
          optimizer.add({.name = "x", .parameter = parameter.span(), .gradient = gradient.span(), .group = group});
      optimizer.add({.name = "wide", .parameter = wide_parameter.span(), .gradient = wide_gradient.span()});
      const Method method = c.make();
      optimizer.step();  // prepares, and lets OpenMP make its threads
      const std::int64_t before = allocations;
      for (int t = 0; t < 5; ++t) {
        optimizer.set_options(group, method);
        optimizer.set_gradient(id, t % 2 == 0 ? other.span() : gradient.span());
        optimizer.set_step_count(id, 7);
        optimizer.step();
        optimizer.zero_gradients();
      }
      EXPECT_EQ(allocations - before, 0) << c.name << ", " << threads << " threads";
    }
  }
}

TEST(Allocation, of_the_first_step_is_all_done_by_prepare) {
  const Fenced<float> parameter(20000), gradient(20000);
  Optimizer optimizer(Adam{}, Device::cpu(), {.threads = 1});
  optimizer.add({.name = "x", .parameter = parameter.span(), .gradient = gradient.span()});
  const std::int64_t unprepared = allocations;
  optimizer.prepare();
  EXPECT_GT(allocations, unprepared);
  const std::int64_t before = allocations;
  optimizer.prepare();
  optimizer.step();
  EXPECT_EQ(allocations - before, 0);
}

}  // namespace
}  // namespace adamant::test
