#include "cuda_runtime_api.h"

#include <map>
#include <mutex>

namespace {

constexpr size_t kUnaskedSharedBytes = 48 * 1024;  // what a kernel may have without an attribute

std::mutex lock;
std::map<const void*, int> asked;  // shared memory of each kernel

}  // namespace

cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute, int value) {
  const std::lock_guard<std::mutex> guard(lock);
  asked[kernel] = value;
  return cudaSuccess;
}

namespace host_cuda {

Launch read_configuration(const cudaLaunchConfig_t& config, const void* kernel) {
  Launch launch;
  launch.grid = config.gridDim;
  launch.block = config.blockDim;
  launch.shared_bytes = config.dynamicSmemBytes;
  if (config.stream != nullptr) launch.order = config.stream->order;
  for (unsigned i = 0; i < config.numAttrs; ++i) {
    const cudaLaunchAttribute& attribute = config.attrs[i];
    if (attribute.id == cudaLaunchAttributeCooperative) {
      launch.cooperative = attribute.val.cooperative != 0;
    } else {
      launch.cluster = attribute.val.clusterDim.x;
      if (attribute.val.clusterDim.y != 1 || attribute.val.clusterDim.z != 1)
        throw Error("launch: clusters of more than one dimension are not emulated");
    }
  }
  const std::lock_guard<std::mutex> guard(lock);
  const auto found = asked.find(kernel);
  const size_t most = found != asked.end() ? static_cast<size_t>(found->second) : 0;
  if (launch.shared_bytes > kUnaskedSharedBytes && launch.shared_bytes > most)
    throw Error("launch: " + std::to_string(launch.shared_bytes) +
                " bytes of shared memory, and cudaFuncSetAttribute asked for " +
                std::to_string(most));
  return launch;
}

}  // namespace host_cuda
