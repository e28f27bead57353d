#include "attention_divergence/attention_divergence_hopper.h"
#include "attention_divergence/centres.cuh"
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
      if (chunk == 0) set_statistics(policy.statistics<kDim>(s, in_sequence, h), INFINITY, 0.0f);
    }
  }

  __device__ float grad_output() const { return args.grad_output ? *pointer<const float>(args.grad_output) : 1.0f; }
};

// -------------------------------------------------------------------------------------------------- queries

// Keys that move by at once.
constexpr int kStepKeys = kKeyTile / 2;

// dP rows beside a tile of keys: rows of eight lanes' pairs lie in different banks.
constexpr int kGradientStride = 4 * kStepKeys + 32;

// Threads that copy rows of dP: beside queries, and beside keys.
constexpr int kQueryCopiers = 64, kKeyCopiers = 96;

// kQueries: of a block, at most.
constexpr int kFewQueries = 32;
template <int kQueries>
constexpr int kSlots = kQueries == kFewQueries ? 4 : 3;
template <int kDim, int kQueries>
using GradientRing = Ring<MmaTile<1, kStepKeys, kDim>::kBytes + (kQueries * kGradientStride + 1023) / 1024 * 1024, 32,
                          kSlots<kQueries>, kGroups, kQueryCopiers>;

// Copies `rows` rows of f32 to shared memory, the first 4 * kColumns bytes of each `stride` bytes apart: those of the
// map before `left` columns, then zeros.  The threads that copy do so together.
template <int kColumns, int kCopiers>
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

template <int kDim>
__device__ float* part_of(const Call<kDim>& call, int part, int64_t head, int64_t row) {
  const int64_t number = (part * call.heads.count() + head - call.heads.begin) * call.args.rows + row;
  return call.work.query_parts.sums + number * (2 * kDim + QueryParts::kNumbers);
}

// What a block of query_kernel does at once: a part of the keys of what stays.
struct Turn {
  HeadedRows block;
  int part, first, tiles;  // tiles of keys of the part; < 0: no row has a gradient
  int stride;              // their order is that of Scattered
  int least;               // keys that the first query sees, or less than none
  const uint8_t* keys;     // the sequence's first tile
  bool last;               // there are no more: nothing of this
};

// The turn under way and one ahead; all warps of a block are done with one before another takes its place.
using TurnRing = Ring<1024, 1, 2, kGroups + 1>;
static_assert(sizeof(Turn) <= TurnRing::kBytes);

template <int kDim, int kQueries>
struct QueryMemory {
  alignas(1024) unsigned char queries[MmaTile<1, kStay, kDim>::kBytes];
  alignas(1024) unsigned char steps[GradientRing<kDim, kQueries>::kSpace];
  alignas(1024) unsigned char turns[TurnRing::kShared];
  Squares squares;
};

// Brings rows that load_rows() will load nearer, by a warp.
template <int kDim>
__device__ __forceinline__ void prefetch_rows(const TiledPolicy& policy, const HeadedRows& block) {
  const int64_t first = block.begin - policy.sequences().first_row(block.s), tiles = policy.first_query_tile(block.s);
  for (int r = static_cast<int>(threadIdx.x % 32); r < block.count(); r += 32) {
    const int64_t row = first + block.query(r);
    const uint8_t* tile = policy.query_tile<kDim>(tiles + row / kQueryTile, block.head(r));
#pragma unroll
    for (int panel = 0; panel < kDim / 64; ++panel)
      prefetch(tile + QueryTile<kDim>{0}.address(0, static_cast<int>(row % kQueryTile), 8 * panel));
  }
}

