// What the kernels need of a device below the level of rows: vectors of 16 bytes, storage types,
// exponentials, shuffles.
//
// Free of torch, and of anything that only nvcc can read: csrc/testing/host_cuda runs these kernels
// on the host. What is not plain CUDA C++ stands behind `__CUDA_ARCH__`, beside a plain twin.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <limits>
#include <type_traits>

#include "row_block.h"

// All shared memory of a block, 16-byte aligned; the launch says how much. The host's CUDA brings
// its own, one buffer for each live block.
#ifdef __CUDACC__
#define SOFTNCE_SHARED_MEMORY(name) extern __shared__ __align__(16) unsigned char name[]
#endif

namespace softnce::cuda {

constexpr uint32_t kAllLanes = 0xffffffffu;

template <typename T>
constexpr T kInfinity = std::numeric_limits<T>::infinity();
template <typename T>
constexpr T kNan = std::numeric_limits<T>::quiet_NaN();

// n neighbours in memory, read and written at once; n * sizeof(V) is a power of two.
template <typename V, int n>
struct alignas(n * sizeof(V) < 16 ? n * sizeof(V) : 16) Pack {
  V at[n];
};

// Columns of a 16-byte vector of T: what a thread owns at a time.
template <typename T>
constexpr int kLanes = 16 / sizeof(T);
template <typename T>
using Vector = Pack<T, kLanes<T>>;

template <typename T, typename V>
__device__ __forceinline__ T from_storage(V value) {
  if constexpr (std::is_same_v<V, __half>)
    return static_cast<T>(__half2float(value));
  else if constexpr (std::is_same_v<V, __nv_bfloat16>)
    return static_cast<T>(__bfloat162float(value));
  else
    return static_cast<T>(value);
}

// Nearest value of 11 significant bits, the tensor cores' TF32: they would truncate.
__device__ __forceinline__ float nearest_tf32(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  if ((bits & 0x7f800000u) == 0x7f800000u) return value;  // infinite or NaN
  bits = (bits + 0x1000u) & ~0x1fffu;
  memcpy(&value, &bits, sizeof bits);
  return value;
}

template <typename V, typename T>
__device__ __forceinline__ V to_storage(T value) {
  if constexpr (std::is_same_v<V, __half>)
    return __float2half_rn(value);
  else if constexpr (std::is_same_v<V, __nv_bfloat16>)
    return __float2bfloat16_rn(value);
  else
    return static_cast<V>(value);
}

// Never NaN when `a` is not.
template <typename T>
__device__ __forceinline__ T larger(T a, T b) {
  return b > a ? b : a;
}

// Of x * kExponent: e^x, with a relative error of 2^-22, and 0 below 2^-126. Subtract before
// multiplying: (s - max) * kExponent keeps the difference of two large scores exact.
__device__ __forceinline__ float exponential(float x) {
#ifdef __CUDA_ARCH__
  float power;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(x));
  return power;
#else
  return exp2f(x);
#endif
}
__device__ __forceinline__ double exponential(double x) { return exp(x); }

// log of a weight: absolute error 2^-22 near 1, below the rounding of the score it is added to.
// Exactly 0 for 1, which adds nothing.
__device__ __forceinline__ float log_weight(float weight) {
#ifdef __CUDA_ARCH__
  return weight == 1.0f ? 0.0f : __logf(weight);
#else
  return logf(weight);
#endif
}
__device__ __forceinline__ double log_weight(double weight) { return log(weight); }

// Of any type made of 4-byte words.
template <typename V>
__device__ __forceinline__ V shuffle(V value, int source) {
  static_assert(sizeof(V) % 4 == 0, "whole words");
  uint32_t words[sizeof(V) / 4];
  memcpy(words, &value, sizeof value);
#pragma unroll
  for (uint32_t& word : words) word = __shfl_sync(kAllLanes, word, source);
  memcpy(&value, words, sizeof value);
  return value;
}

template <typename V>
__device__ __forceinline__ V shuffle_xor(V value, int lanes) {
  static_assert(sizeof(V) % 4 == 0, "whole words");
  uint32_t words[sizeof(V) / 4];
  memcpy(words, &value, sizeof value);
#pragma unroll
  for (uint32_t& word : words) word = __shfl_xor_sync(kAllLanes, word, lanes);
  memcpy(&value, words, sizeof value);
  return value;
}

}  // namespace softnce::cuda
