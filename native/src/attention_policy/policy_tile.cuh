// The attention policy on a GPU, tile by tile, for attention_policy and attention_divergence.
//
// Scores of f32 inputs are summed and kept in f64: p = exp(score - lse) has the relative error that the difference has
// absolutely.  16-bit inputs do not carry more than f32 scores themselves.
#pragma once

#include "attention_policy/tiling.cuh"
#include "core/divergence.h"

namespace saccade::cuda {

constexpr float kDeadMass = 1e-20f;  // a policy whose support holds less is dead

template <class T>
using Score = typename Tiling<T>::Score;
// What a thread owns of a tile.
template <class T, class V = Score<T>>
using Own = V[Tiling<T>::kRows][Tiling<T>::kColumns];

extern __shared__ __align__(1024) unsigned char tile_memory[];

// Keys [begin, end) of a row's support.
struct Support {
  int64_t begin, end;

  __device__ bool has(int64_t key) const { return key >= begin && key < end; }
};

// Which keys a row sees, and which of them its policy is over.
struct PolicyRows {
  Sequences sequences;
  int32_t support;
  const int32_t* ranges;

  __device__ Support of(int64_t s, int64_t visible) const {
    if (support == SACCADE_SUPPORT_PREVIOUS) return {0, visible > 0 ? visible - 1 : 0};
    if (support == SACCADE_SUPPORT_ALL) return {0, visible};
    const int64_t begin = ranges[2 * s] < 0 ? 0 : ranges[2 * s];
    const int64_t end = ranges[2 * s + 1] < visible ? ranges[2 * s + 1] : visible;
    return {begin, end < begin ? begin : end};
  }

  // Key at column 0 of a compact map.
  __device__ int64_t first_key(int64_t s) const { return ranges[2 * s] < 0 ? 0 : ranges[2 * s]; }
};

// Queries and keys of a policy.
template <class T>
struct PolicySide {
  Heads<const T> q, k;
  int64_t rows, heads, kv_heads, dim;
  float scale;

  __host__ __device__ int64_t group() const { return heads / kv_heads; }

  // Scores of `rows` packed rows from `row` and `keys` packed keys from `key` on; of rows for which not live(r)
  // anything.
  template <class Memory, class Live>
  __device__ __forceinline__ void score(Own<T>& s, Memory& memory, int64_t row, int row_count, int64_t key,
                                        int key_count, int64_t head, const Live& live) const {
    memory.multiply(s, q, row, head, row_count, k, key, head / group(), key_count, dim, live);
#pragma unroll
    for (int i = 0; i < Tiling<T>::kRows; ++i)
#pragma unroll
      for (int j = 0; j < Tiling<T>::kColumns; ++j) s[i][j] *= static_cast<Score<T>>(scale);
  }
  template <class Memory>
  __device__ __forceinline__ void score(Own<T>& s, Memory& memory, int64_t row, int row_count, int64_t key,
                                        int key_count, int64_t head) const {
    score(s, memory, row, row_count, key, key_count, head, [](int) { return true; });
  }
};

// One block a piece of rows and head of [head_begin, head_begin + heads).  lse_out: [heads,rows], or null.
template <class T, int kDim>
__global__ void __launch_bounds__(Tiling<T>::kThreads)
    statistics_kernel(PolicySide<T> side, PolicyRows rows, int64_t head_begin, int64_t heads, HeadStatistics out,
                      float* lse_out) {
  using S = Score<T>;
  typename Tiling<T>::template Memory<kDim> memory(tile_memory);
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
    S top;
    double sum, inside;
    int32_t key;
  } own[Tiling<T>::kRows];
  int64_t visible[Tiling<T>::kRows];
  Support support[Tiling<T>::kRows];
#pragma unroll
  for (int i = 0; i < Tiling<T>::kRows; ++i) {
    const int r = Tiling<T>::row(i);
    own[i] = {static_cast<S>(-INFINITY), 0.0, 0.0, -1};
    visible[i] = r < piece.count() ? visible_keys(rows.sequences, piece.s, piece.begin + r) : 0;
    support[i] = rows.of(piece.s, visible[i]);
  }
  const int64_t first_key = rows.sequences.first_key(piece.s);
  const int64_t most = visible_keys(rows.sequences, piece.s, piece.end - 1);
  for (int64_t first = 0; first < most; first += kTile) {
    Own<T> s;
    side.score(s, memory, piece.begin, piece.count(), first_key + first,
               static_cast<int>(most - first < kTile ? most - first : kTile), h);
#pragma unroll
    for (int i = 0; i < Tiling<T>::kRows; ++i) {
      S top = own[i].top;
#pragma unroll
      for (int j = 0; j < Tiling<T>::kColumns; ++j)
        if (first + Tiling<T>::column(j) < visible[i] && s[i][j] > top) {
          top = s[i][j];
          own[i].key = static_cast<int32_t>(first + Tiling<T>::column(j));
        }
      float sum = 0.0f, inside = 0.0f;
#pragma unroll
      for (int j = 0; j < Tiling<T>::kColumns; ++j) {
        const float e = first + Tiling<T>::column(j) < visible[i] ? expf(static_cast<float>(s[i][j] - top)) : 0.0f;
        sum += e;
        inside += support[i].has(first + Tiling<T>::column(j)) ? e : 0.0f;
      }
      const double rescale = top == own[i].top ? 1.0 : static_cast<double>(expf(static_cast<float>(own[i].top - top)));
      own[i].sum = own[i].sum * rescale + static_cast<double>(sum);
      own[i].inside = own[i].inside * rescale + static_cast<double>(inside);
      own[i].top = top;
    }
  }
#pragma unroll
  for (int i = 0; i < Tiling<T>::kRows; ++i) {
    const S top = over_row<T>(own[i].top, [](S a, S b) { return b > a ? b : a; });
    // The first of equals.
    const int32_t key = over_row<T>(own[i].key >= 0 && own[i].top == top ? own[i].key : INT32_MAX,
                                    [](int32_t a, int32_t b) { return b < a ? b : a; });
    // A thread whose columns are all hidden has sums of 0.  A difference that is NaN makes the row NaN.
    const double rescale = own[i].top == top ? 1.0 : ::exp(static_cast<double>(own[i].top - top));
    const double sum = over_row<T>(own[i].sum == 0.0 ? 0.0 : own[i].sum * rescale, add_doubles);
    const double inside = over_row<T>(own[i].inside == 0.0 ? 0.0 : own[i].inside * rescale, add_doubles);
    const int r = Tiling<T>::row(i);
    if (!Tiling<T>::leads() || r >= piece.count()) continue;
    const double lse = visible[i] == 0 ? -INFINITY : static_cast<double>(top) + ::log(sum);
    out.lse[at + r] = lse;
    out.share[at + r] = visible[i] == 0 ? 0.0f : static_cast<float>(inside / sum);
    out.top[at + r] = key == INT32_MAX ? -1 : key;
    if (lse_out) lse_out[at + r] = static_cast<float>(lse);
  }
}

