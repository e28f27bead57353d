// attention_policy (docs/spec.md §8): entropy and support mass of the attention policy of every row, its
// log-normaliser, and the policy itself as a map.
//
// CPU: keys are transposed once into the workspace.  A block of eight rows goes through the heads one after another:
// scores, log-normaliser, probabilities, added to the row's policy.  One pass over the scores; nothing of
// [heads x Tq x Tk] exists.  Large scores of f32 inputs are summed and normalised in f64.
// CUDA, f32, two passes over the scores: normalisers and masses of every head; then, for blocks of 64 rows and a part
// of the keys, the heads' probabilities are added up in registers, which gives the map and the part's entropy. CUDA,
// 16-bit types: attention_divergence/README.md.
#pragma once

#include "attention_policy/policy_layout.h"

namespace saccade {

struct AttentionPolicyWorkspace {
  // CPU:
  float* keys;       // transposed [columns, kv_heads, head_dim]
  float* key_norms;  // [column_blocks, kv_heads]
  float* scratch;    // [threads, kScratchRows, padded(max_keys)]
  // CUDA:
  CleanPacking packing;
  HeadStatistics statistics;
  double* entropies;  // [parts of the keys, rows]
  double* sums;       // [rows, 2]: entropy and mass of the policies so far
  // CUDA, 16-bit types:
  PolicyTiles tiles;       // Hopper
  float* head_statistics;  // [heads, rows], log-sum-exps; Hopper: beside the tiles
  float* head_sums;        // [sum_rows, padded(max_keys)]: probabilities of some rows at a time
  int64_t sum_rows;
  int64_t bytes;

  static constexpr int64_t kScratchRows = 3 * kRows;  // scores, which may be f64; the policy
};

}  // namespace saccade

SACCADE_DECLARE(attention_policy, const saccade_attention_policy_args& args, const AttentionPolicyWorkspace& workspace)
