// attention_divergence on Hopper: what attention_divergence.cu hands over where the workspace has tiles.
#pragma once

#include "attention_divergence/attention_divergence.h"
#include "core/device.h"

namespace saccade::cuda {

void attention_divergence_hopper(const Device& device, const saccade_attention_divergence_args& args,
                                 const AttentionDivergenceWorkspace& workspace);

}  // namespace saccade::cuda
