#include "attention_divergence/attention_divergence_hopper.h"
#include "attention_divergence/row_kernel.cuh"
#include "attention_policy/policy_hopper.cuh"

namespace saccade::cuda {
namespace {

// What is the same for all blocks of a launch.
template <int kDim>
struct Call : Arguments {
  static constexpr bool kFast = true;  // as compare_element()

  TiledPolicy policy;

  // A row without gradient is taken out of the tiles: its queries may hold anything.
  __device__ void take_out(int64_t s, int64_t row) const {
    const int64_t in_sequence = row - sequences().first_row(s);
    const int r = static_cast<int>(in_sequence % kQueryTile);
    for (int64_t i = threadIdx.x; i < heads.count() * (kDim / 8); i += blockDim.x) {
      const int chunk = static_cast<int>(i % (kDim / 8));
      const int64_t h = heads.begin + i / (kDim / 8);
      uint8_t* tile = policy.query_tile<kDim>(policy.first_query_tile(s) + in_sequence / kQueryTile, h);
      *reinterpret_cast<uint4*>(tile + QueryTile<kDim>{0}.address(0, r, chunk)) = {};
      if (chunk == 0) set_statistics(policy.statistics<kDim>(s, in_sequence, h), INFINITY, 0.0f, 0.0f);
    }
  }

