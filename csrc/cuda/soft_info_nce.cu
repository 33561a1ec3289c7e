// Soft-InfoNCE on CUDA: row blocks of two GEMMs in, one row kernel, two GEMMs out. The twin of
// cpu/soft_info_nce.cpp.
//
//   scores     = scale * query_block @ code^T                       [R, M] fp32 (fp64 for fp64)
//   similarity = teacher_query_block @ teacher_code^T, or a slice   [R, M]
//   row kernel: loss rows, and G = d loss / d scores in place of scores, in the operands' type
//   grad_query_block = alpha * G @ code;   grad_code += alpha * G^T @ query_block
//
// Never materialised: anything [N, M]. The row kernel has one thread block per row
// (row_kernel.cuh). Sums are fp32 (fp64 for fp64) in the GEMMs and the row kernel, double in the
// total; grad_code is accumulated over the blocks in fp32. Every sum has a fixed order: results are
// bitwise repeatable. Nothing synchronises, all memory is torch's: the ops run on the current
// stream and can be captured in a CUDA graph.
//
// Half operands: scale and row_weight go into alpha, so that G is p - [i = j] in [-1, 1] and not
// p / N, which fp16 could not hold. fp16 G is moreover kept times 2^14 (p = 3e-12 is still not 0).
// A row weight of each row's own (rows_backward) has no such factor to be drawn out: bf16 has the
// range for it; fp16, which a GradScaler's 65,536 would overflow, is converted to fp32 for that op
// and multiplied as TF32, whose 11 significant bits are those of fp16 in the range of fp32.
#include <cuda_runtime.h>

#include <algorithm>
#include <optional>
#include <tuple>

#include "../arguments.h"
#include "blas.h"
#include "row_kernel.cuh"

namespace softnce::cuda {
namespace {

// Rows of a block: grad_code is read and written once per block, and small blocks leave the last
// wave of a GEMM's tiles half empty. 2,048 to 8,192 are alike. A block's scores stay below 4 GiB.
constexpr int64_t kBlockRows = 4096;
constexpr int64_t kBlockElements = int64_t{1} << 30;
constexpr int64_t kTileRows = 128;
// The stride of a half row in place of an fp32 one is 2 M, which cuBLAS takes as an int.
constexpr int64_t kMaxColumns = int64_t{1} << 30;
constexpr double kHalfGain = 16384;
// Left for the row kernel's own shared variables.
constexpr int kReservedSharedBytes = 1024;

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

Tensor dense(const Tensor& tensor, ScalarType type) {
  if (tensor.scalar_type() == type) return torch::stable::contiguous(tensor);
  return torch::stable::contiguous(torch::stable::to(tensor, type));
}

int64_t bytes(ScalarType type) {
  return type == ScalarType::Double ? 8 : type == ScalarType::Float ? 4 : 2;
}

void* offset(const void* data, ScalarType type, int64_t elements) {
  return static_cast<char*>(const_cast<void*>(data)) + elements * bytes(type);
}

// Rows [begin, begin + count) of a contiguous tensor.
Matrix rows_of(const Tensor& tensor, int64_t begin, int64_t count) {
  const int64_t columns = tensor.size(1);
  return {offset(tensor.const_data_ptr(), tensor.scalar_type(), begin * columns),
          tensor.scalar_type(), count, columns, columns};
}

// Blocks of equal size, whole tiles, so that the last one is no small rest.
int64_t choose_block_rows(const Arguments& a) {
  const int64_t n = a.rows();
  if (a.block_rows > 0) return std::min(a.block_rows, n);
  const int64_t most = std::clamp(kBlockElements / a.columns(), kTileRows, kBlockRows);
  const int64_t even = divide_up(n, divide_up(n, most));
  return std::min(divide_up(even, kTileRows) * kTileRows, n);
}

template <typename T>
int choose_threads(int64_t columns) {
  if (columns <= 256) return 64;
  if (columns <= 1024) return 128;
  if (columns <= 4096) return 256;
  return columns <= 16384 ? 512 : kRowThreads<T>;
}

// Where the kernels run, and their launches.
struct Launch {
  torch::stable::accelerator::DeviceGuard guard;
  cudaStream_t stream;
  int64_t shared_bytes;  // the most a block may ask for

