// attention_policy of 16-bit types on any GPU.
#pragma once

#include "attention_policy/attention_policy.h"
#include "core/device.h"

namespace saccade::cuda {

void attention_policy_mma(const Device& device, const saccade_attention_policy_args& args,
                          const AttentionPolicyWorkspace& workspace);

}  // namespace saccade::cuda
