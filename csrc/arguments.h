// The arguments the three ops share, and the checks that memory safety needs.
//
// Friendlier checks with the user's own names stand in softnce_ext/checks.py; these hold for
// whoever calls the ops directly.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cmath>
#include <limits>
#include <optional>
#include <string>
#include <tuple>
#include <utility>

#include "row_math.h"

namespace softnce {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// BM25 similarities as two sparse factors (softnce_ext/factors.py): z_ij = sum over the terms t of
// query i of count_it * weight_tj. Columns from K on, and documents without text, have no z.
struct Factors {
  Tensor query_indptr;     // [N + 1] int64: query i's terms are query_indptr[i] ..
  Tensor query_term;       // [Q] int32
  Tensor query_count;      // [Q] fp32
  Tensor indptr;           // [V + 1] int64: term t's postings are indptr[t] ..
  Tensor document;         // [P] int32, distinct within a term
  Tensor weight;           // [P] fp32
  Tensor document_length;  // [K] int64, K <= M

  int64_t documents() const { return document_length.size(0); }
};

struct Arguments {
  Tensor query;                         // [N, D]
  Tensor code;                          // [M, D]
  std::optional<Tensor> similarity;     // [N, M]
  std::optional<Tensor> teacher_query;  // [N, Dt]
  std::optional<Tensor> teacher_code;   // [M, Dt]
  std::optional<Factors> factors;
  std::optional<Tensor> query_groups;  // [N] int64
  std::optional<Tensor> code_groups;   // [M] int64
  Rule rule;
  double scale;
  double eps;
  int64_t positive_offset;
  int64_t block_rows;  // rows per block; 0 chooses

  int64_t rows() const { return query.size(0); }
  int64_t columns() const { return code.size(0); }
  bool has_similarity() const { return similarity || teacher_query || factors; }
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

// A size or stride as BLAS takes it.
inline int blas_int(int64_t value) {
  STD_TORCH_CHECK(value <= std::numeric_limits<int>::max(),
                  "a matrix product's sizes must be below 2^31, got ", value);
  return static_cast<int>(value);
}

inline void check_matrix(const Tensor& tensor, int64_t rows, int64_t columns, const Tensor& like,
                         const char* name) {
  STD_TORCH_CHECK(tensor.dim() == 2 && tensor.size(0) == rows && tensor.size(1) == columns, name,
                  " must have shape [", rows, ", ", columns, "]");
  STD_TORCH_CHECK(is_floating(tensor.scalar_type()), name, " must have a floating-point type");
  STD_TORCH_CHECK(tensor.device() == like.device(), name, " must be on query's device");
}

inline void check_vector(const Tensor& tensor, int64_t length, ScalarType type, const Tensor& like,
                         const char* name) {
  STD_TORCH_CHECK(tensor.dim() == 1 && (length < 0 || tensor.size(0) == length), name,
                  " must have one dimension", length < 0 ? " and any length" : " and length ",
                  length < 0 ? std::string() : std::to_string(length));
  STD_TORCH_CHECK(tensor.scalar_type() == type, name, " must be ",
                  type == ScalarType::Long  ? "int64"
                  : type == ScalarType::Int ? "int32"
                                            : "fp32");
  STD_TORCH_CHECK(tensor.device() == like.device(), name, " must be on query's device");
  STD_TORCH_CHECK(tensor.stride(0) == 1 || tensor.size(0) <= 1, name, " must be contiguous");
}

// Shapes and types; what the indices hold is the kernels' care (the CPU's checks it, CUDA's bounds
// it, since looking would synchronise).
inline void check_factors(const Factors& f, int64_t rows, int64_t columns, const Tensor& like) {
  check_vector(f.query_indptr, rows + 1, ScalarType::Long, like, "query_indptr");
  check_vector(f.query_term, -1, ScalarType::Int, like, "query_term");
  check_vector(f.query_count, f.query_term.size(0), ScalarType::Float, like, "query_count");
  check_vector(f.indptr, -1, ScalarType::Long, like, "indptr");
  STD_TORCH_CHECK(f.indptr.size(0) >= 1, "indptr must have at least one element");
  check_vector(f.document, -1, ScalarType::Int, like, "document");
  check_vector(f.weight, f.document.size(0), ScalarType::Float, like, "weight");
  check_vector(f.document_length, -1, ScalarType::Long, like, "document_length");
  STD_TORCH_CHECK(f.documents() <= columns, "document_length must have at most ", columns,
                  " elements, one per code, got ", f.documents());
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
  // A product scaled by NaN may come out as if by 1.
  const std::pair<const char*, double> numbers[] = {
      {"scale", a.scale},        {"alpha", a.rule.alpha},
      {"beta", a.rule.beta},     {"min_weight", a.rule.min_weight},
      {"cutoff", a.rule.cutoff}, {"eps", a.eps},
  };
  for (const auto& [name, value] : numbers)
    STD_TORCH_CHECK(std::isfinite(value), name, " must be finite, got ", value);
  STD_TORCH_CHECK(a.teacher_query.has_value() == a.teacher_code.has_value(),
                  "teacher_query and teacher_code must come together");
  STD_TORCH_CHECK(
      a.similarity.has_value() + a.teacher_query.has_value() + a.factors.has_value() <= 1,
      "similarity, teacher vectors and factors exclude each other");
  const auto objective = static_cast<int64_t>(a.rule.objective);
  STD_TORCH_CHECK(objective >= 0 && objective <= static_cast<int64_t>(Objective::kKL),
                  "objective must be in [0, 5], got ", objective);
  STD_TORCH_CHECK(a.has_similarity() || a.rule.objective == Objective::kSoftInfoNCE,
                  "this objective needs a similarity");
  STD_TORCH_CHECK(a.query_groups.has_value() == a.code_groups.has_value(),
                  "query_groups and code_groups must come together");
  if (a.similarity) check_matrix(*a.similarity, n, m, a.query, "similarity");
  if (a.teacher_query) {
    STD_TORCH_CHECK(a.teacher_query->dim() == 2, "teacher_query must have 2 dimensions");
    check_matrix(*a.teacher_query, n, a.teacher_query->size(1), a.query, "teacher_query");
    check_matrix(*a.teacher_code, m, a.teacher_query->size(1), a.query, "teacher_code");
    STD_TORCH_CHECK(a.teacher_query->scalar_type() == a.teacher_code->scalar_type(),
                    "teacher_query and teacher_code must have the same type");
  }
  if (a.factors) check_factors(*a.factors, n, m, a.query);
  if (a.query_groups) {
    check_vector(*a.query_groups, n, ScalarType::Long, a.query, "query_groups");
    check_vector(*a.code_groups, m, ScalarType::Long, a.query, "code_groups");
  }
}

// The three ops as torch calls them, for a device's `Kernel`: unpack the arguments, check them, and
// run `Kernel::reduced<T>`, `rows<T>` or `rows_backward<T>` with T the type sums are kept in.
template <class Kernel>
struct Ops {
  static void soft_info_nce(StableIValue* stack, uint64_t arguments, uint64_t) {
    Stack in{stack};
    const Arguments a = in.shared();
    const bool mean = in.template next<bool>();
    const bool need_grad_query = in.template next<bool>(),
               need_grad_code = in.template next<bool>();
    in.finish(arguments);
    check(a);
    const auto [loss, grad_query, grad_code] =
        is_double(a) ? Kernel::template reduced<double>(a, mean, need_grad_query, need_grad_code)
                     : Kernel::template reduced<float>(a, mean, need_grad_query, need_grad_code);
    stack[0] = torch::stable::detail::from(loss);
    stack[1] = torch::stable::detail::from(grad_query);
    stack[2] = torch::stable::detail::from(grad_code);
  }

