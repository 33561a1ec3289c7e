// One row per thread block: similarities -> weights -> masked weighted log-sum-exp -> loss ->
// gradient, in place over the block of scores. The twin of cpu/row_kernel.cpp, from the same
// row_math.h.
//
// Never materialised: S, w, exp(s), the mask. The row is worked on in one array of [M], `row`,
// which lies in shared memory where it fits (M up to 58,000 in fp32 on an H100, 25,000 on a
// GeForce), else in global memory; it holds in turn
//   weighted: z -> exp((z - max) / temperature) -> w -> w exp(s - max)
//   plain:    s -> exp(s - max)
// Global traffic of a row that fits: s once (twice when weighted, the second time from L2), z once,
// the gradient once.
//
// Who owns what: thread t owns the columns t, t + threads, t + 2 threads, ... in every sweep, so
// `row` needs no barrier between sweeps; only the reductions and the gradient written in place do.
// Sums run in T, kBatch per thread, then over a fixed tree: no atomics, bitwise repeatable.
//
// A NaN score, and a NaN or infinite similarity, of a negative makes the row's loss and gradient
// NaN. A column that is no negative may hold any similarity, and a masked one any score.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <torch/headeronly/core/ScalarType.h>

#include <cstdint>
#include <limits>
#include <type_traits>

#include "../row_math.h"

