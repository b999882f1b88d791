// Programmatic dependent launch (PDL): on devices of compute capability 9.0 and later, every kernel of a step but the
// first may start when the kernel before it triggers it, before that kernel's writes are visible. launch.cu sets the
// launch attribute.
//
// The first kernel is launched without the attribute and starts when all earlier work in the stream has completed; the
// last kernel triggers nothing. Other people's kernels may be launched with the attribute and need not wait (CUB's do
// not if they were compiled for an older device): one ahead of the step could complete before what the step reads has
// been written, and one behind it could start before what the step writes is there.
//
// Before its wait a kernel reads only what no earlier kernel of the step writes: the plan, the arrays and their
// addresses. Arrays and addresses, which may have been written just before the step, are read past L1, where a kernel
// that starts early is not promised to find nothing stale. Prefetching into L2 is allowed at any time.
#pragma once

namespace adamant::kernels {

// Blocks until the preceding kernel has completed and its writes are visible.
__device__ __forceinline__ void wait_for_previous_kernel() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// Lets the next kernel start once every block has called this or exited.
__device__ __forceinline__ void trigger_next_kernel() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// Brings the line at that address into the second-level cache.
__device__ __forceinline__ void prefetch(const void* address) {
#if __CUDA_ARCH__ >= 900
  asm volatile("prefetch.global.L2 [%0];" ::"l"(address));
#endif
}

}  // namespace adamant::kernels
