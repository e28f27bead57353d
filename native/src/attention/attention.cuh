// What the kernels of attention for any GPU and for Hopper share.  A warp has 16 rows of a product, as core/mma.cuh
// says.
#pragma once

#include "attention/attention.h"
#include "core/attention.cuh"
#include "core/lane.cuh"
#include "core/mma.cuh"

namespace saccade::cuda {

struct Operand {
  Heads<const float> heads;
  bool whole;  // MmaLoad

  Operand(saccade_address x, int64_t row_stride, int64_t head_stride, int64_t dim)
      : heads(heads_of<const float>(x, row_stride, head_stride)),
        whole((x % 16 | row_stride % 4 | head_stride % 4 | dim % 8) == 0) {}
};

struct Inputs {
  Operand q, k, v;
  Sequences sequences;
  int64_t heads, kv_heads;
  int dim;
  float scale;

  template <class Args>
  Inputs(const Args& args, const Sequences& sequences_)
      : q(args.q, args.q_row_stride, args.q_head_stride, args.head_dim),
        k(args.k, args.k_row_stride, args.k_head_stride, args.head_dim),
        v(args.v, args.v_row_stride, args.v_head_stride, args.head_dim),
        sequences(sequences_),
        heads(args.heads),
        kv_heads(args.kv_heads),
        dim(static_cast<int>(args.head_dim)),
        scale(args.scale) {}

  __device__ uint32_t group() const { return static_cast<uint32_t>(heads) / static_cast<uint32_t>(kv_heads); }

  template <class Load>
  __device__ __forceinline__ void begin(Load& load, const Operand& x, int64_t row, int64_t head, int64_t count) const {
    load.begin(x.heads.at(row, head), x.heads.row_stride, static_cast<int>(count), dim, x.whole);
  }
};

// The softmax of a warp's 16 rows of a piece, while tiles of keys come in order.  A thread has two of the rows, i = 0
// and 1, and sums over the columns that it holds of them.
struct RunningSoftmax {
  float unit;       // of scores, in units of log 2
  bool negative;    // the scale: scores change their sign
  int visible[2];   // keys
  float top[2];     // the largest score, in units of log 2: the reference of the sums
  float factor[2];  // from the last reference to this one
  float few[2];     // sum of the thread's own keys since the last fold(), with respect to `top`
  float before[2];  // `top` at the last fold()
  double sum[2];    // of the thread's own keys up to the last fold(), with respect to `before`

  __device__ RunningSoftmax(const Inputs& in, const Piece& piece)
      : unit(fmaxf(fabsf(in.scale) * kLog2E, __FLT_MIN__)),  // above 0, so that -inf remains what it is
        negative(in.scale < 0.0f) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int r = 16 * warp() + lane_row(2 * i);
      visible[i] = r < piece.count() ? static_cast<int>(visible_keys(in.sequences, piece.s, piece.begin + r)) : 0;
      top[i] = -INFINITY;
      factor[i] = 1.0f;
      few[i] = 0.0f;
      before[i] = -INFINITY;
      sum[i] = 0.0;
    }
  }

  // Makes scores of keys from `first` on probabilities, with respect to the new references.  Both rows at once, with
  // two chains of maxima and sums each: few instructions wait for the one before.
  template <int kBlocks>
  __device__ __forceinline__ void take(float (&s)[kBlocks][4], int first) {
    if (negative) {
#pragma unroll
      for (int n = 0; n < kBlocks; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e) s[n][e] = -s[n][e];
    }
    if (first + 8 * kBlocks > min(visible[0], visible[1])) {
#pragma unroll
      for (int n = 0; n < kBlocks; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e)
          if (8 * n + lane_column(e) >= visible[e / 2] - first) s[n][e] = -INFINITY;
    }
    float high[2][2], reference[2], part[2][2];
#pragma unroll
    for (int n = 0; n < kBlocks; ++n)
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const float pair = fmaxf(s[n][2 * i], s[n][2 * i + 1]);
        high[i][n % 2] = n < 2 ? pair : fmaxf(high[i][n % 2], pair);
      }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      float highest = fmaxf(high[i][0], high[i][1]);
      highest = fmaxf(highest, __shfl_xor_sync(~0u, highest, 1));
      highest = fmaxf(fmaxf(highest, __shfl_xor_sync(~0u, highest, 2)) * unit, top[i]);
      reference[i] = highest == -INFINITY ? 0.0f : highest;
      factor[i] = exp2_fast(top[i] - reference[i]);
      top[i] = highest;
    }
