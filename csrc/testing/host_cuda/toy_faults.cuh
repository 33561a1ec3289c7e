// Toy kernels that do what CUDA leaves undefined.
#pragma once

#include <cooperative_groups.h>
#include <cuda_runtime.h>

namespace toy {

namespace cg = cooperative_groups;

// Writes one int at `index`, beyond the launch's shared memory or not.
__global__ inline void write_shared_kernel(int index) {
  SOFTNCE_SHARED_MEMORY(memory);
  if (threadIdx.x == 5) reinterpret_cast<int*>(memory)[index] = 1;
}

__global__ inline void read_shared_kernel(int index, float* out) {
  SOFTNCE_SHARED_MEMORY(memory);
  out[threadIdx.x] = reinterpret_cast<const float*>(memory)[index];
}

// What shared memory holds before anyone writes to it.
__global__ inline void leftover_kernel(float* out) {
  SOFTNCE_SHARED_MEMORY(memory);
  auto* const values = reinterpret_cast<float*>(memory);
  out[blockIdx.x * blockDim.x + threadIdx.x] = values[threadIdx.x];
  values[threadIdx.x] = 1;
}

__global__ inline void write_global_kernel(int* out, int index) {
  if (threadIdx.x == 5) out[index] = 1;
}

// Sums of four floats, from `first` on.
template <bool kHint>
__global__ void load16_kernel(const float* in, int first, float* out) {
  const float4* const at = reinterpret_cast<const float4*>(in + first) + threadIdx.x;
  const float4 value = kHint ? __ldg(at) : *at;
  out[threadIdx.x] = value.x + value.y + value.z + value.w;
}

enum class Divergence {
  kExit,
  kOtherBarrier,
  kOtherLine,
  kShuffle,
  kMask,
  kAbsentLane,
  kSpin,
  kGridSync,
  kArriveTwice,
  kWaitFirst,
  kClusterExit,
  kClusterOther
};

// Threads that do not meet where CUDA demands it.
__global__ inline void divergent_kernel(Divergence kind) {
  const bool first = threadIdx.x < 40;
  switch (kind) {
    case Divergence::kExit:
      if (first) __syncthreads();
      return;
    case Divergence::kOtherBarrier:
      if (first)
        __syncthreads();
      else
        __syncthreads_or(1);
      return;
    case Divergence::kOtherLine:
      if (first)
        __syncthreads();
      else
        __syncthreads();
      return;
    case Divergence::kShuffle:
      if (first)
        __shfl_sync(0xffffffffu, 1, 0);
      else
        __syncwarp();
      return;
    case Divergence::kMask:
      __shfl_sync(0x0000ffffu, 1, 0);
      return;
    case Divergence::kAbsentLane:
      __shfl_sync(0x3u << (threadIdx.x & ~1u) % 32, 1, 7);
      return;
    case Divergence::kSpin:
      while (first) __nanosleep(100);
      return;
    case Divergence::kGridSync:
      cg::this_grid().sync();
      return;
    case Divergence::kArriveTwice:
      __cluster_barrier_arrive();
      __cluster_barrier_arrive();
      return;
    case Divergence::kWaitFirst:
      __cluster_barrier_wait();
      return;
    case Divergence::kClusterExit:
      if (first) cg::this_cluster().sync();
      return;
    case Divergence::kClusterOther:
      if (first)
        cg::this_cluster().sync();
      else
        cg::this_cluster().sync();
      return;
  }
}

// A recursion that no stack holds.
__global__ inline void deep_kernel(volatile int* out) {
  struct {
    void operator()(volatile int* at, int depth) const {
      volatile char frame[1024];
      frame[depth % 1024] = 1;
      if (depth > 0) (*this)(at, depth - 1);
      *at = *at + frame[depth % 1024];
    }
  } recurse;
  recurse(out, 200);
}

}  // namespace toy
