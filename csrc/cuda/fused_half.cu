// The small-batch kernel for half inputs.
#include "fused_launch.cuh"

namespace softnce::cuda {

template cudaError_t fused_blocks<__half>(int64_t, const Stream&, int*);
template cudaError_t launch_fused_step<__half>(FusedStep, int64_t, const Stream&);

}  // namespace softnce::cuda
