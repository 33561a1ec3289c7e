// The whole step of a small batch in one launch (fused_step.cuh): what it is given.
#pragma once

#include "plan.h"
#include "row_block.h"
#include "tiles.h"

namespace softnce::cuda {

struct FusedStep {
  bool common;           // Family::kSoft, else Family::kCancellation
  RowBlock<float> rows;  // all N; scores are memory to work in
  float* products;       // [N, stride] or null: where the teacher's go, which is rows.similarity
  const void* query;     // [N, D], of one type with the next three
  const void* code;      // [M, D]
  const void* teacher_query;  // [N, Dt] or null
  const void* teacher_code;   // [M, Dt]
  int32_t width;              // D
  int32_t teacher_width;      // Dt
  float scale;
  float alpha;       // of the gradients' products
  void* grad_query;  // [N, D] or null, bf16 for bf16 inputs, else fp32
  void* grad_code;   // [M, D] or null
  float* total;      // null: the losses are not added up
  double total_weight;
  TileShape score_tiles;
  TileShape gradient_tiles;
};

constexpr int64_t kFusedWidth = 8;       // D and Dt are multiples: 16-byte reads of half types
constexpr int64_t kFusedColumns = 1536;  // the most: 8 rows' values lie in a block's shared memory

// Chooses the step's tiles for `blocks` blocks; returns how many of them get something to do.
static inline int64_t plan_tiles(FusedStep& step, bool is_half, int64_t blocks) {
  const int64_t n = step.rows.rows, m = step.rows.columns, d = step.width;
  int64_t score_tiles = 0, gradient_tiles = 0;
  step.score_tiles = choose_tiles({n, m}, {step.products != nullptr ? n : 0, m},
                                  is_half ? kHalfScores : kFloatProducts, blocks, &score_tiles);
  step.gradient_tiles = choose_tiles(
      {step.grad_query != nullptr ? n : 0, d}, {step.grad_code != nullptr ? padded(m) : 0, d},
      is_half ? kHalfGradients : kFloatProducts, blocks, &gradient_tiles);
  const int64_t tiles = score_tiles > gradient_tiles ? score_tiles : gradient_tiles;
  const int64_t busy = tiles > n ? tiles : n;
  return busy < blocks ? busy : blocks;
}

}  // namespace softnce::cuda