  __device__ float grad_output() const { return args.grad_output ? *pointer<const float>(args.grad_output) : 1.0f; }
};

// -------------------------------------------------------------------------------------------------- queries

// dP rows beside a tile of keys: rows of eight lanes' pairs lie in different banks.
template <int kKeys>
constexpr int kGradientStride = 4 * kKeys + 32;

// Threads that copy rows of dP.
constexpr int kCopiers = 96;

// Keys of a tile, and queries of a block at most.
constexpr int kFewQueries = 32;
template <int kKeys>
constexpr int kQueriesMost = kKeys == kKeyTile ? kFewQueries : kStay;

template <int kDim, int kKeys>
using GradientRing =
    Ring<MmaTile<1, kKeys, kDim>::kBytes + (kQueriesMost<kKeys> * kGradientStride<kKeys> + 1023) / 1024 * 1024, 32, 4,
         kGroups, kCopiers, true>;

// Copies `rows` rows of f32 to shared memory, the first 4 * kColumns bytes of each `stride` bytes apart: those of the
// map before `left` columns, then zeros.  The threads that copy do so together.
template <int kColumns>
__device__ __forceinline__ void copy_rows(unsigned char* to, int stride, const float* map, int64_t width, int rows,
                                          int left) {
  constexpr int kThreads = kColumns / 4, kAtOnce = kCopiers / kThreads;
  static_assert(kCopiers % kThreads == 0);
  const int thread = static_cast<int>(threadIdx.x) - (kBlockThreads - kCopiers);
  const int first = thread / kThreads, column = thread % kThreads * 4;
  const float* from = map + first * width + column;
  to += first * stride + 4 * column;
  const uint32_t bytes = column < left ? 16 : 0;
#pragma unroll 4
  for (int r = first; r < rows; r += kAtOnce, from += kAtOnce * width, to += kAtOnce * stride) copy_16(to, from, bytes);
}

__device__ __forceinline__ float2 load_pair(const unsigned char* at) { return *reinterpret_cast<const float2*>(at); }

// As before, where what was loaded has not been kept in registers.
__device__ __forceinline__ float2 load_pair_again(const unsigned char* at) {
  float2 pair;
  asm volatile("ld.volatile.shared.v2.f32 {%0, %1}, [%2];" : "=f"(pair.x), "=f"(pair.y) : "r"(shared_address(at)));
  return pair;
}

// dq, and what dk takes of the rows.  Tiles of kKeys keys move by, and the queries' rows of dP with them: once for
// delta, where there are several heads, and once for dS.
template <int kDim, int kKeys>
__global__ void __launch_bounds__(kBlockThreads, 1)
    query_kernel(const __grid_constant__ Call<kDim> call, const __grid_constant__ HeadedGrid grid) {
  if constexpr (!kHopper) return;
  wait_for_last();
  using Stay = MmaTile<1, kStay, kDim>;
  using Keys = MmaTile<1, kKeys, kDim>;
  constexpr int kBlocks = kKeys / 8, kHalves = kKeyTile / kKeys;
  extern __shared__ __align__(1024) unsigned char shared[];
  // Where the ring will be lie the queries, until they are in registers.
  const Stay q{shared_address(shared)};
  const GradientRing<kDim, kKeys> ring(shared);
  static_assert(Stay::kBytes <= GradientRing<kDim, kKeys>::kBytes * 4);
  const saccade_attention_divergence_args& args = call.args;
  const TiledPolicy& policy = call.policy;
  const HeadedRows block(policy, grid);
  if (block.empty()) return;
  const int64_t s = block.s;
  const bool bad = call.sequences().bad[s];
  float* dscore_sq = pointer<float>(args.dscore_sq);
  const auto with_gradient = [&](const auto& body) {
    if (args.grad_dtype == SACCADE_F32)
      body(heads_of<float>(args.dq, args.dq_row_stride, args.dq_head_stride));
    else
      body(heads_of<bf16>(args.dq, args.dq_row_stride, args.dq_head_stride));
  };
  // The last key that the first query sees may be before the first one.
  const int least = static_cast<int>(call.sequences().keys(s) - call.sequences().rows(s) + block.begin -
                                     call.sequences().first_row(s) + 1);
  const int most = least + block.queries - 1, tiles = uniform(most > 0 ? (most + kKeys - 1) / kKeys : 0);
  const int deltas = call.heads.count() > 1 ? tiles : 0;
  const bool live_row = !bad && threadIdx.x < block.queries && call.active(block.begin + threadIdx.x);
  if (!__syncthreads_or(live_row) || tiles == 0) {
    const float value = bad ? kNan : 0.0f;
    for (int h = 0; h < block.heads; ++h) {
      const int64_t head = block.first_head + h;
      with_gradient([&](const auto& dq) {
        fill_heads(dq, block.begin, block.begin + block.queries, head, args.head_dim, value);
      });
      if (dscore_sq && threadIdx.x < block.queries) dscore_sq[head * args.rows + block.begin + threadIdx.x] = value;
    }
    return;
  }
  if (threadIdx.x == 0) ring.init();
  __syncthreads();

  if (uniform(group()) == kGroups) {
    few_registers();
    if (threadIdx.x >= kBlockThreads - kCopiers) {
      const float* map = call.map(block.begin);
      const int width = static_cast<int>(call.width());
      int j = 0;
      for (int i = 0; i < deltas + tiles; ++i, j = j + 1 == tiles ? 0 : j + 1) {
        ring.wait_empty(i);
        copy_rows<kKeys>(ring.slot(i) + Keys::kBytes, kGradientStride<kKeys>, map + j * kKeys, width, block.queries,
                         width - j * kKeys);
        ring.arrive_copied(i);
      }
    } else if (threadIdx.x == kConsumers) {
      int j = 0;
      for (int i = 0; i < deltas + tiles; ++i, j = j + 1 == tiles ? 0 : j + 1) {
        ring.wait_empty(i);
        ring.expect(i, Keys::kBytes);
        const uint8_t* tile = policy.key_tile<kDim>(policy.first_key_tile(s) + j / kHalves, block.kv) +
                              j % kHalves * (kKeys * Keys::kRow);
        for (int panel = 0; panel < kDim / 64; ++panel)
          ring.copy(i, panel * Keys::kPanel, tile + panel * KeyTile<kDim>::kPanel, Keys::kPanel);
      }
    }
  } else {
    many_registers();
    load_rows(q, policy, block);
    uint32_t rows[kDim / 16][4];
#pragma unroll
    for (int step = 0; step < kDim / 16; ++step) q.left(rows[step], 0, 16 * warp(), step);
    ring.release_all();
    float lse[2], centre[2] = {}, delta[2] = {};
    bool live[2];
    int seen[2], row_offset[2];  // keys beyond those that the first query sees
    const auto statistics = [&](int r) {
      return policy.statistics<kDim>(s, block.begin + block.query(r) - call.sequences().first_row(s), block.head(r));
    };
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int r = 16 * warp() + lane_row(2 * i);
      const bool there = r < block.count();
      seen[i] = there ? block.query(r) : 0;
      row_offset[i] = Keys::kBytes + seen[i] * kGradientStride<kKeys> + 4 * lane_column(0);
      lse[i] = there ? statistics(r)[kLse * kQueryTile] : INFINITY;
      live[i] = lse[i] != INFINITY;
    }
    // Scores of tile j as powers of two.
    const auto exponents = [&](float(&x)[kBlocks][4], int j) {
#pragma unroll
      for (int n = 0; n < kBlocks; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e) x[n][e] = fmaf(x[n][e], policy.unit, -lse[e / 2]);
      if ((j + 1) * kKeys <= least) return;
      // Some row does not see some key.
      const int first = j * kKeys - least + lane_column(0);
#pragma unroll
      for (int n = 0; n < kBlocks; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e)
          if (first + 8 * n + e % 2 >= seen[e / 2]) x[n][e] = -INFINITY;
    };
    const auto begin = [&](float(&x)[kBlocks][4], int i) {
      ring.wait(i);
      wgmma_multiply_transposed(x, rows, Keys{shared_address(ring.slot(i))});
    };

    if (deltas > 0) {
      Sum moment[2] = {}, mass[2] = {};
      in_turn<kKeys>(deltas, begin, [&](float(&x)[kBlocks][4], int j) {
        const unsigned char* slot = ring.slot(j);
        exponents(x, j);
        float m[2] = {}, w[2] = {};
#pragma unroll
        for (int n = 0; n < kBlocks; ++n)
#pragma unroll
          for (int i = 0; i < 2; ++i) {
            const float2 dp = load_pair(slot + row_offset[i] + 32 * n);
            const float a = x[n][2 * i] = exp2_fast(x[n][2 * i]), b = x[n][2 * i + 1] = exp2_fast(x[n][2 * i + 1]);
            m[i] = fmaf(a, dp.x - centre[i], m[i]);
            m[i] = fmaf(b, dp.y - centre[i], m[i]);
            w[i] += a + b;
          }
        if (__any_sync(~0u, fmaxf(w[0], w[1]) > 0.5f)) {
          // A head that is all but certain of a key: sums around dP there keep their digits.
#pragma unroll
          for (int i = 0; i < 2; ++i) {
            float there = centre[i];
            bool found = false;
#pragma unroll
            for (int n = 0; n < kBlocks; ++n) {
              const float2 dp = load_pair_again(slot + row_offset[i] + 32 * n);
              if (x[n][2 * i] > 0.5f) there = dp.x, found = true;
              if (x[n][2 * i + 1] > 0.5f) there = dp.y, found = true;
            }
#pragma unroll
            for (int distance = 1; distance < 4; distance *= 2) {
              const float other = __shfl_xor_sync(~0u, there, distance);
              const bool has = __shfl_xor_sync(~0u, found, distance);
              if (has && (!found || (threadIdx.x & distance))) there = other, found = true;
            }
            moment[i] = Sum(moment[i].value() +
                            (static_cast<double>(centre[i]) - static_cast<double>(there)) * mass[i].value());
            centre[i] = there;
            m[i] = 0.0f;
#pragma unroll
            for (int n = 0; n < kBlocks; ++n) {
              const float2 dp = load_pair_again(slot + row_offset[i] + 32 * n);
              const float a = x[n][2 * i], b = x[n][2 * i + 1];
              m[i] = fmaf(a, dp.x - there, m[i]);
              m[i] = fmaf(b, dp.y - there, m[i]);
            }
          }
        }
        ring.release(j);
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          moment[i].add(m[i]);
          mass[i].add(w[i]);
        }
      });
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        double first_moment = moment[i].value(), whole = mass[i].value();
#pragma unroll
        for (int distance = 1; distance < 4; distance *= 2) {
          first_moment += __shfl_xor_sync(~0u, first_moment, distance);
          whole += __shfl_xor_sync(~0u, whole, distance);
        }
        if (!live[i]) continue;
        delta[i] = static_cast<float>(first_moment / whole);
        lse[i] += static_cast<float>(::log2(whole));
      }
    }
    __syncwarp();  // all lanes of a row have read what is overwritten now
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int r = 16 * warp() + lane_row(2 * i);
      if (!live[i]) continue;
      lse[i] -= log2f(call.unit(block.begin + block.query(r)));
      if (threadIdx.x % 4 == 0) set_statistics(statistics(r), lse[i], centre[i], delta[i]);
    }

    double squares[2] = {};
    const auto gradients = [&](float(&x)[kBlocks][4], int j) {
      const unsigned char* slot = ring.slot(deltas + j);
      exponents(x, j);
#pragma unroll
      for (int n = 0; n < kBlocks; ++n)
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const float2 dp = load_pair(slot + row_offset[i] + 32 * n);
          x[n][2 * i] = exp2_fast(x[n][2 * i]) * ((dp.x - centre[i]) - delta[i]);
          x[n][2 * i + 1] = exp2_fast(x[n][2 * i + 1]) * ((dp.y - centre[i]) - delta[i]);
        }
      if (!dscore_sq) return;
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        float sum = 0.0f;
#pragma unroll
        for (int n = 0; n < kBlocks; ++n) {
          sum = fmaf(x[n][2 * i], x[n][2 * i], sum);
          sum = fmaf(x[n][2 * i + 1], x[n][2 * i + 1], sum);
        }
        squares[i] += static_cast<double>(sum);
      }
    };
    float out[kDim / 8][4];
    clear(out);
    multiply_in_turn<Keys>(
        out, tiles, [&](float(&x)[kBlocks][4], int j) { begin(x, deltas + j); }, gradients,
        [&](int j) { return Keys{shared_address(ring.slot(deltas + j))}; }, [&](int j) { ring.release(deltas + j); });

    const float grad_output = call.grad_output();
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      double all = squares[i] + __shfl_xor_sync(~0u, squares[i], 1);
      all += __shfl_xor_sync(~0u, all, 2);
      const int r = 16 * warp() + lane_row(2 * i);
      if (r >= block.count()) continue;
      const int64_t row = block.begin + block.query(r), head = block.head(r);
      if (dscore_sq && threadIdx.x % 4 == 0)
        dscore_sq[head * args.rows + row] = live[i] ? static_cast<float>(all) * (grad_output * grad_output) : 0.0f;
      // A row without weight gets 0 whatever the keys hold.
      const float scale = args.scale * grad_output;
      with_gradient([&](const auto& dq) {
#pragma unroll
        for (int n = 0; n < kDim / 8; ++n)
          store_pair(dq.at(row, head), 8 * n + lane_column(0), args.head_dim, live[i] ? out[n][2 * i] * scale : 0.0f,
                     live[i] ? out[n][2 * i + 1] * scale : 0.0f);
      });
    }
  }
}

