// A row's similarities into its values, each marked for what it is: the z of a negative,
// kNoNegative or kUnknown. Those that exist are read from memory once, 16 bytes at a time where
// rows are aligned, else one by one. (BM25's are summed here: postings.cuh.)
#pragma once

#include "postings.cuh"

namespace softnce::cuda {

// What this thread saw of the row's negatives that have a similarity.
template <typename T>
struct Seen {
  T largest;
  int32_t known;
};

// An infinite similarity becomes NaN: z - z is 0 for a finite z.
template <typename T>
__device__ __forceinline__ T finite_or_nan(T z) {
  return z + (z - z);
}

// Dense similarities of a span, in the type they are stored in. The choice of type costs a branch
// a vector, the same for all threads; a sweep for each type would cost as much code again.
template <typename T>
struct Dense {
  static constexpr int kWidth = kLanes<T>;
  using Halves = Pack<unsigned short, kWidth>;

  const unsigned char* data;
  Storage type;

  __device__ bool is_half() const { return std::is_same_v<T, float> && type != Storage::kFloat; }
  __device__ int bytes() const { return is_half() ? 2 : static_cast<int>(sizeof(T)); }
  __device__ bool is_aligned() const {
    return reinterpret_cast<uintptr_t>(data) % static_cast<unsigned>(kWidth * bytes()) == 0;
  }

  __device__ T from_bits(unsigned short bits) const {
    return static_cast<T>(type == Storage::kHalf ? __half2float(__ushort_as_half(bits))
                                                 : __bfloat162float(__ushort_as_bfloat16(bits)));
  }
  __device__ T at(int32_t i) const {
    if (is_half()) return from_bits(reinterpret_cast<const unsigned short*>(data)[i]);
    return reinterpret_cast<const T*>(data)[i];
  }
  // As it lies in memory: conversion waits for the load, and other loads should not.
  __device__ Vector<T> load(int32_t i) const {
    if (!is_half()) return *reinterpret_cast<const Vector<T>*>(data + i * sizeof(T));
    const Halves halves = *reinterpret_cast<const Halves*>(data + i * sizeof(unsigned short));
    Vector<T> raw{};
    memcpy(&raw, &halves, sizeof halves);
    return raw;
  }
  __device__ Vector<T> convert(const Vector<T>& raw) const {
    if (!is_half()) return raw;
    Halves halves;
    memcpy(&halves, &raw, sizeof halves);
    Vector<T> v;
#pragma unroll
    for (int l = 0; l < kWidth; ++l) v.at[l] = from_bits(halves.at[l]);
    return v;
  }
};

template <class R>
__device__ __forceinline__ Dense<typename R::T> dense_of(const R& row) {
  Dense<typename R::T> dense{static_cast<const unsigned char*>(row.block.similarity),
                             row.block.similarity_type};
  dense.data += (row.index * row.block.similarity_stride + row.span.begin) * dense.bytes();
  return dense;
}

template <class R>
__device__ __forceinline__ Seen<typename R::T> mark_dense(const R& row) {
  using T = typename R::T;
  const Dense<T> dense = dense_of(row);
  Seen<T> seen{-kInfinity<T>, 0};
  const auto mark = [&](int32_t i, Vector<T> v) {
#pragma unroll
    for (int l = 0; l < R::kWidth; ++l) v.at[l] = finite_or_nan(v.at[l]);
    row.mark_outside(i, v);
#pragma unroll
    for (int l = 0; l < R::kWidth; ++l) seen.largest = larger(seen.largest, v.at[l]);
    row.store_values(i, v);
  };
  // Whole vectors end here; a user's rows are not padded, and may not be aligned.
  const int32_t whole = dense.is_aligned() ? row.span.count / R::kWidth * R::kWidth : 0;
  row.template sweep<R::kFromMemory>(
      0, whole, [&](int32_t i) { return dense.load(i); },
      [&](int32_t i, const Vector<T>& raw) { mark(i, dense.convert(raw)); });
  row.template sweep<1>(
      whole, row.end,
      [&](int32_t i) {
        Vector<T> v{};
#pragma unroll
        for (int l = 0; l < R::kWidth; ++l)
          if (i + l < row.span.count) v.at[l] = dense.at(i + l);
        return v;
      },
      mark);
  return seen;
}

// BM25's, which stand in the values.
template <class R>
__device__ __forceinline__ Seen<typename R::T> mark_postings(const R& row) {
  using T = typename R::T;
  Seen<T> seen{-kInfinity<T>, 0};
  row.sweep_values([&](int32_t i, Vector<T> v) {
#pragma unroll
    for (int l = 0; l < R::kWidth; ++l) {
      const bool known = i + l < row.span.count && has_text(row, i + l);
      v.at[l] = known ? finite_or_nan(v.at[l]) : kUnknown<T>;
    }
    row.mark_outside(i, v);
#pragma unroll
    for (int l = 0; l < R::kWidth; ++l) {
      const bool known = v.at[l] != kUnknown<T> && v.at[l] != kNoNegative<T>;
      seen.known += known;
      if (known) seen.largest = larger(seen.largest, v.at[l]);
    }
    row.store_values(i, v);
  });
  return seen;
}

// The row's largest similarity, and how many of its negatives have one. BM25's stand in the values.
template <class R>
__device__ __forceinline__ Seen<typename R::T> mark_similarities(const R& row) {
  using T = typename R::T;
  const bool dense = row.block.similarity != nullptr, grouped = row.block.code_groups != nullptr;
  Seen<T> seen = dense ? mark_dense(row) : mark_postings(row);
  if (grouped) {
    seen = {-kInfinity<T>, 0};
    row.template mark_masked<false>([&](T z) {
      if (z == kUnknown<T>) return;
      ++seen.known;
      seen.largest = larger(seen.largest, z);
    });
  }
  seen.largest = group_max(row.group, seen.largest);
  seen.known = dense && !grouped ? row.block.columns - 1 : group_sum(row.group, seen.known);
  return seen;
}

// The positive's own similarity; kUnknown where it has none.
template <class R>
__device__ __forceinline__ typename R::T positive_similarity(const R& row) {
  using T = typename R::T;
  if (row.block.similarity != nullptr) return finite_or_nan(dense_of(row).at(row.positive));
  if (!has_text(row, row.positive)) return kUnknown<T>;
  // One thread of a cluster has it.
  const T own = row.owns(row.positive) ? finite_or_nan(row.values[row.positive]) : T(0);
  return group_sum(row.group, own);
}

}  // namespace softnce::cuda
