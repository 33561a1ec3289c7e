// What runs the threads of a kernel on the host. Two engines have this face, and a program links
// one of them: fibre by fibre in orders that show a missing barrier (fibers_engine.cpp), and a
// real thread for each CUDA thread, for ThreadSanitizer (threads_engine.cpp).
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>

#include "vector_types.h"

namespace host_cuda {

constexpr unsigned kWarp = 32;

// What a thread knows of itself, beside the four variables below.
struct ThreadView {
  uint3 thread_idx, block_idx;
  dim3 block_dim, grid_dim;
  unsigned thread_rank;     // in its block
  unsigned cluster_rank;    // of its block in its cluster
  unsigned cluster_blocks;  // 1 where there are no clusters
  unsigned char* shared;
};

// The engine sets them when it turns to a thread. Not `thread_local`, whose every use from another
// file would be a function call.
#define HOST_CUDA_VARIABLE extern __thread __attribute__((tls_model("initial-exec")))
HOST_CUDA_VARIABLE const ThreadView* self;
HOST_CUDA_VARIABLE uint3 threadIdx, blockIdx;
HOST_CUDA_VARIABLE dim3 blockDim, gridDim;
#undef HOST_CUDA_VARIABLE

inline void turn_to(const ThreadView* view) {
  self = view;
  if (view == nullptr) return;
  threadIdx = view->thread_idx;
  blockIdx = view->block_idx;
  blockDim = view->block_dim;
  gridDim = view->grid_dim;
}

// A place in a kernel where threads meet.
struct Call {
  const char* name;
  const char* file;
  int line;
};

enum class Scope { kBlock, kCluster, kGrid };

// Waits for all threads of the scope; returns the sum of the block's predicates.
int barrier(Scope scope, Call call, int predicate = 0);

// The cluster's barrier in two parts: what lies between them is not waited for.
void cluster_arrive(Call call);
void cluster_wait(Call call);

enum class WarpOp { kSync, kExchange, kBallot };

// Waits for all lanes of the mask. kExchange: the value of lane `source`; kBallot: one bit for each
// lane of the mask whose value is not 0.
uint64_t warp_collective(WarpOp op, Call call, unsigned mask, uint64_t value = 0,
                         unsigned source = 0);

// Shared memory of a block of this cluster.
unsigned char* shared_of(unsigned cluster_rank);
size_t shared_bytes();

// Orders what this thread wrote before and reads after against other threads' fences.
void fence();

// Lets others run: for loops that wait for another thread.
void yield();

// Ends the launch with an error that names this thread.
[[noreturn]] void fail(const std::string& what);

struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// In which order lanes, warps and blocks run. Of any two warps, ascending runs the one first and
// descending the other, from barrier to barrier: whatever two of them do to one address without a
// barrier between happens in both orders.
struct Order {
  enum Kind { kAscending, kDescending, kShuffled } kind = kAscending;
  uint64_t seed = 0;
};

struct Launch {
  dim3 grid, block;
  unsigned cluster = 1;  // blocks, along x
  size_t shared_bytes = 0;
  bool cooperative = false;  // all blocks live at once: grid barriers
  Order order = {};
};

// Runs `kernel` once for each thread. Throws Error, of the first thing found: a barrier or a
// shuffle that not all threads come to, an access beyond shared memory or a Guarded array,
// undefined behaviour.
void launch(const Launch& shape, void (*kernel)(const void*), const void* argument);

template <typename Kernel>
void launch(const Launch& shape, const Kernel& kernel) {
  launch(shape, [](const void* call) { (*static_cast<const Kernel*>(call))(); }, &kernel);
}

}  // namespace host_cuda
