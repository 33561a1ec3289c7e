// The little of CUDA that this project's kernels use, in C++17 for the host, in its native
// spelling: this folder comes first on the include path, so that csrc/cuda/*.cuh compile unchanged
// with g++ or clang++ and run thread for thread without a GPU (engine.h). Facts about CUDA are from
// the CUDA C++ Programming Guide and the CUDA Math API.
//
// What differs on purpose: what CUDA leaves undefined is an error here. Static `__shared__` arrays
// do not compile, since one array per program cannot be one per live block: kernels carve what they
// need from SOFTNCE_SHARED_MEMORY. A loop that waits for another thread must call __nanosleep.
#pragma once

#include <math.h>  // ::exp(float) and the like: <cmath> alone need not declare them

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "cuda_runtime_api.h"
#include "engine.h"
#include "vector_types.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __cluster_dims__(...)
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __shared__ \
  _Pragma("GCC error \"static shared memory: carve it from SOFTNCE_SHARED_MEMORY\"")
// No macros: cudaLaunchConfig_t has members of these names.
using host_cuda::blockDim;
using host_cuda::blockIdx;
using host_cuda::gridDim;
using host_cuda::threadIdx;

#define SOFTNCE_SHARED_MEMORY(name) unsigned char* const name = ::host_cuda::self->shared

constexpr int warpSize = 32;

// The caller's file and line as default arguments: an error names them.
#define HOST_CUDA_HERE const char *file = __builtin_FILE(), int line = __builtin_LINE()

// --- barriers and fences

static inline void __syncthreads(HOST_CUDA_HERE) {
  host_cuda::barrier(host_cuda::Scope::kBlock, {"__syncthreads", file, line});
}
static inline int __syncthreads_count(int predicate, HOST_CUDA_HERE) {
  return host_cuda::barrier(host_cuda::Scope::kBlock, {"__syncthreads_count", file, line},
                            predicate != 0);
}
static inline int __syncthreads_or(int predicate, HOST_CUDA_HERE) {
  return host_cuda::barrier(host_cuda::Scope::kBlock, {"__syncthreads_or", file, line},
                            predicate != 0) > 0;
}
static inline int __syncthreads_and(int predicate, HOST_CUDA_HERE) {
  return host_cuda::barrier(host_cuda::Scope::kBlock, {"__syncthreads_and", file, line},
                            predicate == 0) == 0;
}
static inline void __syncwarp(unsigned mask = 0xffffffffu, HOST_CUDA_HERE) {
  host_cuda::warp_collective(host_cuda::WarpOp::kSync, {"__syncwarp", file, line}, mask);
}
static inline void __cluster_barrier_arrive(HOST_CUDA_HERE) {
  host_cuda::cluster_arrive({"__cluster_barrier_arrive", file, line});
}
static inline void __cluster_barrier_wait(HOST_CUDA_HERE) {
  host_cuda::cluster_wait({"__cluster_barrier_wait", file, line});
}
static inline unsigned __clusterRelativeBlockRank() { return host_cuda::self->cluster_rank; }
static inline unsigned __clusterSizeInBlocks() { return host_cuda::self->cluster_blocks; }
// The same variable in the shared memory of block `rank`. That block must have started (a barrier
// of the cluster stands before) and not have ended (and one after): an access finds out.
static inline void* __cluster_map_shared_rank(const void* variable, unsigned rank) {
  const auto* at = static_cast<const unsigned char*>(variable);
  const unsigned char* own = host_cuda::self->shared;
  if (at < own || at >= own + host_cuda::shared_bytes())
    host_cuda::fail("maps an address that is not in its own shared memory");
  return host_cuda::shared_of(rank) + (at - own);
}
static inline void __threadfence() { host_cuda::fence(); }
static inline void __threadfence_block() { host_cuda::fence(); }
static inline void __nanosleep(unsigned) { host_cuda::yield(); }
[[noreturn]] static inline void __trap() { host_cuda::fail("__trap"); }

