// Which SIMD levels an x86-64 build holds and this machine can run.
#include "host/cpu_update.hpp"

namespace adamant::host {

std::vector<UpdateTable> update_tables() {
  __builtin_cpu_init();  // safe when a static constructor of the program gets here before ours have run
  std::vector<UpdateTable> tables{baseline::update_table()};
  if (__builtin_cpu_supports("avx2")) tables.push_back(avx2::update_table());
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512bw")) {
    tables.push_back(avx512::update_table());
  }
  const bool prefetches = __builtin_cpu_is("intel") != 0;
  for (UpdateTable& table : tables) table.prefetches = prefetches;
  return tables;
}

}  // namespace adamant::host
