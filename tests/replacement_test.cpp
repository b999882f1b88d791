// Whatever the system does while a checkpoint is saved, there is the former file or the new one, whole, and the error
// says which. The linker hands the library's system calls to the functions below (--wrap), which fail as told.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <set>
#include <string>
#include <system_error>
#include <vector>

#include "adamant/adamant.hpp"
#include "tests/folder.hpp"

namespace {

// What happens to the calls of a save: `fault` is asked before each, and may kill, fail or shorten it.
enum class Happens { nothing, failure, interruption, half, empty, kill, kill_in_the_middle };

struct Call {
  std::string name;
  int number;  // from 1
};

std::function<Happens(const Call&)> fault;  // null: calls are let through uncounted
int calls = 0;
int failure_code = EIO;
std::vector<std::string> names;

Happens next(const char* name) {
  if (!fault) return Happens::nothing;
  names.emplace_back(name);
  return fault({name, ++calls});
}

// For calls that are done or not done.
bool fails(const char* name) {
  const Happens what = next(name);
  if (what == Happens::kill || what == Happens::kill_in_the_middle) ::raise(SIGKILL);
  if (what != Happens::failure && what != Happens::interruption) return false;
  errno = what == Happens::failure ? failure_code : EINTR;
  return true;
}

ssize_t write_as_told(const char* name, std::size_t size, const std::function<ssize_t(std::size_t)>& write) {
  const Happens what = next(name);
  switch (what) {
    case Happens::kill: ::raise(SIGKILL); break;
    case Happens::kill_in_the_middle:
      write(size / 2);
      ::raise(SIGKILL);
      break;
    case Happens::failure:
    case Happens::interruption: errno = what == Happens::failure ? failure_code : EINTR; return -1;
    case Happens::half: return write((size + 1) / 2);
    case Happens::empty: return 0;
    case Happens::nothing: break;
  }
  return write(size);
}

}  // namespace

// NOLINTBEGIN(bugprone-reserved-identifier,cert-dcl37-c,cert-dcl51-cpp): the names that --wrap asks for
extern "C" {
ssize_t __real_write(int descriptor, const void* data, std::size_t size);
ssize_t __real_pwrite(int descriptor, const void* data, std::size_t size, off_t offset);
int __real_open(const char* path, int flags, ...);
int __real_fchmod(int descriptor, mode_t mode);
int __real_fchown(int descriptor, uid_t owner, gid_t group);
int __real_fsync(int descriptor);
int __real_close(int descriptor);
int __real_rename(const char* from, const char* to);

ssize_t __wrap_write(int descriptor, const void* data, std::size_t size) {
  return write_as_told("write", size, [&](std::size_t some) { return __real_write(descriptor, data, some); });
}
ssize_t __wrap_pwrite(int descriptor, const void* data, std::size_t size, off_t offset) {
  return write_as_told("pwrite", size, [&](std::size_t some) { return __real_pwrite(descriptor, data, some, offset); });
}
int __wrap_open(const char* path, int flags, ...) {
  std::va_list arguments;
  va_start(arguments, flags);
  const unsigned mode = (flags & O_CREAT) != 0 ? va_arg(arguments, unsigned) : 0;
  va_end(arguments);
  return fails("open") ? -1 : __real_open(path, flags, mode);
}
int __wrap_fchmod(int descriptor, mode_t mode) { return fails("fchmod") ? -1 : __real_fchmod(descriptor, mode); }
int __wrap_fchown(int descriptor, uid_t owner, gid_t group) {
  return fails("fchown") ? -1 : __real_fchown(descriptor, owner, group);
}
int __wrap_fsync(int descriptor) { return fails("fsync") ? -1 : __real_fsync(descriptor); }
int __wrap_close(int descriptor) {
  const bool failed = fails("close");
  const int code = errno;
  const int result = __real_close(descriptor);  // Linux closes whatever it says
  errno = failed ? code : errno;
  return failed ? -1 : result;
}
int __wrap_rename(const char* from, const char* to) { return fails("rename") ? -1 : __real_rename(from, to); }
}
// NOLINTEND(bugprone-reserved-identifier,cert-dcl37-c,cert-dcl51-cpp)

