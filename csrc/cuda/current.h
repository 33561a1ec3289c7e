// The GPU and the stream an op runs on, and what the GPU offers.
#pragma once

#include <cuda_runtime.h>
#include <torch/csrc/stable/macros.h>

#include <array>
#include <mutex>

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
    gpu_ = gpu_of(device_);
    stream_ = {static_cast<cudaStream_t>(stream), gpu_.limits.shared_bytes};
  }

  int device() const { return device_; }
  const Limits& limits() const { return gpu_.limits; }
  const Stream& stream() const { return stream_; }
  // Multiprocessors of a GPU that runs the small batch's kernel, else 0.
  int cooperative() const { return gpu_.cooperative; }

 private:
  struct Gpu {
    Limits limits;
    int cooperative;
  };

  static int attribute(cudaDeviceAttr name, int device) {
    int value = 0;
    STD_CUDA_CHECK(cudaDeviceGetAttribute(&value, name, device));
    return value;
  }

  // Asked once; `device` is the current one.
  static const Gpu& gpu_of(int device) {
    constexpr int kGpus = 256;
    static std::array<std::once_flag, kGpus> asked;
    static std::array<Gpu, kGpus> gpus;
    STD_TORCH_CHECK(device >= 0 && device < kGpus, "there is no GPU ", device);
    std::call_once(asked[device], [&] {
      // What a GPU can do counts only as far as the kernels were compiled for it: it also runs the
      // PTX of an older one, in which clusters and tensor cores are left out.
      int version = 0;
      STD_CUDA_CHECK(compiled_version(&version));
      const bool has_grids = version >= 80 && attribute(cudaDevAttrCooperativeLaunch, device) != 0;
      gpus[device] = {{attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, device), version >= 90},
                      has_grids ? attribute(cudaDevAttrMultiProcessorCount, device) : 0};
    });
    return gpus[device];
  }

  int device_;
  torch::stable::accelerator::DeviceGuard guard_;
  Gpu gpu_;
  Stream stream_;
};

}  // namespace softnce::cuda
