// Programmatic dependent launch: where a device can (compute capability 9.0), a kernel of a step begins when the one
// before it in the stream, whosever that is, lets it or has ended, before what that one wrote can be read. launch.cu
// asks for it.
//
// Until a kernel has waited it reads nothing but what stays the same as long as steps may be under way, the plan; the
// first kernel of a new plan does not begin early. An update begins behind scalars that have waited, and so reads its
// arrays and their addresses too, past the first-level cache: that a kernel which begins early finds nothing old there
// is not promised. Lines may be asked for at any time.
//
// Only those begin early that are ours: what runs behind the last kernel of a step may have been launched so and not
// wait at all (CUB's, where they were compiled for an older device), and would read what is not there yet.
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

// Has the line at that address brought to where it is near.
__device__ __forceinline__ void ask_for(const void* address) {
#if __CUDA_ARCH__ >= 900
  asm volatile("prefetch.global.L2 [%0];" ::"l"(address));
#endif
}

}  // namespace adamant::kernels
