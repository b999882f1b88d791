// What nvcc and ptxas made of the device code, every kernel of it: accesses and their order, rounding, registers. Reads
// the PTX that the build made beside the library and has ptxas report on it; needs no GPU.
//
// By default for three architectures: the oldest of a release, the first whose kernels begin before the one in front
// has ended, and the newest, for which nvcc optimises in another way. What is made for the others is left to
// ./test.sh --full, which makes it first.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <map>
#include <ostream>
#include <set>
#include <sstream>
#include <string>
#include <string_view>
#include <typeinfo>
#include <utility>
#include <vector>

#include "adamant/tuning.hpp"
#include "demangled.hpp"
#include "folder.hpp"
#include "kernels/launch.hpp"
#include "kernels/rule_list.hpp"
#include "kernels/storage.hpp"
#include "kernels/tuning.hpp"
#include "program.hpp"

namespace adamant::test {
namespace {

// --- PTX as the test reads it ----------------------------------------------------------------------------------------

struct Instruction {
  std::string where;                 // "/build/launch.ptx:120 (kernels/update.cuh:58)"
  std::string text;                  // without its guard
  std::vector<std::string> name;     // "ld.global.v4.u32" at its dots
  std::vector<std::string> written;  // registers
  std::vector<std::string> read;     // registers, those of addresses and the guard among them
  std::string target;                // of a branch
  bool guarded = false;
  std::string guard{};  // "@%p1" or "@!%p1"

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
    made.guard = text.substr(0, space);
    made.read = registers(made.guard);
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
    } else if (begun.empty() && line.front() == '{' && line.back() == '}') {
      // The half of a register: "{ .reg .b16 tmp; mov.b32 {tmp, %rs1}, %r1; }".
      for (const std::string& part : split(line.substr(1, line.size() - 2), ';')) {
        const std::string text = trimmed(part);
        if (text.empty() || text.front() == '.') continue;
        kernel.code.push_back(parsed(text, path + ":" + std::to_string(i + 1) + " (" + source + ")"));
      }
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
  static const std::set<std::string> rounded{"add", "sub", "mul", "div", "rcp", "sqrt"};
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
  static const std::set<std::string> all{"ld", "st", "atom", "red"};
  return all.contains(instruction.operation());
}

bool is_global(const Instruction& instruction, const char* operation) {
  return instruction.operation() == operation && instruction.has("global");
}

// The register of an access's address.
std::string address_of(const Instruction& instruction) {
  return registers(instruction.text.substr(instruction.text.find('['))).at(0);
}

// Where the program goes after each instruction, and its loops.
class Flow {
 public:
  explicit Flow(const Kernel& kernel) : next_(kernel.code.size()), before_(kernel.code.size()) {
    for (std::size_t i = 0; i < next_.size(); ++i) {
      const Instruction& instruction = kernel.code[i];
      const bool branches = instruction.operation() == "bra";
      const bool ends = instruction.operation() == "ret" || instruction.operation() == "exit";
      EXPECT_TRUE(instruction.operation() != "brx" && instruction.operation() != "call")
          << kernel.name << ": " << instruction.where << ": this test cannot follow " << instruction.text;
      if (branches) next_[i].push_back(kernel.labels.at(instruction.target));
      if ((!branches && !ends) || instruction.guarded) next_[i].push_back(i + 1);
      std::erase_if(next_[i], [&](std::size_t j) { return j >= next_.size(); });
      for (const std::size_t j : next_[i]) before_[j].push_back(i);
    }
  }

  const std::vector<std::size_t>& next(std::size_t i) const { return next_[i]; }

  // What runs after one of `from`, or before it, without passing `end`.
  std::vector<bool> after(const std::vector<std::size_t>& from, std::size_t end) const {
    return reached(from, end, next_);
  }
  std::vector<bool> after(std::size_t from) const { return after({from}, next_.size()); }
  std::vector<bool> before(const std::vector<std::size_t>& from, std::size_t end) const {
    return reached(from, end, before_);
  }

  // The instructions of each loop, those within it included.
  std::vector<std::vector<std::size_t>> loops() const {
    std::vector<std::vector<std::size_t>> found;
    std::vector<bool> known(next_.size());
    for (std::size_t i = 0; i < next_.size(); ++i) {
      // A loop goes back somewhere, and there it begins.
      if (known[i] || std::none_of(before_[i].begin(), before_[i].end(), [&](std::size_t j) { return j >= i; }))
        continue;
      const std::vector<bool> later = after(i);
      const std::vector<bool> earlier = before({i}, next_.size());
      std::vector<std::size_t> loop;
      for (std::size_t j = 0; j < next_.size(); ++j) {
        if (!later[j] || !earlier[j]) continue;
        known[j] = true;
        loop.push_back(j);
      }
      if (!loop.empty()) found.push_back(std::move(loop));
    }
    return found;
  }

