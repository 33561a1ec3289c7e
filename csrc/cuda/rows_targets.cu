// The losses with soft targets, in fp32.
#include "launch.cuh"

namespace softnce::cuda {

cudaError_t launch_target_rows(const RowBlock<float>& block, const RowPlan& plan,
                               const Stream& stream) {
  return launch_any_rows<float, Family::kTargets>(block, plan, stream);
}

}  // namespace softnce::cuda
