#include "attention/attention.cuh"
#include "attention/attention_hopper.h"
#include "attention/attention_rows.h"

// Blocks keep tiles of some rows (of q and d_o) or keys (of k and v) in shared memory, while tiles of the others move
// by; a warp has 16 of those that stay.  Scores and their gradients live in registers only, and become the left factor
// of the next product there.
namespace saccade::cuda {
namespace {

constexpr int kDeltaThreads = 256;

template <int kDim_, int kParts_, int kWarps_, int kMoving_, int kStaying>
struct Shape {
  static constexpr int kDim = kDim_, kParts = kParts_, kWarps = kWarps_, kThreads = 32 * kWarps;
  static constexpr int kStay = 16 * kWarps, kMove = kMoving_;
  static constexpr int kOut = kDim < 128 ? kDim : 128;  // columns of a result that a block computes
  static constexpr int kOuts = kDim / kOut;

  using Stay = MmaTile<kParts, kStay, kDim>;
  using Move = MmaTile<kParts, kMove, kDim>;
  using LoadStay = MmaLoad<Stay, kThreads, kParts == 1 ? 4 : 2>;
  using LoadMove = MmaLoad<Move, kThreads, kParts == 1 ? 4 : 2>;
  using Scores = float[kMove / 8][4];
  using Result = float[kOut / 8][4];

  static constexpr int kShared = kStaying * Stay::kBytes + 2 * Move::kBytes;
  static_assert(kShared <= 96 << 10, "of what every GPU has");
};

// With three parts a tile is three times as large.  Heads of 32 belong to small models, with short sequences: blocks
// are small, so that many are at work.
template <int kDim, int kParts>
using ForwardShape = std::conditional_t<
    kDim == 32, Shape<32, kParts, 2, 64, 1>,
    Shape<kDim, kParts, kParts == 1 ? 8 : 512 / kDim, kParts == 1 ? (kDim < 256 ? 64 : 32) : 4096 / kDim, 1>>;
template <int kDim, int kParts>
using QueryShape = std::conditional_t<kDim == 32, Shape<32, kParts, 2, 64, 2>,
                                      Shape<kDim, kParts, kParts == 1 ? (kDim < 256 ? 8 : 4) : 256 / kDim,
                                            kParts == 1 ? (kDim < 256 ? 64 : 32) : (kDim < 128 ? 64 : 16), 2>>;
template <int kDim, int kParts>
using KeyShape = std::conditional_t<kDim == 32, Shape<32, kParts, 2, kParts == 1 ? 64 : 32, 2>,
                                    Shape<kDim, kParts, kParts == 1 ? (kDim < 256 ? 8 : 4) : 256 / kDim,
                                          kParts == 1 ? (kDim < 128 ? 64 : 32) : (kDim < 128 ? 64 : 16), 2>>;

// What a block of a grid over pieces, heads and the columns of a result computes.
template <class Shape>
struct Task {
  int64_t head, piece;
  int out;

  __device__ explicit Task(int64_t heads)
      : head(blockIdx.x / Shape::kOuts % heads),
        piece(blockIdx.x / Shape::kOuts / heads),
        out(static_cast<int>(blockIdx.x % Shape::kOuts) * Shape::kOut) {}

