// All losses in fp64, which is for checking and not for speed: one kernel each for rows of any
// length.
#include "launch.cuh"

namespace softnce::cuda {

cudaError_t launch_rows(const RowBlock<double>& block, Family family, const RowPlan& plan,
                        const Stream& stream) {
  switch (family) {
    case Family::kSoft:
      return launch_any_rows<double, Family::kSoft>(block, plan, stream);
    case Family::kCancellation:
      return launch_any_rows<double, Family::kCancellation>(block, plan, stream);
    default:
      return launch_any_rows<double, Family::kTargets>(block, plan, stream);
  }
}

cudaError_t launch_total(const double* loss, int64_t rows, double weight, double* total,
                         const Stream& stream) {
  return launch_total_of(loss, rows, weight, total, stream);
}

}  // namespace softnce::cuda
