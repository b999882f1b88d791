// Device code of the project itself, which uses adamant through the header for CUDA's own types.
#include <adamant/adamant.hpp>
#include <adamant/cuda.hpp>

__global__ void invert(float* data) { data[threadIdx.x] = 1.0F / data[threadIdx.x]; }

void step(adamant::Optimizer& optimizer, cuda::stream_ref stream) { optimizer.step(adamant::stream(stream)); }
void add(adamant::Optimizer& optimizer, thrust::device_vector<float>& parameter,
         const thrust::device_vector<float>& gradient) {
  invert<<<1, 32>>>(thrust::raw_pointer_cast(parameter.data()));
  optimizer.add({.name = "x", .parameter = adamant::array(parameter), .gradient = adamant::array(gradient)});
}
