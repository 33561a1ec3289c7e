// The arguments the three ops share, and the checks that memory safety needs.
//
// Friendlier checks with the user's own names stand in softnce_ext/functional.py; these hold for
// whoever calls the ops directly.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <tuple>

#include "row_math.h"

namespace softnce {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

struct Arguments {
  Tensor query;                         // [N, D]
  Tensor code;                          // [M, D]
  std::optional<Tensor> similarity;     // [N, M]
  std::optional<Tensor> teacher_query;  // [N, Dt]
  std::optional<Tensor> teacher_code;   // [M, Dt]
  std::optional<Tensor> query_groups;   // [N] int64
  std::optional<Tensor> code_groups;    // [M] int64
  WeightRule rule;
  double scale;
  double eps;
  int64_t positive_offset;
  int64_t block_rows;  // rows per block; 0 chooses

  int64_t rows() const { return query.size(0); }
  int64_t columns() const { return code.size(0); }
};

inline bool is_floating(ScalarType type) {
  return type == ScalarType::Float || type == ScalarType::Double || type == ScalarType::Half ||
         type == ScalarType::BFloat16;
}

// The type sums are kept in, and the type of the loss.
inline ScalarType accumulate_type(ScalarType type) {
  return type == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

// fp16 gradients are kept in fp32 until they are multiplied by the loss's own gradient: p / N
// underflows in fp16 where a GradScaler would have saved it.
inline ScalarType gradient_type(ScalarType type) {
  return type == ScalarType::Half ? ScalarType::Float : type;
}

inline void check_matrix(const Tensor& tensor, int64_t rows, int64_t columns, const Tensor& like,
                         const char* name) {
  STD_TORCH_CHECK(tensor.dim() == 2 && tensor.size(0) == rows && tensor.size(1) == columns, name,
                  " must have shape [", rows, ", ", columns, "]");
  STD_TORCH_CHECK(is_floating(tensor.scalar_type()), name, " must have a floating-point type");
  STD_TORCH_CHECK(tensor.device() == like.device(), name, " must be on query's device");
}

inline void check_groups(const Tensor& groups, int64_t length, const Tensor& like,
                         const char* name) {
  STD_TORCH_CHECK(groups.dim() == 1 && groups.size(0) == length, name, " must have shape [", length,
                  "]");
  STD_TORCH_CHECK(groups.scalar_type() == ScalarType::Long, name, " must be int64");
  STD_TORCH_CHECK(groups.device() == like.device(), name, " must be on query's device");
}

inline void check(const Arguments& a) {
  STD_TORCH_CHECK(a.query.dim() == 2 && a.code.dim() == 2, "query and code must have 2 dimensions");
  const int64_t n = a.rows(), m = a.columns();
  check_matrix(a.query, n, a.query.size(1), a.query, "query");
  check_matrix(a.code, m, a.query.size(1), a.query, "code");
  STD_TORCH_CHECK(a.query.scalar_type() == a.code.scalar_type(),
                  "query and code must have the same type");
  STD_TORCH_CHECK(n >= 1, "query must have at least one row");
  STD_TORCH_CHECK(a.positive_offset >= 0 && a.positive_offset <= m - n,
                  "positive_offset must be in [0, ", m - n, "], got ", a.positive_offset);
  STD_TORCH_CHECK(a.rule.temperature > 0, "temperature must be > 0, got ", a.rule.temperature);
  STD_TORCH_CHECK(a.teacher_query.has_value() == a.teacher_code.has_value(),
                  "teacher_query and teacher_code must come together");
  STD_TORCH_CHECK(!(a.similarity.has_value() && a.teacher_query.has_value()),
                  "similarity and teacher vectors exclude each other");
  STD_TORCH_CHECK(a.query_groups.has_value() == a.code_groups.has_value(),
                  "query_groups and code_groups must come together");
  if (a.similarity) check_matrix(*a.similarity, n, m, a.query, "similarity");
  if (a.teacher_query) {
    check_matrix(*a.teacher_query, n, a.teacher_query->size(1), a.query, "teacher_query");
    check_matrix(*a.teacher_code, m, a.teacher_query->size(1), a.query, "teacher_code");
    STD_TORCH_CHECK(a.teacher_query->scalar_type() == a.teacher_code->scalar_type(),
                    "teacher_query and teacher_code must have the same type");
  }
  if (a.query_groups) {
    check_groups(*a.query_groups, n, a.query, "query_groups");
    check_groups(*a.code_groups, m, a.query, "code_groups");
  }
}

// The three ops as torch calls them, for a device's `Kernel`: pack the arguments, check them, and
// run `Kernel::reduced<T>`, `rows<T>` or `rows_backward<T>` with T the type sums are kept in.
template <class Kernel>
struct Ops {
  using Optional = std::optional<Tensor>;

  static std::tuple<Tensor, Tensor, Tensor> soft_info_nce(
      Tensor query, Tensor code, Optional similarity, Optional teacher_query, Optional teacher_code,
      Optional query_groups, Optional code_groups, double alpha, double beta, double temperature,
      double min_weight, double scale, double eps, int64_t positive_offset, int64_t block_rows,
      bool mean, bool need_grad_query, bool need_grad_code) {
    const Arguments a{
        query,        code,         similarity,      teacher_query,
        teacher_code, query_groups, code_groups,     {alpha, beta, temperature, min_weight},
        scale,        eps,          positive_offset, block_rows};
    check(a);
    return is_double(a) ? Kernel::template reduced<double>(a, mean, need_grad_query, need_grad_code)
                        : Kernel::template reduced<float>(a, mean, need_grad_query, need_grad_code);
  }

  static Tensor rows(Tensor query, Tensor code, Optional similarity, Optional teacher_query,
                     Optional teacher_code, Optional query_groups, Optional code_groups,
                     double alpha, double beta, double temperature, double min_weight, double scale,
                     double eps, int64_t positive_offset, int64_t block_rows) {
    const Arguments a{
        query,        code,         similarity,      teacher_query,
        teacher_code, query_groups, code_groups,     {alpha, beta, temperature, min_weight},
        scale,        eps,          positive_offset, block_rows};
    check(a);
    return is_double(a) ? Kernel::template rows<double>(a) : Kernel::template rows<float>(a);
  }

  static std::tuple<Tensor, Tensor> rows_backward(
      Tensor query, Tensor code, Optional similarity, Optional teacher_query, Optional teacher_code,
      Optional query_groups, Optional code_groups, double alpha, double beta, double temperature,
      double min_weight, double scale, double eps, int64_t positive_offset, int64_t block_rows,
      Tensor grad_loss, bool need_grad_query, bool need_grad_code) {
    const Arguments a{
        query,        code,         similarity,      teacher_query,
        teacher_code, query_groups, code_groups,     {alpha, beta, temperature, min_weight},
        scale,        eps,          positive_offset, block_rows};
    check(a);
    STD_TORCH_CHECK(grad_loss.dim() == 1 && grad_loss.size(0) == a.rows(),
                    "grad_loss must have shape [", a.rows(), "]");
    STD_TORCH_CHECK(grad_loss.device() == query.device(), "grad_loss must be on query's device");
    return is_double(a) ? Kernel::template rows_backward<double>(a, grad_loss, need_grad_query,
                                                                 need_grad_code)
                        : Kernel::template rows_backward<float>(a, grad_loss, need_grad_query,
                                                                need_grad_code);
  }

 private:
  static bool is_double(const Arguments& a) { return a.query.scalar_type() == ScalarType::Double; }
};

}  // namespace softnce
