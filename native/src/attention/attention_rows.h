// Attention by warps of a row (or key) and head: where tiles of many rows would be empty for the most part.
#pragma once

#include "attention/attention.cuh"

namespace saccade::cuda {

// Of a warp, each at a key (or row) of its own: the more, the shorter a row of a head is.
constexpr int row_groups(int64_t dim) { return dim <= 32 ? 8 : dim <= 64 ? 4 : dim <= 128 ? 2 : 1; }

// Sequences of a few rows, as in generation, or of a few keys; no more rows and heads than a group's part of a key's
// sum may have terms.
template <class Args>
bool is_for_rows(const Args& args) {
  if (args.max_keys * (args.heads / args.kv_heads) > row_groups(args.head_dim) * 4096) return false;
  return args.max_keys <= 64 || (args.rows <= 8 * args.sequences && args.max_keys <= 1024);
}

void attention_rows(const Device& device, const saccade_attention_args& args, const Inputs& in);
void attention_backward_rows(const Device& device, const saccade_attention_backward_args& args, const Inputs& in,
                             const Operand& d_o, float* delta);

}  // namespace saccade::cuda
