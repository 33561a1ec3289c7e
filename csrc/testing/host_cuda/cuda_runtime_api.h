// The launches that this project's host code asks for (launch.cuh), run by the engine. A launch is
// over when it returns; what is wrong with it, or goes wrong in it, is thrown, not returned.
#pragma once

#include <tuple>
#include <utility>

#include "engine.h"

enum cudaError { cudaSuccess = 0, cudaErrorInvalidValue = 1 };
using cudaError_t = cudaError;

// A stream says in which order threads run.
struct CUstream_st {
  host_cuda::Order order;
};
using cudaStream_t = CUstream_st*;

enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };

enum cudaLaunchAttributeID {
  cudaLaunchAttributeCooperative = 2,
  cudaLaunchAttributeClusterDimension = 4
};
union cudaLaunchAttributeValue {
  int cooperative;
  struct {
    unsigned x, y, z;
  } clusterDim;
};
struct cudaLaunchAttribute {
  cudaLaunchAttributeID id;
  cudaLaunchAttributeValue val;
};
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes;
  cudaStream_t stream;
  cudaLaunchAttribute* attrs;
  unsigned numAttrs;
};

struct cudaFuncAttributes {
  int ptxVersion;
};

// As compiled for sm_90, all of which is emulated.
inline cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void*) {
  attributes->ptxVersion = 90;
  return cudaSuccess;
}
cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute attribute, int value);

namespace host_cuda {

// The launch that a configuration asks for; refuses what a GPU would.
Launch read_configuration(const cudaLaunchConfig_t& config, const void* kernel);

}  // namespace host_cuda

template <typename... Parameters, typename... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments&&... arguments) {
  const host_cuda::Launch launch =
      host_cuda::read_configuration(*config, reinterpret_cast<const void*>(kernel));
  // Copied, as a launch copies them; every thread gets its own.
  const std::tuple<Parameters...> copies(std::forward<Arguments>(arguments)...);
  host_cuda::launch(launch, [&] { std::apply(kernel, copies); });
  return cudaSuccess;
}
