// What the pages say of the library, held against it: methods, options and states of docs/methods.md, the keys of
// docs/checkpoints.md, the bytes of docs/mixed-precision.md, and the names of tests and of our variables anywhere.
#define XXH_INLINE_ALL
#include <gtest/gtest.h>
#include <xxhash.h>

#include <filesystem>
#include <map>
#include <regex>
#include <set>
#include <string>
#include <vector>

#include "adamant/adamant.hpp"
#include "documents.hpp"
#include "host/safetensors.hpp"
#include "kernels/storage_types.hpp"

namespace adamant::test {
namespace {

namespace fs = std::filesystem;

std::string code(const std::string& text) { return "`" + text + "`"; }

// --- docs/methods.md

// The states of all variants of a method.
std::set<std::string> all_states(const std::string& method) {
  std::set<std::string> states;
  const std::vector<Option> list = options(make_method(method));
  for (std::size_t choice = 0; choice < std::size_t{1} << list.size(); ++choice) {
    Method variant = make_method(method);
    for (std::size_t i = 0; i < list.size(); ++i) {
      if ((choice >> i & 1) == 0) continue;
      try {
        set_option(variant, list[i].name, list[i].allowed == "true or false" ? "true" : "0.5");
      } catch (const std::invalid_argument&) {  // no such value, or not with the others
      }
    }
    for (const std::string& state : state_names(variant)) states.insert(state);
  }
  return states;
}

TEST(Trap23MethodsPage, has_a_section_for_every_method_and_no_other) {
  const Page page = read_page_of_the_repository("docs/methods.md");
  std::set<std::string> sections;
  std::istringstream stream(page.prose);
  for (std::string line; std::getline(stream, line);) {
    const std::regex heading("## .* (`[a-z_0-9]+`)");
    std::smatch match;
    if (std::regex_match(line, match, heading)) sections.insert(match[1]);
  }
  std::set<std::string> wanted;
  for (const std::string& method : method_names()) wanted.insert(code(method));
  EXPECT_EQ(sections, wanted);
}

std::string section_of_method(const std::string& method) {
  const Page page = read_page_of_the_repository("docs/methods.md");
  std::smatch match;
  if (!std::regex_search(page.prose, match, std::regex("## [^\n]* `" + method + "`"))) {
    ADD_FAILURE() << "docs/methods.md has no section for " << method;
    return "";
  }
  return section_of(page, match[0]);
}

TEST(Trap23MethodsPage, lists_every_option_with_its_default_and_range) {
  for (const std::string& method : method_names()) {
    SCOPED_TRACE(method);
    std::map<std::string, std::vector<std::string>> rows;
    for (const auto& row : table_rows(section_of_method(method))) rows[row.at(0)] = row;
    for (const Option& option : options(make_method(method))) {
      ASSERT_TRUE(rows.contains(code(option.name))) << option.name;
      const auto& row = rows.at(code(option.name));
      ASSERT_GE(row.size(), 4U);
      EXPECT_EQ(row[1], code(option.value)) << option.name;
      EXPECT_EQ(row[2], code(option.allowed)) << option.name;
      rows.erase(code(option.name));
    }
    for (const auto& [name, row] : rows) ADD_FAILURE() << "there is no option " << name;
  }
}

TEST(Trap23MethodsPage, names_every_state) {
  for (const std::string& method : method_names()) {
    SCOPED_TRACE(method);
    const std::string section = section_of_method(method);
    std::smatch match;
    ASSERT_TRUE(std::regex_search(section, match, std::regex("\nStates: ([^\n]*)\n"))) << "no line \"States: ...\"";
    const std::string line = match[1];
    std::set<std::string> named;
    const std::regex quoted("`([a-z_]+)`");
    for (std::sregex_iterator at(line.begin(), line.end(), quoted); at != std::sregex_iterator(); ++at) {
      named.insert((*at)[1]);
    }
    EXPECT_EQ(named, all_states(method));
  }
}

// --- docs/checkpoints.md

// A checkpoint of two groups, a frozen tensor and a loss scale.
class CheckpointsPage : public testing::Test {
 protected:
  CheckpointsPage() {
    Optimizer optimizer(Adam{});
    const GroupId second = optimizer.add_group(Adam{.learning_rate = 0.5});
    optimizer.add({.name = "first", .parameter = x, .gradient = g, .shape = {2, 3}});
    optimizer.freeze(optimizer.add({.name = "second", .parameter = y, .gradient = h, .group = second}));
    optimizer.set_control({.loss_scale = LossScale{}});
    optimizer.step();
    optimizer.save(path);
  }

