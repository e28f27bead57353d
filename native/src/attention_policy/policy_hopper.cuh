// The attention policy on Hopper, bf16, as core/ring.cuh has blocks work: tiles of queries and keys, log-sum-exps of
// every head and row, and sums of the heads' probabilities.
#pragma once

#include "attention_policy/policy_heads.cuh"
#include "core/ring.cuh"

namespace saccade::cuda {

constexpr int kStay = 64 * kGroups;  // rows of a block
static_assert(kStay <= kMostStay);

template <int kDim>
using KeyTile = MmaTile<1, kKeyTile, kDim>;
template <int kDim>
using QueryTile = MmaTile<1, kQueryTile, kDim>;
template <int kDim>
constexpr int kQueryTileBytes = QueryTile<kDim>::kBytes + kQueryTileExtra;
template <int kDim>
constexpr int kQuerySlot = (kQueryTileBytes<kDim> + 1023) / 1024 * 1024;

// A policy whose queries and keys are tiles, of the heads in its range and their key heads.
struct TiledPolicy : PolicyHeads {
  uint8_t* queries;
  uint8_t* keys;

  TiledPolicy(const PolicyRows& rows_, const PolicySide<bf16>& side, const HeadSpan& heads_, uint8_t* queries_,
              uint8_t* keys_)
      : PolicyHeads(rows_, side, heads_), queries(queries_), keys(keys_) {}

  template <int kDim>
  __device__ __forceinline__ uint8_t* query_tile(int64_t number, int64_t head) const {
    return queries + (number * heads.count() + head - heads.begin) * kQueryTileBytes<kDim>;
  }
  template <int kDim>
  __device__ __forceinline__ uint8_t* key_tile(int64_t number, int64_t kv_head) const {
    return keys + (number * kv.count() + kv_head - kv.begin) * KeyTile<kDim>::kBytes;
  }
  // Bytes from a tile of keys to the next one of its head.
  template <int kDim>
  __device__ __forceinline__ int64_t key_stride() const {
    return kv.count() * KeyTile<kDim>::kBytes;
  }
  __device__ __forceinline__ int64_t first_query_tile(int64_t s) const {
    return first_piece(sequences().offsets_q, s, kQueryTile);
  }
  __device__ __forceinline__ int64_t first_key_tile(int64_t s) const {
    return first_piece(sequences().offsets_k, s, kKeyTile);
  }
  // What lies beside a tile, kQueryTile numbers apart, of row `r` of sequence s.
  template <int kDim>
  __device__ __forceinline__ float* statistics(int64_t s, int64_t r, int64_t head) const {
    return reinterpret_cast<float*>(query_tile<kDim>(first_query_tile(s) + r / kQueryTile, head) +
                                    QueryTile<kDim>::kBytes) +
           r % kQueryTile;
  }
};

__device__ inline void set_statistics(float* statistics, float lse, float delta) {
  statistics[kLse * kQueryTile] = lse;
  statistics[kDelta * kQueryTile] = delta;
}

// --------------------------------------------------------------------------------------------------- tiles

// One block a piece of `x` and head: `count` rows from `row` on.
template <int kRows, int kDim>
__device__ __forceinline__ void write_tile(uint8_t* tile, const Heads<const bf16>& x, int64_t row, int count,
                                           int64_t head, int dim) {
  constexpr int kChunks = kDim / 8, kAtOnce = kRows * kChunks / kWriters;
  const bool whole = (reinterpret_cast<uint64_t>(x.data) % 16 | x.row_stride % 8 | x.head_stride % 8 | dim % 8) == 0;
  const int chunk = static_cast<int>(threadIdx.x) % kChunks, first = static_cast<int>(threadIdx.x) / kChunks;
  const int columns = dim - 8 * chunk;
  const auto row_of = [&](int i) { return first + i * (kWriters / kChunks); };
  const auto from = [&](int i) { return x.at(row + row_of(i), head) + 8 * chunk; };
  const auto store = [&](int i, const uint4& bits) {
    *reinterpret_cast<uint4*>(tile + MmaTile<1, kRows, kDim>{0}.address(0, row_of(i), chunk)) = bits;
  };
  if (whole) {
    uint4 bits[kAtOnce];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      bits[i] = {};
      if (row_of(i) < count && columns > 0) bits[i] = __ldg(reinterpret_cast<const uint4*>(from(i)));
    }
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) store(i, bits[i]);
  } else {
#pragma unroll 1
    for (int i = 0; i < kAtOnce; ++i) {
      alignas(16) bf16 values[8] = {};
#pragma unroll
      for (int e = 0; e < 8; ++e)
        if (row_of(i) < count && e < columns) values[e] = from(i)[e];
      store(i, *reinterpret_cast<const uint4*>(values));
    }
  }
}