  // The last rows, which see the most keys, come first.
  __device__ int64_t from_last(int64_t heads) const { return gridDim.x / (Shape::kOuts * heads) - 1 - piece; }
};

// One block a piece of rows and head: the keys move by, with a running maximum and sum.
template <class Shape>
__global__ void __launch_bounds__(Shape::kThreads)
    forward_kernel(const __grid_constant__ saccade_attention_args args, const __grid_constant__ Inputs in) {
  extern __shared__ __align__(1024) unsigned char shared[];
  const typename Shape::Stay q{shared_address(shared)};
  const typename Shape::Move k{q.base + Shape::Stay::kBytes}, v{k.base + Shape::Move::kBytes};
  const Task<Shape> task(in.heads);
  const int64_t h = task.head, kv = h / in.group();
  const Piece piece = piece_of(in.sequences.offsets_q, in.sequences.count, task.from_last(in.heads), Shape::kStay);
  if (piece.empty()) return;
  const auto o = heads_of<float>(args.o, args.o_row_stride, args.o_head_stride);
  float* lse = args.lse && task.out == 0 ? pointer<float>(args.lse) + h * args.rows : nullptr;
  const int rows = piece.count();
  if (in.sequences.bad[piece.s]) {
    fill_heads(o, piece.begin, piece.end, h, in.dim, kNan);
    for (int r = static_cast<int>(threadIdx.x); lse && r < rows; r += Shape::kThreads) lse[piece.begin + r] = kNan;
    return;
  }
  const int64_t first_key = in.sequences.first_key(piece.s);
  const int64_t most = visible_keys(in.sequences, piece.s, piece.end - 1);
  const auto left = [&](int64_t first) { return most - first < Shape::kMove ? most - first : Shape::kMove; };
  typename Shape::LoadMove load;
  {
    typename Shape::LoadStay load_q;
    in.begin(load_q, in.q, piece.begin, h, rows);
    if (most > 0) in.begin(load, in.k, first_key, kv, left(0));
    load_q.end(q);
    if (most > 0) load.end(k);
  }
  __syncthreads();

  RunningSoftmax softmax(in, piece);
  const bool active = 16 * warp() < rows;
  typename Shape::Result out;
  clear(out);
  for (int64_t first = 0; first < most; first += Shape::kMove) {
    in.begin(load, in.v, first_key + first, kv, left(first));
    typename Shape::Scores s;
    if (active) multiply_transposed(s, q, 16 * warp(), k);
    load.end(v);
    __syncthreads();
    const int64_t next = first + Shape::kMove;
    if (next < most) in.begin(load, in.k, first_key + next, kv, left(next));
    if (active) {
      softmax.take(s, static_cast<int>(first));
      softmax.fold();
      softmax.rescale(out);
      multiply_add(out, s, v, task.out / 16);
    }
    if (next < most) load.end(k);
    __syncthreads();
  }
  softmax.finish(out, piece, lse);
  write_rows(o, piece.begin, rows, h, in.dim, task.out, out, 1.0f);
}

// One warp a row and head: delta = d_o . o, of d_o as the products have it, so that what cancels in dp - delta does.
__global__ void __launch_bounds__(kDeltaThreads)
    delta_kernel(saccade_attention_backward_args args, AttentionBackwardWorkspace workspace) {
  const int64_t at = (static_cast<int64_t>(blockIdx.x) * kDeltaThreads + threadIdx.x) / 32;
  if (at >= args.heads * args.rows) return;
  const int64_t h = at / args.rows, r = at % args.rows;
  const float* o = heads_of<const float>(args.o, args.o_row_stride, args.o_head_stride).at(r, h);
  const float* d_o = heads_of<const float>(args.d_o, args.d_o_row_stride, args.d_o_head_stride).at(r, h);
  float sum = 0.0f;
  for (int64_t d = threadIdx.x % 32; d < args.head_dim; d += 32)
    sum += o[d] * (args.precision == SACCADE_PRECISION_BF16 ? to_float(from_float<bf16>(d_o[d])) : d_o[d]);
#pragma unroll
  for (int distance = 1; distance < 32; distance *= 2) sum += __shfl_xor_sync(~0u, sum, distance);
  if (threadIdx.x % 32 == 0) workspace.delta[at] = sum;
}

// One block a piece of rows and head: the keys move by.
template <class Shape>
__global__ void __launch_bounds__(Shape::kThreads)
    query_kernel(const __grid_constant__ saccade_attention_backward_args args, const __grid_constant__ Inputs in,
                 const __grid_constant__ Operand d_o, const __grid_constant__ AttentionBackwardWorkspace workspace) {
  extern __shared__ __align__(1024) unsigned char shared[];
  const typename Shape::Stay q{shared_address(shared)}, d_out{q.base + Shape::Stay::kBytes};
  const typename Shape::Move k{d_out.base + Shape::Stay::kBytes}, v{k.base + Shape::Move::kBytes};
  const Task<Shape> task(in.heads);
  const int64_t h = task.head, kv = h / in.group();
  const Piece piece = piece_of(in.sequences.offsets_q, in.sequences.count, task.from_last(in.heads), Shape::kStay);
  if (piece.empty()) return;
  const auto dq = heads_of<float>(args.dq, args.dq_row_stride, args.dq_head_stride);
  if (in.sequences.bad[piece.s]) return fill_heads(dq, piece.begin, piece.end, h, in.dim, kNan);
  const int rows = piece.count();
  const int64_t first_key = in.sequences.first_key(piece.s);
  const int64_t most = visible_keys(in.sequences, piece.s, piece.end - 1);
  const auto left = [&](int64_t first) { return most - first < Shape::kMove ? most - first : Shape::kMove; };
  typename Shape::LoadMove load;
  {
    typename Shape::LoadStay load_stay;
    in.begin(load_stay, in.q, piece.begin, h, rows);
    if (most > 0) in.begin(load, in.k, first_key, kv, left(0));
    load_stay.end(q);
    in.begin(load_stay, d_o, piece.begin, h, rows);
    if (most > 0) load.end(k);
    load_stay.end(d_out);
  }
  __syncthreads();
  int64_t visible[2];
  float lse[2] = {}, delta[2] = {};
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int r = 16 * warp() + lane_row(2 * i);
    visible[i] = r < rows ? visible_keys(in.sequences, piece.s, piece.begin + r) : 0;
    if (r >= rows) continue;
    lse[i] = pointer<const float>(args.lse)[h * args.rows + piece.begin + r];
    delta[i] = workspace.delta[h * args.rows + piece.begin + r];
  }
  const bool active = 16 * warp() < rows;
  typename Shape::Result out;
  clear(out);
  for (int64_t first = 0; first < most; first += Shape::kMove) {
    in.begin(load, in.v, first_key + first, kv, left(first));
    typename Shape::Scores s, ds;
    if (active) multiply_transposed(s, q, 16 * warp(), k);
    load.end(v);
    __syncthreads();
    const int64_t next = first + Shape::kMove;
    if (next < most) in.begin(load, in.k, first_key + next, kv, left(next));
    if (active) {
      multiply_transposed(ds, d_out, 16 * warp(), v);
#pragma unroll
      for (int n = 0; n < Shape::kMove / 8; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e) s[n][e] = probability(s[n][e], in.scale, lse[e / 2]);
#pragma unroll
      for (int i = 0; i < 2; ++i) {
#pragma unroll
        for (int n = 0; n < Shape::kMove / 8; ++n)
#pragma unroll
          for (int e = 2 * i; e < 2 * i + 2; ++e) ds[n][e] = s[n][e] * (ds[n][e] - delta[i]);
        if (next > visible[i]) {
#pragma unroll
          for (int n = 0; n < Shape::kMove / 8; ++n)
#pragma unroll
            for (int e = 0; e < 2; ++e)
              if (first + 8 * n + lane_column(e) >= visible[i]) ds[n][2 * i + e] = 0.0f;
        }
      }
      multiply_add(out, ds, k, task.out / 16);
    }
    __syncthreads();
    if (next < most) load.end(k);
    __syncthreads();
  }
  write_rows(dq, piece.begin, rows, h, in.dim, task.out, out, in.scale);
}

// One block a piece of keys and key head: the rows of the heads of the group move by, in order.
template <class Shape>
__global__ void __launch_bounds__(Shape::kThreads)
    key_kernel(const __grid_constant__ saccade_attention_backward_args args, const __grid_constant__ Inputs in,
               const __grid_constant__ Operand d_o, const __grid_constant__ AttentionBackwardWorkspace workspace) {
  extern __shared__ __align__(1024) unsigned char shared[];
  static_assert(Shape::kMove <= Shape::kThreads, "a thread a row's numbers");
  __shared__ float lse[Shape::kMove], delta[Shape::kMove];
  const typename Shape::Stay k{shared_address(shared)}, v{k.base + Shape::Stay::kBytes};
  const typename Shape::Move q{v.base + Shape::Stay::kBytes}, d_out{q.base + Shape::Move::kBytes};
  const Task<Shape> task(in.kv_heads);
  const int64_t kv = task.head;
  const Piece piece = piece_of(in.sequences.offsets_k, in.sequences.count, task.piece, Shape::kStay);
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
  const int64_t tiles = blind < rows ? (rows - blind + Shape::kMove - 1) / Shape::kMove : 0, steps = tiles * in.group();
  const auto head_of = [&](int64_t step) { return kv * in.group() + step / tiles; };
  const auto row_of = [&](int64_t step) { return blind + step % tiles * Shape::kMove; };  // of the sequence
  const auto begin = [&](auto& load, const Operand& x, int64_t step) {
    const int64_t left = rows - row_of(step);
    in.begin(load, x, in.sequences.first_row(s) + row_of(step), head_of(step),
             left < Shape::kMove ? left : Shape::kMove);
  };
  // A row that does not exist has an infinite sum of exponentials.
  const auto load_statistics = [&](int64_t step) {
    const int64_t r = row_of(step) + threadIdx.x, at = head_of(step) * args.rows + in.sequences.first_row(s) + r;
    if (threadIdx.x >= Shape::kMove) return;
    lse[threadIdx.x] = r < rows ? pointer<const float>(args.lse)[at] : INFINITY;
    delta[threadIdx.x] = r < rows ? workspace.delta[at] : 0.0f;
  };
  typename Shape::LoadMove load;
  {
    typename Shape::LoadStay load_stay;
    in.begin(load_stay, in.k, piece.begin, kv, piece.count());
    if (steps > 0) begin(load, in.q, 0);
    load_stay.end(k);
    in.begin(load_stay, in.v, piece.begin, kv, piece.count());
    if (steps > 0) load.end(q);
    if (steps > 0) load_statistics(0);
    load_stay.end(v);
  }
  __syncthreads();
  const bool active = 16 * warp() < piece.count();
  typename Shape::Result keys, values;
  clear(keys);
  clear(values);
  for (int64_t step = 0; step < steps; ++step) {
    begin(load, d_o, step);
    typename Shape::Scores p, ds;
    // Of the first row of the tile: how many keys of the piece it sees.
    const int64_t seen = row_of(step) + hidden - key + 1;
    if (active) multiply_transposed(p, k, 16 * warp(), q);
    load.end(d_out);
    if (active) {
#pragma unroll
      for (int n = 0; n < Shape::kMove / 8; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e) p[n][e] = probability(p[n][e], in.scale, lse[8 * n + lane_column(e)]);
      if (seen < Shape::kStay) {
#pragma unroll
        for (int n = 0; n < Shape::kMove / 8; ++n)
#pragma unroll
          for (int e = 0; e < 4; ++e)
            if (16 * warp() + lane_row(e) >= seen + 8 * n + lane_column(e)) p[n][e] = 0.0f;
      }
    }
    __syncthreads();
    if (step + 1 < steps) begin(load, in.q, step + 1);
    if (active) {
      multiply_transposed(ds, v, 16 * warp(), d_out);
      multiply_add(values, p, d_out, task.out / 16);
#pragma unroll
      for (int n = 0; n < Shape::kMove / 8; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e)
          ds[n][e] = p[n][e] == 0.0f ? 0.0f : p[n][e] * (ds[n][e] - delta[8 * n + lane_column(e)]);
      multiply_add(keys, ds, q, task.out / 16);
    }
    __syncthreads();
    if (step + 1 < steps) {
      load.end(q);
      load_statistics(step + 1);
    }
    __syncthreads();
  }
  write_rows(dk, piece.begin, piece.count(), kv, in.dim, task.out, keys, in.scale);
  write_rows(dv, piece.begin, piece.count(), kv, in.dim, task.out, values, 1.0f);
}

// Calls body(columns, parts), compile-time constants: columns of a tile for heads of `dim`, and parts of its numbers.
template <class Body>
void with_tiles(int64_t dim, int32_t precision, const Body& body) {
  const auto with_parts = [&](auto columns) {
    if (precision == SACCADE_PRECISION_BF16)
      body(columns, std::integral_constant<int, 1>{});
    else
      body(columns, std::integral_constant<int, 3>{});
  };
  if (dim <= 32)
    with_parts(std::integral_constant<int, 32>{});
  else if (dim <= 64)
    with_parts(std::integral_constant<int, 64>{});
  else if (dim <= 128)
    with_parts(std::integral_constant<int, 128>{});
  else
    with_parts(std::integral_constant<int, 256>{});
}

// A grid over pieces of `rows`, heads and columns.
template <class Shape, class Kernel, class... Arguments>
void launch_pieces(const Device& device, Kernel kernel, int64_t rows, int64_t sequences, int64_t heads,
                   const Arguments&... arguments) {
  launch_shared(device, kernel, pieces_of(rows, sequences, Shape::kStay) * heads * Shape::kOuts, Shape::kThreads,
                Shape::kShared, arguments...);
}

}  // namespace

