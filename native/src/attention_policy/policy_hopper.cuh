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

// A policy whose queries and keys the copy engine loads as tiles.
struct TiledPolicy : PolicyHeads {
  TensorMap query_map, key_map;
  Heads<const bf16> q, k;  // what they describe: 16 bytes can be loaded from every eighth of `dim` columns
  int dim;
  const float* lse;  // [heads, rows], in units of lse_unit powers of two
  float lse_unit;

  __device__ __forceinline__ float log_sum(int64_t head, int64_t row) const {
    return lse[head * total_rows + row] * lse_unit;
  }
};

// ------------------------------------------------------------------------------------------------- copies

// Rows of the heads in range for the copy engine: [rows, heads, kDim], zeros beyond `dim` columns.
template <int kDim>
__global__ void __launch_bounds__(kWriters)
    align_kernel(Heads<const bf16> x, bf16* to, int64_t rows, int64_t heads, HeadSpan range, int dim) {
  wait_for_last();
  allow_next();
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kWriters + threadIdx.x;
  const int64_t chunk = i % (kDim / 8), head = range.begin + i / (kDim / 8) % range.count(),
                row = i / (kDim / 8) / range.count();
  if (row >= rows) return;
  float values[8];
  load_columns(values, x.at(row, head) + 8 * chunk, dim - 8 * static_cast<int>(chunk), false);
  uint4 bits;
  bits.x = pack_bf16(values[0], values[1]);
  bits.y = pack_bf16(values[2], values[3]);
  bits.z = pack_bf16(values[4], values[5]);
  bits.w = pack_bf16(values[6], values[7]);
  *reinterpret_cast<uint4*>(to + (row * heads + head) * kDim + 8 * chunk) = bits;
}

// Describes x to the copy engine, or a copy of it at `room`; returns which.
template <int kDim>
Heads<const bf16> describe(const Device& device, TensorMap& map, const Heads<const bf16>& x, uint8_t* room,
                           int64_t rows, int64_t heads, const HeadSpan& range, int64_t dim) {
  if (describe_rows(map, x.data, rows, heads, dim, x.row_stride, x.head_stride)) return x;
  auto* copy = reinterpret_cast<bf16*>(room);
  launch_overlapping(device, align_kernel<kDim>, divide_up(rows * range.count() * (kDim / 8), kWriters), kWriters, x,
                     copy, rows, heads, range, static_cast<int>(dim));
  if (!describe_rows(map, copy, rows, heads, kDim, heads * kDim, kDim))
    fail(SACCADE_INTERNAL, "cuTensorMapEncodeTiled", "success", "a failure");
  return {copy, heads * kDim, kDim};
}

// -------------------------------------------------------------------------------------------------- blocks

// Sixteen bytes of a row: its columns from 8 chunk on, zeros beyond `dim`.
__device__ __forceinline__ uint4 load_chunk(const bf16* row, int chunk, int dim) {
  return 8 * chunk < dim ? *reinterpret_cast<const uint4*>(row + 8 * chunk) : uint4{};
}

// Rows of a block that a group multiplies, to shared memory, by its threads; zeros where not there(r).
template <int kDim, class There>
__device__ __forceinline__ void load_rows(const MmaTile<1, kStay, kDim>& to, const TiledPolicy& policy,
                                          const HeadedRows& block, const There& there) {
#pragma unroll 4
  for (int i = static_cast<int>(threadIdx.x % 128); i < 64 * kDim / 8; i += 128) {
    const int r = 64 * group() + i / (kDim / 8), chunk = i % (kDim / 8);
    uint4 bits = {};
    if (r < block.count() && there(r))
      bits = load_chunk(policy.q.at(block.begin + block.query(r), block.head(r)), chunk, policy.dim);
    store_16(to.address(0, r, chunk), bits);
  }
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

// The log-sum-exps in lse[heads, rows], in powers of two, and in out[heads, rows] where that is not null.
template <int kDim>
__global__ void __launch_bounds__(kBlockThreads, 1)
    lse_kernel(const __grid_constant__ TiledPolicy policy, const __grid_constant__ HeadedGrid grid, float* lse,
               float* out) {
  if constexpr (!kHopper) return;
  wait_for_last();
  allow_next();
  using Stay = MmaTile<1, kStay, kDim>;
  using Keys = KeyTile<kDim>;
  extern __shared__ __align__(1024) unsigned char shared[];
  const Stay q{shared_address(shared)};
  const Ring<Keys::kBytes, 1> ring(shared + Stay::kBytes);
  const HeadedRows block(policy, grid);
  if (block.empty()) return;
  const auto write = [&](int r, double value) {
    constexpr double kNatural = 0.693147180559945309;  // of a power of two
    const int64_t at = block.head(r) * policy.total_rows + block.begin + block.query(r);
    lse[at] = static_cast<float>(value);
    if (out) out[at] = static_cast<float>(value * kNatural);
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
      for (int j = 0; j < tiles; ++j) {
        ring.wait_empty(j);
        ring.expect(j, Keys::kBytes);
        ring.template copy_tile<Keys>(j, 0, policy.key_map, block.kv, policy.sequences().first_key(s) + j * kKeyTile);
      }
  } else {
    many_registers();
    load_rows(q, policy, block, [](int) { return true; });
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
          wgmma_multiply_transposed(x, q, 64 * group(), Keys{shared_address(ring.slot(j))});
        },
        [&](float(&x)[kKeyTile / 8][4], int j) {
          ring.release(j);
#pragma unroll
          for (int i = 0; i < 2; ++i) add_exponentials(x, i, visible[i] - j * kKeyTile, policy.unit, top[i], sum[i]);
        });
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const double value = join_exponentials(top[i], sum[i], visible[i] > 0);
      const int r = 16 * warp() + lane_row(2 * i);
      if (threadIdx.x % 4 == 0 && r < block.count()) write(r, value);
    }
  }
}