// The tiles of keys, in the first `key_blocks` blocks, and of queries.  lse: [heads, rows], or null: it is to come.  A
// row that does not exist has an infinite sum of exponentials.
template <int kDim>
__global__ void __launch_bounds__(kWriters)
    tiles_kernel(const __grid_constant__ TiledPolicy policy, const __grid_constant__ PolicySide<bf16> side,
                 int64_t key_blocks, const float* lse) {
  wait_for_last();
  const Sequences& sequences = policy.sequences();
  if (blockIdx.x < key_blocks) {
    const int64_t kv = policy.kv.begin + blockIdx.x % policy.kv.count(), number = blockIdx.x / policy.kv.count();
    const Piece piece = piece_of(sequences.offsets_k, sequences.count, number, kKeyTile);
    if (piece.empty() || sequences.bad[piece.s]) return;
    return write_tile<kKeyTile, kDim>(policy.key_tile<kDim>(number, kv), side.k, piece.begin, piece.count(), kv,
                                      static_cast<int>(side.dim));
  }
  const int64_t block = blockIdx.x - key_blocks, head = policy.heads.begin + block % policy.heads.count(),
                number = block / policy.heads.count();
  const Piece piece = piece_of(sequences.offsets_q, sequences.count, number, kQueryTile);
  if (piece.empty() || sequences.bad[piece.s]) return;
  uint8_t* tile = policy.query_tile<kDim>(number, head);
  write_tile<kQueryTile, kDim>(tile, side.q, piece.begin, piece.count(), head, static_cast<int>(side.dim));
  const int r = static_cast<int>(threadIdx.x);
  if (r >= kQueryTile) return;
  auto* statistics = reinterpret_cast<float*>(tile + QueryTile<kDim>::kBytes) + r;
  if (r >= piece.count())
    set_statistics(statistics, INFINITY, 0.0f);
  else if (lse)
    statistics[kLse * kQueryTile] = lse[head * side.rows + piece.begin + r] * kLog2E;
}

// -------------------------------------------------------------------------------------------------- blocks

// Rows of a block that a group multiplies, to shared memory, by its threads, once all of them are here.
template <int kDim>
__device__ __forceinline__ void load_rows(const MmaTile<1, kStay, kDim>& to, const TiledPolicy& policy,
                                          const HeadedRows& block) {
  constexpr int kChunks = kDim / 8, kAtOnce = 64 * kChunks / 128;
  const int64_t first = block.begin - policy.sequences().first_row(block.s), tiles = policy.first_query_tile(block.s);
  const int thread = static_cast<int>(threadIdx.x % 128), chunk = thread % kChunks;
  const auto row_of = [&](int i) { return 64 * group() + thread / kChunks + i * (128 / kChunks); };
  uint4 bits[kAtOnce];
#pragma unroll
  for (int i = 0; i < kAtOnce; ++i) {
    const int r = row_of(i);
    bits[i] = {};
    if (r < block.count()) {
      const int64_t row = first + block.query(r);
      const uint8_t* tile = policy.query_tile<kDim>(tiles + row / kQueryTile, block.head(r));
      bits[i] = *reinterpret_cast<const uint4*>(
          tile + QueryTile<kDim>{0}.address(0, static_cast<int>(row % kQueryTile), chunk));
    }
  }
  group_sync();
#pragma unroll
  for (int i = 0; i < kAtOnce; ++i) store_16(to.address(0, row_of(i), chunk), bits[i]);
  bulk_fence();
  group_sync();
}

