// How the products of the small-batch kernel are cut into tiles: decided by their sizes and by how
// many blocks there are. Plain C++, as plan.h is.
#pragma once

#include <cstdint>

namespace softnce::cuda {

constexpr int kProductWarps = 8;  // of a block

// What one warp computes of a tile: 8 * rows x 4 * columns results.
struct WarpPart {
  int rows;
  int columns;
};

// How a block's warps share a tile: rows * columns * parts = kProductWarps.
struct TileShape {
  int rows;
  int columns;
  int parts;  // of k
  bool fine;  // which of a type's two warp parts
};

// The two warp parts a product can be compiled for: more results a byte read, or more blocks.
struct WarpParts {
  WarpPart coarse;
  WarpPart fine;
};
constexpr WarpParts kHalfScores{{4, 8}, {2, 4}};
constexpr WarpParts kHalfGradients{{4, 16}, {2, 16}};
constexpr WarpParts kFloatProducts{{4, 4}, {4, 4}};

struct ProductSize {
  int64_t rows;
  int64_t columns;
};

static inline int64_t count_tiles(const ProductSize& size, int64_t height, int64_t width) {
  return (size.rows + height - 1) / height * ((size.columns + width - 1) / width);
}

// Tiles for two products that are dealt out as one (the second may be empty): the shape whose
// busiest block is done first. A block multiplies its tile's height * width for each k, at 1,024
// multiply-adds a cycle, and reads height + width, at 32 a cycle; fine parts read twice as much
// from the first cache.
static inline TileShape choose_tiles(const ProductSize& first, const ProductSize& second,
                                     const WarpParts& warp_parts, int64_t blocks, int64_t* tiles) {
  constexpr TileShape kShapes[] = {{2, 4, 1, false}, {2, 2, 2, false}, {1, 2, 4, false},
                                   {1, 1, 8, false}, {1, 2, 4, true},  {1, 1, 8, true}};
  TileShape best{};
  int64_t least = INT64_MAX;
  for (const TileShape& shape : kShapes) {
    const WarpPart& part = shape.fine ? warp_parts.fine : warp_parts.coarse;
    const int64_t height = 8 * shape.rows * part.rows, width = 4 * shape.columns * part.columns;
    const int64_t count = count_tiles(first, height, width) + count_tiles(second, height, width);
    const int64_t rounds = (count + blocks - 1) / blocks;
    const int64_t cost = rounds * (height * width + (shape.fine ? 48 : 32) * (height + width));
    if (cost >= least) continue;
    least = cost;
    best = shape;
    *tiles = count;
  }
  return best;
}

}  // namespace softnce::cuda
