// The attention policy on any GPU, of 16-bit types, by mma.sync: log-sum-exps of every head and row, and sums of the
// heads' probabilities.  Tiles are copied from q and k themselves.
#pragma once

#include "attention_policy/policy_heads.cuh"

namespace saccade::cuda {

constexpr int kMeanThreads = 128, kGivenThreads = 256;

// A policy, and what is kept of its heads and rows: kQueryStatistics numbers, each of [heads, rows], as those beside
// the tiles of Hopper.
template <class T>
struct PlainPolicy : PolicyHeads {
  Heads<const T> q, k;
  int dim;
  bool whole;  // all chunks of eight columns lie at multiples of 16 bytes
  int64_t stride;
  float* statistics;

  PlainPolicy(const PolicyRows& rows_, const PolicySide<T>& side, const HeadSpan& heads_, float* statistics_)
      : PolicyHeads(rows_, side, heads_),
        q(side.q),
        k(side.k),
        dim(static_cast<int>(side.dim)),
        whole(true),
        stride(side.heads * side.rows),
        statistics(statistics_) {
    for (const Heads<const T>& x : {q, k})
      whole = whole && (reinterpret_cast<uint64_t>(x.data) % 16 | x.row_stride % 8 | x.head_stride % 8 | dim % 8) == 0;
  }

  __device__ __forceinline__ float* statistic(int which, int64_t row, int64_t head) const {
    return statistics + which * stride + head * total_rows + row;
  }
};

// ------------------------------------------------------------------------------------------------- copies

// Copies `columns` of eight columns; the others are 0.
template <class T>
__device__ __forceinline__ void copy_columns(uint32_t to, const T* from, int columns) {
  alignas(16) T x[8];
#pragma unroll
  for (int e = 0; e < 8; ++e) x[e] = e < columns ? from[e] : from_float<T>(0.0f);
  store_16(to, *reinterpret_cast<const uint4*>(x));
}

// Begins to copy a tile, all kThreads threads of a block: rows `stride` apart, of `dim` columns, those for which
// live(r); the others are 0.
template <int kThreads, class T, class Tile, class Live>
__device__ __forceinline__ void begin_tile(const Tile& tile, const T* from, int64_t stride, int dim, bool whole,
                                           const Live& live) {
  constexpr int kStep = kThreads / Tile::kChunks;
  static_assert(kThreads % Tile::kChunks == 0 && Tile::kRows % kStep == 0);
  const int chunk = static_cast<int>(threadIdx.x) % Tile::kChunks, row = static_cast<int>(threadIdx.x) / Tile::kChunks;
  const int columns = dim - 8 * chunk;
  from += row * stride + 8 * chunk;
  if (whole) {
#pragma unroll
    for (int i = 0; i < Tile::kRows / kStep; ++i, from += kStep * stride)
      copy_16(tile.address(0, row + i * kStep, chunk), from, live(row + i * kStep) && columns > 0 ? 16 : 0);
  } else {
#pragma unroll 1
    for (int i = 0; i < Tile::kRows / kStep; ++i, from += kStep * stride)
      copy_columns(tile.address(0, row + i * kStep, chunk), from, live(row + i * kStep) ? columns : 0);
  }
}

// ------------------------------------------------------------------------------------------------ products

// s = rows of a, 16 kTiles from `row` on, times columns of b^T, 8 kBlocks from `column` on.  kAhead: factors are loaded
// a step before they are multiplied, where there are registers for them.
template <class T, bool kAhead, int kTiles, int kBlocks, class A, class B>
__device__ __forceinline__ void multiply_rows(float (&s)[kTiles][kBlocks][4], const A& a, int row, const B& b,
                                              int column) {
  static_assert(A::kDim == B::kDim && kBlocks % 2 == 0);
  constexpr int kSteps = A::kDim / 16, kSets = kAhead ? 2 : 1;
  uint32_t x[kSets][kTiles][4], y[kSets][kBlocks / 2][4];
  const auto load = [&](int k) {
#pragma unroll
    for (int t = 0; t < kTiles; ++t) a.left(x[k % kSets][t], 0, row + 16 * t, k);
#pragma unroll
    for (int n = 0; n < kBlocks / 2; ++n) b.right_transposed(y[k % kSets][n], 0, column + 16 * n, k);
  };
#pragma unroll
  for (int t = 0; t < kTiles; ++t) clear(s[t]);
  if (kAhead) load(0);
#pragma unroll
  for (int k = 0; k < kSteps; ++k) {
    if (!kAhead) load(k);
    if (kAhead && k + 1 < kSteps) load(k + 1);
#pragma unroll
    for (int n = 0; n < kBlocks / 2; ++n)
#pragma unroll
      for (int t = 0; t < kTiles; ++t) {
        const uint32_t(&right)[4] = y[k % kSets][n];
        mma<T>(s[t][2 * n], x[k % kSets][t], right[0], right[1]);
        mma<T>(s[t][2 * n + 1], x[k % kSets][t], right[2], right[3]);
      }
  }
}

// out += x b, b's rows 8 kBlocks from `row` on.  x is rounded to bf16; where b is f16, both are sums of two bf16.
template <class T, int kTiles, int kBlocks, class B>
__device__ __forceinline__ void multiply_add_rows(float (&out)[kTiles][B::kDim / 8][4],
                                                  const float (&x)[kTiles][kBlocks][4], const B& b, int row) {
  constexpr int kParts = std::is_same_v<T, bf16> ? 1 : 2;
  uint32_t left[kParts][kTiles][kBlocks / 2][4];
#pragma unroll
  for (int t = 0; t < kTiles; ++t)
#pragma unroll
    for (int k = 0; k < kBlocks / 2; ++k)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        float low = x[t][2 * k + i / 2][i % 2 * 2], high = x[t][2 * k + i / 2][i % 2 * 2 + 1];
#pragma unroll
        for (int part = 0; part < kParts; ++part) left[part][t][k][i] = take_part(low, high);
      }
#pragma unroll
  for (int k = 0; k < kBlocks / 2; ++k)
#pragma unroll
    for (int n = 0; n < B::kDim / 16; ++n) {
      uint32_t right[kParts][4];
      b.right(right[0], 0, row + 16 * k, n);
      if constexpr (kParts == 2) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          __half2 pair;
          memcpy(&pair, &right[0][i], sizeof pair);
          float2 value = __half22float2(pair);
#pragma unroll
          for (int part = 0; part < kParts; ++part) right[part][i] = take_part(value.x, value.y);
        }
      }
