// The code in README.md, CONTRIBUTING.md and docs/*.md. Every block says its language. One marked ```cpp is compiled
// against the library, and run if it has a main(), and says in a comment "// prints: ..." what it prints; a fragment is
// compiled as the body of a function in which an `optimizer` and vectors of floats `parameter` and `gradient` are
// known. What is marked ```c is compiled as C99, linked and run. What is marked ```cuda is compiled by nvcc, and run
// where there is a device. Of the other languages the syntax
// is checked, and of patches that they apply. Then the links between the pages. tests/getting_started_test.cpp builds
// and runs what docs/getting-started.md says.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <regex>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "adamant/method.hpp"
#include "documents.hpp"
#include "program.hpp"
#include "tests/device.hpp"

namespace adamant::test {
namespace {

namespace fs = std::filesystem;

// All blocks of some languages.
std::vector<Block> all_blocks(const std::set<std::string>& languages) {
  std::vector<Block> blocks;
  for (const Page& page : all_pages()) {
    std::copy_if(page.blocks.begin(), page.blocks.end(), std::back_inserter(blocks),
                 [&](const Block& block) { return languages.contains(block.language); });
  }
  return blocks;
}

Outcome shell(const std::string& command, unsigned seconds = 300) {
  return run_program({"/bin/sh", "-c", command}, {.seconds = seconds});
}

bool is_installed(const std::string& tool) { return shell("command -v " + tool).exit_code == 0; }

// A fragment as a translation unit: its includes first, the rest in a scope of its own within a function.
std::string as_function(const Block& block) {
  std::string includes = "#include <adamant/adamant.hpp>\n#include <vector>\n";
  std::string body = "#line " + std::to_string(block.line) + " \"" + block.page + "\"\n";
  std::istringstream stream(block.code);
  for (std::string line; std::getline(stream, line);) {
    (line.starts_with("#include") ? includes : body) += line + '\n';
    if (line.starts_with("#include")) body += '\n';
  }
  return includes +
         "void fragment([[maybe_unused]] adamant::Optimizer& optimizer, [[maybe_unused]] std::vector<float>& "
         "parameter,\n"
         "              [[maybe_unused]] std::vector<float>& gradient) {\n  {\n" +
         body + "  }\n}\n";
}

// Runs the compiler on a text, with these words more than the flags. Returns what it says.
Outcome compiled(const Folder& folder, const std::string& code, const std::string& more) {
  std::ofstream(folder.file("block.cpp")) << code;
  return shell(std::string(ADAMANT_CXX) + " " + ADAMANT_CXX_FLAGS +
               " -std=c++20 -Wall -Wextra -Werror -Wno-unused-variable -I" + folder.file("include") + " -I" +
               ADAMANT_SOURCE_DIR + "/include " + folder.file("block.cpp") + " " + more);
}

// Runs a block that has been made a program.
void expect_that_it_runs(const Block& block, const Folder& folder) {
  const std::string program = folder.file("program");
  const Outcome ran = shell("cd " + folder.path().string() + " && ./program", 60);
  EXPECT_EQ(ran.exit_code, 0) << to_text({program}, ran);
  std::printf("%s prints:\n%s", block.place().c_str(), ran.out.c_str());
  // Where it says so in a comment of its own, that and nothing else.
  std::smatch wanted;
  if (std::regex_search(block.code, wanted, std::regex("\n *// prints: ([^\n]*)\n"))) {
    EXPECT_EQ(ran.out, wanted.str(1) + "\n");
  }
}

void expect_that_it_compiles_and_runs(const Block& block, const Folder& folder) {
  SCOPED_TRACE(block.place());
  const std::string path = block.path_of("file");
  const std::string code = block.is_fragment() ? as_function(block)
                           : path.starts_with("include/")
                               ? "#include <" + path.substr(path.find('/') + 1) + ">\n"
                               : "#line " + std::to_string(block.line) + " \"" + block.page + "\"\n" + block.code;
  const bool is_program = block.has_main() && !block.is_fragment() && block.path_of("file").empty();
  const std::string program = folder.file("program");
  const Outcome made = compiled(folder, code,
                                is_program ? "-o " + program + " " + ADAMANT_LIBRARY +
                                                 " -Wl,-rpath," ADAMANT_LIBRARY_FOLDER " " + ADAMANT_LINK_FLAGS
                                           : "-fsyntax-only");
  EXPECT_EQ(made.exit_code, 0) << made.err;
  if (made.exit_code != 0 || !is_program) return;
  expect_that_it_runs(block, folder);
}

TEST(Documents, HaveAFirstExampleThatIsAWholeProgramOfFewLines) {
  const Page readme = read_page_of_the_repository("README.md");
  ASSERT_FALSE(readme.blocks.empty());
  const Block& first = readme.blocks.front();
  EXPECT_EQ(first.language, "cpp");
  EXPECT_TRUE(first.has_main()) << first.place();
  EXPECT_LE(std::count(first.code.begin(), first.code.end(), '\n'), 30) << first.place();
}

// A language that no test below knows would be a block that nobody checks. `text` is what is no code: outputs,
// equations.
TEST(Documents, HaveBlocksOfKnownLanguages) {
  const std::set<std::string> known{"c", "cpp", "cuda", "cmake", "sh", "python", "diff", "text"};
  std::size_t count = 0;
  for (const Page& page : all_pages()) {
    count += page.blocks.size();
    for (const Block& block : page.blocks) {
      EXPECT_TRUE(known.contains(block.language)) << block.place() << ": ```" << block.language;
      EXPECT_TRUE(block.remark.empty() || block.is_fragment() || !block.path_of("file").empty() ||
                  !block.path_of("copy of").empty())
          << block.place() << ": <!-- " << block.remark << " -->";
    }
  }
  EXPECT_GT(count, 0U);
}

// The headers that a page tells the reader to write are there for its other blocks to include.
TEST(Documents, HaveOnlyExamplesThatCompileAndRun) {
  std::size_t count = 0;
  for (const Page& page : all_pages()) {
    const Folder folder{on_disk()};
    for (const Block& block : page.blocks) {
      const std::string path = block.path_of("file");
      if (path.starts_with("include/")) block.write_below(folder.path(), path);
    }
    for (const Block& block : page.blocks) {
      if (block.language != "cpp") continue;
      expect_that_it_compiles_and_runs(block, folder);
      ++count;
    }
  }
  EXPECT_GT(count, 0U) << "there is no ```cpp block";
}

// By a C compiler; what C++ needs is linked by that of C++, as pkg-config would say it (Consumers.in_c_static).
TEST(Documents, HaveProgramsInCThatCompileAndRun) {
  const std::vector<Block> blocks = all_blocks({"c"});
  EXPECT_GT(blocks.size(), 0U);
  for (const Block& block : blocks) {
    const Folder folder{on_disk()};
    block.write_below(folder.path(), "block.c");
    const Outcome made =
        shell(ADAMANT_C " -std=c99 -pedantic -Wall -Wextra -Werror -I" ADAMANT_SOURCE_DIR "/include -c " +
              folder.file("block.c") + " -o " + folder.file("block.o") + " && " ADAMANT_CXX " " ADAMANT_CXX_FLAGS " " +
              folder.file("block.o") + " -o " + folder.file("program") +
              " " ADAMANT_LIBRARY " -Wl,-rpath," ADAMANT_LIBRARY_FOLDER " " ADAMANT_LINK_FLAGS);
    EXPECT_EQ(made.exit_code, 0) << block.place() << made.err;
    if (made.exit_code == 0) expect_that_it_runs(block, folder);
  }
}

// With the library linked in; run where there is a device.
TEST(Documents, HaveDeviceCodeThatCompilesAndRuns) {
  const std::string compiler = ADAMANT_CUDA_COMPILE;
  if (compiler.empty()) GTEST_SKIP() << "this tree has no CUDA backend";
  const bool runs = is_emulated() || device_required() || why_no_device().empty();
  for (const Block& block : all_blocks({"cuda"})) {
    const Folder folder{on_disk()};
    block.write_below(folder.path(), "block.cu");
    const Outcome made =
        shell(compiler + " -std=c++20 -I" ADAMANT_SOURCE_DIR "/include " + folder.file("block.cu") + " -o " +
              folder.file("program") + " " ADAMANT_LIBRARY " -Xlinker -rpath," ADAMANT_LIBRARY_FOLDER " -lgomp");
    ASSERT_EQ(made.exit_code, 0) << block.place() << made.err;
    if (!runs) continue;
    const Outcome ran = shell(ADAMANT_SOURCE_DIR "/tests/run_device_test.sh " + folder.file("program"));
    EXPECT_EQ(ran.exit_code, 0) << block.place() << ran.err;
    EXPECT_EQ(ran.out, "0.500\n") << block.place();
  }
  if (!runs) GTEST_SKIP() << why_no_device();
}

TEST(Documents, HaveShellCommandsThatBashCanRead) {
  for (const Block& block : all_blocks({"sh"})) {
    const Folder folder{on_disk()};
    block.write_below(folder.path(), "block.sh");
    const Outcome outcome = shell("bash -n " + folder.file("block.sh"));
    EXPECT_TRUE(outcome.exit_code == 0 && outcome.err.empty()) << block.place() << outcome.err;
  }
}

// As the body of a function that is not called, which is parsed and not run.
TEST(Documents, HaveCMakeThatCMakeCanRead) {
  for (Block& block : all_blocks({"cmake"})) {
    const Folder folder{on_disk()};
    block.code = "function(adamant_block)\n" + block.code + "endfunction()\n";
    block.write_below(folder.path(), "block.cmake");
    const Outcome outcome = shell(std::string(ADAMANT_CMAKE) + " -P " + folder.file("block.cmake"));
    EXPECT_EQ(outcome.exit_code, 0) << block.place() << outcome.err;
  }
}

TEST(Documents, HavePythonThatPythonCanRead) {
  if (!is_installed("python3")) GTEST_SKIP() << "python3 is not installed";
  for (const Block& block : all_blocks({"python"})) {
    const Folder folder{on_disk()};
    block.write_below(folder.path(), "block.py");
    const Outcome outcome = shell("python3 -c 'import sys; compile(open(sys.argv[1]).read(), sys.argv[1], \"exec\")' " +
                                  folder.file("block.py"));
    EXPECT_EQ(outcome.exit_code, 0) << block.place() << outcome.err;
  }
}

TEST(Documents, ShowFilesOfTheRepositoryAsTheyAre) {
  int count = 0;
  for (const Page& page : all_pages()) {
    for (const Block& block : page.blocks) {
      const std::string path = block.path_of("copy of");
      if (path.empty()) continue;
      ++count;
      EXPECT_EQ(block.code, contents(fs::path(ADAMANT_SOURCE_DIR) / path)) << block.place();
    }
  }
  EXPECT_GT(count, 0);
}

// --- A method is added as docs/adding-a-method.md says, to a copy

class AddedMethod : public testing::Test {
 protected:
  void SetUp() override {
    if (!is_installed("git")) GTEST_SKIP() << "git, which applies patches, is not installed";
  }

