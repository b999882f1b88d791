// The pages that users read, README.md, CONTRIBUTING.md and docs/*.md, and the blocks of code in them. A block begins
// with
// ``` and its language; a comment on the line before it may say what it is: <!-- fragment --> a part of a function,
// <!-- file: PATH --> the text of a file that the page tells the reader to write, <!-- copy of: PATH --> the text of a
// file of the repository.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <regex>
#include <string>
#include <vector>

#include "program.hpp"

namespace adamant::test {

struct Block {
  std::string page;  // name of its file
  int line = 0;      // of its first line of code
  std::string language;
  std::string remark;  // what the comment before it says
  std::string code;

  std::string place() const { return page + ":" + std::to_string(line); }
  bool is_fragment() const { return remark == "fragment"; }
  bool has_main() const { return std::regex_search(code, std::regex(R"(\bint\s+main\s*\()")); }
  // The PATH of a remark "WHAT: PATH", empty when it says something else.
  std::string path_of(const std::string& what) const {
    return remark.starts_with(what + ": ") ? remark.substr(what.size() + 2) : "";
  }
  // Writes it as PATH below a folder.
  void write_below(const std::filesystem::path& folder, const std::string& path) const {
    std::filesystem::create_directories((folder / path).parent_path());
    std::ofstream(folder / path) << code;
  }
};

struct Page {
  std::filesystem::path path;
  std::vector<Block> blocks;
  std::string prose;  // its lines outside of blocks

  std::string name() const { return path.filename().string(); }
};

inline Page read_page(const std::filesystem::path& path) {
  Page page{path, {}, {}};
  std::ifstream stream(path);
  EXPECT_TRUE(stream.is_open()) << path;
  std::string before;
  bool inside = false;
  int number = 0;
  for (std::string line; std::getline(stream, line);) {
    ++number;
    if (inside && line.starts_with("```")) {
      inside = false;
    } else if (inside) {
      page.blocks.back().code += line + '\n';
    } else if (line.starts_with("```")) {
      inside = true;
      const bool is_remark = before.starts_with("<!-- ") && before.ends_with(" -->");
      page.blocks.push_back(
          {page.name(), number + 1, line.substr(3), is_remark ? before.substr(5, before.size() - 9) : "", ""});
    } else {
      EXPECT_EQ(line.find("```"), std::string::npos) << path << ":" << number << ": a block begins in the first column";
      page.prose += line + '\n';
    }
    if (!line.empty()) before = line;
  }
  EXPECT_FALSE(inside) << path << ": a block has no end";
  return page;
}

inline Page read_page_of_the_repository(const std::string& name) {
  return read_page(std::filesystem::path(ADAMANT_SOURCE_DIR) / name);
}

inline std::vector<Page> all_pages() {
  const std::filesystem::path root = ADAMANT_SOURCE_DIR;
  std::vector<std::filesystem::path> files{root / "README.md", root / "CONTRIBUTING.md"};
  for (const auto& entry : std::filesystem::recursive_directory_iterator(root / "docs")) {
    if (entry.path().extension() == ".md") files.push_back(entry.path());
  }
  std::sort(files.begin(), files.end());
  std::vector<Page> pages;
  for (const auto& file : files) pages.push_back(read_page(file));
  return pages;
}

// What stands below a heading, up to the next of its level or above.
inline std::string section_of(const Page& page, const std::string& heading) {
  const std::string level = heading.substr(0, heading.find(' '));
  std::string text;
  bool inside = false;
  std::istringstream stream(page.prose);
  for (std::string line; std::getline(stream, line);) {
    const auto depth = line.find_first_not_of('#');
    if (inside && depth != std::string::npos && depth > 0 && depth <= level.size() && line[depth] == ' ') break;
    if (inside) text += line + '\n';
    if (line == heading) inside = true;
  }
  EXPECT_TRUE(inside) << page.path << " has no heading \"" << heading << "\"";
  return text;
}

// The cells of the rows of all tables of a text, without headings.
inline std::vector<std::vector<std::string>> table_rows(const std::string& text) {
  std::vector<std::vector<std::string>> rows;
  bool below_the_line = false;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) {
    if (!line.starts_with("|")) {
      below_the_line = false;
    } else if (line.find_first_not_of("|-: ") == std::string::npos) {
      below_the_line = true;
    } else if (below_the_line) {
      std::vector<std::string>& cells = rows.emplace_back();
      for (std::size_t at = 1; at < line.size();) {
        const std::size_t end = std::min(line.find('|', at), line.size());
        std::string cell = line.substr(at, end - at);
        cell.erase(0, cell.find_first_not_of(' '));
        cell.erase(cell.find_last_not_of(' ') + 1);
        cells.push_back(cell);
        at = end + 1;
      }
    }
  }
  return rows;
}

}  // namespace adamant::test
