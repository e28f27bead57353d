// How a block multiplies tiles of 64 rows and 64 keys for attention_policy and attention_divergence: f32 by FMAs in
// f64, 16-bit types on the tensor cores.
//
// A thread owns kRows rows of a tile and kColumns of their columns; kLanes neighbouring threads own the same rows.
#pragma once

#include "core/attention.cuh"
#include "core/mma.cuh"

namespace saccade::cuda {

// bf16 is one part of core/mma.cuh, f16 two.
template <class T>
struct Tiling {
  static constexpr int kThreads = 128, kRows = 2, kColumns = 16, kLanes = 4, kParts = std::is_same_v<T, bf16> ? 1 : 2;
  using Score = float;

  __device__ static int row(int i) { return static_cast<int>(threadIdx.x / 32) * 16 + lane_row(2 * i); }
  __device__ static int column(int j) { return j / 2 * 8 + lane_column(j % 2); }
  __device__ static bool leads() { return threadIdx.x % kLanes == 0; }

  // Shared memory of a block; kDim: columns of q and k, 0 from `dim` on.
  template <int kDim>
  struct Memory {
    using Tile = MmaTile<kParts, kTile, kDim>;
    using Weights = MmaTile<kParts, kTile, kTile>;
    static constexpr int kShared = 2 * Tile::kBytes + Weights::kBytes;

    const Tile q, k;
    const Weights weights;
    // What a tile holds: the same rows need not be loaded again.
    struct Held {
      const T* from;
      int64_t stride, dim;

      __device__ bool operator!=(const Held& other) const {
        return from != other.from || stride != other.stride || dim != other.dim;
      }
    } q_held, k_held;

    __device__ explicit Memory(unsigned char* at)
        : q{shared_address(at)},
          k{q.base + Tile::kBytes},
          weights{k.base + Tile::kBytes},
          q_held{nullptr, 0, 0},
          k_held{nullptr, 0, 0} {}

    // Products of `rows` rows of a from `row` on with `keys` keys of b from `key` on; rows for which not live(r), and
    // those that are not there, count as 0.  Begins with a barrier.
    template <class Live>
    __device__ __forceinline__ void multiply(float (&s)[kRows][kColumns], const Heads<const T>& a, int64_t row,
                                             int64_t head, int rows, const Heads<const T>& b, int64_t key,
                                             int64_t kv_head, int keys, int64_t dim, const Live& live) {
      __syncthreads();
      const Held own_q{a.at(row, head), a.row_stride, dim}, own_k{b.at(key, kv_head), b.row_stride, dim};
      if (q_held != own_q) load(q, q_held = own_q, rows, live);
      if (k_held != own_k) load(k, k_held = own_k, keys, [](int) { return true; });
      __syncthreads();
      float sums[kTile / 8][4];
      multiply_transposed(sums, q, static_cast<int>(threadIdx.x / 32) * 16, k);
#pragma unroll
      for (int i = 0; i < kRows; ++i)
#pragma unroll
        for (int j = 0; j < kColumns; ++j) s[i][j] = sums[j / 2][2 * i + j % 2];
    }

    // Keeps the left factor of Sums.
    template <bool kByKey>
    __device__ __forceinline__ void weigh(const float (&x)[kRows][kColumns]) const {
#pragma unroll
      for (int i = 0; i < kRows; ++i)
#pragma unroll
        for (int j = 0; j < kColumns; j += 2) {
          float low = x[i][j], high = x[i][j + 1];
#pragma unroll
          for (int part = 0; part < kParts; ++part)
            asm volatile("st.shared.b32 [%0], %1;" ::"r"(weights.address(part, row(i), j / 2) + lane_column(0) * 2),
                         "r"(take_part(low, high))
                         : "memory");
        }
    }

   private:
    template <class Live>
    __device__ void load(const Tile& tile, const Held& held, int count, const Live& live) {
      constexpr int kChunks = Tile::kChunks;
      const bool whole = (reinterpret_cast<uint64_t>(held.from) % 16 | held.stride % 8 | held.dim % 8) == 0;
#pragma unroll 4
      for (int at = static_cast<int>(threadIdx.x); at < kTile * kChunks; at += kThreads) {
        const int r = at / kChunks, chunk = at % kChunks;
        float x[8];
        load_columns(x, held.from + r * held.stride + 8 * chunk,
                     r < count && live(r) ? static_cast<int>(held.dim) - 8 * chunk : 0, whole);
        store_columns(tile, r, chunk, x);
      }
    }
  };

  // A block's 64 x kDim sums.
  template <int kDim>
  struct Sums {
    float x[kDim / 8][4];

    __device__ Sums() { clear(x); }

    // += weights k, of the last multiply().  The block's threads have written the weights before.
    __device__ __forceinline__ void add_keys(const Memory<kDim>& memory) {
      __syncthreads();
      accumulate(memory.k, [&](uint32_t(&a)[kParts][4], int k) {
#pragma unroll
        for (int part = 0; part < kParts; ++part)
          memory.weights.left(a[part], part, static_cast<int>(threadIdx.x / 32) * 16, k);
      });
    }
    // += weights^T q.
    template <class Live>
    __device__ __forceinline__ void add_rows(const Memory<kDim>& memory, const Live&) {
      __syncthreads();
      accumulate(memory.q, [&](uint32_t(&a)[kParts][4], int k) {
#pragma unroll
        for (int part = 0; part < kParts; ++part)
          memory.weights.left_transposed(a[part], part, 16 * k, static_cast<int>(threadIdx.x / 32));
      });
    }

