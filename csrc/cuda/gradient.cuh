// The row's gradient over its scores, in the type of the GEMMs' operands.
#pragma once

#include "row.cuh"

namespace softnce::cuda {

// Gradient j takes bytes of the scores j * sizeof(G) / sizeof(T), which other threads own. A
// reduction stands between every thread's last read of a score and here, so nothing is lost, except
// where the values are the scores themselves: those may be overwritten only below the columns that
// all threads have read, which takes a barrier a round.
template <typename G, class R>
__device__ __forceinline__ void write_gradient_as(const R& row, typename R::T factor) {
  using T = typename R::T;
  using Gradients = Pack<G, R::kWidth>;
  G* const gradient =
      reinterpret_cast<G*>(row.block.scores + row.index * row.block.stride) + row.span.begin;
  const auto load = [&](int32_t i) { return row.load_values(i); };
  const bool round_to_tf32 = row.block.round_to_tf32;
  const auto write = [&](int32_t i, const Vector<T>& v) {
    Gradients pack;
#pragma unroll
    for (int l = 0; l < R::kWidth; ++l) {
      T value = v.at[l] * factor;
      if constexpr (std::is_same_v<G, float>) {
        if (round_to_tf32) value = nearest_tf32(value);
      }
      pack.at[l] = to_storage<G>(value);
    }
    *reinterpret_cast<Gradients*>(gradient + i) = pack;
  };
  if (R::kMaybeInPlace && sizeof(G) != sizeof(T) && row.values == row.scores)
    row.template sweep<1, true>(0, row.end, load, write);
  else
    row.template sweep<R::kFromValues>(0, row.end, load, write);
}

template <class R>
__device__ __forceinline__ void write_gradient(const R& row, typename R::T factor) {
  if constexpr (std::is_same_v<typename R::T, double>) {
    write_gradient_as<double>(row, factor);
  } else {
    switch (row.block.gradient) {
      case Storage::kHalf:
        return write_gradient_as<__half>(row, factor);
      case Storage::kBFloat16:
        return write_gradient_as<__nv_bfloat16>(row, factor);
      default:
        return write_gradient_as<float>(row, factor);
    }
  }
}

// What the row's gradient is multiplied by beside its own.
template <class R>
__device__ __forceinline__ typename R::T gradient_weight(const R& row) {
  const auto* const weights = row.block.row_weights;
  return weights != nullptr ? row.block.gain * weights[row.index] : row.block.gain;
}

}  // namespace softnce::cuda
