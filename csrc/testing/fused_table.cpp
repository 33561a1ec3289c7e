// The small-batch kernel by the type of its inputs.
#include "../cuda/fused_step.cuh"
#include "row_table.h"

namespace softnce::testing {
namespace {

// rows, columns, parts and fine as the digits of a number; 0 leaves the choice.
void override_tiles(cuda::TileShape& shape, double digits) {
  const int number = static_cast<int>(digits);
  if (number != 0) shape = {number / 1000, number / 100 % 10, number / 10 % 10, number % 10 != 0};
}

template <typename V>
void run_fused_step(const KernelArguments& a) {
  cuda::FusedStep step{};
  step.rows = row_block<float>(a);
  step.common = cuda::family_of(step.rows.rule.objective,
                                step.rows.factors.query_indptr != nullptr) == cuda::Family::kSoft;
  step.products = a.array<float>("products");
  if (step.products != nullptr) {
    step.rows.similarity = step.products;
    step.rows.similarity_stride = step.rows.stride;
  }
  step.query = a.array<V>("query");
  step.code = a.array<V>("code");
  step.teacher_query = a.array<V>("teacher_query");
  step.teacher_code = a.array<V>("teacher_code");
  step.width = static_cast<int32_t>(a.number("width"));
  step.teacher_width = static_cast<int32_t>(a.number("teacher_width"));
  step.scale = static_cast<float>(a.number("scale"));
  step.alpha = static_cast<float>(a.number("alpha_of_products"));
  step.grad_query = a.untyped_array("grad_query");
  step.grad_code = a.untyped_array("grad_code");
  step.total = a.array<float>("total");
  step.total_weight = a.number("total_weight");

  host_cuda::Launch launch = a.launch;
  launch.grid = static_cast<unsigned>(plan_tiles(step, sizeof(V) == 2, a.launch.grid.x));
  override_tiles(step.score_tiles, a.number("score_tiles"));
  override_tiles(step.gradient_tiles, a.number("gradient_tiles"));
  launch.block = cuda::kFusedThreads;
  launch.cooperative = true;
  launch.shared_bytes = static_cast<size_t>(cuda::fused_shared_bytes<V>(step.rows.columns));
  host_cuda::launch(launch, [&] { cuda::fused_step_kernel<V>(step); });
}

bool add_fused_steps() {
  KernelTable& table = kernel_table();
  table["fused_step_bf16"] = run_fused_step<__nv_bfloat16>;
  table["fused_step_f16"] = run_fused_step<__half>;
  table["fused_step_f32"] = run_fused_step<float>;
  return true;
}

const bool added = add_fused_steps();

}  // namespace
}  // namespace softnce::testing
