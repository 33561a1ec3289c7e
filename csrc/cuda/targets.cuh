// The losses with soft targets: BCE, weighted InfoNCE, KL regularisation. Twin of
// cpu/row_targets.h.
//
// Two arrays a row, on chip where they fit: the row's values hold z -> log y -> the gradient,
// `logits` the scores of the columns that count (-inf for the others, whose P is then exactly 0).
// Speed comes second here: these losses are for tables, not for training at any size.
#pragma once

#include "gradient.cuh"
#include "similarity.cuh"

namespace softnce::cuda {

template <class R>
struct TargetRow {
  using T = typename R::T;

  const R& row;
  T* logits;          // [padded(span.count)]; in global memory the row's scores
  int32_t negatives;  // of the row
  T known;            // whether one of them has a similarity: the sum of S, 1 or 0

  // f(i, logit, value) of each column of the thread's; what it makes of the two is kept.
  template <typename F>
  __device__ __forceinline__ void for_columns(F f) const {
    row.template sweep<1>(
        0, row.end, [](int32_t) { return 0; },
        [&](int32_t i, int) {
          Vector<T> s = *reinterpret_cast<const Vector<T>*>(logits + i);
          Vector<T> v = row.load_values(i);
#pragma unroll
          for (int l = 0; l < R::kWidth; ++l) f(i + l, s.at[l], v.at[l]);
          *reinterpret_cast<Vector<T>*>(logits + i) = s;
          row.store_values(i, v);
        });
  }

  // For what one thread does to one column.
  __device__ bool owns(int32_t column) const { return row.owns(column - row.span.begin); }
  __device__ T& logit_at(int32_t column) const { return logits[column - row.span.begin]; }
  __device__ T& value_at(int32_t column) const { return row.values[column - row.span.begin]; }
  __device__ int32_t positive() const { return row.span.begin + row.positive; }