#pragma unroll
      for (int t = 0; t < kTiles; ++t)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          float(&sum)[4] = out[t][2 * n + half];
#pragma unroll
          for (int parts = 2 * (kParts - 1); parts >= 0; --parts)  // the smallest products first
#pragma unroll
            for (int part = kParts - 1; part >= 0; --part)
              if (parts - part >= 0 && parts - part < kParts)
                mma<bf16>(sum, left[part][t][k], right[parts - part][2 * half], right[parts - part][2 * half + 1]);
        }
    }
}

// -------------------------------------------------------------------------------------------- log-sum-exps

// Blocks where rows stay and others move by: two halves of four warps have all of the rows, 16 kTiles a warp, and each
// half has one of what moves by.
template <int kDim>
struct StayShape {
  static constexpr int kTiles = kDim < 256 ? 2 : 1, kThreads = 256, kWarps = kThreads / 32 / 2;
  static constexpr int kStay = 16 * kTiles * kWarps, kMove = kDim < 256 ? 128 : 64, kHalf = kMove / 2;
  using Stay = MmaTile<1, kStay, kDim>;
  using Move = MmaTile<1, kMove, kDim>;
  static constexpr int kShared = Stay::kBytes + 2 * Move::kBytes;
  static_assert(kShared <= 99 << 10 && kStay <= kMostStay, "of what every GPU has");

  __device__ static int first_row() { return 16 * kTiles * (warp() % kWarps); }
  __device__ static int half() { return warp() / kWarps; }
  // The row of a lane, i < 2 kTiles.
  __device__ static int row(int i) { return first_row() + 16 * (i / 2) + lane_row(2 * (i % 2)); }
};

