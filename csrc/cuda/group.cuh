// The threads that own a row together: a warp, or the block of one kernel, or the blocks of a
// thread-block cluster. One interface, so that a row's mathematics is written once (row.cuh):
//
//   span(columns)   the columns whose values lie in this block's memory
//   rank(), size()  a thread's place among those that share the span
//   sync()          a barrier for them; also orders what they wrote, in shared and global memory
//   reduce(v, op)   op over all threads of the row, the same value for every one
//
// `op` must be commutative to the last bit: a butterfly applies it to the same pairs on both sides.
// The tree is fixed by the numbers of threads and blocks, so sums are bitwise repeatable.
#pragma once

#include "cluster.cuh"
#include "device.cuh"
#include "plan.h"

namespace softnce::cuda {

// Columns [begin, begin + count) of a row.
struct Span {
  int32_t begin;
  int32_t count;
};

template <typename V, typename Op>
__device__ __forceinline__ V warp_reduce(V value, int lanes, Op op) {
  for (int offset = lanes / 2; offset > 0; offset /= 2)
    value = op(value, shuffle_xor(value, offset));
  return value;
}

// A warp of its own row; several rows a block.
struct Warp {
  __device__ Span span(int32_t columns) const { return {0, columns}; }
  __device__ int rank() const { return static_cast<int>(threadIdx.x % kWarp); }
  __device__ int size() const { return kWarp; }
  __device__ void sync() const { __syncwarp(); }

  template <typename V, typename Op>
  __device__ V reduce(V value, Op op) const {
    value = warp_reduce(value, kWarp, op);
    __syncwarp();  // shuffles order no memory, and a reduction is also where in-place writes begin
    return value;
  }
};

// A block of 2^k warps, alone or one of a cluster.
class Block {
 public:
  // `slots`: kReduceBytes of shared memory.
  __device__ Block(unsigned char* slots, int blocks) : slots_(slots), blocks_(blocks) {
    if (blocks_ > 1) cluster_sync();  // a block's shared memory is there once the block has started
  }

  __device__ Span span(int32_t columns) const {
    if (blocks_ == 1) return {0, columns};
    const auto width = static_cast<int32_t>(span_columns(columns, blocks_));
    const int32_t begin = width * cluster_rank(), left = columns - begin;
    return {begin, left < 0 ? 0 : left < width ? left : width};
  }
  __device__ int rank() const { return static_cast<int>(threadIdx.x); }
  __device__ int size() const { return static_cast<int>(blockDim.x); }
  __device__ void sync() const { __syncthreads(); }

  template <typename V, typename Op>
  __device__ V reduce(V value, Op op) {
    static_assert(sizeof(V) <= kSlotBytes, "a slot holds it");
    // Two sets of slots in turn: whoever writes one again has passed the barrier of the other,
    // which all reach after their last read of it.
    unsigned char* const slots = slots_ + (turn_ ? kReduceBytes / 2 : 0);
    turn_ = !turn_;
    const int warps = size() / kWarp, lane = rank() % kWarp;
    value = warp_reduce(value, kWarp, op);
    V* const partials = reinterpret_cast<V*>(slots);
    if (lane == 0) partials[rank() / kWarp] = value;
    __syncthreads();
    value = warp_reduce(partials[lane % warps], warps, op);
    return blocks_ == 1 ? value : reduce_cluster(value, slots, op);
  }

 private:
  // Every block writes its value into every block, then each adds them up in the blocks' order. No
  // block is written to after the barrier, so it may end.
  template <typename V, typename Op>
  __device__ V reduce_cluster(V value, unsigned char* slots, Op op) const {
    V* const values = reinterpret_cast<V*>(slots + kMaxThreads / kWarp * kSlotBytes);
    if (rank() < blocks_) *shared_of(values + cluster_rank(), rank()) = value;
    cluster_sync();
    value = values[0];
    for (int block = 1; block < blocks_; ++block) value = op(value, values[block]);
    return value;
  }

  unsigned char* slots_;
  int blocks_;
  bool turn_ = false;
};

template <class Group, typename V>
__device__ __forceinline__ V group_sum(Group& group, V value) {
  return group.reduce(value, [](V a, V b) { return a + b; });
}

template <class Group, typename T>
__device__ __forceinline__ T group_max(Group& group, T value) {
  return group.reduce(value, [](T a, T b) { return larger(a, b); });
}

}  // namespace softnce::cuda