// dq, and what dk takes of the rows, in one pass.  Tiles of keys move by, and the queries' rows of dP with them:
//   dq = sum P (dP - delta) K = sum P (dP - c) K - (delta - c) sum P K,   delta = sum P dP
// for any c.  Rounding P and P (dP - c) to bf16 costs as little as rounding dS, where c is near delta: it is the mean
// so far, taken anew as often as the mass seen has become fourfold, or dP of the key of which the head is all but
// certain.  One block a multiprocessor, which takes one of `turns` after another, while there are some.  Of the last
// group one warp takes turns, one thread copies tiles, two warps copy rows: they are at the next turn while the others
// finish, each group of them on its own.
template <int kDim, int kQueries>
__global__ void __launch_bounds__(kBlockThreads, 1)
    query_kernel(const __grid_constant__ Call<kDim> call, const __grid_constant__ HeadedGrid grid, int turns) {
  if constexpr (!kHopper) return;
  wait_for_last();
  using Stay = MmaTile<1, kStay, kDim>;
  using Keys = MmaTile<1, kStepKeys, kDim>;
  using Steps = GradientRing<kDim, kQueries>;
  constexpr int kBlocks = kStepKeys / 8, kHalves = kKeyTile / kStepKeys;
  extern __shared__ __align__(1024) unsigned char shared[];
  auto& memory = *reinterpret_cast<QueryMemory<kDim, kQueries>*>(shared);
  const Stay q{shared_address(memory.queries)};
  const Steps ring(memory.steps);
  const TurnRing ahead(memory.turns);
  Squares& squares = memory.squares;
  const saccade_attention_divergence_args& args = call.args;
  const TiledPolicy& policy = call.policy;
  const Sequences& sequences = call.sequences();
  const int parts = call.work.query_parts.count;
  float* dscore_sq = pointer<float>(args.dscore_sq);
  if (threadIdx.x == 0) {
    ring.init();
    ahead.init();
  }
  __syncthreads();
  const auto turn_of = [&](uint32_t turn) -> Turn& { return *reinterpret_cast<Turn*>(ahead.slot(turn)); };

  if (uniform(group()) == kGroups) {
    few_registers<40>();
    const int thread = static_cast<int>(threadIdx.x) - kConsumers;
    if (thread < 32) {
      // Takes the next turn that there is anything to do for, while the others are at the one before: no earlier, since
      // another block may come to it sooner.
      for (uint32_t turn = 0;;) {
        int number = 0;
        if (thread == 0) {
          ahead.wait_empty(turn);
          number = static_cast<int>(atomicAdd(call.work.turn, 1));
        }
        number = uniform(number);
        const bool last = number >= turns;
        // The last queries, which see the most keys, come first.
        const HeadedRows block(policy, grid, last ? 0 : number / parts, turns / parts);
        if (!last && block.empty()) continue;
        const int64_t s = block.s;
        const int part = number % parts;
        // The last key that the first query sees may be before the first one.
        const int least =
            static_cast<int>(sequences.keys(s) - sequences.rows(s) + block.begin - sequences.first_row(s) + 1);
        const int most = least + block.queries - 1, all = most > 0 ? (most + kStepKeys - 1) / kStepKeys : 0;
        bool live = false;
        for (int r = thread; r < block.queries; r += 32) live |= call.active(block.begin + r);
        live = __any_sync(~0u, live) && all > 0 && !sequences.bad[s] && !last;
        if (!last && !live && parts > 1) continue;
        if (live) prefetch_rows<kDim>(policy, block);
        if (thread == 0) {
          const int first = all * part / parts, tiles = live ? all * (part + 1) / parts - first : -1;
          const int stride = Scattered::stride_of(
              static_cast<int>(divide_up(sequences.keys(s), kStepKeys * static_cast<int64_t>(parts))));
          const uint8_t* keys = live ? policy.key_tile<kDim>(policy.first_key_tile(s), block.kv) : nullptr;
          Turn& next = turn_of(turn);
          next = {block, part, first, tiles, stride, least, keys, last};
          ahead.expect(turn, 0);
        }
        ahead.release(turn++);
        if (last) return;
      }
    }
    uint32_t step = 0;
    for (uint32_t turn = 0;; ++turn) {
      ahead.wait(turn);
      const Turn& own = turn_of(turn);
      if (own.last) return;
      const int first = own.first, tiles = own.tiles;
      Scattered order(tiles, own.stride);
      if (thread >= 64) {
        const float* map = call.map(own.block.begin);
        const int width = static_cast<int>(call.width()), queries = own.block.queries;
        for (int j = 0; j < tiles; ++j, ++step, order.next()) {
          ring.wait_empty(step);
          const int key = (first + order.index) * kStepKeys;
          copy_rows<kStepKeys, kQueryCopiers>(ring.slot(step) + Keys::kBytes, kGradientStride, map + key, width,
                                              queries, width - key);
          ring.arrive_copied(step);
        }
      } else if (thread == 32) {
        const uint8_t* keys = own.keys;
        for (int j = 0; j < tiles; ++j, ++step, order.next()) {
          ring.wait_empty(step);
          ring.expect(step, Keys::kBytes);
          const int at = first + order.index;
          const uint8_t* tile =
              keys + at / kHalves * policy.key_stride<kDim>() + at % kHalves * (kStepKeys * Keys::kRow);
          for (int panel = 0; panel < kDim / 64; ++panel)
            ring.copy(step, panel * Keys::kPanel, tile + panel * KeyTile<kDim>::kPanel, Keys::kPanel);
        }
      }
      ahead.release(turn);
    }
  }

  many_registers<232>();
  const bool never = args.rows < 0;
  const float grad_output = call.grad_output();
  const auto with_gradient = [&](const auto& body) {
    if (args.grad_dtype == SACCADE_F32)
      body(heads_of<float>(args.dq, args.dq_row_stride, args.dq_head_stride));
    else
      body(heads_of<bf16>(args.dq, args.dq_row_stride, args.dq_head_stride));
  };
  const int first_row = 64 * uniform(group());
  uint32_t step = 0;
  for (uint32_t turn = 0;; ++turn) {
    ahead.wait(turn);
    const Turn& own = turn_of(turn);
    if (own.last) return;
    const int first = uniform(own.first), tiles = uniform(own.tiles), least = uniform(own.least);
    if (tiles < 0) {
      const HeadedRows block = own.block;
      const int64_t s = block.s;
      ahead.release(turn);
      const float value = sequences.bad[s] ? kNan : 0.0f;
      for (int h = 0; h < block.heads; ++h) {
        const int64_t head = block.first_head + h;
        with_gradient([&](const auto& dq) {
          fill_heads(dq, block.begin, block.begin + block.queries, head, args.head_dim, value, kConsumers);
        });
        if (dscore_sq && threadIdx.x < block.queries) dscore_sq[head * args.rows + block.begin + threadIdx.x] = value;
      }
      continue;
    }
    float lse[2];
    Centres sums;
    int seen[2], row_offset[2];  // keys beyond those that the first query sees
    const auto statistics = [&](const HeadedRows& block, int r) {
      return policy.statistics<kDim>(block.s, block.begin + block.query(r) - sequences.first_row(block.s),
                                     block.head(r));
    };
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int r = 16 * warp() + lane_row(2 * i);
      const bool there = r < own.block.count();
      seen[i] = there ? own.block.query(r) : 0;
      row_offset[i] = Keys::kBytes + seen[i] * kGradientStride + 4 * lane_column(0);
      lse[i] = there ? statistics(own.block, r)[kLse * kQueryTile] : INFINITY;
    }
    load_rows(q, policy, own.block);
    if (dscore_sq) squares.clear();
    float moments[kDim / 8][4], means[kDim / 8][4];  // sums of P (dP - centre) K, and of P K
    clear(moments);
    clear(means);
    // Scores of a tile become probabilities.
    const auto probabilities = [&](float(&x)[kBlocks][4], int number) {
#pragma unroll
      for (int n = 0; n < kBlocks; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e) x[n][e] = fmaf(x[n][e], policy.unit, -lse[e / 2]);
      if ((number + 1) * kStepKeys > least) {
        // Some row does not see some key.
        const int beyond = number * kStepKeys - least + lane_column(0);
#pragma unroll
        for (int n = 0; n < kBlocks; ++n)
#pragma unroll
          for (int e = 0; e < 4; ++e)
            if (beyond + 8 * n + e % 2 >= seen[e / 2]) x[n][e] = -INFINITY;
      }
#pragma unroll
      for (int n = 0; n < kBlocks; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e) x[n][e] = exp2_fast(x[n][e]);
    };
    const auto begin = [&](float(&x)[kBlocks][4], int j) {
      ring.wait(step + j);
      wgmma_multiply_transposed(x, q, first_row, Keys{shared_address(ring.slot(step + j))});
    };
    // What ends the products under way.
    WgmmaWeights<kStepKeys> p{}, p_dp{};
    const auto finish = [&] {
      wgmma_wait<0>();
      p.hold(never);
      p_dp.hold(never);
      wgmma_settle(moments);
      wgmma_settle(means);
    };
    Scattered order(tiles, uniform(own.stride));
    float x[kBlocks][4];
    if (tiles > 0) {
      begin(x, 0);
      wgmma_wait<0>();
      wgmma_settle(x);
    }
    for (int j = 0; j < tiles; ++j) {
      const unsigned char* slot = ring.slot(step + j);
      probabilities(x, first + order.index);
      order.next();
      float w[2] = {}, change[2] = {};
#pragma unroll
      for (int n = 0; n < kBlocks; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e) w[e / 2] += x[n][e];
      const auto dp = [&](int i, int n) { return load_pair(slot + row_offset[i] + 32 * n); };
      const bool moves = sums.due(w);
      if (moves) {
        sums.move(x, dp, w, change);
        if (dscore_sq) squares.move(change);
      }
#pragma unroll
      for (int i = 0; i < 2; ++i) sums.mass[i] += w[i];
      if (dscore_sq) squares.add(x, dp, sums.centre);
      finish();
      wgmma_settle(x);
      if (moves) {
#pragma unroll
        for (int n = 0; n < kDim / 8; ++n)
#pragma unroll
          for (int e = 0; e < 4; ++e) moments[n][e] = fmaf(change[e / 2], means[n][e], moments[n][e]);
      }
      if (j > 0) ring.release(step + j - 1);
      p.set(x);
      sums.multiply(x, dp);
      p_dp.set(x);
      // After the last tile, once more, for nothing.
      begin(x, j + 1 < tiles ? j + 1 : j);
      const Keys keys{shared_address(slot)};
      wgmma_multiply_add(moments, p_dp, keys);
      wgmma_multiply_add(means, p, keys);
      wgmma_wait<2>();
      wgmma_settle(x);
    }
    float unit[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) unit[i] = call.unit(own.block.begin + seen[i]);
    finish();
    step += tiles;
    const HeadedRows block = own.block;
    const int part = own.part;
    ahead.release(turn);
    if (tiles > 0) ring.release(step - 1);

#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const float whole = add_lanes(sums.mass[i]), whole_moment = add_lanes(sums.moment[i]),
                  delta = whole_moment / whole;
      const int r = 16 * warp() + lane_row(2 * i);
      if (r >= block.count()) continue;
      const int64_t row = block.begin + block.query(r), head = block.head(r);
      if (parts > 1) {
        float* to = part_of<kDim>(call, part, head, row);
#pragma unroll
        for (int n = 0; n < kDim / 8; ++n) {
          const int column = 8 * n + lane_column(0);
          *reinterpret_cast<float2*>(to + column) = {moments[n][2 * i], moments[n][2 * i + 1]};
          *reinterpret_cast<float2*>(to + kDim + column) = {means[n][2 * i], means[n][2 * i + 1]};
        }
        if (threadIdx.x % 4 == 0) {
          auto* numbers = reinterpret_cast<float4*>(to + 2 * kDim);
          numbers[0] = {sums.centre[i], whole, whole_moment, 0.0f};
          float4 of_squares = {};
          if (dscore_sq)
            of_squares = {static_cast<float>(squares.sums[0][r]), static_cast<float>(squares.sums[1][r]),
                          static_cast<float>(squares.sums[2][r]), 0.0f};
          numbers[1] = of_squares;
        }
        continue;
      }
      const float inverse = unit[i] / whole;
      const bool live = lse[i] != INFINITY;
      if (threadIdx.x % 4 == 0) {
        if (live) set_statistics(statistics(block, r), lse[i] - log2f(inverse), sums.centre[i] + delta);
        if (dscore_sq) {
          const float factor = inverse * grad_output;
          dscore_sq[head * args.rows + row] =
              live ? static_cast<float>(squares.around(i, delta)) * (factor * factor) : 0.0f;
        }
      }
      // A row without weight gets 0 whatever the keys hold.
      const float scale = args.scale * grad_output * inverse;
      const auto value = [&](int n, int e) { return live ? fmaf(-delta, means[n][e], moments[n][e]) * scale : 0.0f; };
      with_gradient([&](const auto& dq) {
#pragma unroll
        for (int n = 0; n < kDim / 8; ++n)
          store_pair(dq.at(row, head), 8 * n + lane_column(0), args.head_dim, value(n, 2 * i), value(n, 2 * i + 1));
      });
    }
  }
}

