// How any kernel of this folder is launched.
#pragma once

#include <type_traits>

#include "row_kernel.cuh"
#include "rows.h"

namespace softnce::cuda {

constexpr int64_t kUnaskedSharedBytes = 48 * 1024;  // what any kernel may have

struct Shape {
  int64_t blocks;
  int threads;
  int64_t shared_bytes;
  int cluster = 1;           // blocks
  bool cooperative = false;  // all blocks live at once
};

// Always the same value, since another thread may be about to launch with more.
template <typename Kernel>
cudaError_t allow_shared_bytes(Kernel* kernel, const Stream& stream) {
  return cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                              cudaFuncAttributeMaxDynamicSharedMemorySize,
                              static_cast<int>(stream.shared_bytes));
}

template <typename... Parameters>
cudaError_t launch(void (*kernel)(Parameters...), const Shape& shape, const Stream& stream,
                   std::common_type_t<Parameters>... arguments) {
  if (shape.shared_bytes > kUnaskedSharedBytes) {
    const cudaError_t error = allow_shared_bytes(kernel, stream);
    if (error != cudaSuccess) return error;
  }
  cudaLaunchAttribute attributes[2];
  unsigned count = 0;
  if (shape.cluster > 1) {
    attributes[count].id = cudaLaunchAttributeClusterDimension;
    attributes[count].val.clusterDim.x = static_cast<unsigned>(shape.cluster);
    attributes[count].val.clusterDim.y = attributes[count].val.clusterDim.z = 1;
    ++count;
  }
  if (shape.cooperative) {
    attributes[count].id = cudaLaunchAttributeCooperative;
    attributes[count].val.cooperative = 1;
    ++count;
  }
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(shape.blocks));
  config.blockDim = dim3(static_cast<unsigned>(shape.threads));
  config.dynamicSmemBytes = static_cast<size_t>(shape.shared_bytes);
  config.stream = stream.stream;
  config.attrs = attributes;
  config.numAttrs = count;
  return cudaLaunchKernelEx(&config, kernel, arguments...);
}

template <typename T, Family kFamily>
cudaError_t launch_any_rows(const RowBlock<T>& block, const RowPlan& plan, const Stream& stream) {
  const int blocks = plan.cluster > 0 ? plan.cluster : 1;
  return launch(any_row_kernel<T, kFamily>,
                {block.rows * blocks, plan.threads, plan.shared_bytes, blocks}, stream, block,
                plan.cluster);
}

template <typename T>
cudaError_t launch_total_of(const T* loss, int64_t rows, double weight, T* total,
                            const Stream& stream) {
  return launch(total_kernel<T>, {1, kTotalThreads, kReduceBytes}, stream, loss, rows, weight,
                total);
}

}  // namespace softnce::cuda
