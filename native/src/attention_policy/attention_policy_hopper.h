// attention_policy on Hopper: what attention_policy.cu hands over where the workspace has tiles.
#pragma once

#include "attention_policy/attention_policy.h"
#include "core/device.h"

namespace saccade::cuda {

void attention_policy_hopper(const Device& device, const saccade_attention_policy_args& args,
                             const AttentionPolicyWorkspace& workspace);

}  // namespace saccade::cuda