// use(s, i) for items 0 to count - 1 in order, each with the products that begin(s, i) began; those of the next item
// are under way meanwhile.
template <int kColumns, class Begin, class Use>
__device__ __forceinline__ void in_turn(int count, const Begin& begin, const Use& use) {
  float a[kColumns / 8][4], b[kColumns / 8][4];
  if (count == 0) return;
  begin(a, 0);
  int i = 0;
  for (; i + 2 < count; i += 2) {
    begin(b, i + 1);
    wgmma_wait<1>();
    wgmma_settle(a);
    use(a, i);
    begin(a, i + 2);
    wgmma_wait<1>();
    wgmma_settle(b);
    use(b, i + 1);
  }
  if (i + 1 < count) {
    begin(b, i + 1);
    wgmma_wait<1>();
    wgmma_settle(a);
    use(a, i);
    wgmma_wait<0>();
    wgmma_settle(b);
    use(b, i + 1);
  } else {
    wgmma_wait<0>();
    wgmma_settle(a);
    use(a, i);
  }
}

// out += x right(i) for items 0 to count - 1 in order, x what use(x, i) makes of the products that begin(x, i) began.
// Meanwhile the item before is being multiplied.  never: for WgmmaWeights::hold().  done(i): nothing more of
// the item will be read; not for the last.
template <class Tile, int kBlocks, class Begin, class Use, class Right, class Done>
__device__ __forceinline__ void multiply_in_turn(float (&out)[kBlocks][4], bool never, int count, const Begin& begin,
                                                 const Use& use, const Right& right, const Done& done) {
  float x[Tile::kRows / 8][4];
  // Of one item and the next: the tensor cores read the last one's while the next one's are made.
  WgmmaWeights<Tile::kRows> even{}, odd{};
  const auto item = [&](int i, WgmmaWeights<Tile::kRows>& weights, const WgmmaWeights<Tile::kRows>& last) {
    weights.set(x);
    begin(x, i + 1);
    wgmma_multiply_add(out, weights, right(i));
    wgmma_wait<1>();
    last.hold(never);
    wgmma_settle(x);
    if (i > 0) done(i - 1);
    use(x, i + 1);
  };
  begin(x, 0);
  wgmma_wait<0>();
  wgmma_settle(x);
  use(x, 0);
  int i = 0;
  for (; i + 2 < count; i += 2) {
    item(i, even, odd);
    item(i + 1, odd, even);
  }
  if (i + 1 < count) item(i, even, odd);
  const WgmmaWeights<Tile::kRows> weights(x);
  wgmma_multiply_add(out, weights, right(count - 1));
  wgmma_wait<0>();
  even.hold(never);
  odd.hold(never);
  weights.hold(never);
  wgmma_settle(out);
}

// ------------------------------------------------------------------------------------------------- kernels

// The log-sum-exps beside the queries, and in out[heads, rows] where that is not null.
template <int kDim>
__global__ void __launch_bounds__(kBlockThreads, 1)
    lse_kernel(const __grid_constant__ TiledPolicy policy, const __grid_constant__ HeadedGrid grid, float* out) {
  if constexpr (!kHopper) return;
  wait_for_last();
  using Stay = MmaTile<1, kStay, kDim>;
  using Keys = KeyTile<kDim>;
  extern __shared__ __align__(1024) unsigned char shared[];
  const Stay q{shared_address(shared)};
  const Ring<Keys::kBytes, 1> ring(shared + Stay::kBytes);
  const HeadedRows block(policy, grid);
  if (block.empty()) return;
  const auto write = [&](int r, double lse) {
    constexpr double kNatural = 0.693147180559945309;  // of a power of two
    if (out) out[block.head(r) * policy.total_rows + block.begin + block.query(r)] = static_cast<float>(lse * kNatural);
  };
  const int64_t s = block.s;
  if (policy.sequences().bad[s]) {
    if (threadIdx.x < block.count()) write(static_cast<int>(threadIdx.x), static_cast<double>(kNan));
    return;
  }
  const int tiles = static_cast<int>(
      (visible_keys(policy.sequences(), s, block.begin + block.queries - 1) + kKeyTile - 1) / kKeyTile);
  if (threadIdx.x == 0) ring.init();
  __syncthreads();

  if (uniform(group()) == kGroups) {
    few_registers();
    if (threadIdx.x == kConsumers)
      for (int j = 0; j < tiles; ++j)
        ring.fill(j, policy.key_tile<kDim>(policy.first_key_tile(s) + j, block.kv), Keys::kBytes);
  } else {
    many_registers();
    load_rows(q, policy, block);
    int visible[2];
    float top[2];
    double sum[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int r = 16 * warp() + lane_row(2 * i);
      visible[i] = r < block.count()
                       ? static_cast<int>(visible_keys(policy.sequences(), s, block.begin + block.query(r)))
                       : tiles * kKeyTile;
      top[i] = -INFINITY;
      sum[i] = 0.0;
    }
    in_turn<kKeyTile>(
        tiles,
        [&](float(&x)[kKeyTile / 8][4], int j) {
          ring.wait(j);
          wgmma_multiply_transposed(x, q, 64 * uniform(group()), Keys{shared_address(ring.slot(j))});
        },
        [&](float(&x)[kKeyTile / 8][4], int j) {
          ring.release(j);
#pragma unroll
          for (int i = 0; i < 2; ++i) add_exponentials(x, i, visible[i] - j * kKeyTile, policy.unit, top[i], sum[i]);
        });
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const double lse = join_exponentials(top[i], sum[i], visible[i] > 0);
      const int r = 16 * warp() + lane_row(2 * i);
      if (threadIdx.x % 4 != 0 || r >= block.count()) continue;
      const int64_t row = block.begin + block.query(r) - policy.sequences().first_row(s);
      policy.statistics<kDim>(s, row, block.head(r))[kLse * kQueryTile] = static_cast<float>(lse);
      write(r, lse);
    }
  }
}

