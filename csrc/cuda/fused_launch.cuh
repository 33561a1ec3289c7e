// Launch of the small-batch kernel for one type of inputs; each has a file of its own (fused_*.cu).
#pragma once

#include "fused_step.cuh"
#include "launch.cuh"

namespace softnce::cuda {

template <typename V>
cudaError_t fused_blocks(int64_t columns, const Stream& stream, int* blocks) {
  const cudaError_t error = allow_shared_bytes(fused_step_kernel<V>, stream);
  if (error != cudaSuccess) return error;
  return cudaOccupancyMaxActiveBlocksPerMultiprocessor(
      blocks, fused_step_kernel<V>, kFusedThreads,
      static_cast<size_t>(fused_shared_bytes<V>(columns)));
}

template <typename V>
cudaError_t launch_fused_step(FusedStep step, int64_t blocks, const Stream& stream) {
  Shape shape{plan_tiles(step, sizeof(V) == 2, blocks), kFusedThreads,
              fused_shared_bytes<V>(step.rows.columns)};
  shape.cooperative = true;
  return launch(fused_step_kernel<V>, shape, stream, step);
}

}  // namespace softnce::cuda
