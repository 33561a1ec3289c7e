// What is asked of a step, and what its two paths share: the composed one (soft_info_nce.cpp) and
// the small batch's (small_batch.cpp).
#pragma once

#include <optional>

#include "current.h"
#include "matrices.h"

namespace softnce::cuda {

struct Wanted {
  double row_weight;                  // the gradient is that of row_weight * loss_i
  std::optional<Tensor> row_weights;  // [N], and of row_weights[i] * loss_i
  bool grad_query;
  bool grad_code;
  bool total;  // row_weight * sum of the losses

  bool gradient() const { return grad_query || grad_code; }
};

struct Outputs {
  Tensor loss;                  // [N]
  Tensor grad_query;            // [N, D] or empty
  Tensor grad_code;             // [M, D] or empty
  std::optional<Tensor> total;  // 0-d
};

// The outputs; grad_code in the type it is accumulated in.
inline Outputs new_outputs(const Arguments& a, const Wanted& wanted, ScalarType grad_code_type) {
  const ScalarType type = accumulate_type(a.query.scalar_type());
  const int64_t d = a.query.size(1);
  Outputs out{new_tensor(a.query, {a.rows()}, type),
              new_tensor(a.query, {wanted.grad_query ? a.rows() : 0, d},
                         gradient_type(a.query.scalar_type())),
              new_tensor(a.query, {wanted.grad_code ? a.columns() : 0, d}, grad_code_type),
              {}};
  if (wanted.total) out.total = new_tensor(a.query, {}, type);
  return out;
}

// What every row of every block has in common. fp16 operands' gradients have a gain, so that fp16
// holds them.
template <typename T>
RowBlock<T> common_rows(const Arguments& a, const Wanted& wanted, ScalarType operand) {
  RowBlock<T> block{};
  block.columns = static_cast<int32_t>(a.columns());
  block.stride = padded(a.columns());
  block.gradient = storage_of(operand);
  block.rule = a.rule;
  block.line = weight_line<T>(a.rule, a.columns() - 1);
  block.inverse_temperature = inverse_temperature<T>(a.rule);
  block.similarity_exponent = similarity_exponent<T>(a.rule);
  block.eps = static_cast<T>(a.eps);
  block.gain = static_cast<T>(operand == ScalarType::Half ? half_gain(a.rule) : 1);
  block.need_gradient = wanted.gradient();
  return block;
}

// Raw similarities that are given, as the row kernels take them: fp64 ones of fp32 rows, any of
// fp64 rows, and those whose rows are not contiguous are copied block by block.
class GivenSimilarity {
 public:
  GivenSimilarity(const Tensor& similarity, ScalarType type) : rows_(similarity), type_(type) {
    const bool is_half = bytes_of(rows_.scalar_type()) == 2;
    if (is_half && type == ScalarType::Float) type_ = rows_.scalar_type();
  }

  template <typename T>
  void select(RowBlock<T>& block, int64_t begin, int64_t count) {
    if (rows_.scalar_type() == type_ && rows_.stride(1) == 1) {
      block.similarity = element(rows_, begin * rows_.stride(0));
      block.similarity_stride = rows_.stride(0);
    } else {
      // Freed memory is used again behind what this stream still does with it.
      copied_ = dense(torch::stable::narrow(rows_, 0, begin, count), type_);
      block.similarity = element(*copied_, 0);
      block.similarity_stride = rows_.size(1);
    }
    block.similarity_type = storage_of(type_);
  }

 private:
  Tensor rows_;
  ScalarType type_;
  std::optional<Tensor> copied_;
};

// The whole step in one launch where that is the faster way and the GPU can; nothing elsewhere.
std::optional<Outputs> run_small_batch(const Arguments& a, const Current& current,
                                       const Wanted& wanted);

}  // namespace softnce::cuda
