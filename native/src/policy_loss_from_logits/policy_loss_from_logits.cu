#include "policy_loss_from_logits/logit_policy.cuh"

namespace saccade::cuda {

void policy_loss_from_logits(const Device& device, const saccade_policy_loss_from_logits_args& args,
                             const saccade_policy_loss_args& policy, const LogitPolicyWorkspace& workspace) {
  const LogitPolicyCall call{args, policy, workspace, 0, policy.rows, false};
  const auto all_at_once = [&](bool, const auto& step) { step(call); };
  with_float_type(args.logits_dtype, [&](auto element) {
    using T = decltype(element);
    if (args.d_logits_dtype == SACCADE_F32)
      compute<T, float>(device, call, all_at_once);
    else
      compute<T, T>(device, call, all_at_once);
  });
}

}  // namespace saccade::cuda