// lse: [heads, rows]: given.
template <class T>
__global__ void __launch_bounds__(kGivenThreads)
    given_kernel(const __grid_constant__ PlainPolicy<T> policy, const float* lse) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kGivenThreads + threadIdx.x;
  const int64_t at = policy.heads.begin * policy.total_rows + i;
  if (i < policy.heads.count() * policy.total_rows) policy.statistics[at] = lse[at] * kLog2E;
}

// The first `keys` keys of a block pass by, in tiles: use(first, row, tile, next) for the first key and its row in a
// tile, of those that the warp's half has, and the first key in the next tile.  kScattered: of all keys, in the order
// of Scattered.
template <class T, int kDim, bool kScattered = false, class Use>
__device__ __forceinline__ void pass_keys(const PlainPolicy<T>& policy, const HeadedRows& block, uint32_t memory,
                                          int keys, const Use& use) {
  using Shape = StayShape<kDim>;
  using Move = typename Shape::Move;
  const T* from = policy.k.at(policy.sequences().first_key(block.s), block.kv);
  const auto tile = [&](int i) { return Move{memory + i % 2 * Move::kBytes}; };
  const auto begin = [&](int i, int first) {
    begin_tile<Shape::kThreads>(tile(i), from + first * policy.k.row_stride, policy.k.row_stride, policy.dim,
                                policy.whole, [&](int r) { return r < keys - first; });
    copies_commit();
  };
  const int tiles = (keys + Shape::kMove - 1) / Shape::kMove, row = kScattered ? 0 : Shape::half() * Shape::kHalf;
  const auto all = static_cast<int>(divide_up(policy.sequences().keys(block.s), Shape::kMove));
  Scattered order(tiles, kScattered ? Scattered::stride_of(all) : 1);
  __syncthreads();  // no tile of another pass is in use
  begin(0, 0);
  for (int i = 0; i < tiles; ++i) {
    copies_wait<0>();
    __syncthreads();
    const int first = order.index * Shape::kMove;
    order.next();
    const int next = i + 1 < tiles ? order.index * Shape::kMove : keys;
    if (i + 1 < tiles) begin(i + 1, next);
    if (first + row < keys) use(first + row, row, tile(i), next + row);
  }
}

// Begins to copy the rows of a block: those for which live(r).
template <class T, int kDim, class Live>
__device__ __forceinline__ void begin_rows(const PlainPolicy<T>& policy, const HeadedRows& block, uint32_t memory,
                                           const Live& live) {
  using Shape = StayShape<kDim>;
  const typename Shape::Stay tile{memory};
#pragma unroll 1
  for (int i = static_cast<int>(threadIdx.x); i < Shape::kStay * (kDim / 8); i += Shape::kThreads) {
    const int r = i / (kDim / 8), chunk = i % (kDim / 8);
    const int columns = r < block.count() && live(r) ? policy.dim - 8 * chunk : 0;
    const T* from = columns > 0 ? policy.q.at(block.begin + block.query(r), block.head(r)) + 8 * chunk : policy.q.data;
    if (policy.whole)
      copy_16(tile.address(0, r, chunk), from, columns > 0 ? 16 : 0);
    else
      copy_columns(tile.address(0, r, chunk), from, columns);
  }
}

