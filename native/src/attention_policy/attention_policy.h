// attention_policy (docs/spec.md §8): entropy and support mass of the attention policy of every row, its
// log-normaliser, and the policy itself as a map.
//
// CPU: keys are transposed once into the workspace.  A block of eight rows goes through the heads one after another:
// scores, log-normaliser, probabilities, added to the row's policy.  One pass over the scores; nothing of
// [heads x Tq x Tk] exists.  Large scores of f32 inputs are summed and normalised in f64.
#pragma once

#include "core/attention_layout.h"

namespace saccade {

struct AttentionPolicyWorkspace {
  float* keys;       // transposed [columns, kv_heads, head_dim]
  float* key_norms;  // [column_blocks, kv_heads]
  float* scratch;    // [threads, kScratchRows, padded(max_keys)]
  int64_t bytes;

  static constexpr int64_t kScratchRows = 3 * kRows;  // scores, which may be f64; the policy
};

}  // namespace saccade

SACCADE_DECLARE_CPU(void attention_policy(Pool& pool, const saccade_attention_policy_args& args,
                                          const AttentionPolicyWorkspace& workspace))