  // Copies these folders and files and makes the page's changes to them.
  void change_a_copy(const std::vector<std::string>& what) {
    for (const std::string& path : what) {
      fs::create_directories((folder.path() / path).parent_path());
      fs::copy(fs::path(ADAMANT_SOURCE_DIR) / path, folder.path() / path, fs::copy_options::recursive);
    }
    int patches = 0;
    for (const Block& block : read_page_of_the_repository("docs/adding-a-method.md").blocks) {
      if (!block.path_of("file").empty()) block.write_below(folder.path(), block.path_of("file"));
      if (block.language != "diff") continue;
      block.write_below(folder.path(), "patch");
      const Outcome outcome = shell("cd " + folder.path().string() + " && git apply --unidiff-zero patch && rm patch");
      ASSERT_EQ(outcome.exit_code, 0) << block.place() << ": " << outcome.err;
      ++patches;
    }
    ASSERT_GE(patches, 2);
  }

  Folder folder{on_disk()};
};

TEST_F(AddedMethod, compiles_and_is_one_of_the_methods) {
  change_a_copy({"include", "host/reference.hpp", "host/reference.cpp", "host/text.hpp", "tests/methods.hpp"});
  const std::string folder_flags = " -I" + folder.path().string();
  const Outcome reference =
      compiled(folder, contents(folder.path() / "host/reference.cpp"), "-fsyntax-only" + folder_flags);
  EXPECT_EQ(reference.exit_code, 0) << reference.err;
  const Outcome interface = compiled(folder,
                                     "#include <adamant/adamant.hpp>\n#include \"tests/methods.hpp\"\n"
                                     "static_assert(std::is_constructible_v<adamant::Method, adamant::Adagrad>);\n"
                                     "static_assert(std::variant_size_v<adamant::Method> == " +
                                         std::to_string(method_names().size() + 1) + ");\n",
                                     "-fsyntax-only" + folder_flags);
  EXPECT_EQ(interface.exit_code, 0) << interface.err;
}

// The whole of it: the library and its tests are built with the method, and its own tests pass.
TEST_F(AddedMethod, Full_passes_the_tests_that_are_generated_for_it) {
  change_a_copy({"CMakeLists.txt", "cmake", "docs", "examples", "host", "include", "kernels", "tests"});
  const std::string build = folder.file("build");
  const Outcome made =
      shell("cd " + folder.path().string() + " && " + ADAMANT_CMAKE + " -B build -DCMAKE_CXX_COMPILER=" + ADAMANT_CXX +
                " -DCMAKE_BUILD_TYPE=Release -DADAMANT_BENCH=OFF -DADAMANT_TOOLS=OFF " +
                "-DADAMANT_EXAMPLES=OFF -DADAMANT_CUDA=OFF 2>&1 && " + ADAMANT_CMAKE +
                " --build build --parallel 2 --target adamant_tests 2>&1",
            2400);
  ASSERT_EQ(made.exit_code, 0) << made.out;
  const Outcome ran = shell(build + "/tests/adamant_tests --gtest_filter='*adagrad*'", 500);
  EXPECT_EQ(ran.exit_code, 0) << ran.out;
  EXPECT_TRUE(std::regex_search(ran.out, std::regex(R"(PASSED  \] [0-9]{2,} tests)"))) << ran.out;
}

// --- Links

// The anchor that a heading gets.
std::string anchor_of(const std::string& heading) {
  std::string anchor;
  for (const char c : heading.substr(heading.find_first_not_of("# "))) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == ' ') anchor += '-';
    if (std::isalnum(byte) != 0 || c == '-' || c == '_' || byte >= 0x80)
      anchor += static_cast<char>(std::tolower(byte));
  }
  return anchor;
}

