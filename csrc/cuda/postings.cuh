// BM25 similarities, built where they are used: z_ij = sum over the terms t of query i of
// count_it * weight_tj. The matrix [N, M] never exists, on chip or off.
//
// All threads of a row walk one term's postings together, whose documents are distinct, then meet
// at a barrier: every z is summed in the terms' order, without atomics. In a cluster each block
// keeps the documents of its span. No index is trusted: what points outside is left out.
#pragma once

#include "row.cuh"

namespace softnce::cuda {

// The postings of one term of a query.
struct TermPostings {
  int64_t begin;
  int32_t length;
  float count;  // of the term in the query
};

__device__ __forceinline__ int64_t clamped(int64_t value, int64_t least, int64_t most) {
  return value < least ? least : value > most ? most : value;
}

__device__ __forceinline__ TermPostings find_term(const Postings& f, int64_t at, int64_t end) {
  if (at >= end) return {0, 0, 0};
  const int64_t term = f.query_term[at];
  if (term < 0 || term >= f.terms) return {0, 0, 0};
  const int64_t first = clamped(f.indptr[term], 0, f.postings);
  const int64_t length = clamped(f.indptr[term + 1], first, f.postings) - first;
  // Distinct documents: no more than there are.
  return {first, static_cast<int32_t>(clamped(length, 0, f.documents)), f.query_count[at]};
}

// Terms whose first postings a thread reads before it adds any of them: reading them one by one
// would wait for memory once a term.
constexpr int kTermBatch = 4;

// Adds the postings of `terms` (the same for every thread) to the values, in their order.
template <class R>
__device__ __forceinline__ void add_terms(const R& row, const TermPostings (&terms)[kTermBatch]) {
  using T = typename R::T;
  const Postings& f = row.block.factors;
  const int rank = row.group.rank(), size = row.group.size();
  int32_t document[kTermBatch];
  float weight[kTermBatch];
#pragma unroll
  for (int t = 0; t < kTermBatch; ++t) {
    const bool given = rank < terms[t].length;
    document[t] = given ? f.document[terms[t].begin + rank] : -1;
    weight[t] = given ? f.weight[terms[t].begin + rank] : 0;
  }
  const auto add = [&](int32_t column, float w, float count) {
    const int32_t i = column - row.span.begin;
    if (column >= 0 && i >= 0 && i < row.span.count)
      row.values[i] += static_cast<T>(count) * static_cast<T>(w);
  };
#pragma unroll
  for (int t = 0; t < kTermBatch; ++t) {
    if (terms[t].length == 0) continue;
    add(document[t], weight[t], terms[t].count);
#pragma unroll 1
    for (int32_t i = rank + size; i < terms[t].length; i += size)
      add(f.document[terms[t].begin + i], f.weight[terms[t].begin + i], terms[t].count);
    row.group.sync();
  }
}

// The row's values become z, 0 for columns without a posting.
template <class R>
__device__ __forceinline__ void sum_postings(const R& row) {
  const Postings& f = row.block.factors;
  const int64_t begin = clamped(f.query_indptr[row.index], 0, f.query_terms);
  const int64_t end = clamped(f.query_indptr[row.index + 1], begin, f.query_terms);
  row.template sweep<1>(
      0, row.end, [](int32_t) { return 0; }, [&](int32_t i, int) { row.store_values(i, {}); });
  row.group.sync();
  // Each lane looks a term up, all warps the same ones; then they take their turns.
  const int lane = row.group.rank() % kWarp;
#pragma unroll 1
  for (int64_t first = begin; first < end; first += kWarp) {
    const TermPostings own = find_term(f, first + lane, end);
#pragma unroll 1
    for (int source = 0; source < kWarp && first + source < end; source += kTermBatch) {
      TermPostings terms[kTermBatch];
#pragma unroll
      for (int t = 0; t < kTermBatch; ++t) terms[t] = shuffle(own, source + t);
      add_terms(row, terms);
    }
  }
}

// Whether column i of the span, or of another's, has a BM25 similarity.
template <class R>
__device__ __forceinline__ bool has_text(const R& row, int32_t i) {
  const Postings& f = row.block.factors;
  return row.span.begin + i < f.documents && f.document_length[row.span.begin + i] > 0;
}

}  // namespace softnce::cuda
