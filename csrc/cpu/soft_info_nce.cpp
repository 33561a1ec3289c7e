// Soft-InfoNCE on the CPU: row blocks of two GEMMs in, one row kernel, two GEMMs out.
//
//   scores     = scale * query_block @ code^T                       [R, M]
//   similarity = teacher_query_block @ teacher_code^T, or a slice   [R, M]
//   row kernel: loss rows, and d loss / d scores in place of scores
//   grad_query_block = scale * scores @ code;   grad_code += scale * scores^T @ query_block
//
// Never materialised: anything [N, M]. Half inputs are converted to fp32 once, which costs O(M D)
// memory and keeps the scores, and both gradients' sums, in fp32.
#include <algorithm>
#include <tuple>
#include <vector>

#include "../arguments.h"
#include "row_kernel.h"

// torch's C shim of addmm, outside the headers of the stable ABI but part of what compiled models
// link against: out = beta * self + alpha * mat1 @ mat2, below autograd and autocast.
extern "C" AOTITorchError aoti_torch_cpu_addmm_out(AtenTensorHandle out, AtenTensorHandle self,
                                                   AtenTensorHandle mat1, AtenTensorHandle mat2,
                                                   double beta, double alpha);

namespace softnce::cpu {
namespace {

// Columns up to which one block holds the whole batch, and the rows of a block beyond. grad_code is
// read and written once per block, and small products leave threads idle: at N = M = 2048 on two
// cores blocks of 256 rows cost 21 % over whole products, of 512 8 %, of 1024 1 %.
constexpr int64_t kSingleBlockColumns = 1024;
constexpr int64_t kBlockRows = 1024;
// Elements a thread should get at least: below, waking it costs more than it saves.
constexpr int64_t kElementsPerThread = 16384;

Tensor rows_of(Tensor& tensor, int64_t begin, int64_t count) {
  return torch::stable::narrow(tensor, 0, begin, count);
}

Tensor dense(const Tensor& tensor, ScalarType type) {
  if (tensor.scalar_type() == type) return torch::stable::contiguous(tensor);
  return torch::stable::contiguous(torch::stable::to(tensor, type));
}

// out = alpha * a @ b + beta * out
void gemm(const Tensor& out, const Tensor& a, const Tensor& b, double alpha, double beta) {
  STD_TORCH_CHECK(aoti_torch_cpu_addmm_out(out.get(), out.get(), a.get(), b.get(), beta, alpha) ==
                      AOTI_TORCH_SUCCESS,
                  "the matrix product of ", a.size(0), " x ", a.size(1), " by ", b.size(0), " x ",
                  b.size(1), " failed");
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

struct Outputs {
  Tensor loss;        // [N]
  Tensor grad_query;  // [N, D] or empty
  Tensor grad_code;   // [M, D] or empty
};

// The block loop. Row i's gradient is that of gradient_weight(i) * loss_i.
template <typename T, typename GradientWeight>
Outputs run_blocks(const Arguments& a, GradientWeight gradient_weight, bool need_grad_query,
                   bool need_grad_code) {
  const ScalarType type = accumulate_type(a.query.scalar_type());
  const int64_t n = a.rows(), m = a.columns(), d = a.query.size(1);
  int64_t block_rows = m <= kSingleBlockColumns ? n : kBlockRows;
  if (a.block_rows > 0) block_rows = a.block_rows;
  block_rows = std::min(block_rows, n);

  const bool need_gradient = need_grad_query || need_grad_code;
  Tensor query = dense(a.query, type), code = dense(a.code, type);
  Tensor code_t = torch::stable::transpose(code, 0, 1);
  Tensor scores_buffer = torch::stable::new_empty(query, {block_rows, m}, type);
  std::optional<Tensor> teacher_query, teacher_code_t, weights_buffer, similarity;
  if (a.teacher_query) {
    teacher_query = dense(*a.teacher_query, type);
    teacher_code_t = torch::stable::transpose(dense(*a.teacher_code, type), 0, 1);
  }
  if (a.similarity) similarity = *a.similarity;
  if (a.factors) check_indices(*a.factors);
  const std::vector<uint8_t> known = known_columns(a);
  if (a.has_similarity() || a.query_groups)
    weights_buffer = torch::stable::new_empty(query, {block_rows, m}, type);
  std::optional<Tensor> query_groups, code_groups;
  if (a.query_groups) {
    query_groups = torch::stable::contiguous(*a.query_groups);
    code_groups = torch::stable::contiguous(*a.code_groups);
  }

  Tensor loss = torch::stable::new_empty(query, {n}, type);
  Tensor grad_query = torch::stable::new_empty(query, {need_grad_query ? n : 0, d}, type);
  Tensor grad_code = torch::stable::new_empty(query, {need_grad_code ? m : 0, d}, type);
  T* loss_data = loss.mutable_data_ptr<T>();

  for (int64_t begin = 0; begin < n; begin += block_rows) {
    const int64_t count = std::min(block_rows, n - begin);
    Tensor scores = rows_of(scores_buffer, 0, count);
    Tensor query_block = rows_of(query, begin, count);
    gemm(scores, query_block, code_t, a.scale, 0);

    std::optional<Tensor> z;
    if (teacher_query) {
      z = rows_of(*weights_buffer, 0, count);
      gemm(*z, rows_of(*teacher_query, begin, count), *teacher_code_t, 1, 0);
    } else if (similarity) {
      z = dense(rows_of(*similarity, begin, count), type);
    }

    T* score_data = scores.mutable_data_ptr<T>();
    T* weight_data = weights_buffer ? weights_buffer->mutable_data_ptr<T>() : nullptr;
    const T* z_data = z ? z->const_data_ptr<T>() : nullptr;
    const int64_t* code_group_data = code_groups ? code_groups->const_data_ptr<int64_t>() : nullptr;
    const int64_t* query_group_data =
        query_groups ? query_groups->const_data_ptr<int64_t>() : nullptr;
    const int64_t grain = std::max<int64_t>(1, kElementsPerThread / m);
    torch::stable::parallel_for(0, count, grain, [&](int64_t first, int64_t last) {
      for (int64_t r = first; r < last; ++r) {
        const int64_t i = begin + r;
        Row<T> row;
        row.scores = score_data + r * m;
        row.similarity = z_data ? z_data + r * m : nullptr;
        row.weights = weight_data ? weight_data + r * m : nullptr;
        if (a.factors) {
          fill_similarity(*a.factors, i, row.weights, m);
          row.similarity = row.weights;
        }
        row.code_groups = code_group_data;
        row.known = known.empty() ? nullptr : known.data();
        row.group = query_group_data ? query_group_data[i] : 0;
        row.columns = m;
        row.positive = i + a.positive_offset;
        row.eps = static_cast<T>(a.eps);
        row.gradient_weight = gradient_weight(i);
        row.need_gradient = need_gradient;
        loss_data[i] = run_row(row, a.rule);
      }
    });

    if (need_grad_query) gemm(rows_of(grad_query, begin, count), scores, code, a.scale, 0);
    if (need_grad_code)
      gemm(grad_code, torch::stable::transpose(scores, 0, 1), query_block, a.scale,
           begin == 0 ? 0 : 1);
  }

  const ScalarType gradient = gradient_type(a.query.scalar_type());
  return {loss, torch::stable::to(grad_query, gradient), torch::stable::to(grad_code, gradient)};
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
    Tensor loss = torch::stable::new_empty(out.loss, {});
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