// ----------------------------------------------------------------------------------------------------- keys

// dP of kQueryTile rows and kKeyTile keys: as columns of eight lanes, rows lie in different banks.
constexpr int kTransposedStride = 4 * kKeyTile + 16;
using TransposedRing = Ring<kQueryTile * kTransposedStride, 32, 2, kGroups, kCopiers>;
template <int kDim>
using RowRing = Ring<kQuerySlot<kDim>, 32, 8, kGroups, 0, true>;

// dk.  One block a tile of keys and key head: tiles of queries move by, of each the heads of the group in order.  The
// rows' dP stays in registers meanwhile.
template <int kDim>
__global__ void __launch_bounds__(kBlockThreads, 1) key_kernel(const __grid_constant__ Call<kDim> call) {
  if constexpr (!kHopper) return;
  wait_for_last();
  using Queries = QueryTile<kDim>;
  constexpr int kBlocks = kQueryTile / 8;
  extern __shared__ __align__(1024) unsigned char shared[];
  const RowRing<kDim> rows(shared);
  const TransposedRing gradients(shared + RowRing<kDim>::kSpace);
  // Where queries will be lie the keys, until they are in registers.
  const KeyTile<kDim> keys{shared_address(shared)};
  // Tiles of queries whose dP is in a slot, and the number of all.
  int* tile_of = reinterpret_cast<int*>(shared + RowRing<kDim>::kSpace + TransposedRing::kShared);
  int* tiles = tile_of + 2;
  const saccade_attention_divergence_args& args = call.args;
  const TiledPolicy& policy = call.policy;
  const Sequences& sequences = call.sequences();
  const int64_t kv = blockIdx.x % args.kv_heads, number = blockIdx.x / args.kv_heads;
  const Piece piece = piece_of(sequences.offsets_k, sequences.count, number, kKeyTile);
  if (piece.empty()) return;
  const int64_t s = piece.s;
  const auto with_gradient = [&](const auto& body) {
    if (args.grad_dtype == SACCADE_F32)
      body(heads_of<float>(args.dk, args.dk_row_stride, args.dk_head_stride));
    else
      body(heads_of<bf16>(args.dk, args.dk_row_stride, args.dk_head_stride));
  };
  const bool bad = sequences.bad[s];
  if (bad || kv < policy.kv.begin || kv >= policy.kv.end)
    return with_gradient(
        [&](const auto& dk) { fill_heads(dk, piece.begin, piece.end, kv, args.head_dim, bad ? kNan : 0.0f); });
  const int64_t group_end = (kv + 1) * policy.group,
                head_begin = kv * policy.group > policy.heads.begin ? kv * policy.group : policy.heads.begin;
  const int heads =
      uniform(static_cast<int>((group_end < policy.heads.end ? group_end : policy.heads.end) - head_begin));
  // Row r of the sequence sees its key j where r >= j - hidden.
  const int key = static_cast<int>(piece.begin - sequences.first_key(s)), count = static_cast<int>(sequences.rows(s));
  const int hidden = static_cast<int>(sequences.keys(s)) - count;
  const int first = (key - hidden > 0 ? key - hidden : 0) / kQueryTile;
  if (threadIdx.x == 0) {
    rows.init();
    gradients.init();
    *tiles = 0;
  }
  __syncthreads();
  const auto rows_of = [&](int t) { return count - t * kQueryTile < kQueryTile ? count - t * kQueryTile : kQueryTile; };
  // One warp: whether some row of a tile of queries has a gradient.
  const auto active = [&](int t) {
    const int64_t row = sequences.first_row(s) + t * kQueryTile;
    const int r = static_cast<int>(threadIdx.x % 32), own = rows_of(t);
    return __any_sync(~0u, (r < own && call.active(row + r)) || (r + 32 < own && call.active(row + r + 32)));
  };
  for (int t = first + warp(); t * kQueryTile < count; t += kBlockThreads / 32)
    if (active(t) && threadIdx.x % 32 == 0) atomicAdd(tiles, 1);
  __syncthreads();
  const int items = uniform(*tiles * heads);
  if (items == 0)
    return with_gradient([&](const auto& dk) { fill_heads(dk, piece.begin, piece.end, kv, args.head_dim, 0.0f); });

  if (uniform(group()) == kGroups) {
    few_registers<40>();
    if (threadIdx.x >= kBlockThreads - kCopiers) {
      const bool first_copier = threadIdx.x == kBlockThreads - kCopiers;
      const int left = static_cast<int>(call.width()) - key;
      for (int t = first, turn = 0; t * kQueryTile < count; ++t) {
        if (!active(t)) continue;
        gradients.wait_empty(turn);
        copy_rows<kKeyTile>(gradients.slot(turn), kTransposedStride,
                            call.map(sequences.first_row(s) + t * kQueryTile) + key, call.width(), rows_of(t), left);
        if (first_copier) {
          tile_of[turn % 2] = t;
          gradients.expect(turn, 0);
        }
        gradients.arrive_copied(turn++);
      }
    } else if (threadIdx.x < kConsumers + 32) {
      const bool copies = threadIdx.x == kConsumers;
      for (int t = first, item = 0; t * kQueryTile < count; ++t) {
        if (!active(t)) continue;
        for (int h = 0; copies && h < heads; ++h)
          rows.fill(item++, policy.query_tile<kDim>(policy.first_query_tile(s) + t, head_begin + h),
                    kQueryTileBytes<kDim>);
        __syncwarp();
      }
    }
  } else {
    many_registers<232>();
    float out[kDim / 8][4];
    clear(out);
    uint32_t k[kDim / 16][4];
    const auto* tile_from = reinterpret_cast<const uint4*>(policy.key_tile<kDim>(number, kv));
    auto* tile_to = reinterpret_cast<uint4*>(shared);
#pragma unroll 4
    for (int i = static_cast<int>(threadIdx.x); i < KeyTile<kDim>::kBytes / 16; i += kConsumers)
      tile_to[i] = tile_from[i];
    bulk_fence();
    consumers_sync();
#pragma unroll
    for (int step = 0; step < kDim / 16; ++step) keys.left(k[step], 0, 16 * warp(), step);
    rows.release_all();
    int turn = 0;
    float dp[kBlocks][4];
    int seen = 0;         // keys of the block that the tile's first row sees
    bool partly = false;  // some keys are not seen
    const auto hides = [&](int n, int e) { return 16 * warp() + lane_row(e) >= seen + 8 * n + lane_column(e); };
    const auto next_tile = [&] {
      gradients.wait(turn);
      const int t = uniform(tile_of[turn % 2]);
      const unsigned char* slot = gradients.slot(turn);
#pragma unroll
      for (int n = 0; n < kBlocks; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e)
          dp[n][e] = *reinterpret_cast<const float*>(slot + (8 * n + lane_column(e)) * kTransposedStride +
                                                     4 * (16 * warp() + lane_row(e)));
      gradients.release(turn++);
      seen = t * kQueryTile + hidden + 1 - key;
      const int own = rows_of(t);
      partly = uniform(seen) < kKeyTile;
      if (partly || own < kQueryTile) {
#pragma unroll
        for (int n = 0; n < kBlocks; ++n)
#pragma unroll
          for (int e = 0; e < 4; ++e)
            if (8 * n + lane_column(e) >= own || hides(n, e)) dp[n][e] = 0.0f;
      }
    };
    const auto tile = [&](int i) { return Queries{shared_address(rows.slot(i))}; };
    // dS of scores.  Rows that do not exist have an infinite log-sum-exp.
    const auto gradient = [&](float(&x)[kBlocks][4], int i) {
      const unsigned char* statistics = rows.slot(i) + Queries::kBytes + 4 * lane_column(0);
#pragma unroll
      for (int n = 0; n < kBlocks; ++n) {
        const float2 lse = load_pair(statistics + 32 * n + kLse * 4 * kQueryTile);
#pragma unroll
        for (int e = 0; e < 4; ++e) x[n][e] = fmaf(x[n][e], policy.unit, e % 2 == 0 ? -lse.x : -lse.y);
      }
      if (partly) {
#pragma unroll
        for (int n = 0; n < kBlocks; ++n)
#pragma unroll
          for (int e = 0; e < 4; ++e)
            if (hides(n, e)) x[n][e] = -INFINITY;
      }
#pragma unroll
      for (int n = 0; n < kBlocks; ++n) {
        const float2 centre = load_pair(statistics + 32 * n + kCentre * 4 * kQueryTile),
                     delta = load_pair(statistics + 32 * n + kDelta * 4 * kQueryTile);
#pragma unroll
        for (int e = 0; e < 4; e += 2) {
          x[n][e] = exp2_fast(x[n][e]) * ((dp[n][e] - centre.x) - delta.x);
          x[n][e + 1] = exp2_fast(x[n][e + 1]) * ((dp[n][e + 1] - centre.y) - delta.y);
        }
      }
    };
    int h = heads - 1;
    multiply_in_turn<Queries>(
        out, items,
        [&](float(&x)[kBlocks][4], int i) {
          rows.wait(i);
          wgmma_multiply_transposed(x, k, tile(i));
        },
        [&](float(&x)[kBlocks][4], int i) {
          if (++h == heads) {
            h = 0;
            next_tile();
          }
          gradient(x, i);
        },
        tile, [&](int i) { rows.release(i); });
    const float scale = args.scale * call.grad_output();
    with_gradient([&](const auto& dk) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int r = 16 * warp() + lane_row(2 * i);
        if (r >= piece.count()) continue;
#pragma unroll
        for (int n = 0; n < kDim / 8; ++n)
          store_pair(dk.at(piece.begin + r, kv), 8 * n + lane_column(0), args.head_dim, out[n][2 * i] * scale,
                     out[n][2 * i + 1] * scale);
      }
    });
  }
}

