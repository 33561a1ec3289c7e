// What a row kernel is given: pointers and numbers, no torch and no CUDA.
#pragma once

#include <cstdint>

#include "../row_math.h"

namespace softnce::cuda {

// How a number lies in memory: torch's types, without torch.
enum class Storage : int32_t { kFloat, kDouble, kHalf, kBFloat16 };

// exponential() (device.cuh) of x * kExponent is e^x: in fp32 a power of two, all that the special
// function unit knows.
template <typename T>
constexpr T kExponent = T(1);
template <>
constexpr float kExponent<float> = 1.44269504088896341f;

// kExponent / temperature, kept where T neither overflows nor loses it. Host only.
template <typename T>
static inline T similarity_exponent(const Rule& rule) {
  Rule scaled = rule;
  scaled.temperature /= static_cast<double>(kExponent<T>);
  return inverse_temperature<T>(scaled);
}

// What fp16 gradients of the scores are kept times, a power of two: 2^14, so that p = 3e-12 is
// still not 0. They lie in [-2, 2], those of KL within the sum of its two weights; 2^14 times more
// than 3.99 would be infinite. Host only.
static inline double half_gain(const Rule& rule) {
  const double bound = rule.objective == Objective::kKL ? rule.alpha + rule.beta : 1;
  return 16384 / std::exp2(std::ceil(std::log2(bound > 2 ? bound / 2 : 1)));
}

// BM25 similarities as two sparse factors (arguments.h), the rows of one block.
struct Postings {
  const int64_t* query_indptr;  // [R + 1], or null: no factors
  const int32_t* query_term;    // [query_terms]
  const float* query_count;     // [query_terms]
  int64_t query_terms;
  const int64_t* indptr;  // [terms + 1]
  int64_t terms;
  const int32_t* document;  // [postings]
  const float* weight;      // [postings]
  int64_t postings;
  const int64_t* document_length;  // [documents]
  int32_t documents;
};

// R rows of a block, against all M codes.
template <typename T>
struct RowBlock {
  int64_t rows;             // R
  int32_t columns;          // M
  int64_t stride;           // of scores and scratch: at least M, a multiple of kPadding
  T* scores;                // [R, stride] in: s; out: M gradients, from each row's start on
  Storage gradient;         // their type, no wider than T
  const void* similarity;   // [R, M] z or null
  Storage similarity_type;  // T, or of a float's a half type
  int64_t similarity_stride;
  Postings factors;
  T* scratch;                   // [R, stride] for rows beyond shared memory; may be `similarity`
  const int64_t* query_groups;  // [R] or null
  const int64_t* code_groups;   // [M] or null
  const T* row_weights;         // [R] or null: 1
  T* loss;                      // [R]
  int64_t first_positive;       // column of the first row's positive
  Rule rule;
  WeightLine<T> line;  // the weights of a row whose M - 1 other columns all have a similarity
  T inverse_temperature;
  T similarity_exponent;  // of exponential(): kExponent / temperature
  T eps;
  T gain;  // the gradient is written times gain * row_weight
  bool need_gradient;
  bool round_to_tf32;  // of fp32 gradients
};

}  // namespace softnce::cuda
