// A matrix product by all blocks of a kernel: tiles are dealt out in turn, a block's warps lie side
// by side over its tile or split its k, and parts of k are added through shared memory in the order
// of the warps. No atomics: bitwise repeatable.
#pragma once

#include "mma.cuh"
#include "tiles.h"

namespace softnce::cuda {

// Four neighbouring results of one row of a lane's.
using Unit = Pack<float, 4>;

template <typename V, int kRows, int kColumns>
class BlockProduct {
 public:
  using Tile = WarpTile<V, kRows, kColumns>;
  static constexpr int kUnits = kRows * kColumns / 4;
  static constexpr int kSharedBytes =
      kProductWarps * kWarp * kUnits * static_cast<int>(sizeof(Unit));

  __device__ static int32_t tiles_along(int32_t size, int32_t tile) {
    return (size + tile - 1) / tile;
  }

  // use(row, column, unit) of every four results of the product, once; the column is a multiple of
  // four, and both may lie beyond the operands' counts. `first` is the number of the first tile, so
  // that several products are dealt out as one; returns the number behind the last.
  template <bool kTransposedA, bool kTransposedB, typename Use>
  __device__ static __forceinline__ int32_t run(const Operand<V>& a, const Operand<V>& b,
                                                const TileShape& shape, int32_t first,
                                                unsigned char* shared, Use use) {
    const int32_t height = shape.rows * 8 * kRows, width = shape.columns * 4 * kColumns;
    const int32_t across = tiles_along(b.count, width);
    const int32_t tiles = tiles_along(a.count, height) * across;
    const int32_t blocks = static_cast<int32_t>(gridDim.x);
    // The tiles after `first` go on where the ones before ended.
    const int32_t skipped = first % blocks;
    int32_t tile = static_cast<int32_t>(blockIdx.x) - skipped;
    if (tile < 0) tile += blocks;
#pragma unroll 1
    for (; tile < tiles; tile += blocks)
      run_tile<kTransposedA, kTransposedB>(a, b, shape, tile / across * height,
                                           tile % across * width, shared, use);
    return first + tiles;
  }

 private:
  template <bool kTransposedA, bool kTransposedB, typename Use>
  __device__ static __forceinline__ void run_tile(const Operand<V>& a, const Operand<V>& b,
                                                  const TileShape& shape, int32_t m, int32_t n,
                                                  unsigned char* shared, Use use) {
    const int warp = static_cast<int>(threadIdx.x) / kWarp;
    const int part = warp % shape.parts, place = warp / shape.parts;
    m += place / shape.columns * 8 * kRows;
    n += place % shape.columns * 4 * kColumns;
    // Whole steps for each part; the last may have fewer.
    const int32_t depth = a.depth > b.depth ? a.depth : b.depth;
    const int32_t steps = tiles_along(depth, Tile::kStep * shape.parts);
    const int32_t begin = part * steps * Tile::kStep, end = begin + steps * Tile::kStep;
    Tile sums;
    sums.template add<kTransposedA, kTransposedB>(a, b, m, n, begin, end < depth ? end : depth);
    if (shape.parts == 1)
      use_own(sums, m, n, use);
    else
      add_parts(sums, shape.parts, part, warp - part, m, n, shared, use);
  }

  template <typename Use>
  __device__ static __forceinline__ void use_own(const Tile& tile, int32_t m, int32_t n, Use use) {
    const int lane = static_cast<int>(threadIdx.x) % kWarp, g = lane / 4, q = lane % 4;
#pragma unroll
    for (int r = 0; r < kRows; ++r)
#pragma unroll
      for (int c = 0; c < kColumns; c += 4)
        use(m + kRows * g + r, n + kColumns * q + c, unit_of(tile, r, c));
  }

  // Each warp of a place adds up some of its units over all parts.
  template <typename Use>
  __device__ static __forceinline__ void add_parts(const Tile& tile, int parts, int part,
                                                   int first_warp, int32_t m, int32_t n,
                                                   unsigned char* shared, Use use) {
    const int lane = static_cast<int>(threadIdx.x) % kWarp, g = lane / 4, q = lane % 4;
    Unit* const units = reinterpret_cast<Unit*>(shared) + lane;
    const auto at = [&](int warp, int unit) { return (warp * kUnits + unit) * kWarp; };
    __syncthreads();  // others may still read the parts of the tile before
#pragma unroll
    for (int unit = 0; unit < kUnits; ++unit)
      units[at(first_warp + part, unit)] =
          unit_of(tile, unit / (kColumns / 4), unit % (kColumns / 4) * 4);
    __syncthreads();
#pragma unroll 1
    for (int unit = part; unit < kUnits; unit += parts) {
      Unit sum = units[at(first_warp, unit)];
      for (int other = 1; other < parts; ++other) {
        const Unit more = units[at(first_warp + other, unit)];
#pragma unroll
        for (int l = 0; l < 4; ++l) sum.at[l] += more.at[l];
      }
      use(m + kRows * g + unit / (kColumns / 4), n + kColumns * q + unit % (kColumns / 4) * 4, sum);
    }
  }

  __device__ static __forceinline__ Unit unit_of(const Tile& tile, int r, int c) {
    return {tile.sums[r][c], tile.sums[r][c + 1], tile.sums[r][c + 2], tile.sums[r][c + 3]};
  }
};

}  // namespace softnce::cuda
