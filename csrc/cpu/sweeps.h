// Sweeps over a row: each a plain loop the compiler vectorises. Included by row_kernel.cpp alone,
// so compiled once per instruction set; nothing here may have external linkage.
//
// Sums run in T over chunks of kChunk columns and in double across chunks, so their error does not
// grow with M. The order of every sum is fixed by the code, not by the threads: results are bitwise
// repeatable.
#pragma once

#include <cmath>
#include <limits>

#include "row_kernel.h"

namespace softnce::cpu {
namespace SOFTNCE_ISA {
namespace {

constexpr int64_t kChunk = 4096;

template <typename T>
constexpr T kInfinity = std::numeric_limits<T>::infinity();
template <typename T>
constexpr T kNan = std::numeric_limits<T>::quiet_NaN();

// exp(x) for x <= 0, relative error below 2e-7; exactly 0 below -87.68, which is 2^-126.5: of the
// subnormals, which begin at -87.34 or 2^-126, only the largest come out.
// Cephes' reduction x = n log 2 + r and degree-5 polynomial, after S. Moshier, "Methods and
// Programs for Mathematical Functions" (1989); branch-free, so that a loop over it vectorises.
SOFTNCE_INLINE float exp_nonpositive(float x) {
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds to the nearest integer
  // Below, n is -127 and 2^n comes out as 0. A select of values, for which there is an instruction;
  // one that chose whether to compute would become a branch and end the vectorising. A NaN stays.
  x = x < -88.0f ? -88.0f : x;
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
  return poly * power;
}
SOFTNCE_INLINE double exp_nonpositive(double x) { return std::exp(x); }

// log(1 + x) for -1/2 <= x <= 1, relative error below 2e-7. 1 + x = 2^k (1 + f) exactly, and
// Cephes' polynomial (as above) for log(1 + f), sqrt(1/2) <= 1 + f <= sqrt(2).
SOFTNCE_INLINE float log1p_near(float x) {
  const bool half = x < -0.29289322f, twice = x > 0.41421356f;
  const float f = half ? 2.0f * x + 1.0f : twice ? 0.5f * x - 0.5f : x;
  const float k = half ? -1.0f : twice ? 1.0f : 0.0f;
  float poly = 7.0376836292e-2f;
  poly = poly * f - 1.1514610310e-1f;
  poly = poly * f + 1.1676998740e-1f;
  poly = poly * f - 1.2420140846e-1f;
  poly = poly * f + 1.4249322787e-1f;
  poly = poly * f - 1.6668057665e-1f;
  poly = poly * f + 2.0000714765e-1f;
  poly = poly * f - 2.4999993993e-1f;
  poly = poly * f + 3.3333331174e-1f;
  return k * 0.69314718056f + (f + f * f * (f * poly - 0.5f));
}
SOFTNCE_INLINE double log1p_near(double x) { return std::log1p(x); }

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

// The same for f(j) a struct of two T.
template <typename Pair, typename T, typename F>
SOFTNCE_INLINE Pair sum_pairs(int64_t columns, F f) {
  double total_a = 0, total_b = 0;
  for (int64_t begin = 0; begin < columns; begin += kChunk) {
    const int64_t end = begin + kChunk < columns ? begin + kChunk : columns;
    T partial_a = 0, partial_b = 0;
#pragma omp simd reduction(+ : partial_a, partial_b)
    for (int64_t j = begin; j < end; ++j) {
      const auto [a, b] = f(j);
      partial_a += a;
      partial_b += b;
    }
    total_a += partial_a;
    total_b += partial_b;
  }
  return {static_cast<T>(total_a), static_cast<T>(total_b)};
}

template <typename T, typename F>
SOFTNCE_INLINE T max_columns(int64_t columns, F f) {
  T largest = -kInfinity<T>;
#pragma omp simd reduction(max : largest)
  for (int64_t j = 0; j < columns; ++j) {
    const T value = f(j);
    largest = value > largest ? value : largest;
  }
  return largest;
}

// How many columns f(j) holds for.
template <typename F>
SOFTNCE_INLINE int64_t count_columns(int64_t columns, F f) {
  int64_t total = 0;
  for (int64_t begin = 0; begin < columns; begin += kChunk) {
    const int64_t end = begin + kChunk < columns ? begin + kChunk : columns;
    int32_t partial = 0;
#pragma omp simd reduction(+ : partial)
    for (int64_t j = begin; j < end; ++j) partial += f(j) ? 1 : 0;
    total += partial;
  }
  return total;
}

// Which columns of a row are masked (of the query's own group) and which have a similarity. Two
// constants instead of two null checks, so that a loop over an ordinary row has neither.
template <typename T, bool kGrouped, bool kPartial>
struct View {
  const int64_t* groups;
  const uint8_t* known_columns;
  int64_t group;
  int64_t columns;
  int64_t positive;

  bool masked(int64_t j) const { return kGrouped && groups[j] == group; }
  bool known(int64_t j) const { return !kPartial || known_columns[j] != 0; }
  // No &&: of a reduction under a branch gcc 11 and 12 make, for AVX-512, masked loads that run off
  // the stack (test_no_reduction_is_read_beyond_its_place).
  bool shares(int64_t j) const { return (int(!masked(j)) & int(known(j))) != 0; }
  // Those that have a similarity.
  int64_t negatives() const {
    if (!kGrouped && !kPartial) return columns - 1;
    return count_columns(columns, [&](int64_t j) { return shares(j); }) - shares(positive);
  }
};

template <typename T, typename F>
SOFTNCE_INLINE auto with_view(const Row<T>& row, F f) {
  const auto view = [&](auto grouped, auto partial) {
    return f(View<T, grouped.value, partial.value>{row.code_groups, row.known, row.group,
                                                   row.columns, row.positive});
  };
  using Yes = std::true_type;
  using No = std::false_type;
  if (row.known != nullptr)
    return row.code_groups != nullptr ? view(Yes{}, Yes{}) : view(No{}, Yes{});
  return row.code_groups != nullptr ? view(Yes{}, No{}) : view(No{}, No{});
}

// The row's similarities into row.weights: -inf for the positive, masked columns and those without
// a similarity; their own z, which may be anything, is never looked at. Returns the lowest z, +inf
// where there is none; NaN is passed over.
template <typename T, typename V>
SOFTNCE_INLINE T copy_similarity(const Row<T>& row, V view) {
  const T* z = row.similarity;
  T* w = row.weights;
  T lowest = kInfinity<T>;
  const auto copy = [&](int64_t begin, int64_t end) {
#pragma omp simd reduction(min : lowest)
    for (int64_t j = begin; j < end; ++j) {
      const bool shares = view.shares(j);
      const T value = z[j];
      const T bound = shares ? value : kInfinity<T>;
      lowest = bound < lowest ? bound : lowest;
      w[j] = shares ? value : -kInfinity<T>;
    }
  };
  copy(0, row.positive);
  copy(row.positive + 1, row.columns);
  w[row.positive] = -kInfinity<T>;
  return lowest;
}

}  // namespace
}  // namespace SOFTNCE_ISA
}  // namespace softnce::cpu
