// Reads the project's own sources and finds what the layer rules forbid: includes of a higher layer, CUDA headers where
// plain C++ lives, methods named in kernels, functions that the rules or the library may not call. That each public
// header compiles alone is the target adamant_public_headers.
#include <gtest/gtest.h>

#include <algorithm>
#include <cctype>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <regex>
#include <set>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

namespace adamant::test {
namespace {

namespace fs = std::filesystem;

struct Source {
  std::string path;  // from the project's root
  std::string code;  // without comments and the text of literals; line breaks kept
  std::string folder() const { return path.substr(0, path.find('/')); }
  std::string extension() const { return fs::path(path).extension().string(); }
};

// Blanks out comments and the text of literals.
std::string code_of(const std::string& text) {
  std::string code = text;
  std::size_t i = 0;
  const auto blank = [&](std::size_t end) {
    for (; i < std::min(end, text.size()); ++i) {
      if (code[i] != '\n') code[i] = ' ';
    }
  };
  const auto is_include = [&] { return text.compare(text.rfind('\n', i) + 1, 8, "#include") == 0; };
  while (i < text.size()) {
    const char quote = text[i];
    if (text.compare(i, 2, "//") == 0) {
      blank(text.find('\n', i));
    } else if (text.compare(i, 2, "/*") == 0) {
      blank(text.find("*/", i) + 2);
    } else if ((quote == '"' && !is_include()) ||
               // Not one between the digits of a number.
               (quote == '\'' && i > 0 && std::isalnum(static_cast<unsigned char>(text[i - 1])) == 0)) {
      std::size_t end = i + 1;
      while (end < text.size() && text[end] != quote && text[end] != '\n') end += text[end] == '\\' ? 2 : 1;
      ++i;
      blank(end);
      ++i;
    } else {
      ++i;
    }
  }
  return code;
}

std::string read(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

const std::vector<std::string> kFolders{"include", "kernels", "host", "tools", "tests", "bench", "examples"};

const std::vector<Source>& sources() {
  static const std::vector<Source> all = [] {
    const std::set<std::string> extensions{".h", ".c", ".hpp", ".cpp", ".inl", ".cu", ".cuh"};
    const fs::path root = ADAMANT_SOURCE_DIR;
    std::vector<Source> list;
    for (const std::string& folder : kFolders) {
      if (!fs::exists(root / folder)) continue;
      for (const auto& entry : fs::recursive_directory_iterator(root / folder)) {
        if (!entry.is_regular_file() || !extensions.contains(entry.path().extension().string())) continue;
        list.push_back({fs::relative(entry.path(), root).generic_string(), code_of(read(entry.path()))});
      }
    }
    std::sort(list.begin(), list.end(), [](const Source& a, const Source& b) { return a.path < b.path; });
    return list;
  }();
  return all;
}

std::vector<Source> sources_in(const std::string& prefix) {
  std::vector<Source> list;
  std::copy_if(sources().begin(), sources().end(), std::back_inserter(list),
               [&](const Source& source) { return source.path.rfind(prefix, 0) == 0; });
  return list;
}

struct Include {
  std::string text;
  bool quoted;
};

std::vector<Include> includes(const Source& source) {
  static const std::regex pattern(R"re((?:^|\n)[ \t]*#[ \t]*include[ \t]*(["<])([^">\n]+)[">])re");
  std::vector<Include> list;
  for (std::sregex_iterator it(source.code.begin(), source.code.end(), pattern), end; it != end; ++it) {
    list.push_back({(*it)[2].str(), (*it)[1].str() == "\""});
  }
  return list;
}

std::vector<std::string> words(const std::string& code) {
  static const std::regex pattern("[A-Za-z_][A-Za-z0-9_]*");
  return {std::sregex_token_iterator(code.begin(), code.end(), pattern), std::sregex_token_iterator()};
}

void expect_none_of(const std::vector<Source>& list, const std::set<std::string>& forbidden, const char* why) {
  ASSERT_FALSE(list.empty());
  for (const Source& source : list) {
    for (const std::string& word : words(source.code)) {
      EXPECT_FALSE(forbidden.contains(word)) << source.path << " says `" << word << "`: " << why;
    }
  }
}

bool is_cuda_header(const std::string& name) {
  static const std::regex pattern(
      R"((cuda|cu|cub|thrust|nvtx3|cooperative_groups|nccl|curand|cublas)[a-z_0-9/]*(\.h|\.hpp|\.cuh)?|.*\.cuh)");
  static const std::regex folder(R"((cuda|cub|thrust|nvtx3|cooperative_groups)/.*)");
  return std::regex_match(name, folder) || (std::regex_match(name, pattern) && name.find("adamant") != 0);
}

// The one public header for those who use CUDA's own types.
const std::string kOptIn = "include/adamant/cuda.hpp";

// What compiles for devices or calls CUDA's runtime, and measurements of it.
bool may_see_cuda(const Source& source) {
  static const std::regex kernel(R"(kernels/([a-z_0-9]+\.cuh?|cuda_[a-z_]+\.(cpp|hpp)|launch\.hpp))");
  return source.path == kOptIn || source.folder() == "bench" || std::regex_match(source.path, kernel) ||
         source.folder() == "tests";
}

// The folder that an include names; files beside each other include by bare name.
std::string folder_of(const Source& source, const Include& include) {
  if (include.text.rfind("adamant/", 0) == 0) return "include";
  const std::size_t slash = include.text.find('/');
  if (slash == std::string::npos) return include.quoted ? source.folder() : "";
  const std::string first = include.text.substr(0, slash);
  return std::find(kFolders.begin(), kFolders.end(), first) != kFolders.end() ? first : "";
}

int layer(const std::string& folder) {
  static const std::map<std::string, int> layers{{"include", 0}, {"kernels", 1}, {"host", 2},    {"tools", 3},
                                                 {"bench", 3},   {"tests", 3},   {"examples", 3}};
  const auto found = layers.find(folder);
  return found == layers.end() ? -1 : found->second;
}

// Sources of the library itself, not of what stands beside it.
std::vector<Source> library_sources() {
  const std::string beside = ADAMANT_CHECKS_SOURCES;  // "host/measure.cpp host/reference.cpp ..."
  std::set<std::string> stems;
  std::stringstream stream(beside);
  for (std::string path; stream >> path;) stems.insert(fs::path(path).stem().string());
  EXPECT_FALSE(stems.empty());
  std::vector<Source> list = sources_in("host/");
  std::erase_if(list, [&](const Source& s) { return stems.contains(fs::path(s.path).stem().string()); });
  for (const char* folder : {"include/", "kernels/"}) {
    const std::vector<Source> more = sources_in(folder);
    list.insert(list.end(), more.begin(), more.end());
  }
  return list;
}

TEST(Layers, are_all_there_to_be_read) {
  for (const char* prefix : {"include/adamant/rules/", "kernels/", "host/", "tests/"}) {
    EXPECT_GE(sources_in(prefix).size(), 4U) << prefix;
  }
  EXPECT_GE(library_sources().size(), 30U);
}

TEST(Layers, include_nothing_from_a_higher_one) {
  for (const Source& source : sources()) {
    for (const Include& include : includes(source)) {
      const std::string folder = folder_of(source, include);
      if (folder.empty()) continue;
      EXPECT_LE(layer(folder), layer(source.folder())) << source.path << " includes " << include.text;
    }
  }
}

TEST(Layers, of_public_headers_include_only_the_standard_library_and_each_other) {
  static const std::regex standard("[a-z_0-9]+"), standard_of_c("std[a-z]+\\.h");
  for (const Source& source : sources_in("include/")) {
    for (const Include& include : includes(source)) {
      if (source.path == kOptIn && is_cuda_header(include.text)) continue;
      const bool ours = include.quoted && include.text.rfind("adamant/", 0) == 0;
      const std::regex& others = source.extension() == ".h" ? standard_of_c : standard;
      EXPECT_TRUE(ours || (!include.quoted && std::regex_match(include.text, others) && !is_cuda_header(include.text)))
          << source.path << " includes " << include.text;
    }
  }
}

TEST(Layers, see_cuda_headers_only_where_devices_are_programmed) {
  for (const Source& source : sources()) {
    for (const Include& include : includes(source)) {
      EXPECT_TRUE(may_see_cuda(source) || !is_cuda_header(include.text)) << source.path << " includes " << include.text;
    }
  }
}

// The file of ours that an include names, or null.
const Source* included(const Source& source, const Include& include) {
  std::vector<std::string> places{include.text, (fs::path(source.path).parent_path() / include.text).generic_string()};
  if (include.text.rfind("adamant/", 0) == 0) places = {"include/" + include.text};
  for (const Source& each : sources()) {
    if (std::find(places.begin(), places.end(), each.path) != places.end()) return &each;
  }
  return nullptr;
}

TEST(Layers, keep_cuda_headers_from_the_interface_the_host_and_the_tools_through_other_headers_too) {
  std::size_t through_others = 0;
  for (const Source& first : sources()) {
    if (first.path == kOptIn || !std::set<std::string>{"include", "host", "tools"}.contains(first.folder())) continue;
    std::vector<const Source*> seen{&first};
    for (std::size_t i = 0; i < seen.size(); ++i) {
      for (const Include& include : includes(*seen[i])) {
        EXPECT_FALSE(is_cuda_header(include.text))
            << first.path << " includes " << seen[i]->path << ", which includes " << include.text;
        const Source* next = included(*seen[i], include);
        if (next != nullptr && std::find(seen.begin(), seen.end(), next) == seen.end()) seen.push_back(next);
      }
    }
    through_others = std::max(through_others, seen.size());
  }
  EXPECT_GE(through_others, 10U) << "no include of a file of ours was found";
}

TEST(Layers, launch_kernels_only_from_one_file) {
  for (const Source& source : sources()) {
    if (source.path == "kernels/launch.cu" || source.folder() == "tests" || source.folder() == "bench") continue;
    EXPECT_EQ(source.code.find("<<<"), std::string::npos) << source.path << " launches a kernel";
  }
}

TEST(Layers, ask_which_compiler_is_at_work_only_where_shared_arithmetic_is_defined) {
  const std::set<std::string> may{"include/adamant/macros.hpp", "include/adamant/arithmetic.hpp", "kernels/narrow.hpp",
                                  "kernels/philox.hpp",         "kernels/dependent_launch.cuh",   "kernels/update.cuh"};
  const std::set<std::string> forbidden{"__CUDACC__", "__CUDA_ARCH__", "__NVCC__"};
  std::vector<Source> list = sources();
  std::erase_if(list, [&](const Source& s) { return may.contains(s.path) || s.folder() == "tests"; });
  expect_none_of(list, forbidden,
                 "only the macros, the shared arithmetic and what one architecture knows tell compilers apart");
}

TEST(Kernels, name_no_method) {
  // Every type of a rule file, and every method's name in lower case.
  std::set<std::string> names;
  static const std::regex type(R"((?:struct|class|enum class)\s+([A-Za-z_]\w*))");
  for (const Source& source : sources_in("include/adamant/rules/")) {
    for (std::sregex_iterator it(source.code.begin(), source.code.end(), type), end; it != end; ++it) {
      names.insert((*it)[1].str());
    }
    names.insert(fs::path(source.path).stem().string());
  }
  EXPECT_TRUE(names.contains("Adam") && names.contains("RMSPropRule") && names.contains("gradient_descent"));
  names.erase("Step");
  expect_none_of(sources_in("kernels/"), names, "a kernel names no method");
  for (const Source& source : sources_in("kernels/")) {
    for (const Include& include : includes(source)) {
      EXPECT_EQ(include.text.find("rules/"), std::string::npos) << source.path << " includes " << include.text;
    }
  }
}

TEST(Rules, use_no_function_whose_result_differs_between_machines) {
  std::set<std::string> forbidden;
  for (const char* name : {"pow", "fma", "exp", "exp2", "expm1", "log", "log2", "log1p", "sqrt", "cbrt", "hypot",
                           "rsqrt", "rcbrt", "remainder", "fmod"}) {
    const std::string text = name;
    for (const char* prefix : {"", "__builtin_", "__"}) {
      for (const char* suffix : {"", "f", "l", "_rn", "f_rn"}) forbidden.insert(prefix + text + suffix);
    }
  }
  std::vector<Source> list = sources_in("include/adamant/rules/");
  for (const Source& source : sources_in("include/adamant/")) {
    if (source.path.find("/rules/") != std::string::npos) continue;
    list.push_back(source);
  }
  for (const Source& source : sources_in("kernels/")) list.push_back(source);
  for (const char* allowed : {"__builtin_sqrt", "__builtin_sqrtf"}) {  // in arithmetic.hpp, correctly rounded
    forbidden.erase(allowed);
    for (const Source& source : list) {
      if (source.path == "include/adamant/arithmetic.hpp") continue;
      EXPECT_EQ(source.code.find(allowed), std::string::npos) << source.path;
    }
  }
  // The word is that of a master, too; a call is what is forbidden.
  forbidden.erase("remainder");
  static const std::regex call(R"(\bremainder\s*\()");
  for (const Source& source : list) {
    EXPECT_FALSE(std::regex_search(source.code, call)) << source.path << " calls `remainder`";
  }
  expect_none_of(list, forbidden, "only + - * / and square_root() are the same everywhere");
}

// Types at the level of a namespace that has a name, or of none, each with its namespace: what a program has once.
std::vector<std::string> types_of(const Source& source) {
  static const std::regex opens_namespace(R"(namespace\s*([\w:]*)\s*$)");
  static const std::regex opens_type(
      R"((?:struct|class|enum class)\s+(?:\[\[[^\]]*\]\]\s*|ADAMANT_API\s+|alignas\([^)]*\)\s*)*(\w+)(?:\s+final)?(?:\s*:[^:].*)?\s*$)");
  std::vector<std::string> types;
  std::vector<std::string> scopes;  // the names of namespaces, "{" for everything else
  std::size_t begin = 0;            // of what may open a scope
  for (std::size_t i = 0; i < source.code.size(); ++i) {
    const char character = source.code[i];
    if (character == '{') {
      const std::string before = source.code.substr(begin, i - begin);
      const bool in_namespaces = std::find(scopes.begin(), scopes.end(), "{") == scopes.end();
      std::smatch found;
      if (std::regex_search(before, found, opens_namespace)) {
        scopes.push_back(found[1].length() > 0 ? found[1].str() + "::" : "{");  // one without a name is a file's own
      } else {
        if (in_namespaces && std::regex_search(before, found, opens_type) &&
            before.find("template <>") == std::string::npos && found[1] != "Step") {
          std::string name;
          for (const std::string& scope : scopes) name += scope;
          types.push_back(name + found[1].str());
        }
        scopes.push_back("{");
      }
    }
    if (character == '}' && !scopes.empty()) scopes.pop_back();
    if (character == ';' || character == '{' || character == '}') begin = i + 1;
  }
  return types;
}

// Two types of one name are one to the linker, which takes the destructor of either for both.
TEST(Layers, give_no_two_types_the_same_name) {
  std::map<std::string, std::string> places;
  for (const Source& source : sources()) {
    if (source.folder() == "tests" || source.folder() == "examples" || source.extension() == ".h") continue;
    for (const std::string& type : types_of(source)) {
      const auto [there, is_new] = places.emplace(type, source.path);
      EXPECT_TRUE(is_new || there->second == source.path)
          << type << " is defined in " << there->second << " and in " << source.path;
    }
  }
  EXPECT_TRUE(places.contains("adamant::Optimizer") && places.contains("adamant::tools::ReplayComparison"));
  EXPECT_GT(places.size(), 100U);
}

TEST(Library, neither_prints_nor_ends_the_process_nor_reads_the_environment) {
  expect_none_of(library_sources(),
                 {"getenv", "secure_getenv", "setenv", "exit", "_exit", "quick_exit", "abort", "terminate", "assert",
                  "printf", "fprintf", "puts", "fputs", "fwrite", "perror", "cout", "cerr", "clog", "system"},
                 "the library throws and is silent");
}

// In that for C, which has no namespaces, the constants are called as macros are.
TEST(PublicHeaders, define_two_macros_and_use_no_other) {
  const std::set<std::string> may{"ADAMANT_HOST_DEVICE", "ADAMANT_API"};
  static const std::regex define(R"((?:^|\n)[ \t]*#[ \t]*define[ \t]+(\w+))");
  std::set<std::string> defined;
  for (const Source& source : sources_in("include/")) {
    for (std::sregex_iterator it(source.code.begin(), source.code.end(), define), end; it != end; ++it) {
      EXPECT_TRUE(may.contains((*it)[1].str())) << source.path << " defines " << (*it)[1].str();
      defined.insert((*it)[1].str());
    }
    for (const std::string& word : words(source.code)) {
      if (source.extension() == ".h") continue;
      EXPECT_TRUE(word.rfind("ADAMANT_", 0) != 0 || may.contains(word)) << source.path << " uses " << word;
    }
    EXPECT_NE(source.code.find("#pragma once"), std::string::npos) << source.path;
  }
  EXPECT_EQ(defined, may);
}

}  // namespace
}  // namespace adamant::test