template <int kDim>
void launch_lse(const Device& device, const TiledPolicy& policy, int64_t sequences, float* lse, float* out) {
  const HeadedGrid grid(policy, kStay);
  launch_shared_overlapping(device, lse_kernel<kDim>, grid.blocks(policy, sequences), kBlockThreads,
                            MmaTile<1, kStay, kDim>::kBytes + Ring<KeyTile<kDim>::kBytes, 1>::kShared, policy, grid,
                            lse, out);
}

template <int kDim>
using QueryRing = Ring<kGroups * QueryTile<kDim>::kBytes, 1>;
template <int kDim>
using KeyRing = Ring<KeyTile<kDim>::kBytes, 1, 2>;

// One block a piece of rows and a tile of keys.  The keys of a key head stay, queries of its heads move by.
template <int kDim>
__global__ void __launch_bounds__(kBlockThreads, 1)
    mean_kernel(const __grid_constant__ TiledPolicy policy, const __grid_constant__ PolicyMap map, int64_t key_tiles) {
  if constexpr (!kHopper) return;
  wait_for_last();
  allow_next();
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
      const int64_t first_kv = map.heads.begin / policy.group, key = sequences.first_key(s) + first;
      Turn turn(policy, map.heads);
      for (int i = 0; i < heads; ++i) {
        if (i == 0 || turn.left == turn.group) {
          keys.wait_empty(turn.kv);
          keys.expect(turn.kv, KeyTile<kDim>::kBytes);
          keys.template copy_tile<KeyTile<kDim>>(turn.kv, 0, policy.key_map, first_kv + turn.kv, key);
        }
        turn.next();
        queries.wait_empty(i);
        queries.expect(i, own * QueryTile<kDim>::kBytes);
        for (int t = 0; t < own; ++t)
          queries.template copy_tile<QueryTile<kDim>>(i, t * QueryTile<kDim>::kBytes, policy.query_map,
                                                      map.heads.begin + i, piece.begin + t * kQueryTile);
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
    const int offset = uniform(group()) * QueryTile<kDim>::kBytes;
    // Of the lane's two rows, for the head that is next.
    float lse[2];
    const int row = 16 * warp() + lane_row(0), left = piece.count() - row;
    const float* next_lse = policy.lse + map.heads.begin * policy.total_rows + piece.begin + row;
    const auto load_lse = [&] {
      lse[0] = left > 0 ? *next_lse : 0.0f;
      lse[1] = left > 8 ? next_lse[8] : 0.0f;
      next_lse += policy.total_rows;
    };
    load_lse();
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
          const float lse_of[2] = {lse[0] * policy.lse_unit, lse[1] * policy.lse_unit};
          release(i);
          if (i + 1 < heads) load_lse();
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

// A policy of `heads` and, where `given` is null, its log-sum-exps, which may be wanted in lse_out, [heads, rows].
template <int kDim>
TiledPolicy tiled_policy(const Device& device, const PolicyRows& rows, const PolicySide<bf16>& side,
                         const HeadSpan& heads, int64_t keys, const PolicyCopies& room, const float* given,
                         float* lse_out = nullptr) {
  TiledPolicy policy{
      PolicyHeads(rows, side, heads), {}, {}, side.q, side.k, static_cast<int>(side.dim), given ? given : room.lse,
      given ? kLog2E : 1.0f};
  policy.q = describe<kDim>(device, policy.query_map, side.q, room.queries, side.rows, side.heads, heads, side.dim);
  policy.k = describe<kDim>(device, policy.key_map, side.k, room.keys, keys, side.kv_heads, policy.kv, side.dim);
  if (!given) launch_lse<kDim>(device, policy, rows.sequences.count, room.lse, lse_out);
  return policy;
}

}  // namespace saccade::cuda
