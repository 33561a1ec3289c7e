// The mathematics of one row, on host and device: the one truth of every kernel.
//
// A row is one query against all codes, p its positive, the other columns its negatives; a masked
// column is neither, and is left out of everything. With raw similarities z and scores s:
//   S_j = softmax(z / temperature)_j over the negatives that have a similarity, else 0
//   P_j = softmax(s)_j over positive and negatives
// Cross-entropy with weights: Soft-InfoNCE (the paper's Eq. 3 to 5) and the two cancellations:
//   w_j = max(min_weight, (beta - alpha S_j) / (beta - alpha / negatives)), or 0 or 1
//   loss = -s_p + log(exp(s_p) + sum_j w_j exp(s_j))
//   d loss / d s_j = w_j exp(s_j) / (exp(s_p) + sum_k w_k exp(s_k)) - [j = p]
// Soft targets (the paper's 4.3): y_p = 1, y_j = S_j, n = 1 + negatives:
//   weighted InfoNCE  -sum_j y_j log(P_j + eps)
//   BCE               -1/n sum_j y_j log P_j + (1 - y_j) log(1 - P_j), each log at least -100
//   KL                beta * InfoNCE + alpha * sum_j S_j (log S_j - log Pneg_j),
//                     Pneg the softmax of s over the negatives alone
// A column without a similarity has weight 1, target 0, and is never dropped.
//
// NaN travels, that of a masked column's score too: every comparison below is written so that a NaN
// operand comes out as NaN. std::max and std::min are avoided for that reason.
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

// beta * negatives above alpha by less than this part of it is their equality, rounded: 0.1 * 19 is
// above 1.9, and would make weights of 1e16.
constexpr double kCancelled = 1e-6;