// The log-sum-exps of the policy's heads, and in out[heads, rows] where that is not null.
template <class T, int kDim>
__global__ void __launch_bounds__(StayShape<kDim>::kThreads, 1)
    plain_lse_kernel(const __grid_constant__ PlainPolicy<T> policy, const __grid_constant__ HeadedGrid grid,
                     float* out) {
  using Shape = StayShape<kDim>;
  constexpr int kRows = 2 * Shape::kTiles;
  __shared__ double halves[Shape::kStay];
  const HeadedRows block(policy, grid);
  if (block.empty()) return;
  const auto write = [&](int r, double lse) {
    constexpr double kNatural = 0.693147180559945309;  // of a power of two
    const int64_t row = block.begin + block.query(r), head = block.head(r);
    *policy.statistic(kLse, row, head) = static_cast<float>(lse);
    if (out) out[head * policy.total_rows + row] = static_cast<float>(lse * kNatural);
  };
  const int64_t s = block.s;
  if (policy.sequences().bad[s]) {
    if (threadIdx.x < block.count()) write(static_cast<int>(threadIdx.x), static_cast<double>(kNan));
    return;
  }
  const typename Shape::Stay q{shared_address(tile_memory)};
  const int most = static_cast<int>(visible_keys(policy.sequences(), s, block.begin + block.queries - 1));
  int visible[kRows];
  float top[kRows];
  double sum[kRows];
#pragma unroll
  for (int i = 0; i < kRows; ++i) {
    const int r = Shape::row(i);
    visible[i] =
        r < block.count() ? static_cast<int>(visible_keys(policy.sequences(), s, block.begin + block.query(r))) : most;
    top[i] = -INFINITY;
    sum[i] = 0.0;
  }
  if (most > 0) {
    begin_rows<T, kDim>(policy, block, q.base, [](int) { return true; });
    pass_keys<T, kDim>(policy, block, q.base + Shape::Stay::kBytes, most,
                       [&](int first, int row, const typename Shape::Move& k, int) {
                         float x[Shape::kTiles][Shape::kHalf / 8][4];
                         multiply_rows<T, true>(x, q, Shape::first_row(), k, row);
#pragma unroll
                         for (int i = 0; i < kRows; ++i)
                           add_exponentials(x[i / 2], i % 2, visible[i] - first, policy.unit, top[i], sum[i]);
                       });
  }
  double lse[kRows];
#pragma unroll
  for (int i = 0; i < kRows; ++i) {
    lse[i] = join_exponentials(top[i], sum[i], sum[i] != 0.0);
    if (Shape::half() == 1 && threadIdx.x % 4 == 0) halves[Shape::row(i)] = lse[i];
  }
  __syncthreads();
#pragma unroll
  for (int i = 0; i < kRows; ++i) {
    const int r = Shape::row(i);
    if (Shape::half() == 1 || threadIdx.x % 4 != 0 || r >= block.count()) continue;
    const double other = halves[r], most_of_both = fmax(lse[i], other);
    // Of nothing: -inf; NaN remains what it is.
    write(r, most_of_both == -INFINITY
                 ? lse[i] + other
                 : most_of_both + ::log2(::exp2(lse[i] - most_of_both) + ::exp2(other - most_of_both)));
  }
}

// ---------------------------------------------------------------------------------------------------- mean

// A block of 64 queries and a tile of keys; a warp computes a quarter.
template <int kDim>
struct MeanShape {
  static constexpr int kQueries = 64, kKeys = kDim < 256 ? 128 : 64, kColumns = kKeys / 2;
  using Keys = MmaTile<1, kKeys, kDim>;
  using Queries = MmaTile<1, kQueries, kDim>;
  static constexpr int kShared = Keys::kBytes + 2 * Queries::kBytes;
  static_assert(kShared <= 96 << 10, "of what every GPU has");
};

