// The update loops for the SIMD level baseline; the build gives this file that level's flags.
#define ADAMANT_SIMD_LEVEL baseline
#include "host/cpu_update.inl"
