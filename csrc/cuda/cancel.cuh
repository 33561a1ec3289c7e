// Which negatives a cancellation drops: the k largest similarities, or those at a bound and above.
//
// The k-th largest is found by its bits, two at a time from the top, each step one counting sweep
// over the values on chip and one integer reduction: no histogram, no atomics, the same in a block
// and a cluster. It ends as soon as a count is exactly k, for distinct values after about
// log2(columns) bits more than they share.
#pragma once

#include "similarity.cuh"

namespace softnce::cuda {

// A negative is dropped if its key is above `least`, or equal to it in a column below `columns`.
template <typename T>
struct Dropped {
  decltype(order_key(T())) least;
  int32_t columns;
};

// f(column, key) of the thread's negatives that have a finite similarity.
template <class R, typename F>
__device__ __forceinline__ void for_keys(const R& row, F f) {
  using T = typename R::T;
  row.sweep_values([&](int32_t i, const Vector<T>& v) {
#pragma unroll
    for (int l = 0; l < R::kWidth; ++l) {
      const T z = v.at[l];
      if (z - z == T(0)) f(row.span.begin + i + l, order_key(z));
    }
  });
}

// How many of the row's keys are at least base + unit, base + 2 unit, base + 3 unit.
struct Counts {
  int32_t at[3];
};

template <class R, typename Key>
__device__ __forceinline__ Counts count_keys(const R& row, Key base, Key unit) {
  Counts counts{};
  for_keys(row, [&](int32_t, Key key) {
#pragma unroll
    for (int d = 0; d < 3; ++d) counts.at[d] += key >= base + (d + 1) * unit;
  });
  return row.group.reduce(counts, [](const Counts& a, const Counts& b) {
    return Counts{{a.at[0] + b.at[0], a.at[1] + b.at[1], a.at[2] + b.at[2]}};
  });
}

// The column below which `wanted` of the keys equal to `key` lie.
template <class R, typename Key>
__device__ __forceinline__ int32_t find_column(const R& row, Key key, int32_t wanted) {
  int32_t columns = 0;  // no more than `wanted` lie below
#pragma unroll 1
  for (int32_t bit = 1 << 30; bit > 0; bit >>= 1) {
    if (bit > row.block.columns - columns) continue;
    int32_t below = 0;
    for_keys(row,
             [&](int32_t column, Key other) { below += other == key && column < columns + bit; });
    below = group_sum(row.group, below);
    if (below <= wanted) columns += bit;
    if (below == wanted) break;
  }
  return columns;
}

// The k largest of the row's `known` similarities; of equal ones the lower column goes first.
template <class R>
__device__ __forceinline__ Dropped<typename R::T> find_top_k(const R& row, int32_t known) {
  using Key = decltype(order_key(typename R::T()));
  constexpr int kBits = 8 * sizeof(Key);
  const double cutoff = row.block.rule.cutoff;
  const int32_t k = cutoff >= known ? known : cutoff > 0 ? static_cast<int32_t>(cutoff) : 0;
  if (k == 0) return {~Key(0), 0};  // the key of no finite number
  if (k == known) return {0, 0};    // nor is 0

  Key least = 0;
  int32_t above = known;  // how many keys are `least` or more
#pragma unroll 1
  for (int shift = kBits - 2; shift >= 0 && above != k; shift -= 2) {
    const Counts counts = count_keys(row, least, Key(1) << shift);
#pragma unroll
    for (int d = 0; d < 3; ++d) {
      if (counts.at[d] < k) break;
      above = counts.at[d];
      least += Key(1) << shift;
    }
  }
  if (above == k) return {least, row.block.columns};
  // Equal ones on both sides of the cut.
  int32_t greater = 0;
  for_keys(row, [&](int32_t, Key key) { greater += key > least; });
  return {least, find_column(row, least, k - group_sum(row.group, greater))};
}

template <typename T>
__device__ __forceinline__ bool is_dropped(const Dropped<T>& dropped, T z, int32_t column) {
  const auto key = order_key(z);
  return key > dropped.least || (key == dropped.least && column < dropped.columns);
}

// The similarity a negative must stay below; kUnknown drops none, NaN breaks the row.
template <class R>
__device__ __forceinline__ typename R::T find_bound(const R& row) {
  using T = typename R::T;
  const T own = positive_similarity(row);
  return own == kUnknown<T> ? own : threshold_bound(row.block.rule.cutoff, own);
}

}  // namespace softnce::cuda
