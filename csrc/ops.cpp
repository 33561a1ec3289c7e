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
// All three begin with the arguments of arguments.h, and serve every loss of the family:
// `objective` is one of row_math.h's. block_rows = 0 chooses the rows per block.
#include <torch/csrc/stable/library.h>

#define SHARED                                                                                   \
  "Tensor query, Tensor code, Tensor? similarity, Tensor? teacher_query, Tensor? teacher_code, " \
  "Tensor? query_indptr, Tensor? query_term, Tensor? query_count, Tensor? indptr, "              \
  "Tensor? document, Tensor? weight, Tensor? document_length, Tensor? query_groups, "            \
  "Tensor? code_groups, int objective, float alpha, float beta, float temperature, "             \
  "float min_weight, float cutoff, float scale, float eps, int positive_offset, int block_rows"

STABLE_TORCH_LIBRARY(softnce_ext, m) {
  m.def("soft_info_nce(" SHARED
        ", bool mean, bool need_grad_query, bool need_grad_code) "
        "-> (Tensor loss, Tensor grad_query, Tensor grad_code)");
  m.def("soft_info_nce_rows(" SHARED ") -> Tensor");
  m.def("soft_info_nce_rows_backward(" SHARED
        ", Tensor grad_loss, bool need_grad_query, bool need_grad_code) "
        "-> (Tensor grad_query, Tensor grad_code)");
}
