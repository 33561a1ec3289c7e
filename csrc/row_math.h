// The mathematics of one row, on host and device: the one truth of every kernel.
//
// A row is one query against all codes, p its positive; the paper's Eq. 4, 3 and 5. With raw
// similarities z and scores s, over the negatives j:
//   S_j = softmax(z / temperature)_j
//   w_j = max(min_weight, (beta - alpha S_j) / (beta - alpha / negatives))
//   loss = -s_p + log(exp(s_p) + sum_j w_j exp(s_j))
//   d loss / d s_j = w_j exp(s_j) / (exp(s_p) + sum_k w_k exp(s_k)) - [j = p]
//
// NaN travels: every comparison below is written so that a NaN operand comes out as NaN. std::max
// and std::min are avoided for that reason.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#ifdef __CUDACC__
#define SOFTNCE_INLINE __host__ __device__ __forceinline__
#else
// Internal linkage: row_kernel.cpp is compiled once per instruction set, and the linker must not
// pick one copy for all of them.
#define SOFTNCE_INLINE static inline __attribute__((always_inline))
#endif

namespace softnce {

// What a row's scores and similarities are made into; the ops' argument `objective`. The first
// three are cross-entropy over the positive and weighted negatives.
enum class Objective : int64_t {
  kSoftInfoNCE = 0,      // Eq. 3 and 4; plain InfoNCE without similarities
  kTopK = 1,             // weight 0 for the `cutoff` most similar negatives, else 1
  kThreshold = 2,        // weight 0 for z_j >= cutoff * z_p, else 1
  kBCE = 3,              // binary cross-entropy of each column, targets 1 and S
  kWeightedInfoNCE = 4,  // cross-entropy with the soft targets 1 and S
  kKL = 5,               // beta * InfoNCE + alpha * KL(S || softmax over the negatives)
};

// How similarities become weights or targets; the ops' arguments of the same names. Which of them
// an objective reads: kSoftInfoNCE alpha, beta, temperature, min_weight; kTopK and kThreshold
// cutoff; kBCE and kWeightedInfoNCE temperature; kKL alpha, beta, temperature.
struct Rule {
  Objective objective;
  double alpha;
  double beta;
  double temperature;
  double min_weight;
  double cutoff;
};

// 1 / temperature, kept where T neither overflows nor loses it: 0 * inf would be NaN. Host only.
template <typename T>
static inline T inverse_temperature(const Rule& rule) {
  constexpr double kLeast = std::numeric_limits<T>::min(), kMost = std::numeric_limits<T>::max();
  const double inverse = 1 / rule.temperature;
  return static_cast<T>(inverse < kLeast ? kLeast : inverse > kMost ? kMost : inverse);
}

// Eq. 4 for one row, w = max(floor, intercept - slope * S): a line with a floor.
template <typename T>
struct WeightLine {
  T intercept;
  T slope;
  T floor;
};

// A row with too few negatives, beta * negatives <= alpha, has no positive normaliser: its weights
// are 1, so that a small last batch is plain InfoNCE.
template <typename T>
SOFTNCE_INLINE WeightLine<T> weight_line(const Rule& rule, int64_t negatives) {
  const double n = static_cast<double>(negatives);
  if (!(rule.beta * n > rule.alpha)) return {T(1), T(0), T(0)};
  const double normaliser = rule.beta - rule.alpha / n;
  return {T(rule.beta / normaliser), T(rule.alpha / normaliser), T(rule.min_weight)};
}

template <typename T>
SOFTNCE_INLINE T weight(const WeightLine<T>& line, T similarity_share) {
  const T w = line.intercept - line.slope * similarity_share;
  return w < line.floor ? line.floor : w;
}

// What a row's two sums say. `positive` = exp(s_p - max), `negatives` = sum_j w_j exp(s_j - max),
// `gap` = max - s_p >= 0.
template <typename T>
struct RowResult {
  T loss;
  T gradient_scale;  // d loss / d s_j = gradient_scale * w_j exp(s_j - max), and for the positive
                     // minus the sum of the others
};

template <typename T>
SOFTNCE_INLINE RowResult<T> finish_row(T gap, T positive, T negatives, T eps) {
  // log1p keeps a loss near zero accurate to its own size; gap = 0 means positive = 1.
  const T loss = gap <= T(0) ? log1p(negatives) : gap + log(positive + negatives);
  const T scale = T(1) / (positive + negatives);
  if (!(eps > T(0))) return {loss, scale};
  // -log(p + eps) with p = exp(-loss), and its derivative p / (p + eps).
  const T p = exp(-loss);
  const T lifted = loss < T(1) ? loss - log1p(eps * exp(loss)) : -log(p + eps);
  return {lifted, scale * (p / (p + eps))};
}

}  // namespace softnce