  static void rows(StableIValue* stack, uint64_t arguments, uint64_t) {
    Stack in{stack};
    const Arguments a = in.shared();
    in.finish(arguments);
    check(a);
    stack[0] = torch::stable::detail::from(is_double(a) ? Kernel::template rows<double>(a)
                                                        : Kernel::template rows<float>(a));
  }

  static void rows_backward(StableIValue* stack, uint64_t arguments, uint64_t) {
    Stack in{stack};
    const Arguments a = in.shared();
    const Tensor grad_loss = in.template next<Tensor>();
    const bool need_grad_query = in.template next<bool>(),
               need_grad_code = in.template next<bool>();
    in.finish(arguments);
    check(a);
    STD_TORCH_CHECK(grad_loss.dim() == 1 && grad_loss.size(0) == a.rows(),
                    "grad_loss must have shape [", a.rows(), "]");
    STD_TORCH_CHECK(grad_loss.device() == a.query.device(), "grad_loss must be on query's device");
    const auto [grad_query, grad_code] =
        is_double(a)
            ? Kernel::template rows_backward<double>(a, grad_loss, need_grad_query, need_grad_code)
            : Kernel::template rows_backward<float>(a, grad_loss, need_grad_query, need_grad_code);
    stack[0] = torch::stable::detail::from(grad_query);
    stack[1] = torch::stable::detail::from(grad_code);
  }

 private:
  // Reads the arguments in the schema's order. All of them before any check: each tensor on the
  // stack is a reference that somebody has to let go of.
  struct Stack {
    StableIValue* next_value;
    uint64_t read = 0;

    template <typename V>
    V next() {
      ++read;
      return torch::stable::detail::to<V>(*next_value++);
    }

    Arguments shared() {
      using Optional = std::optional<Tensor>;
      // Braces evaluate from left to right.
      Arguments a{next<Tensor>(),
                  next<Tensor>(),
                  next<Optional>(),
                  next<Optional>(),
                  next<Optional>(),
                  {},
                  {},
                  {},
                  {},
                  0,
                  0,
                  0,
                  0};
      Optional factors[7];
      for (Optional& factor : factors) factor = next<Optional>();
      a.query_groups = next<Optional>();
      a.code_groups = next<Optional>();
      a.rule.objective = static_cast<Objective>(next<int64_t>());
      a.rule.alpha = next<double>();
      a.rule.beta = next<double>();
      a.rule.temperature = next<double>();
      a.rule.min_weight = next<double>();
      a.rule.cutoff = next<double>();
      a.scale = next<double>();
      a.eps = next<double>();
      a.positive_offset = next<int64_t>();
      a.block_rows = next<int64_t>();
      int given = 0;
      for (const Optional& factor : factors) given += factor.has_value();
      incomplete_factors = given != 0 && given != 7;
      if (given == 7)
        a.factors = Factors{*factors[0], *factors[1], *factors[2], *factors[3],
                            *factors[4], *factors[5], *factors[6]};
      return a;
    }

    void finish(uint64_t arguments) const {
      STD_TORCH_CHECK(read == arguments, "the schema has ", arguments, " arguments, ", read,
                      " were read");
      STD_TORCH_CHECK(!incomplete_factors, "BM25 factors must come together");
    }

    bool incomplete_factors = false;
  };

  static bool is_double(const Arguments& a) { return a.query.scalar_type() == ScalarType::Double; }
};

}  // namespace softnce
