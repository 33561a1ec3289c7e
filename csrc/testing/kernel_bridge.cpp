// The tests' door to the CUDA kernels, run on the host thread for thread (host_cuda/).
// Built by python_tests/bridge.py with SOFTNCE_TESTING=ON; never installed.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <cstring>
#include <map>
#include <string>

#include "kernel_table.h"

namespace py = pybind11;

namespace {

using host_cuda::Order;
using softnce::testing::KernelArguments;
using Size = std::array<unsigned, 3>;

dim3 as_dim3(const Size& size) { return {size[0], size[1], size[2]}; }

Order as_order(const std::string& name, uint64_t seed) {
  static const std::map<std::string, Order::Kind> kinds{{"ascending", Order::kAscending},
                                                        {"descending", Order::kDescending},
                                                        {"shuffled", Order::kShuffled}};
  return {kinds.at(name), seed};
}

// Arrays are copied to where kernels see them and back, as to a GPU. No numpy.h, whose templates
// would be half of this file's build time.
void run(const std::string& kernel, const std::map<std::string, py::buffer>& arrays,
         const std::map<std::string, double>& numbers, const Size& grid, const Size& block,
         unsigned cluster, size_t shared_bytes, bool cooperative, const std::string& order,
         uint64_t seed) {
  KernelArguments arguments;
  arguments.launch = {as_dim3(grid), as_dim3(block), cluster,
                      shared_bytes,  cooperative,    as_order(order, seed)};
  for (const auto& [name, value] : numbers) arguments.add_number(name, value);
  std::map<std::string, py::buffer_info> views;
  for (const auto& [name, array] : arrays) {
    const py::buffer_info& view = views.emplace(name, array.request(true)).first->second;
    if (PyBuffer_IsContiguous(view.view(), 'C') == 0)
      throw host_cuda::Error(name + " must be contiguous");
    const size_t size = static_cast<size_t>(view.size), bytes = static_cast<size_t>(view.itemsize);
    unsigned char* const data = arguments.add_array(name, size, bytes);
    if (size > 0) memcpy(data, view.ptr, size * bytes);
  }
  softnce::testing::run_kernel(kernel, arguments);
  for (const auto& [name, view] : views)
    if (view.size > 0)
      memcpy(view.ptr, arguments.untyped_array(name.c_str()),
             static_cast<size_t>(view.size * view.itemsize));
}

}  // namespace

PYBIND11_MODULE(softnce_kernels, m) {
#ifdef __clang__
  m.attr("compiler") = "clang";
#else
  m.attr("compiler") = "gcc";
#endif
  m.def("run", &run, py::arg("kernel"), py::arg("arrays"), py::arg("numbers"), py::arg("grid"),
        py::arg("block"), py::arg("cluster"), py::arg("shared_bytes"), py::arg("cooperative"),
        py::arg("order"), py::arg("seed"),
        "run a kernel of kernel_table.h over arrays, in place; an error names the thread");
}
