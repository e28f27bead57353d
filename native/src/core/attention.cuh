// What the attention operations share on a GPU: packed sequences whose offsets are checked there, and products of
// tiles.
//
// A block of 256 threads multiplies tiles of 64 x 64, a thread 4 x 4 of them: thread t has rows 4 (t / 16) and columns
// 4 (t % 16) onwards.  What lies outside of the operands counts as 0, so that neither padding nor a neighbouring
// sequence enters a product.
#pragma once

#include "core/attention_layout.h"
#include "core/rows.cuh"

namespace saccade::cuda {

constexpr int kTileThreads = 256, kOwn = 4;
constexpr float kNan = __builtin_nanf("");

// ------------------------------------------------------------------------------------------------- sequences

struct Sequences {
  const int32_t* offsets_q;
  const int32_t* offsets_k;
  const int32_t* lengths_k;  // null: all of each region
  const uint8_t* bad;
  int64_t count;

  __device__ int64_t first_row(int64_t s) const { return offsets_q[s]; }
  __device__ int64_t first_key(int64_t s) const { return offsets_k[s]; }
  __device__ int64_t rows(int64_t s) const { return offsets_q[s + 1] - offsets_q[s]; }
  __device__ int64_t keys(int64_t s) const { return lengths_k ? lengths_k[s] : offsets_k[s + 1] - offsets_k[s]; }
};

__device__ __forceinline__ int2 larger(int2 a, int2 b) { return {a.x > b.x ? a.x : b.x, a.y > b.y ? a.y : b.y}; }

// Of one block: the largest values up to each thread's own, and at least 0.
__device__ inline int2 scan_max(int2 value, int2* shared) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
  for (int distance = 1; distance < 32; distance *= 2) {
    const int2 other{__shfl_up_sync(~0u, value.x, distance), __shfl_up_sync(~0u, value.y, distance)};
    if (lane >= distance) value = larger(value, other);
  }
  __syncthreads();
  if (lane == 31) shared[warp] = value;
  __syncthreads();
  int2 before = lane < warp ? shared[lane] : int2{0, 0};
#pragma unroll
  for (int distance = 1; distance < 32; distance *= 2)
    before = larger(before, {__shfl_xor_sync(~0u, before.x, distance), __shfl_xor_sync(~0u, before.y, distance)});
  return larger(larger(value, before), {0, 0});
}

constexpr int kCleanThreads = 1024;

// One block.
static __global__ void __launch_bounds__(kCleanThreads)
    clean_kernel(CleanPacking out, const int32_t* offsets_q, int64_t rows, const int32_t* offsets_k, int64_t keys,
                 const int32_t* lengths_k, int64_t sequences, int64_t max_keys) {
  allow_next();
  __shared__ int2 shared[32];
  const int2 end{static_cast<int32_t>(rows), static_cast<int32_t>(keys)};
  int2 top{0, 0};
  for (int64_t first = 0; first <= sequences; first += kCleanThreads) {
    const int64_t s = first + threadIdx.x;
    int2 value = scan_max(s > 0 && s <= sequences ? int2{offsets_q[s], offsets_k[s]} : int2{0, 0}, shared);
    value = larger(value, top);
    if (value.x > end.x || s == sequences) value.x = end.x;
    if (value.y > end.y || s == sequences) value.y = end.y;
    if (s <= sequences) {
      out.offsets_q[s] = s == 0 ? 0 : value.x;
      out.offsets_k[s] = s == 0 ? 0 : value.y;
    }
    __syncthreads();
    const int64_t last = first + kCleanThreads - 1;
    if (last < sequences) top = {out.offsets_q[last], out.offsets_k[last]};
  }
  for (int64_t s = threadIdx.x; s < sequences; s += kCleanThreads) {
    const int64_t room = out.offsets_k[s + 1] - out.offsets_k[s], length = lengths_k ? lengths_k[s] : room;
    out.bad[s] = out.offsets_q[s] != offsets_q[s] || out.offsets_q[s + 1] != offsets_q[s + 1] ||
                 out.offsets_k[s] != offsets_k[s] || out.offsets_k[s + 1] != offsets_k[s + 1] || length < 0 ||
                 length > room || length > max_keys;
  }
}

// The sequences of a call, once the device has checked them.
template <class Args>
Sequences clean_sequences(const Device& device, const Args& args, saccade_address lengths_k,
                          const CleanPacking& packing) {
  launch(device, clean_kernel, 1, kCleanThreads, packing, pointer<const int32_t>(args.offsets_q), args.rows,
         pointer<const int32_t>(args.offsets_k), args.keys, pointer<const int32_t>(lengths_k), args.sequences,
         args.max_keys);
  return {packing.offsets_q, packing.offsets_k, pointer<const int32_t>(lengths_k), packing.bad, args.sequences};
}