std::vector<std::string> links_of(const Page& page) {
  static const std::regex kLink(R"(\]\(([^)\s]+)\))");
  std::vector<std::string> links;
  for (std::sregex_iterator at(page.prose.begin(), page.prose.end(), kLink); at != std::sregex_iterator(); ++at) {
    links.push_back((*at)[1]);
  }
  return links;
}

// Empty when it leads somewhere.
std::string fault_of(const std::string& link, const Page& page) {
  if (link.starts_with("https://")) return "";
  const std::string path = link.substr(0, link.find('#'));
  const fs::path target = path.empty() ? page.path : page.path.parent_path() / path;
  if (!fs::exists(target)) return "there is no " + target.string();
  if (link.find('#') == std::string::npos) return "";
  const std::string anchor = link.substr(link.find('#') + 1);
  std::istringstream stream(read_page(target).prose);
  for (std::string line; std::getline(stream, line);) {
    if (line.starts_with("#") && anchor_of(line) == anchor) return "";
  }
  return target.string() + " has no heading #" + anchor;
}

TEST(Documents, LinkToFilesAndHeadingsThatAreThere) {
  std::size_t count = 0;
  for (const Page& page : all_pages()) {
    for (const std::string& link : links_of(page)) {
      EXPECT_EQ(fault_of(link, page), "") << page.name() << ": " << link;
      ++count;
    }
  }
  EXPECT_GT(count, 10U);
}

