// Programmatic dependent launch: where a device can (compute capability 9.0), the update begins while the scalars of
// its step are still being computed. launch.cu asks for it.
#pragma once

namespace adamant::kernels {

// In the update: waits until all scalars are written.
__device__ __forceinline__ void wait_for_scalars() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// In the scalar kernel.
__device__ __forceinline__ void let_update_begin() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

}  // namespace adamant::kernels