 private:
  using Edges = std::vector<std::vector<std::size_t>>;

  static std::vector<bool> reached(std::vector<std::size_t> open, std::size_t end, const Edges& edges) {
    std::vector<bool> found(edges.size());
    while (!open.empty()) {
      const std::size_t i = open.back();
      open.pop_back();
      for (const std::size_t j : edges[i]) {
        if (found[j] || j == end) continue;
        found[j] = true;
        open.push_back(j);
      }
    }
    return found;
  }

  Edges next_;
  Edges before_;
};

// The registers that come of those that `begin` names, through whatever is no load from memory.
std::set<std::string> made_of(std::set<std::string> names, const Kernel& kernel) {
  for (std::size_t before = 0; before != names.size();) {
    before = names.size();
    for (const Instruction& instruction : kernel.code) {
      if (instruction.operation() == "ld" || instruction.operation() == "atom") continue;
      if (std::any_of(instruction.read.begin(), instruction.read.end(),
                      [&](const std::string& name) { return names.contains(name); })) {
        names.insert(instruction.written.begin(), instruction.written.end());
      }
    }
  }
  return names;
}

// The loop of an update kernel that computes: a pass stores what the pass before has loaded and then loads for the
// next, unless it was the last.
struct Loop {
  std::vector<std::size_t> body;
  std::size_t exit = 0;
};

Loop loop_of(const Kernel& kernel, const Flow& flow) {
  Loop loop;
  for (std::vector<std::size_t>& body : flow.loops()) {
    const bool computes = std::any_of(body.begin(), body.end(), [&](std::size_t i) {
      return kernel.code[i].operation() == "mul" && is_floating(kernel.code[i].name.back());
    });
    if (computes) {
      EXPECT_TRUE(loop.body.empty()) << kernel.name << " computes in two loops: " << kernel.code[body[0]].where;
      loop.body = std::move(body);
      continue;
    }
    // What a skipped step does.
    for (const std::size_t i : body) {
      EXPECT_FALSE(is_global(kernel.code[i], "ld"))
          << kernel.name << " loads what it does not use: " << kernel.code[i].where << ": " << kernel.code[i].text;
    }
  }
  if (loop.body.empty()) {
    ADD_FAILURE() << kernel.name << " has no loop";
    return loop;
  }
  std::size_t exits = 0;
  for (const std::size_t i : loop.body) {
    const auto inside = [&](std::size_t j) { return std::binary_search(loop.body.begin(), loop.body.end(), j); };
    if (std::all_of(flow.next(i).begin(), flow.next(i).end(), inside)) continue;
    ++exits;
    loop.exit = i;
  }
  EXPECT_EQ(exits, 1U) << kernel.name << ": ways out of the loop";
  return loop;
}

// What the checks need to know of an update kernel beside its code.
struct Update {
  std::string name;
  std::set<int> element_bytes;
  int loaded;  // arrays
  int stored;
  int loads;  // of 16 bytes, in a pass of the loop
  int stores;
  int slots;
  bool has_large_vectors;  // of eight elements
  bool is_double;
};

template <typename Rule, typename Storage>
Update make_update() {
  using Master = typename Storage::Master;
  constexpr int kParameter = sizeof(typename Storage::Parameter);
  constexpr int kGradient = sizeof(typename Storage::Gradient);
  constexpr int kState = sizeof(typename Storage::State);
  constexpr int kKept = sizeof(typename Storage::Kept);
  // One access of the array with the smallest elements is what a thread takes.
  constexpr int kSmallest = std::min({kParameter, kGradient, kState});
  const int both = (Master::kKeeps ? kKept / kSmallest : 0) + Rule::kSlots * (kState / kSmallest);
  Update update{.name = "void adamant::kernels::update<" + demangled(typeid(Rule).name()) + ", " +
                        demangled(typeid(Storage).name()) + " >(adamant::kernels::UpdateArguments)",
                .element_bytes = {kParameter, kGradient, kState},
                .loaded = (Master::kReadsParameter ? 1 : 0) + 1 + (Master::kKeeps ? 1 : 0) + Rule::kSlots,
                .stored = 1 + 1 + (Master::kKeeps ? 1 : 0) + Rule::kSlots,  // the gradient where it is to be zeroed
                .loads = (Master::kReadsParameter ? kParameter / kSmallest : 0) + kGradient / kSmallest + both,
                .stores = kParameter / kSmallest + kGradient / kSmallest + both,
                .slots = Rule::kSlots,
                .has_large_vectors = 16 / kSmallest >= 8,
                .is_double = sizeof(typename Storage::Real) == 8};
  if constexpr (Master::kKeeps) update.element_bytes.insert(kKept);
  return update;
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

// A kernel that adds up the squares of gradients of a type.
struct Norm {
  std::string name;
  int elements_an_access;
};

template <typename... Types>
std::vector<Norm> make_norms(TypeList<Types...> /*types*/) {
  return {{.name = "void adamant::kernels::gradient_norm<" + demangled(typeid(Types).name()) +
                   ">(adamant::kernels::NormArguments)",
           .elements_an_access = 16 / static_cast<int>(sizeof(Types))}...};
}

const std::vector<Norm>& norms() {
  static const std::vector<Norm> all = make_norms(kernels::GradientTypes{});
  return all;
}

template <typename... Storages>
constexpr std::size_t float_masters(TypeList<Storages...> /*storages*/) {
  return (std::size_t{Storages::Master::kMaster == Master::float32} + ...);
}

// An architecture and the PTX of every source of device code for it; none where this nvcc does not know it.
struct Build {
  std::string architecture;  // "90"
  std::vector<std::string> ptx;
  friend void PrintTo(const Build& build, std::ostream* out) { *out << "sm_" << build.architecture; }
};

std::vector<Build> builds(const char* files) {
  std::vector<Build> all;
  for (const std::string& item : split(files, '|')) {
    const std::size_t colon = item.find(':');
    all.push_back({item.substr(0, colon), {}});
    if (colon + 1 < item.size()) all.back().ptx = split(item.substr(colon + 1), '+');
  }
  return all;
}

class Ptx : public testing::TestWithParam<Build> {
 protected:
  void SetUp() override {
    if (GetParam().ptx.empty()) GTEST_SKIP() << "this nvcc does not compile for sm_" << GetParam().architecture;
    for (const std::string& file : GetParam().ptx) {
      std::vector<Kernel> more = read_ptx(file);
      EXPECT_FALSE(more.empty()) << "no kernels in " << file;
      std::move(more.begin(), more.end(), std::back_inserter(kernels_));
    }
  }

  const std::vector<Kernel>& kernels() const { return kernels_; }

  const Kernel* find(const std::string& name) const {
    const auto found =
        std::find_if(kernels_.begin(), kernels_.end(), [&](const Kernel& kernel) { return kernel.name == name; });
    if (found != kernels_.end()) return &*found;
    ADD_FAILURE() << "no kernel " << name << " for sm_" << GetParam().architecture;
    return nullptr;
  }

  // Calls body(kernel, update) for every update kernel that there should be.
  template <typename Body>
  void for_each_update(const Body& body) const {
    for (const Update& update : updates()) {
      if (const Kernel* const kernel = find(update.name); kernel != nullptr) body(*kernel, update);
    }
  }

  bool begins_early() const { return std::atoi(GetParam().architecture.c_str()) >= 90; }

 private:
  std::vector<Kernel> kernels_;
};

TEST_P(Ptx, holds_an_update_for_every_rule_and_storage_and_nothing_that_is_not_tested) {
  std::map<std::string, std::size_t> counts;
  for (const Kernel& kernel : kernels()) ++counts[kernel.name.substr(0, kernel.name.find_first_of("<("))];
  const std::map<std::string, std::size_t> expected{
      {"void adamant::kernels::update", updates().size()},
      {"void adamant::kernels::scalars", kernels::Rules::kSize},
      {"void adamant::kernels::gradient_norm", norms().size()},
      {"void adamant::kernels::make_master", float_masters(kernels::Storages{})},
      {"adamant::kernels::store", 1U}};
  EXPECT_EQ(counts, expected);
  for_each_update([](const Kernel& kernel, const Update&) { EXPECT_GT(kernel.code.size(), 50U) << kernel.name; });
  for (const Norm& norm : norms()) find(norm.name);
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
    expect_no_instruction(kernel, "arithmetic of the other type", [&](const Instruction& instruction) {
      // The report of the step is copied, numbers of both types.
      return instruction.has(other) && !is_global(instruction, "ld") && !is_global(instruction, "st");
    });
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
      // Whoever sets a step's control gives addresses of two numbers, each read once a tensor.
      if (instruction.where.find("kernels/step_control.hpp") != std::string::npos) return false;
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

// ptxas 13.0 makes one VIMNMX.RELU for sm_90 of max(0, min(n, x)), and asks its predicate whether the result is n: for
// an x of 0 it says yes. On an H200 the norm took a vector behind the end of an array for that; an emulator of PTX
// cannot see it.
TEST_P(Ptx, clamps_no_number_from_both_sides) {
  for (const Kernel& kernel : kernels()) {
    expect_no_instruction(kernel, "max(0, ...), which may be half of a clamp", [](const Instruction& instruction) {
      return instruction.operation() == "max" && !is_floating(instruction.name.back()) &&
             (instruction.text.ends_with(", 0") || instruction.text.ends_with(", 0;"));
    });
  }
}

TEST_P(Ptx, stores_whole_values) {
  for (const Kernel& kernel : kernels()) {
    if (kernel.name.find("::store(") != std::string::npos) continue;  // options: once a change, not once a tensor
    bool flag = false;  // an update has one, whether gradients are to be zeroed
    expect_no_instruction(kernel, "a store of one byte, as of an object whose alignment the compiler does not know",
                          [&](const Instruction& instruction) {
                            if (instruction.operation() != "st" || access_bytes(instruction) != 1) return false;
                            return !instruction.has("shared") || std::exchange(flag, true);
                          });
  }
}

TEST_P(Ptx, moves_16_bytes_at_a_time_on_every_array) {
  for_each_update([](const Kernel& kernel, const Update& update) {
    const Loop loop = loop_of(kernel, Flow(kernel));
    for (const bool loads : {true, false}) {
      int wide = 0;
      std::set<std::string> addresses;  // the registers that hold them: one an array
      for (const std::size_t i : loop.body) {
        const Instruction& instruction = kernel.code[i];
        if (!is_global(instruction, loads ? "ld" : "st")) continue;
        const int bytes = access_bytes(instruction);
        if (bytes == 16) {
          ++wide;
          addresses.insert(address_of(instruction));
        } else {
          EXPECT_TRUE(update.element_bytes.contains(bytes))
              << kernel.name << ": neither 16 bytes nor an element: " << instruction.where << ": " << instruction.text;
        }
      }
      EXPECT_EQ(wide, loads ? update.loads : update.stores) << kernel.name << (loads ? ": loads" : ": stores");
      EXPECT_EQ(addresses.size(), static_cast<std::size_t>(loads ? update.loaded : update.stored))
          << kernel.name << (loads ? ": arrays that are loaded" : ": arrays that are stored");
    }
  });
}

TEST_P(Ptx, reads_gradients_for_the_norm_16_bytes_at_a_time) {
  for (const Norm& norm : norms()) {
    const Kernel* const kernel = find(norm.name);
    if (kernel == nullptr) continue;
    const auto wide = std::count_if(kernel->code.begin(), kernel->code.end(), [](const Instruction& instruction) {
      return is_global(instruction, "ld") && access_bytes(instruction) == 16;
    });
    // What a lane reads of a chunk, once for whole chunks and once for others.
    EXPECT_EQ(wide, 2 * kChunk / 32 / norm.elements_an_access) << kernel->name;
    // Element by element only for others: a load that is never done takes its turn all the same.
    const auto single = std::count_if(kernel->code.begin(), kernel->code.end(), [](const Instruction& instruction) {
      return is_global(instruction, "ld") && access_bytes(instruction) == 2;
    });
    if (norm.elements_an_access == 8) {
      EXPECT_EQ(single, kChunk / 32) << kernel->name;
    }
  }
}

// Blocks hand each other the values of the norm's tree: the writer's fence stands before it says that it has arrived,
// the reader's before it reads, and it reads past its first-level cache. On most GPUs a test would hardly ever see it
// if not.
TEST_P(Ptx, hands_on_the_sums_of_the_norm_behind_fences) {
  for (const Norm& norm : norms()) {
    const Kernel* const kernel = find(norm.name);
    if (kernel == nullptr) continue;
    const auto all = [&](const auto& is) {
      std::vector<std::size_t> found;
      for (std::size_t i = 0; i < kernel->code.size(); ++i) {
        if (is(kernel->code[i])) found.push_back(i);
      }
      return found;
    };
    const std::vector<std::size_t> arrivals =
        all([](const Instruction& instruction) { return instruction.operation() == "atom" && instruction.has("add"); });
    const std::vector<std::size_t> fences = all([](const Instruction& instruction) {
      return (instruction.operation() == "membar" && instruction.has("gl")) ||
             (instruction.operation() == "fence" && instruction.has("gpu"));
    });
    ASSERT_EQ(arrivals.size(), 1U) << kernel->name;
    ASSERT_EQ(fences.size(), 2U) << kernel->name;
    const Flow flow(*kernel);
    const std::vector<bool> before = flow.before(arrivals, fences[0]);  // around the first fence
    const std::vector<bool> after = flow.after(arrivals, fences[1]);    // around the second
    const std::vector<bool> later = flow.after(arrivals[0]);
    int written = 0;
    int read = 0;
    for (std::size_t i = 0; i < kernel->code.size(); ++i) {
      const Instruction& instruction = kernel->code[i];
      if (!instruction.has("f64")) continue;
      if (is_global(instruction, "st") && flow.after(i)[arrivals[0]]) {
        ++written;
        EXPECT_FALSE(before[i]) << kernel->name << ": " << instruction.where << ": " << instruction.text;
      } else if (is_global(instruction, "ld") && later[i]) {
        ++read;
        EXPECT_FALSE(after[i]) << kernel->name << ": " << instruction.where << ": " << instruction.text;
        EXPECT_TRUE(instruction.has("cg")) << kernel->name << ": " << instruction.where << ": " << instruction.text;
      }
    }
    EXPECT_EQ(written, 1) << kernel->name;
    EXPECT_GT(read, 0) << kernel->name;
  }
}

TEST_P(Ptx, issues_every_load_of_a_pass_before_it_uses_a_loaded_value) {
  for_each_update([](const Kernel& kernel, const Update&) {
    const Flow flow(kernel);
    const Loop loop = loop_of(kernel, flow);
    std::set<std::string> loaded;
    std::vector<std::size_t> loads;
    for (const std::size_t i : loop.body) {
      if (!is_global(kernel.code[i], "ld")) continue;
      loads.push_back(i);
      loaded.insert(kernel.code[i].written.begin(), kernel.code[i].written.end());
    }
    EXPECT_FALSE(loaded.empty()) << kernel.name;
    // What is only moved is renamed, not used.
    for (std::size_t before = 0; before != loaded.size();) {
      before = loaded.size();
      for (const std::size_t i : loop.body) {
        const Instruction& instruction = kernel.code[i];
        if (instruction.operation() != "mov") continue;
        if (std::any_of(instruction.read.begin(), instruction.read.end(),
                        [&](const std::string& name) { return loaded.contains(name); })) {
          loaded.insert(instruction.written.begin(), instruction.written.end());
        }
      }
    }
    const std::vector<bool> before_a_load = flow.before(loads, loop.exit);
    const std::vector<bool> after_a_load = flow.after(loads, loop.exit);
    std::size_t uses = 0;
    for (const std::size_t i : loop.body) {
      const Instruction& use = kernel.code[i];
      const bool reads =
          std::any_of(use.read.begin(), use.read.end(), [&](const std::string& name) { return loaded.contains(name); });
      if (use.operation() == "mov" || (!reads && !is_global(use, "st"))) continue;
      ++uses;
      ASSERT_FALSE(before_a_load[i] && after_a_load[i])
          << kernel.name << ": between two loads is " << use.where << ": " << use.text;
    }
    EXPECT_GT(uses, 0U) << kernel.name;
  });
}

// The registers into which a kernel loads a parameter's bytes from `offset` on.
std::set<std::string> loaded_argument(const Kernel& kernel, std::size_t offset) {
  std::map<std::string, std::int64_t> addresses;  // registers that hold one within the parameter
  std::set<std::string> found;
  for (const Instruction& instruction : kernel.code) {
    if (instruction.operation() == "mov" && instruction.text.find("_param_0") != std::string::npos) {
      addresses[instruction.written.at(0)] = 0;
    } else if (const std::string& operation = instruction.operation(); (operation == "mov" || operation == "add") &&
                                                                       instruction.read.size() == 1 &&
                                                                       addresses.contains(instruction.read[0])) {
      const char* const last = instruction.text.c_str() + instruction.text.rfind(',') + 1;
      addresses[instruction.written.at(0)] =
          addresses[instruction.read[0]] + (operation == "add" ? std::strtoll(last, nullptr, 10) : 0);
    }
    if (instruction.operation() != "ld" || !instruction.has("param")) continue;
    const std::size_t plus = instruction.text.find('+');  // "[%rd1+-48]"
    std::int64_t at = plus == std::string::npos ? 0 : std::strtoll(instruction.text.c_str() + plus + 1, nullptr, 10);
    for (const std::string& base : instruction.read) {
      EXPECT_TRUE(addresses.contains(base)) << instruction.where << ": this test does not know what " << base << " is";
      at += addresses[base];
    }
    const std::int64_t bytes = access_bytes(instruction) / static_cast<int>(instruction.written.size());
    for (const std::string& name : instruction.written) {
      if (at == static_cast<std::int64_t>(offset)) found.insert(name);
      at += bytes;
    }
  }
  EXPECT_FALSE(found.empty()) << kernel.name << ": does not ask for its argument at " << offset;
  return found;
}

bool is_part_of_a_step(const Kernel& kernel) {
  const auto is = [&](const char* name) { return kernel.name.find(name) != std::string::npos; };
  return is("::scalars<") || is("::update<") || is("::gradient_norm<");
}

// Where the kernel waits for the one before it, or lets the next begin.
std::vector<std::size_t> dependent_launch(const Kernel& kernel, const char* part) {
  std::vector<std::size_t> found;
  for (std::size_t i = 0; i < kernel.code.size(); ++i) {
    if (kernel.code[i].operation() == "griddepcontrol" && kernel.code[i].has(part)) found.push_back(i);
  }
  return found;
}

// What nothing gets to around the instruction `wait`.
std::vector<bool> behind(const Flow& flow, std::size_t wait) {
  std::vector<bool> found = flow.after({0}, wait);
  found[0] = true;
  found.flip();
  return found;
}

struct Decision {
  bool if_zero = false;
  bool if_not = false;
};
// Whether `instruction` runs when the one branch that an argument decides, before `after`, finds it zero or not zero.
Decision decided_by(const Kernel& kernel, const Flow& flow, std::size_t offset, const std::vector<bool>& after,
                    std::size_t instruction) {
  const std::set<std::string> argument = loaded_argument(kernel, offset);
  Decision decision;
  int branches = 0;
  for (std::size_t i = 0; i < kernel.code.size(); ++i) {
    const Instruction& branch = kernel.code[i];
    if (branch.operation() != "bra" || !branch.guarded || after[i]) continue;
    const auto made = std::find_if(kernel.code.begin(), kernel.code.end(), [&](const Instruction& other) {
      return other.operation() == "setp" && other.written == branch.read && other.read.size() == 1 &&
             argument.contains(other.read[0]) && other.text.back() == '0';
    });
    if (made == kernel.code.end()) continue;
    ++branches;
    EXPECT_TRUE(made->has("eq") || made->has("ne")) << made->text;
    for (const bool zero : {false, true}) {
      const bool taken = (made->has("eq") == zero) == (branch.guard.find('!') == std::string::npos);
      const std::size_t next = taken ? kernel.labels.at(branch.target) : i + 1;
      (zero ? decision.if_zero : decision.if_not) = next == instruction || flow.after(next)[instruction];
    }
  }
  EXPECT_EQ(branches, 1) << kernel.name << ": branches that the argument at " << offset << " decides";
  return decision;
}

// Until it waits, a kernel that begins early reads only what stays as it is while steps may be under way.
TEST_P(Ptx, waits_before_it_reads_what_may_change) {
  for (const Kernel& kernel : kernels()) {
    const bool is_scalars = kernel.name.find("::scalars<") != std::string::npos;
    const std::size_t expected = begins_early() && is_part_of_a_step(kernel) ? 1 : 0;
    EXPECT_EQ(dependent_launch(kernel, "wait").size(), expected) << kernel.name;
    EXPECT_EQ(dependent_launch(kernel, "launch_dependents").size(), is_scalars ? 2 * expected : expected)
        << kernel.name;
  }
  if (!begins_early()) return;
  int kernels_seen = 0;
  for (const Kernel& kernel : kernels()) {
    const bool is_norm = kernel.name.find("::gradient_norm<") != std::string::npos;
    if (!is_norm && kernel.name.find("::scalars<") == std::string::npos) continue;
    ++kernels_seen;
    const Flow flow(kernel);
    const std::vector<bool> after = behind(flow, dependent_launch(kernel, "wait").at(0));
    if (!is_norm) {
      // The update reads its arrays before it waits, and so may not begin before what is ahead of the step has ended:
      // where there is a norm, this kernel may begin before that, and has to wait first.
      const std::vector<std::size_t> lets = dependent_launch(kernel, "launch_dependents");
      ASSERT_EQ(lets.size(), 2U) << kernel.name;
      const Decision decision = decided_by(kernel, flow, offsetof(kernels::DeviceTables, measured), after, lets[0]);
      EXPECT_TRUE(decision.if_zero) << kernel.name << " keeps the update waiting where it waits for nothing itself";
      EXPECT_FALSE(decision.if_not) << kernel.name << " lets the update begin while a norm may still run";
      EXPECT_TRUE(after[lets[1]]) << kernel.name << " lets the update begin before it has waited";
    }
    // Tables of the plan are what the arguments begin with, and the norm's behind the others.
    std::set<std::string> constant = loaded_argument(kernel, offsetof(kernels::DeviceTables, rows));
    if (is_norm) {
      for (const std::size_t offset : {offsetof(kernels::NormTables, leaves), offsetof(kernels::NormTables, nodes)}) {
        constant.merge(loaded_argument(kernel, sizeof(kernels::DeviceTables) + offset));
      }
    }
    constant = made_of(constant, kernel);
    int loads = 0;
    for (std::size_t i = 0; i < kernel.code.size(); ++i) {
      const Instruction& instruction = kernel.code[i];
      if (after[i] || !is_access(instruction) || instruction.has("param") || instruction.has("shared")) continue;
      ++loads;
      EXPECT_TRUE(instruction.operation() == "ld" && constant.contains(address_of(instruction)))
          << kernel.name << " does not wait for it: " << instruction.where << ": " << instruction.text;
    }
    EXPECT_GT(loads, 0) << kernel.name << ": nothing is looked up before it waits";
  }
  EXPECT_GT(kernels_seen, 0);
}

// Where the scalars' kernel lets the update begin, the update has loaded before it waits, past the first-level cache,
// and read nothing that the scalars' kernel writes. The last update of a step lets nobody begin early.
TEST_P(Ptx, waits_for_scalars_behind_its_first_loads) {
  if (!begins_early()) return;
  for_each_update([](const Kernel& kernel, const Update& update) {
    const std::vector<std::size_t> wait = dependent_launch(kernel, "wait");
    const std::vector<std::size_t> lets = dependent_launch(kernel, "launch_dependents");
    ASSERT_TRUE(wait.size() == 1U && lets.size() == 1U) << kernel.name;
    const Flow flow(kernel);
    const std::vector<bool> after = behind(flow, wait[0]);
    const Decision decision = decided_by(kernel, flow, offsetof(kernels::UpdateArguments, is_last), after, lets[0]);
    EXPECT_TRUE(decision.if_zero) << kernel.name << " is not the last of a step and lets nobody begin early";
    EXPECT_FALSE(decision.if_not) << kernel.name << " is the last of a step and lets others begin early";
    std::set<std::string> arrays;  // addresses of arrays come from shared memory
    for (const Instruction& instruction : kernel.code) {
      if (instruction.operation() == "ld" && instruction.has("shared") && instruction.name.back() == "u64") {
        arrays.insert(instruction.written.begin(), instruction.written.end());
      }
    }
    arrays = made_of(arrays, kernel);
    const auto made_of_arguments = [&](std::initializer_list<std::size_t> offsets) {
      std::set<std::string> all;
      for (const std::size_t offset : offsets) all.merge(loaded_argument(kernel, offset));
      return made_of(all, kernel);
    };
    const std::set<std::string> written =  // by the scalars' kernel
        made_of_arguments({offsetof(kernels::DeviceTables, scalars), offsetof(kernels::DeviceTables, next_report)});
    const std::set<std::string> constant =
        made_of_arguments({offsetof(kernels::DeviceTables, rows), offsetof(kernels::DeviceTables, tiles)});
    int loads = 0;
    for (std::size_t i = 0; i < kernel.code.size(); ++i) {
      const Instruction& instruction = kernel.code[i];
      if (after[i] || !is_access(instruction) || instruction.has("param") || instruction.has("shared")) continue;
      EXPECT_EQ(instruction.operation(), "ld") << kernel.name << " writes before it waits: " << instruction.where;
      const std::string address = address_of(instruction);
      EXPECT_TRUE(instruction.has("relaxed") || constant.contains(address))
          << kernel.name << " reads through the first-level cache what may be old there: " << instruction.where << ": "
          << instruction.text;
      EXPECT_TRUE(access_bytes(instruction) >= 8 || constant.contains(address))
          << kernel.name << " reads element by element past the first-level cache: " << instruction.where;
      EXPECT_FALSE(written.contains(address))
          << kernel.name << " does not wait for it: " << instruction.where << ": " << instruction.text;
      if (access_bytes(instruction) == 16 && arrays.contains(address)) ++loads;
    }
    EXPECT_EQ(loads, update.loads) << kernel.name << ": loads of the first pass before it waits";
    for (std::size_t i = 0; i < kernel.code.size(); ++i) {
      EXPECT_FALSE(after[i] && kernel.code[i].has("relaxed"))
          << kernel.name << " need not read it past the first-level cache: " << kernel.code[i].where;
    }
    EXPECT_TRUE(std::any_of(kernel.code.begin(), kernel.code.end(),
                            [&](const Instruction& instruction) {
                              return is_global(instruction, "ld") && written.contains(address_of(instruction));
                            }))
        << kernel.name << " reads no scalars: this test does not see them";
  });
}

// What ptxas says of a kernel.
struct Resources {
  int registers = -1;
  std::string memory;  // "0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads"
};

void add_resources(const std::string& architecture, const std::string& ptx, std::map<std::string, Resources>& all) {
  const Folder folder;
  // As nvcc calls it with the flags of the library.
  const std::vector<std::string> command{
      ADAMANT_PTXAS, "-v", "-m64", "--fmad", "false", "-arch=sm_" + architecture, ptx, "-o", folder.file("cubin")};
  const Outcome outcome = run_program(command, {.seconds = 300});
  EXPECT_EQ(outcome.exit_code, 0) << to_text(command, outcome);
  std::string symbol;
  for (const std::string& line : split(outcome.err, '\n')) {
    if (line.find("Compiling entry function") != std::string::npos) symbol = split(line, '\'').at(1);
    if (line.find("bytes stack frame") != std::string::npos) all[symbol].memory = trimmed(line);
    const std::size_t used = line.find("Used ");
    if (used != std::string::npos) all[symbol].registers = std::atoi(line.c_str() + used + 5);
  }
}

TEST_P(Ptx, needs_few_registers_and_spills_none) {
  std::map<std::string, Resources> all;
  for (const std::string& ptx : GetParam().ptx) add_resources(GetParam().architecture, ptx, all);
  std::map<std::string, int> most;
  // As many as leave room for so many blocks; a warp gets its registers eight a thread. From 10.0 on nvcc optimises in
  // another way, and updates with two states or more need more of them.
  const bool is_newer = std::atoi(GetParam().architecture.c_str()) >= 100;
  const bool holds_2048_threads = std::set<std::string>{"80", "90", "100"}.contains(GetParam().architecture);
  for (const Update& update : updates()) {
    int blocks = update.has_large_vectors && update.slots >= 3 ? 3 : 4;
    if (holds_2048_threads && update.slots == 0 && !update.has_large_vectors && !update.is_double) blocks = 8;
    if (is_newer && update.slots >= 2 && (update.has_large_vectors || update.is_double)) --blocks;
    most[update.name] = 65536 / (blocks * kernels::kUpdateThreads) / 8 * 8;
  }
  for (const Norm& norm : norms()) most[norm.name] = 65536 / (kernels::kNormBlocksPerSm * kernels::kNormThreads);
  EXPECT_GE(all.size(), most.size()) << "ptxas says nothing of them";
  for (const auto& [symbol, resources] : all) {
    const std::string name = demangled(symbol.c_str());
    EXPECT_EQ(resources.memory, "0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads") << name;
    EXPECT_GT(resources.registers, 0) << name;
    const auto found = most.find(name);
    EXPECT_LE(resources.registers, found == most.end() ? 64 : found->second) << name;
    if (found != most.end()) most.erase(found);
  }
  for (const auto& [name, registers] : most) ADD_FAILURE() << "ptxas says nothing of " << name;
}

std::string name_of(const testing::TestParamInfo<Build>& info) { return "sm_" + info.param.architecture; }

INSTANTIATE_TEST_SUITE_P(OfDeviceCode, Ptx, testing::ValuesIn(builds(ADAMANT_PTX_FILES)), name_of);
INSTANTIATE_TEST_SUITE_P(Full_OfDeviceCode, Ptx, testing::ValuesIn(builds(ADAMANT_PTX_FILES_FULL)), name_of);

}  // namespace
}  // namespace adamant::test