// --- warp votes and shuffles. They order no memory: on a GPU that takes a __syncwarp.

static inline unsigned __ballot_sync(unsigned mask, int predicate, HOST_CUDA_HERE) {
  return static_cast<unsigned>(host_cuda::warp_collective(
      host_cuda::WarpOp::kBallot, {"__ballot_sync", file, line}, mask, predicate != 0));
}
static inline int __any_sync(unsigned mask, int predicate, HOST_CUDA_HERE) {
  return host_cuda::warp_collective(host_cuda::WarpOp::kBallot, {"__any_sync", file, line}, mask,
                                    predicate != 0) != 0;
}
static inline int __all_sync(unsigned mask, int predicate, HOST_CUDA_HERE) {
  return host_cuda::warp_collective(host_cuda::WarpOp::kBallot, {"__all_sync", file, line}, mask,
                                    predicate == 0) == 0;
}

namespace host_cuda {

// `source` of a lane: beyond its segment of `width` lanes a lane gets its own value.
template <typename T>
inline T shuffle(Call call, unsigned mask, T value, unsigned source) {
  static_assert(sizeof(T) <= 8 && !(std::is_arithmetic_v<T> && sizeof(T) < 4),
                "CUDA shuffles 4 and 8 bytes, and half types");
  uint64_t bits = 0;
  memcpy(&bits, &value, sizeof value);
  bits = warp_collective(WarpOp::kExchange, call, mask, bits, source);
  memcpy(&value, &bits, sizeof value);
  return value;
}
inline unsigned lane() { return self->thread_rank % kWarp; }
inline unsigned segment_end(int width) {
  const unsigned w = static_cast<unsigned>(width);
  return lane() / w * w + w;
}

}  // namespace host_cuda

template <typename T>
static inline T __shfl_sync(unsigned mask, T value, int source, int width = 32, HOST_CUDA_HERE) {
  const unsigned w = static_cast<unsigned>(width), first = host_cuda::segment_end(width) - w;
  return host_cuda::shuffle({"__shfl_sync", file, line}, mask, value,
                            first + static_cast<unsigned>(source) % w);
}
template <typename T>
static inline T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32, HOST_CUDA_HERE) {
  const unsigned own = host_cuda::lane(), source = own ^ static_cast<unsigned>(lanes);
  return host_cuda::shuffle({"__shfl_xor_sync", file, line}, mask, value,
                            source < host_cuda::segment_end(width) ? source : own);
}
template <typename T>
static inline T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32,
                                 HOST_CUDA_HERE) {
  const unsigned own = host_cuda::lane(), source = own + delta;
  return host_cuda::shuffle({"__shfl_down_sync", file, line}, mask, value,
                            source < host_cuda::segment_end(width) ? source : own);
}
template <typename T>
static inline T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32,
                               HOST_CUDA_HERE) {
  const unsigned own = host_cuda::lane();
  const unsigned first = host_cuda::segment_end(width) - static_cast<unsigned>(width);
  return host_cuda::shuffle({"__shfl_up_sync", file, line}, mask, value,
                            own >= first + delta ? own - delta : own);
}

// --- atomics: relaxed, as CUDA's are

#define HOST_CUDA_ATOMICS(T)                                                                     \
  static inline T atomicAdd(T* at, T value) {                                                    \
    return __atomic_fetch_add(at, value, __ATOMIC_RELAXED);                                      \
  }                                                                                              \
  static inline T atomicExch(T* at, T value) {                                                   \
    return __atomic_exchange_n(at, value, __ATOMIC_RELAXED);                                     \
  }                                                                                              \
  static inline T atomicCAS(T* at, T compare, T value) {                                         \
    __atomic_compare_exchange_n(at, &compare, value, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED); \
    return compare;                                                                              \
  }                                                                                              \
  static inline T atomicMax(T* at, T value) {                                                    \
    T old = __atomic_load_n(at, __ATOMIC_RELAXED);                                               \
    while (old < value && !__atomic_compare_exchange_n(at, &old, value, false, __ATOMIC_RELAXED, \
                                                       __ATOMIC_RELAXED)) {                      \
    }                                                                                            \
    return old;                                                                                  \
  }
