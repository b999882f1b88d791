// The update loops for the SIMD level avx2; the build gives this file that level's flags.
#define ADAMANT_SIMD_LEVEL avx2
#include "host/cpu_update.inl"
