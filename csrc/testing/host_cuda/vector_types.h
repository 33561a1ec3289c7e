// CUDA's vector types with CUDA's alignments: a 16-byte load through a float4* at an address that
// is no multiple of 16 crashes on a GPU, and is found here by -fsanitize=alignment (faults.cpp).
#pragma once

#include <cstdint>

struct uint3 {
  unsigned x, y, z;
};
struct int3 {
  int x, y, z;
};
struct float3 {
  float x, y, z;
};

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

#define HOST_CUDA_VECTORS(type, name, align2, align4)                     \
  struct alignas(align2) name##2 { type x, y; };                          \
  struct alignas(align4) name##4 { type x, y, z, w; };                    \
  static inline name##2 make_##name##2(type x, type y) { return {x, y}; } \
  static inline name##4 make_##name##4(type x, type y, type z, type w) { return {x, y, z, w}; }

HOST_CUDA_VECTORS(signed char, char, 2, 4)
HOST_CUDA_VECTORS(unsigned char, uchar, 2, 4)
HOST_CUDA_VECTORS(short, short, 4, 8)
HOST_CUDA_VECTORS(unsigned short, ushort, 4, 8)
HOST_CUDA_VECTORS(int, int, 8, 16)
HOST_CUDA_VECTORS(unsigned, uint, 8, 16)
HOST_CUDA_VECTORS(float, float, 8, 16)
HOST_CUDA_VECTORS(long long, longlong, 16, 16)
HOST_CUDA_VECTORS(unsigned long long, ulonglong, 16, 16)
HOST_CUDA_VECTORS(double, double, 16, 16)
#undef HOST_CUDA_VECTORS
