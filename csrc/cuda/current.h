// The GPU and the stream an op runs on, and what the GPU offers.
#pragma once

#include <cuda_runtime.h>

#include "../arguments.h"
#include "rows.h"

namespace softnce::cuda {

// While it lives, the inputs' device is the current one, for torch and for this library.
class Current {
 public:
  explicit Current(const Tensor& like)
      : device_(like.get_device_index()), guard_(like.get_device_index()) {
    // This library carries a CUDA runtime of its own, and a runtime its own current device.
    STD_CUDA_CHECK(cudaSetDevice(device_));
    void* stream = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device_, &stream));
    limits_.shared_bytes = attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin);
    limits_.clusters = attribute(cudaDevAttrComputeCapabilityMajor) >= 9;
    stream_ = {static_cast<cudaStream_t>(stream), limits_.shared_bytes};
  }

  int device() const { return device_; }
  const Limits& limits() const { return limits_; }
  const Stream& stream() const { return stream_; }

  int attribute(cudaDeviceAttr name) const {
    int value = 0;
    STD_CUDA_CHECK(cudaDeviceGetAttribute(&value, name, device_));
    return value;
  }

 private:
  int device_;
  torch::stable::accelerator::DeviceGuard guard_;
  Limits limits_;
  Stream stream_;
};

}  // namespace softnce::cuda