namespace adamant::test {
namespace {

namespace fs = std::filesystem;

// A checkpoint on disk and a newer state to be saved over it.
class Replacing : public testing::Test {
 protected:
  Replacing() {
    optimizer.add({.name = "w", .parameter = parameter, .gradient = gradient});
    optimizer.add({.name = "b", .parameter = bias, .gradient = bias_gradient});
    optimizer.step();
    optimizer.save(path);
    former = contents(path);
    optimizer.step();
    optimizer.save(folder / "newer");
    newer = contents(folder / "newer");
    fs::remove(folder / "newer");
  }
  ~Replacing() override { fault = nullptr; }

  // Saves with this fault in force.
  void save_with(const std::function<Happens(const Call&)>& happens) {
    calls = 0;
    names.clear();
    fault = happens;
    try {
      optimizer.save(path);
    } catch (...) {
      fault = nullptr;
      throw;
    }
    fault = nullptr;
  }

  void put_the_former_back() { std::ofstream(path, std::ios::binary) << former; }
  std::ptrdiff_t files() const { return std::distance(fs::directory_iterator(folder), {}); }

  std::vector<float> parameter = std::vector<float>(300'000, 1.0F);  // more than one piece
  std::vector<float> gradient = std::vector<float>(300'000, 0.25F);
  std::vector<double> bias = std::vector<double>(7, 2.0);
  std::vector<double> bias_gradient = std::vector<double>(7, -0.5);
  Optimizer optimizer{Momentum{}};
  const Folder own_folder;
  const fs::path folder = own_folder.path();
  const fs::path path = folder / "run.safetensors";
  std::string former;
  std::string newer;
};

TEST_F(Replacing, syncs_the_file_before_it_is_renamed_and_the_folder_after) {
  save_with([](const Call&) { return Happens::nothing; });
  EXPECT_EQ(contents(path), newer);
  ASSERT_GE(names.size(), 9U);
  EXPECT_EQ(std::vector<std::string>(names.end() - 7, names.end()),
            (std::vector<std::string>{"pwrite", "fsync", "close", "rename", "open", "fsync", "close"}));
  EXPECT_EQ(names[0], "open");
  EXPECT_GE(std::count(names.begin(), names.end(), "write"), 6);  // the test would be weak with fewer
}

TEST_F(Replacing, killed_at_any_call_leaves_the_former_file_or_the_new_one_whole) {
  std::vector<float> other_parameter(parameter.size());
  std::vector<double> other_bias(bias.size());
  Optimizer other(Momentum{});
  other.add({.name = "w", .parameter = other_parameter, .gradient = gradient});
  other.add({.name = "b", .parameter = other_bias, .gradient = bias_gradient});
  std::set<std::string> seen;
  for (const Happens how : {Happens::kill, Happens::kill_in_the_middle}) {
    bool finished = false;
    for (int at = 1; !finished; ++at) {
      put_the_former_back();
      const pid_t child = ::fork();
      ASSERT_GE(child, 0);
      if (child == 0) {
        save_with([&](const Call& call) { return call.number == at ? how : Happens::nothing; });
        ::_exit(0);
      }
      int status = 0;
      ASSERT_EQ(::waitpid(child, &status, 0), child);
      finished = WIFEXITED(status);
      EXPECT_TRUE(finished || WTERMSIG(status) == SIGKILL);
      const std::string there = contents(path);
      EXPECT_TRUE(there == former || there == newer) << "killed at call " << at << ": " << there.size() << " bytes";
      seen.insert(there == former ? "former" : there == newer ? "newer" : "torn");
      EXPECT_NO_THROW(other.load(path)) << "killed at call " << at;
    }
  }
  EXPECT_EQ(seen, (std::set<std::string>{"former", "newer"}));
}

TEST_F(Replacing, with_any_call_failing_says_whether_it_was_saved_and_leaves_no_other_file) {
  for (const int code : {EIO, ENOSPC, EDQUOT, EROFS}) {
    failure_code = code;
    int not_saved = 0;
    int unsure = 0;
    for (int at = 1;; ++at) {
      put_the_former_back();
      bool hit = false;
      std::string name;
      try {
        save_with([&](const Call& call) {
          hit = hit || call.number == at;
          if (call.number == at) name = call.name;
          return call.number == at ? Happens::failure : Happens::nothing;
        });
        EXPECT_EQ(contents(path), newer);
        // Only permissions that are taken over and the closing of the folder, after all is done, may fail unsaid.
        EXPECT_TRUE(!hit || name == "fchmod" || name == "close") << name;
        if (!hit) break;
      } catch (const NotSaved& error) {
        ++not_saved;
        EXPECT_EQ(contents(path), former) << name;
        EXPECT_EQ(error.code().value(), code);
        EXPECT_NE(std::string(error.what()).find(path.string() + "' was not saved: cannot "), std::string::npos)
            << error.what();
      } catch (const DurabilityUnsure& error) {
        ++unsure;
        EXPECT_EQ(contents(path), newer) << name;
        EXPECT_EQ(error.code().value(), code);
        EXPECT_NE(std::string(error.what()).find("was saved, but"), std::string::npos) << error.what();
      }
      EXPECT_EQ(files(), 1) << name;
    }
    EXPECT_GE(not_saved, 10);
    EXPECT_EQ(unsure, 2);  // opening and syncing the folder
  }
}

TEST_F(Replacing, lets_nobody_read_while_it_is_written_what_only_its_owner_may_read) {
  fs::permissions(path, fs::perms::owner_read | fs::perms::owner_write);
  const mode_t mask = ::umask(0);
  int seen = 0;
  save_with([&](const Call& call) {
    for (const auto& file : fs::directory_iterator(folder)) {
      EXPECT_EQ(file.status().permissions(), fs::perms::owner_read | fs::perms::owner_write) << call.name;
      ++seen;
    }
    return Happens::nothing;
  });
  ::umask(mask);
  EXPECT_GT(seen, 10);
}

// Where the process may give a file away; where it may not the group, which is another, has no rights to it.
TEST_F(Replacing, hands_on_whose_the_file_was_or_is_more_private) {
  constexpr uid_t kOwner = 12345;
  constexpr gid_t kGroup = 23456;
  if (::chown(path.c_str(), kOwner, kGroup) != 0) GTEST_SKIP() << "this process may give no file away";
  for (const bool may : {true, false}) {
    ASSERT_EQ(::chown(path.c_str(), kOwner, kGroup), 0);
    ASSERT_EQ(::chmod(path.c_str(), 0660), 0);
    save_with([&](const Call& call) { return call.name == "fchown" && !may ? Happens::failure : Happens::nothing; });
    struct stat now {};
    ASSERT_EQ(::stat(path.c_str(), &now), 0);
    EXPECT_EQ(contents(path), newer);
    EXPECT_EQ(now.st_uid, may ? kOwner : ::geteuid());
    EXPECT_EQ(now.st_gid == kGroup, may);
    EXPECT_EQ(now.st_mode & 0777, may ? 0660U : 0600U);
  }
}

TEST_F(Replacing, goes_on_after_interrupted_calls) {
  bool interrupted = false;
  save_with([&](const Call&) {
    interrupted = !interrupted;  // every other time
    return interrupted ? Happens::interruption : Happens::nothing;
  });
  EXPECT_EQ(contents(path), newer);
  EXPECT_EQ(files(), 1);
}

TEST_F(Replacing, goes_on_after_short_writes) {
  save_with([&](const Call&) { return Happens::half; });
  EXPECT_EQ(contents(path), newer);
  EXPECT_GT(calls, 100);
}

TEST_F(Replacing, takes_a_write_of_nothing_for_a_full_disk_and_does_not_try_for_ever) {
  EXPECT_THROW(save_with([](const Call& call) { return call.name == "write" ? Happens::empty : Happens::nothing; }),
               NotSaved);
  EXPECT_EQ(contents(path), former);
  EXPECT_EQ(files(), 1);
}

TEST_F(Replacing, is_not_disturbed_by_what_a_killed_process_of_the_same_number_left) {
  for (int i = 0; i < 2000; ++i) {
    std::ofstream(folder / (".adamant-" + std::to_string(::getpid()) + "-" + std::to_string(i) + ".tmp")) << "left";
  }
  optimizer.save(path);
  EXPECT_EQ(contents(path), newer);
  EXPECT_EQ(files(), 2001);
}

}  // namespace
}  // namespace adamant::test
