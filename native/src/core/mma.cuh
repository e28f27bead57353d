// Products of tiles on the tensor cores, from sm_80 on: mma.sync over bf16 with f32 accumulation.
//
// An operand is the sum of kParts bf16 numbers, each the nearest to what the ones before it leave: one part rounds an
// f32 to bf16, three hold all of its bits.  A product sums the products of those parts that matter: one for one part,
// six for three, which is f32 to about one unit in its last place.  What the tensor cores add they truncate, so that
// with three parts the small products are summed apart, and sums go over few terms before an ordinary addition.
//
// A warp owns 16 rows of a product.  Lane l holds, of every 8 columns, columns 2 (l % 4) and one more of rows l / 4 and
// l / 4 + 8: float x[columns / 8][4] in that order.
#pragma once

#include "core/bulk.cuh"
#include "core/rows.cuh"

namespace saccade::cuda {

__device__ __forceinline__ int warp() { return static_cast<int>(threadIdx.x / 32); }
__device__ __forceinline__ int lane_row(int i) { return static_cast<int>(threadIdx.x % 32 / 4) + i / 2 * 8; }
__device__ __forceinline__ int lane_column(int i) { return static_cast<int>(threadIdx.x % 4) * 2 + i % 2; }

__device__ __forceinline__ void load_matrices(uint32_t (&x)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
               : "r"(address));
}

__device__ __forceinline__ void load_matrices_transposed(uint32_t (&x)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
               : "r"(address));
}

// c += a b, of 16 x 16 and 16 x 8.
template <class T = bf16>
__device__ __forceinline__ void mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  if constexpr (std::is_same_v<T, bf16>)
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  else
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ __forceinline__ void store_16(uint32_t address, const uint4& x) {
  asm volatile("st.shared.v4.b32 [%0], {%1,%2,%3,%4};" ::"r"(address), "r"(x.x), "r"(x.y), "r"(x.z), "r"(x.w)
               : "memory");
}

__device__ __forceinline__ void store_4(uint32_t address, float x) {
  asm volatile("st.shared.f32 [%0], %1;" ::"r"(address), "f"(x) : "memory");
}
__device__ __forceinline__ void store_8(uint32_t address, float2 x) {
  asm volatile("st.shared.v2.f32 [%0], {%1,%2};" ::"r"(address), "f"(x.x), "f"(x.y) : "memory");
}
__device__ __forceinline__ float2 load_8(uint32_t address) {
  float2 x;
  asm volatile("ld.shared.v2.f32 {%0,%1}, [%2];" : "=f"(x.x), "=f"(x.y) : "r"(address) : "memory");
  return x;
}

__device__ __forceinline__ uint32_t pack_bf16(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  uint32_t bits;
  memcpy(&bits, &pair, sizeof bits);
  return bits;
}

// The next part of two numbers, which lose it.
__device__ __forceinline__ uint32_t take_part(float& low, float& high) {
  const uint32_t bits = pack_bf16(low, high);
  low -= __uint_as_float(bits << 16);
  high -= __uint_as_float(bits & 0xffff0000u);
  return bits;
}

// kRows rows of kDim columns in shared memory: panels of 64 columns, or the one of 32, part by part, a row of a panel
// 128 bytes, or 64.  Its 16-byte chunks are permuted, so that the eight rows of a matrix lie in different banks; of 64
// columns it is what core/wgmma.cuh calls a swizzle of 128 bytes.
template <int kParts_, int kRows_, int kDim_>
struct MmaTile {
  static constexpr int kParts = kParts_, kRows = kRows_, kDim = kDim_, kChunks = kDim / 8;
  static constexpr int kColumns = kDim < 64 ? kDim : 64, kRow = 2 * kColumns;  // of a panel
  static constexpr int kPanel = kParts * kRows * kRow, kBytes = kDim / kColumns * kPanel;
  static_assert((kParts == 1 || kParts == 3) && kRows % 16 == 0 && (kDim % 64 == 0 || kDim == 32));

  uint32_t base;  // in shared memory, a multiple of 1024

  __device__ __forceinline__ uint32_t address(int part, int row, int chunk) const {
    constexpr int kAcross = kColumns / 8;
    return base + chunk / kAcross * kPanel + (part * kRows + row) * kRow + (chunk % kAcross ^ swizzle(row)) * 16;
  }
  // Of rows from `row` and columns from 16 k on, `row` a multiple of 16.  As the left factor of a product, or as the
  // right one for 16 columns of it, which `right` loads:
  __device__ __forceinline__ void left(uint32_t (&x)[4], int part, int row, int k) const {
    load_matrices(x, at(threadIdx.x % 16, threadIdx.x / 16 % 2, part, row, k));
  }
  __device__ __forceinline__ void right(uint32_t (&x)[4], int part, int row, int k) const {
    load_matrices_transposed(x, at(threadIdx.x % 16, threadIdx.x / 16 % 2, part, row, k));
  }
  // Transposed: 16 columns from 16 k on are the rows of the left factor.
  __device__ __forceinline__ void left_transposed(uint32_t (&x)[4], int part, int row, int k) const {
    load_matrices_transposed(x, at(threadIdx.x % 8 + threadIdx.x / 16 % 2 * 8, threadIdx.x / 8 % 2, part, row, k));
  }
  // As the transposed right factor, for 16 columns of the product:
  __device__ __forceinline__ void right_transposed(uint32_t (&x)[4], int part, int row, int k) const {
    load_matrices(x, at(threadIdx.x % 8 + threadIdx.x / 16 % 2 * 8, threadIdx.x / 8 % 2, part, row, k));
  }

