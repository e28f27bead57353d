// The attention policy of f32 on a GPU, tile by tile, for attention_policy and attention_divergence.
//
// Scores are summed and kept in f64: p = exp(score - lse) has the relative error that the difference has absolutely.
#pragma once

#include "attention_policy/policy.cuh"
#include "attention_policy/tiling.cuh"

namespace saccade::cuda {

// Scores of `rows` packed rows from `row` and `keys` packed keys from `key` on.
__device__ __forceinline__ void score(Own<Score>& s, Tiling::Memory& memory, const PolicySide<float>& side, int64_t row,
                                      int row_count, int64_t key, int key_count, int64_t head) {
  memory.multiply(s, side.q, row, head, row_count, side.k, key, head / side.group(), key_count, side.dim);
#pragma unroll
  for (int i = 0; i < Tiling::kRows; ++i)
#pragma unroll
    for (int j = 0; j < Tiling::kColumns; ++j) s[i][j] *= static_cast<Score>(side.scale);
}

// One block a piece of rows and head of [head_begin, head_begin + heads).  lse_out: [heads,rows], or null.
static __global__ void __launch_bounds__(Tiling::kThreads)
    statistics_kernel(PolicySide<float> side, PolicyRows rows, int64_t head_begin, int64_t heads, HeadStatistics out,
                      float* lse_out) {
  Tiling::Memory memory(tile_memory);
  const int64_t h = head_begin + blockIdx.x % heads, pieces = gridDim.x / heads;
  const Piece piece = piece_of(rows.sequences.offsets_q, rows.sequences.count, pieces - 1 - blockIdx.x / heads);
  if (piece.empty()) return;
  const int64_t at = h * side.rows + piece.begin;
  if (rows.sequences.bad[piece.s]) {
    if (threadIdx.x >= piece.count()) return;
    out.lse[at + threadIdx.x] = out.share[at + threadIdx.x] = kNan;
    out.top[at + threadIdx.x] = -1;
    if (lse_out) lse_out[at + threadIdx.x] = kNan;
    return;
  }
  // A thread keeps these of the columns that it computes.
  struct {
    Score top;
    double sum, inside;
    int32_t key;
  } own[Tiling::kRows];
  int64_t visible[Tiling::kRows];
  Support support[Tiling::kRows];
#pragma unroll
  for (int i = 0; i < Tiling::kRows; ++i) {
    const int r = Tiling::row(i);
    own[i] = {-INFINITY, 0.0, 0.0, -1};
    visible[i] = r < piece.count() ? visible_keys(rows.sequences, piece.s, piece.begin + r) : 0;
    support[i] = rows.of(piece.s, visible[i]);
  }
  const int64_t first_key = rows.sequences.first_key(piece.s);
  const int64_t most = visible_keys(rows.sequences, piece.s, piece.end - 1);
  for (int64_t first = 0; first < most; first += kTile) {
    Own<Score> s;
    score(s, memory, side, piece.begin, piece.count(), first_key + first,
          static_cast<int>(most - first < kTile ? most - first : kTile), h);
#pragma unroll
    for (int i = 0; i < Tiling::kRows; ++i) {
      Score top = own[i].top;
#pragma unroll
      for (int j = 0; j < Tiling::kColumns; ++j)
        if (first + Tiling::column(j) < visible[i] && s[i][j] > top) {
          top = s[i][j];
          own[i].key = static_cast<int32_t>(first + Tiling::column(j));
        }
      float sum = 0.0f, inside = 0.0f;
#pragma unroll
      for (int j = 0; j < Tiling::kColumns; ++j) {
        const float e = first + Tiling::column(j) < visible[i] ? expf(static_cast<float>(s[i][j] - top)) : 0.0f;
        sum += e;
        inside += support[i].has(first + Tiling::column(j)) ? e : 0.0f;
      }
      const double rescale = top == own[i].top ? 1.0 : static_cast<double>(expf(static_cast<float>(own[i].top - top)));
      own[i].sum = own[i].sum * rescale + static_cast<double>(sum);
      own[i].inside = own[i].inside * rescale + static_cast<double>(inside);
      own[i].top = top;
    }
  }
#pragma unroll
  for (int i = 0; i < Tiling::kRows; ++i) {
    const Score top = over_row(own[i].top, [](Score a, Score b) { return b > a ? b : a; });
    // The first of equals.
    const int32_t key = over_row(own[i].key >= 0 && own[i].top == top ? own[i].key : INT32_MAX,
                                 [](int32_t a, int32_t b) { return b < a ? b : a; });
    // A thread whose columns are all hidden has sums of 0.  A difference that is NaN makes the row NaN.
    const double rescale = own[i].top == top ? 1.0 : ::exp(static_cast<double>(own[i].top - top));
    const double sum = over_row(own[i].sum == 0.0 ? 0.0 : own[i].sum * rescale, add_doubles);
    const double inside = over_row(own[i].inside == 0.0 ? 0.0 : own[i].inside * rescale, add_doubles);
    const int r = Tiling::row(i);
    if (!Tiling::leads() || r >= piece.count()) continue;
    const double lse = visible[i] == 0 ? -INFINITY : static_cast<double>(top) + ::log(sum);
    out.lse[at + r] = lse;
    out.share[at + r] = visible[i] == 0 ? 0.0f : static_cast<float>(inside / sum);
    out.top[at + r] = key == INT32_MAX ? -1 : key;
    if (lse_out) lse_out[at + r] = static_cast<float>(lse);
  }
}

// Sums of the heads' probabilities of a tile in sum, 0 where a row does not see a key.
__device__ inline void policy_tile(Own<float>& sum, Tiling::Memory& memory, const PolicySide<float>& side,
                                   const HeadStatistics& statistics, const HeadSpan& heads, const Piece& piece,
                                   const int64_t (&visible)[Tiling::kRows], int64_t first_key, int64_t first,
                                   int keys) {
#pragma unroll
  for (int i = 0; i < Tiling::kRows; ++i)
#pragma unroll
    for (int j = 0; j < Tiling::kColumns; ++j) sum[i][j] = 0.0f;
  for (int64_t h = heads.begin; h < heads.end; ++h) {
    Own<Score> s;
    score(s, memory, side, piece.begin, piece.count(), first_key + first, keys, h);
#pragma unroll
    for (int i = 0; i < Tiling::kRows; ++i) {
      const int r = Tiling::row(i);
      const Score lse =
          r < piece.count() ? static_cast<Score>(statistics.lse[h * side.rows + piece.begin + r]) : Score(0);
#pragma unroll
      for (int j = 0; j < Tiling::kColumns; ++j)
        if (first + Tiling::column(j) < visible[i]) sum[i][j] += expf(static_cast<float>(s[i][j] - lse));
    }
  }
}

__device__ inline Mass mass_of(const HeadStatistics& statistics, const HeadSpan& heads, int64_t rows, int64_t row) {
  double sum = 0.0;
  for (int64_t h = heads.begin; h < heads.end; ++h) sum += static_cast<double>(statistics.share[h * rows + row]);
  return mass_of_sum(sum, heads);
}

}  // namespace saccade::cuda
