// attention on Hopper with products in bf16: what attention.cu hands over where the workspace has tiles.
#pragma once

#include "attention/attention.cuh"

namespace saccade::cuda {

void attention_hopper(const Device& device, const saccade_attention_args& args, const Inputs& in,
                      const AttentionWorkspace& workspace);
void attention_backward_hopper(const Device& device, const saccade_attention_backward_args& args, const Inputs& in,
                               const Operand& d_o, const AttentionBackwardWorkspace& workspace);

}  // namespace saccade::cuda
