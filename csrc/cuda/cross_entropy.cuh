// Cross-entropy with weighted negatives: InfoNCE, Soft-InfoNCE and the two cancellations.
//
// Never materialised: S, w, exp(s), the mask. The row's values hold, in turn,
//   z -> exp((z - max) / temperature), an unnormalised share -> x = s + log w -> exp(x - max)
// (-inf for a weight of 0), and without similarities only the last two. Scores are read from memory
// once, similarities once, the gradient is written once.
//
// A NaN score, and a NaN or infinite similarity of a negative, makes the row's loss and gradient
// NaN. A column that is no negative may hold any similarity.
#pragma once

#include "cancel.cuh"
#include "gradient.cuh"

namespace softnce::cuda {

// Shares lie in [0, 1]; these mark what has none.
template <typename T>
constexpr T kShareNone = T(-1);  // no negative
template <typename T>
constexpr T kShareUnknown = T(-2);

// Similarities into shares, not yet divided by the returned sum.
template <class R>
__device__ __forceinline__ typename R::T exponentiate_similarities(const R& row,
                                                                   typename R::T largest) {
  using T = typename R::T;
  const T exponent = row.block.similarity_exponent;
  T sum = 0;
  row.sweep_values([&](int32_t i, Vector<T> v) {
    T part = 0;
#pragma unroll
    for (int l = 0; l < R::kWidth; ++l) {
      const T z = v.at[l], share = exponential((z - largest) * exponent);
      const bool no_negative = z == kNoNegative<T>, unknown = z == kUnknown<T>;
      v.at[l] = no_negative ? kShareNone<T> : unknown ? kShareUnknown<T> : share;
      part += no_negative || unknown ? T(0) : share;
    }
    sum += part;
    row.store_values(i, v);
  });
  return group_sum(row.group, sum);
}

// The biased score of a column of weight 0: -inf, where it is not NaN.
template <typename T>
__device__ __forceinline__ T left_out(T score) {
  return score == score ? -kInfinity<T> : score;
}

// Scores, read for the only time, into biased ones: bias(s, the column's value, column). Returns
// the largest.
template <class R, typename Bias>
__device__ __forceinline__ typename R::T bias_scores(const R& row, Bias bias) {
  using T = typename R::T;
  T largest = -kInfinity<T>;
  row.template sweep<R::kFromMemory>(
      0, row.end, [&](int32_t i) { return row.load_scores(i); },
      [&](int32_t i, Vector<T> s) {
        row.clear_padding(i, s);
        Vector<T> v = row.load_values(i);
#pragma unroll
        for (int l = 0; l < R::kWidth; ++l) {
          v.at[l] = bias(s.at[l], v.at[l], row.span.begin + i + l);
          largest = larger(largest, v.at[l]);
        }
        row.store_values(i, v);
      });
  return group_max(row.group, largest);
}

// Eq. 4. A column of weight 0 is a bias of -inf and must not set the maximum: all others could
// underflow beside it.
template <class R>
__device__ __forceinline__ typename R::T bias_softly(const R& row) {
  using T = typename R::T;
  const Seen<T> seen = mark_similarities(row);
  WeightLine<T> line = seen.known == row.block.columns - 1
                           ? row.block.line
                           : weight_line<T>(row.block.rule, seen.known);
  line.slope /= exponentiate_similarities(row, seen.largest);
  return bias_scores(row, [&](T s, T share, int32_t) {
    const T w = share < T(0) ? T(share == kShareUnknown<T>) : weight(line, share);
    return w == T(0) ? left_out(s) : s + log_weight(w);
  });
}

template <class R>
__device__ __forceinline__ typename R::T bias_top_k(const R& row) {
  using T = typename R::T;
  const Dropped<T> dropped = find_top_k(row, mark_similarities(row).known);
  return bias_scores(row, [&](T s, T z, int32_t column) {
    if (z == kUnknown<T>) return s;
    if (z != z) return z;
    return z == kNoNegative<T> || is_dropped(dropped, z, column) ? left_out(s) : s;
  });
}

template <class R>
__device__ __forceinline__ typename R::T bias_below(const R& row) {
  using T = typename R::T;
  const T bound = find_bound(row);
  row.group.sync();  // all threads have read the positive's own before it is marked
  mark_similarities(row);
  return bias_scores(row, [&](T s, T z, int32_t) {
    if (z == kNoNegative<T>) return left_out(s);
    if (bound != bound || z != z) return kNan<T>;
    return z == kUnknown<T> || z < bound ? s : left_out(s);
  });
}

// Without similarities: -inf for what is no negative.
template <class R>
__device__ __forceinline__ typename R::T mask_scores(const R& row) {
  using T = typename R::T;
  T largest = -kInfinity<T>;
  row.template sweep<R::kFromMemory>(
      0, row.end, [&](int32_t i) { return row.load_scores(i); },
      [&](int32_t i, Vector<T> s) {
        row.mark_outside(i, s);
#pragma unroll
        for (int l = 0; l < R::kWidth; ++l) largest = larger(largest, s.at[l]);
        row.store_values(i, s);
      });
  if (row.block.code_groups != nullptr) {
    largest = -kInfinity<T>;
    row.template mark_masked<true>([&](T s) { largest = larger(largest, s); });
  }
  return group_max(row.group, largest);
}

template <class R>
__device__ __forceinline__ typename R::T exponentiate_scores(const R& row, typename R::T largest) {
  using T = typename R::T;
  T sum = 0;
  row.sweep_values([&](int32_t i, Vector<T> v) {
    T part = 0;
#pragma unroll
    for (int l = 0; l < R::kWidth; ++l) {
      v.at[l] = exponential((v.at[l] - largest) * kExponent<T>);
      part += v.at[l];
    }
    sum += part;
    row.store_values(i, v);
  });
  return group_sum(row.group, sum);
}

// From the largest of the positive's score and the biased ones, which stand in the values.
template <class R>
__device__ __forceinline__ void finish_cross_entropy(const R& row, typename R::T largest) {
  using T = typename R::T;
  // A row without negatives comes to sum = 0 and gap = 0 by itself: loss and gradient 0, or NaN for
  // a positive score that is NaN or infinite.
  const T sum = exponentiate_scores(row, largest);
  const T gap = largest - row.positive_score;
  const RowResult<T> result = finish_row<T>(gap, exp(-gap), sum, row.block.eps);
  if (row.leads()) row.block.loss[row.index] = result.loss;
  if (!row.block.need_gradient) return;
  // The positive takes minus the sum of the others; the thread that reads it writes it.
  if (row.owns(row.positive)) row.values[row.positive] = -sum;
  write_gradient(row, gradient_weight(row) * result.gradient_scale);
}

// InfoNCE, and Soft-InfoNCE over dense similarities: the common losses.
template <class R>
__device__ __forceinline__ void run_soft_info_nce(const R& row) {
  const auto largest = row.block.similarity != nullptr ? bias_softly(row) : mask_scores(row);
  finish_cross_entropy(row, larger(largest, row.positive_score));
}

// The same over BM25's factors, and the cancellations.
template <class R>
__device__ __forceinline__ typename R::T bias_row(const R& row) {
  switch (row.block.rule.objective) {
    case Objective::kTopK:
      return bias_top_k(row);
    case Objective::kThreshold:
      return bias_below(row);
    default:
      return bias_softly(row);
  }
}

template <class R>
__device__ __forceinline__ void run_cancellation(const R& row) {
  if (row.block.similarity == nullptr) sum_postings(row);
  finish_cross_entropy(row, larger(bias_row(row), row.positive_score));
}

}  // namespace softnce::cuda