  std::vector<float> x = std::vector<float>(6, 1.0F), g = x;
  std::vector<double> y = std::vector<double>(3, 1.0), h = y;
  Folder folder{on_disk()};
  fs::path path = folder.path() / "x.safetensors";
};

TEST_F(CheckpointsPage, lists_the_keys_that_a_checkpoint_has) {
  const std::vector<std::pair<std::string, std::string>> placeholders{
      {"adamant\\.group\\.[0-9]+\\..*", "adamant.group.G.OPTION"}, {"adamant\\.step\\..*", "adamant.step.NAME"},
      {"adamant\\.group_of\\..*", "adamant.group_of.NAME"},        {"adamant\\.frozen\\..*", "adamant.frozen.NAME"},
      {"adamant\\.identity\\..*", "adamant.identity.NAME"},        {"adamant\\.xxh3\\..*", "adamant.xxh3.ARRAY"}};
  std::set<std::string> written;
  const auto file = safetensors::File::open(path);
  for (const auto& [name, value] : file.metadata()) {
    std::string key = name;
    for (const auto& [pattern, placeholder] : placeholders) {
      if (std::regex_match(key, std::regex(pattern))) key = placeholder;
    }
    written.insert(code(key));
  }
  std::set<std::string> listed;
  for (const auto& row : table_rows(section_of(read_page_of_the_repository("docs/checkpoints.md"), "## The file"))) {
    if (row.at(0).starts_with("`adamant.")) listed.insert(row.at(0));
  }
  EXPECT_EQ(listed, written);
}

// As the page says it, of the bytes of the file.
TEST_F(CheckpointsPage, says_how_the_digests_are_computed) {
  const auto hexadecimal = [](std::uint64_t value) {
    char text[17];
    std::snprintf(text, sizeof text, "%016llx", static_cast<unsigned long long>(value));
    return std::string(text);
  };
  const std::string bytes = contents(path);
  std::uint64_t length = 0;
  std::memcpy(&length, bytes.data(), 8);
  std::string header = bytes.substr(0, 8 + length);
  const std::string before = "\"adamant.header.xxh3\":\"";
  const std::size_t at = header.find(before) + before.size();
  const std::string written = header.substr(at, 16);
  header.replace(at, 16, 16, '0');
  EXPECT_EQ(hexadecimal(XXH3_64bits(header.data(), header.size())), written);

  const auto file = safetensors::File::open(path);
  for (const auto& entry : file.entries()) {
    EXPECT_EQ(file.metadata().at("adamant.xxh3." + entry.name),
              hexadecimal(XXH3_64bits(entry.data.data(), entry.data.size())))
        << entry.name;
  }
}

// Where Python has the packages, the page's programs run.
TEST_F(CheckpointsPage, has_python_that_reads_a_checkpoint) {
  const auto python = [&](const std::string& arguments) {
    return run_program({"/bin/sh", "-c", "cd " + folder.path().string() + " && python3 " + arguments});
  };
  if (python("-c 'import numpy, safetensors'").exit_code != 0) {
    GTEST_SKIP() << "Python's packages numpy and safetensors are not installed";
  }
  fs::copy_file(path, folder.path() / "run.safetensors");
  int programs = 0;
  for (const Block& block : read_page_of_the_repository("docs/checkpoints.md").blocks) {
    if (block.language != "python") continue;
    block.write_below(folder.path(), "block.py");
    const Outcome outcome = python("block.py");
    EXPECT_EQ(outcome.exit_code, 0) << block.place() << outcome.err;
    EXPECT_NE(outcome.out.find("first.exp_avg "), std::string::npos) << outcome.out;
    ++programs;
  }
  EXPECT_EQ(programs, 1);
}

// --- docs/mixed-precision.md

// Its bytes, counted from the types and asked of the library.
TEST(MixedPrecisionPage, has_a_row_for_every_storage_combination_with_its_bytes) {
  const std::string heading = "## Which types go together";
  std::map<std::string, std::vector<std::string>> rows;
  for (const auto& row : table_rows(section_of(read_page_of_the_repository("docs/mixed-precision.md"), heading))) {
    rows[row.at(0)] = row;
  }
  for (const kernels::StorageTypes& types : kernels::storages()) {
    SCOPED_TRACE(kernels::short_name(types));
    ASSERT_TRUE(rows.contains(code(kernels::short_name(types))));
    const auto& row = rows.at(code(kernels::short_name(types)));
    ASSERT_GE(row.size(), 6U);
    const std::int64_t parameter = size_in_bytes(types.parameter);
    const std::int64_t gradient = size_in_bytes(types.gradient);
    const std::int64_t states = 2 * size_in_bytes(types.state);
    const bool has_float_master = types.master == Master::float32;
    const std::int64_t kept = has_float_master ? 4 : types.master == Master::remainder ? 2 : 0;
    EXPECT_EQ(row[1], std::to_string((has_float_master ? 0 : parameter) + kept + gradient + states));
    EXPECT_EQ(row[2], std::to_string(parameter + kept + states));
    EXPECT_EQ(row[3], std::to_string(gradient));
    constexpr std::int64_t kCount = 1024;
    std::vector<double> memory(2 * kCount);
    Optimizer optimizer(Adam{});
    optimizer.add({.name = "x",
                   .parameter = Array(memory.data(), types.parameter, kCount),
                   .gradient = ConstArray(memory.data() + kCount, types.gradient, kCount),
                   .state_type = types.state,
                   .master = types.master});
    EXPECT_EQ(row[4], std::to_string(optimizer.state_bytes() / kCount));
    const bool names_state =
        types.state != (types.parameter == DataType::float64 ? DataType::float64 : DataType::float32);
    const bool names_master = types.master == Master::remainder || types.master == Master::stochastic;
    EXPECT_EQ(row[5].find(".state_type = DataType::bfloat16") != std::string::npos, names_state);
    EXPECT_EQ(row[5].find(".master = Master::" + std::string(name(types.master))) != std::string::npos, names_master);
    rows.erase(code(kernels::short_name(types)));
  }
  for (const auto& [name, row] : rows) ADD_FAILURE() << "there is no combination " << name;
}

// --- Names of tests

std::string all_test_sources() {
  std::string text;
  for (const auto& entry : fs::recursive_directory_iterator(fs::path(ADAMANT_SOURCE_DIR) / "tests")) {
    const std::string extension = entry.path().extension().string();
    if (extension == ".cpp" || extension == ".cu" || entry.path().filename() == "CMakeLists.txt") {
      text += contents(entry.path());
    }
  }
  return text;
}

// `Suite.name`, `Suite.*`, `Suite.beginning_*_end` in the pages are tests that there are.
TEST(Documents, NameTestsThatThereAre) {
  const std::string sources = all_test_sources();
  const std::regex name_of_test("`(?:\\*/)?\\*?([A-Z][A-Za-z0-9]+[a-z][A-Za-z0-9]*)\\.([a-zA-Z0-9_*]+)`");
  std::set<std::string> seen;
  for (const Page& page : all_pages()) {
    for (std::sregex_iterator at(page.prose.begin(), page.prose.end(), name_of_test); at != std::sregex_iterator();
         ++at) {
      const std::string suite = (*at)[1];
      const std::string name = (*at)[2];
      if (name == "md" || name == "txt") continue;  // a file
      const std::string pattern = std::regex_replace(name, std::regex("\\*"), "[a-zA-Z0-9_{}$]*");
      const std::regex defined("(TEST(_P|_F)?\\(" + suite + ",\\s*|TYPED_TEST\\(" + suite + ",\\s*|" + suite + "\\.|" +
                               "adamant_consumer\\()" + pattern + "\\b");
      const bool known =
          sources.find("(" + suite + ",") != std::string::npos || sources.find(suite + ".") != std::string::npos;
      EXPECT_TRUE(known && (name == "*" || std::regex_search(sources, defined)))
          << page.name() << ": " << suite << "." << name;
      seen.insert(suite);
    }
  }
  EXPECT_GT(seen.size(), 10U);
}

// --- docs/traps.md

// Each test that bears the number of a trap stands in the trap's row, and no other does.
TEST(TrapsPage, names_the_tests_of_every_trap) {
  const std::string sources = all_test_sources();
  const std::regex suite("Trap([0-9]{2})[A-Za-z]+");
  std::map<int, std::set<std::string>> tests;
  const std::regex defined("TEST(_P|_F)?\\((Trap[0-9]{2}[A-Za-z]+),");
  for (std::sregex_iterator at(sources.begin(), sources.end(), defined); at != std::sregex_iterator(); ++at) {
    const std::string name = (*at)[2];
    tests[std::stoi(name.substr(4, 2))].insert(name);
  }
  int number = 0;
  for (const auto& row : table_rows(section_of(read_page_of_the_repository("docs/traps.md"), "# Traps"))) {
    if (row.at(0).find_first_not_of("0123456789") != std::string::npos || row.at(0).empty()) continue;
    EXPECT_EQ(row.at(0), std::to_string(++number));
    std::set<std::string> named;
    for (std::sregex_iterator at(row.at(2).begin(), row.at(2).end(), suite); at != std::sregex_iterator(); ++at) {
      named.insert(at->str());
    }
    EXPECT_EQ(named, tests[number]) << number;
    EXPECT_EQ(named.empty(), row.at(2).find("not here") != std::string::npos) << number;
  }
  EXPECT_EQ(number, 23);
}

// --- Names of variables

// Options of CMake, variables of the environment and macros: all have our prefix.
std::set<std::string> variables_in(const std::string& text) {
  const std::string prefix = "ADAMANT_";
  std::set<std::string> names;
  for (std::size_t at = text.find(prefix); at != std::string::npos; at = text.find(prefix, at)) {
    const std::size_t end = text.find_first_not_of("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_", at);
    names.insert(text.substr(at, end - at));
    at += prefix.size();
  }
  return names;
}

TEST(Documents, NameVariablesThatThereAre) {
  const fs::path root = ADAMANT_SOURCE_DIR;
  std::set<std::string> there = variables_in(contents(root / "CMakeLists.txt"));
  const std::set<std::string> extensions{".cpp", ".hpp", ".inl", ".cu", ".cuh", ".txt", ".cmake", ".sh", ".py"};
  for (const char* folder : {"bench", "cmake", "examples", "host", "include", "kernels", "scripts", "tests", "tools"}) {
    for (const auto& entry : fs::recursive_directory_iterator(root / folder)) {
      if (extensions.contains(entry.path().extension().string())) there.merge(variables_in(contents(entry.path())));
    }
  }
  std::size_t count = 0;
  for (const Page& page : all_pages()) {
    for (const std::string& name : variables_in(contents(page.path))) {
      EXPECT_TRUE(there.contains(name)) << page.name() << ": " << name;
      ++count;
    }
  }
  EXPECT_GT(count, 10U);
}

}  // namespace
}  // namespace adamant::test