void attention(const Device& device, const saccade_attention_args& args, const AttentionWorkspace& workspace) {
  if (args.rows == 0) return;
  const Inputs in(args, clean_sequences(device, args, args.lengths_k, workspace.packing));
  if (workspace.key_tiles) return attention_hopper(device, args, in, workspace);
  if (is_for_rows(args)) return attention_rows(device, args, in);
  with_tiles(args.head_dim, args.precision, [&](auto columns, auto parts) {
    using Shape = ForwardShape<columns, parts>;
    launch_pieces<Shape>(device, forward_kernel<Shape>, args.rows, args.sequences, args.heads, args, in);
  });
}

void attention_backward(const Device& device, const saccade_attention_backward_args& args,
                        const AttentionBackwardWorkspace& workspace) {
  if (args.rows == 0 && args.keys == 0) return;
  const Inputs in(args, clean_sequences(device, args, 0, workspace.packing));
  const Operand d_o(args.d_o, args.d_o_row_stride, args.d_o_head_stride, args.head_dim);
  if (workspace.key_tiles) return attention_backward_hopper(device, args, in, d_o, workspace);
  if (is_for_rows(args)) return attention_backward_rows(device, args, in, d_o, workspace.delta);
  launch(device, delta_kernel, divide_up(args.heads * args.rows * 32, kDeltaThreads), kDeltaThreads, args, workspace);
  with_tiles(args.head_dim, args.precision, [&](auto columns, auto parts) {
    using Rows = QueryShape<columns, parts>;
    launch_pieces<Rows>(device, query_kernel<Rows>, args.rows, args.sequences, args.heads, args, in, d_o, workspace);
    using Keys = KeyShape<columns, parts>;
    launch_pieces<Keys>(device, key_kernel<Keys>, args.keys, args.sequences, args.kv_heads, args, in, d_o, workspace);
  });
}

}  // namespace saccade::cuda
