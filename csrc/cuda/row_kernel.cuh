// One row: similarities -> weights or targets -> masked log-sum-exp -> loss -> gradient, in place
// over the block of scores. The twin of cpu/row_kernel.cpp, from the same row_math.h.
//
// A group of threads owns a row (group.cuh): a warp up to about a thousand columns, else a block,
// or on sm_90 a cluster of blocks whose spans lie in their own shared memory. Longer rows are
// worked on in global memory. Sums run in T over fixed trees: no float atomics, bitwise repeatable.
#pragma once

#include "cross_entropy.cuh"
#include "targets.cuh"

namespace softnce::cuda {

template <Family kFamily, class R>
__device__ __forceinline__ void run_row(const R& row, typename R::T* second) {
  if constexpr (kFamily == Family::kSoft)
    run_soft_info_nce(row);
  else if constexpr (kFamily == Family::kCancellation)
    run_cancellation(row);
  else
    run_targets(row, second);
}

// A warp a row, for the common losses.
template <typename T>
__global__ void __launch_bounds__(kWarpRows* kWarp, 1) warp_row_kernel(const RowBlock<T> b) {
  SOFTNCE_SHARED_MEMORY(shared);
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kWarpRows + warp;
  if (index >= b.rows) return;  // a whole warp: nothing below waits for another
  Warp group;
  T* const values = reinterpret_cast<T*>(shared) + warp * padded(b.columns);
  run_soft_info_nce(Row<Warp, T, true>(group, b, index, values));
}

// `cluster` blocks a row, for the common losses.
template <typename T>
__global__ void __launch_bounds__(kMaxThreads, 1)
    block_row_kernel(const RowBlock<T> b, const int cluster) {
  SOFTNCE_SHARED_MEMORY(shared);
  Block group(shared, cluster);
  T* const values = reinterpret_cast<T*>(shared + kReduceBytes);
  run_soft_info_nce(Row<Block, T, true>(group, b, blockIdx.x / cluster, values));
}

// Every other case, wherever the values lie. cluster = 0: in global memory, a block a row; in
// scratch, or in place of the scores where only they are looked at; of two arrays the scores are
// the second.
template <typename T, Family kFamily>
__global__ void __launch_bounds__(kAnyThreads,
                                  kFamily == Family::kTargets || sizeof(T) == 8 ? 1 : 2)
    any_row_kernel(const RowBlock<T> b, const int cluster) {
  SOFTNCE_SHARED_MEMORY(shared);
  Block group(shared, cluster > 0 ? cluster : 1);
  const int64_t index = cluster > 0 ? blockIdx.x / cluster : blockIdx.x;
  T *values, *second;
  if (cluster > 0) {
    values = reinterpret_cast<T*>(shared + kReduceBytes);
    second = values + span_columns(b.columns, cluster);
  } else {
    second = b.scores + index * b.stride;
    values = b.scratch != nullptr ? b.scratch + index * b.stride : second;
  }
  const Row<Block, T, false> row(group, b, index, values);
  group.sync();  // all threads have read the positive's score before one may write there
  run_row<kFamily>(row, second);
}

constexpr int kTotalThreads = 1024;

// total = weight * sum of loss, in double, by one block.
template <class Group, typename T>
__device__ __forceinline__ void add_losses(Group& group, const T* loss, int64_t rows, double weight,
                                           T* total) {
  double sum = 0;
  for (int64_t i = group.rank(); i < rows; i += group.size()) sum += static_cast<double>(loss[i]);
  sum = group_sum(group, sum);
  if (group.rank() == 0) *total = static_cast<T>(sum * weight);
}

template <typename T>
__global__ void __launch_bounds__(kTotalThreads)
    total_kernel(const T* loss, int64_t rows, double weight, T* total) {
  SOFTNCE_SHARED_MEMORY(shared);
  Block group(shared, 1);
  add_losses(group, loss, rows, weight, total);
}

}  // namespace softnce::cuda
