// The update loops for the SIMD level avx512; the build gives this file that level's flags.
#define ADAMANT_SIMD_LEVEL avx512
#include "host/cpu_update.inl"
