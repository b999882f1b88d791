// An NVTX tool, as a profiler is one: NVTX loads it where NVTX_INJECTION64_PATH names it. Writes the domains and ranges
// that it is told of to the file that ADAMANT_NVTX_LOG names, a range in a line, indented as it is nested.
#include <nvtx3/nvToolsExt.h>

#include <cstdio>
#include <cstdlib>
#include <deque>
#include <string>

namespace {

std::deque<std::string>& domains() {
  static std::deque<std::string> all;  // never moved: their addresses are the handles
  return all;
}

thread_local int depth = 0;

void write_line(const std::string& line) {
  const char* path = std::getenv("ADAMANT_NVTX_LOG");
  std::FILE* file = path == nullptr ? nullptr : std::fopen(path, "a");
  if (file == nullptr) return;
  std::fputs((line + "\n").c_str(), file);
  std::fclose(file);
}

nvtxDomainHandle_t create_domain(const char* name) {
  domains().emplace_back(name);
  return reinterpret_cast<nvtxDomainHandle_t>(&domains().back());
}

int push_range(nvtxDomainHandle_t domain, const nvtxEventAttributes_t* event) {
  const std::string* name = reinterpret_cast<const std::string*>(domain);
  write_line(std::string(static_cast<std::size_t>(2 * depth), ' ') + (name == nullptr ? "(no domain)" : *name) + ": " +
             (event->messageType == NVTX_MESSAGE_TYPE_ASCII ? event->message.ascii : "(no text)"));
  return depth++;
}

int pop_range(nvtxDomainHandle_t) { return --depth; }

}  // namespace

extern "C" __attribute__((visibility("default"))) int InitializeInjectionNvtx2(NvtxGetExportTableFunc_t get_table) {
  const auto* callbacks = static_cast<const NvtxExportTableCallbacks*>(get_table(NVTX_ETID_CALLBACKS));
  NvtxFunctionTable table = nullptr;
  unsigned size = 0;
  if (callbacks == nullptr || callbacks->GetModuleFunctionTable(NVTX_CB_MODULE_CORE2, &table, &size) == 0) return 0;
  if (size <= NVTX_CBID_CORE2_DomainCreateA) return 0;
  *table[NVTX_CBID_CORE2_DomainCreateA] = reinterpret_cast<NvtxFunctionPointer>(&create_domain);
  *table[NVTX_CBID_CORE2_DomainRangePushEx] = reinterpret_cast<NvtxFunctionPointer>(&push_range);
  *table[NVTX_CBID_CORE2_DomainRangePop] = reinterpret_cast<NvtxFunctionPointer>(&pop_range);
  return 1;
}