  explicit Launch(const Tensor& like) : guard(like.get_device_index()) {
    const int device = like.get_device_index();
    // This library carries a CUDA runtime of its own, and a runtime its own current device.
    STD_CUDA_CHECK(cudaSetDevice(device));
    void* current = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device, &current));
    stream = static_cast<cudaStream_t>(current);
    int most = 0;
    STD_CUDA_CHECK(cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
    shared_bytes = most - kReservedSharedBytes;
  }

  template <typename T>
  bool fits_shared(int64_t columns) const {
    return columns * static_cast<int64_t>(sizeof(T)) <= shared_bytes;
  }

  template <typename T, typename G>
  void rows(const RowBlock<T>& block, int64_t count) const {
    const dim3 grid(static_cast<unsigned>(count)), threads(choose_threads<T>(block.columns));
    if (fits_shared<T>(block.columns)) {
      // Always the same value, since another thread may be about to launch a larger block.
      STD_CUDA_CHECK(cudaFuncSetAttribute(row_kernel<T, G, true>,
                                          cudaFuncAttributeMaxDynamicSharedMemorySize,
                                          static_cast<int>(shared_bytes)));
      row_kernel<T, G, true><<<grid, threads, block.columns * sizeof(T), stream>>>(block);
    } else {
      row_kernel<T, G, false><<<grid, threads, 0, stream>>>(block);
    }
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  }

  template <typename T>
  void rows(const RowBlock<T>& block, int64_t count, ScalarType gradient) const {
    if constexpr (std::is_same_v<T, double>)
      return rows<double, double>(block, count);
    else if (gradient == ScalarType::Half)
      return rows<float, __half>(block, count);
    else if (gradient == ScalarType::BFloat16)
      return rows<float, __nv_bfloat16>(block, count);
    else
      return rows<float, float>(block, count);
  }

