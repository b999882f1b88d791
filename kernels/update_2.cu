#include "kernels/update_kernels.cuh"

template adamant::kernels::UpdateKernel adamant::kernels::update_kernel_of_group<2>(int rule, int storage);
