// Soft-InfoNCE on the CPU: row blocks of two GEMMs in, one row kernel, two GEMMs out.
//
//   scores     = scale * query_block @ code^T                       [R, M]
//   similarity = teacher_query_block @ teacher_code^T, or a slice   [R, M]
//   row kernel: loss rows, and d loss / d scores in place of scores
//   grad_query_block = scale * scores @ code;   grad_code += scale * scores^T @ query_block
//
// Nothing of size [N, M] beyond one block's R rows. bf16 inputs are multiplied as they are where
// the processor can (gemm.h); other half inputs are converted to fp32 once, which costs O(M D)
// memory. Either way scores, and both gradients' sums, are fp32.
#include <algorithm>
#include <tuple>
#include <vector>

#include "../arguments.h"
#include "gemm.h"
#include "row_kernel.h"

namespace softnce::cpu {
namespace {

// Rows of a block. Every block packs the codes for its products anew, and reads and writes
// grad_code: while they stay in a cache, 1024 rows cost 1 % over whole products (N = M = 2048, two
// cores; 512 rows 8 %, 256 rows 21 %); at N = M = 8192, where they do not, 1024 rows cost 11 %,
// 2048 rows 5 %.
int64_t rows_per_block(int64_t columns) { return columns <= 2048 ? 1024 : 2048; }

// Elements a thread should get at least: below, waking it costs more than it saves.
constexpr int64_t kElementsPerThread = 4096;

Tensor rows_of(Tensor tensor, int64_t begin, int64_t count) {
  if (begin == 0 && count == tensor.size(0)) return tensor;
  return torch::stable::narrow(tensor, 0, begin, count);
}

Tensor as_type(const Tensor& tensor, ScalarType type) {
  return tensor.scalar_type() == type ? tensor : torch::stable::to(tensor, type);
}

// By the shims that compiled models call. torch::stable's own go through the dispatcher: at N = 64
// they were a tenth of the op's time.
Tensor empty(std::initializer_list<int64_t> sizes, ScalarType type) {
  int64_t strides[] = {1, 1};
  if (sizes.size() == 2) strides[0] = *(sizes.begin() + 1);
  AtenTensorHandle made = nullptr;
  STD_TORCH_CHECK(aoti_torch_empty_strided(
                      static_cast<int64_t>(sizes.size()), sizes.begin(), strides,
                      torch::stable::detail::to<int32_t>(torch::stable::detail::from(type)),
                      aoti_torch_device_type_cpu(), 0, &made) == AOTI_TORCH_SUCCESS,
                  "out of memory: ", sizes.size() == 2 ? *sizes.begin() : 1, " x ",
                  sizes.size() == 0 ? 1 : *(sizes.end() - 1), " values could not be allocated");
  return Tensor(made);
}

Tensor transposed(const Tensor& tensor) {
  const int64_t sizes[] = {tensor.size(1), tensor.size(0)};
  const int64_t strides[] = {tensor.stride(1), tensor.stride(0)};
  AtenTensorHandle view = nullptr;
  // The offset is added to the tensor's own.
  STD_TORCH_CHECK(aoti_torch__reinterpret_tensor(tensor.get(), 2, sizes, strides, 0, &view) ==
                      AOTI_TORCH_SUCCESS,
                  "a transposed view could not be made");
  return Tensor(view);
}

Tensor dense(const Tensor& tensor, ScalarType type) {
  const Tensor typed = as_type(tensor, type);
  return typed.is_contiguous() ? typed : torch::stable::contiguous(typed);
}

// bf16 where its products, which are fp32, are taken; else the type sums are kept in.
ScalarType operand_type(const Tensor& tensor, ScalarType type) {
  const bool as_bf16 = tensor.scalar_type() == ScalarType::BFloat16 && type == ScalarType::Float;
  return as_bf16 && multiplies_bf16() ? ScalarType::BFloat16 : type;
}

template <typename T>
T run_row(const Row<T>& row, const Rule& rule) {
  if constexpr (std::is_same_v<T, float>)
    return row_kernels().f32(row, rule);
  else
    return row_kernels().f64(row, rule);
}

// What check_factors (arguments.h) leaves open: that every index lies where it is used to.
void check_indices(const Factors& f) {
  const auto check_indptr = [](const Tensor& indptr, int64_t end, const char* name) {
    const int64_t* at = indptr.const_data_ptr<int64_t>();
    const int64_t last = indptr.size(0) - 1;
    bool sound = at[0] == 0 && at[last] == end;
    for (int64_t i = 0; i < last; ++i) sound &= at[i] <= at[i + 1];
    STD_TORCH_CHECK(sound, name, " must rise from 0 to ", end);
  };
  const auto check_range = [](const Tensor& index, int64_t end, const char* name) {
    const int32_t* at = index.const_data_ptr<int32_t>();
    bool sound = true;
    for (int64_t i = 0; i < index.size(0); ++i) sound &= at[i] >= 0 && at[i] < end;
    STD_TORCH_CHECK(sound, name, " must lie in [0, ", end, ")");
  };
  check_indptr(f.query_indptr, f.query_term.size(0), "query_indptr");
  check_indptr(f.indptr, f.document.size(0), "indptr");
  check_range(f.query_term, f.indptr.size(0) - 1, "query_term");
  check_range(f.document, f.documents(), "document");
}

// Which columns have a similarity; empty: all.
std::vector<uint8_t> known_columns(const Arguments& a) {
  if (!a.factors) return {};
  std::vector<uint8_t> known(a.columns(), 0);
  const int64_t* length = a.factors->document_length.const_data_ptr<int64_t>();
  bool all = a.factors->documents() == a.columns();
  for (int64_t j = 0; j < a.factors->documents(); ++j) all &= (known[j] = length[j] > 0);
  if (all) known.clear();
  return known;
}

// Query i's similarity with every document: a sum of its terms' postings, in the terms' order.
template <typename T>
void fill_similarity(const Factors& f, int64_t i, T* similarity, int64_t columns) {
  const int64_t* query_indptr = f.query_indptr.const_data_ptr<int64_t>();
  const int64_t* indptr = f.indptr.const_data_ptr<int64_t>();
  const int32_t* term = f.query_term.const_data_ptr<int32_t>();
  const float* count = f.query_count.const_data_ptr<float>();
  const int32_t* document = f.document.const_data_ptr<int32_t>();
  const float* weight = f.weight.const_data_ptr<float>();
  std::fill(similarity, similarity + columns, T(0));
  for (int64_t p = query_indptr[i]; p < query_indptr[i + 1]; ++p) {
    const T times = count[p];
    for (int64_t k = indptr[term[p]]; k < indptr[term[p] + 1]; ++k)
      similarity[document[k]] += times * weight[k];
  }
}

// What one block is worked on in; nothing else is as wide as M.
struct Buffers {
  int64_t rows;
  Tensor scores;                  // [R, M]
  std::optional<Tensor> weights;  // [R, M]: similarities, then weights
  std::optional<Tensor> bf16;     // [R, M]: the gradient of the scores as bf16 products take it
  std::optional<Tensor> rest;     // [R]: what that rounded off the positives
};

// Half as many rows are tried where memory does not suffice: slower, with the same result.
Buffers allocate(int64_t rows, int64_t columns, ScalarType type, bool has_weights, bool has_bf16) {
  for (;; rows = (rows + 1) / 2) {
    try {
      Buffers b{rows, empty({rows, columns}, type), {}, {}, {}};
      if (has_weights) b.weights = empty({rows, columns}, type);
      if (has_bf16) b.bf16 = empty({rows, columns}, ScalarType::BFloat16);
      if (has_bf16) b.rest = empty({rows}, type);
      return b;
    } catch (const std::exception& error) {
      STD_TORCH_CHECK(rows > 1, "out of memory: not even one row of scores, of ", columns,
                      " columns, could be allocated (", error.what(), ")");
    }
  }
}

struct Outputs {
  Tensor loss;        // [N]
  Tensor grad_query;  // [N, D] or empty
  Tensor grad_code;   // [M, D] or empty
};

// The row kernel over a block whose first row is `begin`, with its similarities z if they are a
// matrix. Row i's gradient is that of gradient_weight(i) * loss_i.
template <typename T, typename GradientWeight>
void run_rows(const Arguments& a, const std::vector<uint8_t>& known, const Buffers& buffers,
              const std::optional<Tensor>& z, int64_t begin, int64_t count, bool need_gradient,
              GradientWeight gradient_weight, T* loss) {
  const int64_t m = a.columns();
  T* scores = buffers.scores.mutable_data_ptr<T>();
  T* weights = buffers.weights ? buffers.weights->mutable_data_ptr<T>() : nullptr;
  const T* similarity = z ? z->const_data_ptr<T>() : nullptr;
  Row<T> common{};
  common.columns = m;
  common.eps = static_cast<T>(a.eps);
  common.need_gradient = need_gradient;
  common.known = known.empty() ? nullptr : known.data();
  const int64_t* query_groups = nullptr;
  if (a.query_groups) {
    common.code_groups = a.code_groups->const_data_ptr<int64_t>();
    query_groups = a.query_groups->const_data_ptr<int64_t>();
  }
  const int64_t grain = std::max<int64_t>(1, kElementsPerThread / m);
  torch::stable::parallel_for(0, count, grain, [&](int64_t first, int64_t last) {
    for (int64_t r = first; r < last; ++r) {
      const int64_t i = begin + r;
      Row<T> row = common;
      row.scores = scores + r * m;
      row.similarity = similarity ? similarity + r * m : nullptr;
      row.weights = weights ? weights + r * m : nullptr;
      if (a.factors) {
        fill_similarity(*a.factors, i, row.weights, m);
        row.similarity = row.weights;
      }
      row.group = query_groups ? query_groups[i] : 0;
      row.positive = i + a.positive_offset;
      row.gradient_weight = gradient_weight(i);
      loss[i] = run_row(row, a.rule);
      if constexpr (std::is_same_v<T, float>) {
        if (!buffers.bf16) continue;
        uint16_t* rounded = static_cast<uint16_t*>(buffers.bf16->mutable_data_ptr()) + r * m;
        to_bf16(row.scores, rounded, m);
        buffers.rest->mutable_data_ptr<float>()[r] =
            row.scores[row.positive] - from_bf16(rounded[row.positive]);
      }
    }
  });
}

// Adds what bf16 rounded off the positives' gradients, in fp32: a positive's is as large as those
// of all its row's negatives together, and nothing averages its rounding out (at scale 1 the
// gradients' largest error was up to 1.2 times eager's).
void add_rest(const Arguments& a, const Buffers& buffers, const Tensor& query, const Tensor& code,
              int64_t begin, int64_t count, const Outputs& out) {
  const int64_t d = query.size(1);
  const auto* q = static_cast<const uint16_t*>(query.const_data_ptr());
  const auto* c = static_cast<const uint16_t*>(code.const_data_ptr());
  const float* rest = buffers.rest->const_data_ptr<float>();
  const auto add = [d](const Tensor& grad, int64_t at, float factor, const uint16_t* vector) {
    if (grad.size(0) == 0) return;
    float* sum = grad.mutable_data_ptr<float>() + at * d;
    for (int64_t k = 0; k < d; ++k) sum[k] += factor * from_bf16(vector[k]);
  };
  const int64_t grain = std::max<int64_t>(1, kElementsPerThread / std::max<int64_t>(1, d));
  torch::stable::parallel_for(0, count, grain, [&](int64_t first, int64_t last) {
    for (int64_t r = first; r < last; ++r) {
      const int64_t i = begin + r, positive = i + a.positive_offset;
      const float factor = static_cast<float>(a.scale) * rest[r];
      add(out.grad_query, i, factor, c + positive * d);
      add(out.grad_code, positive, factor, q + i * d);
    }
  });
}

// The block loop.
template <typename T, typename GradientWeight>
Outputs run_blocks(const Arguments& a, GradientWeight gradient_weight, bool need_grad_query,
                   bool need_grad_code) {
  const ScalarType type = accumulate_type(a.query.scalar_type());
  const ScalarType operand = operand_type(a.query, type);
  const int64_t n = a.rows(), m = a.columns(), d = a.query.size(1);
  const bool need_gradient = need_grad_query || need_grad_code;

  const Tensor query = dense(a.query, operand), code = dense(a.code, operand);
  const Tensor code_t = transposed(code);
  std::optional<Tensor> teacher_query, teacher_code_t;
  if (a.teacher_query) {
    const ScalarType given = operand_type(*a.teacher_query, type);
    teacher_query = dense(*a.teacher_query, given);
    teacher_code_t = transposed(dense(*a.teacher_code, given));
  }
  if (a.factors) check_indices(*a.factors);
  const std::vector<uint8_t> known = known_columns(a);

  const Tensor loss = empty({n}, type);
  const Tensor grad_query = empty({need_grad_query ? n : 0, d}, type);
  const Tensor grad_code = empty({need_grad_code ? m : 0, d}, type);
  const int64_t wished = a.block_rows > 0 ? a.block_rows : rows_per_block(m);
  {  // the block's memory ends before the gradients are converted
    const Buffers buffers =
        allocate(std::min(wished, n), m, type, a.has_similarity() || a.query_groups,
                 operand != type && need_gradient);

    for (int64_t begin = 0; begin < n; begin += buffers.rows) {
      const int64_t count = std::min(buffers.rows, n - begin);
      const Tensor query_block = rows_of(query, begin, count);
      const Tensor scores = rows_of(buffers.scores, 0, count);
      gemm(scores, query_block, code_t, a.scale, 0);

      std::optional<Tensor> z;
      if (teacher_query) {
        z = rows_of(*buffers.weights, 0, count);
        gemm(*z, rows_of(*teacher_query, begin, count), *teacher_code_t, 1, 0);
      } else if (a.similarity) {
        z = rows_of(*a.similarity, begin, count);
        if (z->scalar_type() != type || !z->is_contiguous()) {
          Tensor converted = rows_of(*buffers.weights, 0, count);
          z = torch::stable::copy_(converted, *z);
        }
      }
      run_rows<T>(a, known, buffers, z, begin, count, need_gradient, gradient_weight,
                  loss.mutable_data_ptr<T>());

      const Tensor grad_scores = buffers.bf16 ? rows_of(*buffers.bf16, 0, count) : scores;
      if (need_grad_query) gemm(rows_of(grad_query, begin, count), grad_scores, code, a.scale, 0);
      if (need_grad_code)
        gemm(grad_code, transposed(grad_scores), query_block, a.scale, begin == 0 ? 0 : 1);
      if (buffers.rest)
        add_rest(a, buffers, query, code, begin, count, {loss, grad_query, grad_code});
    }
  }

  const ScalarType gradient = gradient_type(a.query.scalar_type());
  return {loss, as_type(grad_query, gradient), as_type(grad_code, gradient)};
}

// What Ops (arguments.h) asks of a device.
struct Kernel {
  template <typename T>
  static std::tuple<Tensor, Tensor, Tensor> reduced(const Arguments& a, bool mean,
                                                    bool need_grad_query, bool need_grad_code) {
    const double row_weight = mean ? 1.0 / static_cast<double>(a.rows()) : 1.0;
    const T weight = static_cast<T>(row_weight);
    Outputs out =
        run_blocks<T>(a, [=](int64_t) { return weight; }, need_grad_query, need_grad_code);
    const T* losses = out.loss.const_data_ptr<T>();
    double total = 0;
    for (int64_t i = 0; i < a.rows(); ++i) total += losses[i];
    Tensor loss = empty({}, out.loss.scalar_type());
    *loss.mutable_data_ptr<T>() = static_cast<T>(total * row_weight);
    return {loss, out.grad_query, out.grad_code};
  }

  template <typename T>
  static Tensor rows(const Arguments& a) {
    return run_blocks<T>(a, [](int64_t) { return T(0); }, false, false).loss;
  }

  template <typename T>
  static std::tuple<Tensor, Tensor> rows_backward(const Arguments& a, const Tensor& grad_loss,
                                                  bool need_grad_query, bool need_grad_code) {
    const Tensor weights = dense(grad_loss, accumulate_type(a.query.scalar_type()));
    const T* data = weights.const_data_ptr<T>();
    Outputs out =
        run_blocks<T>(a, [=](int64_t i) { return data[i]; }, need_grad_query, need_grad_code);
    return {out.grad_query, out.grad_code};
  }
};

}  // namespace
}  // namespace softnce::cpu

STABLE_TORCH_LIBRARY_IMPL(softnce_ext, CPU, m) {
  m.impl("soft_info_nce", &softnce::Ops<softnce::cpu::Kernel>::soft_info_nce);
  m.impl("soft_info_nce_rows", &softnce::Ops<softnce::cpu::Kernel>::rows);
  m.impl("soft_info_nce_rows_backward", &softnce::Ops<softnce::cpu::Kernel>::rows_backward);
}