// `negatives` are those with a similarity. Too few, beta * negatives <= alpha, have no positive
// normaliser: the row's weights are 1, so that a small last batch is plain InfoNCE.
template <typename T>
SOFTNCE_INLINE WeightLine<T> weight_line(const Rule& rule, int64_t negatives) {
  const double n = static_cast<double>(negatives);
  const bool positive = rule.beta * n - rule.alpha > kCancelled * fabs(rule.alpha);
  if (negatives == 0 || !positive) return {T(1), T(0), T(0)};
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

// ---- Cancellation ----

// A key in the order of the values, -0 beside +0: the k largest are selected by its bits.
SOFTNCE_INLINE uint32_t order_key(float value) {
  value += 0.0f;  // -0 becomes +0
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
SOFTNCE_INLINE uint64_t order_key(double value) {
  value += 0.0;
  uint64_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits >> 63 ? ~bits : bits | (uint64_t{1} << 63);
}

// The bound a negative must stay below: z < bound is z < ratio * z_p to the last bit, because the
// product is rounded up, never down onto a z it exceeds.
SOFTNCE_INLINE double threshold_bound(double ratio, double positive) { return ratio * positive; }
SOFTNCE_INLINE float threshold_bound(double ratio, float positive) {
  const double product = ratio * static_cast<double>(positive);
  const float bound = static_cast<float>(product);
  return static_cast<double>(bound) < product
             ? nextafterf(bound, INFINITY)  // numeric_limits' is a function of the host alone
             : bound;
}

// ---- Soft targets ----

// P with its largest column m apart, so that 1 - P_m does not cancel. For j != m, with
// share_j = exp(s_j - runner_up) / sum_{k != m} exp(s_k - runner_up):
//   log P_j = s_j - top - log_z,   P_j = rest * share_j <= 1/2
template <typename T>
struct Peak {
  T log_z;     // -log P_m
  T log_rest;  // log(1 - P_m)
  T rest;      // 1 - P_m
};

// `top` = s_m, `runner_up` the largest of the other scores, `others` = sum_{j != m} exp(s_j -
// runner_up).
template <typename T>
SOFTNCE_INLINE Peak<T> peak(T top, T runner_up, T others) {
  const T log_rest = (runner_up - top) + T(log(others));  // of the sum beside exp(s_m - top) = 1
  const T rest = T(exp(log_rest));
  const T log_z = T(log1p(rest)) + (top - top);  // NaN for an infinite score
  return {log_z, log_rest - log_z, rest / (T(1) + rest)};
}

// log(P + eps) and P / (P + eps), for a P that may underflow. `t` = exp(-|log P - log eps|),
// `log1p_t` = log(1 + t).
template <typename T>
struct Lifted {
  T log;
  T part;
};

template <typename T>
SOFTNCE_INLINE Lifted<T> lift(T log_p, T log_eps, T t, T log1p_t) {
  const bool less = log_p < log_eps;
  return {(less ? log_eps : log_p) + log1p_t, (less ? t : T(1)) / (T(1) + t)};
}

// What a column j != m adds to its row's sums.
template <typename T>
struct WeightedTerm {
  T log;     // y log(P + eps)
  T target;  // y P / (P + eps)
};

// d loss / d s_j = total * P_j - target_j for j != m.
template <typename T>
struct WeightedResult {
  T loss;
  T total;
  T top_gradient;  // d loss / d s_m
};

// `sums` over the columns j != m; `y` the target of m.
template <typename T>
SOFTNCE_INLINE WeightedResult<T> finish_weighted(const Peak<T>& peak, const WeightedTerm<T>& sums,
                                                 T y, T eps) {
  const T p = T(exp(-peak.log_z)), ratio = eps / p;
  const T target = y / (T(1) + ratio);
  const T log_p = T(log1p(ratio)) - peak.log_z;  // log(P_m + eps)
  return {-(sums.log + y * log_p), sums.target + target, sums.target * p - target * peak.rest};
}

// torch.nn.BCELoss's floor under its logarithms. Where it holds there is no gradient.
constexpr double kLogFloor = -100;

// What a column j != m adds to its row's sums; 1 - P_j >= 1/2 needs no floor. `y` its target,
// `log_1mp` = log(1 - P_j).
template <typename T>
struct BCETerm {
  T log;   // y log P + (1 - y) log(1 - P)
  T push;  // (1 - y) P / (1 - P) - y, without y below the floor
};

template <typename T>
SOFTNCE_INLINE BCETerm<T> bce_term(T y, T p, T log_p, T log_1mp) {
  const bool below = log_p <= T(kLogFloor);
  return {y * (below ? T(kLogFloor) : log_p) + (T(1) - y) * log_1mp,
          (T(1) - y) * (p / (T(1) - p)) - (below ? T(0) : y)};
}

// d loss / d s_j = (push_j - slope * share_j) / n for j != m.
template <typename T>
struct BCEResult {
  T loss;
  T slope;
  T top_gradient;  // d loss / d s_m
};

// `sums` over the columns j != m; `y` the target of m; `n` the columns that count.
template <typename T>
SOFTNCE_INLINE BCEResult<T> finish_bce(const Peak<T>& peak, const BCETerm<T>& sums, T y, T n) {
  const bool below = peak.log_rest <= T(kLogFloor);
  const T p = T(exp(-peak.log_z));
  const T log_sum = sums.log - y * peak.log_z + (T(1) - y) * (below ? T(kLogFloor) : peak.log_rest);
  // m's own term reaches column j as P_j P_m / (1 - P_m) = share_j P_m.
  const T pull = below ? T(0) : (T(1) - y) * p;
  return {-log_sum / n, peak.rest * (sums.push - y) + pull,
          -(y * peak.rest + p * sums.push - pull) / n};
}

// loss = info_nce + alpha * sum_j S_j (log S_j - log Pneg_j);
// d loss / d s_j = slope * Pneg_j - alpha S_j for the negatives.
template <typename T>
struct KLResult {
  T info_nce;  // beta * InfoNCE
  T slope;
  T positive_gradient;
};

// Over the negatives: `largest` of the scores, `log_sum` = log(sum_j exp(s_j - largest)), `share` =
// sum_j S_j, which is 1, or 0 where none has a similarity.
template <typename T>
SOFTNCE_INLINE KLResult<T> finish_kl(const Rule& rule, T positive, T largest, T log_sum, T share) {
  // The last term is 0, or NaN for an infinite positive.
  const T gap = (largest - positive) + log_sum + (positive - positive);
  const T t = T(exp(gap < T(0) ? gap : -gap));
  const T info_nce = (gap < T(0) ? T(0) : gap) + T(log1p(t));
  const T missed = (gap < T(0) ? t : T(1)) / (T(1) + t);  // 1 - P_p
  const T alpha = T(rule.alpha), beta = T(rule.beta);
  return {beta * info_nce, beta * missed + alpha * share, -beta * missed};
}

}  // namespace softnce
