// The small-batch kernel for float inputs.
#include "fused_launch.cuh"

namespace softnce::cuda {

template cudaError_t fused_blocks<float>(int64_t, const Stream&, int*);
template cudaError_t launch_fused_step<float>(FusedStep, int64_t, const Stream&);

}  // namespace softnce::cuda