    // body(i, row, column, value) for what the thread holds of `count` rows: its row number i.
    template <class Body>
    __device__ void each(int count, int64_t width, const Body& body) const {
#pragma unroll
      for (int n = 0; n < kDim / 8; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const int r = row(e / 2), column = 8 * n + lane_column(e % 2);
          if (r < count && column < width) body(e / 2, r, column, x[n][e]);
        }
    }

   private:
    template <class Left>
    __device__ __forceinline__ void accumulate(const typename Memory<kDim>::Tile& b, const Left& left) {
#pragma unroll
      for (int k = 0; k < kTile / 16; ++k) {
        uint32_t a[kParts][4];
        left(a, k);
        multiply_add_step(x, a, b, k, 0);
      }
    }
  };
};

template <>
struct Tiling<float> {
  static constexpr int kThreads = kTileThreads, kRows = kOwn, kColumns = kOwn, kLanes = 16;
  using Score = double;

  __device__ static int row(int i) { return own_row() + i; }
  __device__ static int column(int j) { return own_column() + j; }
  __device__ static bool leads() { return own_column() == 0; }

  template <int kDim>
  struct Memory {
    static constexpr int kShared = sizeof(TileMemory<Score>);

    TileMemory<Score>& tiles;
    // Factors of the last multiply().
    const float *q, *k;
    int64_t q_stride, k_stride, dim;
    int rows, keys;

    __device__ explicit Memory(unsigned char* at) : tiles(*reinterpret_cast<TileMemory<Score>*>(at)) {}

    template <class Live>
    __device__ __forceinline__ void multiply(Score (&s)[kRows][kColumns], const Heads<const float>& a, int64_t row,
                                             int64_t head, int rows_, const Heads<const float>& b, int64_t key,
                                             int64_t kv_head, int keys_, int64_t dim_, const Live&) {
      q = a.at(row, head), k = b.at(key, kv_head), q_stride = a.row_stride, k_stride = b.row_stride;
      rows = rows_, keys = keys_, dim = dim_;
      cuda::multiply(
          s, tiles, dim, rows, keys, [&](int r, int64_t d) { return q[r * q_stride + d]; },
          [&](int j, int64_t d) { return k[j * k_stride + d]; });
    }

    template <bool kByKey>
    __device__ __forceinline__ void weigh(const float (&x)[kRows][kColumns]) const {
#pragma unroll
      for (int i = 0; i < kRows; ++i)
#pragma unroll
        for (int j = 0; j < kColumns; ++j)
          (kByKey ? tiles.weights[column(j)][row(i)] : tiles.weights[row(i)][column(j)]) = x[i][j];
    }
  };

  template <int kDim>
  struct Sums {
    cuda::Sums<kDim / kTile> sums;

    __device__ __forceinline__ void add_keys(Memory<kDim>& m) {
      sums.add(m.tiles, m.keys, m.dim, [&](int j, int64_t d) { return m.k[j * m.k_stride + d]; });
    }
    template <class Live>
    __device__ __forceinline__ void add_rows(Memory<kDim>& m, const Live& live) {
      sums.add(m.tiles, m.rows, m.dim, [&](int r, int64_t d) { return live(r) ? m.q[r * m.q_stride + d] : 0.0f; });
    }
    template <class Body>
    __device__ void each(int count, int64_t width, const Body& body) const {
      sums.each(count, width, [&](int r, int64_t d, float x) { body(r - own_row(), r, d, x); });
    }
  };
};

// Over the threads that own the same rows; all get the result.
template <class T, class V, class Merge>
__device__ V over_row(V value, const Merge& merge) {
#pragma unroll
  for (int distance = 1; distance < Tiling<T>::kLanes; distance *= 2) {
    const V other = __shfl_xor_sync(~0u, value, distance);
    value = threadIdx.x & distance ? merge(other, value) : merge(value, other);
  }
  return value;
}

// Columns of tiles for scores alone: FMAs do without.
template <class T, int kDim>
constexpr int kScoreColumns = std::is_same_v<T, float> ? 64 : kDim;

template <class T, int kDim, class Kernel, class... Arguments>
void launch_tiles(const Device& device, Kernel kernel, int64_t blocks, const Arguments&... arguments) {
  launch_shared(device, kernel, blocks, Tiling<T>::kThreads, Tiling<T>::template Memory<kDim>::kShared, arguments...);
}

// Calls body(columns of a tile), a compile-time constant, for heads of `dim`.
template <class T, class Body>
void with_tile_columns(int64_t dim, const Body& body) {
  if constexpr (!std::is_same_v<T, f16>) {
    if (dim <= 64) return body(std::integral_constant<int, 64>{});
  }
  if (dim <= 128) return body(std::integral_constant<int, 128>{});
  body(std::integral_constant<int, 256>{});
}

}  // namespace saccade::cuda
