// __half on the host: storage and conversions by their CUDA names. No arithmetic and no implicit
// conversions: host arithmetic would not round where a GPU's does.
#pragma once

#include "cuda_runtime.h"

struct alignas(2) __half {
  unsigned short bits;
};
struct alignas(4) __half2 {
  __half x, y;
};

// Round to nearest even; NaN is 0x7fff, as cvt.rn.f16.f32 writes it.
static inline __half __float2half_rn(float value) {
  const unsigned word = __float_as_uint(value), magnitude = word & 0x7fffffffu;
  const unsigned sign = (word >> 16) & 0x8000u;
  unsigned bits;
  if (magnitude > 0x7f800000u) return {0x7fff};
  if (magnitude >= 0x477ff000u) {  // 65520 and more
    bits = 0x7c00u;
  } else if (magnitude >= 0x38800000u) {  // 2^-14: normal; the exponent's bias falls by 112
    bits = (magnitude + 0xfffu + ((magnitude >> 13) & 1) - 0x38000000u) >> 13;
  } else {
    // Adding 0.5 leaves the subnormal's units of 2^-24 in the sum's last bits, rounded to even.
    bits = __float_as_uint(__uint_as_float(magnitude) + 0.5f) - 0x3f000000u;
  }
  return {static_cast<unsigned short>(sign | bits)};
}
static inline __half __float2half(float value) { return __float2half_rn(value); }

static inline float __half2float(__half value) {
  const unsigned sign = (value.bits & 0x8000u) << 16, magnitude = value.bits & 0x7fffu;
  if (magnitude >= 0x7c00u)  // infinite or NaN
    return __uint_as_float(sign | 0x7f800000u | (magnitude & 0x3ffu) << 13);
  if (magnitude >= 0x400u) return __uint_as_float(sign | ((magnitude << 13) + 0x38000000u));
  const float small = static_cast<float>(magnitude) * 0x1p-24f;
  return sign != 0 ? -small : small;
}

static inline __half __ushort_as_half(unsigned short bits) { return {bits}; }
static inline unsigned short __half_as_ushort(__half value) { return value.bits; }
static inline __half2 __halves2half2(__half x, __half y) { return {x, y}; }
static inline __half2 __floats2half2_rn(float x, float y) {
  return {__float2half_rn(x), __float2half_rn(y)};
}
static inline __half2 __float22half2_rn(float2 value) {
  return __floats2half2_rn(value.x, value.y);
}
static inline float2 __half22float2(__half2 value) {
  return {__half2float(value.x), __half2float(value.y)};
}
static inline float __low2float(__half2 value) { return __half2float(value.x); }
static inline float __high2float(__half2 value) { return __half2float(value.y); }

using half = __half;
using half2 = __half2;