  // The row's values, which hold the gradient, into its scores.
  __device__ void finish(T loss) const {
    if (row.leads()) row.block.loss[row.index] = loss;
    if (!row.block.need_gradient) return;
    row.group.sync();  // the logits may be the scores: all threads have read theirs
    write_gradient(row, gradient_weight(row));
  }
};

template <typename T>
__device__ __forceinline__ T natural_exponential(T x) {
  return exponential(x * kExponent<T>);
}

// log S into the row's values, -inf where S is 0 by definition, and the logits.
template <class R>
__device__ __forceinline__ TargetRow<R> load_targets(const R& row, typename R::T* logits) {
  using T = typename R::T;
  if (row.block.similarity == nullptr) sum_postings(row);
  const Seen<T> seen = mark_similarities(row);
  TargetRow<R> targets{row, logits, 0, T(seen.known > 0)};

  T sum = 0;
  int32_t negatives = 0;
  row.template sweep<1>(
      0, row.end, [&](int32_t i) { return row.load_scores(i); },
      [&](int32_t i, Vector<T> s) {
        row.clear_padding(i, s);
        Vector<T> v = row.load_values(i);
#pragma unroll
        for (int l = 0; l < R::kWidth; ++l) {
          const T z = v.at[l];
          const bool negative = z != kNoNegative<T>;
          negatives += negative;
          const bool counts = negative || i + l == row.positive;
          if (!counts && s.at[l] == s.at[l]) s.at[l] = -kInfinity<T>;  // a NaN stays one
          v.at[l] = z == kUnknown<T> || !negative
                        ? -kInfinity<T>
                        : (z - seen.largest) * row.block.inverse_temperature;
          sum += natural_exponential(v.at[l]);
        }
        *reinterpret_cast<Vector<T>*>(logits + i) = s;
        row.store_values(i, v);
      });
  targets.negatives = group_sum(row.group, negatives);
  const T log_sum = seen.known > 0 ? T(log(group_sum(row.group, sum))) : T(0);
  targets.for_columns([&](int32_t, T&, T& log_y) { log_y -= log_sum; });
  return targets;
}

// The column of the largest logit, the lowest of equal ones, and row_math.h's Peak.
template <typename T>
struct Top {
  T score;
  int32_t column;
  T runner_up;
  T others;
  Peak<T> peak;
};

template <class R>
__device__ __forceinline__ Top<typename R::T> find_top(const TargetRow<R>& targets) {
  using T = typename R::T;
  struct Candidate {
    T score;
    int32_t column;
  };
  const R& row = targets.row;
  Candidate best{-kInfinity<T>, row.block.columns};
  targets.for_columns([&](int32_t i, T& s, T&) {
    if (s > best.score) best = {s, row.span.begin + i};
  });
  best = row.group.reduce(best, [](const Candidate& a, const Candidate& b) {
    const bool second = b.score > a.score || (b.score == a.score && b.column < a.column);
    return second ? b : a;
  });
  T runner_up = -kInfinity<T>;
  targets.for_columns([&](int32_t i, T& s, T&) {
    if (row.span.begin + i != best.column) runner_up = larger(runner_up, s);
  });
  runner_up = group_max(row.group, runner_up);
  T others = 0;
  targets.for_columns([&](int32_t i, T& s, T&) {
    if (row.span.begin + i != best.column) others += natural_exponential(s - runner_up);
  });
  others = group_sum(row.group, others);
  return {best.score, best.column, runner_up, others, peak(best.score, runner_up, others)};
}

template <class R>
__device__ __forceinline__ void run_weighted_info_nce(const TargetRow<R>& targets) {
  using T = typename R::T;
  struct Sums {
    T log;
    T target;
  };
  const R& row = targets.row;
  const int32_t positive = targets.positive();
  if (targets.owns(positive)) targets.value_at(positive) = 0;  // log y
  const Top<T> top = find_top(targets);
  const T eps = row.block.eps, log_eps = T(log(eps));

  // y_j P_j / (P_j + eps) takes the place of log y_j, log P_j that of the score.
  Sums sums{};
  targets.for_columns([&](int32_t, T& s, T& v) {
    const T y = natural_exponential(v);
    s = (s - top.score) - top.peak.log_z;
    v = y;
    if (eps > T(0)) {
      const T t = natural_exponential(s < log_eps ? s - log_eps : log_eps - s);
      const Lifted<T> lifted = lift(s, log_eps, t, T(log1p(t)));
      v = y * lifted.part;
      sums.log += y * lifted.log;
    } else {
      sums.log += y == T(0) ? T(0) : y * s;
    }
    sums.target += v;
  });
  sums = row.group.reduce(
      sums, [](const Sums& a, const Sums& b) { return Sums{a.log + b.log, a.target + b.target}; });

  // The positive takes minus the sum of the others, which keeps a small gradient accurate.
  T others = 0;
  targets.for_columns([&](int32_t i, T& s, T& v) {
    v = i == row.positive ? T(0) : sums.target * natural_exponential(s) - v;
    others += v;
  });
  others = group_sum(row.group, others);
  if (targets.owns(positive)) targets.value_at(positive) = -others;
  targets.finish(-sums.log);
}

template <class R>
__device__ __forceinline__ void run_bce(const TargetRow<R>& targets) {
  using T = typename R::T;
  const R& row = targets.row;
  const int32_t positive = targets.positive();
  if (targets.owns(positive)) targets.value_at(positive) = 0;  // log y
  const Top<T> top = find_top(targets);
  const T inverse = T(1) / top.others;

  // The top column apart: with a score of -inf and no target it adds exactly 0.
  T y = 0;
  if (targets.owns(top.column)) {
    y = natural_exponential(targets.value_at(top.column));
    targets.logit_at(top.column) = targets.value_at(top.column) = -kInfinity<T>;
  }
  y = group_sum(row.group, y);
  BCETerm<T> sums{};
  targets.for_columns([&](int32_t, T& s, T& v) {
    const T share = natural_exponential(s - top.runner_up) * inverse, p = top.peak.rest * share;
    const BCETerm<T> term =
        bce_term(natural_exponential(v), p, (s - top.score) - top.peak.log_z, T(log1p(-p)));
    s = share;
    v = term.push;
    sums.log += term.log;
    sums.push += term.push;
  });
  sums = row.group.reduce(sums, [](const BCETerm<T>& a, const BCETerm<T>& b) {
    return BCETerm<T>{a.log + b.log, a.push + b.push};
  });
  const T n = static_cast<T>(targets.negatives + 1);
  const BCEResult<T> result = finish_bce(top.peak, sums, y, n);
  targets.for_columns([&](int32_t, T& s, T& v) { v = (v - result.slope * s) / n; });
  if (targets.owns(top.column)) targets.value_at(top.column) = result.top_gradient;
  targets.finish(result.loss);
}

template <class R>
__device__ __forceinline__ void run_kl(const TargetRow<R>& targets) {
  using T = typename R::T;
  const R& row = targets.row;
  const T own = row.positive_score;
  T largest = -kInfinity<T>;
  targets.for_columns([&](int32_t i, T& s, T&) {
    if (i == row.positive) s = -kInfinity<T>;
    largest = larger(largest, s);
  });
  largest = group_max(row.group, largest);
  T sum = 0;
  targets.for_columns([&](int32_t, T& s, T&) { sum += natural_exponential(s - largest); });
  const T log_sum = T(log(group_sum(row.group, sum)));
  const KLResult<T> result = finish_kl(row.block.rule, own, largest, log_sum, targets.known);

  const T alpha = static_cast<T>(row.block.rule.alpha);
  T divergence = 0;
  targets.for_columns([&](int32_t, T& s, T& v) {
    const T share = natural_exponential(v), log_p = (s - largest) - log_sum;
    divergence += share == T(0) ? T(0) : share * (v - log_p);  // 0 log 0 = 0
    v = result.slope * natural_exponential(log_p) - alpha * share;
  });
  divergence = group_sum(row.group, divergence);
  const int32_t positive = targets.positive();
  if (targets.owns(positive)) targets.value_at(positive) = result.positive_gradient;
  targets.finish(result.info_nce + alpha * divergence);
}

// Nothing to learn, whatever the similarities hold; NaN for a score that is NaN, and for an
// infinite positive.
template <class R>
__device__ __forceinline__ void run_lonely(const TargetRow<R>& targets) {
  using T = typename R::T;
  const R& row = targets.row;
  T nans = 0;
  targets.for_columns([&](int32_t, T& s, T&) { nans += s != s ? T(1) : T(0); });
  const T score = group_sum(row.group, nans) > T(0) ? kNan<T> : row.positive_score;
  const T gap = score - score;
  targets.for_columns([&](int32_t, T&, T& v) { v = gap; });
  const bool has_eps = row.block.rule.objective == Objective::kWeightedInfoNCE;
  targets.finish(finish_row<T>(T(0), T(1), gap, has_eps ? row.block.eps : T(0)).loss);
}

template <class R>
__device__ __forceinline__ void run_targets(const R& row, typename R::T* logits) {
  const TargetRow<R> targets = load_targets(row, logits);
  if (targets.negatives == 0) return run_lonely(targets);
  switch (row.block.rule.objective) {
    case Objective::kBCE:
      return run_bce(targets);
    case Objective::kWeightedInfoNCE:
      return run_weighted_info_nce(targets);
    default:
      return run_kl(targets);
  }
}

}  // namespace softnce::cuda
