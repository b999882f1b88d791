// Promise P9 in the library's object files, as nm and objdump show them: no symbol that a copy in a user's program or
// code of a higher SIMD level could replace, no instruction outside a level, no fused multiply-add, and loops that are
// vectorised at their level's full width.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <map>
#include <memory>
#include <regex>
#include <sstream>
#include <string>
#include <vector>

#include "kernels/rule_list.hpp"
#include "kernels/storage.hpp"

namespace adamant::test {
namespace {

std::string output_of(const std::string& command) {
  struct Close {
    void operator()(std::FILE* pipe) const { pclose(pipe); }
  };
  const std::unique_ptr<std::FILE, Close> pipe(popen(command.c_str(), "r"));
  std::string text;
  char buffer[1 << 16];
  while (pipe != nullptr) {
    const std::size_t count = std::fread(buffer, 1, sizeof buffer, pipe.get());
    if (count == 0) break;
    text.append(buffer, count);
  }
  return text;
}

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  return lines;
}

// The library's object files, as CMake lists them.
const std::vector<std::string>& objects() {
  static const std::vector<std::string> all = [] {
    std::ifstream file(ADAMANT_OBJECT_LIST);
    std::vector<std::string> list;
    for (std::string line; std::getline(file, line);) {
      if (!line.empty()) list.push_back(line);
    }
    return list;
  }();
  return all;
}

// {"avx2": ".../cpu_update_avx2.cpp.o", ...}
std::map<std::string, std::string> update_objects() {
  static const std::regex pattern(R"(.*cpu_update_(\w+)\.cpp\.\w+)");
  std::map<std::string, std::string> found;
  for (const std::string& object : objects()) {
    std::smatch match;
    if (std::regex_match(object, match, pattern)) found[match[1].str()] = object;
  }
  return found;
}

struct Symbol {
  char kind;  // as nm has it
  std::string name;
  bool local() const { return kind >= 'a' && kind <= 'z' && kind != 'u' && kind != 'v' && kind != 'w'; }
  // What the linker may replace by another file's copy.
  bool weak() const { return kind == 'W' || kind == 'w' || kind == 'V' || kind == 'v' || kind == 'u'; }
  bool weak_function() const { return kind == 'W'; }
};

std::vector<Symbol> symbols(const std::string& object, const std::string& options) {
  static const std::regex pattern(R"([0-9a-fA-F]*\s+([A-Za-z]) (.*))");
  std::vector<Symbol> list;
  for (const std::string& line : lines_of(output_of(ADAMANT_NM " " + options + " '" + object + "'"))) {
    std::smatch match;
    if (std::regex_match(line, match, pattern)) list.push_back({match[1].str()[0], match[2].str()});
  }
  return list;
}

// Why the code in the objects is not what users get, or nothing.
std::string instrumented() {
  for (const std::string& object : objects()) {
    for (const Symbol& symbol : symbols(object, "--undefined-only")) {
      if (std::regex_search(symbol.name, std::regex("^_*(asan|ubsan|tsan|gcov|llvm_prof)_"))) {
        return "the library is instrumented (" + symbol.name + ")";
      }
    }
  }
  return {};
}
std::string not_optimised_for_x86() {
#if !defined(__x86_64__)
  return "looks at x86-64 instructions";
#endif
  const std::string type = ADAMANT_BUILD_TYPE;
  if (type != "Release" && type != "RelWithDebInfo") return "needs a Release build, this is " + type;
  if (std::string(ADAMANT_BUILD_FLAGS).find("-m") != std::string::npos) {
    return "the build's own flags choose instructions: " ADAMANT_BUILD_FLAGS;
  }
  return instrumented();
}

// Instructions by demangled function; parts that the compiler split off count as the function.
std::map<std::string, std::vector<std::string>> disassembly(const std::string& object) {
  static const std::regex heading(R"(^[0-9a-f]+ <(.*)>:$)");
  static const std::regex part(R"( \(?\[clone [^\]]*\]\)?| \(\.[a-z0-9.]+\))");
  std::map<std::string, std::vector<std::string>> functions;
  std::vector<std::string>* current = nullptr;
  for (const std::string& line : lines_of(output_of(ADAMANT_OBJDUMP " -d -C --no-show-raw-insn '" + object + "'"))) {
    std::smatch match;
    if (!line.empty() && line.back() == ':' && std::regex_match(line, match, heading)) {
      current = &functions[std::regex_replace(match[1].str(), part, "")];
    } else if (const std::size_t tab = line.find('\t'); current != nullptr && tab != std::string::npos) {
      current->push_back(line.substr(tab + 1));
    }
  }
  return functions;
}

bool any(const std::vector<std::string>& instructions, const std::regex& pattern, std::string* which = nullptr) {
  for (const std::string& instruction : instructions) {
    if (!std::regex_search(instruction, pattern)) continue;
    if (which != nullptr) *which = instruction;
    return true;
  }
  return false;
}

TEST(Symbols, come_from_every_simd_level_of_this_architecture) {
  EXPECT_GE(objects().size(), 9U) << ADAMANT_OBJECT_LIST;
#if defined(__x86_64__)
  EXPECT_EQ(update_objects().size(), 3U);
#else
  EXPECT_EQ(update_objects().size(), 1U);
#endif
}

TEST(Symbols, of_a_simd_level_are_local_but_for_its_table) {
  if (const std::string why = instrumented(); !why.empty()) GTEST_SKIP() << why;
  for (const auto& [level, object] : update_objects()) {
    std::vector<std::string> others;
    for (const Symbol& symbol : symbols(object, "-C --defined-only")) {
      EXPECT_FALSE(symbol.weak()) << object << " defines " << symbol.name;
      if (!symbol.local()) others.push_back(symbol.name);
    }
    EXPECT_EQ(others, std::vector<std::string>{"adamant::host::" + level + "::update_table()"}) << object;
  }
}

TEST(Symbols, of_a_simd_level_call_nothing_that_another_file_could_provide) {
  if (const std::string why = instrumented(); !why.empty()) GTEST_SKIP() << why;
  for (const auto& [level, object] : update_objects()) {
    for (const Symbol& symbol : symbols(object, "-C --undefined-only")) {
      EXPECT_TRUE(symbol.name == "_GLOBAL_OFFSET_TABLE_" || symbol.name.rfind("__stack_chk", 0) == 0 ||
                  symbol.name == "memcpy" || symbol.name == "memset")
          << object << " calls " << symbol.name;
    }
  }
}

// A user's program holds copies of what is in public headers, compiled with the user's flags.
TEST(Symbols, of_rules_and_arithmetic_are_none_that_could_be_replaced) {
  const std::regex arithmetic(
      R"(Rule|Moments|::Step<|RunningSum|DecayPower|decay_power|square_root|at_step|kernels::apply|canonical)");
  for (const std::string& object : objects()) {
    for (const Symbol& symbol : symbols(object, "-C --defined-only")) {
      // Constants are the same in every copy; what comes before the parenthesis is the function itself.
      if (!symbol.weak_function()) continue;
      std::string function = symbol.name.substr(0, symbol.name.find('('));
      if (function.rfind("std::", 0) == 0) continue;
      EXPECT_FALSE(std::regex_search(function, arithmetic)) << object << " defines " << symbol.name;
    }
  }
}

// nlohmann's JSON is compiled under a name of our own, of which nobody else has a copy.
TEST(Symbols, that_could_be_replaced_stand_for_no_floating_point_arithmetic) {
  if (const std::string why = not_optimised_for_x86(); !why.empty()) GTEST_SKIP() << why;
  const std::regex floating(R"(^v?(add|sub|mul|div|sqrt|min|max|u?comi|cmp\w*|cvt\w+|round)(s|p)[sd]\b|^v?cvt)");
  for (const std::string& object : objects()) {
    const auto functions = disassembly(object);
    for (const Symbol& symbol : symbols(object, "-C --defined-only")) {
      EXPECT_EQ(symbol.name.find("nlohmann"), std::string::npos) << object << " defines " << symbol.name;
      if (!symbol.weak_function() || symbol.name.find("adamant_json::") != std::string::npos) continue;
      const auto found = functions.find(symbol.name);
      if (found == functions.end()) continue;
      std::string which;
      EXPECT_FALSE(any(found->second, floating, &which)) << object << ": " << symbol.name << " has " << which;
    }
  }
}

TEST(Instructions, are_those_of_the_level_that_the_file_is_for) {
  if (const std::string why = not_optimised_for_x86(); !why.empty()) GTEST_SKIP() << why;
  const std::regex wide(R"(%[yz]mm|%k[0-7]\b|^v[a-z])");
  const std::regex widest(R"(%zmm|%k[0-7]\b|%[xy]mm(1[6-9]|2\d|3[01]))");
  for (const std::string& object : objects()) {
    if (object == update_objects()["avx512"]) continue;
    const bool avx2 = object == update_objects()["avx2"];
    for (const auto& [function, instructions] : disassembly(object)) {
      std::string which;
      EXPECT_FALSE(any(instructions, avx2 ? widest : wide, &which)) << object << ": " << function << " has " << which;
    }
  }
}

TEST(Instructions, fuse_no_multiplication_and_addition) {
  if (const std::string why = instrumented(); !why.empty()) GTEST_SKIP() << why;
#if !defined(__x86_64__)
  const std::regex fused(R"(\b(fn?m(add|sub)|fml[as])\b)");
#else
  const std::regex fused(R"(vfn?m(add|sub))");
#endif
  for (const std::string& object : objects()) {
    for (const auto& [function, instructions] : disassembly(object)) {
      std::string which;
      EXPECT_FALSE(any(instructions, fused, &which)) << object << ": " << function << " has " << which;
    }
  }
}

// Every operation that the remainder loop does on one element is also done on a whole register.
TEST(Instructions, of_every_update_loop_fill_whole_registers) {
  if (const std::string why = not_optimised_for_x86(); !why.empty()) GTEST_SKIP() << why;
  const std::map<std::string, std::string> registers{{"baseline", "%xmm"}, {"avx2", "%ymm"}, {"avx512", "%zmm"}};
  for (const auto& [level, object] : update_objects()) {
    std::size_t loops = 0;
    const std::string& whole = registers.at(level);
    for (const auto& [function, body] : disassembly(object)) {
      if (function.find("::update<") == std::string::npos) continue;
      ++loops;
      const std::vector<std::string>& instructions = body;  // a lambda of C++20 in clang 14 takes no structured binding
      SCOPED_TRACE(object + ": " + function);
      const std::string type = function.find("Storage<double") != std::string::npos ? "d" : "s";
      const auto packed = [&](const char* operation) {
        return any(instructions, std::regex(std::string("^v?") + operation + "p" + type + "\\b.*" + whole));
      };
      const auto scalar = [&](const char* operation) {
        return any(instructions, std::regex(std::string("^v?") + operation + "s" + type + "\\b"));
      };
      EXPECT_TRUE(packed("mul"));
      for (const char* operation : {"add", "sub", "div", "sqrt"}) {
        EXPECT_TRUE(!scalar(operation) || packed(operation)) << operation << " is done one element at a time only";
      }
    }
    EXPECT_EQ(loops, kernels::Rules::kSize * kernels::Storages::kSize) << object;
  }
}

// Compilers drop calls of functions that do nothing but ask memory for a line. Loops of two states and of none
// ask for each line of every array.
TEST(Instructions, ask_memory_ahead_for_every_line_where_that_was_seen_to_help) {
  if (const std::string why = not_optimised_for_x86(); !why.empty()) GTEST_SKIP() << why;
  const std::regex asks("^prefetch");
  for (const auto& [level, object] : update_objects()) {
    std::map<std::string, std::int64_t> asked;
    bool has_norm = false;
    for (const auto& [function, instructions] : disassembly(object)) {
      for (const char* rule : {"GradientDescentRule", "MomentumRule", "AdamRule<false>"}) {
        const std::string plain =
            std::string("update<adamant::") + rule + ", adamant::kernels::Storage<float, float, float, float";
        if (function.find(plain) == std::string::npos) continue;
        asked[rule] += std::count_if(instructions.begin(), instructions.end(), [&](const std::string& instruction) {
          return std::regex_search(instruction, asks);
        });
      }
      if (function.find("sum_of_squares<float>") == std::string::npos) continue;
      has_norm = true;
      EXPECT_TRUE(any(instructions, asks)) << object << ": " << function;
    }
    EXPECT_TRUE(has_norm) << object;
    const std::int64_t lines = level == "avx512" ? 4 : level == "avx2" ? 2 : 1;  // of an array, in a pass
    const std::map<std::string, std::int64_t> expected{
        {"GradientDescentRule", 2 * lines}, {"MomentumRule", 0}, {"AdamRule<false>", 4 * lines}};
    EXPECT_EQ(asked, expected) << object;
  }
}

// What is only written and takes no longer to round than memory takes: a bfloat16 beside its float32 master.
TEST(Instructions, write_past_the_caches_what_is_only_written) {
  if (const std::string why = not_optimised_for_x86(); !why.empty()) GTEST_SKIP() << why;
  for (const auto& [level, object] : update_objects()) {
    std::size_t loops = 0;
    for (const auto& [function, instructions] : disassembly(object)) {
      if (function.find("::update<") == std::string::npos) continue;
      const bool is_only_written = function.find("Storage<adamant::bfloat16, ") != std::string::npos &&
                                   function.find("FloatMaster") != std::string::npos;
      if (is_only_written) ++loops;
      EXPECT_EQ(any(instructions, std::regex("^v?movnt")), is_only_written) << object << ": " << function;
    }
    EXPECT_EQ(loops, 2 * kernels::Rules::kSize) << object;  // gradients of 16 bits and of 32
  }
}

}  // namespace
}  // namespace adamant::test
