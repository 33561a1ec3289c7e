// Weights of a row's negatives, into row.weights: 0 for the positive and for masked columns, 1 for
// columns without a similarity. Each returns false where a negative's similarity is infinite; a NaN
// is either found too, or reaches the loss by itself.
#pragma once

#include "sweeps.h"

namespace softnce::cpu {
namespace SOFTNCE_ISA {
namespace {

// Eq. 4.
template <typename T, typename V>
SOFTNCE_INLINE bool fill_soft_weights(const Row<T>& row, const Rule& rule, V view) {
  const int64_t columns = row.columns;
  const T lowest = copy_similarity(row, view);
  T* w = row.weights;
  const T inverse = inverse_temperature<T>(rule);
  const T largest = max_columns<T>(columns, [&](int64_t j) { return w[j]; });
  const T sum = sum_columns<T>(
      columns, [&](int64_t j) { return w[j] = exp_nonpositive((w[j] - largest) * inverse); });

  WeightLine<T> line = weight_line<T>(rule, view.negatives());
  line.slope /= sum;
#pragma omp simd
  for (int64_t j = 0; j < columns; ++j) {
    const T w_j = weight(line, w[j]);
    w[j] = view.masked(j) ? T(0) : view.known(j) ? w_j : T(1);
  }
  w[row.positive] = 0;
  return lowest != -kInfinity<T>;
}

// Without similarities only the mask is left.
template <typename T>
SOFTNCE_INLINE void fill_mask(const Row<T>& row) {
  T* w = row.weights;
  const int64_t* groups = row.code_groups;
  const int64_t group = row.group;
#pragma omp simd
  for (int64_t j = 0; j < row.columns; ++j) w[j] = groups[j] == group ? T(0) : T(1);
  w[row.positive] = 0;
}

// The cancellations take similarities in row.weights, -inf where there is none. What they return
// for masked columns is nobody's; the views come before and after them, since each view they knew
// of would be compiled anew.

// Weight 0 for the `cutoff` negatives of the largest similarity; of equal ones the lower column
// goes first. The least key that is dropped is found by bisection, each step one counting sweep.
template <typename T>
bool drop_top_k(const Row<T>& row, const Rule& rule, T lowest) {
  const int64_t columns = row.columns;
  T* w = row.weights;
  const T largest = max_columns<T>(columns, [&](int64_t j) { return w[j]; });
  if (lowest == -kInfinity<T> ||
      count_columns(columns, [&](int64_t j) { return !(w[j] < kInfinity<T>); }) > 0)
    return false;

  using Key = decltype(order_key(T()));
  const auto count = [&](Key least) {
    return count_columns(columns, [&](int64_t j) { return order_key(w[j]) >= least; });
  };
  const double bounded = rule.cutoff < double(columns) ? rule.cutoff : double(columns);
  const auto k = static_cast<int64_t>(bounded > 0 ? bounded : 0);
  Key least = order_key(lowest), most = order_key(largest);
  int64_t dropped = count(least);
  while (dropped > k && least < most) {
    const Key middle = least + (most - least) / 2 + 1;
    const int64_t above = count(middle);
    if (above >= k) {
      least = middle;
      dropped = above;
    } else {
      most = middle - 1;
    }
  }
  for (int64_t j = columns; dropped > k;) {
    if (order_key(w[--j]) != least) continue;
    w[j] = -kInfinity<T>;
    --dropped;
  }
#pragma omp simd
  for (int64_t j = 0; j < columns; ++j) w[j] = order_key(w[j]) >= least ? T(0) : T(1);
  return true;
}

// Weight 0 where z_j >= cutoff * z_p; `own` is z_p, +inf without one: then every weight is 1.
template <typename T>
bool drop_by_threshold(const Row<T>& row, const Rule& rule, T lowest, T own, bool has_own) {
  const int64_t columns = row.columns;
  T* w = row.weights;
  const T bound = own < kInfinity<T> ? threshold_bound(rule.cutoff, own) : kInfinity<T>;
  const int64_t broken = count_columns(columns, [&](int64_t j) { return !(w[j] < kInfinity<T>); });
#pragma omp simd
  for (int64_t j = 0; j < columns; ++j) w[j] = w[j] < bound || w[j] == -kInfinity<T> ? T(1) : T(0);
  return (!has_own || std::isfinite(own)) && lowest != -kInfinity<T> && broken == 0;
}

template <typename T>
__attribute__((noinline)) bool fill_cancellation(const Row<T>& row, const Rule& rule) {
  const bool has_own = row.known == nullptr || row.known[row.positive] != 0;
  // Before the weights are written, which may lie where the similarities do.
  const T own = has_own ? row.similarity[row.positive] : kInfinity<T>;
  const T lowest = with_view(row, [&](auto view) { return copy_similarity(row, view); });
  const bool valid = rule.objective == Objective::kTopK
                         ? drop_top_k(row, rule, lowest)
                         : drop_by_threshold(row, rule, lowest, own, has_own);
  T* w = row.weights;
  if (row.code_groups != nullptr) {
#pragma omp simd
    for (int64_t j = 0; j < row.columns; ++j) w[j] = row.code_groups[j] == row.group ? T(0) : w[j];
  }
  w[row.positive] = 0;
  return valid;
}

template <typename T>
SOFTNCE_INLINE bool fill_weights(const Row<T>& row, const Rule& rule) {
  if (row.similarity == nullptr) {
    fill_mask(row);
    return true;
  }
  if (rule.objective != Objective::kSoftInfoNCE) return fill_cancellation(row, rule);
  return with_view(row, [&](auto view) { return fill_soft_weights(row, rule, view); });
}

}  // namespace
}  // namespace SOFTNCE_ISA
}  // namespace softnce::cpu
