// Which threads work on a row, and where its values lie: decided by the row's bytes and by what the
// GPU has. Plain C++, so that every GPU's choice can be looked at on any machine.
#pragma once

#include <cstdint>

#include "../row_math.h"

namespace softnce::cuda {

// Losses that share kernels.
enum class Family {
  kSoft,          // InfoNCE, and Soft-InfoNCE over dense similarities: the common losses
  kCancellation,  // the same over BM25's factors, Top-K, threshold
  kTargets,       // BCE, weighted InfoNCE, KL
};

static inline Family family_of(Objective objective, bool has_factors) {
  switch (objective) {
    case Objective::kSoftInfoNCE:
      return has_factors ? Family::kCancellation : Family::kSoft;
    case Objective::kTopK:
    case Objective::kThreshold:
      return Family::kCancellation;
    default:
      return Family::kTargets;
  }
}

constexpr int kWarp = 32;
constexpr int kMaxThreads = 1024;
constexpr int kAnyThreads = 512;  // of any_row_kernel: with more, its registers would not fit
constexpr int kWarpRows = 4;      // of a block of warp_row_kernel
constexpr int kMaxCluster = 8;    // blocks; more are not portable
constexpr int kSlotBytes = 16;    // the largest value that is reduced

// Shared memory that a block's reductions take, before the row's own.
constexpr int kReduceBytes = 2 * (kMaxThreads / kWarp + kMaxCluster) * kSlotBytes;

// Spans begin, and rows in memory end, at multiples of this: 16 bytes also in half types.
constexpr int32_t kPadding = 8;

SOFTNCE_INLINE int64_t padded(int64_t columns) {
  return (columns + kPadding - 1) / kPadding * kPadding;
}

// Columns of a cluster's block: the row cut into `blocks` spans.
SOFTNCE_INLINE int64_t span_columns(int64_t columns, int blocks) {
  return padded((columns + blocks - 1) / blocks);
}

enum class Place {
  kWarp,    // a warp a row, values in shared memory
  kBlock,   // a block or a cluster of blocks a row, values in shared memory
  kGlobal,  // a block a row, values in global memory
};

// What a GPU offers.
struct Limits {
  int64_t shared_bytes;  // the most a block may ask for
  bool clusters;         // sm_90 and later
};

struct RowPlan {
  Place place;
  bool fast;    // warp_row_kernel or block_row_kernel, else any_row_kernel
  int threads;  // of a block
  int cluster;  // blocks a row
  int64_t shared_bytes;
};

constexpr int64_t kWarpColumns = 1024;  // beyond, one warp waits long for its own sweeps
// Of a block's values: three such blocks share a multiprocessor of an H100, so that one reads while
// others compute.
constexpr int64_t kSpanBytes = 64 * 1024;
constexpr int64_t kVectorsPerThread = 4;  // before a block takes more threads

// Rows of `columns` elements of `element_bytes`, worked on in `arrays` arrays.
static inline RowPlan plan_rows(Family family, int64_t columns, int64_t element_bytes,
                                const Limits& limits) {
  const bool fast = family == Family::kSoft && element_bytes == 4;
  const int arrays = family == Family::kTargets ? 2 : 1;
  const auto bytes_of = [&](int64_t n) { return arrays * padded(n) * element_bytes; };
  const auto fits = [&](int blocks, int64_t most) {
    return kReduceBytes + bytes_of(span_columns(columns, blocks)) <= most;
  };
  if (fast && columns <= kWarpColumns)
    return {Place::kWarp, true, kWarpRows * kWarp, 1, kWarpRows * bytes_of(columns)};

  int cluster = 1;
  if (limits.clusters)
    while (cluster < kMaxCluster && !fits(cluster, kReduceBytes + kSpanBytes)) cluster *= 2;
  const bool on_chip = fits(cluster, limits.shared_bytes);
  const int64_t span = on_chip ? span_columns(columns, cluster) : columns;
  const int64_t shared_bytes = kReduceBytes + (on_chip ? bytes_of(span) : 0);
  // As many blocks as memory lets live beside each other have registers for 1,024 threads.
  const int64_t together = limits.shared_bytes / shared_bytes;
  const int most = together >= 3 ? 256 : together == 2 || !fast ? 512 : kMaxThreads;
  const int64_t vectors = span * element_bytes / 16;
  int threads = 2 * kWarp;
  while (threads < most && threads * kVectorsPerThread < vectors) threads *= 2;
  if (!on_chip) return {Place::kGlobal, false, kAnyThreads, 0, shared_bytes};
  return {Place::kBlock, fast, threads, cluster, shared_bytes};
}

}  // namespace softnce::cuda