 private:
  // Rows of 64 bytes lie in pairs beside the banks.
  __device__ static constexpr int swizzle(int row) { return kRow == 128 ? row & 7 : row >> 1 & 3; }
  // address(part, row + lane_row, 2 k + lane_chunk): what depends on the lane once, and little for every k.
  __device__ __forceinline__ uint32_t at(int lane_row, int lane_chunk, int part, int row, int k) const {
    constexpr int kAcross = kColumns / 16;
    const uint32_t lane = base + lane_row * kRow + (lane_chunk ^ swizzle(lane_row)) * 16;
    return (lane ^ (k % kAcross * 32)) + (k / kAcross * kPanel + (part * kRows + row) * kRow);
  }
};

// The first `columns` of eight; the others are 0.  whole: they are none or eight, at a multiple of 16 bytes.
template <class T>
__device__ __forceinline__ void load_columns(float (&to)[8], const T* from, int columns, bool whole) {
  if (whole && columns > 0) {
    constexpr int kLoads = 8 / kPack<T>;
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      const uint4 bits = __ldg(reinterpret_cast<const uint4*>(from) + i);
      Pack<T> pack;
      memcpy(&pack, &bits, sizeof pack);
#pragma unroll
      for (int e = 0; e < kPack<T>; ++e) to[i * kPack<T> + e] = to_float(pack.x[e]);
    }
  } else {
#pragma unroll
    for (int e = 0; e < 8; ++e) to[e] = e < columns ? to_float(from[e]) : 0.0f;
  }
}

// Writes eight columns to a tile, part by part; they lose what the parts hold.
template <class Tile>
__device__ __forceinline__ void store_columns(const Tile& tile, int row, int chunk, float (&x)[8]) {
#pragma unroll
  for (int part = 0; part < Tile::kParts; ++part) {
    uint32_t bits[4];
#pragma unroll
    for (int e = 0; e < 4; ++e) bits[e] = take_part(x[2 * e], x[2 * e + 1]);
    asm volatile("st.shared.v4.b32 [%0], {%1,%2,%3,%4};" ::"r"(tile.address(part, row, chunk)), "r"(bits[0]),
                 "r"(bits[1]), "r"(bits[2]), "r"(bits[3])
                 : "memory");
  }
}

// Rows of a tile on their way from global memory, kThreads threads taking part: up to kMost chunks of eight columns a
// thread wait in registers while the block computes with what the tile holds.
template <class Tile, int kThreads, int kMost>
class MmaLoad {
  static constexpr int kAll = Tile::kRows * Tile::kChunks / kThreads, kAhead = kAll < kMost ? kAll : kMost;
  static constexpr int kStep = kThreads / Tile::kChunks;  // rows between chunks of a thread, which are of one column
  static_assert(Tile::kRows * Tile::kChunks % kThreads == 0 && kAll % kAhead == 0 && kThreads % Tile::kChunks == 0);

 public:
  // Rows x, x + stride ... of `dim` columns; those from `count` on and columns from `dim` on are 0.  whole: all chunks
  // lie at multiples of 16 bytes and dim is a multiple of 8.
  __device__ __forceinline__ void begin(const float* x, int64_t stride, int count, int dim, bool whole) {
    x_ = x + row() * stride + 8 * chunk();
    step_ = kStep * stride;
    rows_ = count - row();
    columns_ = dim - 8 * chunk();
    whole_ = whole;
    load(0);
  }

  // Writes the tile, which nobody reads any more; after the next barrier it is there, also for core/wgmma.cuh.
  __device__ __forceinline__ void end(const Tile& tile) {
    store(tile, 0);
#pragma unroll
    for (int first = kAhead; first < kAll; first += kAhead) {
      load(first);
      store(tile, first);
    }
    bulk_fence();
  }

 private:
  __device__ static int row() { return static_cast<int>(threadIdx.x) / Tile::kChunks; }
  __device__ static int chunk() { return static_cast<int>(threadIdx.x) % Tile::kChunks; }