// One warp a head and row, where queries were computed in parts: what query_kernel writes where there is one.
template <int kDim>
__global__ void __launch_bounds__(kRowThreads) join_kernel(const __grid_constant__ Call<kDim> call) {
  wait_for_last();
  const saccade_attention_divergence_args& args = call.args;
  const int64_t number = (static_cast<int64_t>(blockIdx.x) * kRowThreads + threadIdx.x) / 32;
  if (number >= call.heads.count() * args.rows) return;
  const int64_t row = number % args.rows, head = call.heads.begin + number / args.rows,
                s = sequence_of_row(call.sequences(), row);
  const int lane = static_cast<int>(threadIdx.x % 32), parts = call.work.query_parts.count;
  float* statistics = call.policy.template statistics<kDim>(s, row - call.sequences().first_row(s), head);
  const bool bad = call.sequences().bad[s], live = !bad && statistics[kLse * kQueryTile] != INFINITY;
  __syncwarp();
  float square = 0.0f, scale = 0.0f, a[kDim / 32] = {};  // two columns and two, 64 further
  if (live) {
    const auto numbers = [&](int part) {
      return reinterpret_cast<const float4*>(part_of<kDim>(call, part, head, row) + 2 * kDim);
    };
    // Around the centre of the part that has most of the mass.
    double mass = 0.0;
    float top = -1.0f, centre = 0.0f;
    for (int part = 0; part < parts; ++part) {
      const float4 own = numbers(part)[0];
      mass += static_cast<double>(own.y);
      if (own.y > top) top = own.y, centre = own.x;
    }
    double moment = 0.0, squares[3] = {};
    float b[kDim / 32] = {};
    for (int part = 0; part < parts; ++part) {
      const float4 own = numbers(part)[0], of_squares = numbers(part)[1];
      const float change = own.x - centre;
      const double d = change;
      moment += static_cast<double>(own.z) + d * static_cast<double>(own.y);
      squares[0] += of_squares.x;
      squares[1] += of_squares.y + d * of_squares.x;
      squares[2] += of_squares.z + d * (2.0 * of_squares.y + d * of_squares.x);
      const float* sums = part_of<kDim>(call, part, head, row) + 2 * lane;
#pragma unroll
      for (int e = 0; e < kDim / 32; ++e) {
        const int column = e / 2 * 64 + e % 2;
        b[e] += sums[kDim + column];
        a[e] += fmaf(change, sums[kDim + column], sums[column]);
      }
    }
    const double d = moment / mass;
    const float delta = static_cast<float>(d), inverse = call.unit(row) / static_cast<float>(mass),
                factor = inverse * call.grad_output();
    square = static_cast<float>(sum_of_squares(squares[0], squares[1], squares[2], d)) * (factor * factor);
    scale = args.scale * factor;
#pragma unroll
    for (int e = 0; e < kDim / 32; ++e) a[e] = fmaf(-delta, b[e], a[e]) * scale;
    if (lane == 0) set_statistics(statistics, statistics[kLse * kQueryTile] - log2f(inverse), centre + delta);
  }
  const float nothing = bad ? kNan : 0.0f;
  if (args.dscore_sq && lane == 0) pointer<float>(args.dscore_sq)[head * args.rows + row] = live ? square : nothing;
  const auto write = [&](const auto& dq) {
#pragma unroll
    for (int e = 0; e < kDim / 32; e += 2)
      store_pair(dq.at(row, head), e / 2 * 64 + 2 * lane, args.head_dim, live ? a[e] : nothing,
                 live ? a[e + 1] : nothing);
  };
  if (args.grad_dtype == SACCADE_F32)
    write(heads_of<float>(args.dq, args.dq_row_stride, args.dq_head_stride));
  else
    write(heads_of<bf16>(args.dq, args.dq_row_stride, args.dq_head_stride));
}

