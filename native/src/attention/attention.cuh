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

  __device__ int64_t group() const { return heads / kv_heads; }

  template <class Load>
  __device__ __forceinline__ void begin(Load& load, const Operand& x, int64_t row, int64_t head, int64_t count) const {
    load.begin(x.heads.at(row, head), x.heads.row_stride, static_cast<int>(count), dim, x.whole);
  }
};

// The softmax of a warp's 16 rows of a piece, while tiles of keys come in order.  A thread has two of the rows, i = 0
// and 1, and sums over the columns that it holds of them.
struct RunningSoftmax {
  float unit;          // of scores, in units of log 2
  bool negative;       // the scale: scores change their sign
  int64_t visible[2];  // keys
  float top[2];        // the largest score, in units of log 2: the reference of the sums
  float factor[2];     // from the last reference to this one
  double sum[2];       // of the thread's own keys

  __device__ RunningSoftmax(const Inputs& in, const Piece& piece)
      : unit(fmaxf(fabsf(in.scale) * kLog2E, __FLT_MIN__)),  // above 0, so that -inf remains what it is
        negative(in.scale < 0.0f) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int r = 16 * warp() + lane_row(2 * i);
      visible[i] = r < piece.count() ? visible_keys(in.sequences, piece.s, piece.begin + r) : 0;
      top[i] = -INFINITY;
      factor[i] = 1.0f;
      sum[i] = 0.0;
    }
  }

  // Makes scores of keys from `first` on probabilities, with respect to the new references.
  template <int kBlocks>
  __device__ __forceinline__ void take(float (&s)[kBlocks][4], int64_t first) {
    if (negative) {
#pragma unroll
      for (int n = 0; n < kBlocks; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e) s[n][e] = -s[n][e];
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      if (first + 8 * kBlocks > visible[i]) {
        const int seen = static_cast<int>(visible[i] > first ? visible[i] - first : 0);
#pragma unroll
        for (int n = 0; n < kBlocks; ++n)
#pragma unroll
          for (int e = 0; e < 2; ++e)
            if (8 * n + lane_column(e) >= seen) s[n][2 * i + e] = -INFINITY;
      }
      float highest = s[0][2 * i];
#pragma unroll
      for (int n = 0; n < kBlocks; ++n)
#pragma unroll
        for (int e = 0; e < 2; ++e) highest = fmaxf(highest, s[n][2 * i + e]);
      highest = fmaxf(highest, __shfl_xor_sync(~0u, highest, 1));
      highest = fmaxf(fmaxf(highest, __shfl_xor_sync(~0u, highest, 2)) * unit, top[i]);
      const float reference = highest == -INFINITY ? 0.0f : highest;
      factor[i] = exp2_fast(top[i] - reference);
      top[i] = highest;
      float part = 0.0f;
#pragma unroll
      for (int n = 0; n < kBlocks; ++n)
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const float p = exp2_fast(fmaf(s[n][2 * i + e], unit, -reference));
          part += p;
          s[n][2 * i + e] = p;
        }
      sum[i] = sum[i] * static_cast<double>(factor[i]) + static_cast<double>(part);
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
#pragma unroll
  for (int n = 0; n < kBlocks; ++n)
#pragma unroll
    for (int i = 0; i < 4; i += 2) {
      const int r = 16 * warp() + lane_row(i), column = first + 8 * n + lane_column(0);
      if (r >= count || column >= dim) continue;
      float* at = to.at(row + r, head) + column;
      at[0] = x[n][i] * scale;
      if (column + 1 < dim) at[1] = x[n][i + 1] * scale;
    }
}

}  // namespace saccade::cuda
