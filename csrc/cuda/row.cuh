// A row as its group sees it: where its columns lie, which are negatives, and the sweeps over them.
//
// Who owns what: thread t owns vectors of 16 bytes, t, t + threads, t + 2 threads, ... in every
// sweep over its span, so the row's values need no barrier between sweeps; only reductions, the
// postings of postings.cuh and the gradient written in place do.
//
// Rows of scores and of scratch are padded to whole vectors of any type (kPadding), so that they
// are read and written 16 bytes at a time; the padding is treated as columns that are no negatives.
// A user's similarity is read so where its rows are aligned, else column by column.
#pragma once

#include "group.cuh"

namespace softnce::cuda {

// What a value says that is no finite similarity, in the sweeps that look for them.
template <typename T>
constexpr T kNoNegative = -kInfinity<T>;  // the positive, a masked column, the padding
template <typename T>
constexpr T kUnknown = kInfinity<T>;  // a negative without a similarity

// kFast: the sweeps of the common losses keep several vectors under way, those of the others one,
// which keeps their many sweeps small.
template <class Group_, typename T_, bool kFast>
struct Row {
  using Group = Group_;
  using T = T_;
  static constexpr int kWidth = kLanes<T>;
  // Vectors a thread reads before it uses the first: from memory, and from where the values are.
  static constexpr int kFromMemory = kFast ? 4 : 1;
  static constexpr int kFromValues = kFast ? 2 : 1;
  static constexpr bool kMaybeInPlace = !kFast;  // the values may be the scores

  Group& group;
  const RowBlock<T>& block;
  int64_t index;     // in the block
  Span span;         // columns here; below, i counts from span.begin
  int32_t end;       // of the span with its padding
  T* values;         // [end]: the row as it is worked on
  T* scores;         // the same columns of the block's scores
  int32_t positive;  // i of the positive, which may lie outside of the span
  T positive_score;

  __device__ Row(Group& group_, const RowBlock<T>& block_, int64_t index_, T* values_)
      : group(group_),
        block(block_),
        index(index_),
        span(group_.span(block_.columns)),
        end(static_cast<int32_t>(padded(span.count))),
        values(values_),
        scores(block_.scores + index_ * block_.stride + span.begin),
        positive(static_cast<int32_t>(block_.first_positive + index_) - span.begin),
        positive_score(scores[positive]) {}

  __device__ bool leads() const { return span.begin == 0 && group.rank() == 0; }
  __device__ bool owns(int32_t i) const {
    return i >= 0 && i < span.count && i / kWidth % group.size() == group.rank();
  }

  // load(i) of kBatch of the thread's vectors, so that as many reads are under way at once, then
  // use(i, loaded) of each; i is a vector's first column, at `from` or later and before `to`. With
  // kBarrier all threads have loaded before any of them uses.
  template <int kBatch, bool kBarrier = false, typename Load, typename Use>
  __device__ __forceinline__ void sweep(int32_t from, int32_t to, Load load, Use use) const {
    const int32_t size = group.size(), step = size * kWidth;
    const int32_t ahead = from / kWidth - group.rank();
    const int32_t skipped = ahead > 0 ? (ahead + size - 1) / size * step : 0;
    const int32_t first = group.rank() * kWidth;
    const int32_t before = kBarrier ? 0 : first;  // with barriers all go round equally often
#pragma unroll 1
    for (int32_t begin = skipped; begin + before < to; begin += kBatch * step) {
      decltype(load(0)) loaded[kBatch];
#pragma unroll
      for (int k = 0; k < kBatch; ++k) {
        const int32_t i = begin + k * step + first;
        if (i < to) loaded[k] = load(i);
      }
      if constexpr (kBarrier) group.sync();
#pragma unroll
      for (int k = 0; k < kBatch; ++k) {
        const int32_t i = begin + k * step + first;
        if (i < to) use(i, loaded[k]);
      }
    }
  }
  template <typename Use>
  __device__ __forceinline__ void sweep_values(Use use) const {
    sweep<kFromValues>(0, end, [&](int32_t i) { return load_values(i); }, use);
  }

  __device__ Vector<T> load_values(int32_t i) const {
    return *reinterpret_cast<const Vector<T>*>(values + i);
  }
  __device__ Vector<T> load_scores(int32_t i) const {
    return *reinterpret_cast<const Vector<T>*>(scores + i);
  }
  __device__ void store_values(int32_t i, const Vector<T>& v) const {
    *reinterpret_cast<Vector<T>*>(values + i) = v;
  }

  // kNoNegative over the positive and the padding of the vector at i.
  __device__ __forceinline__ void mark_outside(int32_t i, Vector<T>& v) const {
    const bool whole = i + kWidth <= span.count;
    if (whole && static_cast<uint32_t>(positive - i) >= static_cast<uint32_t>(kWidth)) return;
#pragma unroll
    for (int l = 0; l < kWidth; ++l)
      if (i + l >= span.count || i + l == positive) v.at[l] = kNoNegative<T>;
  }

  // 0 over the padding of the vector at i, which may hold anything.
  __device__ __forceinline__ void clear_padding(int32_t i, Vector<T>& v) const {
    if (i + kWidth <= span.count) return;
#pragma unroll
    for (int l = 0; l < kWidth; ++l)
      if (i + l >= span.count) v.at[l] = 0;
  }

  // kNoNegative over the row's masked columns, with kKeepNan not over a NaN; f(value) of each that
  // stays.
  template <bool kKeepNan, typename F>
  __device__ __forceinline__ void mark_masked(F f) const {
    const int64_t group_of_query = block.query_groups[index];
    const int64_t* const groups = block.code_groups + span.begin;
    sweep<1>(
        0, end, [&](int32_t i) { return load_values(i); },
        [&](int32_t i, Vector<T> v) {
#pragma unroll
          for (int l = 0; l < kWidth; ++l) {
            const bool masked = i + l < span.count && groups[i + l] == group_of_query;
            if (masked && !(kKeepNan && v.at[l] != v.at[l])) v.at[l] = kNoNegative<T>;
            if (v.at[l] != kNoNegative<T>) f(v.at[l]);
          }
          store_values(i, v);
        });
  }
};

}  // namespace softnce::cuda
