// The step of a small batch by one cooperative launch (fused_step.cuh): whether to take it, and its
// arguments.
//
// It is not taken for fp64, for fp16 with a weight of each row's own, for the losses with soft
// targets, for a teacher in another type, where sizes or addresses do not allow 16-byte reads, on
// request (block_rows is given, or the environment has SOFTNCE_FUSED_STEP=0, for comparisons), or
// where the GPU cannot hold all blocks at once.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdlib>
#include <string_view>

#include "step.h"

namespace softnce::cuda {
namespace {

// N * M * D up to which one launch is taken; estimates, to be replaced by measurements. mma.sync
// reaches about half of what cuBLAS gets from the tensor cores, plain fp32 less, so beyond these
// the composed path's GEMMs make up for the gaps between its launches.
constexpr int64_t kHalfProducts = int64_t{1} << 30;   // N = M = 1,180 at D = 768
constexpr int64_t kFloatProducts = int64_t{1} << 24;  // N = M = 148

bool is_forbidden() {
  static const bool forbidden = [] {
    const char* const value = std::getenv("SOFTNCE_FUSED_STEP");
    return value != nullptr && std::string_view(value) == "0";
  }();
  return forbidden;
}

bool reads_whole_vectors(const Tensor& tensor) {
  return tensor.size(1) % kFusedWidth == 0 &&
         reinterpret_cast<uintptr_t>(tensor.const_data_ptr()) % 16 == 0;
}

bool is_small(const Arguments& a) {
  const ScalarType type = a.query.scalar_type();
  if (type == ScalarType::Double || a.columns() > kFusedColumns || a.block_rows > 0) return false;
  const int64_t most = type == ScalarType::Float ? kFloatProducts : kHalfProducts;
  return a.rows() * a.columns() <= most / std::max<int64_t>(a.query.size(1), 1);
}

Family family(const Arguments& a) { return family_of(a.rule.objective, a.factors.has_value()); }

// The blocks that are live at once, 0 where the GPU has no cooperative launch. Asked once for each
// GPU and type.
template <typename V>
int64_t live_blocks(const Current& current) {
  constexpr size_t kGpus = 64;
  static std::array<std::atomic<int64_t>, kGpus> known{};  // plus 1
  const auto gpu = static_cast<size_t>(current.device());
  if (gpu < kGpus)
    if (const int64_t found = known[gpu].load()) return found - 1;
  int blocks = 0;
  if (current.cooperative() > 0)
    STD_CUDA_CHECK(fused_blocks<V>(kFusedColumns, current.stream(), &blocks));
  const int64_t all = blocks * int64_t{current.cooperative()};
  if (gpu < kGpus) known[gpu].store(all + 1);
  return all;
}

template <typename V>
std::optional<Outputs> run(const Arguments& a, const Current& current, const Wanted& wanted) {
  const int64_t blocks = live_blocks<V>(current);
  if (blocks == 0) return std::nullopt;
  const ScalarType input = a.query.scalar_type();
  const Tensor query = dense(a.query, input), code = dense(a.code, input);
  if (!reads_whole_vectors(query) || !reads_whole_vectors(code)) return std::nullopt;
  std::optional<Tensor> teacher_query, teacher_code;
  if (a.teacher_query) {
    if (a.teacher_query->scalar_type() != input) return std::nullopt;
    teacher_query = dense(*a.teacher_query, input);
    teacher_code = dense(*a.teacher_code, input);
    if (!reads_whole_vectors(*teacher_query) || !reads_whole_vectors(*teacher_code))
      return std::nullopt;
  }
  const std::optional<Tensor> query_groups = contiguous(a.query_groups);
  const std::optional<Tensor> code_groups = contiguous(a.code_groups);

  Outputs out = new_outputs(a, wanted, gradient_type(input));
  const int64_t n = a.rows(), stride = padded(a.columns());
  const Tensor scores = new_tensor(query, {n, stride}, ScalarType::Float);
  FusedStep step{};
  step.common = family(a) == Family::kSoft;
  step.rows = common_rows<float>(a, wanted, input);
  step.rows.rows = n;
  step.rows.scores = scores.mutable_data_ptr<float>();
  std::optional<Tensor> products;
  std::optional<GivenSimilarity> similarity;
  if (teacher_query) {
    products = new_tensor(query, {n, stride}, ScalarType::Float);
    step.products = products->mutable_data_ptr<float>();
    step.rows.similarity = step.products;
    step.rows.similarity_type = Storage::kFloat;
    step.rows.similarity_stride = stride;
    step.teacher_query = teacher_query->const_data_ptr();
    step.teacher_code = teacher_code->const_data_ptr();
    step.teacher_width = static_cast<int32_t>(teacher_query->size(1));
  } else if (a.similarity) {
    similarity.emplace(*a.similarity, ScalarType::Float);
    similarity->select(step.rows, 0, n);
  }
  step.rows.factors = postings_of(a.factors, 0);
  step.rows.query_groups = data_of<int64_t>(query_groups);
  step.rows.code_groups = data_of<int64_t>(code_groups);
  step.rows.row_weights = data_of<float>(wanted.row_weights);
  step.rows.loss = out.loss.mutable_data_ptr<float>();
  step.rows.first_positive = a.positive_offset;

  step.query = query.const_data_ptr();
  step.code = code.const_data_ptr();
  step.width = static_cast<int32_t>(query.size(1));
  step.scale = static_cast<float>(a.scale);
  step.alpha = static_cast<float>(a.scale * wanted.row_weight / step.rows.gain);
  step.grad_query = wanted.grad_query ? out.grad_query.mutable_data_ptr() : nullptr;
  step.grad_code = wanted.grad_code ? out.grad_code.mutable_data_ptr() : nullptr;
  step.total = out.total ? out.total->mutable_data_ptr<float>() : nullptr;
  step.total_weight = wanted.row_weight;
  const cudaError_t error = launch_fused_step<V>(step, blocks, current.stream());
  if (error == cudaErrorCooperativeLaunchTooLarge) {  // some multiprocessors are kept from us
    cudaGetLastError();                               // which forgets it
    return std::nullopt;
  }
  STD_CUDA_CHECK(error);
  return out;
}

}  // namespace

std::optional<Outputs> run_small_batch(const Arguments& a, const Current& current,
                                       const Wanted& wanted) {
  if (is_forbidden() || family(a) == Family::kTargets || !is_small(a)) return std::nullopt;
  switch (a.query.scalar_type()) {
    case ScalarType::BFloat16:
      return run<__nv_bfloat16>(a, current, wanted);
    case ScalarType::Half:
      // Row weights of a GradScaler's size are beyond fp16: the composed path has TF32 for them.
      if (wanted.row_weights) return std::nullopt;
      return run<__half>(a, current, wanted);
    default:
      return run<float>(a, current, wanted);
  }
}

}  // namespace softnce::cuda
