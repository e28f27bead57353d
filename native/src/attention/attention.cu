#include "attention/attention.h"
#include "core/attention.cuh"

namespace saccade::cuda {
namespace {

// What is multiplied with what in one tile of rows and keys.
template <class Args>
struct Inputs {
  Heads<const float> q, k, v;
  Sequences sequences;
  int64_t heads, kv_heads, dim;
  float scale;

  Inputs(const Args& args, const Sequences& sequences_)
      : q(heads_of<const float>(args.q, args.q_row_stride, args.q_head_stride)),
        k(heads_of<const float>(args.k, args.k_row_stride, args.k_head_stride)),
        v(heads_of<const float>(args.v, args.v_row_stride, args.v_head_stride)),
        sequences(sequences_),
        heads(args.heads),
        kv_heads(args.kv_heads),
        dim(args.head_dim),
        scale(args.scale) {}

  __device__ int64_t group() const { return heads / kv_heads; }

  // x(row) . y(key) of rows from `row` and packed keys from `key` on.
  __device__ void dot(float (&sum)[kOwn][kOwn], TileMemory<float>& memory, const Heads<const float>& x, int64_t row,
                      int rows, const Heads<const float>& y, int64_t key, int keys, int64_t head) const {
    const float* a = x.at(row, head);
    const float* b = y.at(key, head / group());
    multiply(
        sum, memory, dim, rows, keys, [&](int r, int64_t d) { return a[r * x.row_stride + d]; },
        [&](int j, int64_t d) { return b[j * y.row_stride + d]; });
  }
};

__device__ float larger(float a, float b) { return fmaxf(a, b); }

__device__ int at_most_tile(int64_t n) { return static_cast<int>(n < kTile ? n : kTile); }

// One block a piece of rows and head: the keys pass by, with a running maximum and sum.
template <int kColumns>
__global__ void __launch_bounds__(kTileThreads)
    forward_kernel(saccade_attention_args args, Inputs<saccade_attention_args> in) {
  __shared__ TileMemory<float> memory;
  const int64_t h = blockIdx.x % in.heads, pieces = gridDim.x / in.heads, kv = h / in.group();
  // The last rows, which see the most keys, come first.
  const Piece piece = piece_of(in.sequences.offsets_q, in.sequences.count, pieces - 1 - blockIdx.x / in.heads);
  if (piece.empty()) return;
  const auto o = heads_of<float>(args.o, args.o_row_stride, args.o_head_stride);
  float* lse = args.lse ? pointer<float>(args.lse) + h * args.rows : nullptr;
  if (in.sequences.bad[piece.s]) {
    fill_heads(o, piece.begin, piece.end, h, in.dim, kNan);
    if (lse && threadIdx.x < piece.count()) lse[piece.begin + threadIdx.x] = kNan;
    return;
  }
  const int rows = piece.count();
  const int64_t first_key = in.sequences.first_key(piece.s);
  const int64_t most = visible_keys(in.sequences, piece.s, piece.end - 1);
  int64_t visible[kOwn];
  float top[kOwn];
  double sum[kOwn];
#pragma unroll
  for (int i = 0; i < kOwn; ++i) {
    const int r = own_row() + i;
    visible[i] = r < rows ? visible_keys(in.sequences, piece.s, piece.begin + r) : 0;
    top[i] = -INFINITY;
    sum[i] = 0.0;
  }
  Sums<kColumns> out;
  for (int64_t first = 0; first < most; first += kTile) {
    const int keys = at_most_tile(most - first);
    float s[kOwn][kOwn];
    in.dot(s, memory, in.q, piece.begin, rows, in.k, first_key + first, keys, h);
#pragma unroll
    for (int i = 0; i < kOwn; ++i) {
      float highest = -INFINITY;
#pragma unroll
      for (int j = 0; j < kOwn; ++j) {
        s[i][j] *= in.scale;
        if (first + own_column() + j < visible[i]) highest = fmaxf(highest, s[i][j]);
      }
      highest = fmaxf(over_row(highest, larger), top[i]);
      const float rescale = highest == top[i] ? 1.0f : expf(top[i] - highest);
      top[i] = highest;
      float part = 0.0f;
#pragma unroll
      for (int j = 0; j < kOwn; ++j) {
        const float p = first + own_column() + j < visible[i] ? expf(s[i][j] - highest) : 0.0f;
        part += p;
        memory.weights[own_column() + j][own_row() + i] = p;
      }
      sum[i] = sum[i] * static_cast<double>(rescale) + static_cast<double>(part);
#pragma unroll
      for (int c = 0; c < kColumns; ++c)
#pragma unroll
        for (int j = 0; j < kOwn; ++j) out.x[c][i][j] *= rescale;
    }
    const float* v = in.v.at(first_key + first, kv);
    out.add(memory, keys, in.dim, [&](int j, int64_t d) { return v[j * in.v.row_stride + d]; });
  }
#pragma unroll
  for (int i = 0; i < kOwn; ++i) {
    const double all = over_row(sum[i], add_doubles);
    const float inverse = visible[i] == 0 ? 0.0f : static_cast<float>(1.0 / all);
#pragma unroll
    for (int c = 0; c < kColumns; ++c)
#pragma unroll
      for (int j = 0; j < kOwn; ++j) out.x[c][i][j] *= inverse;
    const int r = own_row() + i;
    if (lse && own_column() == 0 && r < rows)
      lse[piece.begin + r] = static_cast<float>(static_cast<double>(top[i]) + ::log(all));
  }
  out.each(rows, in.dim, [&](int r, int64_t d, float x) { o.at(piece.begin + r, h)[d] = x; });
}

// One warp a row and head: delta = d_o . o.
__global__ void __launch_bounds__(kTileThreads)
    delta_kernel(saccade_attention_backward_args args, AttentionBackwardWorkspace workspace) {
  const int64_t at = (static_cast<int64_t>(blockIdx.x) * kTileThreads + threadIdx.x) / 32;
  if (at >= args.heads * args.rows) return;
  const int64_t h = at / args.rows, r = at % args.rows;
  const float* o = heads_of<const float>(args.o, args.o_row_stride, args.o_head_stride).at(r, h);
  const float* d_o = heads_of<const float>(args.d_o, args.d_o_row_stride, args.d_o_head_stride).at(r, h);
  float sum = 0.0f;
  for (int64_t d = threadIdx.x % 32; d < args.head_dim; d += 32) sum += o[d] * d_o[d];
#pragma unroll
  for (int distance = 1; distance < 32; distance *= 2) sum += __shfl_xor_sync(~0u, sum, distance);
  if (threadIdx.x % 32 == 0) workspace.delta[at] = sum;
}

// P and dS = P (dP - delta) of a tile, 0 where a row does not see a key.
struct Gradients {
  float p[kOwn][kOwn], ds[kOwn][kOwn];

