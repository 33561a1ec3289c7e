// The groups that this project's kernels use, by their CUDA names.
#pragma once

#include "cuda_runtime.h"

namespace cooperative_groups {

class thread_block {
 public:
  static void sync(HOST_CUDA_HERE) {
    host_cuda::barrier(host_cuda::Scope::kBlock, {"thread_block::sync", file, line});
  }
  static unsigned thread_rank() { return host_cuda::self->thread_rank; }
  static unsigned num_threads() { return blockDim.x * blockDim.y * blockDim.z; }
  static unsigned size() { return num_threads(); }
};
static inline thread_block this_thread_block() { return {}; }

class grid_group {
 public:
  void sync(HOST_CUDA_HERE) const {
    host_cuda::barrier(host_cuda::Scope::kGrid, {"grid_group::sync", file, line});
  }
  static unsigned long long num_blocks() {
    return static_cast<unsigned long long>(gridDim.x) * gridDim.y * gridDim.z;
  }
  static unsigned long long block_rank() {
    const auto y = static_cast<unsigned long long>(blockIdx.z) * gridDim.y + blockIdx.y;
    return y * gridDim.x + blockIdx.x;
  }
  static unsigned long long num_threads() { return num_blocks() * thread_block::num_threads(); }
  static unsigned long long thread_rank() {
    return block_rank() * thread_block::num_threads() + thread_block::thread_rank();
  }
  static unsigned long long size() { return num_threads(); }
};
static inline grid_group this_grid() { return {}; }

class cluster_group {
 public:
  static void sync(HOST_CUDA_HERE) {
    host_cuda::barrier(host_cuda::Scope::kCluster, {"cluster_group::sync", file, line});
  }
  static void barrier_arrive(HOST_CUDA_HERE) {
    host_cuda::cluster_arrive({"cluster_group::barrier_arrive", file, line});
  }
  static void barrier_wait(HOST_CUDA_HERE) {
    host_cuda::cluster_wait({"cluster_group::barrier_wait", file, line});
  }
  static unsigned num_blocks() { return host_cuda::self->cluster_blocks; }
  static unsigned block_rank() { return host_cuda::self->cluster_rank; }
  static unsigned num_threads() { return num_blocks() * thread_block::num_threads(); }
  static unsigned thread_rank() {
    return block_rank() * thread_block::num_threads() + thread_block::thread_rank();
  }
  template <typename T>
  static T* map_shared_rank(T* variable, unsigned rank) {
    return static_cast<T*>(__cluster_map_shared_rank(variable, rank));
  }
};
static inline cluster_group this_cluster() { return {}; }

}  // namespace cooperative_groups