// Rows (or keys) [begin, end) of sequence s: at most a tile.
struct Piece {
  int64_t s, begin, end;

  __device__ bool empty() const { return begin >= end; }
  __device__ int count() const { return static_cast<int>(end - begin); }
};

// Pieces of attention_layout.h.
__device__ inline int64_t first_piece(const int32_t* offsets, int64_t s, int tile) { return offsets[s] / tile + s; }

// The last sequence that has begun(s), as those before it have.  All threads of a warp ask for the same one, and look
// together, each at another sequence: there may be thousands.
template <class Begun>
__device__ __forceinline__ int64_t last_begun(int64_t sequences, const Begun& begun) {
  int64_t low = 0, high = sequences;
  while (high - low > 1) {
    const int64_t step = (high - low + 31) / 32, at = low + (threadIdx.x % 32 + 1) * step;
    low += __popc(__ballot_sync(~0u, at < high && begun(at))) * step;
    high = low + step < high ? low + step : high;
  }
  return low;
}

__device__ inline Piece piece_of(const int32_t* offsets, int64_t sequences, int64_t number, int tile = kTile) {
  const int64_t low = last_begun(sequences, [&](int64_t s) { return first_piece(offsets, s, tile) <= number; });
  const int64_t begin = offsets[low] + (number - first_piece(offsets, low, tile)) * tile;
  const int64_t end = offsets[low + 1] < begin + tile ? offsets[low + 1] : begin + tile;
  return {low, begin, end};
}

// Whose rows (or keys) `at` is among; as last_begun() does it.
__device__ inline int64_t sequence_at(const int32_t* offsets, int64_t sequences, int64_t at) {
  return last_begun(sequences, [&](int64_t s) { return offsets[s] <= at; });
}

// Each thread for itself.
__device__ inline int64_t sequence_of_row(const Sequences& sequences, int64_t row) {
  int64_t low = 0, high = sequences.count;  // offsets[low] <= row < offsets[high]
  while (high - low > 1) {
    const int64_t middle = low + (high - low) / 2;
    (sequences.offsets_q[middle] <= row ? low : high) = middle;
  }
  return low;
}

// Keys that packed row r of sequence s sees: the first ones (bottom-right alignment).
__device__ inline int64_t visible_keys(const Sequences& sequences, int64_t s, int64_t r) {
  const int64_t n = sequences.keys(s) - sequences.rows(s) + (r - sequences.first_row(s)) + 1;
  return n < 0 ? 0 : n;
}

// A [rows,heads,dim] tensor with row and head strides.
template <class T>
struct Heads {
  T* data;
  int64_t row_stride;
  int64_t head_stride;

  __device__ T* at(int64_t row, int64_t head) const { return data + row * row_stride + head * head_stride; }
};

template <class T>
__host__ __device__ Heads<T> heads_of(saccade_address address, int64_t row_stride, int64_t head_stride) {
  return {pointer<T>(address), row_stride, head_stride};
}

// ----------------------------------------------------------------------------------------------------- tiles

constexpr int kDepth = 16, kPaddedTile = kTile + 4;

// Shared memory of a block's products.  S: what multiply() sums in.
template <class S>
struct TileMemory {
  union {
    struct {
      alignas(16) S a[kDepth][kPaddedTile], b[kDepth][kPaddedTile];
    } factors;
    alignas(16) float rows[kTile][kPaddedTile];
  };
  alignas(16) float weights[kTile][kPaddedTile];
};

__device__ __forceinline__ int own_row() { return static_cast<int>(threadIdx.x / 16) * kOwn; }
__device__ __forceinline__ int own_column() { return static_cast<int>(threadIdx.x % 16) * kOwn; }

