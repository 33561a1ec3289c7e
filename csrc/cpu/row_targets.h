// The losses with soft targets, one row each: targets 1 for the positive, S for the negatives.
//
// Each begins with log S in row.weights, -inf where S = 0 by definition, and -inf in the scores of
// masked columns, whose P is then exactly 0; a NaN stays one there.
#pragma once

#include "sweeps.h"

namespace softnce::cpu {
namespace SOFTNCE_ISA {
namespace {

struct Shares {
  bool valid;  // false where a similarity is infinite; a NaN travels by itself
  bool any;    // does a negative have a similarity?
};

template <typename T>
Shares fill_log_shares(const Row<T>& row, const Rule& rule) {
  const int64_t columns = row.columns;
  const T lowest = with_view(row, [&](auto view) { return copy_similarity(row, view); });
  T* w = row.weights;
  const T inverse = inverse_temperature<T>(rule);
  const T largest = max_columns<T>(columns, [&](int64_t j) { return w[j]; });
  const T sum = sum_columns<T>(columns, [&](int64_t j) {
    w[j] = (w[j] - largest) * inverse;
    return exp_nonpositive(w[j]);
  });
  const bool any = with_view(row, [&](auto view) { return view.negatives(); }) > 0;
  const T log_sum = std::log(sum);
#pragma omp simd
  for (int64_t j = 0; j < columns; ++j) w[j] = any ? w[j] - log_sum : -kInfinity<T>;
  return {lowest != -kInfinity<T>, any};
}

template <typename T>
void hide_masked_scores(const Row<T>& row) {
  if (row.code_groups == nullptr) return;
  const T own = row.scores[row.positive];
#pragma omp simd
  for (int64_t j = 0; j < row.columns; ++j) {
    const T s = row.scores[j];
    row.scores[j] = row.code_groups[j] == row.group && s == s ? -kInfinity<T> : s;
  }
  row.scores[row.positive] = own;
}

// The largest score's column, and what row_math.h's Peak needs of the others.
template <typename T>
struct Top {
  int64_t column;
  T score;
  T runner_up;
  T others;
  Peak<T> peak;
};

template <typename T>
Top<T> find_top(T* s, int64_t columns) {
  const T largest = max_columns<T>(columns, [&](int64_t j) { return s[j]; });
  int64_t column = 0;
  while (column < columns - 1 && s[column] != largest) ++column;
  const T score = s[column];
  s[column] = -kInfinity<T>;
  const T runner_up = max_columns<T>(columns, [&](int64_t j) { return s[j]; });
  const T others =
      sum_columns<T>(columns, [&](int64_t j) { return exp_nonpositive(s[j] - runner_up); });
  s[column] = score;
  return {column, score, runner_up, others, peak(score, runner_up, others)};
}

template <typename T>
__attribute__((noinline)) T run_weighted_info_nce(const Row<T>& row, const Rule& rule) {
  using Term = WeightedTerm<T>;
  T *s = row.scores, *w = row.weights;
  const bool valid = fill_log_shares(row, rule).valid;
  hide_masked_scores(row);
  w[row.positive] = 0;  // log y
  const Top<T> top = find_top(s, row.columns);
  const T highest = top.score, log_z = top.peak.log_z;
  const T y = exp_nonpositive(w[top.column]);

  // The top column apart: with a score of -inf and no target it adds exactly 0.
  s[top.column] = w[top.column] = -kInfinity<T>;
  Term sums;
  if (row.eps > T(0)) {
    const T log_eps = std::log(row.eps);
    sums = sum_pairs<Term, T>(row.columns, [&](int64_t j) {
      const T target = exp_nonpositive(w[j]), log_p = (s[j] - highest) - log_z;
      const T t = exp_nonpositive(log_p < log_eps ? log_p - log_eps : log_eps - log_p);
      const Lifted<T> lifted = lift(log_p, log_eps, t, log1p_near(t));
      w[j] = target * lifted.part;
      return Term{target * lifted.log, w[j]};
    });
  } else {
    sums = sum_pairs<Term, T>(row.columns, [&](int64_t j) {
      const T target = exp_nonpositive(w[j]), log_p = (s[j] - highest) - log_z;
      w[j] = target;
      return Term{target == T(0) ? T(0) : target * log_p, target};  // 0 * -inf = 0
    });
  }

  const WeightedResult<T> result = finish_weighted(top.peak, sums, y, row.eps);
  if (row.need_gradient) {
    const T factor = valid ? row.gradient_weight : kNan<T>;
#pragma omp simd
    for (int64_t j = 0; j < row.columns; ++j) {
      const T p = exp_nonpositive((s[j] - highest) - log_z);
      s[j] = factor * (result.total * p - w[j]);
    }
    s[top.column] = factor * result.top_gradient;
  }
  return valid ? result.loss : kNan<T>;
}

template <typename T>
__attribute__((noinline)) T run_bce(const Row<T>& row, const Rule& rule, int64_t negatives) {
  T *s = row.scores, *w = row.weights;
  const bool valid = fill_log_shares(row, rule).valid;
  hide_masked_scores(row);
  w[row.positive] = 0;  // log y
  const Top<T> top = find_top(s, row.columns);
  const T highest = top.score, runner_up = top.runner_up, inverse = T(1) / top.others;
  const T log_z = top.peak.log_z, rest = top.peak.rest;
  const T y = exp_nonpositive(w[top.column]);

  // The top column apart: with a score of -inf and no target it adds exactly 0.
  s[top.column] = w[top.column] = -kInfinity<T>;
  const auto sums = sum_pairs<BCETerm<T>, T>(row.columns, [&](int64_t j) {
    const T share = exp_nonpositive(s[j] - runner_up) * inverse, p = rest * share;
    const BCETerm<T> term =
        bce_term(exp_nonpositive(w[j]), p, (s[j] - highest) - log_z, log1p_near(-p));
    s[j] = share;
    w[j] = term.push;
    return term;
  });
  const T n = static_cast<T>(negatives + 1);
  const BCEResult<T> result = finish_bce(top.peak, sums, y, n);
  if (row.need_gradient) {
    const T weight = valid ? row.gradient_weight : kNan<T>;
    const T factor = weight / n;
#pragma omp simd
    for (int64_t j = 0; j < row.columns; ++j) s[j] = factor * (w[j] - result.slope * s[j]);
    s[top.column] = weight * result.top_gradient;
  }
  return valid ? result.loss : kNan<T>;
}

template <typename T>
__attribute__((noinline)) T run_kl(const Row<T>& row, const Rule& rule) {
  T *s = row.scores, *w = row.weights;
  const Shares shares = fill_log_shares(row, rule);
  hide_masked_scores(row);
  const T own = s[row.positive];
  s[row.positive] = -kInfinity<T>;
  const T largest = max_columns<T>(row.columns, [&](int64_t j) { return s[j]; });
  const T log_sum = std::log(
      sum_columns<T>(row.columns, [&](int64_t j) { return exp_nonpositive(s[j] - largest); }));
  const KLResult<T> result = finish_kl(rule, own, largest, log_sum, T(shares.any ? 1 : 0));

  const T factor = shares.valid ? row.gradient_weight : kNan<T>;
  const T alpha = static_cast<T>(rule.alpha);
  const T divergence = sum_columns<T>(row.columns, [&](int64_t j) {
    const T share = exp_nonpositive(w[j]), log_p = (s[j] - largest) - log_sum;
    s[j] = factor * (result.slope * exp_nonpositive(log_p) - alpha * share);
    return share == T(0) ? T(0) : share * (w[j] - log_p);  // 0 log 0 = 0
  });
  s[row.positive] = factor * result.positive_gradient;
  return shares.valid ? result.info_nce + alpha * divergence : kNan<T>;
}

}  // namespace
}  // namespace SOFTNCE_ISA
}  // namespace softnce::cpu