  template <class In>
  __device__ Gradients(const In& in, TileMemory<float>& memory, const Heads<const float>& d_o, const float* lse,
                       const float* delta, int64_t s, int64_t row, int rows, int64_t first, int keys, int64_t h) {
    const int64_t key = in.sequences.first_key(s) + first;
    in.dot(p, memory, in.q, row, rows, in.k, key, keys, h);
    in.dot(ds, memory, d_o, row, rows, in.v, key, keys, h);
#pragma unroll
    for (int i = 0; i < kOwn; ++i) {
      const int r = own_row() + i;
      const int64_t visible = r < rows ? visible_keys(in.sequences, s, row + r) : 0;
      const float normaliser = r < rows ? lse[row + r] : 0.0f, own_delta = r < rows ? delta[row + r] : 0.0f;
#pragma unroll
      for (int j = 0; j < kOwn; ++j) {
        const bool seen = own_column() + j < keys && first + own_column() + j < visible;
        p[i][j] = seen ? expf(p[i][j] * in.scale - normaliser) : 0.0f;
        ds[i][j] = seen ? p[i][j] * (ds[i][j] - own_delta) : 0.0f;
      }
    }
  }
};

// One block a piece of rows and head.
template <int kColumns>
__global__ void __launch_bounds__(kTileThreads)
    query_kernel(saccade_attention_backward_args args, Inputs<saccade_attention_backward_args> in,
                 AttentionBackwardWorkspace workspace) {
  __shared__ TileMemory<float> memory;
  const int64_t h = blockIdx.x % in.heads, pieces = gridDim.x / in.heads;
  const Piece piece = piece_of(in.sequences.offsets_q, in.sequences.count, pieces - 1 - blockIdx.x / in.heads);
  if (piece.empty()) return;
  const auto dq = heads_of<float>(args.dq, args.dq_row_stride, args.dq_head_stride);
  if (in.sequences.bad[piece.s]) return fill_heads(dq, piece.begin, piece.end, h, in.dim, kNan);
  const auto d_o = heads_of<const float>(args.d_o, args.d_o_row_stride, args.d_o_head_stride);
  const int64_t most = visible_keys(in.sequences, piece.s, piece.end - 1);
  Sums<kColumns> out;
  for (int64_t first = 0; first < most; first += kTile) {
    const int keys = at_most_tile(most - first);
    const Gradients g(in, memory, d_o, pointer<const float>(args.lse) + h * args.rows, workspace.delta + h * args.rows,
                      piece.s, piece.begin, piece.count(), first, keys, h);
#pragma unroll
    for (int i = 0; i < kOwn; ++i)
#pragma unroll
      for (int j = 0; j < kOwn; ++j) memory.weights[own_column() + j][own_row() + i] = g.ds[i][j];
    const float* k = in.k.at(in.sequences.first_key(piece.s) + first, h / in.group());
    out.add(memory, keys, in.dim, [&](int j, int64_t d) { return k[j * in.k.row_stride + d]; });
  }
  out.each(piece.count(), in.dim, [&](int r, int64_t d, float x) { dq.at(piece.begin + r, h)[d] = x * in.scale; });
}

// One block a piece of keys and key head: rows, and the heads of the group, in order.
template <int kColumns>
__global__ void __launch_bounds__(kTileThreads)
    key_kernel(saccade_attention_backward_args args, Inputs<saccade_attention_backward_args> in,
               AttentionBackwardWorkspace workspace) {
  __shared__ TileMemory<float> memory;
  const int64_t kv = blockIdx.x % in.kv_heads;
  const Piece piece = piece_of(in.sequences.offsets_k, in.sequences.count, blockIdx.x / in.kv_heads);
  if (piece.empty()) return;
  const auto dk = heads_of<float>(args.dk, args.dk_row_stride, args.dk_head_stride);
  const auto dv = heads_of<float>(args.dv, args.dv_row_stride, args.dv_head_stride);
  const int64_t s = piece.s;
  if (in.sequences.bad[s]) {
    fill_heads(dk, piece.begin, piece.end, kv, in.dim, kNan);
    fill_heads(dv, piece.begin, piece.end, kv, in.dim, kNan);
    return;
  }
  const auto d_o = heads_of<const float>(args.d_o, args.d_o_row_stride, args.d_o_head_stride);
  const int64_t first = piece.begin - in.sequences.first_key(s);
  const int64_t hidden = first - (in.sequences.keys(s) - in.sequences.rows(s));  // rows that do not see key `first`
  const int64_t begin = in.sequences.first_row(s) + (hidden > 0 ? hidden : 0);
  const int64_t end = in.sequences.first_row(s) + in.sequences.rows(s);
  Sums<kColumns> keys, values;
  for (int64_t h = kv * in.group(); h < (kv + 1) * in.group(); ++h)
    for (int64_t row = begin; row < end; row += kTile) {
      const int rows = at_most_tile(end - row);
      const Gradients g(in, memory, d_o, pointer<const float>(args.lse) + h * args.rows,
                        workspace.delta + h * args.rows, s, row, rows, first, piece.count(), h);
      const auto weigh = [&](const float(&w)[kOwn][kOwn]) {
#pragma unroll
        for (int i = 0; i < kOwn; ++i)
#pragma unroll
          for (int j = 0; j < kOwn; ++j) memory.weights[own_row() + i][own_column() + j] = w[i][j];
      };
      weigh(g.p);
      const float* from = d_o.at(row, h);
      values.add(memory, rows, in.dim, [&](int r, int64_t d) { return from[r * d_o.row_stride + d]; });
      __syncthreads();
      weigh(g.ds);
      const float* q = in.q.at(row, h);
      keys.add(memory, rows, in.dim, [&](int r, int64_t d) { return q[r * in.q.row_stride + d]; });
    }
  keys.each(piece.count(), in.dim, [&](int j, int64_t d, float x) { dk.at(piece.begin + j, kv)[d] = x * in.scale; });
  values.each(piece.count(), in.dim, [&](int j, int64_t d, float x) { dv.at(piece.begin + j, kv)[d] = x; });
}

}  // namespace

void attention(const Device& device, const saccade_attention_args& args, const AttentionWorkspace& workspace) {
  if (args.rows == 0) return;
  const Inputs<saccade_attention_args> in(args, clean_sequences(device, args, args.lengths_k, workspace.packing));
  const int64_t pieces = pieces_of(args.rows, args.sequences);
  with_columns(args.head_dim, [&](auto columns) {
    launch(device, forward_kernel<columns>, pieces * args.heads, kTileThreads, args, in);
  });
}

void attention_backward(const Device& device, const saccade_attention_backward_args& args,
                        const AttentionBackwardWorkspace& workspace) {
  if (args.rows == 0 && args.keys == 0) return;
  const Inputs<saccade_attention_backward_args> in(args, clean_sequences(device, args, 0, workspace.packing));
  launch(device, delta_kernel, divide_up(args.heads * args.rows * 32, kTileThreads), kTileThreads, args, workspace);
  with_columns(args.head_dim, [&](auto columns) {
    launch(device, query_kernel<columns>, pieces_of(args.rows, args.sequences) * args.heads, kTileThreads, args, in,
           workspace);
    launch(device, key_kernel<columns>, pieces_of(args.keys, args.sequences) * args.kv_heads, kTileThreads, args, in,
           workspace);
  });
}

}  // namespace saccade::cuda
