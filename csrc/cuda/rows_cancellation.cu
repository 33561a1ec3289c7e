// BM25's factors and the cancellations, in fp32.
#include "launch.cuh"

namespace softnce::cuda {

cudaError_t launch_cancellation_rows(const RowBlock<float>& block, const RowPlan& plan,
                                     const Stream& stream) {
  return launch_any_rows<float, Family::kCancellation>(block, plan, stream);
}

}  // namespace softnce::cuda
