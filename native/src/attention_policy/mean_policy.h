// The attention policy of blocks of rows, for attention_policy and attention_divergence.
#pragma once

#include "core/attention.h"
#include "core/divergence.h"

namespace saccade::SACCADE_ISA {

constexpr float kDeadMass = 1e-20f;  // a policy whose support holds less is dead

// Keys [begin, end) of a row's support.
struct Support {
  int64_t begin, end;
};

// Which keys a row of a sequence sees, and which of them its policy is over.
struct PolicyRows {
  Packing packing;
  int32_t support;
  const int32_t* ranges;

  Support of(int64_t s, int64_t i) const {
    const int64_t n = packing.visible(s, i);
    if (support == SACCADE_SUPPORT_PREVIOUS) return {0, n > 0 ? n - 1 : 0};
    if (support == SACCADE_SUPPORT_ALL) return {0, n};
    const int64_t begin = ranges[2 * s] < 0 ? 0 : ranges[2 * s], end = ranges[2 * s + 1] < n ? ranges[2 * s + 1] : n;
    return {begin, end < begin ? begin : end};
  }

  // Key at column 0 of a compact map.
  int64_t first_key(int64_t s) const { return ranges[2 * s] < 0 ? 0 : ranges[2 * s]; }
};

// p = exp(score - lse) has the relative error that the difference has absolutely.  Scores of f32 inputs that may be
// larger than this are summed and kept in f64 until their normaliser is known: below, f32 costs a few 1e-6 of p.
// 16-bit inputs do not carry more themselves.
constexpr float kF32Scores = 32.0f;

// Norm of x; infinity or NaN where its square leaves f32.
template <class T>
SACCADE_INLINE float norm(const T* x, int64_t n) {
  vfloat sum = splat(0.0f);
  for_lanes(n, [&](int64_t d, int64_t lanes) {
    const vfloat v = load(x + d, lanes, 0.0f);
    sum += v * v;
  });
  return std::sqrt(reduce_add(sum));
}

// The side of a policy: its queries, keys and heads.
template <class T>
struct PolicySide {
  Heads<const T> q;
  int64_t heads;
  float scale;
  Transposed keys;
  float* key_norms;  // f32: the largest of every block of columns
  int64_t rows;      // Tq
  const float* lse;  // [heads, rows], given by the caller, or null

  int64_t group() const { return heads / keys.heads; }

  // Makes keys and key_norms.
  void prepare(Pool& pool, const Packing& packing, const Heads<const T>& k) const {
    transpose(pool, packing, k, keys);
    if constexpr (!std::is_same_v<T, float>) return;
    for_column_blocks(pool, packing, keys.heads, [&](int64_t s, int64_t h, int64_t first, int64_t count) {
      float longest = 0.0f;
      for (int64_t j = first; j < first + count; ++j)
        longest = std::fmax(longest, norm(k.at(packing.offsets_k[s] + j, h), keys.dim));
      key_norms[keys.block(packing, s, h, first)] = longest;
    });
  }

  // Calls body(scores, rows) with the scores of a block of queries of head h with n keys from `first` on, scores[r][j]
  // at r * width + j, in f32 or f64, for the rows whose bits are set: every row comes once, and what it is scored in
  // depends on no other row.  scratch holds 2 kRows * width floats.
  template <class Body>
  SACCADE_INLINE void score(const Packing& packing, int64_t s, int64_t h, const RowBlock& queries, int64_t count,
                            int64_t first, int64_t n, float* scratch, int64_t width, const Body& body) const {
    const auto run = [&](auto* scores, uint32_t which) {
      dot_columns(queries, count, keys.dim, keys.at(packing, s, h / group(), first), n, scale, scores, width);
      body(scores, which);
    };
    const uint32_t all = (1u << count) - 1;
    uint32_t large = 0;
    if constexpr (std::is_same_v<T, float>) {
      float longest_key = 0.0f;
      for (int64_t j = 0; j < n; j += kColumnBlock)
        longest_key = std::fmax(longest_key, key_norms[keys.block(packing, s, h / group(), first + j)]);
      for (int64_t r = 0; r < count; ++r) {
        // NaN does not fit.
        const bool fits = std::fabs(scale) * norm(queries[r], keys.dim) * longest_key <= kF32Scores;
        large |= static_cast<uint32_t>(!fits) << r;
      }
      if (large) run(reinterpret_cast<double*>(scratch), large);
    }
    if (large != all) run(scratch, all & ~large);
  }
};

// Adds the probabilities of heads [head_begin, head_end) of a block of rows up in policy[r][j], over the visible keys
// and 0 from there to padded(most).  Calls normaliser(index in [heads, rows], lse) for these heads, or for all.
//
// A given lse only stands in for the largest score, which keeps exponentials in range: its f32 rounding is not in the
// probabilities.
template <class T, class Normaliser>
void sum_heads(const PolicySide<T>& side, const PolicyRows& rows, int64_t s, int64_t i, int64_t count,
               int64_t head_begin, int64_t head_end, bool all_heads, float* scratch, float* policy, int64_t width,
               const Normaliser& normaliser) {
  const Packing& packing = rows.packing;
  const int64_t row = packing.offsets_q[s] + i;
  const int64_t most = packing.visible(s, i + count - 1), end = padded(most);
  for (int64_t r = 0; r < count; ++r) std::memset(policy + r * width, 0, static_cast<size_t>(end) * sizeof(float));
  for (int64_t h = 0; h < side.heads; ++h) {
    const bool inside = h >= head_begin && h < head_end;
    if (!inside && !all_heads) continue;
    RowBlock queries;
    load_rows(side.q, row, h, count, side.keys.dim, queries);
    side.score(packing, s, h, queries, count, 0, most, scratch, width, [&](auto* scores, uint32_t which) {
      for (int64_t r = 0; r < count; ++r) {
        if (!(which >> r & 1)) continue;
        auto* score = scores + r * width;
        float* e = reinterpret_cast<float*>(score);  // takes its place
        const int64_t n = packing.visible(s, i + r), at = h * side.rows + row + r;
        const double shift = static_cast<double>(side.lse ? side.lse[at] : largest(score, n));
        const double sum = exponentials(score, n, shift, e);
        normaliser(at, shift + std::log(sum));
        if (!inside) continue;
        const float inverse = static_cast<float>(1.0 / sum);
        float* total = policy + r * width;
        for (int64_t j = 0; j < padded(n); j += kLanes) store(total + j, load(total + j) + load(e + j) * inverse);
      }
    });
  }
}

// Mass of a row's support, as a mean over heads; its factor 1 / (mass * heads), 0 where the policy is dead.
struct Mass {
  float mass;
  float inverse;
  bool dead;
};

SACCADE_INLINE Mass mass_of(const float* policy, Support support, int64_t heads) {
  const double sum =
      sum_lanes(support.begin, support.end, [&](int64_t j, int64_t lanes) { return load(policy + j, lanes, 0.0f); });
  const double mass = sum / static_cast<double>(heads);
  if (mass < static_cast<double>(kDeadMass)) return {0.0f, 0.0f, true};
  return {static_cast<float>(mass), static_cast<float>(1.0 / sum), false};
}

// -sum p log p over the support, p = policy * inverse.
SACCADE_INLINE double entropy_of(const float* policy, Support support, float inverse) {
  return -sum_lanes(support.begin, support.end, [&](int64_t j, int64_t lanes) {
    const vfloat p = load(policy + j, lanes, 0.0f) * inverse;
    return p * log(at_least(p, kFloor));
  });
}

}  // namespace saccade::SACCADE_ISA
