// One row: similarities -> weights -> masked weighted log-sum-exp -> loss -> gradient, in place.
//
// Six short sweeps over a row that stays in the first two cache levels; each is a plain loop the
// compiler vectorises. Never materialised beyond the row: S, w, exp(s). Sums run in T over chunks
// of kChunk columns and in double across chunks, so their error does not grow with M. The order of
// every sum is fixed by the code, not by the threads: results are bitwise repeatable.
//
// Compiled once per instruction set (SOFTNCE_ISA names the namespace); nothing here may have
// external linkage but the two entries at the foot.
#include "row_kernel.h"

#include <limits>

namespace softnce::cpu {
namespace SOFTNCE_ISA {
namespace {

constexpr int64_t kChunk = 4096;

// exp(x) for x <= 0, relative error below 2e-7; exactly 0 below -87.3, where float turns subnormal.
// Cephes' reduction x = n log 2 + r and degree-5 polynomial, after S. Moshier, "Methods and
// Programs for Mathematical Functions" (1989); branch-free, so that a loop over it vectorises.
SOFTNCE_INLINE float exp_nonpositive(float x) {
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds to the nearest integer
  const float shifted = x * 1.44269504088896341f + kRound;
  const float n = shifted - kRound;
  const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  float poly = 1.9875691500e-4f;
  poly = poly * r + 1.3981999507e-3f;
  poly = poly * r + 8.3334519073e-3f;
  poly = poly * r + 4.1665795894e-2f;
  poly = poly * r + 1.6666665459e-1f;
  poly = poly * r + 5.0000001201e-1f;
  poly = poly * r * r + r + 1.0f;
  uint32_t bits;
  std::memcpy(&bits, &shifted, sizeof bits);
  bits = (bits << 23) + 0x3F800000u;  // 2^n: the low bits of `shifted` are n
  float power;
  std::memcpy(&power, &bits, sizeof power);
  return x < -87.3f ? 0.0f : poly * power;  // a NaN fails the comparison and stays NaN
}
SOFTNCE_INLINE double exp_nonpositive(double x) { return std::exp(x); }

// Sum of f(j) over the columns; f may store as it goes.
template <typename T, typename F>
SOFTNCE_INLINE T sum_columns(int64_t columns, F f) {
  double total = 0;
  for (int64_t begin = 0; begin < columns; begin += kChunk) {
    const int64_t end = begin + kChunk < columns ? begin + kChunk : columns;
    T partial = 0;
#pragma omp simd reduction(+ : partial)
    for (int64_t j = begin; j < end; ++j) partial += f(j);
    total += partial;
  }
  return static_cast<T>(total);
}

template <typename T, typename F>
SOFTNCE_INLINE T max_columns(int64_t columns, F f) {
  T largest = -std::numeric_limits<T>::infinity();
#pragma omp simd reduction(max : largest)
  for (int64_t j = 0; j < columns; ++j) {
    const T value = f(j);
    largest = value > largest ? value : largest;
  }
  return largest;
}

template <typename T>
SOFTNCE_INLINE int64_t count_negatives(const Row<T>& row) {
  if (row.code_groups == nullptr) return row.columns - 1;
  int64_t same = 0;
#pragma omp simd reduction(+ : same)
  for (int64_t j = 0; j < row.columns; ++j) same += row.code_groups[j] == row.group;
  same -= row.code_groups[row.positive] == row.group;
  return row.columns - 1 - same;
}

// Weights of the row's negatives into row.weights; 0 for the positive and for masked columns.
// False when a negative's similarity is infinite (a NaN reaches the loss by itself).
template <typename T>
SOFTNCE_INLINE bool fill_weights(const Row<T>& row, const Rule& rule) {
  constexpr T kInfinity = std::numeric_limits<T>::infinity();
  const int64_t columns = row.columns;
  const T* z = row.similarity;
  T* w = row.weights;
  const int64_t* groups = row.code_groups;
  const int64_t group = row.group;

  if (z == nullptr) {
#pragma omp simd
    for (int64_t j = 0; j < columns; ++j) w[j] = groups[j] == group ? T(0) : T(1);
    w[row.positive] = 0;
    return true;
  }

  // Columns that are no negatives take z = -inf, whose share is exactly 0. Their own z, which may
  // be anything, is never looked at.
  T lowest = kInfinity;
  const auto copy = [&](int64_t begin, int64_t end) {
    if (groups == nullptr) {
#pragma omp simd reduction(min : lowest)
      for (int64_t j = begin; j < end; ++j) {
        const T value = z[j];
        lowest = value < lowest ? value : lowest;
        w[j] = value;
      }
    } else {
#pragma omp simd reduction(min : lowest)
      for (int64_t j = begin; j < end; ++j) {
        const bool masked = groups[j] == group;
        const T value = z[j];
        const T bound = masked ? kInfinity : value;
        lowest = bound < lowest ? bound : lowest;
        w[j] = masked ? -kInfinity : value;
      }
    }
  };
  copy(0, row.positive);
  copy(row.positive + 1, columns);
  w[row.positive] = -kInfinity;

  const T inverse = inverse_temperature<T>(rule);
  const T largest = max_columns<T>(columns, [&](int64_t j) { return w[j]; });
  const T sum = sum_columns<T>(
      columns, [&](int64_t j) { return w[j] = exp_nonpositive((w[j] - largest) * inverse); });

  WeightLine<T> line = weight_line<T>(rule, count_negatives(row));
  line.slope /= sum;
  if (groups == nullptr) {
#pragma omp simd
    for (int64_t j = 0; j < columns; ++j) w[j] = weight(line, w[j]);
  } else {
#pragma omp simd
    for (int64_t j = 0; j < columns; ++j) w[j] = groups[j] == group ? T(0) : weight(line, w[j]);
  }
  w[row.positive] = 0;
  return lowest != -kInfinity;
}

template <typename T>
SOFTNCE_INLINE T run_row(const Row<T>& row, const Rule& rule) {
  constexpr T kNan = std::numeric_limits<T>::quiet_NaN();
  constexpr T kInfinity = std::numeric_limits<T>::infinity();
  T* s = row.scores;
  const T* w = row.weights;
  const int64_t columns = row.columns;
  const T positive_score = s[row.positive];

  // A row without negatives: nothing to learn, whatever its similarities hold.
  if (count_negatives(row) == 0) {
    const T gap = positive_score - positive_score;  // NaN for a NaN or infinite score, else 0
    if (row.need_gradient)
      for (int64_t j = 0; j < columns; ++j) s[j] = gap;
    return finish_row<T>(T(0), T(1), gap, row.eps).loss;
  }

  bool valid = true;
  T largest, negatives;
  if (w == nullptr) {
    largest = max_columns<T>(columns, [&](int64_t j) { return s[j]; });
    s[row.positive] = -kInfinity;
    negatives =
        sum_columns<T>(columns, [&](int64_t j) { return s[j] = exp_nonpositive(s[j] - largest); });
  } else {
    valid = fill_weights(row, rule);
    // A column of weight 0 must not set the maximum: all others could underflow beside it.
    largest = max_columns<T>(columns, [&](int64_t j) { return w[j] == T(0) ? -kInfinity : s[j]; });
    largest = positive_score > largest ? positive_score : largest;
    negatives = sum_columns<T>(columns, [&](int64_t j) {
      return s[j] = w[j] == T(0) ? T(0) : w[j] * exp_nonpositive(s[j] - largest);
    });
  }
  const T gap = largest - positive_score;
  const RowResult<T> result = finish_row<T>(gap, exp_nonpositive(-gap), negatives, row.eps);

  if (row.need_gradient) {
    const T factor = valid ? row.gradient_weight * result.gradient_scale : kNan;
#pragma omp simd
    for (int64_t j = 0; j < columns; ++j) s[j] *= factor;
    s[row.positive] = -negatives * factor;
  }
  return valid ? result.loss : kNan;
}

float run_row_f32(const Row<float>& row, const Rule& rule) { return run_row(row, rule); }
double run_row_f64(const Row<double>& row, const Rule& rule) { return run_row(row, rule); }

}  // namespace

extern const RowKernels kKernels;
const RowKernels kKernels{run_row_f32, run_row_f64};

}  // namespace SOFTNCE_ISA
}  // namespace softnce::cpu
