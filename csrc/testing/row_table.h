// The row kernel by name, for one type of scores: row_table_f32.cpp and row_table_f64.cpp, so that
// both compile at once.
#pragma once

#include <string>

#include "../cuda/row_kernel.cuh"
#include "kernel_table.h"

namespace softnce::testing {

template <typename T>
cuda::RowBlock<T> row_block(const KernelArguments& a) {
  const auto whole = [&](const char* name) { return static_cast<int64_t>(a.number(name)); };
  const auto storage = [&](const char* name) { return static_cast<cuda::Storage>(whole(name)); };
  cuda::RowBlock<T> b{};
  b.columns = static_cast<int32_t>(whole("columns"));
  b.stride = cuda::padded(b.columns);
  b.scores = a.array<T>("scores");
  b.rows = a.size("scores") / b.stride;
  b.gradient = storage("gradient");
  b.similarity = a.untyped_array("similarity");
  b.similarity_type = storage("similarity_type");
  b.similarity_stride = whole("similarity_stride");
  if (a.array<int64_t>("query_indptr") != nullptr) {
    cuda::Postings& f = b.factors;
    f.query_indptr = a.array<int64_t>("query_indptr");
    f.query_term = a.array<int32_t>("query_term");
    f.query_count = a.array<float>("query_count");
    f.query_terms = a.size("query_term");
    f.indptr = a.array<int64_t>("indptr");
    f.terms = a.size("indptr") - 1;
    f.document = a.array<int32_t>("document");
    f.weight = a.array<float>("weight");
    f.postings = a.size("document");
    f.document_length = a.array<int64_t>("document_length");
    f.documents = static_cast<int32_t>(a.size("document_length"));
  }
  b.scratch = a.array<T>("scratch");
  b.query_groups = a.array<int64_t>("query_groups");
  b.code_groups = a.array<int64_t>("code_groups");
  b.row_weights = a.array<T>("row_weights");
  b.loss = a.array<T>("loss");
  b.first_positive = whole("first_positive");
  b.rule = {static_cast<Objective>(whole("objective")),
            a.number("alpha"),
            a.number("beta"),
            a.number("temperature"),
            a.number("min_weight"),
            a.number("cutoff")};
  b.line = weight_line<T>(b.rule, b.columns - 1);
  b.inverse_temperature = inverse_temperature<T>(b.rule);
  b.similarity_exponent = cuda::similarity_exponent<T>(b.rule);
  b.eps = static_cast<T>(a.number("eps"));
  b.gain = static_cast<T>(a.number("gain"));
  b.need_gradient = a.flag("need_gradient");
  b.round_to_tf32 = a.flag("round_to_tf32");
  return b;
}

// Each with exactly the shared memory it takes, so that a byte more is found.

template <typename T>
void run_warp_rows(const KernelArguments& a) {
  const cuda::RowBlock<T> b = row_block<T>(a);
  host_cuda::Launch launch = a.launch;
  launch.grid = static_cast<unsigned>((b.rows + cuda::kWarpRows - 1) / cuda::kWarpRows);
  launch.block = cuda::kWarpRows * cuda::kWarp;
  launch.shared_bytes = cuda::kWarpRows * static_cast<size_t>(cuda::padded(b.columns)) * sizeof(T);
  host_cuda::launch(launch, [&] { cuda::warp_row_kernel<T>(b); });
}

template <typename T>
void run_block_rows(const KernelArguments& a) {
  const cuda::RowBlock<T> b = row_block<T>(a);
  const int cluster = static_cast<int>(a.launch.cluster);
  host_cuda::Launch launch = a.launch;
  launch.grid = static_cast<unsigned>(b.rows * cluster);
  launch.shared_bytes =
      cuda::kReduceBytes + static_cast<size_t>(cuda::span_columns(b.columns, cluster)) * sizeof(T);
  host_cuda::launch(launch, [&] { cuda::block_row_kernel<T>(b, cluster); });
}

template <typename T, cuda::Family kFamily>
void run_any_rows(const KernelArguments& a) {
  const cuda::RowBlock<T> b = row_block<T>(a);
  const int cluster = a.flag("is_global") ? 0 : static_cast<int>(a.launch.cluster);
  const size_t arrays = kFamily == cuda::Family::kTargets ? 2 : 1;
  host_cuda::Launch launch = a.launch;
  launch.grid = static_cast<unsigned>(b.rows) * launch.cluster;
  launch.shared_bytes = cuda::kReduceBytes;
  if (cluster > 0)
    launch.shared_bytes +=
        arrays * static_cast<size_t>(cuda::span_columns(b.columns, cluster)) * sizeof(T);
  host_cuda::launch(launch, [&] { cuda::any_row_kernel<T, kFamily>(b, cluster); });
}

template <typename T>
bool add_row_kernels(const std::string& type) {
  KernelTable& table = kernel_table();
  if constexpr (sizeof(T) == 4) {  // as plan_rows chooses
    table["warp_row_" + type] = run_warp_rows<T>;
    table["block_row_" + type] = run_block_rows<T>;
  }
  table["any_row_soft_" + type] = run_any_rows<T, cuda::Family::kSoft>;
  table["any_row_cancellation_" + type] = run_any_rows<T, cuda::Family::kCancellation>;
  table["any_row_targets_" + type] = run_any_rows<T, cuda::Family::kTargets>;
  table["total_" + type] = [](const KernelArguments& a) {
    const T* const loss = a.array<T>("loss");
    T* const total = a.array<T>("total");
    const int64_t rows = a.size("loss");
    const double weight = a.number("weight");
    host_cuda::Launch launch = a.launch;
    launch.block = cuda::kTotalThreads;
    launch.shared_bytes = cuda::kReduceBytes;
    host_cuda::launch(launch, [&] { cuda::total_kernel<T>(loss, rows, weight, total); });
  };
  return true;
}

}  // namespace softnce::testing