namespace softnce::cuda {

using torch::headeronly::ScalarType;

constexpr int kWarp = 32;
constexpr int kMaxThreads = 1024;
// Of the row kernel: with more, the registers of fp64 would not fit.
template <typename T>
constexpr int kRowThreads = sizeof(T) == 8 ? 512 : kMaxThreads;
// Columns a thread reads at once: 16 bytes a thread, 32 KiB a multiprocessor.
constexpr int kBatch = 4;

// R rows of a block, against all M codes.
template <typename T>
struct RowBlock {
  T* scores;               // [R, M] in: s; out: rows of M gradients, each from its row's start
  const void* similarity;  // [R, M] z, rows `similarity_stride` apart; null: all weights are 1
  int64_t similarity_stride;
  ScalarType similarity_type;
  T* scratch;  // [R, M] for weighted rows beyond shared memory; may be `similarity`
  const int64_t* query_groups;  // [R] or null
  const int64_t* code_groups;   // [M] or null
  const T* row_weights;         // [R] or null: 1
  T* loss;                      // [R]
  int64_t first_positive;       // column of the first row's positive
  int32_t columns;              // M
  T inverse_temperature;
  Rule rule;
  WeightLine<T> line;  // the weights of a row whose M - 1 other columns are all negatives
  T eps;
  T gain;  // the gradient is written times gain * row_weight
  bool need_gradient;
  bool round_to_tf32;  // of fp32 gradients: the tensor cores would truncate
};

template <typename T>
constexpr T kInfinity = std::numeric_limits<T>::infinity();

template <typename T>
__device__ __forceinline__ T larger(T a, T b) {
  return b > a ? b : a;  // never NaN when `a` is not
}

// Every thread gets the same value: a butterfly adds the same pairs on both sides, and each warp
// repeats the last step on the warps' partial values.
template <typename V, typename Op>
__device__ __forceinline__ V block_reduce(V value, V identity, Op op) {
  __shared__ V partials[kMaxThreads / kWarp];
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  for (int offset = kWarp / 2; offset > 0; offset /= 2)
    value = op(value, __shfl_xor_sync(0xffffffffu, value, offset));
  __syncthreads();  // a slower warp may still read the partials of the reduction before
  if (lane == 0) partials[warp] = value;
  __syncthreads();
  value = lane < static_cast<int>(blockDim.x) / kWarp ? partials[lane] : identity;
  for (int offset = kWarp / 2; offset > 0; offset /= 2)
    value = op(value, __shfl_xor_sync(0xffffffffu, value, offset));
  return value;
}

template <typename V>
__device__ __forceinline__ V block_sum(V value) {
  return block_reduce(value, V(0), [](V a, V b) { return a + b; });
}

template <typename T>
__device__ __forceinline__ T block_max(T value) {
  return block_reduce(value, -kInfinity<T>, [](T a, T b) { return larger(a, b); });
}

// The sweep every loop over a row is: load(j) of kBatch of the thread's columns, so that as many
// reads are under way at once, then use(j, loaded, k) of each; k < kBatch is a constant. All
// threads go round equally often; kBarrier separates the loads of a round from what is done with
// them.
template <bool kBarrier = false, typename Load, typename Use>
__device__ __forceinline__ void for_columns(int32_t columns, Load load, Use use) {
  const int32_t step = static_cast<int32_t>(blockDim.x);
  const int32_t first = static_cast<int32_t>(threadIdx.x);
  for (int32_t begin = 0; begin < columns; begin += kBatch * step) {
    decltype(load(0)) loaded[kBatch];
#pragma unroll
    for (int k = 0; k < kBatch; ++k) {
      const int32_t j = begin + k * step + first;
      if (j < columns) loaded[k] = load(j);
    }
    if constexpr (kBarrier) __syncthreads();
#pragma unroll
    for (int k = 0; k < kBatch; ++k) {
      const int32_t j = begin + k * step + first;
      if (j < columns) use(j, loaded[k], k);
    }
  }
}

// Sum of f(j, load(j)) over the row's columns; f may store as it goes.
template <typename T, typename Load, typename F>
__device__ __forceinline__ T sum_columns(int32_t columns, Load load, F f) {
  T totals[kBatch] = {};
  for_columns(columns, load, [&](int32_t j, auto loaded, int k) { totals[k] += f(j, loaded); });
  T total = 0;
#pragma unroll
  for (int k = 0; k < kBatch; ++k) total += totals[k];
  return block_sum(total);
}

// Largest f(j, load(j)) over the row's columns, NaNs left out; f may store as it goes.
template <typename T, typename Load, typename F>
__device__ __forceinline__ T max_columns(int32_t columns, Load load, F f) {
  T largest = -kInfinity<T>;
  for_columns(columns, load,
              [&](int32_t j, auto loaded, int) { largest = larger(largest, f(j, loaded)); });
  return block_max(largest);
}

// f(row r's similarities in the type they are stored in), the choice made once and not per column.
template <typename T, typename F>
__device__ __forceinline__ T with_similarity(const RowBlock<T>& b, int64_t r, F f) {
  const int64_t at = r * b.similarity_stride;
  switch (b.similarity_type) {
    case ScalarType::Half:
      return f(static_cast<const __half*>(b.similarity) + at);
    case ScalarType::BFloat16:
      return f(static_cast<const __nv_bfloat16*>(b.similarity) + at);
    case ScalarType::Double:
      return f(static_cast<const double*>(b.similarity) + at);
    default:
      return f(static_cast<const float*>(b.similarity) + at);
  }
}

template <typename T, typename Z>
__device__ __forceinline__ T from_storage(Z value) {
  if constexpr (std::is_same_v<Z, __half>)
    return static_cast<T>(__half2float(value));
  else if constexpr (std::is_same_v<Z, __nv_bfloat16>)
    return static_cast<T>(__bfloat162float(value));
  else
    return static_cast<T>(value);
}

// Nearest value of 11 significant bits, the tensor cores' TF32.
__device__ __forceinline__ float nearest_tf32(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  if ((bits & 0x7f800000u) == 0x7f800000u) return value;  // infinite or NaN
  bits = (bits + 0x1000u) & ~0x1fffu;
  memcpy(&value, &bits, sizeof bits);
  return value;
}

template <typename G, typename T>
__device__ __forceinline__ G to_gradient(T value, bool round_to_tf32) {
  if constexpr (std::is_same_v<G, __half>)
    return __float2half_rn(value);
  else if constexpr (std::is_same_v<G, __nv_bfloat16>)
    return __float2bfloat16_rn(value);
  else if constexpr (std::is_same_v<G, float>)
    return round_to_tf32 ? nearest_tf32(value) : value;
  else
    return value;
}

// T: the type of scores and sums. G: the type of the gradient, no wider than T.
// kShared: `row` lies in shared memory, M * sizeof(T) bytes of it.
template <typename T, typename G, bool kShared>
__global__ void __launch_bounds__(kRowThreads<T>, 1) row_kernel(const RowBlock<T> b) {
  extern __shared__ __align__(16) unsigned char shared_row[];
  const int64_t r = blockIdx.x;
  const int32_t columns = b.columns;
  const int32_t positive = static_cast<int32_t>(b.first_positive + r);
  const bool weighted = b.similarity != nullptr || b.code_groups != nullptr;
  T* const scores = b.scores + r * columns;
  T* row;
  if constexpr (kShared)
    row = reinterpret_cast<T*>(shared_row);
  else
    row = weighted ? b.scratch + r * columns : scores;

  const T positive_score = scores[positive];
  T largest = -kInfinity<T>;  // of the scores that count

  const auto load_row = [&](int32_t j) { return row[j]; };
  const auto load_score = [&](int32_t j) { return scores[j]; };
  if (weighted) {
    const int64_t group = b.code_groups != nullptr ? b.query_groups[r] : 0;
    const auto is_negative = [&](int32_t j) {
      return j != positive && (b.code_groups == nullptr || b.code_groups[j] != group);
    };
    if (b.similarity != nullptr) {
      int32_t excluded = 0;  // the positive and the masked columns
      // Columns that are no negatives take z = -inf; an infinite z of a negative becomes NaN
      // (z - z is 0 for a finite z), so that -inf says "no negative" from here on.
      const T largest_z = with_similarity(b, r, [&](const auto* similarity) {
        struct Column {
          T z;
          bool negative;
        };
        return max_columns<T>(
            columns,
            [&](int32_t j) { return Column{from_storage<T>(similarity[j]), is_negative(j)}; },
            [&](int32_t j, Column c) {
              excluded += !c.negative;
              return row[j] = c.negative ? c.z + (c.z - c.z) : -kInfinity<T>;
            });
      });
      // A share of -1 marks them in the next sweep; a negative's share may well be 0.
      const T inverse_temperature = b.inverse_temperature;
      const T sum = sum_columns<T>(columns, load_row, [&](int32_t j, T z) {
        const bool no_negative = z == -kInfinity<T>;
        const T share = no_negative ? T(0) : exp((z - largest_z) * inverse_temperature);
        row[j] = no_negative ? T(-1) : share;
        return share;
      });
      WeightLine<T> line = b.line;
      if (b.code_groups != nullptr) {
        line = weight_line<T>(b.rule, columns - block_sum(excluded));
      }
      line.slope /= sum;
      // A column of weight 0 must not set the maximum: all others could underflow beside it.
      largest = max_columns<T>(columns, load_score, [&](int32_t j, T s) {
        const T share = row[j];
        const T w = share < T(0) ? T(0) : weight(line, share);
        row[j] = w;
        return w == T(0) ? -kInfinity<T> : s;
      });
    } else {
      struct Column {
        T s;
        bool negative;
      };
      largest = max_columns<T>(
          columns, [&](int32_t j) { return Column{scores[j], is_negative(j)}; },
          [&](int32_t j, Column c) {
            row[j] = c.negative ? T(1) : T(0);
            return c.negative ? c.s : -kInfinity<T>;
          });
    }
  } else {
    largest = max_columns<T>(columns, load_score, [&](int32_t j, T s) {
      if constexpr (kShared) row[j] = s;
      return s;
    });
  }
  largest = larger(largest, positive_score);

  // A row without negatives comes to sum = 0 and gap = 0 by itself: loss and gradient 0, or NaN for
  // a positive score that is NaN or infinite.
  T sum;
  if (weighted) {
    sum = sum_columns<T>(columns, load_score, [&](int32_t j, T s) {
      const T w = row[j];
      return row[j] = w == T(0) ? T(0) : w * exp(s - largest);
    });
  } else {
    sum = sum_columns<T>(columns, load_row, [&](int32_t j, T s) {
      return row[j] = j == positive ? T(0) : exp(s - largest);
    });
  }
  const T gap = largest - positive_score;
  const RowResult<T> result = finish_row<T>(gap, exp(-gap), sum, b.eps);
  if (threadIdx.x == 0) b.loss[r] = result.loss;
  if (!b.need_gradient) return;

  T factor = b.gain * result.gradient_scale;
  if (b.row_weights != nullptr) factor *= b.row_weights[r];

  // In place: gradient j takes bytes of the scores j * sizeof(G) / sizeof(T), which other threads
  // own. With `row` in shared memory or scratch nothing is lost: a reduction stands between every
  // thread's last read of a score and here. A plain row in global memory is still read here, and
  // may be overwritten only below the columns that all threads have read: the barrier of each
  // round.
  G* const gradient = reinterpret_cast<G*>(scores);
  for_columns<!kShared && sizeof(G) != sizeof(T)>(columns, load_row, [&](int32_t j, T e, int) {
    const T value = j == positive ? -sum * factor : e * factor;
    gradient[j] = to_gradient<G>(value, b.round_to_tf32);
  });
}

// total = weight * sum of loss, by one block, in double.
template <typename T>
__global__ void __launch_bounds__(kMaxThreads)
    total_kernel(const T* loss, int64_t rows, double weight, T* total) {
  double sum = 0;
  for (int64_t i = threadIdx.x; i < rows; i += blockDim.x) sum += static_cast<double>(loss[i]);
  sum = block_sum(sum);
  if (threadIdx.x == 0) *total = static_cast<T>(sum * weight);
}

}  // namespace softnce::cuda
