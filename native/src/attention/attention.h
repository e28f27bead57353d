// attention: causal grouped-query attention over packed sequences, forward and backward, f32.
//
// CPU: keys are transposed once into the workspace; then blocks of eight rows hold the scores of one head at a time.
// Nothing of [heads x Tq x Tk] exists.  Backward recomputes the probabilities from lse: a pass over rows for dq, a pass
// over key blocks for dk and dv, so that no two tasks write the same element.
#pragma once

#include "core/call.h"

namespace saccade {

// Pieces of the workspace, of the forward pass and of the backward pass.
struct AttentionWorkspace {
  float* keys;     // transposed [columns, kv_heads, head_dim]
  float* scratch;  // scores: [threads, kRows, padded(max_keys)]
  int64_t bytes;
};

struct AttentionBackwardWorkspace {
  float* keys;  // transposed
  float* values;
  float* d_keys;
  float* d_values;
  float* delta;    // [heads, rows]: sum_d d_o * o
  float* scratch;  // probabilities and their gradient: [threads, 2 kRows, padded(max_keys)]
  int64_t bytes;
};

AttentionWorkspace attention_layout(const saccade_attention_args& args, int threads);
AttentionBackwardWorkspace attention_backward_layout(const saccade_attention_backward_args& args, int threads);

}  // namespace saccade

SACCADE_DECLARE_CPU(void attention(Pool& pool, const saccade_attention_args& args, const AttentionWorkspace& workspace))
SACCADE_DECLARE_CPU(void attention_backward(Pool& pool, const saccade_attention_backward_args& args,
                                            const AttentionBackwardWorkspace& workspace))