HOST_CUDA_ATOMICS(int)
HOST_CUDA_ATOMICS(unsigned)
HOST_CUDA_ATOMICS(unsigned long long)
#undef HOST_CUDA_ATOMICS

// --- loads and stores with a cache hint. Their addresses are checked here, those of plain loads
// and stores by -fsanitize=alignment (faults.cpp).

namespace host_cuda {

template <typename T>
inline T* aligned(T* at) {
  if (reinterpret_cast<uintptr_t>(at) % alignof(T) != 0) fail("misaligned address of a vector");
  return at;
}

}  // namespace host_cuda

#define HOST_CUDA_HINTS(load, store)         \
  template <typename T>                      \
  static inline T load(const T* at) {        \
    return *host_cuda::aligned(at);          \
  }                                          \
  template <typename T>                      \
  static inline void store(T* at, T value) { \
    *host_cuda::aligned(at) = value;         \
  }
HOST_CUDA_HINTS(__ldcs, __stcs)
HOST_CUDA_HINTS(__ldcg, __stcg)
HOST_CUDA_HINTS(__ldg, __stwb)
#undef HOST_CUDA_HINTS

// --- bits

static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline int __ffs(int x) { return __builtin_ffs(x); }
static inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz(static_cast<unsigned>(x)); }

#define HOST_CUDA_BITS(From, To, name)             \
  static inline To name(From value) {              \
    To bits;                                       \
    static_assert(sizeof(To) == sizeof(From), ""); \
    memcpy(&bits, &value, sizeof bits);            \
    return bits;                                   \
  }
HOST_CUDA_BITS(float, int, __float_as_int)
HOST_CUDA_BITS(float, unsigned, __float_as_uint)
HOST_CUDA_BITS(int, float, __int_as_float)
HOST_CUDA_BITS(unsigned, float, __uint_as_float)
HOST_CUDA_BITS(double, long long, __double_as_longlong)
HOST_CUDA_BITS(long long, double, __longlong_as_double)
#undef HOST_CUDA_BITS

// --- mathematics

#define HOST_CUDA_MIN_MAX(T)                              \
  static inline T min(T a, T b) { return b < a ? b : a; } \
  static inline T max(T a, T b) { return a < b ? b : a; }
HOST_CUDA_MIN_MAX(int)
HOST_CUDA_MIN_MAX(unsigned)
HOST_CUDA_MIN_MAX(long)
HOST_CUDA_MIN_MAX(unsigned long)
HOST_CUDA_MIN_MAX(long long)
HOST_CUDA_MIN_MAX(unsigned long long)
#undef HOST_CUDA_MIN_MAX
static inline float min(float a, float b) { return fminf(a, b); }  // the other one of a NaN
static inline float max(float a, float b) { return fmaxf(a, b); }
static inline double min(double a, double b) { return fmin(a, b); }
static inline double max(double a, double b) { return fmax(a, b); }

// The intrinsics' errors come from their first step, which is taken the same way here. Macros:
// glibc has functions of the first two names.
namespace host_cuda {
inline float fast_exp(float x) { return exp2f(x * 1.442695041f); }
inline float fast_log(float x) { return log2f(x) * 0.693147181f; }
}  // namespace host_cuda
#define __expf(x) ::host_cuda::fast_exp(x)
#define __logf(x) ::host_cuda::fast_log(x)
#define __log2f(x) ::log2f(x)
static inline float __fdividef(float x, float y) {
  return fabsf(y) > 0x1p126f && fabsf(y) <= 0x1.fffffep127f ? x * 0.0f : x / y;
}
static inline float __frcp_rn(float x) { return 1.0f / x; }
static inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
static inline float __fadd_rn(float a, float b) { return a + b; }
static inline float __fmul_rn(float a, float b) { return a * b; }
static inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
static inline double rsqrt(double x) { return 1.0 / sqrt(x); }
