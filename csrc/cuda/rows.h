// Launches of the row kernels, for who is not compiled by nvcc.
//
// Each instantiation is compiled in a file of its own (rows_*.cu), so that a build runs them in
// parallel. Nothing here knows torch: errors come back as CUDA has them.
#pragma once

#include <cuda_runtime_api.h>

#include "fused_step.h"

namespace softnce::cuda {

// `shared_bytes`: the most a block may ask for on this GPU.
struct Stream {
  cudaStream_t stream;
  int64_t shared_bytes;
};

// The compute capability that the kernels the current GPU runs were compiled for, 90 for 9.0.
cudaError_t compiled_version(int* version);

cudaError_t launch_rows(const RowBlock<float>& block, Family family, const RowPlan& plan,
                        const Stream& stream);
cudaError_t launch_rows(const RowBlock<double>& block, Family family, const RowPlan& plan,
                        const Stream& stream);

// total = weight * sum of loss
cudaError_t launch_total(const float* loss, int64_t rows, double weight, float* total,
                         const Stream& stream);
cudaError_t launch_total(const double* loss, int64_t rows, double weight, double* total,
                         const Stream& stream);

// The whole step of a small batch. V, the type of the inputs: __nv_bfloat16, __half or float.

// How many blocks of the kernel one multiprocessor holds at once.
template <typename V>
cudaError_t fused_blocks(int64_t columns, const Stream& stream, int* blocks);

// `blocks`: the most that are live at once.
template <typename V>
cudaError_t launch_fused_step(FusedStep step, int64_t blocks, const Stream& stream);

// What launch_rows passes on to the file of the family.
cudaError_t launch_soft_rows(const RowBlock<float>&, const RowPlan&, const Stream&);
cudaError_t launch_cancellation_rows(const RowBlock<float>&, const RowPlan&, const Stream&);
cudaError_t launch_target_rows(const RowBlock<float>&, const RowPlan&, const Stream&);

}  // namespace softnce::cuda
