// Matrix products on the CPU: torch's own, and MKL's bf16 x bf16 -> fp32 where the processor has
// instructions for it. torch's product of two bf16 matrices would round scores of 20 by 0.04.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "../arguments.h"

// torch's C shim of addmm, outside the headers of the stable ABI but part of what compiled models
// link against: out = beta * self + alpha * mat1 @ mat2, below autograd and autocast.
extern "C" AOTITorchError aoti_torch_cpu_addmm_out(AtenTensorHandle out, AtenTensorHandle self,
                                                   AtenTensorHandle mat1, AtenTensorHandle mat2,
                                                   double beta, double alpha);

// Of the MKL inside torch's x86 builds; null where there is none. Its enumerations are CBLAS's.
extern "C" __attribute__((weak)) void cblas_gemm_bf16bf16f32(int layout, int transpose_a,
                                                             int transpose_b, int m, int n, int k,
                                                             float alpha, const uint16_t* a,
                                                             int lda, const uint16_t* b, int ldb,
                                                             float beta, float* c, int ldc);

namespace softnce::cpu {

// Whether bf16 operands are multiplied as they are. SOFTNCE_CPU_BF16=1 or 0 decides otherwise, for
// tests: without the instructions MKL's product is right, and no faster than the fp32 one. Nor is
// it on an AMD EPYC that has them (N = M = 4096, two cores: 1.07 times as long).
inline bool multiplies_bf16() {
  static const bool chosen = [] {
    if (cblas_gemm_bf16bf16f32 == nullptr) return false;
    if (const char* wish = std::getenv("SOFTNCE_CPU_BF16")) return std::strcmp(wish, "1") == 0;
#ifdef SOFTNCE_X86
    return __builtin_cpu_is("intel") && __builtin_cpu_supports("avx512bf16");
#else
    return false;
#endif
  }();
  return chosen;
}

// A bf16 matrix as CBLAS takes it: by rows, or the transpose of one by rows.
struct Bf16Matrix {
  const uint16_t* data;
  int transpose;
  int stride;

  explicit Bf16Matrix(const Tensor& t)
      : data(static_cast<const uint16_t*>(t.const_data_ptr())),
        transpose(t.stride(1) == 1 ? 111 : 112),
        stride(t.stride(1) == 1 ? stride_of(t, 0) : stride_of(t, 1)) {}

  // From row to row along `dim`. One row may have any, but CBLAS wants its length at least.
  static int stride_of(const Tensor& t, int64_t dim) {
    const int64_t length = std::max<int64_t>(t.size(1 - dim), 1);
    return blas_int(t.size(dim) > 1 ? std::max(t.stride(dim), length) : length);
  }
};

// out = alpha * a @ b + beta * out; beta = 0 never reads out. fp32 `out` where a and b are bf16.
inline void gemm(const Tensor& out, const Tensor& a, const Tensor& b, double alpha, double beta) {
  if (a.scalar_type() == ScalarType::BFloat16) {
    const Bf16Matrix left(a), right(b);
    constexpr int kRowMajor = 101;
    cblas_gemm_bf16bf16f32(kRowMajor, left.transpose, right.transpose, blas_int(a.size(0)),
                           blas_int(b.size(1)), blas_int(a.size(1)), static_cast<float>(alpha),
                           left.data, left.stride, right.data, right.stride,
                           static_cast<float>(beta), out.mutable_data_ptr<float>(),
                           blas_int(out.stride(0)));
    return;
  }
  STD_TORCH_CHECK(aoti_torch_cpu_addmm_out(out.get(), out.get(), a.get(), b.get(), beta, alpha) ==
                      AOTI_TORCH_SUCCESS,
                  "the matrix product of ", a.size(0), " x ", a.size(1), " by ", b.size(0), " x ",
                  b.size(1), " failed");
}

inline float from_bf16(uint16_t value) {
  const uint32_t bits = uint32_t(value) << 16;
  float wide;
  std::memcpy(&wide, &bits, sizeof wide);
  return wide;
}

// Nearest bf16, ties to even; a NaN stays one.
inline void to_bf16(const float* from, uint16_t* to, int64_t count) {
  for (int64_t j = 0; j < count; ++j) {
    uint32_t bits;
    std::memcpy(&bits, from + j, sizeof bits);
    const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    to[j] = static_cast<uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : rounded);
  }
}

}  // namespace softnce::cpu
