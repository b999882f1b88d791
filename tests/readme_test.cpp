// The C++ of README.md and docs/*.md: every block marked ```cpp is compiled against the library, and run if it has a
// main(). A block that is only a fragment has the line <!-- fragment --> before it and is compiled as the body of a
// function in which an `optimizer` and vectors of floats `parameter` and `gradient` are known.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <regex>
#include <sstream>
#include <string>
#include <vector>

#include "program.hpp"

namespace adamant {
namespace {

namespace fs = std::filesystem;
using test::contents;
using test::Folder;
using test::Outcome;
using test::run_program;

struct Block {
  std::string file;
  int line;  // of its first line of code
  bool is_fragment;
  std::string code;

  std::string place() const { return file + ":" + std::to_string(line); }
  bool has_main() const { return std::regex_search(code, std::regex(R"(\bint\s+main\s*\()")); }
};

std::vector<Block> blocks_of(const fs::path& path) {
  std::vector<Block> blocks;
  std::ifstream stream(path);
  std::string before;
  bool inside = false;
  int number = 0;
  for (std::string line; std::getline(stream, line);) {
    ++number;
    if (inside && line.starts_with("```")) {
      inside = false;
    } else if (inside) {
      blocks.back().code += line + '\n';
    } else if (line == "```cpp") {
      inside = true;
      blocks.push_back({path.filename().string(), number + 1, before == "<!-- fragment -->", ""});
    }
    if (!line.empty()) before = line;
  }
  EXPECT_FALSE(inside) << path << ": a block has no end";
  return blocks;
}

std::vector<Block> all_blocks() {
  const fs::path root = ADAMANT_SOURCE_DIR;
  std::vector<fs::path> files{root / "README.md"};
  if (fs::is_directory(root / "docs")) {
    for (const auto& entry : fs::recursive_directory_iterator(root / "docs")) {
      if (entry.path().extension() == ".md") files.push_back(entry.path());
    }
  }
  std::sort(files.begin() + 1, files.end());
  std::vector<Block> blocks;
  for (const fs::path& file : files) {
    for (Block& block : blocks_of(file)) blocks.push_back(std::move(block));
  }
  return blocks;
}

// A fragment as a translation unit: its includes first, the rest in a scope of its own within a function.
std::string as_function(const Block& block) {
  std::string includes = "#include <adamant/adamant.hpp>\n#include <vector>\n";
  std::string body = "#line " + std::to_string(block.line) + " \"" + block.file + "\"\n";
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
  const std::string command = std::string(ADAMANT_CXX) + " " + ADAMANT_CXX_FLAGS +
                              " -std=c++20 -Wall -Wextra -Werror -Wno-unused-variable -I" + ADAMANT_SOURCE_DIR +
                              "/include " + folder.file("block.cpp") + " " + more;
  return run_program({"/bin/sh", "-c", command}, {.seconds = 300});
}

TEST(Documents, HaveAFirstExampleThatIsAWholeProgramOfFewLines) {
  const fs::path readme = fs::path(ADAMANT_SOURCE_DIR) / "README.md";
  ASSERT_TRUE(fs::exists(readme));
  const std::vector<Block> blocks = blocks_of(readme);
  ASSERT_FALSE(blocks.empty()) << "README.md has no ```cpp block";
  EXPECT_TRUE(blocks.front().has_main()) << blocks.front().place();
  EXPECT_LE(std::count(blocks.front().code.begin(), blocks.front().code.end(), '\n'), 30) << blocks.front().place();
}

TEST(Documents, HaveOnlyExamplesThatCompileAndRun) {
  const std::vector<Block> blocks = all_blocks();
  ASSERT_FALSE(blocks.empty()) << "there is no ```cpp block";
  for (const Block& block : blocks) {
    SCOPED_TRACE(block.place());
    const Folder folder;
    const std::string code = block.is_fragment
                                 ? as_function(block)
                                 : "#line " + std::to_string(block.line) + " \"" + block.file + "\"\n" + block.code;
    const bool is_program = block.has_main() && !block.is_fragment;
    const std::string program = folder.file("program");
    const Outcome made = compiled(folder, code,
                                  is_program ? "-o " + program + " " + ADAMANT_LIBRARY +
                                                   " -Wl,-rpath," ADAMANT_LIBRARY_FOLDER " " + ADAMANT_LINK_FLAGS
                                             : "-fsyntax-only");
    EXPECT_EQ(made.exit_code, 0) << made.err;
    if (made.exit_code != 0 || !is_program) continue;
    const Outcome ran = run_program({program});
    EXPECT_EQ(ran.exit_code, 0) << to_text({program}, ran);
    std::printf("%s prints:\n%s", block.place().c_str(), ran.out.c_str());
  }
}

// What finds the blocks is a program too.
TEST(Documents, AreReadBlockByBlock) {
  const Folder folder;
  std::ofstream(folder.file("page.md")) << "text\n```cpp\nint main() {}\n```\n```sh\nint main() {}\n```\n"
                                           "<!-- fragment -->\n\n```cpp\n#include <span>\noptimizer.step();\n```\n"
                                           "```\nno code\n```\n```cpp\nint x;\n```\n";
  const std::vector<Block> blocks = blocks_of(folder.path() / "page.md");
  ASSERT_EQ(blocks.size(), 3U);
  EXPECT_EQ(blocks[0].code, "int main() {}\n");
  EXPECT_EQ(blocks[0].line, 3);
  EXPECT_TRUE(blocks[0].has_main());
  EXPECT_FALSE(blocks[0].is_fragment);
  EXPECT_TRUE(blocks[1].is_fragment);
  EXPECT_FALSE(blocks[1].has_main());
  EXPECT_EQ(blocks[1].line, 11);
  EXPECT_EQ(blocks[2].code, "int x;\n");
  EXPECT_FALSE(blocks[2].is_fragment);

  EXPECT_EQ(compiled(folder, as_function(blocks[1]), "-fsyntax-only").exit_code, 0);
  EXPECT_NE(compiled(folder, as_function({"page.md", 1, true, "optimizer.leap();\n"}), "-fsyntax-only").exit_code, 0);
}

}  // namespace
}  // namespace adamant