TEST(Documents, AreEachReachedFromTheReadme) {
  const Page readme = read_page_of_the_repository("README.md");
  const std::vector<std::string> links = links_of(readme);
  for (const Page& page : all_pages()) {
    const std::string path = fs::relative(page.path, ADAMANT_SOURCE_DIR).string();
    EXPECT_TRUE(path == "README.md" || std::find(links.begin(), links.end(), path) != links.end()) << path;
  }
}

// --- What finds the blocks and the links is a program too

TEST(Documents, AreReadBlockByBlock) {
  const Folder folder{on_disk()};
  std::ofstream(folder.file("page.md"))
      << "text\n```cpp\nint main() {}\n```\n```sh\nint main() {}\n```\n"
         "<!-- fragment -->\n\n```cpp\n#include <span>\noptimizer.step();\n```\n"
         "<!-- file: a/b.txt -->\n```\nno code\n```\n```cpp\nint x;\n```\n## Oh, `a_b`!\n";
  const Page page = read_page(folder.path() / "page.md");
  const std::vector<Block>& blocks = page.blocks;
  ASSERT_EQ(blocks.size(), 5U);
  EXPECT_EQ(blocks[0].code, "int main() {}\n");
  EXPECT_EQ(blocks[0].language, "cpp");
  EXPECT_EQ(blocks[0].line, 3);
  EXPECT_TRUE(blocks[0].has_main());
  EXPECT_FALSE(blocks[0].is_fragment());
  EXPECT_EQ(blocks[1].language, "sh");
  EXPECT_TRUE(blocks[2].is_fragment());
  EXPECT_FALSE(blocks[2].has_main());
  EXPECT_EQ(blocks[2].line, 11);
  EXPECT_EQ(blocks[3].language, "");
  EXPECT_EQ(blocks[3].path_of("file"), "a/b.txt");
  EXPECT_EQ(blocks[4].code, "int x;\n");
  EXPECT_EQ(blocks[4].remark, "");
  EXPECT_EQ(page.prose.find("int"), std::string::npos);

  EXPECT_EQ(fault_of("page.md#oh-a_b", page), "");
  EXPECT_EQ(fault_of("#oh-a_b", page), "");
  EXPECT_NE(fault_of("#oh", page), "");
  EXPECT_NE(fault_of("no.md", page), "");

  EXPECT_EQ(compiled(folder, as_function(blocks[2]), "-fsyntax-only").exit_code, 0);
  EXPECT_NE(compiled(folder, as_function({"page.md", 1, "cpp", "fragment", "optimizer.leap();\n"}), "-fsyntax-only")
                .exit_code,
            0);
}

TEST(Documents, HaveTablesThatAreReadRowByRow) {
  const auto rows = table_rows("x\n| a | b |\n|---|--:|\n| `c` | d e |\n\n| f |\n|---|\n| g |\n");
  const std::vector<std::vector<std::string>> wanted{{"`c`", "d e"}, {"g"}};
  EXPECT_EQ(rows, wanted);
}

}  // namespace
}  // namespace adamant::test
