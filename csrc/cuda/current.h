// The GPU and the stream an op runs on, and what the GPU offers.
#pragma once

#include <cuda_runtime.h>

#include "../arguments.h"
#include "rows.h"

namespace softnce::cuda {

// While it lives, the inputs' device is the current one, for torch and for this library.
class Current {
 public:
  explicit Current(const Tensor& like) : guard_(like.get_device_index()) {
    const int device = like.get_device_index();
    // This library carries a CUDA runtime of its own, and a runtime its own current device.
    STD_CUDA_CHECK(cudaSetDevice(device));
    void* stream = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device, &stream));
    limits_.shared_bytes = attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
    limits_.clusters = attribute(cudaDevAttrComputeCapabilityMajor, device) >= 9;
    stream_ = {static_cast<cudaStream_t>(stream), limits_.shared_bytes};
  }

  const Limits& limits() const { return limits_; }
  const Stream& stream() const { return stream_; }

 private:
  static int attribute(cudaDeviceAttr name, int device) {
    int value = 0;
    STD_CUDA_CHECK(cudaDeviceGetAttribute(&value, name, device));
    return value;
  }

  torch::stable::accelerator::DeviceGuard guard_;
  Limits limits_;
  Stream stream_;
};

}  // namespace softnce::cuda
