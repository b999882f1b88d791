// docs/getting-started.md from end to end: its files are written, its commands build and run them against the installed
// library, and the trainer is killed, at any moment and in the midst of a save, and started again until it ends with
// the bits of the run that nobody disturbed. The CMake of README.md is configured, too.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <string>
#include <thread>

#include "documents.hpp"
#include "program.hpp"

namespace adamant::test {
namespace {

namespace fs = std::filesystem;
using std::chrono::milliseconds;

// The commands of the environment that the tests' own build has.
std::string as_this_build(const fs::path& folder, const std::string& commands) {
  return "set -e\ncd '" + folder.string() +
         "'\nexport CXX='" ADAMANT_CXX "' CXXFLAGS='" ADAMANT_CXX_FLAGS "' CMAKE_GENERATOR='" ADAMANT_GENERATOR
         "' CMAKE_CXX_COMPILER_LAUNCHER='" ADAMANT_LAUNCHER "'\n" +
         commands;
}

Outcome shell(const fs::path& folder, const std::string& commands) {
  const std::string text = as_this_build(folder, commands);
  return run_program({"/bin/sh", "-c", text}, {.seconds = 400});
}

// What identifies a version of a file: each save makes a new one.
std::string identity_of(const fs::path& path) {
  struct stat found {};
  if (::stat(path.c_str(), &found) != 0) return "";
  return std::to_string(found.st_ino) + " " + std::to_string(found.st_mtim.tv_sec) + " " +
         std::to_string(found.st_mtim.tv_nsec);
}

bool is_being_saved(const fs::path& folder) {
  std::error_code gone_meanwhile;
  for (fs::directory_iterator at(folder, gone_meanwhile); at != fs::directory_iterator();
       at.increment(gone_meanwhile)) {
    if (at->path().filename().string().starts_with(".adamant-")) return true;
  }
  return false;
}

// A run of the trainer in a folder of its own.
class Training {
 public:
  Training(const std::string& program, const fs::path& folder) : out_(folder / "out") {
    child_ = ::fork();
    if (child_ != 0) return;
    const int out = ::open(out_.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (out < 0 || ::chdir(folder.c_str()) != 0) ::_exit(126);
    ::dup2(out, STDOUT_FILENO);
    ::alarm(300);
    ::execl(program.c_str(), program.c_str(), nullptr);
    ::_exit(127);
  }
  // Whether it has ended by itself.
  bool has_ended() {
    if (!ended_) ended_ = ::waitpid(child_, &status_, WNOHANG) == child_;
    return ended_;
  }
  void kill() {
    if (has_ended()) return;
    ::kill(child_, SIGKILL);
    ended_ = ::waitpid(child_, &status_, 0) == child_;
  }
  void wait() {
    if (!ended_) ended_ = ::waitpid(child_, &status_, 0) == child_;
  }
  bool was_killed() const { return WIFSIGNALED(status_) && WTERMSIG(status_) == SIGKILL; }
  bool has_succeeded() const { return WIFEXITED(status_) && WEXITSTATUS(status_) == 0; }
  std::string output() const { return contents(out_); }

 private:
  fs::path out_;
  pid_t child_ = -1;
  int status_ = 0;
  bool ended_ = false;
};

std::string last_line(const std::string& text) {
  const std::size_t end = text.find_last_not_of('\n');
  const std::size_t before = text.rfind('\n', end);
  return text.substr(before == std::string::npos ? 0 : before + 1, end - before);
}

long begin_of(const std::string& output) {
  const std::string words = "begins after step ";
  return output.starts_with(words) ? std::atol(output.c_str() + words.size()) : -1;
}

TEST(GettingStarted, ends_with_the_same_bits_however_often_the_trainer_is_killed) {
  ASSERT_TRUE(fs::exists(ADAMANT_INSTALLED)) << "ctest installs the library there before this test";
  const Page page = read_page_of_the_repository("docs/getting-started.md");
  const Folder folder{on_disk()};
  fs::create_directory_symlink(ADAMANT_INSTALLED, folder.path() / "installed");
  int files = 0;
  std::string commands;
  for (const Block& block : page.blocks) {
    const std::string path = block.path_of("file");
    if (!path.empty()) block.write_below(folder.path(), path), ++files;
    if (block.language == "sh" && block.code.starts_with("cmake -S trainer")) commands = block.code;
  }
  ASSERT_EQ(files, 2);
  ASSERT_FALSE(commands.empty()) << "the page does not say how the trainer is built";
  const Outcome made = shell(folder.path(), commands);
  ASSERT_EQ(made.exit_code, 0) << made.out << made.err;
  const std::string wanted = last_line(made.out);
  ASSERT_TRUE(wanted.starts_with("step 2000, the weights' bits: ")) << made.out;
  ASSERT_NE(made.out.find("begins after step 0\n"), std::string::npos) << made.out;

  const std::string program = folder.file("trainer/build/trainer");
  Training finished(program, folder.path());  // beside the checkpoint of the run that has ended
  finished.wait();
  EXPECT_EQ(finished.output(), "begins after step 2000\n" + wanted + "\n");

  const fs::path killed = folder.path() / "killed";
  fs::create_directory(killed);
  const fs::path checkpoint = killed / "trainer.safetensors";
  int kills = 0;
  int kills_while_saving = 0;
  long former_begin = 0;
  for (int attempt = 0; attempt < 8; ++attempt) {
    SCOPED_TRACE(attempt);
    for (const auto& entry : fs::directory_iterator(killed)) {  // what a kill has left, as the page says
      if (entry.path().filename().string().starts_with(".adamant-")) fs::remove(entry.path());
    }
    const std::string before = identity_of(checkpoint);
    Training run(program, killed);
    while (!run.has_ended() && identity_of(checkpoint) == before) std::this_thread::sleep_for(milliseconds(1));
    if (attempt % 3 == 0) {  // in the midst of a save, if it can be caught there
      while (!run.has_ended() && !is_being_saved(killed)) {
      }
    } else {
      std::this_thread::sleep_for(milliseconds(attempt));
    }
    run.kill();
    if (!run.was_killed()) {
      EXPECT_TRUE(run.has_succeeded());
      break;  // it was faster
    }
    ++kills;
    kills_while_saving += is_being_saved(killed) ? 1 : 0;
    const long begin = begin_of(run.output());
    EXPECT_TRUE(kills == 1 ? begin == 0 : begin > former_begin && begin < 2000 && begin % 50 == 0) << run.output();
    former_begin = begin;
  }
  EXPECT_GE(kills, 3) << "the trainer is too fast to be killed";
  std::printf("killed %d times, %d of them while it was saving\n", kills, kills_while_saving);
  Training last(program, killed);
  last.wait();
  EXPECT_TRUE(last.has_succeeded());
  EXPECT_GT(begin_of(last.output()), former_begin);
  EXPECT_EQ(last_line(last.output()), wanted);
}

// A file that is no checkpoint of this trainer is left as it is.
TEST(GettingStarted, refuses_a_damaged_checkpoint_and_leaves_it_alone) {
  ASSERT_TRUE(fs::exists(ADAMANT_INSTALLED)) << "ctest installs the library there before this test";
  const Page page = read_page_of_the_repository("docs/getting-started.md");
  const Folder folder{on_disk()};
  fs::create_directory_symlink(ADAMANT_INSTALLED, folder.path() / "installed");
  std::string commands;
  for (const Block& block : page.blocks) {
    if (!block.path_of("file").empty()) block.write_below(folder.path(), block.path_of("file"));
    if (block.code.starts_with("cmake -S trainer")) commands = block.code;
  }
  std::ofstream(folder.file("trainer.safetensors")) << "no checkpoint";
  const Outcome outcome = shell(folder.path(), commands);
  EXPECT_EQ(outcome.exit_code, 1);
  EXPECT_NE(outcome.err.find("nothing was loaded"), std::string::npos) << outcome.err;
  EXPECT_EQ(contents(folder.path() / "trainer.safetensors"), "no checkpoint");
}

// Each is the middle of a project.
TEST(GettingStarted, has_cmake_in_the_readme_that_configures) {
  int count = 0;
  for (const Block& block : read_page_of_the_repository("README.md").blocks) {
    if (block.language != "cmake") continue;
    ++count;
    const Folder folder{on_disk()};
    std::string code = block.code;
    const std::string source = "GIT_REPOSITORY URL_OF_ADAMANT GIT_TAG COMMIT";
    if (const std::size_t found = code.find(source); found != std::string::npos) {
      code.replace(found, source.size(), "SOURCE_DIR " ADAMANT_SOURCE_DIR);
    }
    Block project = block;
    project.code =
        "cmake_minimum_required(VERSION 3.25)\nproject(reader LANGUAGES CXX)\nadd_executable(your_target main.cpp)\n" +
        code;
    project.write_below(folder.path(), "CMakeLists.txt");
    std::ofstream(folder.file("main.cpp")) << "int main() {}\n";
    const Outcome outcome = shell(folder.path(), "cmake -B build -DCMAKE_PREFIX_PATH='" ADAMANT_INSTALLED "'");
    EXPECT_EQ(outcome.exit_code, 0) << block.place() << outcome.err;
  }
  EXPECT_EQ(count, 2);
}

}  // namespace
}  // namespace adamant::test
