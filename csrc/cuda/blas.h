// Matrix products by the cuBLAS that torch has loaded, on torch's handle.
//
// torch sets stream, workspace (from its caching allocator, so that CUDA graphs can capture) and
// TF32 setting each time the handle is asked for. The functions are looked up in what
// libtorch_cuda.so has loaded: linking would bind this library to one major version of cuBLAS.
#pragma once

#include <dlfcn.h>
#include <library_types.h>

#include <cstdint>

#include "../arguments.h"

namespace softnce::cuda {

// Row-major [rows, columns] with `stride` elements from row to row; with `transposed`, the memory
// is that of the transpose, [columns, rows].
struct Matrix {
  void* data;
  ScalarType type;
  int64_t rows;
  int64_t columns;
  int64_t stride;
  bool transposed = false;
};

inline Matrix transpose(const Matrix& m) {
  return {m.data, m.type, m.columns, m.rows, m.stride, !m.transposed};
}

class Blas {
 public:
  // The current device and stream are those the products will run on.
  Blas() : api_(api()) {
    TORCH_ERROR_CODE_CHECK(torch_get_current_cuda_blas_handle(&handle_));
    check(api_.get_math_mode(handle_, &math_mode_), "cublasGetMathMode");
    // Partial sums of a product stay in fp32 also where its result is fp16 or bf16.
    check(api_.set_math_mode(handle_, math_mode_ | kNoReducedPrecisionReduction),
          "cublasSetMathMode");
  }
  ~Blas() { api_.set_math_mode(handle_, math_mode_); }
  Blas(const Blas&) = delete;
  Blas& operator=(const Blas&) = delete;

  // out = alpha * a @ b + beta * out, accumulated in fp32 (fp64 for fp64). beta = 0 never reads
  // out. `tf32` takes fp32 operands for TF32 ones; without it torch's own setting decides.
  void gemm(const Matrix& out, const Matrix& a, const Matrix& b, double alpha, double beta,
            bool tf32 = false) const {
    if (out.rows == 0 || out.columns == 0) return;
    const bool is_double = out.type == ScalarType::Double;
    const float alpha_float = static_cast<float>(alpha), beta_float = static_cast<float>(beta);
    const void* alpha_pointer = &alpha_float;
    const void* beta_pointer = &beta_float;
    if (is_double) {
      alpha_pointer = &alpha;
      beta_pointer = &beta;
    }
    // cuBLAS is column-major: it sees every matrix transposed, so out^T = b^T a^T is what it does.
    check(api_.gemm_ex(handle_, b.transposed, a.transposed, blas_int(out.columns),
                       blas_int(out.rows), blas_int(a.columns), alpha_pointer, b.data,
                       data_type(b.type), stride(b), a.data, data_type(a.type), stride(a),
                       beta_pointer, out.data, data_type(out.type), stride(out),
                       is_double ? kCompute64F
                       : tf32    ? kCompute32FFastTF32
                                 : kCompute32F,
                       kGemmDefault),
          "cublasGemmEx");
  }

 private:
  // Prototypes and constants of cublas_api.h, the same in cuBLAS 11, 12 and 13.
  using Handle = void*;
  struct Api {
    int (*gemm_ex)(Handle handle, int transpose_a, int transpose_b, int m, int n, int k,
                   const void* alpha, const void* a, cudaDataType_t a_type, int lda, const void* b,
                   cudaDataType_t b_type, int ldb, const void* beta, void* c, cudaDataType_t c_type,
                   int ldc, int compute_type, int algorithm);
    int (*get_math_mode)(Handle handle, int* mode);
    int (*set_math_mode)(Handle handle, int mode);
  };
  static constexpr int kCompute32F = 68;
  static constexpr int kCompute64F = 70;
  static constexpr int kCompute32FFastTF32 = 77;
  static constexpr int kGemmDefault = -1;
  static constexpr int kNoReducedPrecisionReduction = 16;

  static const Api& api() {
    static const Api loaded = [] {
      void* torch_cuda = dlopen("libtorch_cuda.so", RTLD_NOLOAD | RTLD_LAZY);
      STD_TORCH_CHECK(torch_cuda != nullptr, "libtorch_cuda.so is not loaded: import torch first");
      Api result;
      find(torch_cuda, "cublasGemmEx", result.gemm_ex);
      find(torch_cuda, "cublasGetMathMode", result.get_math_mode);
      find(torch_cuda, "cublasSetMathMode", result.set_math_mode);
      return result;
    }();
    return loaded;
  }

  template <typename Function>
  static void find(void* library, const char* name, Function& function) {
    function = reinterpret_cast<Function>(dlsym(library, name));
    STD_TORCH_CHECK(function != nullptr, name, " is not in the cuBLAS that torch has loaded");
  }

  static cudaDataType_t data_type(ScalarType type) {
    switch (type) {
      case ScalarType::Half:
        return CUDA_R_16F;
      case ScalarType::BFloat16:
        return CUDA_R_16BF;
      case ScalarType::Double:
        return CUDA_R_64F;
      default:
        return CUDA_R_32F;
    }
  }

  static int stride(const Matrix& m) {
    return m.stride > 0 ? blas_int(m.stride) : 1;  // cuBLAS refuses 0, also for an empty matrix
  }

  static void check(int status, const char* name) {
    STD_TORCH_CHECK(status == 0, name, " failed with status ", status);
  }

  const Api& api_;
  Handle handle_ = nullptr;
  int math_mode_ = 0;
};

}  // namespace softnce::cuda