template <int kDim>
void launch_lse(const Device& device, const TiledPolicy& policy, int64_t sequences, float* out) {
  const HeadedGrid grid(policy, kStay);
  launch_shared_overlapping(device, lse_kernel<kDim>, grid.blocks(policy, sequences), kBlockThreads,
                            MmaTile<1, kStay, kDim>::kBytes + Ring<KeyTile<kDim>::kBytes, 1>::kShared, policy, grid,
                            out);
}

template <int kDim>
using QueryRing = Ring<kGroups * kQuerySlot<kDim>, 32>;
template <int kDim>
using KeyRing = Ring<KeyTile<kDim>::kBytes, 1, 2>;

// One block a piece of rows and a tile of keys.  The keys of a key head stay, queries of its heads move by.
template <int kDim>
__global__ void __launch_bounds__(kBlockThreads, 1)
    mean_kernel(const __grid_constant__ TiledPolicy policy, const __grid_constant__ PolicyMap map, int64_t key_tiles) {
  if constexpr (!kHopper) return;
  wait_for_last();
  constexpr int kUsed = QueryTile<kDim>::kBytes + kQueryTile * static_cast<int>(sizeof(float));
  extern __shared__ __align__(1024) unsigned char shared[];
  const QueryRing<kDim> queries(shared);
  const KeyRing<kDim> keys(shared + QueryRing<kDim>::kSpace);
  const Sequences& sequences = policy.sequences();
  const int64_t pieces = gridDim.x / key_tiles;
  const Piece piece = piece_of(sequences.offsets_q, sequences.count, pieces - 1 - blockIdx.x / key_tiles, kStay);
  if (piece.empty() || piece.end <= map.begin || piece.begin >= map.end || sequences.bad[piece.s]) return;
  const int64_t s = piece.s, first = blockIdx.x % key_tiles * kKeyTile;
  const Support support = policy.rows.of(s, visible_keys(sequences, s, piece.end - 1));
  if (first >= support.end || first + kKeyTile <= support.begin) return;
  const int heads = static_cast<int>(map.heads.count()), own = uniform(piece.count() > kQueryTile ? 2 : 1);
  // Key heads of the heads in order.
  struct Turn {
    int kv, left, group;  // left: heads of this key head

    __device__ Turn(const TiledPolicy& policy, const HeadSpan& heads)
        : kv(0),
          left(static_cast<int>(policy.group - heads.begin % policy.group)),
          group(static_cast<int>(policy.group)) {}
    __device__ __forceinline__ bool last() const { return left == 1; }
    __device__ __forceinline__ void next() {
      if (--left == 0) ++kv, left = group;
    }
  };
  if (threadIdx.x == 0) {
    queries.init();
    keys.init();
  }
  __syncthreads();

  if (uniform(group()) == kGroups) {
    few_registers();
    if (threadIdx.x == kConsumers) {
      const int64_t tile = policy.first_query_tile(s) + (piece.begin - sequences.first_row(s)) / kQueryTile;
      const int64_t key_tile = policy.first_key_tile(s) + first / kKeyTile;
      const int64_t first_kv = map.heads.begin / policy.group;
      Turn turn(policy, map.heads);
      for (int i = 0; i < heads; ++i) {
        if (i == 0 || turn.left == turn.group)
          keys.fill(turn.kv, policy.key_tile<kDim>(key_tile, first_kv + turn.kv), KeyTile<kDim>::kBytes);
        turn.next();
        queries.wait_empty(i);
        queries.expect(i, own * kUsed);
        for (int t = 0; t < own; ++t)
          queries.copy(i, t * kQuerySlot<kDim>, policy.query_tile<kDim>(tile + t, map.heads.begin + i), kUsed);
      }
    }
  } else {
    many_registers();
    Turn begun(policy, map.heads), used(policy, map.heads);
    const auto release = [&](int i) {
      queries.release(i);
      if (used.last() || i + 1 == heads) keys.release(used.kv);
      used.next();
    };
    if (uniform(group()) >= own) {
      for (int i = 0; i < heads; ++i) {
        queries.wait(i);
        release(i);
      }
      return;
    }
    float sum[kKeyTile / 8][4];
    clear(sum);
    const int offset = uniform(group()) * kQuerySlot<kDim>, row = 16 * (warp() % 4) + lane_row(0);
    in_turn<kKeyTile>(
        heads,
        [&](float(&x)[kKeyTile / 8][4], int i) {
          keys.wait(begun.kv);
          queries.wait(i);
          wgmma_multiply_transposed(x, QueryTile<kDim>{shared_address(queries.slot(i) + offset)}, 0,
                                    KeyTile<kDim>{shared_address(keys.slot(begun.kv))});
          begun.next();
        },
        [&](float(&x)[kKeyTile / 8][4], int i) {
          const auto* lse =
              reinterpret_cast<const float*>(queries.slot(i) + offset + QueryTile<kDim>::kBytes) + kLse * kQueryTile;
          const float lse_of[2] = {lse[row], lse[row + 8]};
          release(i);
#pragma unroll
          for (int n = 0; n < kKeyTile / 8; ++n)
#pragma unroll
            for (int e = 0; e < 4; ++e) sum[n][e] += exp2_fast(fmaf(x[n][e], policy.unit, -lse_of[e / 2]));
        });
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int64_t at = piece.begin + 16 * warp() + lane_row(2 * i);
      if (at >= piece.end || at < map.begin || at >= map.end) continue;
      float* to = map.row(at);
#pragma unroll
      for (int n = 0; n < kKeyTile / 8; ++n) {
        const int64_t key = first + 8 * n + lane_column(0);
        if (key < map.width) *reinterpret_cast<float2*>(to + key) = {sum[n][2 * i], sum[n][2 * i + 1]};
      }
    }
  }
}

