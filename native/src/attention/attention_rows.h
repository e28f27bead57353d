// Attention by warps of a row (or key) and head: where tiles of many rows would be empty for the most part.
#pragma once

#include "attention/attention.cuh"

namespace saccade::cuda {

// Sequences of a few rows, as in generation, or of a few keys.
inline bool is_for_rows(int64_t rows, int64_t sequences, int64_t max_keys) {
  return max_keys <= 64 || (rows <= 8 * sequences && max_keys <= 1024);
}

void attention_rows(const Device& device, const saccade_attention_args& args, const Inputs& in);
void attention_backward_rows(const Device& device, const saccade_attention_backward_args& args, const Inputs& in,
                             const Operand& d_o, float* delta);

}  // namespace saccade::cuda
