#include "attention/attention_hopper.h"
#include "core/ring.cuh"

// The kernels of a call overlap, as core/device.cuh says.  What clean_kernel wrote is there for all of them, since
// key_tiles_kernel waits for it before it allows the next.  One that reads nothing of the kernel before waits for it at
// its end, so that the end of the last is the end of all.
namespace saccade::cuda {
namespace {

// -------------------------------------------------------------------------------------------------- tiles

template <int kDim>
constexpr int kRowTileBytes = kTileBytes<kBackwardTile, kDim> + static_cast<int>(sizeof(RowStatistics));
template <int kDim>
constexpr int kRowSlot = (kRowTileBytes<kDim> + 1023) / 1024 * 1024;

// What a block of a grid over pieces and heads computes.
struct Task {
  uint32_t head, piece, pieces;

  __device__ explicit Task(int64_t heads)
      : head(blockIdx.x % static_cast<uint32_t>(heads)),
        piece(blockIdx.x / static_cast<uint32_t>(heads)),
        pieces(gridDim.x / static_cast<uint32_t>(heads)) {}
};

__device__ __forceinline__ void load_chunk(float (&x)[8], const Operand& from, int64_t row, int64_t head, int column,
                                           int dim) {
  load_columns(x, from.heads.at(row, head) + column, dim - column, from.whole);
}

// One block a piece of keys, key head and operand, k or v.
template <int kRows, int kDim>
__global__ void __launch_bounds__(kWriters)
    key_tiles_kernel(const __grid_constant__ Inputs in, uint8_t* keys, uint8_t* values) {
  constexpr int kChunks = kDim / 8, kStep = kWriters / kChunks, kAhead = kRows / kStep < 4 ? kRows / kStep : 4;
  wait_for_last();
  allow_next();
  const uint32_t block = blockIdx.x / 2, kv_heads = static_cast<uint32_t>(in.kv_heads);
  const bool second = blockIdx.x % 2 != 0;
  const Piece piece = piece_of(in.sequences.offsets_k, in.sequences.count, block / kv_heads, kRows);
  if (piece.empty() || in.sequences.bad[piece.s]) return;
  const int64_t count = in.sequences.first_key(piece.s) + in.sequences.keys(piece.s) - piece.begin;
  if (count <= 0) return;
  uint8_t* tile = (second ? values : keys) + block * static_cast<int64_t>(kTileBytes<kRows, kDim>);
  const Operand& from = second ? in.v : in.k;
  const int chunk = static_cast<int>(threadIdx.x) % kChunks;
  for (int first = static_cast<int>(threadIdx.x) / kChunks; first < kRows; first += kAhead * kStep) {
    float x[kAhead][8];
#pragma unroll
    for (int i = 0; i < kAhead; ++i)
      load_chunk(x[i], from, piece.begin + first + i * kStep, block % kv_heads, 8 * chunk,
                 first + i * kStep < count ? in.dim : 0);
#pragma unroll
    for (int i = 0; i < kAhead; ++i) store_chunk<kRows, kDim>(tile, first + i * kStep, chunk, x[i]);
  }
}

// One block a piece of rows and head: also delta = d_o . o.
template <int kDim>
__global__ void __launch_bounds__(kWriters)
    row_tiles_kernel(const __grid_constant__ Inputs in, const __grid_constant__ Operand d_o,
                     const __grid_constant__ Operand o, const float* lse, int64_t rows, uint8_t* row_tiles,
                     uint8_t* gradient_tiles) {
  constexpr int kRows = kBackwardTile, kChunks = kDim / 8;
  allow_next();
  const Task task(in.heads);
  const int64_t head = task.head;
  const Piece piece = piece_of(in.sequences.offsets_q, in.sequences.count, task.piece, kRows);
  if (piece.empty() || in.sequences.bad[piece.s]) return wait_for_last();
  uint8_t* tile = row_tiles + blockIdx.x * static_cast<int64_t>(kRowTileBytes<kDim>);
  uint8_t* gradients = gradient_tiles + blockIdx.x * static_cast<int64_t>(kTileBytes<kRows, kDim>);
  auto* statistics = reinterpret_cast<RowStatistics*>(tile + kTileBytes<kRows, kDim>);
#pragma unroll 2
  for (int i = static_cast<int>(threadIdx.x); i < kRows * kChunks; i += kWriters) {
    const int row = i / kChunks, chunk = i % kChunks;
    float q[8] = {}, g[8] = {}, own[8] = {};
    if (row < piece.count()) {
      load_chunk(q, in.q, piece.begin + row, head, 8 * chunk, in.dim);
      load_chunk(g, d_o, piece.begin + row, head, 8 * chunk, in.dim);
      load_chunk(own, o, piece.begin + row, head, 8 * chunk, in.dim);
    }
    // Of d_o as the products have it, so that what cancels in dp - delta does.
    float delta = 0.0f;
#pragma unroll
    for (int e = 0; e < 8; ++e) delta = fmaf(to_float(from_float<bf16>(g[e])), own[e], delta);
#pragma unroll
    for (int distance = 1; distance < kChunks; distance *= 2) delta += __shfl_xor_sync(~0u, delta, distance);
    if (chunk == 0) {
      statistics->lse[row] = row < piece.count() ? lse[head * rows + piece.begin + row] * kLog2E : INFINITY;
      statistics->delta[row] = delta;
    }
    store_chunk<kRows, kDim>(tile, row, chunk, q);
    store_chunk<kRows, kDim>(gradients, row, chunk, g);
  }
  wait_for_last();
}

// What stays in a block: 64 rows or keys for each warpgroup that multiplies.  Heads of 64 leave registers for three.
template <int kDim, int kGroups_>
struct Stay {
  static constexpr int kGroups = kGroups_, kRows = 64 * kGroups, kThreads = 128 * kGroups;
  static constexpr int kBlock = kThreads + 128, kRegisters = kGroups == 2 ? 240 : 160;
  using Tile = MmaTile<1, kRows, kDim>;
  using Load = MmaLoad<Tile, kThreads, 8>;
};
template <int kDim>
using StayRows = Stay<kDim, kDim == 64 ? 3 : 2>;
template <int kDim>
using StayKeys = Stay<kDim, 2>;

template <int kDim>
using ForwardTile = MmaTile<1, kForwardTile, kDim>;
template <int kDim>
using BackwardTile = MmaTile<1, kBackwardTile, kDim>;
template <int kDim>
using ForwardRing = Ring<ForwardTile<kDim>::kBytes, 1, 4, StayRows<kDim>::kGroups>;
template <int kDim>
using QueryRing = Ring<BackwardTile<kDim>::kBytes, 1, 8, StayRows<kDim>::kGroups>;
template <int kDim>
using KeyRing = Ring<kRowSlot<kDim>, 32, 4, StayKeys<kDim>::kGroups>;

// One thread: the first `tiles` tiles of a sequence's keys and values, in turn.
template <class Tile, class Slots>
__device__ __forceinline__ void copy_keys(const Slots& ring, const Inputs& in, int64_t s, uint32_t kv, int tiles,
                                          const uint8_t* keys, const uint8_t* values) {
  const int64_t first = first_piece(in.sequences.offsets_k, s, Tile::kRows);
  for (int j = 0; j < tiles; ++j) {
    const int64_t at = ((first + j) * in.kv_heads + kv) * Tile::kBytes;
    ring.fill(2 * j, keys + at, Tile::kBytes);
    ring.fill(2 * j + 1, values + at, Tile::kBytes);
  }
}

// Tiles of `tile` keys that the rows of a piece up to number `row` see.
__device__ __forceinline__ int tiles_to(const Sequences& sequences, const Piece& piece, int row, int tile) {
  const int64_t last = row < piece.count() ? piece.begin + row : piece.end - 1;
  return static_cast<int>((visible_keys(sequences, piece.s, last) + tile - 1) / tile);
}

// ------------------------------------------------------------------------------------------------ kernels

// One block a piece of rows and head.  While the products of one tile of keys are summed, those of the next are scored
// and become probabilities.
template <int kDim>
__global__ void __launch_bounds__(StayRows<kDim>::kBlock, 1)
    forward_kernel(const __grid_constant__ saccade_attention_args args, const __grid_constant__ Inputs in,
                   const uint8_t* key_tiles, const uint8_t* value_tiles) {
  if constexpr (!kHopper) return;
  using Stay = StayRows<kDim>;
  using Tile = ForwardTile<kDim>;
  extern __shared__ __align__(1024) unsigned char shared[];
  const typename Stay::Tile q{shared_address(shared)};
  const ForwardRing<kDim> ring(shared + Stay::Tile::kBytes);
  const Task task(in.heads);
  // The last rows, which see the most keys, come first.
  const Piece piece = piece_of(in.sequences.offsets_q, in.sequences.count, task.pieces - 1 - task.piece, Stay::kRows);
  if (piece.empty()) return wait_for_last();
  const auto o = heads_of<float>(args.o, args.o_row_stride, args.o_head_stride);
  float* lse = args.lse ? pointer<float>(args.lse) + task.head * args.rows : nullptr;
  if (in.sequences.bad[piece.s]) {
    fill_heads(o, piece.begin, piece.end, task.head, in.dim, kNan);
    if (lse && threadIdx.x < piece.count()) lse[piece.begin + threadIdx.x] = kNan;
    return wait_for_last();
  }
  const int tiles = tiles_to(in.sequences, piece, Stay::kRows - 1, Tile::kRows);
  if (threadIdx.x == 0) ring.init();
  __syncthreads();

  if (group() == Stay::kGroups) {
    few_registers();
    if (threadIdx.x == Stay::kThreads) {
      wait_for_last();
      copy_keys<Tile>(ring, in, piece.s, task.head / in.group(), tiles, key_tiles, value_tiles);
    }
  } else {
    many_registers<Stay::kRegisters>();
    {
      typename Stay::Load load;
      in.begin(load, in.q, piece.begin, task.head, piece.count());
      load.end(q);
    }
    consumers_sync<Stay::kThreads>();
    RunningSoftmax softmax(in, piece);
    const int row = 64 * uniform(group()), own = tiles_to(in.sequences, piece, row + 63, Tile::kRows);
    float out[kDim / 8][4];
    clear(out);
    if (own > 0) {
      float s[Tile::kRows / 8][4];
      const auto score = [&](int j) {
        ring.wait(2 * j);
        wgmma_multiply_transposed(s, q, row, Tile{shared_address(ring.slot(2 * j))});
      };
      WgmmaWeights<Tile::kRows> p{};
      const auto add = [&](int j) {
        softmax.rescale(out);
        ring.wait(2 * j + 1);
        wgmma_multiply_add(out, p, Tile{shared_address(ring.slot(2 * j + 1))});
      };
      const auto added = [&](int j) {
        wgmma_wait<0>();
        p.hold(in.dim < 0);
        wgmma_settle(out);
        if (j >= 0) ring.release(2 * j + 1);
      };
      score(0);
      wgmma_wait<0>();
      wgmma_settle(s);
      ring.release(0);
      softmax.take(s, 0);
      for (int j = 0; j + 1 < own; ++j) {
        // Not after the softmax: the compiler would wait before it, since nothing in it depends on the wait.
        added(j - 1);
        p.set(s);
        score(j + 1);
        add(j);
        wgmma_wait<1>();
        wgmma_settle(s);
        ring.release(2 * j + 2);
        if (j % 16 == 15) softmax.fold();
        softmax.take(s, (j + 1) * Tile::kRows);
      }
      added(own - 2);
      p.set(s);
      add(own - 1);
      added(own - 1);
    }
    for (int i = 2 * own; i < 2 * tiles; ++i) {
      ring.wait(i);
      ring.release(i);
    }
    softmax.finish(out, piece, lse);
    write_rows(o, piece.begin, piece.count(), task.head, in.dim, 0, out, 1.0f);
  }
}

// One block a piece of rows and head.  While dS of one tile of keys is multiplied, the products of the next begin.
template <int kDim>
__global__ void __launch_bounds__(StayRows<kDim>::kBlock, 1)
    query_kernel(const __grid_constant__ saccade_attention_backward_args args, const __grid_constant__ Inputs in,
                 const __grid_constant__ Operand d_o, const uint8_t* key_tiles, const uint8_t* value_tiles,
                 const uint8_t* row_tiles) {
  if constexpr (!kHopper) return;
  using Stay = StayRows<kDim>;
  using Tile = BackwardTile<kDim>;
  extern __shared__ __align__(1024) unsigned char shared[];
  const typename Stay::Tile q{shared_address(shared)}, d_out{q.base + Stay::Tile::kBytes};
  const QueryRing<kDim> ring(shared + 2 * Stay::Tile::kBytes);
  const Task task(in.heads);
  const Piece piece = piece_of(in.sequences.offsets_q, in.sequences.count, task.pieces - 1 - task.piece, Stay::kRows);
  if (piece.empty()) return wait_for_last();
  const auto dq = heads_of<float>(args.dq, args.dq_row_stride, args.dq_head_stride);
  if (in.sequences.bad[piece.s]) {
    fill_heads(dq, piece.begin, piece.end, task.head, in.dim, kNan);
    return wait_for_last();
  }
  const int tiles = tiles_to(in.sequences, piece, Stay::kRows - 1, Tile::kRows);
  if (threadIdx.x == 0) ring.init();
  __syncthreads();

  if (group() == Stay::kGroups) {
    few_registers();
    if (threadIdx.x == Stay::kThreads) {
      wait_for_last();
      allow_next();
      copy_keys<Tile>(ring, in, piece.s, task.head / in.group(), tiles, key_tiles, value_tiles);
    }
  } else {
    many_registers<Stay::kRegisters>();
    {
      typename Stay::Load load_q, load_d_o;
      in.begin(load_q, in.q, piece.begin, task.head, piece.count());
      in.begin(load_d_o, d_o, piece.begin, task.head, piece.count());
      load_q.end(q);
      load_d_o.end(d_out);
    }
    wait_for_last();
    consumers_sync<Stay::kThreads>();
    const int row = 64 * uniform(group()), own = tiles_to(in.sequences, piece, row + 63, Tile::kRows);
    int visible[2];
    float lse[2], delta[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int r = 16 * warp() + lane_row(2 * i);
      visible[i] = 0;
      lse[i] = delta[i] = 0.0f;
      if (r >= piece.count()) continue;
      visible[i] = static_cast<int>(visible_keys(in.sequences, piece.s, piece.begin + r));
      const int64_t in_sequence = piece.begin + r - in.sequences.first_row(piece.s);
      const int64_t tile = first_piece(in.sequences.offsets_q, piece.s, kBackwardTile) + in_sequence / kBackwardTile;
      const auto* statistics = reinterpret_cast<const RowStatistics*>(
          row_tiles + (tile * in.heads + task.head) * kRowTileBytes<kDim> + Tile::kBytes);
      lse[i] = statistics->lse[in_sequence % kBackwardTile];
      delta[i] = statistics->delta[in_sequence % kBackwardTile];
    }
    const float unit = in.scale * kLog2E;
    float out[kDim / 8][4], s[Tile::kRows / 8][4], ds[Tile::kRows / 8][4];
    clear(out);
    const auto score = [&](int j) {
      ring.wait(2 * j);
      wgmma_multiply_transposed(s, q, row, Tile{shared_address(ring.slot(2 * j))});
      ring.wait(2 * j + 1);
      wgmma_multiply_transposed(ds, d_out, row, Tile{shared_address(ring.slot(2 * j + 1))});
    };
    const auto scored = [&] {
      wgmma_wait<1>();  // also for the last tile's sums
      wgmma_settle(s);
#pragma unroll
      for (int n = 0; n < Tile::kRows / 8; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e) s[n][e] = exp2_fast(fmaf(s[n][e], unit, -lse[e / 2]));
    };
    WgmmaWeights<Tile::kRows> weights{};
    const auto add = [&](int j) {
      wgmma_wait<0>();  // first in the loop, as in the forward pass
      weights.hold(in.dim < 0);
      wgmma_settle(ds);
      wgmma_settle(out);
      ring.release(2 * j + 1);
      if (j > 0) ring.release(2 * j - 2);
#pragma unroll
      for (int n = 0; n < Tile::kRows / 8; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e) ds[n][e] = s[n][e] * (ds[n][e] - delta[e / 2]);
      if ((j + 1) * Tile::kRows > min(visible[0], visible[1])) {
#pragma unroll
        for (int n = 0; n < Tile::kRows / 8; ++n)
#pragma unroll
          for (int e = 0; e < 4; ++e)
            if (8 * n + lane_column(e) >= visible[e / 2] - j * Tile::kRows) ds[n][e] = 0.0f;
      }
      weights.set(ds);
      wgmma_multiply_add(out, weights, Tile{shared_address(ring.slot(2 * j))});
    };
    if (own > 0) {
      score(0);
      scored();
      for (int j = 0; j + 1 < own; ++j) {
        add(j);
        score(j + 1);
        scored();
      }
      add(own - 1);
      wgmma_wait<0>();
      wgmma_settle(out);
      ring.release(2 * own - 2);
    }
    for (int i = 2 * own; i < 2 * tiles; ++i) {
      ring.wait(i);
      ring.release(i);
    }
    write_rows(dq, piece.begin, piece.count(), task.head, in.dim, 0, out, in.scale);
  }
}

// Of the columns that a thread has of a product.
__device__ __forceinline__ void load_pairs(float (&x)[kBackwardTile / 8][2], const float* from) {
#pragma unroll
  for (int n = 0; n < kBackwardTile / 8; ++n) {
    const float2 pair = *reinterpret_cast<const float2*>(from + 8 * n + lane_column(0));
    x[n][0] = pair.x;
    x[n][1] = pair.y;
  }
}

// One block a piece of keys and key head: the rows of the heads of the group move by, in order.
template <int kDim>
__global__ void __launch_bounds__(StayKeys<kDim>::kBlock, 1)
    key_kernel(const __grid_constant__ saccade_attention_backward_args args, const __grid_constant__ Inputs in,
               const uint8_t* row_tiles, const uint8_t* gradient_tiles) {
  if constexpr (!kHopper) return;
  using Stay = StayKeys<kDim>;
  using Tile = BackwardTile<kDim>;
  extern __shared__ __align__(1024) unsigned char shared[];
  const typename Stay::Tile k{shared_address(shared)}, v{k.base + Stay::Tile::kBytes};
  const KeyRing<kDim> ring(shared + 2 * Stay::Tile::kBytes);
  const Task task(in.kv_heads);
  const int64_t kv = task.head;
  const Piece piece = piece_of(in.sequences.offsets_k, in.sequences.count, task.piece, Stay::kRows);
  if (piece.empty()) return wait_for_last();
  const auto dk = heads_of<float>(args.dk, args.dk_row_stride, args.dk_head_stride);
  const auto dv = heads_of<float>(args.dv, args.dv_row_stride, args.dv_head_stride);
  const int64_t s = piece.s;
  if (in.sequences.bad[s]) {
    fill_heads(dk, piece.begin, piece.end, kv, in.dim, kNan);
    fill_heads(dv, piece.begin, piece.end, kv, in.dim, kNan);
    return wait_for_last();
  }
  // Row r of the sequence sees its key j where r >= j - hidden.
  const int64_t rows = in.sequences.rows(s), hidden = in.sequences.keys(s) - rows;
  const int64_t key = piece.begin - in.sequences.first_key(s), blind = key - hidden > 0 ? key - hidden : 0;
  const int64_t first = blind / kBackwardTile, end = (rows + kBackwardTile - 1) / kBackwardTile;
  const int64_t tiles = first < end ? end - first : 0, steps = tiles * in.group();
  if (threadIdx.x == 0) ring.init();
  __syncthreads();

  if (group() == Stay::kGroups) {
    few_registers();
    if (threadIdx.x == Stay::kThreads) {
      const int64_t tile = first_piece(in.sequences.offsets_q, s, kBackwardTile) + first;
      int64_t step = 0;
      for (int64_t h = kv * in.group(); h < (kv + 1) * in.group(); ++h)
        for (int64_t t = 0; t < tiles; ++t, ++step) {
          const int64_t at = (tile + t) * in.heads + h;
          ring.fill(2 * step, row_tiles + at * kRowTileBytes<kDim>, kRowTileBytes<kDim>);
          ring.fill(2 * step + 1, gradient_tiles + at * Tile::kBytes, Tile::kBytes);
        }
      wait_for_last();
    }
  } else {
    many_registers<Stay::kRegisters>();
    {
      typename Stay::Load load_k, load_v;
      in.begin(load_k, in.k, piece.begin, kv, piece.count());
      in.begin(load_v, in.v, piece.begin, kv, piece.count());
      load_k.end(k);
      load_v.end(v);
    }
    consumers_sync<Stay::kThreads>();
    const int row = 64 * uniform(group());
    const float unit = in.scale * kLog2E;
    float keys[kDim / 8][4], values[kDim / 8][4];
    clear(keys);
    clear(values);
    int64_t t = 0;
    for (int64_t step = 0; step < steps; ++step) {
      float p[kBackwardTile / 8][4], ds[kBackwardTile / 8][4];
      const Tile q{shared_address(ring.slot(2 * step))}, d_out{shared_address(ring.slot(2 * step + 1))};
      const auto* statistics = reinterpret_cast<const RowStatistics*>(ring.slot(2 * step) + Tile::kBytes);
      float lse[kBackwardTile / 8][2], delta[kBackwardTile / 8][2];
      ring.wait(2 * step);
      load_pairs(lse, statistics->lse);
      wgmma_multiply_transposed(p, k, row, q);
      ring.wait(2 * step + 1);
      wgmma_multiply_transposed(ds, v, row, d_out);
      wgmma_wait<1>();
      wgmma_settle(p);
      // Keys of the piece that the tile's first row sees, less the warp's first.
      const int64_t seen = (first + t) * kBackwardTile + hidden - key + 1;
      t = t + 1 < tiles ? t + 1 : 0;
      const int beyond = static_cast<int>((seen < Stay::kRows ? seen : Stay::kRows) - 16 * warp());
#pragma unroll
      for (int n = 0; n < kBackwardTile / 8; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e) p[n][e] = exp2_fast(fmaf(p[n][e], unit, -lse[n][e % 2]));
      if (beyond < 16) {
#pragma unroll
        for (int n = 0; n < kBackwardTile / 8; ++n)
#pragma unroll
          for (int e = 0; e < 4; ++e)
            if (lane_row(e) >= beyond + 8 * n + lane_column(e)) p[n][e] = 0.0f;
      }
      load_pairs(delta, statistics->delta);
      const WgmmaWeights<kBackwardTile> value_weights(p);
      wgmma_multiply_add(values, value_weights, d_out);
      wgmma_wait<1>();
      wgmma_settle(ds);
#pragma unroll
      for (int n = 0; n < kBackwardTile / 8; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e) ds[n][e] = p[n][e] * (ds[n][e] - delta[n][e % 2]);
      const WgmmaWeights<kBackwardTile> key_weights(ds);
      wgmma_multiply_add(keys, key_weights, q);
      wgmma_wait<0>();
      value_weights.hold(in.dim < 0);
      key_weights.hold(in.dim < 0);
      wgmma_settle(values);
      wgmma_settle(keys);
      ring.release(2 * step);
      ring.release(2 * step + 1);
    }
    write_rows(dk, piece.begin, piece.count(), kv, in.dim, 0, keys, in.scale);
    write_rows(dv, piece.begin, piece.count(), kv, in.dim, 0, values, 1.0f);
  }
}

}  // namespace

void attention_hopper(const Device& device, const saccade_attention_args& args, const Inputs& in,
                      const AttentionWorkspace& workspace) {
  with_dim(args.head_dim, [&](auto dim) {
    using Rows = StayRows<dim>;
    launch_overlapping(device, key_tiles_kernel<kForwardTile, dim>,
                       2 * pieces_of(args.keys, args.sequences, kForwardTile) * args.kv_heads, kWriters, in,
                       workspace.key_tiles, workspace.value_tiles);
    launch_shared_overlapping(
        device, forward_kernel<dim>, pieces_of(args.rows, args.sequences, Rows::kRows) * args.heads, Rows::kBlock,
        Rows::Tile::kBytes + ForwardRing<dim>::kShared, args, in, workspace.key_tiles, workspace.value_tiles);
  });
}

void attention_backward_hopper(const Device& device, const saccade_attention_backward_args& args, const Inputs& in,
                               const Operand& d_o, const AttentionBackwardWorkspace& workspace) {
  const Operand o(args.o, args.o_row_stride, args.o_head_stride, args.head_dim);
  with_dim(args.head_dim, [&](auto dim) {
    using Rows = StayRows<dim>;
    using Keys = StayKeys<dim>;
    launch_overlapping(device, key_tiles_kernel<kBackwardTile, dim>,
                       2 * pieces_of(args.keys, args.sequences, kBackwardTile) * args.kv_heads, kWriters, in,
                       workspace.key_tiles, workspace.value_tiles);
    launch_overlapping(device, row_tiles_kernel<dim>, pieces_of(args.rows, args.sequences, kBackwardTile) * args.heads,
                       kWriters, in, d_o, o, pointer<const float>(args.lse), args.rows, workspace.row_tiles,
                       workspace.gradient_tiles);
    launch_shared_overlapping(device, query_kernel<dim>, pieces_of(args.rows, args.sequences, Rows::kRows) * args.heads,
                              Rows::kBlock, 2 * Rows::Tile::kBytes + QueryRing<dim>::kShared, args, in, d_o,
                              workspace.key_tiles, workspace.value_tiles, workspace.row_tiles);
    launch_shared_overlapping(
        device, key_kernel<dim>, pieces_of(args.keys, args.sequences, Keys::kRows) * args.kv_heads, Keys::kBlock,
        2 * Keys::Tile::kBytes + KeyRing<dim>::kShared, args, in, workspace.row_tiles, workspace.gradient_tiles);
  });
}

}  // namespace saccade::cuda
