// The whole step of a small batch in one cooperative launch: scores and teacher's products, rows,
// gradients. What the composed path (soft_info_nce.cpp) does in five launches, with the same row
// code; the launches' gaps would be most of the time.
//
//   A  tiles of scores = scale * query @ code^T, and of the teacher's products, [N, M] fp32
//   -- all blocks meet
//   B  a warp a row: loss, and G = d loss / d scores in place of the scores, in the inputs' type
//   -- all blocks meet
//   C  tiles of grad_query = alpha * G @ code and grad_code = alpha * G^T @ query, and the loss
//
// [N, M] exists here, in memory that L2 holds: N and M are small. For all losses but those with
// soft targets. Sums are fp32, of the total double; nothing is added by atomics, so results are
// bitwise repeatable. A tile is as large as still gives every block one: at N = 64 a warp's part of
// it is 16 x 16, and the 8 warps of a block split k.
#pragma once

// Without what only its reductions and cuda::atomic need, the header costs a quarter to compile.
#define _CG_LIMIT_INCLUDED_DEPENDENCIES
#include <cooperative_groups.h>

#include "cross_entropy.cuh"
#include "fused_step.h"
#include "product.cuh"
#include "row_kernel.cuh"

namespace softnce::cuda {

// Products by type, of coarse and of fine tiles (tiles.h). `Gradient` is the type of grad_query and
// grad_code.
template <typename V>
struct FusedTypes {
  static constexpr bool kHalf = sizeof(V) == 2;
  static constexpr WarpParts kScores = kHalf ? kHalfScores : kFloatProducts;
  static constexpr WarpParts kGradients = kHalf ? kHalfGradients : kFloatProducts;

