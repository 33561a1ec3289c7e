// The row kernel of the CPU: one row of a block, in place. Compiled once per instruction set from
// row_kernel.cpp; `row_kernels()` picks the best one this processor runs.
#pragma once

#include <cstdint>

#include "../row_math.h"

namespace softnce::cpu {

template <typename T>
struct Row {
  T* scores;                   // [M] in: s; out: d loss / d s, times `gradient_weight`, when asked
  const T* similarity;         // [M] z, or null: every weight is 1
  T* weights;                  // [M] scratch, may be `similarity` itself; null without z and groups
  const int64_t* code_groups;  // [M] or null
  const uint8_t* known;        // [M] or null: 0 where a column has no similarity, so weight 1
  int64_t group;               // the query's group
  int64_t columns;             // M
  int64_t positive;            // column of the positive
  T eps;
  T gradient_weight;
  bool need_gradient;
};

// Each returns the row's loss: NaN where a score is NaN, in a masked column too, or a negative's
// similarity NaN or infinite.
struct RowKernels {
  float (*f32)(const Row<float>&, const Rule&);
  double (*f64)(const Row<double>&, const Rule&);
};

// Those the build made (CMakeLists.txt); only the first runs on any machine.
namespace baseline {
extern const RowKernels kKernels;
// fp64 is for checks, not for training: this one serves every instruction set, since each row
// kernel costs the first call seconds of compiling.
double run_row_f64(const Row<double>& row, const Rule& rule);
}  // namespace baseline
#ifdef SOFTNCE_X86
namespace avx2 {
extern const RowKernels kKernels;
}
namespace avx512 {
extern const RowKernels kKernels;
}
#endif

const RowKernels& row_kernels();

}  // namespace softnce::cpu
