// The losses on CUDA: row blocks of two GEMMs in, one row kernel, two GEMMs out. The twin of
// cpu/soft_info_nce.cpp.
//
//   scores     = scale * query_block @ code^T                       [R, M] fp32 (fp64 for fp64)
//   similarity = teacher_query_block @ teacher_code^T, or a slice   [R, M], or BM25's factors
//   row kernel: loss rows, and G = d loss / d scores in place of scores, in the operands' type
//   grad_query_block = alpha * G @ code;   grad_code += alpha * G^T @ query_block
//
// A small batch takes one launch instead (small_batch.cpp).
//
// Never materialised: anything [N, M]. Sums are fp32 (fp64 for fp64) in the GEMMs and the row
// kernel, double in the total; grad_code is accumulated over the blocks in fp32. Every sum has a
// fixed order: results are bitwise repeatable. Nothing synchronises, all memory is torch's: the ops
// run on the current stream and can be captured in a CUDA graph.
//
// Half operands: scale and row_weight go into alpha, so that G is p - [i = j] in [-1, 1] and not
// p / N, which fp16 could not hold. fp16 G is moreover kept times a gain (half_gain).
// A row weight of each row's own (rows_backward) has no such factor to be drawn out: bf16 has the
// range for it; fp16, which a GradScaler's 65,536 would overflow, is converted to fp32 for that op
// and multiplied as TF32, whose 11 significant bits are those of fp16 in the range of fp32.
#include <algorithm>
#include <optional>
#include <string>
#include <tuple>
#include <utility>

#include "step.h"