// ----------------------------------------------------------------------------------------------------- keys

// dP of kQueryTile rows and kKeyTile keys: as columns of eight lanes, rows lie in different banks.
constexpr int kTransposedStride = 4 * kKeyTile + 16;
using TransposedRing = Ring<kQueryTile * kTransposedStride, 32, 2, kGroups, kKeyCopiers>;
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
    if (threadIdx.x >= kBlockThreads - kKeyCopiers) {
      const bool first_copier = threadIdx.x == kBlockThreads - kKeyCopiers;
      const int left = static_cast<int>(call.width()) - key;
      for (int t = first, turn = 0; t * kQueryTile < count; ++t) {
        if (!active(t)) continue;
        gradients.wait_empty(turn);
        copy_rows<kKeyTile, kKeyCopiers>(gradients.slot(turn), kTransposedStride,
                                         call.map(sequences.first_row(s) + t * kQueryTile) + key, call.width(),
                                         rows_of(t), left);
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
        const float2 delta = load_pair(statistics + 32 * n + kDelta * 4 * kQueryTile);
#pragma unroll
        for (int e = 0; e < 4; e += 2) {
          x[n][e] = exp2_fast(x[n][e]) * (dp[n][e] - delta.x);
          x[n][e + 1] = exp2_fast(x[n][e + 1]) * (dp[n][e + 1] - delta.y);
        }
      }
    };
    int h = heads - 1;
    multiply_in_turn<Queries>(
        out, args.rows < 0, items,
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

template <int kDim, int kQueries>
void launch_queries(const Device& device, const Call<kDim>& call, const HeadedGrid& grid) {
  const int parts = call.work.query_parts.count;
  const int64_t turns = grid.blocks(call.policy, call.args.sequences) * parts;
  launch_shared_overlapping(device, query_kernel<kDim, kQueries>, std::min<int64_t>(turns, device.processors),
                            kBlockThreads, static_cast<int>(sizeof(QueryMemory<kDim, kQueries>)), call, grid,
                            static_cast<int>(turns));
  if (parts > 1)
    launch_overlapping(device, join_kernel<kDim>, divide_up(call.heads.count() * call.args.rows * 32, kRowThreads),
                       kRowThreads, call);
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
        launch_queries<dim, kFewQueries>(device, call, grid);
      else
        launch_queries<dim, kStay>(device, call, grid);
      launch_shared_overlapping(device, key_kernel<dim>, pieces_of(args.keys, args.sequences, kKeyTile) * args.kv_heads,
                                kBlockThreads, RowRing<dim>::kSpace + TransposedRing::kShared + 16, call);
    }
    launch_overlapping(device, loss_kernel, 1, kLossThreads, call);
  });
}

}  // namespace saccade::cuda
