#include "policy_loss/rows.cuh"

namespace saccade::cuda {

void policy_loss(const Device& device, const saccade_policy_loss_args& args, const PolicyLossWorkspace& workspace) {
  launch_sequences(device, args, workspace);
  launch_rows(device, args, workspace, NoBonus{}, true);
}

}  // namespace saccade::cuda
