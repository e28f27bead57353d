// attention_divergence of 16-bit types on any GPU.
#pragma once

#include "attention_divergence/attention_divergence.h"
#include "core/device.h"

namespace saccade::cuda {

void attention_divergence_mma(const Device& device, const saccade_attention_divergence_args& args,
                              const AttentionDivergenceWorkspace& workspace);

}  // namespace saccade::cuda