template <int kDim, int kKeys>
void launch_queries(const Device& device, const Call<kDim>& call, const HeadedGrid& grid) {
  launch_shared_overlapping(device, query_kernel<kDim, kKeys>, grid.blocks(call.policy, call.args.sequences),
                            kBlockThreads, GradientRing<kDim, kKeys>::kShared, call, grid);
}

}  // namespace

void attention_divergence_hopper(const Device& device, const saccade_attention_divergence_args& args,
                                 const AttentionDivergenceWorkspace& work) {
  const Sequences sequences = clean_sequences(device, args, 0, work.packing);
  const PolicyRows rows = policy_rows(sequences, args);
  const HeadSpan heads{args.head_begin, args.head_end}, ref_heads{args.ref_head_begin, args.ref_head_end};
  const PolicySide<bf16> side = policy_side<bf16>(args);
  const int64_t width = padded(args.max_keys);
  with_dim(args.head_dim, [&](auto dim) {
    const Call<dim> call{{args, work, rows, heads, ref_heads, 1.0f, true, wants_gradient(args)},
                         TiledPolicy(rows, side, heads, work.tiles.queries, work.tiles.keys)};
    launch_tiling<dim>(device, call.policy, side, args.keys, args.sequences, pointer<const float>(args.lse));
    const auto compare = [&](int64_t begin, int64_t end) {
      launch_mean<dim>(device, call.policy, {work.map + begin * width, width, begin, end, heads}, args.sequences);
      with_kind(args.kind, [&](auto kind) {
        launch_overlapping(device, row_kernel<Call<dim>, kind>, end - begin, comparing_threads(args.max_keys), call,
                           begin);
      });
    };
    if (args.ref_q) {
      const PolicySide<bf16> ref_side = reference_side<bf16>(args);
      const TiledPolicy reference(rows, ref_side, ref_heads, work.ref_tiles.queries, work.ref_tiles.keys);
      with_dim(args.ref_head_dim, [&](auto ref_dim) {
        launch_tiling<ref_dim>(device, reference, ref_side, args.keys, args.sequences,
                               pointer<const float>(args.ref_lse));
        for_row_batches(args.rows, work.ref_rows, [&](int64_t begin, int64_t end) {
          launch_mean<ref_dim>(device, reference, {work.ref_map, width, begin, end, ref_heads}, args.sequences);
          compare(begin, end);
        });
      });
    } else {
      compare(0, args.rows);
    }
    if (call.gradient) {
      if (heads.count() < args.heads) launch(device, clear_kernel<bf16>, args.rows, kRowThreads, call);
      const HeadedGrid grid(call.policy, kStay);
      if (grid.queries <= kFewQueries)
        launch_queries<dim, kKeyTile>(device, call, grid);
      else
        launch_queries<dim, kKeyTile / 2>(device, call, grid);
      launch_shared_overlapping(device, key_kernel<dim>, pieces_of(args.keys, args.sequences, kKeyTile) * args.kv_heads,
                                kBlockThreads, RowRing<dim>::kSpace + TransposedRing::kShared + 16, call);
    }
    launch_overlapping(device, loss_kernel, 1, kLossThreads, call);
  });
}

}  // namespace saccade::cuda