// sum[i][j] = sum_d a(row, d) b(column, d) over d < depth, for a_count rows and b_count columns.  Begins with a
// barrier.
template <class S, class A, class B>
__device__ void multiply(S (&sum)[kOwn][kOwn], TileMemory<S>& memory, int64_t depth, int a_count, int b_count,
                         const A& a, const B& b) {
  auto& factors = memory.factors;
#pragma unroll
  for (int i = 0; i < kOwn; ++i)
#pragma unroll
    for (int j = 0; j < kOwn; ++j) sum[i][j] = 0;
  for (int64_t first = 0; first < depth; first += kDepth) {
    __syncthreads();
#pragma unroll
    for (int e = 0; e < kTile * kDepth / kTileThreads; ++e) {
      const int at = e * kTileThreads + static_cast<int>(threadIdx.x), r = at / kDepth, d = at % kDepth;
      const bool inside = first + d < depth;
      factors.a[d][r] = inside && r < a_count ? static_cast<S>(a(r, first + d)) : S(0);
      factors.b[d][r] = inside && r < b_count ? static_cast<S>(b(r, first + d)) : S(0);
    }
    __syncthreads();
    if (own_row() >= a_count) continue;
#pragma unroll
    for (int d = 0; d < kDepth; ++d) {
      S x[kOwn], y[kOwn];
#pragma unroll
      for (int i = 0; i < kOwn; ++i) x[i] = factors.a[d][own_row() + i];
#pragma unroll
      for (int j = 0; j < kOwn; ++j) y[j] = factors.b[d][own_column() + j];
#pragma unroll
      for (int i = 0; i < kOwn; ++i)
#pragma unroll
        for (int j = 0; j < kOwn; ++j) sum[i][j] += x[i] * y[j];
    }
  }
}

// A block's 64 x width sums, width up to 64 kColumns.
template <int kColumns>
struct Sums {
  float x[kColumns][kOwn][kOwn];

  __device__ Sums() {
#pragma unroll
    for (auto& column : x)
#pragma unroll
      for (auto& row : column)
#pragma unroll
        for (float& value : row) value = 0.0f;
  }

  // += sum_k weights[k][row] rows(k, column) over k < count.  The block's threads have written the weights before;
  // begins with a barrier.
  template <class S, class Rows>
  __device__ void add(TileMemory<S>& memory, int count, int64_t width, const Rows& rows) {
#pragma unroll
    for (int c = 0; c < kColumns; ++c) {
      if (c * kTile >= width) break;
      __syncthreads();
      for (int e = static_cast<int>(threadIdx.x); e < kTile * kTile; e += kTileThreads) {
        const int k = e / kTile, column = e % kTile;
        const bool inside = k < count && c * kTile + column < width;
        memory.rows[k][column] = inside ? rows(k, c * kTile + column) : 0.0f;
      }
      __syncthreads();
      float part[kOwn][kOwn] = {};
#pragma unroll 8
      for (int k = 0; k < kTile; ++k) {
        float w[kOwn], y[kOwn];
#pragma unroll
        for (int i = 0; i < kOwn; ++i) w[i] = memory.weights[k][own_row() + i];
#pragma unroll
        for (int j = 0; j < kOwn; ++j) y[j] = memory.rows[k][own_column() + j];
#pragma unroll
        for (int i = 0; i < kOwn; ++i)
#pragma unroll
          for (int j = 0; j < kOwn; ++j) part[i][j] += w[i] * y[j];
      }
#pragma unroll
      for (int i = 0; i < kOwn; ++i)
#pragma unroll
        for (int j = 0; j < kOwn; ++j) x[c][i][j] += part[i][j];
    }
  }

  // body(row, column, value) for what the thread holds of `count` rows.
  template <class Body>
  __device__ void each(int count, int64_t width, const Body& body) const {
#pragma unroll
    for (int c = 0; c < kColumns; ++c)
#pragma unroll
      for (int i = 0; i < kOwn; ++i)
#pragma unroll
        for (int j = 0; j < kOwn; ++j) {
          const int64_t column = c * kTile + own_column() + j;
          if (own_row() + i < count && column < width) body(own_row() + i, column, x[c][i][j]);
        }
  }
};

__device__ inline double add_doubles(double a, double b) { return a + b; }

// Columns `column` and the next of a row of `dim`.
template <class T>
__device__ __forceinline__ void store_pair(T* row, int64_t column, int64_t dim, float low, float high) {
  struct alignas(2 * sizeof(T)) Pair {
    T low, high;
  };
  T* at = row + column;
  if (column + 1 < dim && reinterpret_cast<uint64_t>(at) % sizeof(Pair) == 0) {
    *reinterpret_cast<Pair*>(at) = {from_float<T>(low), from_float<T>(high)};
  } else {
    if (column < dim) at[0] = from_float<T>(low);
    if (column + 1 < dim) at[1] = from_float<T>(high);
  }
}

// Fills rows [begin, end) of one head, by the block's first `threads` threads.
template <class T>
__device__ void fill_heads(const Heads<T>& x, int64_t begin, int64_t end, int64_t head, int64_t dim, float value,
                           uint32_t threads = blockDim.x) {
  for (int64_t e = threadIdx.x; e < (end - begin) * dim; e += threads)
    x.at(begin + e / dim, head)[e % dim] = from_float<T>(value);
}

}  // namespace saccade::cuda
