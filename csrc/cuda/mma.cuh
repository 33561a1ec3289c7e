// A warp's share of a matrix product: out[m, n] += sum_k a(m, k) b(n, k).
//
// Lane (g, q) = (lane / 4, lane % 4) ends up with a dense block of kRows x kColumns results, rows
// kRows * g and columns kColumns * q of the warp's tile of 8 kRows x 4 kColumns, also where tensor
// cores compute them: which row of memory takes which place in an instruction is ours to choose, as
// long as both operands agree on k. So operands go from memory into registers 16 bytes at a time,
// whichever way they lie, without shared memory.
//
// fp16 and bf16: mma.m16n8k16, accumulated in fp32. fp32: fused multiply-adds, no TF32.
// The layout of the instruction's fragments is from the PTX ISA, "Matrix Fragments for mma.m16n8k16
// with floating point type"; the host runs the same steps over a twin of that one instruction.
#pragma once

#include "device.cuh"

namespace softnce::cuda {

// a(i, k): with kTransposed at data[k * stride + i], else at data[i * stride + k]. Beyond `count`
// and `depth` it is 0. Rows are aligned to 16 bytes, and the contiguous one of the two sizes is a
// multiple of what a lane reads at once.
template <typename V>
struct Operand {
  const V* data;
  int64_t stride;
  int32_t count;
  int32_t depth;
};

// c += a @ b of one m16n8k16 instruction. Lane (g, q) holds of a, by pairs of k, rows g, g + 8 at
// k = 2 q, then both at k = 2 q + 8; of b column g at k = 2 q and 2 q + 8; of c rows g (first two)
// and g + 8 at columns 2 q, 2 q + 1.
template <typename V>
__device__ __forceinline__ void mma(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#ifdef __CUDA_ARCH__
#if __CUDA_ARCH__ >= 800
  if constexpr (std::is_same_v<V, __half>)
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  else
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
#else
  const int lane = static_cast<int>(threadIdx.x) % kWarp, g = lane / 4, q = lane % 4;
  const auto dot = [](uint32_t x, uint32_t y) {
    Pack<V, 2> u, v;
    memcpy(&u, &x, sizeof u);
    memcpy(&v, &y, sizeof v);
    return from_storage<float>(u.at[0]) * from_storage<float>(v.at[0]) +
           from_storage<float>(u.at[1]) * from_storage<float>(v.at[1]);
  };
  for (int s = 0; s < 4; ++s) {
    uint32_t rows[4];
    for (int r = 0; r < 4; ++r) rows[r] = shuffle(a[r], 4 * g + s);
    for (int p = 0; p < 2; ++p) {
      const int column = 4 * (2 * q + p) + s;
      const uint32_t low = shuffle(b[0], column), high = shuffle(b[1], column);
      c[p] += dot(rows[0], low) + dot(rows[2], high);
      c[2 + p] += dot(rows[1], low) + dot(rows[3], high);
    }
  }
#endif
}

// Tensor cores. A step is 32 k; lane (g, q) brings k = 8 q .. 8 q + 7 of it, four for each of two
// instructions.
template <typename V, int kRows, int kColumns>
struct WarpTile {
  static constexpr int kStep = 32;
  static constexpr int kLaneColumns = kColumns / 2;  // of b that a lane brings

  float sums[kRows][kColumns] = {};

  // n rows of an operand as words of two k.
  template <int n>
  struct Fragment {
    uint32_t words[n][4];
  };

  template <bool kTransposed, int n>
  __device__ static __forceinline__ Fragment<n> load(const Operand<V>& operand, int32_t i,
                                                     int32_t k) {
    Fragment<n> fragment;
    if constexpr (!kTransposed) {
#pragma unroll
      for (int r = 0; r < n; ++r) {
        Pack<uint32_t, 4> words{};
        if (i + r < operand.count && k < operand.depth)
          words = *reinterpret_cast<const Pack<uint32_t, 4>*>(operand.data +
                                                              (i + r) * operand.stride + k);
#pragma unroll
        for (int w = 0; w < 4; ++w) fragment.words[r][w] = words.at[w];
      }
    } else {
      using Words = Pack<uint32_t, n / 2>;
#pragma unroll
      for (int w = 0; w < 4; ++w) {
        Words low{}, high{};
        if (i < operand.count) {
          const V* const at = operand.data + (k + 2 * w) * operand.stride + i;
          if (k + 2 * w < operand.depth) low = *reinterpret_cast<const Words*>(at);
          if (k + 2 * w + 1 < operand.depth)
            high = *reinterpret_cast<const Words*>(at + operand.stride);
        }
#pragma unroll
        for (int r = 0; r < n; r += 2) {
          const uint32_t x = low.at[r / 2], y = high.at[r / 2];
          fragment.words[r][w] = (x & 0xffffu) | y << 16;
          fragment.words[r + 1][w] = x >> 16 | (y & 0xffff0000u);
        }
      }
    }
    return fragment;
  }

