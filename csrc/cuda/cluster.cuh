// Thread-block clusters: blocks that run together and reach each other's shared memory.
//
// CUDA's intrinsics in place of cooperative_groups.h, which costs more to compile than a kernel.
// GPUs before sm_90 have no clusters, and the launcher asks them for none.
#pragma once

#include <cuda_runtime.h>

namespace softnce::cuda {

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900

// A barrier of all threads of the cluster, for shared memory of any of its blocks too.
__device__ __forceinline__ void cluster_sync() {
  __cluster_barrier_arrive();
  __cluster_barrier_wait();
}

__device__ __forceinline__ int cluster_rank() {
  return static_cast<int>(__clusterRelativeBlockRank());
}

// The same variable in the shared memory of block `rank`.
template <typename V>
__device__ __forceinline__ V* shared_of(V* variable, int rank) {
  return static_cast<V*>(__cluster_map_shared_rank(variable, static_cast<unsigned>(rank)));
}

#else

__device__ __forceinline__ void cluster_sync() {}
__device__ __forceinline__ int cluster_rank() { return 0; }
template <typename V>
__device__ __forceinline__ V* shared_of(V* variable, int) {
  return variable;
}

#endif

}  // namespace softnce::cuda