  template <typename T>
  void total(const Tensor& loss, double weight, const Tensor& total) const {
    total_kernel<T><<<1, kMaxThreads, 0, stream>>>(loss.const_data_ptr<T>(), loss.size(0), weight,
                                                   total.mutable_data_ptr<T>());
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  }
};

struct Outputs {
  Tensor loss;        // [N]
  Tensor grad_query;  // [N, D] or empty
  Tensor grad_code;   // [M, D] or empty
};

// The block loop. Row i's gradient is that of row_weight * loss_i, and of row_weights[i] * loss_i
// where the rows have their own.
template <typename T>
Outputs run_blocks(const Arguments& a, const Launch& launch, double row_weight,
                   const std::optional<Tensor>& row_weights, bool need_grad_query,
                   bool need_grad_code) {
  const ScalarType input = a.query.scalar_type(), type = accumulate_type(input);
  const int64_t n = a.rows(), m = a.columns(), d = a.query.size(1);
  STD_TORCH_CHECK(m < kMaxColumns, "code must have fewer than 2^30 rows, got ", m);
  const int64_t block_rows = choose_block_rows(a);
  const bool is_half = input == ScalarType::Half;
  const bool tf32 = is_half && row_weights;
  const ScalarType operand = tf32 ? ScalarType::Float : input;
  const double gain = operand == ScalarType::Half ? kHalfGain : 1;
  const double alpha = a.scale * row_weight / gain;

  const Tensor query = dense(a.query, operand), code = dense(a.code, operand);
  const Matrix all_code = rows_of(code, 0, m);
  const Tensor scores_buffer = torch::stable::new_empty(query, {block_rows, m}, type);
  std::optional<Tensor> similarity, teacher_query, teacher_code, scratch;
  if (a.similarity) {
    similarity = *a.similarity;
    if (similarity->stride(1) != 1) similarity = torch::stable::contiguous(*similarity);
  }
  if (a.teacher_query) {
    const ScalarType given = a.teacher_query->scalar_type();
    const bool convert = type == ScalarType::Double || given == ScalarType::Double;
    teacher_query = dense(*a.teacher_query, convert ? type : given);
    teacher_code = dense(*a.teacher_code, convert ? type : given);
  }
  // The teacher's similarities, which the row kernel may overwrite; and its place to work where
  // rows do not fit shared memory.
  if (teacher_query || ((similarity || a.query_groups) && !launch.fits_shared<T>(m)))
    scratch = torch::stable::new_empty(query, {block_rows, m}, type);
  std::optional<Tensor> query_groups, code_groups;
  if (a.query_groups) {
    query_groups = torch::stable::contiguous(*a.query_groups);
    code_groups = torch::stable::contiguous(*a.code_groups);
  }

  const ScalarType gradient = gradient_type(input);
  const bool several_blocks = block_rows < n;
  const Tensor loss = torch::stable::new_empty(query, {n}, type);
  const Tensor grad_query = torch::stable::new_empty(query, {need_grad_query ? n : 0, d}, gradient);
  const Tensor grad_code = torch::stable::new_empty(query, {need_grad_code ? m : 0, d},
                                                    several_blocks ? type : gradient);

  RowBlock<T> block{};
  block.scores = scores_buffer.mutable_data_ptr<T>();
  block.scratch = scratch ? scratch->mutable_data_ptr<T>() : nullptr;
  block.code_groups = code_groups ? code_groups->const_data_ptr<int64_t>() : nullptr;
  block.columns = static_cast<int32_t>(m);
  block.inverse_temperature = inverse_temperature<T>(a.rule);
  block.rule = a.rule;
  block.line = weight_line<T>(a.rule, m - 1);
  block.eps = static_cast<T>(a.eps);
  block.gain = static_cast<T>(gain);
  block.need_gradient = need_grad_query || need_grad_code;
  block.round_to_tf32 = tf32;

  const Blas blas;
  for (int64_t begin = 0; begin < n; begin += block_rows) {
    const int64_t count = std::min(block_rows, n - begin);
    const Matrix query_block = rows_of(query, begin, count);
    blas.gemm(rows_of(scores_buffer, 0, count), query_block, transpose(all_code), a.scale, 0, tf32);

    if (teacher_query) {
      blas.gemm(rows_of(*scratch, 0, count), rows_of(*teacher_query, begin, count),
                transpose(rows_of(*teacher_code, 0, m)), 1, 0);
      block.similarity = block.scratch;
      block.similarity_type = type;
      block.similarity_stride = m;
    } else if (similarity) {
      block.similarity_type = similarity->scalar_type();
      block.similarity_stride = similarity->stride(0);
      block.similarity = offset(similarity->const_data_ptr(), block.similarity_type,
                                begin * block.similarity_stride);
    }
    block.query_groups = query_groups ? query_groups->const_data_ptr<int64_t>() + begin : nullptr;
    block.row_weights = row_weights ? row_weights->const_data_ptr<T>() + begin : nullptr;
    block.loss = loss.mutable_data_ptr<T>() + begin;
    block.first_positive = begin + a.positive_offset;
    launch.rows(block, count, operand);

    // G in place of the scores: a row of halves keeps its fp32 row's place, so its stride is 2 M.
    Matrix grad_scores = rows_of(scores_buffer, 0, count);
    grad_scores.type = operand;
    grad_scores.stride = m * (bytes(type) / bytes(operand));
    if (need_grad_query)
      blas.gemm(rows_of(grad_query, begin, count), grad_scores, all_code, alpha, 0, tf32);
    if (need_grad_code)
      blas.gemm(rows_of(grad_code, 0, m), transpose(grad_scores), query_block, alpha,
                begin == 0 ? 0 : 1, tf32);
  }
  return {loss, grad_query, several_blocks ? torch::stable::to(grad_code, gradient) : grad_code};
}

// What Ops (arguments.h) asks of a device.
struct Kernel {
  template <typename T>
  static std::tuple<Tensor, Tensor, Tensor> reduced(const Arguments& a, bool mean,
                                                    bool need_grad_query, bool need_grad_code) {
    const double row_weight = mean ? 1.0 / static_cast<double>(a.rows()) : 1.0;
    const Launch launch(a.query);
    Outputs out =
        run_blocks<T>(a, launch, row_weight, std::nullopt, need_grad_query, need_grad_code);
    Tensor loss = torch::stable::new_empty(out.loss, {});
    launch.total<T>(out.loss, row_weight, loss);
    return {loss, out.grad_query, out.grad_code};
  }

  template <typename T>
  static Tensor rows(const Arguments& a) {
    return run_blocks<T>(a, Launch(a.query), 1, std::nullopt, false, false).loss;
  }

  template <typename T>
  static std::tuple<Tensor, Tensor> rows_backward(const Arguments& a, const Tensor& grad_loss,
                                                  bool need_grad_query, bool need_grad_code) {
    const Launch launch(a.query);
    const Tensor row_weights = dense(grad_loss, accumulate_type(a.query.scalar_type()));
    Outputs out = run_blocks<T>(a, launch, 1, row_weights, need_grad_query, need_grad_code);
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
