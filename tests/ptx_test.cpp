// What nvcc and ptxas made of kernels/launch.cu, for every architecture of a release: accesses and their order,
// rounding, registers. Reads the PTX that the build made beside the library and has ptxas report on it; needs no GPU.
#include <cxxabi.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <map>
#include <memory>
#include <ostream>
#include <set>
#include <sstream>
#include <string>
#include <string_view>
#include <typeinfo>
#include <utility>
#include <vector>

#include "folder.hpp"
#include "kernels/rule_list.hpp"
#include "kernels/storage.hpp"
#include "program.hpp"

namespace adamant::test {
namespace {

std::string demangled(const char* name) {
  const std::unique_ptr<char, decltype(&std::free)> text(abi::__cxa_demangle(name, nullptr, nullptr, nullptr),
                                                         &std::free);
  return text == nullptr ? name : text.get();
}

// --- PTX as the test reads it ----------------------------------------------------------------------------------------

struct Instruction {
  std::string where;                 // "/build/launch.ptx:120 (kernels/update.cuh:58)"
  std::string text;                  // without its guard
  std::vector<std::string> name;     // "ld.global.v4.u32" at its dots
  std::vector<std::string> written;  // registers
  std::vector<std::string> read;     // registers, those of addresses and the guard among them
  std::string target;                // of a branch
  bool guarded = false;

