// The common losses in fp32, and the choice among the families.
#include "launch.cuh"

namespace softnce::cuda {

cudaError_t compiled_version(int* version) {
  cudaFuncAttributes attributes{};
  const cudaError_t error =
      cudaFuncGetAttributes(&attributes, reinterpret_cast<const void*>(&total_kernel<float>));
  *version = attributes.ptxVersion;
  return error;
}

cudaError_t launch_soft_rows(const RowBlock<float>& block, const RowPlan& plan,
                             const Stream& stream) {
  if (plan.place == Place::kWarp)
    return launch(warp_row_kernel<float>,
                  {(block.rows + kWarpRows - 1) / kWarpRows, plan.threads, plan.shared_bytes},
                  stream, block);
  if (plan.fast)
    return launch(block_row_kernel<float>,
                  {block.rows * plan.cluster, plan.threads, plan.shared_bytes, plan.cluster},
                  stream, block, plan.cluster);
  return launch_any_rows<float, Family::kSoft>(block, plan, stream);
}

cudaError_t launch_rows(const RowBlock<float>& block, Family family, const RowPlan& plan,
                        const Stream& stream) {
  switch (family) {
    case Family::kSoft:
      return launch_soft_rows(block, plan, stream);
    case Family::kCancellation:
      return launch_cancellation_rows(block, plan, stream);
    default:
      return launch_target_rows(block, plan, stream);
  }
}

cudaError_t launch_total(const float* loss, int64_t rows, double weight, float* total,
                         const Stream& stream) {
  return launch_total_of(loss, rows, weight, total, stream);
}

}  // namespace softnce::cuda
