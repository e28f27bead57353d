#include "policy_loss_from_logits/policy_loss_from_logits.h"

#include "core/logit_rows.h"

namespace saccade {

saccade_policy_loss_args copy_policy(const saccade_policy_loss_args* caller) {
  const auto policy = copy_args(caller, "policy");
  require_policy_options(policy);
  if (policy.d_log_prob) invalid("policy.d_log_prob", "0: the gradient goes on to the logits", "an address");
  if (policy.workspace) invalid("policy.workspace", "0: the operation's own workspace serves", "an address");
  return policy;
}

LogitPolicyWorkspace carve_logit_policy(const saccade_context* context, saccade_policy_loss_args& policy, int64_t parts,
                                        bool gradient, Carver& carver) {
  LogitPolicyWorkspace workspace;
  workspace.mask = pointer<const uint8_t>(policy.mask);
  workspace.known_log_prob = pointer<const float>(policy.log_prob);
  workspace.policy = carve_policy_loss(policy, parts, carver);
  workspace.active = carver.take<uint8_t>(policy.rows);
  workspace.log_prob = carver.take<float>(policy.rows);
  workspace.d_log_prob = carver.take<float>(policy.rows);
  workspace.rows = carver.take<LogitRow>(policy.rows);
  workspace.entropy_sums = carver.take<double>(parts);
  workspace.inputs = carver.take<LogitPolicyRow>(context->gpu ? policy.rows : 0);
  workspace.listed = carver.take<int32_t>(context->gpu ? 1 : 0);
  policy.mask = reinterpret_cast<saccade_address>(workspace.active);
  policy.log_prob = reinterpret_cast<saccade_address>(workspace.log_prob);
  policy.d_log_prob = gradient ? reinterpret_cast<saccade_address>(workspace.d_log_prob) : 0;
  return workspace;
}

}  // namespace saccade

using namespace saccade;

int32_t saccade_policy_loss_from_logits_workspace(saccade_context* context,
                                                  const saccade_policy_loss_from_logits_args* caller, int64_t* bytes) {
  return run(context, "policy_loss_from_logits", [&] {
    require_result(bytes);
    const auto args = copy_args(caller);
    require_logit_options(args);
    auto policy = copy_policy(args.policy);
    Carver carver(0);
    carve_logit_policy(context, policy, logit_tasks(policy.rows, args.vocabulary), false, carver);
    *bytes = carver.bytes();
  });
}

int32_t saccade_policy_loss_from_logits(saccade_context* context, const saccade_policy_loss_from_logits_args* caller) {
  return run(context, "policy_loss_from_logits", [&] {
    auto args = copy_args(caller);
    require_logit_options(args);
    auto policy = copy_policy(args.policy);
    const int64_t size = float_size("logits_dtype", args.logits_dtype);
    args.logits_stride = checked_stride("logits_stride", args.logits_stride, policy.rows, args.vocabulary);
    Operands operands(context);
    require_row_operands(args, policy, operands);
    operands.input("logits", args.logits, span(policy.rows, args.logits_stride, args.vocabulary), size);
    if (args.d_logits) {
      const int64_t d_size = require_gradient_dtype("d_logits_dtype", args.d_logits_dtype, args.logits_dtype,
                                                    "the dtype of the logits, or f32");
      args.d_logits_stride = checked_stride("d_logits_stride", args.d_logits_stride, policy.rows, args.vocabulary);
      const bool in_place = args.d_logits_dtype == args.logits_dtype && args.d_logits_stride == args.logits_stride;
      operands.output("d_logits", args.d_logits, span(policy.rows, args.d_logits_stride, args.vocabulary), d_size,
                      in_place ? "logits" : nullptr);
    }
    Carver carver(args.workspace);
    const LogitPolicyWorkspace workspace =
        carve_logit_policy(context, policy, logit_tasks(policy.rows, args.vocabulary), args.d_logits != 0, carver);
    operands.workspace(args.workspace, carver.bytes());
    operands.require_disjoint();
    SACCADE_CALL(context, policy_loss_from_logits, args, policy, workspace);
  });
}