#pragma unroll
    for (int n = 0; n < kBlocks; ++n)
#pragma unroll
      for (int i = 0; i < 2; ++i) {
#pragma unroll
        for (int e = 2 * i; e < 2 * i + 2; ++e) s[n][e] = exp2_fast(fmaf(s[n][e], unit, -reference[i]));
        const float pair = s[n][2 * i] + s[n][2 * i + 1];
        part[i][n % 2] = n < 2 ? pair : part[i][n % 2] + pair;
      }
#pragma unroll
    for (int i = 0; i < 2; ++i) few[i] = few[i] * factor[i] + (part[i][0] + part[i][1]);
  }

  // After some thousand keys at most.  Not after every tile where warpgroups multiply: beside them f64 is slow.
  __device__ __forceinline__ void fold() {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const float from = exp2_fast(before[i] - (top[i] == -INFINITY ? 0.0f : top[i]));
      sum[i] = sum[i] * static_cast<double>(from) + static_cast<double>(few[i]);
      few[i] = 0.0f;
      before[i] = top[i];
    }
  }

  // Brings sums of before the last take() to its references.
  template <int kBlocks>
  __device__ __forceinline__ void rescale(float (&out)[kBlocks][4]) const {
#pragma unroll
    for (int n = 0; n < kBlocks; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e) out[n][e] *= factor[e / 2];
  }

  // Divides by the sums of all keys, and writes the log-sum-exps of the scores, where wanted.
  template <int kBlocks>
  __device__ __forceinline__ void finish(float (&out)[kBlocks][4], const Piece& piece, float* lse) {
    fold();
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      double all = sum[i] + __shfl_xor_sync(~0u, sum[i], 1);
      all += __shfl_xor_sync(~0u, all, 2);
      factor[i] = visible[i] == 0 ? 0.0f : static_cast<float>(1.0 / all);
      const int r = 16 * warp() + lane_row(2 * i);
      if (lse && threadIdx.x % 4 == 0 && r < piece.count())
        lse[piece.begin + r] = static_cast<float>(static_cast<double>(top[i]) * 0.693147180559945309417 + ::log(all));
    }
    rescale(out);
  }
};

// P of a score and dS = P (dP - delta).
__device__ __forceinline__ float probability(float score, float scale, float lse) {
  return exp2_fast(fmaf(score, scale, -lse) * kLog2E);
}

// Writes a warp's rows of a product, columns from `first` on, to rows from `row` on, of which there are `count`.
template <int kBlocks>
__device__ __forceinline__ void write_rows(const Heads<float>& to, int64_t row, int count, int64_t head, int dim,
                                           int first, const float (&x)[kBlocks][4], float scale) {
  const bool pairs = (reinterpret_cast<uint64_t>(to.data) % 8 | to.row_stride % 2 | to.head_stride % 2 | dim % 2) == 0;
#pragma unroll
  for (int i = 0; i < 4; i += 2) {
    const int r = 16 * warp() + lane_row(i), column = first + lane_column(0);
    if (r >= count) continue;
    float* at = to.at(row + r, head) + column;
#pragma unroll
    for (int n = 0; n < kBlocks; ++n) {
      const int left = dim - column - 8 * n;
      const float2 pair = {x[n][i] * scale, x[n][i + 1] * scale};
      if (left > 0 && pairs) *reinterpret_cast<float2*>(at + 8 * n) = pair;
      if (left > 0 && !pairs) at[8 * n] = pair.x;
      if (left > 1 && !pairs) at[8 * n + 1] = pair.y;
    }
  }
}

}  // namespace saccade::cuda
