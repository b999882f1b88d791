// Programmatic dependent launch: where a device can (compute capability 9.0), the kernels of a step but the first begin
// when the one before them lets them, before what that one wrote can be read. launch.cu asks for it.
//
// The first begins as any other kernel, when all that is before it in the stream has ended, and the last lets nobody
// begin early: kernels of others may be launched so, need not wait (CUB's do not, where they were compiled for an older
// device), and then end before, or begin before, what a step reads or writes is there.
//
// Until a kernel has waited it reads only what the kernels of the step do not write: the plan and, past the first-level
// cache, the arrays and their addresses: that a kernel which begins early finds nothing old there is not promised.
// Lines may be asked for at any time.
#pragma once

namespace adamant::kernels {

// Waits until the kernel before this one has ended and what it wrote is there to be read.
__device__ __forceinline__ void wait_for_kernel_before() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// Lets the kernel behind this one begin once all blocks have come here or ended.
__device__ __forceinline__ void let_next_kernel_begin() {
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
