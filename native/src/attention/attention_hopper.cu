#include "attention/attention_hopper.h"
#include "core/ring.cuh"

namespace saccade::cuda {
namespace {

constexpr int kStay = 64 * kGroups;

// -------------------------------------------------------------------------------------------------- tiles

template <int kDim>
constexpr int kRowTileBytes = kTileBytes<kBackwardTile, kDim> + static_cast<int>(sizeof(RowStatistics)) * kBackwardTile;
template <int kDim>
constexpr int kRowSlot = (kRowTileBytes<kDim> + 1023) / 1024 * 1024;

__device__ __forceinline__ void load_chunk(float (&x)[8], const Operand& from, int64_t row, int64_t head, int column,
                                           int dim) {
  load_columns(x, from.heads.at(row, head) + column, dim - column, from.whole);
}

// One block a piece of keys and key head.
template <int kRows, int kDim>
__global__ void __launch_bounds__(kWriters)
    key_tiles_kernel(const __grid_constant__ Inputs in, uint8_t* keys, uint8_t* values) {
  const int64_t head = blockIdx.x % in.kv_heads, number = blockIdx.x / in.kv_heads;
  const Piece piece = piece_of(in.sequences.offsets_k, in.sequences.count, number, kRows);
  if (piece.empty() || in.sequences.bad[piece.s]) return;
  const int64_t count = in.sequences.first_key(piece.s) + in.sequences.keys(piece.s) - piece.begin;
  if (count <= 0) return;
  const int64_t tile = blockIdx.x * static_cast<int64_t>(kTileBytes<kRows, kDim>);
#pragma unroll 4
  for (int i = static_cast<int>(threadIdx.x); i < kRows * kDim / 8; i += kWriters) {
    const int row = i / (kDim / 8), chunk = i % (kDim / 8);
    float k[8] = {}, v[8] = {};
    if (row < count) {
      load_chunk(k, in.k, piece.begin + row, head, 8 * chunk, in.dim);
      load_chunk(v, in.v, piece.begin + row, head, 8 * chunk, in.dim);
    }
    store_chunk<kRows, kDim>(keys + tile, row, chunk, k);
    store_chunk<kRows, kDim>(values + tile, row, chunk, v);
  }
}

// One block a piece of rows and head: also delta = d_o . o.  A row that does not exist has an infinite sum of
// exponentials.
template <int kDim>
__global__ void __launch_bounds__(kWriters)
    row_tiles_kernel(const __grid_constant__ Inputs in, const __grid_constant__ Operand d_o,
                     const __grid_constant__ Operand o, const float* lse, int64_t rows, uint8_t* row_tiles,
                     uint8_t* gradient_tiles) {
  constexpr int kRows = kBackwardTile, kChunks = kDim / 8;
  const int64_t head = blockIdx.x % in.heads, number = blockIdx.x / in.heads;
  const Piece piece = piece_of(in.sequences.offsets_q, in.sequences.count, number, kRows);
  if (piece.empty() || in.sequences.bad[piece.s]) return;
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
    float delta = 0.0f;
#pragma unroll
    for (int e = 0; e < 8; ++e) delta = fmaf(g[e], own[e], delta);
#pragma unroll
    for (int distance = 1; distance < kChunks; distance *= 2) delta += __shfl_xor_sync(~0u, delta, distance);
    if (chunk == 0)
      statistics[row] = row < piece.count() ? RowStatistics{lse[head * rows + piece.begin + row], delta}
                                            : RowStatistics{INFINITY, 0.0f};
    store_chunk<kRows, kDim>(tile, row, chunk, q);
    store_chunk<kRows, kDim>(gradients, row, chunk, g);
  }
}

template <int kDim>
using StayTile = MmaTile<1, kStay, kDim>;
template <int kDim>
using BackwardTile = MmaTile<1, kBackwardTile, kDim>;
template <int kDim>
using LoadStay = MmaLoad<StayTile<kDim>, kConsumers, 4>;

// One thread: the first `tiles` tiles of a sequence's keys and values, in turn.
template <class Tile, class Slots>
__device__ __forceinline__ void copy_keys(const Slots& ring, const Inputs& in, int64_t s, int64_t kv, int64_t tiles,
                                          const uint8_t* keys, const uint8_t* values) {
  const int64_t first = first_piece(in.sequences.offsets_k, s, Tile::kRows);
  for (int64_t j = 0; j < tiles; ++j) {
    const int64_t at = ((first + j) * in.kv_heads + kv) * Tile::kBytes;
    ring.fill(2 * j, keys + at, Tile::kBytes);
    ring.fill(2 * j + 1, values + at, Tile::kBytes);
  }
}

// ------------------------------------------------------------------------------------------------ kernels

// One block a piece of rows and head.  While the products of one tile of keys are summed, those of the next are scored.
template <int kDim>
__global__ void __launch_bounds__(kBlockThreads, 1)
    forward_kernel(const __grid_constant__ saccade_attention_args args, const __grid_constant__ Inputs in,
                   const uint8_t* key_tiles, const uint8_t* value_tiles) {
  if constexpr (!kHopper) return;
  using Tile = MmaTile<1, kForwardTile, kDim>;
  extern __shared__ __align__(1024) unsigned char shared[];
  const StayTile<kDim> q{shared_address(shared)};
  const Ring<Tile::kBytes, 1> ring(shared + StayTile<kDim>::kBytes);
  const int64_t h = blockIdx.x % in.heads, kv = h / in.group(), pieces = gridDim.x / in.heads;
  // The last rows, which see the most keys, come first.
  const Piece piece = piece_of(in.sequences.offsets_q, in.sequences.count, pieces - 1 - blockIdx.x / in.heads, kStay);
  if (piece.empty()) return;
  const auto o = heads_of<float>(args.o, args.o_row_stride, args.o_head_stride);
  float* lse = args.lse ? pointer<float>(args.lse) + h * args.rows : nullptr;
  if (in.sequences.bad[piece.s]) {
    fill_heads(o, piece.begin, piece.end, h, in.dim, kNan);
    if (lse && threadIdx.x < piece.count()) lse[piece.begin + threadIdx.x] = kNan;
    return;
  }
  const auto tiles_to = [&](int64_t row) {  // that the piece's row sees
    const int64_t last = piece.begin + row < piece.end ? piece.begin + row : piece.end - 1;
    return (visible_keys(in.sequences, piece.s, last) + kForwardTile - 1) / kForwardTile;
  };
  const int64_t tiles = tiles_to(kStay - 1);
  if (threadIdx.x == 0) ring.init();
  __syncthreads();

  if (group() == kGroups) {
    few_registers();
    if (threadIdx.x == kConsumers) copy_keys<Tile>(ring, in, piece.s, kv, tiles, key_tiles, value_tiles);
  } else {
    many_registers();
    {
      LoadStay<kDim> load;
      in.begin(load, in.q, piece.begin, h, piece.count());
      load.end(q);
    }
    consumers_sync();
    RunningSoftmax softmax(in, piece);
    const int row = 64 * group();
    const int64_t own = tiles_to(row + 63);
    float out[kDim / 8][4];
    clear(out);
    if (own > 0) {
      float s[kForwardTile / 8][4];
      ring.wait(0);
      wgmma_multiply_transposed(s, q, row, Tile{shared_address(ring.slot(0))});
      wgmma_wait<0>();
      wgmma_settle(s);
      ring.release(0);
      softmax.take(s, 0);
      for (int64_t j = 0; j + 1 < own; ++j) {
        const WgmmaWeights<kForwardTile> p(s);
        ring.wait(2 * j + 2);
        wgmma_multiply_transposed(s, q, row, Tile{shared_address(ring.slot(2 * j + 2))});
        ring.wait(2 * j + 1);
        wgmma_multiply_add(out, p, Tile{shared_address(ring.slot(2 * j + 1))});
        wgmma_wait<1>();
        wgmma_settle(s);
        ring.release(2 * j + 2);
        softmax.take(s, (j + 1) * kForwardTile);
        wgmma_wait<0>();
        wgmma_settle(out);
        ring.release(2 * j + 1);
        softmax.rescale(out);
      }
      ring.wait(2 * own - 1);
      wgmma_multiply_add(out, WgmmaWeights<kForwardTile>(s), Tile{shared_address(ring.slot(2 * own - 1))});
      wgmma_wait<0>();
      wgmma_settle(out);
      ring.release(2 * own - 1);
    }
    for (int64_t i = 2 * own; i < 2 * tiles; ++i) {
      ring.wait(i);
      ring.release(i);
    }
    softmax.finish(out, piece, lse);
    write_rows(o, piece.begin, piece.count(), h, in.dim, 0, out, 1.0f);
  }
}

// One block a piece of rows and head.
template <int kDim>
__global__ void __launch_bounds__(kBlockThreads, 1)
    query_kernel(const __grid_constant__ saccade_attention_backward_args args, const __grid_constant__ Inputs in,
                 const __grid_constant__ Operand d_o, const uint8_t* key_tiles, const uint8_t* value_tiles,
                 const uint8_t* row_tiles) {
  if constexpr (!kHopper) return;
  using Tile = BackwardTile<kDim>;
  extern __shared__ __align__(1024) unsigned char shared[];
  const StayTile<kDim> q{shared_address(shared)}, d_out{q.base + StayTile<kDim>::kBytes};
  const Ring<Tile::kBytes, 1> ring(shared + 2 * StayTile<kDim>::kBytes);
  const int64_t h = blockIdx.x % in.heads, kv = h / in.group(), pieces = gridDim.x / in.heads;
  const Piece piece = piece_of(in.sequences.offsets_q, in.sequences.count, pieces - 1 - blockIdx.x / in.heads, kStay);
  if (piece.empty()) return;
  const auto dq = heads_of<float>(args.dq, args.dq_row_stride, args.dq_head_stride);
  if (in.sequences.bad[piece.s]) return fill_heads(dq, piece.begin, piece.end, h, in.dim, kNan);
  const auto tiles_to = [&](int64_t row) {
    const int64_t last = piece.begin + row < piece.end ? piece.begin + row : piece.end - 1;
    return (visible_keys(in.sequences, piece.s, last) + kBackwardTile - 1) / kBackwardTile;
  };
  const int64_t tiles = tiles_to(kStay - 1);
  if (threadIdx.x == 0) ring.init();
  __syncthreads();

  if (group() == kGroups) {
    few_registers();
    if (threadIdx.x == kConsumers) copy_keys<Tile>(ring, in, piece.s, kv, tiles, key_tiles, value_tiles);
  } else {
    many_registers();
    {
      LoadStay<kDim> load;
      in.begin(load, in.q, piece.begin, h, piece.count());
      load.end(q);
      in.begin(load, d_o, piece.begin, h, piece.count());
      load.end(d_out);
    }
    consumers_sync();
    const int row = 64 * group();
    const int64_t own = tiles_to(row + 63);
    int64_t visible[2];
    RowStatistics statistics[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int r = 16 * warp() + lane_row(2 * i);
      visible[i] = 0;
      statistics[i] = {0.0f, 0.0f};
      if (r >= piece.count()) continue;
      visible[i] = visible_keys(in.sequences, piece.s, piece.begin + r);
      const int64_t in_sequence = piece.begin + r - in.sequences.first_row(piece.s);
      const int64_t tile = first_piece(in.sequences.offsets_q, piece.s, kBackwardTile) + in_sequence / kBackwardTile;
      statistics[i] = reinterpret_cast<const RowStatistics*>(row_tiles + (tile * in.heads + h) * kRowTileBytes<kDim> +
                                                             Tile::kBytes)[in_sequence % kBackwardTile];
    }
    float out[kDim / 8][4];
    clear(out);
    for (int64_t j = 0; j < own; ++j) {
      float s[kBackwardTile / 8][4], ds[kBackwardTile / 8][4];
      const Tile k{shared_address(ring.slot(2 * j))};
      ring.wait(2 * j);
      wgmma_multiply_transposed(s, q, row, k);
      ring.wait(2 * j + 1);
      wgmma_multiply_transposed(ds, d_out, row, Tile{shared_address(ring.slot(2 * j + 1))});
      wgmma_wait<1>();  // also for the last tile's sums
      wgmma_settle(s);
      if (j > 0) ring.release(2 * j - 2);
#pragma unroll
      for (int n = 0; n < kBackwardTile / 8; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e) s[n][e] = probability(s[n][e], in.scale, statistics[e / 2].lse);
      wgmma_wait<0>();
      wgmma_settle(ds);
      wgmma_settle(out);
      ring.release(2 * j + 1);
#pragma unroll
      for (int i = 0; i < 2; ++i) {
#pragma unroll
        for (int n = 0; n < kBackwardTile / 8; ++n)
#pragma unroll
          for (int e = 2 * i; e < 2 * i + 2; ++e) ds[n][e] = s[n][e] * (ds[n][e] - statistics[i].delta);
        if ((j + 1) * kBackwardTile > visible[i]) {
#pragma unroll
          for (int n = 0; n < kBackwardTile / 8; ++n)
#pragma unroll
            for (int e = 0; e < 2; ++e)
              if (j * kBackwardTile + 8 * n + lane_column(e) >= visible[i]) ds[n][2 * i + e] = 0.0f;
        }
      }
      wgmma_multiply_add(out, WgmmaWeights<kBackwardTile>(ds), k);
    }
    wgmma_wait<0>();
    wgmma_settle(out);
    if (own > 0) ring.release(2 * own - 2);
    for (int64_t i = 2 * own; i < 2 * tiles; ++i) {
      ring.wait(i);
      ring.release(i);
    }
    write_rows(dq, piece.begin, piece.count(), h, in.dim, 0, out, in.scale);
  }
}

// One block a piece of keys and key head: the rows of the heads of the group move by, in order.
template <int kDim>
__global__ void __launch_bounds__(kBlockThreads, 1)
    key_kernel(const __grid_constant__ saccade_attention_backward_args args, const __grid_constant__ Inputs in,
               const uint8_t* row_tiles, const uint8_t* gradient_tiles) {
  if constexpr (!kHopper) return;
  using Tile = BackwardTile<kDim>;
  extern __shared__ __align__(1024) unsigned char shared[];
  const StayTile<kDim> k{shared_address(shared)}, v{k.base + StayTile<kDim>::kBytes};
  const Ring<kRowSlot<kDim>, 32> ring(shared + 2 * StayTile<kDim>::kBytes);
  const int64_t kv = blockIdx.x % in.kv_heads;
  const Piece piece = piece_of(in.sequences.offsets_k, in.sequences.count, blockIdx.x / in.kv_heads, kStay);
  if (piece.empty()) return;
  const auto dk = heads_of<float>(args.dk, args.dk_row_stride, args.dk_head_stride);
  const auto dv = heads_of<float>(args.dv, args.dv_row_stride, args.dv_head_stride);
  const int64_t s = piece.s;
  if (in.sequences.bad[s]) {
    fill_heads(dk, piece.begin, piece.end, kv, in.dim, kNan);
    fill_heads(dv, piece.begin, piece.end, kv, in.dim, kNan);
    return;
  }
  // Row r of the sequence sees its key j where r >= j - hidden.
  const int64_t rows = in.sequences.rows(s), hidden = in.sequences.keys(s) - rows;
  const int64_t key = piece.begin - in.sequences.first_key(s), blind = key - hidden > 0 ? key - hidden : 0;
  const int64_t first = blind / kBackwardTile, end = (rows + kBackwardTile - 1) / kBackwardTile;
  const int64_t tiles = first < end ? end - first : 0, steps = tiles * in.group();
  if (threadIdx.x == 0) ring.init();
  __syncthreads();

  if (group() == kGroups) {
    few_registers();
    if (threadIdx.x == kConsumers) {
      const int64_t tile = first_piece(in.sequences.offsets_q, s, kBackwardTile) + first;
      int64_t step = 0;
      for (int64_t h = kv * in.group(); h < (kv + 1) * in.group(); ++h)
        for (int64_t t = 0; t < tiles; ++t, ++step) {
          const int64_t at = (tile + t) * in.heads + h;
          ring.fill(2 * step, row_tiles + at * kRowTileBytes<kDim>, kRowTileBytes<kDim>);
          ring.fill(2 * step + 1, gradient_tiles + at * Tile::kBytes, Tile::kBytes);
        }
    }
  } else {
    many_registers();
    {
      LoadStay<kDim> load;
      in.begin(load, in.k, piece.begin, kv, piece.count());
      load.end(k);
      in.begin(load, in.v, piece.begin, kv, piece.count());
      load.end(v);
    }
    consumers_sync();
    const int row = 64 * group();
    float keys[kDim / 8][4], values[kDim / 8][4];
    clear(keys);
    clear(values);
    int64_t t = 0;
    for (int64_t step = 0; step < steps; ++step) {
      float p[kBackwardTile / 8][4], ds[kBackwardTile / 8][4];
      const Tile q{shared_address(ring.slot(2 * step))}, d_out{shared_address(ring.slot(2 * step + 1))};
      ring.wait(2 * step);
      wgmma_multiply_transposed(p, k, row, q);
      ring.wait(2 * step + 1);
      wgmma_multiply_transposed(ds, v, row, d_out);
      const auto* statistics = reinterpret_cast<const RowStatistics*>(ring.slot(2 * step) + Tile::kBytes);
      wgmma_wait<1>();
      wgmma_settle(p);
      // Keys of the piece that the tile's first row sees, less the warp's first.  No branch: products are in flight.
      const int64_t seen = (first + t) * kBackwardTile + hidden - key + 1;
      t = t + 1 < tiles ? t + 1 : 0;
      const int beyond = static_cast<int>((seen < kStay ? seen : kStay) - 16 * warp());
#pragma unroll
      for (int n = 0; n < kBackwardTile / 8; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const float own = probability(p[n][e], in.scale, statistics[8 * n + lane_column(e)].lse);
          p[n][e] = lane_row(e) < beyond + 8 * n + lane_column(e) ? own : 0.0f;
        }
      wgmma_multiply_add(values, WgmmaWeights<kBackwardTile>(p), d_out);
      wgmma_wait<1>();
      wgmma_settle(ds);
#pragma unroll
      for (int n = 0; n < kBackwardTile / 8; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e) ds[n][e] = p[n][e] * (ds[n][e] - statistics[8 * n + lane_column(e)].delta);
      wgmma_multiply_add(keys, WgmmaWeights<kBackwardTile>(ds), q);
      wgmma_wait<0>();
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
    constexpr int kShared = StayTile<dim>::kBytes + Ring<kTileBytes<kForwardTile, dim>, 1>::kShared;
    launch(device, key_tiles_kernel<kForwardTile, dim>,
           pieces_of(args.keys, args.sequences, kForwardTile) * args.kv_heads, kWriters, in, workspace.key_tiles,
           workspace.value_tiles);
    launch_shared(device, forward_kernel<dim>, pieces_of(args.rows, args.sequences, kStay) * args.heads, kBlockThreads,
                  kShared, args, in, workspace.key_tiles, workspace.value_tiles);
  });
}

void attention_backward_hopper(const Device& device, const saccade_attention_backward_args& args, const Inputs& in,
                               const Operand& d_o, const AttentionBackwardWorkspace& workspace) {
  const Operand o(args.o, args.o_row_stride, args.o_head_stride, args.head_dim);
  with_dim(args.head_dim, [&](auto dim) {
    constexpr int kStaying = 2 * StayTile<dim>::kBytes;
    launch(device, key_tiles_kernel<kBackwardTile, dim>,
           pieces_of(args.keys, args.sequences, kBackwardTile) * args.kv_heads, kWriters, in, workspace.key_tiles,
           workspace.value_tiles);
    launch(device, row_tiles_kernel<dim>, pieces_of(args.rows, args.sequences, kBackwardTile) * args.heads, kWriters,
           in, d_o, o, pointer<const float>(args.lse), args.rows, workspace.row_tiles, workspace.gradient_tiles);
    launch_shared(device, query_kernel<dim>, pieces_of(args.rows, args.sequences, kStay) * args.heads, kBlockThreads,
                  kStaying + Ring<kTileBytes<kBackwardTile, dim>, 1>::kShared, args, in, d_o, workspace.key_tiles,
                  workspace.value_tiles, workspace.row_tiles);
    launch_shared(device, key_kernel<dim>, pieces_of(args.keys, args.sequences, kStay) * args.kv_heads, kBlockThreads,
                  kStaying + Ring<kRowSlot<dim>, 32>::kShared, args, in, workspace.row_tiles, workspace.gradient_tiles);
  });
}

}  // namespace saccade::cuda
