// One row: similarities -> weights or targets -> loss -> gradient, in place.
//
// Short sweeps over a row that stays in the first two cache levels (sweeps.h). Never materialised
// beyond the row: S, w, P. Compiled once per instruction set (SOFTNCE_ISA names the namespace);
// nothing here may have external linkage but the entries at the foot.
#include "row_kernel.h"

#include "row_targets.h"
#include "row_weights.h"
#include "sweeps.h"

namespace softnce::cpu {
namespace SOFTNCE_ISA {
namespace {

template <typename T>
SOFTNCE_INLINE int64_t count_negatives(const Row<T>& row) {
  if (row.code_groups == nullptr) return row.columns - 1;
  return View<T, true, false>{row.code_groups, nullptr, row.group, row.columns, row.positive}
      .negatives();
}

// Masked weighted log-sum-exp: InfoNCE, Soft-InfoNCE and the cancellations.
template <typename T>
SOFTNCE_INLINE T run_cross_entropy(const Row<T>& row, const Rule& rule) {
  T* s = row.scores;
  const T* w = row.weights;
  const int64_t columns = row.columns;
  const T positive_score = s[row.positive];

  bool valid = true;
  T largest, negatives;
  if (w == nullptr) {
    largest = max_columns<T>(columns, [&](int64_t j) { return s[j]; });
    s[row.positive] = -kInfinity<T>;
    negatives =
        sum_columns<T>(columns, [&](int64_t j) { return s[j] = exp_nonpositive(s[j] - largest); });
  } else {
    valid = fill_weights(row, rule);
    // A column of weight 0 must not set the maximum: all others could underflow beside it.
    largest =
        max_columns<T>(columns, [&](int64_t j) { return w[j] == T(0) ? -kInfinity<T> : s[j]; });
    largest = positive_score > largest ? positive_score : largest;
    negatives = sum_columns<T>(columns, [&](int64_t j) {
      const T below = s[j] - largest;  // NaN stays; a column of weight 0 may lie above
      return s[j] = w[j] * exp_nonpositive(below > T(0) ? T(0) : below);
    });
  }
  const T gap = largest - positive_score;
  const RowResult<T> result = finish_row<T>(gap, exp_nonpositive(-gap), negatives, row.eps);

  if (row.need_gradient) {
    const T factor = valid ? row.gradient_weight * result.gradient_scale : kNan<T>;
#pragma omp simd
    for (int64_t j = 0; j < columns; ++j) s[j] *= factor;
    s[row.positive] = -negatives * factor;
  }
  return valid ? result.loss : kNan<T>;
}

template <typename T>
SOFTNCE_INLINE T run_row(const Row<T>& row, const Rule& rule) {
  const int64_t negatives = count_negatives(row);
  // A row without negatives: nothing to learn, whatever its similarities hold.
  if (negatives == 0) {
    const T* s = row.scores;
    const bool has_nan = count_columns(row.columns, [&](int64_t j) { return s[j] != s[j]; }) > 0;
    const T score = has_nan ? kNan<T> : s[row.positive];
    const T gap = score - score;  // NaN for a NaN or infinite score, else 0
    if (row.need_gradient)
      for (int64_t j = 0; j < row.columns; ++j) row.scores[j] = gap;
    const bool has_eps = rule.objective != Objective::kBCE && rule.objective != Objective::kKL;
    return finish_row<T>(T(0), T(1), gap, has_eps ? row.eps : T(0)).loss;
  }
  switch (rule.objective) {
    case Objective::kBCE:
      return run_bce(row, rule, negatives);
    case Objective::kWeightedInfoNCE:
      return run_weighted_info_nce(row, rule);
    case Objective::kKL:
      return run_kl(row, rule);
    default:
      return run_cross_entropy(row, rule);
  }
}

#ifndef SOFTNCE_FP64
float run_row_f32(const Row<float>& row, const Rule& rule) { return run_row(row, rule); }
#endif

}  // namespace

#ifdef SOFTNCE_FP64
double run_row_f64(const Row<double>& row, const Rule& rule) { return run_row(row, rule); }
#else
extern const RowKernels kKernels;
const RowKernels kKernels{run_row_f32, baseline::run_row_f64};
#endif

}  // namespace SOFTNCE_ISA
}  // namespace softnce::cpu
