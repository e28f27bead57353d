// attention_divergence (docs/spec.md §8): divergence of a reference from the attention policy, its entropy term, and
// the gradient of both to q and k.
//
// CPU, three passes over the scores of one policy (MEAN: of all heads in range; NONE: head by head):
//   1 rows        the policy of eight rows at a time, the reference beside it; divergence, entropy, mass; what is
//                 kept is dP, the gradient with respect to the (summed) probabilities: one f32 map
//   2 rows        delta = P . dP and dq = scale dS k, dS = P (dP - delta)
//   3 key blocks  dk = scale dS^T q, rows and heads of a group in a fixed order
// Probabilities are recomputed from the log-normaliser.  Nothing of [heads x Tq x Tk] exists.  Large scores of f32
// inputs are summed and normalised in f64.
#pragma once

#include "core/attention_layout.h"

namespace saccade {

// What dP of one row and head is compared with: delta = sum P dP, taken as pivot + sum P (dP - pivot) with the pivot at
// the head's likeliest key, so that dP - delta keeps its accuracy where the head is all but certain of that key.
struct AttentionCentre {
  float pivot, delta;
};

struct AttentionDivergenceWorkspace {
  float* keys;           // transposed [columns, kv_heads, head_dim]
  float* key_norms;      // [column_blocks, kv_heads]
  float* ref_keys;       // transposed [columns, ref_kv_heads, ref_head_dim], where ref_k is given
  float* ref_key_norms;  // [column_blocks, ref_kv_heads]
  float* scratch;        // [threads, kScratchRows, padded(max_keys)]
  float* divergence;     // [rows]
  float* entropy;        // [rows]
  float* mass;           // [rows]
  // For the gradient:
  double* lse;              // [heads, rows]
  float* map;               // [rows, padded(max_keys)]: dP
  AttentionCentre* centre;  // [heads, rows]
  float* d_keys;            // transposed
  int64_t bytes;

  static constexpr int64_t kScratchRows = 4 * kRows;  // scores, which may be f64; policy; reference
};

// dq without rows and dk without keys may have no address.
inline bool wants_gradient(const saccade_attention_divergence_args& args) { return args.dq || args.dk; }

}  // namespace saccade

SACCADE_DECLARE_CPU(void attention_divergence(Pool& pool, const saccade_attention_divergence_args& args,
                                              const AttentionDivergenceWorkspace& workspace))
