// The small-batch kernel for bf16 inputs.
#include "fused_launch.cuh"

namespace softnce::cuda {

template cudaError_t fused_blocks<__nv_bfloat16>(int64_t, const Stream&, int*);
template cudaError_t launch_fused_step<__nv_bfloat16>(FusedStep, int64_t, const Stream&);

}  // namespace softnce::cuda