  const std::string& operation() const { return name.front(); }
  bool has(std::string_view part) const { return std::find(name.begin() + 1, name.end(), part) != name.end(); }
};

struct Kernel {
  std::string symbol;
  std::string name;  // as C++ writes it
  std::vector<Instruction> code{};
  std::map<std::string, std::size_t> labels{};  // the instruction that follows
  std::vector<std::string> directives{};
};

std::vector<std::string> split(std::string_view text, char at) {
  std::vector<std::string> parts;
  for (std::size_t begin = 0; begin <= text.size();) {
    const std::size_t end = std::min(text.find(at, begin), text.size());
    parts.emplace_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return parts;
}

std::string trimmed(std::string_view text) {
  const auto first = text.find_first_not_of(" \t");
  if (first == std::string_view::npos) return {};
  return std::string(text.substr(first, text.find_last_not_of(" \t") - first + 1));
}

// "%r1" and "%rd20" in "{%r1, [%rd20+16]}"; special registers such as %tid.x are not among them.
std::vector<std::string> registers(std::string_view text) {
  std::vector<std::string> found;
  for (std::size_t i = text.find('%'); i != std::string_view::npos; i = text.find('%', i + 1)) {
    std::size_t end = i + 1;
    while (end < text.size() && (std::isalnum(static_cast<unsigned char>(text[end])) != 0 || text[end] == '_')) ++end;
    if (std::isdigit(static_cast<unsigned char>(text[end - 1])) != 0) found.emplace_back(text.substr(i, end - i));
  }
  return found;
}

Instruction parsed(std::string text, std::string where) {
  Instruction made;
  made.where = std::move(where);
  if (text.front() == '@') {
    const std::size_t space = text.find_first_of(" \t");
    made.guarded = true;
    made.read = registers(text.substr(0, space));
    text = trimmed(text.substr(space));
  }
  made.text = text;
  const std::size_t space = std::min(text.find_first_of(" \t"), text.size());
  made.name = split(text.substr(0, space), '.');
  const std::string operands = trimmed(text.substr(space));
  if (made.operation() == "bra") {
    made.target = operands;
    return made;
  }
  // The first operand is what is written: a register, several in braces, or two predicates with a bar between.
  std::size_t end = operands.empty() || operands.front() != '{' ? operands.find(',') : operands.find('}');
  end = std::min(end, operands.size());
  const bool writes = made.operation() != "st" && made.operation() != "red" && made.operation() != "bar";
  if (writes) made.written = registers(operands.substr(0, end));
  for (std::string& name : registers(writes ? operands.substr(end) : operands)) made.read.push_back(std::move(name));
  return made;
}

// "kernels/update.cuh:58" for a .loc directive, from the file numbers in .file directives.
class Sources {
 public:
  explicit Sources(const std::vector<std::string>& lines) {
    for (const std::string& line : lines) {
      if (line.rfind(".file", 0) != 0) continue;
      const std::vector<std::string> parts = split(line, '"');
      const auto path = std::filesystem::path(parts.at(1)).lexically_normal();
      const auto ours = path.lexically_relative(ADAMANT_SOURCE_DIR);
      names_[trimmed(parts.at(0).substr(5))] = ours.string().rfind("..", 0) == 0 ? path.filename() : ours;
    }
  }
  std::string at(const std::string& loc) const {
    std::stringstream words(loc);
    std::string word;
    std::string file;
    std::string line;
    words >> word >> file >> line;
    const auto found = names_.find(file);
    return found == names_.end() ? "?" : found->second.string() + ":" + line;
  }

 private:
  std::map<std::string, std::filesystem::path> names_;
};

// The kernels of a PTX file, in which a line has one label, directive or instruction, or a part of one.
std::vector<Kernel> read_ptx(const std::string& path) {
  std::ifstream stream(path);
  std::vector<std::string> lines;
  for (std::string line; std::getline(stream, line);) {
    // A brace in the first column ends a kernel; others stand around calls and inline assembly.
    lines.push_back(line == "}" ? line : trimmed(std::string_view(line).substr(0, line.find("//"))));
  }
  const Sources sources(lines);
  std::vector<Kernel> kernels;
  bool inside = false;
  std::string source;
  std::string begun;  // of an instruction over several lines
  for (std::size_t i = 0; i < lines.size(); ++i) {
    const std::string& line = lines[i];
    const std::size_t entry = line.find(".entry ");
    if (entry != std::string::npos) {
      const std::string symbol = line.substr(entry + 7, line.find('(') - entry - 7);
      kernels.push_back({.symbol = symbol, .name = demangled(symbol.c_str())});
      inside = true;
      continue;
    }
    if (line == "}") inside = false;
    if (!inside || line.empty() || line == "{" || line == ")") continue;
    Kernel& kernel = kernels.back();
    if (begun.empty() && line.rfind(".loc", 0) == 0) {
      source = sources.at(line);
    } else if (begun.empty() && line.front() == '.') {
      kernel.directives.push_back(line);
    } else if (begun.empty() && line.front() == '$') {
      kernel.labels[line.substr(0, line.find(':'))] = kernel.code.size();
    } else {
      begun += (begun.empty() ? "" : " ") + line;
      if (begun.back() != ';') continue;
      begun.pop_back();
      kernel.code.push_back(parsed(begun, path + ":" + std::to_string(i + 1) + " (" + source + ")"));
      begun.clear();
    }
  }
  return kernels;
}

// --- the checks ------------------------------------------------------------------------------------------------------

// Fails with the instructions that `is_wrong`, of which a few are shown.
template <typename Predicate>
void expect_no_instruction(const Kernel& kernel, const char* why, const Predicate& is_wrong) {
  std::size_t count = 0;
  std::string shown;
  for (const Instruction& instruction : kernel.code) {
    if (!is_wrong(instruction)) continue;
    if (++count <= 3) shown += "\n  " + instruction.where + ": " + instruction.text;
  }
  EXPECT_EQ(count, 0U) << why << " in " << kernel.name << shown;
}

bool is_floating(const std::string& part) {
  for (const char* type : {"f16", "bf16", "f32", "f64"}) {
    if (part.rfind(type, 0) == 0) return true;
  }
  return false;
}

// Whether a GPU gives the bits that a CPU gives, whatever ptxas does with the instruction. Without .rn it may fuse a
// multiplication with an addition.
bool has_the_bits_of_a_cpu(const Instruction& instruction) {
  if (std::none_of(instruction.name.begin() + 1, instruction.name.end(), is_floating)) return true;
  if (instruction.has("ftz") || instruction.has("sat")) return false;
  static const std::set<std::string> copies{"ld", "st", "mov", "selp", "setp", "neg", "abs"};
  static const std::set<std::string> rounded{"add", "sub", "mul", "div", "sqrt"};
  if (copies.contains(instruction.operation())) return true;
  const bool to_nearest = instruction.name.at(1) == "rn";
  if (rounded.contains(instruction.operation())) return to_nearest && instruction.name.size() == 3;
  // Exact, or to nearest.
  return instruction.operation() == "cvt" && instruction.name.size() == (to_nearest ? 4U : 3U);
}

// Bytes of a load or store: its vector times its type, "ld.global.v4.u32".
int access_bytes(const Instruction& instruction) {
  const std::string& type = instruction.name.back();
  const int bits = std::atoi(type.c_str() + type.find_first_of("0123456789"));
  return bits / 8 * (instruction.has("v8") ? 8 : instruction.has("v4") ? 4 : instruction.has("v2") ? 2 : 1);
}

bool is_access(const Instruction& instruction) {
  return instruction.operation() == "ld" || instruction.operation() == "st";
}

// Where the program goes after each instruction, and what can be reached from where.
class Flow {
 public:
  explicit Flow(const Kernel& kernel) : next_(kernel.code.size()) {
    for (std::size_t i = 0; i < next_.size(); ++i) {
      const Instruction& instruction = kernel.code[i];
      const bool branches = instruction.operation() == "bra";
      const bool ends = instruction.operation() == "ret" || instruction.operation() == "exit";
      EXPECT_TRUE(instruction.operation() != "brx" && instruction.operation() != "call")
          << kernel.name << ": " << instruction.where << ": this test cannot follow " << instruction.text;
      if (branches) next_[i].push_back(kernel.labels.at(instruction.target));
      if ((!branches && !ends) || instruction.guarded) next_[i].push_back(i + 1);
      std::erase_if(next_[i], [&](std::size_t j) { return j >= next_.size(); });
    }
  }

  // What runs after `from`, as far as the instruction `end`.
  std::vector<bool> after(std::size_t from, std::size_t end) const {
    std::vector<bool> reached(next_.size());
    std::vector<std::size_t> open{from};
    while (!open.empty()) {
      const std::size_t i = open.back();
      open.pop_back();
      for (const std::size_t j : next_[i]) {
        if (reached[j] || j == end) continue;
        reached[j] = true;
        open.push_back(j);
      }
    }
    return reached;
  }
  std::vector<bool> after(std::size_t from) const { return after(from, next_.size()); }
  const std::vector<std::size_t>& next(std::size_t i) const { return next_[i]; }

 private:
  std::vector<std::vector<std::size_t>> next_;
};

// The instructions of the one loop of an update kernel, and with which of them a pass begins.
struct Loop {
  std::vector<std::size_t> body;
  std::size_t head = 0;
};

Loop loop_of(const Kernel& kernel, const Flow& flow) {
  Loop loop;
  std::vector<std::vector<bool>> after;
  after.reserve(kernel.code.size());
  for (std::size_t i = 0; i < kernel.code.size(); ++i) {
    after.push_back(flow.after(i));
    if (after[i][i]) loop.body.push_back(i);
  }
  if (loop.body.empty()) {
    ADD_FAILURE() << kernel.name << " has no loop";
    return loop;
  }
  for (const std::size_t i : loop.body) {
    EXPECT_TRUE(after[loop.body.front()][i] && after[i][loop.body.front()])
        << kernel.name << " has more than one loop: " << kernel.code[i].where;
  }
  std::set<std::size_t> heads;
  for (std::size_t i = 0; i < kernel.code.size(); ++i) {
    if (after[i][i]) continue;
    for (const std::size_t j : flow.next(i)) {
      if (after[j][j]) heads.insert(j);
    }
  }
  EXPECT_EQ(heads.size(), 1U) << kernel.name << ": ways into the loop";
  if (!heads.empty()) loop.head = *heads.begin();
  return loop;
}

// What the checks need to know of an update kernel beside its code.
struct Update {
  std::string name;
  int streams;  // parameter and states; the gradient comes on top
  std::set<int> element_bytes;
  int loads;  // of 16 bytes, in a pass of the loop
  int stores;
  bool is_double;
};

template <typename Rule, typename Storage>
Update make_update() {
  using Parameter = typename Storage::Parameter;
  using Gradient = typename Storage::Gradient;
  using State = typename Storage::State;
  constexpr int kParameter = sizeof(Parameter);
  constexpr int kGradient = sizeof(Gradient);
  constexpr int kState = sizeof(State);
  const int smallest = std::min({kParameter, kGradient, kState});  // one access of its stream is what a thread takes
  const int stores = kParameter / smallest + Rule::kSlots * (kState / smallest);
  return {.name = "void adamant::kernels::update<" + demangled(typeid(Rule).name()) + ", " +
                  demangled(typeid(Storage).name()) + " >(adamant::kernels::UpdateArguments)",
          .streams = 1 + Rule::kSlots,
          .element_bytes = {kParameter, kGradient, kState},
          .loads = stores + kGradient / smallest,
          .stores = stores,
          .is_double = sizeof(typename Storage::Real) == 8};
}

template <typename Rule, typename... Storages>
void add_updates(std::vector<Update>& list, TypeList<Storages...> /*storages*/) {
  (list.push_back(make_update<Rule, Storages>()), ...);
}

template <typename... Rules>
std::vector<Update> make_updates(TypeList<Rules...> /*rules*/) {
  std::vector<Update> list;
  (add_updates<Rules>(list, kernels::Storages{}), ...);
  return list;
}

const std::vector<Update>& updates() {
  static const std::vector<Update> all = make_updates(kernels::Rules{});
  return all;
}

// An architecture and the PTX of kernels/launch.cu for it; none where this nvcc does not know the architecture.
struct Build {
  std::string architecture;  // "90"
  std::string ptx;
  friend void PrintTo(const Build& build, std::ostream* out) { *out << "sm_" << build.architecture; }
};

std::vector<Build> builds() {
  std::vector<Build> all;
  for (const std::string& item : split(ADAMANT_PTX_FILES, '|')) {
    const std::size_t colon = item.find(':');
    all.push_back({item.substr(0, colon), item.substr(colon + 1)});
  }
  return all;
}

class Ptx : public testing::TestWithParam<Build> {
 protected:
  void SetUp() override {
    if (GetParam().ptx.empty()) GTEST_SKIP() << "this nvcc does not compile for sm_" << GetParam().architecture;
    kernels_ = read_ptx(GetParam().ptx);
    ASSERT_FALSE(kernels_.empty()) << "no kernels in " << GetParam().ptx;
  }

  const std::vector<Kernel>& kernels() const { return kernels_; }

  // Calls body(kernel, update) for every update kernel that there should be.
  template <typename Body>
  void for_each_update(const Body& body) const {
    for (const Update& update : updates()) {
      const auto found = std::find_if(kernels_.begin(), kernels_.end(),
                                      [&](const Kernel& kernel) { return kernel.name == update.name; });
      if (found == kernels_.end()) {
        ADD_FAILURE() << "no kernel " << update.name << " in " << GetParam().ptx;
      } else {
        body(*found, update);
      }
    }
  }

 private:
  std::vector<Kernel> kernels_;
};

TEST_P(Ptx, holds_an_update_for_every_rule_and_storage_and_the_scalars_of_every_rule) {
  const auto count = [&](const char* prefix) {
    return static_cast<std::size_t>(std::count_if(
        kernels().begin(), kernels().end(), [&](const Kernel& kernel) { return kernel.name.rfind(prefix, 0) == 0; }));
  };
  EXPECT_EQ(count("void adamant::kernels::update<"), updates().size());
  EXPECT_EQ(count("void adamant::kernels::scalars<"), kernels::Rules::kSize);
  for_each_update([](const Kernel& kernel, const Update&) { EXPECT_GT(kernel.code.size(), 50U) << kernel.name; });
}

TEST_P(Ptx, rounds_every_operation_by_itself_and_to_nearest) {
  for (const Kernel& kernel : kernels()) {
    expect_no_instruction(kernel, "an operation that could have other bits than on a CPU",
                          [](const Instruction& instruction) { return !has_the_bits_of_a_cpu(instruction); });
  }
}

TEST_P(Ptx, has_no_double_arithmetic_in_float_updates_and_no_float_arithmetic_in_double_ones) {
  for_each_update([](const Kernel& kernel, const Update& update) {
    const std::string other = update.is_double ? "f32" : "f64";
    expect_no_instruction(kernel, "arithmetic of the other type",
                          [&](const Instruction& instruction) { return instruction.has(other); });
    const std::string own = update.is_double ? "f64" : "f32";
    EXPECT_TRUE(std::any_of(
        kernel.code.begin(), kernel.code.end(),
        [&](const Instruction& instruction) { return instruction.operation() == "mul" && instruction.has(own); }))
        << kernel.name << " multiplies nothing: this test does not see its arithmetic";
  });
}

TEST_P(Ptx, keeps_to_global_and_shared_memory_and_calls_nothing) {
  for (const Kernel& kernel : kernels()) {
    expect_no_instruction(kernel, "local memory, or an access of no known memory", [](const Instruction& instruction) {
      return is_access(instruction) && !instruction.has("global") && !instruction.has("shared") &&
             !instruction.has("param") && !instruction.has("const");
    });
    expect_no_instruction(kernel, "a call",
                          [](const Instruction& instruction) { return instruction.operation() == "call"; });
    for (const std::string& directive : kernel.directives) {
      EXPECT_EQ(directive.rfind(".local", 0), std::string::npos) << kernel.name << ": " << directive;
    }
  }
}

TEST_P(Ptx, divides_no_integers_in_updates) {
  for_each_update([](const Kernel& kernel, const Update&) {
    expect_no_instruction(kernel, "an integer division", [](const Instruction& instruction) {
      return (instruction.operation() == "div" || instruction.operation() == "rem") &&
             !is_floating(instruction.name.back());
    });
  });
}

TEST_P(Ptx, stores_whole_values) {
  for (const Kernel& kernel : kernels()) {
    if (kernel.name.find("::store<") != std::string::npos) continue;  // options: once a change, not once a tensor
    expect_no_instruction(kernel, "a store of one byte, as of an object whose alignment the compiler does not know",
                          [](const Instruction& instruction) {
                            return instruction.operation() == "st" && access_bytes(instruction) == 1;
                          });
  }
}

TEST_P(Ptx, moves_16_bytes_at_a_time_on_every_stream) {
  for_each_update([](const Kernel& kernel, const Update& update) {
    const Loop loop = loop_of(kernel, Flow(kernel));
    for (const bool loads : {true, false}) {
      int wide = 0;
      std::set<std::string> addresses;  // the registers that hold them: one a stream
      for (const std::size_t i : loop.body) {
        const Instruction& instruction = kernel.code[i];
        if (instruction.operation() != (loads ? "ld" : "st") || !instruction.has("global")) continue;
        const int bytes = access_bytes(instruction);
        if (bytes == 16) {
          ++wide;
          const std::size_t bracket = instruction.text.find('[');
          addresses.insert(registers(instruction.text.substr(bracket)).at(0));
        } else {
          EXPECT_TRUE(update.element_bytes.contains(bytes))
              << kernel.name << ": neither 16 bytes nor an element: " << instruction.where << ": " << instruction.text;
        }
      }
      EXPECT_EQ(wide, loads ? update.loads : update.stores) << kernel.name << (loads ? ": loads" : ": stores");
      EXPECT_EQ(addresses.size(), static_cast<std::size_t>(update.streams + (loads ? 1 : 0)))
          << kernel.name << (loads ? ": streams that are loaded" : ": streams that are stored");
    }
  });
}

TEST_P(Ptx, issues_every_load_of_a_pass_before_it_uses_a_loaded_value) {
  for_each_update([](const Kernel& kernel, const Update&) {
    const Flow flow(kernel);
    const Loop loop = loop_of(kernel, flow);
    const auto is_data_load = [&](const Instruction& instruction) {
      return instruction.operation() == "ld" && instruction.has("global");
    };
    std::set<std::string> loaded;
    for (const std::size_t i : loop.body) {
      if (is_data_load(kernel.code[i])) loaded.insert(kernel.code[i].written.begin(), kernel.code[i].written.end());
    }
    EXPECT_FALSE(loaded.empty()) << kernel.name;
    // What is only moved is renamed, not used.
    for (std::size_t before = 0; before != loaded.size();) {
      before = loaded.size();
      for (const std::size_t i : loop.body) {
        const Instruction& instruction = kernel.code[i];
        if (instruction.operation() != "mov" || instruction.read.empty()) continue;
        if (loaded.contains(instruction.read.front())) {
          loaded.insert(instruction.written.begin(), instruction.written.end());
        }
      }
    }
    std::size_t uses = 0;
    for (const std::size_t i : loop.body) {
      const Instruction& use = kernel.code[i];
      const bool is_store = use.operation() == "st" && use.has("global");
      const bool reads =
          std::any_of(use.read.begin(), use.read.end(), [&](const std::string& name) { return loaded.contains(name); });
      if (use.operation() == "mov" || (!reads && !is_store)) continue;
      ++uses;
      const std::vector<bool> after = flow.after(i, loop.head);
      for (const std::size_t j : loop.body) {
        ASSERT_FALSE(after[j] && is_data_load(kernel.code[j]))
            << kernel.name << ": " << kernel.code[j].where << ": " << kernel.code[j].text << "\n  comes after "
            << use.where << ": " << use.text;
      }
    }
    EXPECT_GT(uses, 0U) << kernel.name;
  });
}

// What ptxas says of a kernel.
struct Resources {
  int registers = -1;
  std::string memory;  // "0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads"
};

std::map<std::string, Resources> resources_of(const Build& build) {
  const Folder folder;
  // As nvcc calls it with the flags of the library.
  const std::vector<std::string> command{ADAMANT_PTXAS, "-v",    "-m64",
                                         "--fmad",      "false", "-arch=sm_" + build.architecture,
                                         build.ptx,     "-o",    folder.file("cubin")};
  const Outcome outcome = run_program(command);
  EXPECT_EQ(outcome.exit_code, 0) << to_text(command, outcome);
  std::map<std::string, Resources> all;
  std::string symbol;
  for (const std::string& line : split(outcome.err, '\n')) {
    if (line.find("Compiling entry function") != std::string::npos) symbol = split(line, '\'').at(1);
    if (line.find("bytes stack frame") != std::string::npos) all[symbol].memory = trimmed(line);
    const std::size_t used = line.find("Used ");
    if (used != std::string::npos) all[symbol].registers = std::atoi(line.c_str() + used + 5);
  }
  return all;
}

TEST_P(Ptx, needs_at_most_64_registers_and_spills_none) {
  const std::map<std::string, Resources> all = resources_of(GetParam());
  for (const Kernel& kernel : kernels()) {
    ASSERT_TRUE(all.contains(kernel.symbol)) << "ptxas says nothing of " << kernel.name;
    const Resources& resources = all.at(kernel.symbol);
    EXPECT_EQ(resources.memory, "0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads") << kernel.name;
    EXPECT_GT(resources.registers, 0) << kernel.name;
    EXPECT_LE(resources.registers, 64) << kernel.name;
  }
}

INSTANTIATE_TEST_SUITE_P(OfLaunch, Ptx, testing::ValuesIn(builds()),
                         [](const auto& info) { return "sm_" + info.param.architecture; });

}  // namespace
}  // namespace adamant::test
