// torch's tensors as the GEMMs and the kernels take them.
#pragma once

#include <algorithm>
#include <initializer_list>

#include "blas.h"
#include "plan.h"
#include "row_block.h"

namespace softnce::cuda {

inline int64_t bytes_of(ScalarType type) {
  return type == ScalarType::Double ? 8 : type == ScalarType::Float ? 4 : 2;
}

inline Storage storage_of(ScalarType type) {
  switch (type) {
    case ScalarType::Half:
      return Storage::kHalf;
    case ScalarType::BFloat16:
      return Storage::kBFloat16;
    case ScalarType::Double:
      return Storage::kDouble;
    default:
      return Storage::kFloat;
  }
}

inline Tensor as_type(const Tensor& tensor, ScalarType type) {
  return tensor.scalar_type() == type ? tensor : torch::stable::to(tensor, type);
}

// Of one or two dimensions, or none. By the shim that compiled models call:
// torch::stable::new_empty goes through the dispatcher, and several of those take as long as a
// small batch's kernel.
inline Tensor new_tensor(const Tensor& like, std::initializer_list<int64_t> sizes,
                         ScalarType type) {
  int64_t strides[] = {1, 1};
  if (sizes.size() == 2) strides[0] = std::max<int64_t>(*(sizes.begin() + 1), 1);
  AtenTensorHandle made = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(
      static_cast<int64_t>(sizes.size()), sizes.begin(), strides,
      torch::stable::detail::to<int32_t>(torch::stable::detail::from(type)),
      aoti_torch_device_type_cuda(), like.get_device_index(), &made));
  return Tensor(made);
}

inline Tensor dense(const Tensor& tensor, ScalarType type) {
  const Tensor typed = as_type(tensor, type);
  return typed.is_contiguous() ? typed : torch::stable::contiguous(typed);
}

inline char* element(const Tensor& tensor, int64_t index) {
  return static_cast<char*>(const_cast<void*>(tensor.const_data_ptr())) +
         index * bytes_of(tensor.scalar_type());
}

// Rows [begin, begin + count) of a contiguous tensor.
inline Matrix rows_of(const Tensor& tensor, int64_t begin, int64_t count) {
  const int64_t columns = tensor.size(1);
  return {element(tensor, begin * columns), tensor.scalar_type(), count, columns, columns};
}

// The first `count` rows of a padded buffer, without the padding.
inline Matrix block_of(const Tensor& buffer, int64_t count, int64_t columns) {
  return {element(buffer, 0), buffer.scalar_type(), count, columns, buffer.size(1)};
}

// The rows' gradient as row kernels leave it in place of the scores: a row of halves keeps its fp32
// row's place.
inline Matrix gradient_of(const Matrix& scores, ScalarType operand) {
  Matrix gradient = scores;
  gradient.stride *= bytes_of(scores.type) / bytes_of(operand);
  gradient.type = operand;
  return gradient;
}

template <typename V>
const V* data_of(const std::optional<Tensor>& tensor, int64_t begin = 0) {
  return tensor ? tensor->template const_data_ptr<V>() + begin : nullptr;
}

inline std::optional<Tensor> contiguous(const std::optional<Tensor>& tensor) {
  if (!tensor) return std::nullopt;
  return dense(*tensor, tensor->scalar_type());
}

// The factors of the queries from `begin` on; check_factors holds their lengths together.
inline Postings postings_of(const std::optional<Factors>& factors, int64_t begin) {
  if (!factors) return {};
  const Factors& f = *factors;
  return {f.query_indptr.const_data_ptr<int64_t>() + begin,
          f.query_term.const_data_ptr<int32_t>(),
          f.query_count.const_data_ptr<float>(),
          f.query_term.size(0),
          f.indptr.const_data_ptr<int64_t>(),
          f.indptr.size(0) - 1,
          f.document.const_data_ptr<int32_t>(),
          f.weight.const_data_ptr<float>(),
          f.document.size(0),
          f.document_length.const_data_ptr<int64_t>(),
          static_cast<int32_t>(f.documents())};
}

}  // namespace softnce::cuda