  __device__ __forceinline__ void multiply(const Fragment<kRows>& a,
                                           const Fragment<kLaneColumns>& b) {
#pragma unroll
    for (int s = 0; s < 2; ++s) {
#pragma unroll
      for (int r = 0; r < kRows; r += 2) {
        const uint32_t rows[4] = {a.words[r][2 * s], a.words[r + 1][2 * s], a.words[r][2 * s + 1],
                                  a.words[r + 1][2 * s + 1]};
#pragma unroll
        for (int j = 0; j < kLaneColumns; ++j) {
          const uint32_t columns[2] = {b.words[j][2 * s], b.words[j][2 * s + 1]};
          float c[4] = {sums[r][j], sums[r][kLaneColumns + j], sums[r + 1][j],
                        sums[r + 1][kLaneColumns + j]};
          mma<V>(c, rows, columns);
          sums[r][j] = c[0];
          sums[r][kLaneColumns + j] = c[1];
          sums[r + 1][j] = c[2];
          sums[r + 1][kLaneColumns + j] = c[3];
        }
      }
    }
  }

  // Adds k in [begin, end), whole steps, of the tile at row m and column n.
  template <bool kTransposedA, bool kTransposedB>
  __device__ __forceinline__ void add(const Operand<V>& a, const Operand<V>& b, int32_t m,
                                      int32_t n, int32_t begin, int32_t end) {
    const int lane = static_cast<int>(threadIdx.x) % kWarp, g = lane / 4, q = lane % 4;
    const int32_t row = m + kRows * g, column = n + kLaneColumns * g;
    if (begin >= end) return;
    auto rows = load<kTransposedA, kRows>(a, row, begin + 8 * q);
    auto columns = load<kTransposedB, kLaneColumns>(b, column, begin + 8 * q);
#pragma unroll 1
    for (int32_t k = begin + kStep; k < end; k += kStep) {
      // Under way while the step before is multiplied.
      const auto next_rows = load<kTransposedA, kRows>(a, row, k + 8 * q);
      const auto next_columns = load<kTransposedB, kLaneColumns>(b, column, k + 8 * q);
      multiply(rows, columns);
      rows = next_rows;
      columns = next_columns;
    }
    multiply(rows, columns);
  }
};

// Fused multiply-adds. A step is 4 k; every lane reads both operands of its own results.
template <int kRows, int kColumns>
struct WarpTile<float, kRows, kColumns> {
  static constexpr int kStep = 4;

  float sums[kRows][kColumns] = {};

  template <int n>
  struct Fragment {
    float at[n][4];
  };

  template <bool kTransposed, int n>
  __device__ static __forceinline__ Fragment<n> load(const Operand<float>& operand, int32_t i,
                                                     int32_t k) {
    static_assert(n == 4, "a lane reads 16 bytes either way");
    Fragment<n> fragment;
#pragma unroll
    for (int line = 0; line < 4; ++line) {
      const bool inside = kTransposed ? i < operand.count && k + line < operand.depth
                                      : i + line < operand.count && k < operand.depth;
      const float* const at = kTransposed ? operand.data + (k + line) * operand.stride + i
                                          : operand.data + (i + line) * operand.stride + k;
      Vector<float> v{};
      if (inside) v = *reinterpret_cast<const Vector<float>*>(at);
#pragma unroll
      for (int l = 0; l < 4; ++l)
        (kTransposed ? fragment.at[l][line] : fragment.at[line][l]) = v.at[l];
    }
    return fragment;
  }

  template <bool kTransposedA, bool kTransposedB>
  __device__ __forceinline__ void add(const Operand<float>& a, const Operand<float>& b, int32_t m,
                                      int32_t n, int32_t begin, int32_t end) {
    const int lane = static_cast<int>(threadIdx.x) % kWarp, g = lane / 4, q = lane % 4;
#pragma unroll 2
    for (int32_t k = begin; k < end; k += kStep) {
      const auto rows = load<kTransposedA, kRows>(a, m + kRows * g, k);
      const auto columns = load<kTransposedB, kColumns>(b, n + kColumns * q, k);
#pragma unroll
      for (int r = 0; r < kRows; ++r)
#pragma unroll
        for (int c = 0; c < kColumns; ++c)
#pragma unroll
          for (int l = 0; l < 4; ++l) sums[r][c] += rows.at[r][l] * columns.at[c][l];
    }
  }
};

}  // namespace softnce::cuda