struct HeadSpan {
  int64_t begin, end;

  __host__ __device__ int64_t count() const { return end - begin; }
};

// Sums of the heads' probabilities of a tile in sum, 0 where a row does not see a key.
template <class T, class Memory>
__device__ void policy_tile(Own<T, float>& sum, Memory& memory, const PolicySide<T>& side,
                            const HeadStatistics& statistics, const HeadSpan& heads, const Piece& piece,
                            const int64_t (&visible)[Tiling<T>::kRows], int64_t first_key, int64_t first, int keys) {
#pragma unroll
  for (int i = 0; i < Tiling<T>::kRows; ++i)
#pragma unroll
    for (int j = 0; j < Tiling<T>::kColumns; ++j) sum[i][j] = 0.0f;
  for (int64_t h = heads.begin; h < heads.end; ++h) {
    Own<T> s;
    side.score(s, memory, piece.begin, piece.count(), first_key + first, keys, h);
#pragma unroll
    for (int i = 0; i < Tiling<T>::kRows; ++i) {
      const int r = Tiling<T>::row(i);
      const Score<T> lse =
          r < piece.count() ? static_cast<Score<T>>(statistics.lse[h * side.rows + piece.begin + r]) : Score<T>(0);
#pragma unroll
      for (int j = 0; j < Tiling<T>::kColumns; ++j)
        if (first + Tiling<T>::column(j) < visible[i]) sum[i][j] += expf(static_cast<float>(s[i][j] - lse));
    }
  }
}

// Mass of a row's support, as a mean over heads; its factor 1 / (mass * heads), 0 where the policy is dead.
struct Mass {
  float mass, inverse;
  bool dead;
};

// Of the sum over heads.
__device__ inline Mass mass_of_sum(double sum, const HeadSpan& heads) {
  const double mass = sum / static_cast<double>(heads.count());
  if (mass < static_cast<double>(kDeadMass)) return {0.0f, 0.0f, true};
  return {static_cast<float>(mass), static_cast<float>(1.0 / sum), false};
}

__device__ inline Mass mass_of(const HeadStatistics& statistics, const HeadSpan& heads, int64_t rows, int64_t row) {
  double sum = 0.0;
  for (int64_t h = heads.begin; h < heads.end; ++h) sum += static_cast<double>(statistics.share[h * rows + row]);
  return mass_of_sum(sum, heads);
}

template <class Args>
PolicyRows policy_rows(const Sequences& sequences, const Args& args) {
  return {sequences, args.support, pointer<const int32_t>(args.support_ranges)};
}

template <class T, class Args>
PolicySide<T> policy_side(const Args& args) {
  return {heads_of<const T>(args.q, args.q_row_stride, args.q_head_stride),
          heads_of<const T>(args.k, args.k_row_stride, args.k_head_stride),
          args.rows,
          args.heads,
          args.kv_heads,
          args.head_dim,
          args.scale};
}

}  // namespace saccade::cuda
