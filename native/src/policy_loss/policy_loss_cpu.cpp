#include "policy_loss/policy.h"

namespace saccade::SACCADE_ISA {

void policy_loss(Pool& pool, const saccade_policy_loss_args& args, const PolicyLossWorkspace& workspace) {
  PolicyLoss call(args, workspace);
  call.count_blocks(pool);
  call.evaluate_blocks(pool);
  call.report(call.blocks, 0.0);
}

}  // namespace saccade::SACCADE_ISA
