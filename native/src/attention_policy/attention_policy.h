// attention_policy (docs/spec.md §8): entropy and support mass of the attention policy of every row, its
// log-normaliser, and the policy itself as a map.
//
// CPU: keys are transposed once into the workspace.  A block of four rows goes through the heads one after another:
// scores, log-normaliser, probabilities, added to the row's policy.  One pass over the scores; nothing of
// [heads x Tq x Tk] exists.  Scores of f32 inputs are summed and normalised in f64, of 16-bit inputs in f32.
#pragma once

#include "core/call.h"

namespace saccade {

struct AttentionPolicyWorkspace {
  float* keys;     // transposed [columns, kv_heads, head_dim]
  float* scratch;  // [threads, kScratchRows, padded(max_keys)]
  int64_t bytes;

  static constexpr int64_t kScratchRows = 12;  // four of scores, which may be f64; four of the policy
};

}  // namespace saccade

SACCADE_DECLARE_CPU(void attention_policy(Pool& pool, const saccade_attention_policy_args& args,
                                          const AttentionPolicyWorkspace& workspace))