template <int kDim>
void launch_mean(const Device& device, const TiledPolicy& policy, const PolicyMap& map, int64_t sequences) {
  const int64_t key_tiles = divide_up(map.width, kKeyTile);
  launch_shared_overlapping(device, mean_kernel<kDim>, pieces_of(policy.total_rows, sequences, kStay) * key_tiles,
                            kBlockThreads, QueryRing<kDim>::kSpace + KeyRing<kDim>::kShared, policy, map, key_tiles);
}

// Tiles of a policy, and the log-sum-exps of its rows: those given, [heads, rows], or its own, which may be wanted.
template <int kDim>
void launch_tiling(const Device& device, const TiledPolicy& policy, const PolicySide<bf16>& side, int64_t keys,
                   int64_t sequences, const float* lse, float* lse_out = nullptr) {
  const int64_t key_blocks = pieces_of(keys, sequences, kKeyTile) * policy.kv.count(),
                query_blocks = pieces_of(side.rows, sequences, kQueryTile) * policy.heads.count();
  launch_overlapping(device, tiles_kernel<kDim>, key_blocks + query_blocks, kWriters, policy, side, key_blocks, lse);
  if (!lse) launch_lse<kDim>(device, policy, sequences, lse_out);
}

}  // namespace saccade::cuda
