// The toy kernels by name.
#include "host_cuda/toy_faults.cuh"
#include "host_cuda/toy_kernels.cuh"
#include "kernel_table.h"

namespace softnce::testing {
namespace {

using host_cuda::launch;

template <unsigned kBarriers>
void sum(const KernelArguments& a) {
  const float* const in = a.array<float>("in");
  float* const out = a.array<float>("out");
  launch(a.launch, [&] { toy::sum_kernel<kBarriers>(in, out); });
}

template <bool kSync>
void rotate(const KernelArguments& a) {
  int* const out = a.array<int>("out");
  launch(a.launch, [&] { toy::rotate_lanes_kernel<kSync>(out); });
}

template <bool kFirstSync, bool kLastSync>
void cluster(const KernelArguments& a) {
  int* const out = a.array<int>("out");
  launch(a.launch, [&] { toy::cluster_kernel<kFirstSync, kLastSync>(out); });
}

template <bool kSync>
void grid(const KernelArguments& a) {
  int *const scratch = a.array<int>("scratch"), *const out = a.array<int>("out");
  launch(a.launch, [&] { toy::grid_kernel<kSync>(scratch, out); });
}

template <bool kFence>
void last_block(const KernelArguments& a) {
  auto* const scratch = a.array<long long>("scratch");
  int* const out = a.array<int>("out");
  unsigned* const counter = a.array<unsigned>("counter");
  launch(a.launch, [&] { toy::last_block_kernel<kFence>(scratch, counter, out); });
}

template <typename T>
void shuffle(const KernelArguments& a) {
  const T* const in = a.array<T>("in");
  T* const out = a.array<T>("out");
  launch(a.launch, [&] { toy::shuffle_kernel(in, out); });
}

template <bool kHint>
void load16(const KernelArguments& a) {
  const int first = static_cast<int>(a.number("first"));
  const float* const in = a.array<float>("in");
  float* const out = a.array<float>("out");
  launch(a.launch, [&] { toy::load16_kernel<kHint>(in, first, out); });
}

template <typename From, typename To, To (*f)(From)>
void map(const KernelArguments& a) {
  const From* const in = a.array<From>("in");
  To* const out = a.array<To>("out");
  const int size = static_cast<int>(a.size("in"));
  launch(a.launch, [&] { toy::map_kernel<From, To, f>(in, size, out); });
}

const bool added = [] {
  KernelTable& table = kernel_table();
  table["sum"] = sum<7>;
  table["sum_without_first_barrier"] = sum<6>;
  table["sum_without_second_barrier"] = sum<5>;
  table["sum_without_third_barrier"] = sum<3>;
  table["rotate"] = rotate<true>;
  table["rotate_without_sync"] = rotate<false>;
  table["cluster"] = cluster<true, true>;
  table["cluster_without_first_sync"] = cluster<false, true>;
  table["cluster_without_last_sync"] = cluster<true, false>;
  table["grid"] = grid<true>;
  table["grid_without_sync"] = grid<false>;
  table["last_block"] = last_block<true>;
  table["last_block_without_fence"] = last_block<false>;
  table["shuffle_int32"] = shuffle<int>;
  table["shuffle_int64"] = shuffle<int64_t>;
  table["shuffle_float32"] = shuffle<float>;
  table["shuffle_float64"] = shuffle<double>;
  table["float_to_half"] = map<float, unsigned short, toy::float_to_half>;
  table["half_to_float"] = map<unsigned short, float, toy::half_to_float>;
  table["float_to_bfloat16"] = map<float, unsigned short, toy::float_to_bfloat16>;
  table["bfloat16_to_float"] = map<unsigned short, float, toy::bfloat16_to_float>;
  table["expf"] = map<float, float, toy::fast_exp>;
  table["logf"] = map<float, float, toy::fast_log>;
  table["reciprocal"] = map<float, float, toy::fast_reciprocal>;
  table["split_cluster"] = [](const KernelArguments& a) {
    int* const out = a.array<int>("out");
    launch(a.launch, [&] { toy::split_cluster_kernel(out); });
  };
  table["configured"] = [](const KernelArguments& a) {
    auto* const kernel = &toy::cluster_kernel<true, true>;
    if (a.flag("asks"))
      cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                           cudaFuncAttributeMaxDynamicSharedMemorySize, 64 * 1024);
    cudaLaunchAttribute attribute{};
    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim = {2, 1, 1};
    CUstream_st stream{a.launch.order};
    const cudaLaunchConfig_t config{4, 48, 64 * 1024, &stream, &attribute, 1};
    cudaLaunchKernelEx(&config, kernel, a.array<int>("out"));
  };
  table["vote"] = [](const KernelArguments& a) {
    const int* const in = a.array<int>("in");
    int* const out = a.array<int>("out");
    launch(a.launch, [&] { toy::vote_kernel(in, out); });
  };
  table["write_shared"] = [](const KernelArguments& a) {
    const int index = static_cast<int>(a.number("index"));
    launch(a.launch, [&] { toy::write_shared_kernel(index); });
  };
  table["read_shared"] = [](const KernelArguments& a) {
    const int index = static_cast<int>(a.number("index"));
    float* const out = a.array<float>("out");
    launch(a.launch, [&] { toy::read_shared_kernel(index, out); });
  };
  table["leftover"] = [](const KernelArguments& a) {
    float* const out = a.array<float>("out");
    launch(a.launch, [&] { toy::leftover_kernel(out); });
  };
  table["write_global"] = [](const KernelArguments& a) {
    const int index = static_cast<int>(a.number("index"));
    int* const out = a.array<int>("out");
    launch(a.launch, [&] { toy::write_global_kernel(out, index); });
  };
  table["load16"] = load16<false>;
  table["load16_hint"] = load16<true>;
  table["flag"] = [](const KernelArguments& a) {
    int *const flag = a.array<int>("flag"), *const out = a.array<int>("out");
    launch(a.launch, [&] { toy::flag_kernel(flag, out); });
  };
  table["divergent"] = [](const KernelArguments& a) {
    const auto kind = static_cast<toy::Divergence>(a.number("kind"));
    launch(a.launch, [&] { toy::divergent_kernel(kind); });
  };
  table["deep"] = [](const KernelArguments& a) {
    volatile int* const out = a.array<int>("out");
    launch(a.launch, [&] { toy::deep_kernel(out); });
  };
  table["place"] = [](const KernelArguments& a) {
    int* const out = a.array<int>("out");
    launch(a.launch, [&] { toy::place_kernel(out); });
  };
  table["count"] = [](const KernelArguments& a) {
    const int* const in = a.array<int>("in");
    int* const out = a.array<int>("out");
    launch(a.launch, [&] { toy::count_kernel(in, out); });
  };
  return true;
}();

}  // namespace

}  // namespace softnce::testing
