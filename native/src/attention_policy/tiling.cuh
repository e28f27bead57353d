// How a block multiplies tiles of 64 rows and 64 keys of f32 for attention_policy and attention_divergence: by FMAs in
// f64.
//
// A thread owns kRows rows of a tile and kColumns of their columns; kLanes neighbouring threads own the same rows.
#pragma once

#include "core/attention.cuh"

namespace saccade::cuda {

struct Tiling {
  static constexpr int kThreads = kTileThreads, kRows = kOwn, kColumns = kOwn, kLanes = 16;
  using Score = double;

  __device__ static int row(int i) { return own_row() + i; }
  __device__ static int column(int j) { return own_column() + j; }
  __device__ static bool leads() { return own_column() == 0; }

  // Shared memory of a block, and factors.
  struct Memory {
    TileMemory<Score>& tiles;
    // Factors of the last multiply().
    const float *q, *k;
    int64_t q_stride, k_stride, dim;
    int rows, keys;

    __device__ explicit Memory(unsigned char* at) : tiles(*reinterpret_cast<TileMemory<Score>*>(at)) {}

    // Products of `rows` rows of a from `row` on with `keys` keys of b from `key` on; those that are not there count as
    // 0.  Begins with a barrier.
    __device__ __forceinline__ void multiply(Score (&s)[kRows][kColumns], const Heads<const float>& a, int64_t row,
                                             int64_t head, int rows_, const Heads<const float>& b, int64_t key,
                                             int64_t kv_head, int keys_, int64_t dim_) {
      q = a.at(row, head), k = b.at(key, kv_head), q_stride = a.row_stride, k_stride = b.row_stride;
      rows = rows_, keys = keys_, dim = dim_;
      cuda::multiply(
          s, tiles, dim, rows, keys, [&](int r, int64_t d) { return q[r * q_stride + d]; },
          [&](int j, int64_t d) { return k[j * k_stride + d]; });
    }

    // Keeps the left factor of Sums.
    template <bool kByKey>
    __device__ __forceinline__ void weigh(const float (&x)[kRows][kColumns]) const {
#pragma unroll
      for (int i = 0; i < kRows; ++i)
#pragma unroll
        for (int j = 0; j < kColumns; ++j)
          (kByKey ? tiles.weights[column(j)][row(i)] : tiles.weights[row(i)][column(j)]) = x[i][j];
    }
  };

  // A block's 64 x kDim sums.
  template <int kDim>
  struct Sums {
    cuda::Sums<kDim / kTile> sums;

    // += weights k, of the last multiply().  The block's threads have written the weights before.
    __device__ __forceinline__ void add_keys(Memory& m) {
      sums.add(m.tiles, m.keys, m.dim, [&](int j, int64_t d) { return m.k[j * m.k_stride + d]; });
    }
    // += weights^T q, of rows for which live(r).
    template <class Live>
    __device__ __forceinline__ void add_rows(Memory& m, const Live& live) {
      sums.add(m.tiles, m.rows, m.dim, [&](int r, int64_t d) { return live(r) ? m.q[r * m.q_stride + d] : 0.0f; });
    }
    // body(i, row, column, value) for what the thread holds of `count` rows: its row number i.
    template <class Body>
    __device__ void each(int count, int64_t width, const Body& body) const {
      sums.each(count, width, [&](int r, int64_t d, float x) { body(r - own_row(), r, d, x); });
    }
  };
};

using Score = Tiling::Score;
// What a thread owns of a tile.
template <class V>
using Own = V[Tiling::kRows][Tiling::kColumns];

// Over the threads that own the same rows; all get the result.
template <class V, class Merge>
__device__ V over_row(V value, const Merge& merge) {
#pragma unroll
  for (int distance = 1; distance < Tiling::kLanes; distance *= 2) {
    const V other = __shfl_xor_sync(~0u, value, distance);
    value = threadIdx.x & distance ? merge(other, value) : merge(value, other);
  }
  return value;
}

template <class Kernel, class... Arguments>
void launch_tiles(const Device& device, Kernel kernel, int64_t blocks, const Arguments&... arguments) {
  launch_shared(device, kernel, blocks, Tiling::kThreads, static_cast<int>(sizeof(TileMemory<Score>)), arguments...);
}

}  // namespace saccade::cuda
