// Chooses, once, the row kernel for the processor the library finds itself on. The build decides
// which ones exist (CMakeLists.txt), so that one library runs on any machine of its architecture.
#include <cstdlib>
#include <cstring>

#include "row_kernel.h"

namespace softnce::cpu {

const RowKernels& row_kernels() {
  static const RowKernels& chosen = []() -> const RowKernels& {
#ifdef SOFTNCE_X86
    // ATEN_CPU_CAPABILITY is torch's own switch for the same choice.
    const char* wish = std::getenv("ATEN_CPU_CAPABILITY");
    const bool any = wish == nullptr;
    if ((any || !std::strcmp(wish, "avx512")) && __builtin_cpu_supports("avx512f") &&
        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl"))
      return avx512::kKernels;
    if ((any || std::strcmp(wish, "default")) && __builtin_cpu_supports("avx2") &&
        __builtin_cpu_supports("fma"))
      return avx2::kKernels;
#endif
    return baseline::kKernels;
  }();
  return chosen;
}

}  // namespace softnce::cpu