  __device__ __forceinline__ void load(int first) {
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const float* from = x_ + (first + i) * step_;
      const int columns = (first + i) * kStep < rows_ ? columns_ : 0;
      load_columns(values_[i], from, columns, whole_);
    }
  }

  __device__ __forceinline__ void store(const Tile& tile, int first) {
#pragma unroll
    for (int i = 0; i < kAhead; ++i) store_columns(tile, row() + (first + i) * kStep, chunk(), values_[i]);
  }

  const float* x_;
  int64_t step_;
  int rows_, columns_;  // left from the thread's first chunk on
  bool whole_;
  float values_[kAhead][8];
};

template <int kBlocks>
__device__ __forceinline__ void clear(float (&x)[kBlocks][4]) {
#pragma unroll
  for (int n = 0; n < kBlocks; ++n)
#pragma unroll
    for (int i = 0; i < 4; ++i) x[n][i] = 0.0f;
}

// The products that sum to that of two f32, for eight columns, b's registers from `first` on: high += the largest, low
// += the others, the smallest first.
template <int kParts>
__device__ __forceinline__ void mma_parts(float (&high)[4], float (&low)[4], const uint32_t (&a)[kParts][4],
                                          const uint32_t (&b)[kParts][4], int first) {
#pragma unroll
  for (int sum = kParts - 1; sum > 0; --sum)
#pragma unroll
    for (int i = 0; i <= sum; ++i) mma(low, a[i], b[sum - i][first], b[sum - i][first + 1]);
  mma(high, a[0], b[0][first], b[0][first + 1]);
}

// s = a(rows from `row` on) b^T over the columns of both.
template <class A, class B>
__device__ __forceinline__ void multiply_transposed(float (&s)[B::kRows / 8][4], const A& a, int row, const B& b) {
  constexpr int kParts = A::kParts, kStrip = kParts == 1 ? B::kRows / 16 : B::kRows / 16 < 2 ? 1 : 2;
  static_assert(A::kDim == B::kDim && A::kParts == B::kParts);
#pragma unroll
  for (int first = 0; first < B::kRows / 16; first += kStrip) {
    float high[kStrip][2][4] = {}, low[kStrip][2][4] = {};
    constexpr int kSteps = A::kColumns / 16;
#pragma unroll(kParts == 1 ? A::kDim / A::kColumns : 1)
    for (int panel = 0; panel < A::kDim / A::kColumns; ++panel)
#pragma unroll
      for (int k = kSteps * panel; k < kSteps * (panel + 1); ++k) {
        uint32_t x[kParts][4];
#pragma unroll
        for (int part = 0; part < kParts; ++part) a.left(x[part], part, row, k);
#pragma unroll
        for (int n = 0; n < kStrip; ++n) {
          uint32_t y[kParts][4];
#pragma unroll
          for (int part = 0; part < kParts; ++part) b.right_transposed(y[part], part, (first + n) * 16, k);
#pragma unroll
          for (int half = 0; half < 2; ++half) mma_parts<kParts>(high[n][half], low[n][half], x, y, 2 * half);
        }
      }
#pragma unroll
    for (int n = 0; n < kStrip; ++n)
#pragma unroll
      for (int half = 0; half < 2; ++half)
#pragma unroll
        for (int i = 0; i < 4; ++i)
          s[2 * (first + n) + half][i] = kParts == 1 ? high[n][half][i] : high[n][half][i] + low[n][half][i];
  }
}

// out += x b, x parts of 16 columns of the left factor and b 16 rows from 16 k on, its columns from 16 `column` on.
template <class B, int kBlocks>
__device__ __forceinline__ void multiply_add_step(float (&out)[kBlocks][4], const uint32_t (&x)[B::kParts][4],
                                                  const B& b, int k, int column) {
  constexpr int kParts = B::kParts;
#pragma unroll
  for (int n = 0; n < kBlocks / 2; ++n) {
    uint32_t y[kParts][4];
#pragma unroll
    for (int part = 0; part < kParts; ++part) b.right(y[part], part, 16 * k, column + n);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float(&sum)[4] = out[2 * n + half];
      if constexpr (kParts == 1) {
        mma(sum, x[0], y[0][2 * half], y[0][2 * half + 1]);
      } else {
        float high[4] = {}, low[4] = {};
        mma_parts<kParts>(high, low, x, y, 2 * half);
#pragma unroll
        for (int i = 0; i < 4; ++i) sum[i] += high[i] + low[i];
      }
    }
  }
}

// out += w b for the columns of b from 16 `column` on; w as multiply_transposed() leaves it.
template <class B, int kBlocks>
__device__ __forceinline__ void multiply_add(float (&out)[kBlocks][4], const float (&w)[B::kRows / 8][4], const B& b,
                                             int column) {
#pragma unroll
  for (int k = 0; k < B::kRows / 16; ++k) {
    uint32_t x[B::kParts][4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      float low = w[2 * k + i / 2][i % 2 * 2], high = w[2 * k + i / 2][i % 2 * 2 + 1];
#pragma unroll
      for (int part = 0; part < B::kParts; ++part) x[part][i] = take_part(low, high);
    }
    multiply_add_step(out, x, b, k, column);
  }
}

}  // namespace saccade::cuda
