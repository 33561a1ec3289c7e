// The tests' door to the row kernel of each instruction set, beside the one the dispatcher chooses.
// Built by python_tests/bridge.py with SOFTNCE_TESTING=ON; never installed.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <optional>
#include <string>
#include <vector>

#include "../cpu/row_kernel.h"

namespace py = pybind11;

namespace {

using softnce::Objective;
using softnce::Rule;
using softnce::cpu::Row;
using softnce::cpu::RowKernels;

const RowKernels& kernels(const std::string& isa) {
#ifdef SOFTNCE_X86
  if (isa == "avx2") return softnce::cpu::avx2::kKernels;
  if (isa == "avx512") return softnce::cpu::avx512::kKernels;
#endif
  if (isa == "chosen") return softnce::cpu::row_kernels();
  return softnce::cpu::baseline::kKernels;
}

std::vector<std::string> instruction_sets() {
  std::vector<std::string> sets{"baseline"};
#ifdef SOFTNCE_X86
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) sets.push_back("avx2");
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
    sets.push_back("avx512");
#endif
  return sets;
}

template <typename T>
using Array = py::array_t<T, py::array::c_style | py::array::forcecast>;

template <typename T>
py::tuple run(T (*kernel)(const Row<T>&, const Rule&), const Array<T>& scores,
              const std::optional<Array<T>>& similarity,
              const std::optional<Array<int64_t>>& code_groups,
              const std::optional<Array<uint8_t>>& known, int64_t group, int64_t positive,
              const std::vector<double>& rule, double eps, double gradient_weight) {
  std::vector<T> values(scores.data(), scores.data() + scores.size());
  std::vector<T> weights(values.size());
  Row<T> row{};
  row.scores = values.data();
  row.similarity = similarity ? similarity->data() : nullptr;
  row.weights = similarity || code_groups ? weights.data() : nullptr;
  row.code_groups = code_groups ? code_groups->data() : nullptr;
  row.known = known ? known->data() : nullptr;
  row.group = group;
  row.columns = static_cast<int64_t>(values.size());
  row.positive = positive;
  row.eps = static_cast<T>(eps);
  row.gradient_weight = static_cast<T>(gradient_weight);
  row.need_gradient = true;
  const T loss = kernel(row, {static_cast<Objective>(rule.at(0)), rule.at(1), rule.at(2),
                              rule.at(3), rule.at(4), rule.at(5)});
  return py::make_tuple(static_cast<double>(loss), py::array_t<T>(values.size(), values.data()));
}

template <typename T>
void define(py::module_& m, const char* name,
            T (*RowKernels::*kernel)(const Row<T>&, const Rule&)) {
  m.def(
      name,
      [kernel](const std::string& isa, const Array<T>& scores,
               const std::optional<Array<T>>& similarity,
               const std::optional<Array<int64_t>>& code_groups,
               const std::optional<Array<uint8_t>>& known, int64_t group, int64_t positive,
               const std::vector<double>& rule, double eps, double gradient_weight) {
        return run<T>(kernels(isa).*kernel, scores, similarity, code_groups, known, group, positive,
                      rule, eps, gradient_weight);
      },
      "loss and gradient of one row; rule = [objective, alpha, beta, temperature, min_weight, "
      "cutoff]");
}

}  // namespace

PYBIND11_MODULE(softnce_testing, m) {
  m.def("instruction_sets", &instruction_sets, "those this processor runs");
  define<float>(m, "row_f32", &RowKernels::f32);
  define<double>(m, "row_f64", &RowKernels::f64);
}
