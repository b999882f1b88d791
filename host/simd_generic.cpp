// SIMD levels of an architecture for which only the baseline is compiled.
#include "host/cpu_update.hpp"

namespace adamant::host {

std::vector<UpdateTable> update_tables() { return {baseline::update_table()}; }

}  // namespace adamant::host
