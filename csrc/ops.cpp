// Every op's schema, and nothing else: the table of contents. Kernels register themselves at the
// foot of the file that implements them (cpu/, cuda/); fake kernels and autograd are in
// softnce_ext/ops.py.
//
//   soft_info_nce                the sum or mean of the rows' losses, and the gradients of that
//                                sum, finished in the forward pass; a side whose gradient is not
//                                needed comes back empty
//   soft_info_nce_rows           the loss of each row
//   soft_info_nce_rows_backward  the gradients of sum_i grad_loss_i * loss_i
//
// All three share the arguments of arguments.h. block_rows = 0 chooses the rows per block.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(softnce_ext, m) {
  m.def(
      "soft_info_nce(Tensor query, Tensor code, Tensor? similarity, Tensor? teacher_query, "
      "Tensor? teacher_code, Tensor? query_groups, Tensor? code_groups, float alpha, float beta, "
      "float temperature, float min_weight, float scale, float eps, int positive_offset, "
      "int block_rows, bool mean, bool need_grad_query, bool need_grad_code) "
      "-> (Tensor loss, Tensor grad_query, Tensor grad_code)");
  m.def(
      "soft_info_nce_rows(Tensor query, Tensor code, Tensor? similarity, Tensor? teacher_query, "
      "Tensor? teacher_code, Tensor? query_groups, Tensor? code_groups, float alpha, float beta, "
      "float temperature, float min_weight, float scale, float eps, int positive_offset, "
      "int block_rows) -> Tensor");
  m.def(
      "soft_info_nce_rows_backward(Tensor query, Tensor code, Tensor? similarity, "
      "Tensor? teacher_query, Tensor? teacher_code, Tensor? query_groups, Tensor? code_groups, "
      "float alpha, float beta, float temperature, float min_weight, float scale, float eps, "
      "int positive_offset, int block_rows, Tensor grad_loss, bool need_grad_query, "
      "bool need_grad_code) -> (Tensor grad_query, Tensor grad_code)");
}