  template <int kRows, int kColumns>
  using Product = BlockProduct<V, kRows, kColumns>;
  using CoarseScores = Product<kScores.coarse.rows, kScores.coarse.columns>;
  using FineScores = Product<kScores.fine.rows, kScores.fine.columns>;
  using CoarseGradients = Product<kGradients.coarse.rows, kGradients.coarse.columns>;
  using FineGradients = Product<kGradients.fine.rows, kGradients.fine.columns>;
  using Gradient = std::conditional_t<std::is_same_v<V, __half>, float, V>;
};

constexpr int kFusedThreads = kProductWarps * kWarp;

// Of a block: the products' parts, then the rows' values, then the loss's sum.
template <typename V>
constexpr int64_t fused_shared_bytes(int64_t columns) {
  using Types = FusedTypes<V>;
  constexpr int kProducts[] = {Types::CoarseScores::kSharedBytes, Types::FineScores::kSharedBytes,
                               Types::CoarseGradients::kSharedBytes,
                               Types::FineGradients::kSharedBytes, kReduceBytes};
  int64_t most = kProductWarps * padded(columns) * static_cast<int64_t>(sizeof(float));
  for (const int bytes : kProducts) most = bytes > most ? bytes : most;
  return most;
}

template <typename V>
__device__ __forceinline__ Operand<V> operand(const void* data, int64_t stride, int32_t count,
                                              int32_t depth) {
  return {static_cast<const V*>(data), stride, count, depth};
}

template <typename V, class Product>
__device__ __forceinline__ void multiply_scores_by(const FusedStep& step, unsigned char* shared) {
  const RowBlock<float>& b = step.rows;
  const auto rows = static_cast<int32_t>(b.rows);
  const auto store_to = [&](float* out, float factor) {
    return [=, &b](int32_t row, int32_t column, Unit unit) {
      if (row >= rows || column >= b.stride) return;
#pragma unroll
      for (int l = 0; l < 4; ++l) unit.at[l] *= factor;
      *reinterpret_cast<Unit*>(out + row * b.stride + column) = unit;
    };
  };
  // One loop over both products, so that its code is there once.
  int32_t first = 0;
#pragma unroll 1
  for (int product = 0; product < (step.products != nullptr ? 2 : 1); ++product) {
    const bool teacher = product == 1;
    const int32_t width = teacher ? step.teacher_width : step.width;
    const auto left = operand<V>(teacher ? step.teacher_query : step.query, width, rows, width);
    const auto right = operand<V>(teacher ? step.teacher_code : step.code, width, b.columns, width);
    first = Product::template run<false, false>(
        left, right, step.score_tiles, first, shared,
        store_to(teacher ? step.products : b.scores, teacher ? 1.0f : step.scale));
  }
}

template <typename V>
__device__ __forceinline__ void multiply_scores(const FusedStep& step, unsigned char* shared) {
  using Types = FusedTypes<V>;
  if (Types::kHalf && step.score_tiles.fine)
    multiply_scores_by<V, typename Types::FineScores>(step, shared);
  else
    multiply_scores_by<V, typename Types::CoarseScores>(step, shared);
}

__device__ __forceinline__ void run_rows(const FusedStep& step, unsigned char* shared) {
  const RowBlock<float>& b = step.rows;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  float* const values = reinterpret_cast<float*>(shared) + warp * padded(b.columns);
  Warp group;
  // Neighbouring rows go to different blocks: few rows should have a multiprocessor each.
#pragma unroll 1
  for (int64_t row = blockIdx.x + static_cast<int64_t>(warp) * gridDim.x; row < b.rows;
       row += static_cast<int64_t>(kProductWarps) * gridDim.x) {
    if (step.common)
      run_soft_info_nce(Row<Warp, float, true>(group, b, row, values));
    else
      run_cancellation(Row<Warp, float, false>(group, b, row, values));
  }
}

template <typename V, class Product>
__device__ __forceinline__ void multiply_gradients_by(const FusedStep& step,
                                                      unsigned char* shared) {
  using G = typename FusedTypes<V>::Gradient;
  const RowBlock<float>& b = step.rows;
  const auto rows = static_cast<int32_t>(b.rows), columns = static_cast<int32_t>(padded(b.columns));
  const int64_t stride = b.stride * static_cast<int64_t>(sizeof(float) / sizeof(V));
  const auto store_to = [&](void* out, int32_t count) {
    return [=, &step](int32_t row, int32_t column, const Unit& unit) {
      if (row >= count || column >= step.width) return;
      Pack<G, 4> pack;
#pragma unroll
      for (int l = 0; l < 4; ++l) pack.at[l] = to_storage<G>(unit.at[l] * step.alpha);
      *reinterpret_cast<Pack<G, 4>*>(static_cast<G*>(out) + static_cast<int64_t>(row) * step.width +
                                     column) = pack;
    };
  };
  int32_t first = 0;
  if (step.grad_query != nullptr)
    first = Product::template run<false, true>(
        operand<V>(b.scores, stride, rows, columns),
        operand<V>(step.code, step.width, step.width, b.columns), step.gradient_tiles, first,
        shared, store_to(step.grad_query, rows));
  if (step.grad_code != nullptr)
    Product::template run<true, true>(operand<V>(b.scores, stride, columns, rows),
                                      operand<V>(step.query, step.width, step.width, rows),
                                      step.gradient_tiles, first, shared,
                                      store_to(step.grad_code, b.columns));
}

template <typename V>
__device__ __forceinline__ void multiply_gradients(const FusedStep& step, unsigned char* shared) {
  using Types = FusedTypes<V>;
  if (Types::kHalf && step.gradient_tiles.fine)
    multiply_gradients_by<V, typename Types::FineGradients>(step, shared);
  else
    multiply_gradients_by<V, typename Types::CoarseGradients>(step, shared);
}

template <typename V>
__global__ void __launch_bounds__(kFusedThreads, 1) fused_step_kernel(const FusedStep step) {
  SOFTNCE_SHARED_MEMORY(shared);
  const cooperative_groups::grid_group grid = cooperative_groups::this_grid();
  multiply_scores<V>(step, shared);
  grid.sync();
  run_rows(step, shared);
  if (step.total == nullptr && !step.rows.need_gradient) return;
  grid.sync();
  if (step.total != nullptr && blockIdx.x == gridDim.x - 1) {  // the block with the fewest tiles
    Block group(shared, 1);
    add_losses(group, step.rows.loss, step.rows.rows, step.total_weight, step.total);
  }
  multiply_gradients<V>(step, shared);
}

}  // namespace softnce::cuda
