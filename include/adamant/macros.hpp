/// \file
/// The two macros of the library. Everything else is plain C++20.
#pragma once

#if !defined(__cplusplus) || __cplusplus < 202002L
#error "adamant needs C++20: compile with -std=c++20 or newer (CMake: target_compile_features(... cxx_std_20))"
#endif

/// Marks the arithmetic that CPU and GPU share. Forced inlining is part of the promise that bits do not depend on the
/// program around the library: an inlined function leaves no symbol that a copy compiled with other flags could
/// replace.
#if defined(__CUDACC__)
#define ADAMANT_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define ADAMANT_HOST_DEVICE [[gnu::always_inline]] inline
#endif

/// Marks what the library exports.
#define ADAMANT_API [[gnu::visibility("default")]]