namespace softnce::cuda {
namespace {

// Rows of a block: grad_code is read and written once per block, and small blocks leave the last
// wave of a GEMM's tiles half empty. 2,048 to 8,192 are alike. A block's scores stay below 4 GiB.
constexpr int64_t kBlockRows = 4096;
constexpr int64_t kBlockElements = int64_t{1} << 30;
constexpr int64_t kTileRows = 128;
// The stride of a half row in place of an fp32 one is 2 M, which cuBLAS takes as an int.
constexpr int64_t kMaxColumns = (int64_t{1} << 30) - kPadding;

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Blocks of equal size, whole tiles, so that the last one is no small rest.
int64_t choose_block_rows(const Arguments& a) {
  const int64_t n = a.rows();
  if (a.block_rows > 0) return std::min(a.block_rows, n);
  const int64_t most = std::clamp(kBlockElements / a.columns(), kTileRows, kBlockRows);
  const int64_t even = divide_up(n, divide_up(n, most));
  return std::min(divide_up(even, kTileRows) * kTileRows, n);
}

// What one block is worked on in; nothing else is as wide as M.
struct Buffers {
  int64_t rows;
  Tensor scores;                  // [R, padded M]
  std::optional<Tensor> scratch;  // [R, padded M]: the teacher's similarities, or long rows' values
};

// How many of the wanted rows would fit, in words; asked of the driver only where memory did not
// suffice. torch may hold memory that the driver calls used, or be forbidden some that is free.
std::string rows_that_fit(int64_t row_bytes, int64_t wanted) {
  size_t free = 0, total = 0;
  if (cudaMemGetInfo(&free, &total) != cudaSuccess) return "fewer would fit";
  const int64_t rows = static_cast<int64_t>(free) / row_bytes;
  if (rows >= wanted) return "fewer would fit";
  return rows == 0 ? "not even one fits" : "block_rows = " + std::to_string(rows) + " would fit";
}

// Buffers, and the outputs that are to have room beside them. Where the caller leaves the choice,
// half as many rows are tried where memory does not suffice: slower, with the same result.
std::tuple<Buffers, Outputs> allocate(const Arguments& a, const Wanted& wanted, bool has_scratch) {
  const ScalarType input = a.query.scalar_type(), type = accumulate_type(input);
  const int64_t stride = padded(a.columns());
  for (int64_t rows = choose_block_rows(a);; rows = divide_up(rows, 2)) {
    try {
      // grad_code is added to by block after block.
      Outputs out = new_outputs(a, wanted, rows < a.rows() ? type : gradient_type(input));
      Buffers buffers{rows, new_tensor(a.query, {rows, stride}, type), {}};
      if (has_scratch) buffers.scratch = new_tensor(a.query, {rows, stride}, type);
      return {std::move(buffers), std::move(out)};
    } catch (const std::exception& error) {
      if (rows > kTileRows && a.block_rows == 0) continue;
      const int64_t row_bytes = (has_scratch ? 2 : 1) * stride * bytes_of(type);
      STD_TORCH_CHECK(false, "no memory for a block of ", rows, " rows of scores, ", row_bytes,
                      " bytes each: ", rows_that_fit(row_bytes, rows), " (", error.what(), ")");
    }
  }
}

// The block loop.
template <typename T>
Outputs run_blocks(const Arguments& a, const Current& current, const Wanted& wanted) {
  const ScalarType input = a.query.scalar_type(), type = accumulate_type(input);
  const int64_t n = a.rows(), m = a.columns();
  STD_TORCH_CHECK(m <= kMaxColumns, "code must have at most ", kMaxColumns, " rows, got ", m);
  const bool tf32 = input == ScalarType::Half && wanted.row_weights;
  const ScalarType operand = tf32 ? ScalarType::Float : input;
  RowBlock<T> block = common_rows<T>(a, wanted, operand);
  block.round_to_tf32 = tf32;
  const double alpha = a.scale * wanted.row_weight / static_cast<double>(block.gain);

  const Tensor query = dense(a.query, operand), code = dense(a.code, operand);
  const Matrix all_code = rows_of(code, 0, m);
  std::optional<GivenSimilarity> similarity;
  std::optional<Tensor> teacher_query, teacher_code;
  if (a.similarity) similarity.emplace(*a.similarity, type);
  if (a.teacher_query) {
    const ScalarType given = a.teacher_query->scalar_type();
    const bool convert = type == ScalarType::Double || given == ScalarType::Double;
    teacher_query = dense(*a.teacher_query, convert ? type : given);
    teacher_code = dense(*a.teacher_code, convert ? type : given);
  }
  const std::optional<Tensor> query_groups = contiguous(a.query_groups);
  const std::optional<Tensor> code_groups = contiguous(a.code_groups);

  const Family family = family_of(a.rule.objective, a.factors.has_value());
  const RowPlan plan = plan_rows(family, m, bytes_of(type), current.limits());
  const bool long_rows = plan.place == Place::kGlobal && a.has_similarity();
  const Blas blas;  // torch gives it a workspace: before the largest block that fits is taken
  auto [buffers, out] = allocate(a, wanted, teacher_query || long_rows);

  block.scores = buffers.scores.template mutable_data_ptr<T>();
  block.scratch = long_rows ? buffers.scratch->template mutable_data_ptr<T>() : nullptr;
  block.code_groups = data_of<int64_t>(code_groups);

  for (int64_t begin = 0; begin < n; begin += buffers.rows) {
    const int64_t count = std::min(buffers.rows, n - begin);
    const Matrix query_block = rows_of(query, begin, count);
    const Matrix scores = block_of(buffers.scores, count, m);
    blas.gemm(scores, query_block, transpose(all_code), a.scale, 0, tf32);

    if (teacher_query) {
      const Matrix products = block_of(*buffers.scratch, count, m);
      blas.gemm(products, rows_of(*teacher_query, begin, count),
                transpose(rows_of(*teacher_code, 0, m)), 1, 0);
      block.similarity = products.data;
      block.similarity_type = storage_of(type);
      block.similarity_stride = products.stride;
    } else if (similarity) {
      similarity->select(block, begin, count);
    }
    block.rows = count;
    block.factors = postings_of(a.factors, begin);
    block.query_groups = data_of<int64_t>(query_groups, begin);
    block.row_weights = data_of<T>(wanted.row_weights, begin);
    block.loss = out.loss.template mutable_data_ptr<T>() + begin;
    block.first_positive = begin + a.positive_offset;
    STD_CUDA_CHECK(launch_rows(block, family, plan, current.stream()));

    const Matrix grad_scores = gradient_of(scores, operand);
    if (wanted.grad_query)
      blas.gemm(rows_of(out.grad_query, begin, count), grad_scores, all_code, alpha, 0, tf32);
    if (wanted.grad_code)
      blas.gemm(rows_of(out.grad_code, 0, m), transpose(grad_scores), query_block, alpha,
                begin == 0 ? 0 : 1, tf32);
  }
  out.grad_code = as_type(out.grad_code, gradient_type(input));
  if (out.total)
    STD_CUDA_CHECK(launch_total(out.loss.template const_data_ptr<T>(), n, wanted.row_weight,
                                out.total->template mutable_data_ptr<T>(), current.stream()));
  return std::move(out);
}

template <typename T>
Outputs run_step(const Arguments& a, const Current& current, const Wanted& wanted) {
  std::optional<Outputs> out = run_small_batch(a, current, wanted);
  return out ? std::move(*out) : run_blocks<T>(a, current, wanted);
}

// What Ops (arguments.h) asks of a device.
struct Kernel {
  template <typename T>
  static std::tuple<Tensor, Tensor, Tensor> reduced(const Arguments& a, bool mean,
                                                    bool need_grad_query, bool need_grad_code) {
    const double row_weight = mean ? 1.0 / static_cast<double>(a.rows()) : 1.0;
    Outputs out = run_step<T>(a, Current(a.query),
                              {row_weight, std::nullopt, need_grad_query, need_grad_code, true});
    return {*out.total, out.grad_query, out.grad_code};
  }

  template <typename T>
  static Tensor rows(const Arguments& a) {
    return run_step<T>(a, Current(a.query), {1, std::nullopt, false, false, false}).loss;
  }

  template <typename T>
  static std::tuple<Tensor, Tensor> rows_backward(const Arguments& a, const Tensor& grad_loss,
                                                  bool need_grad_query, bool need_grad_code) {
    const Current current(a.query);
    const Tensor row_weights = dense(grad_loss, accumulate_type(a.query.scalar_type()));
    Outputs out = run_step<T>(a, current, {1, row_weights, need_grad_query, need_grad_code, false});
    return {out.grad_query, out.grad_code};
  }
};

}  // namespace
}  // namespace softnce::cuda

STABLE_TORCH_LIBRARY_IMPL(softnce_ext, CUDA, m) {
  m.impl("soft_info_nce", &softnce::Ops<softnce::cuda::Kernel>::soft_info_nce);
  m.impl("soft_info_nce_rows", &softnce::Ops<softnce::cuda::Kernel>::rows);
  m.impl("soft_info_nce_rows_backward", &softnce::Ops<softnce::cuda::Kernel>::rows_backward);
}
