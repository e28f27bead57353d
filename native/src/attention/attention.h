// attention: causal grouped-query attention over packed sequences, forward and backward, f32.
//
// CPU: keys are transposed once into the workspace; then blocks of eight rows hold the scores of one head at a time.
// Nothing of [heads x Tq x Tk] exists.  Backward recomputes the probabilities from lse: a pass over rows for dq, a pass
// over key blocks for dk and dv, so that no two tasks write the same element.
// CUDA: the same passes on the tensor cores, blocks of rows (of keys) that stay while tiles of the others move by; for
// short sequences a warp for each row (key).  See README.md.
#pragma once

#include "core/attention_layout.h"

namespace saccade {

// CUDA, Hopper, products in bf16: rows of the tiles that are written first, and what lies beside a tile of q.
constexpr int kForwardTile = 128, kBackwardTile = 64;
struct RowStatistics {
  float lse[kBackwardTile];  // in units of log 2; infinite for a row that does not exist
  float delta[kBackwardTile];
};

// Pieces of the workspace, of the forward pass and of the backward pass.
struct AttentionWorkspace {
  // CPU:
  float* keys;     // transposed [columns, kv_heads, head_dim]
  float* scratch;  // scores: [threads, kRows, padded(max_keys)]
  // CUDA:
  CleanPacking packing;
  uint8_t* key_tiles;  // Hopper, products in bf16: tiles as attention_hopper.cu has them; else null
  uint8_t* value_tiles;
  int64_t bytes;
};

struct AttentionBackwardWorkspace {
  float* delta;  // [heads, rows]: sum_d d_o * o
  // CPU:
  float* keys;  // transposed
  float* values;
  float* d_keys;
  float* d_values;
  float* scratch;  // probabilities and their gradient: [threads, 2 kRows, padded(max_keys)]
  // CUDA:
  CleanPacking packing;
  uint8_t* key_tiles;  // as in the forward pass
  uint8_t* value_tiles;
  uint8_t* row_tiles;
  uint8_t* gradient_tiles;
  int64_t bytes;
};

AttentionWorkspace attention_layout(const saccade_context* context, const saccade_attention_args& args);
AttentionBackwardWorkspace attention_backward_layout(const saccade_context* context,
                                                     const saccade_attention_backward_args& args);

}  // namespace saccade

SACCADE_DECLARE(attention, const saccade_attention_args& args, const AttentionWorkspace& workspace)
SACCADE_DECLARE(attention_backward, const saccade_attention_backward_args& args,
                const AttentionBackwardWorkspace& workspace)
