// Thread-block clusters: blocks that run together and reach each other's shared memory.
//
// CUDA's intrinsics in place of cooperative_groups.h, which costs more to compile than a kernel.
// GPUs before sm_90 have no clusters, and the launcher asks them for none.
#pragma once

#include <cuda_runtime.h>

#ifndef __CUDACC__
#include <cooperative_groups.h>  // the host's (csrc/testing/host_cuda)
#endif

namespace softnce::cuda {

// A barrier of all threads of the cluster, for shared memory of any of its blocks too.
__device__ __forceinline__ void cluster_sync() {
#ifndef __CUDACC__
  cooperative_groups::this_cluster().sync();
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  __cluster_barrier_arrive();
  __cluster_barrier_wait();
#endif
}

__device__ __forceinline__ int cluster_rank() {
#ifndef __CUDACC__
  return static_cast<int>(cooperative_groups::this_cluster().block_rank());
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  return static_cast<int>(__clusterRelativeBlockRank());
#else
  return 0;
#endif
}

// The same variable in the shared memory of block `rank`.
template <typename V>
__device__ __forceinline__ V* shared_of(V* variable, int rank) {
#ifndef __CUDACC__
  return cooperative_groups::this_cluster().map_shared_rank(variable, static_cast<unsigned>(rank));
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  return static_cast<V*>(__cluster_map_shared_rank(variable, static_cast<unsigned>(rank)));
#else
  return rank == 0 ? variable : nullptr;
#endif
}

}  // namespace softnce::cuda
