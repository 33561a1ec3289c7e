// The row kernels by name, for one type of scores: row_table_f32.cpp and row_table_f64.cpp. They
// run through the project's own launchers (rows.h).
#pragma once

#include <string>

#include "../cuda/rows.h"
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
  const double gain = a.number("gain");  // 0: that of fp16 gradients
  b.gain = static_cast<T>(gain > 0 ? gain : cuda::half_gain(b.rule));
  b.need_gradient = a.flag("need_gradient");
  b.round_to_tf32 = a.flag("round_to_tf32");
  return b;
}

// As plan_rows would choose on a GPU of "shared_bytes" and "clusters"; or, with a "place", that one
// whatever the row's length, with exactly the memory it takes, so that a byte more is found.
template <typename T>
cuda::RowPlan row_plan(const KernelArguments& a, const cuda::RowBlock<T>& b, cuda::Family family) {
  const auto place = static_cast<cuda::Place>(a.number("place"));
  if (a.number("place") < 0)
    return cuda::plan_rows(
        family, b.columns, sizeof(T),
        {static_cast<int64_t>(a.number("gpu_shared_bytes")), a.flag("clusters")});
  const int threads = static_cast<int>(a.number("threads"));
  const int cluster = static_cast<int>(a.number("blocks"));
  const int64_t bytes = sizeof(T) * (family == cuda::Family::kTargets ? 2 : 1);
  switch (place) {
    case cuda::Place::kWarp:
      return {place, true, cuda::kWarpRows * cuda::kWarp, 1,
              cuda::kWarpRows * bytes * cuda::padded(b.columns)};
    case cuda::Place::kBlock:
      return {place, a.flag("fast"), threads, cluster,
              cuda::kReduceBytes + bytes * cuda::span_columns(b.columns, cluster)};
    default:
      return {place, false, threads, 0, cuda::kReduceBytes};
  }
}

inline CUstream_st stream_of(const KernelArguments& a) { return {a.launch.order}; }

constexpr int64_t kSharedBytes = 227 * 1024;  // of an H100

template <typename T>
void run_rows(const KernelArguments& a) {
  cuda::RowBlock<T> b = row_block<T>(a);
  if (a.flag("in_place")) b.scratch = static_cast<T*>(a.untyped_array("similarity"));
  const cuda::Family family = cuda::family_of(b.rule.objective, b.factors.query_indptr != nullptr);
  CUstream_st stream = stream_of(a);
  cuda::launch_rows(b, family, row_plan(a, b, family), {&stream, kSharedBytes});
}

template <typename T>
void run_total(const KernelArguments& a) {
  CUstream_st stream = stream_of(a);
  cuda::launch_total(a.array<T>("loss"), a.size("loss"), a.number("weight"), a.array<T>("total"),
                     {&stream, kSharedBytes});
}

template <typename T>
bool add_row_kernels(const std::string& type) {
  kernel_table()["rows_" + type] = run_rows<T>;
  kernel_table()["total_" + type] = run_total<T>;
  return true;
}

}  // namespace softnce::testing