// The keys of a key head stay, queries of its heads move by.
template <class T, int kDim>
__global__ void __launch_bounds__(kMeanThreads, 2)
    plain_mean_kernel(const __grid_constant__ PlainPolicy<T> policy, const __grid_constant__ PolicyMap map,
                      int64_t key_tiles) {
  using Shape = MeanShape<kDim>;
  constexpr int kBlocks = Shape::kColumns / 8;
  const Sequences& sequences = policy.sequences();
  const int64_t pieces = gridDim.x / key_tiles;
  const Piece piece =
      piece_of(sequences.offsets_q, sequences.count, pieces - 1 - blockIdx.x / key_tiles, Shape::kQueries);
  if (piece.empty() || piece.end <= map.begin || piece.begin >= map.end || sequences.bad[piece.s]) return;
  const int64_t s = piece.s, first = blockIdx.x % key_tiles * Shape::kKeys;
  const Support support = policy.rows.of(s, visible_keys(sequences, s, piece.end - 1));
  if (first >= support.end || first + Shape::kKeys <= support.begin) return;
  const typename Shape::Keys k{shared_address(tile_memory)};
  const auto queries = [&](int64_t i) {
    return
        typename Shape::Queries{k.base + Shape::Keys::kBytes + static_cast<uint32_t>(i % 2) * Shape::Queries::kBytes};
  };
  const auto begin_keys = [&](int64_t kv) {
    const int left = static_cast<int>(sequences.keys(s) - first);
    const T* from = policy.k.at(sequences.first_key(s) + first, kv);
    begin_tile<kMeanThreads>(k, from, policy.k.row_stride, policy.dim, policy.whole, [&](int r) { return r < left; });
  };
  const auto begin_queries = [&](int64_t head) {
    const T* from = policy.q.at(piece.begin, head);
    begin_tile<kMeanThreads>(queries(head), from, policy.q.row_stride, policy.dim, policy.whole,
                             [&](int r) { return r < piece.count(); });
    copies_commit();
  };

  const int row = warp() % 2 * 32, column = warp() / 2 * Shape::kColumns;
  int64_t own[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int64_t at = piece.begin + row + 16 * (i / 2) + lane_row(2 * (i % 2));
    own[i] = at < piece.end ? at : piece.end - 1;
  }
  float sum[2][kBlocks][4];
  clear(sum[0]);
  clear(sum[1]);
  int64_t kv = map.heads.begin / policy.group;
  begin_keys(kv);
  begin_queries(map.heads.begin);
  for (int64_t head = map.heads.begin; head < map.heads.end; ++head) {
    float lse[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) lse[i] = *policy.statistic(kLse, own[i], head);
    copies_wait<0>();
    __syncthreads();
    if (head + 1 < map.heads.end) begin_queries(head + 1);
    float x[2][kBlocks][4];
    multiply_rows<T, true>(x, queries(head), row, k, column);
#pragma unroll
    for (int t = 0; t < 2; ++t)
#pragma unroll
      for (int n = 0; n < kBlocks; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e) sum[t][n][e] += exp2_fast(fmaf(x[t][n][e], policy.unit, -lse[2 * t + e / 2]));
    if (head + 1 < map.heads.end && (head + 1) / policy.group != kv) {
      __syncthreads();
      begin_keys(++kv);
      copies_commit();
    }
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int64_t at = piece.begin + row + 16 * (i / 2) + lane_row(2 * (i % 2));
    if (at >= piece.end || at < map.begin || at >= map.end) continue;
    float* to = map.row(at) + first + column + lane_column(0);
#pragma unroll
    for (int n = 0; n < kBlocks; ++n)
      if (first + column + 8 * n + lane_column(0) < map.width)
        *reinterpret_cast<float2*>(to + 8 * n) = {sum[i / 2][n][i % 2 * 2], sum[i / 2][n][i % 2 * 2 + 1]};
  }
}

template <class T, int kDim>
void launch_plain_mean(const Device& device, const PlainPolicy<T>& policy, const PolicyMap& map, int64_t sequences) {
  using Shape = MeanShape<kDim>;
  const int64_t key_tiles = divide_up(map.width, Shape::kKeys);
  launch_shared(device, plain_mean_kernel<T, kDim>,
                pieces_of(policy.total_rows, sequences, Shape::kQueries) * key_tiles, kMeanThreads, Shape::kShared,
                policy, map, key_tiles);
}

// The log-sum-exps of a policy's rows: those given, [heads, rows], or its own, which may be wanted.
template <class T, int kDim>
void launch_plain_lse(const Device& device, const PlainPolicy<T>& policy, int64_t sequences, const float* lse,
                      float* lse_out = nullptr) {
  using Shape = StayShape<kDim>;
  if (lse)
    return launch(device, given_kernel<T>, divide_up(policy.heads.count() * policy.total_rows, kGivenThreads),
                  kGivenThreads, policy, lse);
  const HeadedGrid grid(policy, Shape::kStay);
  launch_shared(device, plain_lse_kernel<T, kDim>, grid.blocks(policy, sequences), Shape::kThreads, Shape::kShared,
                policy, grid, lse_out);
}

}  // namespace saccade::cuda
