// Kernels whose only purpose is to hold the host's CUDA to its promises: right ones, and the same
// with one thing left out. Plain CUDA, as the project's own kernels are.
#pragma once

#include <cooperative_groups.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

namespace toy {

namespace cg = cooperative_groups;

// out[block] = sum of the block's part of in; one value a thread. Two reductions through the same
// partials, so that every barrier matters: kBarriers has one bit for each.
constexpr unsigned kAllBarriers = 7;

template <unsigned kBarriers>
__global__ void sum_kernel(const float* in, float* out) {
  SOFTNCE_SHARED_MEMORY(memory);
  auto* const partials = reinterpret_cast<float*>(memory);
  const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
  float value = in[blockIdx.x * blockDim.x + threadIdx.x], total = 0;
  for (int round = 0; round < 2; ++round) {
    float sum = round == 0 ? value : 1.0f;
    for (int lanes = 16; lanes > 0; lanes /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, lanes);
    if (lane == 0) partials[warp] = sum;
    if (kBarriers & (round == 0 ? 1u : 4u)) __syncthreads();
    sum = lane < warps ? partials[lane] : 0;
    for (int lanes = 16; lanes > 0; lanes /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, lanes);
    total += sum;
    if (round == 0 && (kBarriers & 2)) __syncthreads();  // the partials are written again
  }
  // The second reduction counted the threads.
  if (threadIdx.x == blockDim.x - 1) out[blockIdx.x] = total - static_cast<float>(blockDim.x);
}

// Lanes hand values on through shared memory.
template <bool kSync>
__global__ void rotate_lanes_kernel(int* out) {
  SOFTNCE_SHARED_MEMORY(memory);
  auto* const values = reinterpret_cast<int*>(memory);
  values[threadIdx.x] = static_cast<int>(threadIdx.x);
  if (kSync) __syncwarp();
  out[threadIdx.x] = values[threadIdx.x / 32 * 32 + (threadIdx.x + 1) % 32];
}

// Each block reads what the next block of its cluster wrote into its own shared memory.
template <bool kFirstSync, bool kLastSync>
__global__ void cluster_kernel(int* out) {
  SOFTNCE_SHARED_MEMORY(memory);
  auto* const values = reinterpret_cast<int*>(memory);
  const cg::cluster_group cluster = cg::this_cluster();
  values[threadIdx.x] = static_cast<int>(blockIdx.x * 1000 + threadIdx.x);
  if (kFirstSync) cluster.sync();
  const unsigned next = (cluster.block_rank() + 1) % cluster.num_blocks();
  const int* const others = cluster.map_shared_rank(values, next);
  out[blockIdx.x * blockDim.x + threadIdx.x] = others[threadIdx.x];
  if (kLastSync) cluster.sync();
}

// The same with a barrier in two parts, and a block's barrier between them.
__global__ inline void split_cluster_kernel(int* out) {
  SOFTNCE_SHARED_MEMORY(memory);
  auto* const values = reinterpret_cast<int*>(memory);
  values[threadIdx.x] = static_cast<int>(blockIdx.x * 1000 + threadIdx.x);
  __cluster_barrier_arrive();
  __syncthreads();
  const int own = values[(threadIdx.x + 1) % blockDim.x];
  __cluster_barrier_wait();
  const unsigned next = (__clusterRelativeBlockRank() + 1) % __clusterSizeInBlocks();
  const int other = static_cast<const int*>(__cluster_map_shared_rank(values, next))[threadIdx.x];
  __cluster_barrier_arrive();
  out[blockIdx.x * blockDim.x + threadIdx.x] = other + own - values[(threadIdx.x + 1) % blockDim.x];
  __cluster_barrier_wait();
}

// out[block] = sum over all blocks of what they wrote before the grid's barrier.
template <bool kSync>
__global__ void grid_kernel(int* scratch, int* out) {
  if (threadIdx.x == blockDim.x - 1) scratch[blockIdx.x] = static_cast<int>(blockIdx.x) + 1;
  if (kSync) cg::this_grid().sync();
  int sum = 0;
  for (unsigned i = 0; i < gridDim.x; ++i) sum += scratch[i];
  if (threadIdx.x == 0) out[blockIdx.x] = sum;
}

// The block that comes last sums what all wrote: no grid barrier, so a fence and a counter. 8 bytes
// each: of neighbours in 8 bytes ThreadSanitizer may forget one.
template <bool kFence>
__global__ void last_block_kernel(long long* scratch, unsigned* counter, int* out) {
  if (threadIdx.x != 0) return;
  scratch[blockIdx.x] = blockIdx.x + 1;
  if (kFence) __threadfence();
  if (atomicAdd(counter, 1u) != gridDim.x - 1) return;
  __threadfence();
  long long sum = 0;
  for (unsigned i = 0; i < gridDim.x; ++i) sum += scratch[i];
  *out = static_cast<int>(sum);
}

// One warp: what the collectives give each lane.
template <typename T>
__global__ void shuffle_kernel(const T* in, T* out) {
  const unsigned lane = threadIdx.x, all = 0xffffffffu;
  out[lane] = __shfl_xor_sync(all, in[lane], 5);
  out[32 + lane] = __shfl_sync(all, in[lane], 7);
  out[64 + lane] = __shfl_sync(all, in[lane], 11, 8);  // lane 3 of each eight
  out[96 + lane] = __shfl_down_sync(all, in[lane], 3);
  out[128 + lane] = __shfl_up_sync(all, in[lane], 3, 16);
  const unsigned half = lane < 16 ? 0x0000ffffu : 0xffff0000u;
  out[160 + lane] = __shfl_xor_sync(half, in[lane], 8);
}

__global__ inline void vote_kernel(const int* in, int* out) {
  const unsigned i = threadIdx.x, all = 0xffffffffu;
  out[0 * blockDim.x + i] = static_cast<int>(__ballot_sync(all, in[i]));
  out[1 * blockDim.x + i] = __any_sync(all, in[i]);
  out[2 * blockDim.x + i] = __all_sync(all, in[i]);
  out[3 * blockDim.x + i] = __syncthreads_count(in[i]);
  out[4 * blockDim.x + i] = __syncthreads_or(in[i]);
  out[5 * blockDim.x + i] = __syncthreads_and(in[i]);
}

// One thread waits for what another does: two blocks, both live.
__global__ inline void flag_kernel(int* flag, int* out) {
  if (threadIdx.x != 0) return;
  if (blockIdx.x == 1) {
    __threadfence();
    atomicExch(flag, 1);
  } else {
    while (atomicAdd(flag, 0) == 0) __nanosleep(100);
    __threadfence();
    *out = 1;
  }
}

// Histogram of small numbers, counted in shared memory and then in global.
__global__ inline void count_kernel(const int* in, int* out) {
  SOFTNCE_SHARED_MEMORY(memory);
  auto* const counts = reinterpret_cast<int*>(memory);
  if (threadIdx.x < 4) counts[threadIdx.x] = 0;
  __syncthreads();
  atomicAdd(&counts[in[blockIdx.x * blockDim.x + threadIdx.x]], 1);
  __syncthreads();
  if (threadIdx.x < 4) atomicAdd(&out[threadIdx.x], counts[threadIdx.x]);
}

// Where each thread is, in three dimensions of both: its own number, once.
__global__ inline void place_kernel(int* out) {
  const cg::grid_group grid = cg::this_grid();
  const unsigned thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
  const unsigned block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  const bool agrees = thread == cg::this_thread_block().thread_rank() && block == grid.block_rank();
  const unsigned at = block * blockDim.x * blockDim.y * blockDim.z + thread;
  out[at] = agrees ? static_cast<int>(grid.thread_rank()) : -1;
}

// out[i] = f(in[i])
template <typename From, typename To, To (*f)(From)>
__global__ void map_kernel(const From* in, int size, To* out) {
  for (unsigned i = threadIdx.x; i < static_cast<unsigned>(size); i += blockDim.x)
    out[i] = f(in[i]);
}
__device__ inline unsigned short float_to_half(float x) {
  return __half_as_ushort(__float2half_rn(x));
}
__device__ inline float half_to_float(unsigned short x) {
  return __half2float(__ushort_as_half(x));
}
__device__ inline unsigned short float_to_bfloat16(float x) {
  return __bfloat16_as_ushort(__float2bfloat16_rn(x));
}
__device__ inline float bfloat16_to_float(unsigned short x) {
  return __bfloat162float(__ushort_as_bfloat16(x));
}
__device__ inline float fast_exp(float x) { return __expf(x); }
__device__ inline float fast_log(float x) { return __logf(x); }
__device__ inline float fast_reciprocal(float x) { return __fdividef(1.0f, x); }

}  // namespace toy
