#include "policy_loss/policy_loss.h"

#include <algorithm>

namespace saccade {

void require_policy_options(const saccade_policy_loss_args& args) {
  require_rows("rows", args.rows);
  require_rows("sequences", args.sequences);
  require_choice("objective", args.objective, 6,
                 "PPO_CLIP (0), GSPO (1), GSPO_TOKEN (2), CISPO (3), SAPO (4) or REINFORCE (5)");
  require_choice("aggregation", args.aggregation, 4,
                 "TOKEN_MEAN (0), SEQ_MEAN_TOKEN_MEAN (1), SEQ_MEAN_TOKEN_SUM (2) or CONSTANT (3)");
  require_choice("kl_estimator", args.kl_estimator, 6, "K1 (0), ABS (1), K2 (2), K3 (3), K1_ST (4) or K3_ST (5)");
  require_choice("advantage_per_sequence", args.advantage_per_sequence, 2, "0 or 1");
  require_choice("kl_importance_corrected", args.kl_importance_corrected, 2, "0 or 1");
  const auto check = [](const char* name, float x, bool in_range, const char* expected) {
    require(in_range && x < INFINITY, name, expected, static_cast<double>(x));
  };
  check("clip_low", args.clip_low, args.clip_low >= 0.0f && args.clip_low <= 1.0f, "0 to 1");
  check("clip_high", args.clip_high, args.clip_high >= 0.0f, "a finite number of at least 0");
  const bool bounded = args.objective <= SACCADE_OBJECTIVE_GSPO_TOKEN;
  if (bounded) {
    check("dual_clip", args.dual_clip, args.dual_clip == 0.0f || args.dual_clip > 1.0f, "0 (off) or above 1");
    check("delta", args.delta, args.delta == 0.0f || args.delta >= 1.0f + args.clip_high,
          "0 (off) or at least 1 + clip_high");
  } else {
    check("dual_clip", args.dual_clip, args.dual_clip == 0.0f, "0 (off): only PPO_CLIP, GSPO and GSPO_TOKEN have it");
    check("delta", args.delta, args.delta == 0.0f, "0 (off): only PPO_CLIP, GSPO and GSPO_TOKEN have it");
  }
  if (args.objective == SACCADE_OBJECTIVE_SAPO) {
    require_positive("tau_pos", args.tau_pos);
    require_positive("tau_neg", args.tau_neg);
  }
  check("normalizer", args.normalizer, args.normalizer >= 0.0f, "0 (off) or a finite number above 0");
  if (args.aggregation == SACCADE_AGGREGATION_CONSTANT && args.normalizer == 0.0f)
    require_positive("constant", args.constant);
  if (!args.kl_coef_scalar) check("kl_coef", args.kl_coef, args.kl_coef >= 0.0f, "a finite number of at least 0");
}

void require_policy_operands(const saccade_policy_loss_args& args, Operands& operands) {
  operands.input("old_log_prob", args.old_log_prob, args.rows, 4);
  if (args.kl_coef != 0.0f || args.kl_coef_scalar || args.kl)
    operands.input("ref_log_prob", args.ref_log_prob, args.rows, 4);
  operands.input("advantage", args.advantage, args.advantage_per_sequence ? args.sequences : args.rows, 4);
  operands.optional_input("mask", args.mask, args.rows, 1);
  operands.optional_input("is_weight", args.is_weight, args.rows, 4);
  operands.offsets("offsets", args.offsets, args.sequences, args.rows);
  operands.optional_input("kl_coef_scalar", args.kl_coef_scalar, 1, 4);
  operands.optional_input("grad_output", args.grad_output, 1, 4);
  operands.output("loss", args.loss, 1, 4);
  operands.optional_output("token_loss", args.token_loss, args.rows, 4);
  operands.optional_output("metrics", args.metrics, SACCADE_POLICY_METRICS, 4);
  operands.optional_output("kl", args.kl, args.rows, 4);
}

PolicyLossWorkspace carve_policy_loss(const saccade_policy_loss_args& args, int64_t parts, Carver& carver) {
  const int64_t blocks = (args.rows + kPolicyBlock - 1) / kPolicyBlock, pieces = blocks + args.sequences;
  PolicyLossWorkspace workspace;
  const int64_t span = policy_rounds(args.rows) * kPolicyTile, spans = (args.rows + span - 1) / span;
  workspace.sums = carver.take<PolicySums>(std::max({parts, blocks, int64_t{1}}));
  workspace.piece_active = carver.take<int32_t>(pieces);
  workspace.piece_sum = carver.take<double>(needs_whole_sequences(args) ? pieces : 0);
  workspace.sequences = carver.take<PolicySequence>(args.sequences);
  workspace.block_sums = carver.take<double>(SACCADE_POLICY_METRICS * std::max(spans, int64_t{1}));
  workspace.slices = carver.take<int32_t>(kPolicySlices);
  workspace.done = carver.take<int32_t>(1);
  return workspace;
}

}  // namespace saccade

using namespace saccade;

int32_t saccade_policy_loss_workspace(saccade_context* context, const saccade_policy_loss_args* caller,
                                      int64_t* bytes) {
  return run(context, "policy_loss", [&] {
    require_result(bytes);
    const auto args = copy_args(caller);
    require_policy_options(args);
    Carver carver(0);
    carve_policy_loss(args, 0, carver);
    *bytes = carver.bytes();
  });
}

int32_t saccade_policy_loss(saccade_context* context, const saccade_policy_loss_args* caller) {
  return run(context, "policy_loss", [&] {
    const auto args = copy_args(caller);
    require_policy_options(args);
    Operands operands(context);
    operands.input("log_prob", args.log_prob, args.rows, 4);
    require_policy_operands(args, operands);
    operands.optional_output("d_log_prob", args.d_log_prob, args.rows, 4);
    Carver carver(args.workspace);
    const PolicyLossWorkspace workspace = carve_policy_loss(args, 0, carver);
    operands.workspace(args.workspace, carver.bytes());
    operands.require_disjoint();
    SACCADE_CALL(context, policy_loss, args, workspace);
  });
}
