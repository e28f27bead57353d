// policy_loss_from_logits (docs/spec.md §6): token_log_probs, sampled_kl and policy_loss with their gradient by the
// logits, without a tensor of the logits' size but the gradient, which may take the place of the logits.
//
// CPU.  A task is a few rows (one, for a real vocabulary), and takes each of them from logits to gradient while the row
// is in the cache: statistics (core/softmax_row.h), the loss of §5, gradient.  The weights of §5 need the number of
// active rows only, which masks and targets give beforehand.  Inactive rows are written as zeros and not read.
// Bytes: the logits of active rows once, the gradient once.
// CUDA.  The active rows are listed first, so that others are neither read nor waited for.  On Hopper a cluster of
// blocks takes a row through its shared memory: every warp bulk-loads its share of it chunk by chunk and sends its
// statistics to all blocks of the cluster, one warp of each makes of them what the gradient takes, and every warp turns
// its chunks into the gradient in place and bulk-stores them, while those of the next row arrive.  Rows that are not
// multiples of 16 bytes, gradients of another type and other GPUs: a block a row, which reads it a second
// time, from the L2 cache.  Losses and metrics come from the log-probabilities at the end. GSPO and GSPO_TOKEN need the
// log-probabilities of whole sequences first: the statistics are a pass of their own, and the logits are read twice;
// once where the caller knows the log-probabilities.
#pragma once

#include "policy_loss/policy_loss.h"

namespace saccade {

// What is kept of a row between its statistics and its gradient.
struct LogitRow {
  double log_sum;  // of e^(z - max z), z the scaled logits
  float max;       // of the logits
  float entropy;
};

// CUDA: what the gradient of an active row is made of besides its logits.
struct LogitPolicyRow {
  int32_t row, target;
  float x_target;  // the logit of the target
  float known_log_prob;
  float old_log_prob, ref_log_prob, advantage, is_weight;
  float d_log_prob;  // GSPO and GSPO_TOKEN
  float weight;      // a_t * grad_output
};

struct LogitPolicyWorkspace {
  const uint8_t* mask;          // as the caller gave it
  const float* known_log_prob;  // null: to be computed
  PolicyLossWorkspace policy;
  uint8_t* active;         // [R]: mask and target
  float* log_prob;         // [R]
  float* d_log_prob;       // [R]
  LogitRow* rows;          // [R]
  double* entropy_sums;    // [parts]
  LogitPolicyRow* inputs;  // CUDA: [R], active rows from the front, the others from the back
  int32_t* listed;         // CUDA: [1], active rows
};

// The policy's struct, with what it may not hold here refused.
saccade_policy_loss_args copy_policy(const saccade_policy_loss_args* caller);

// Also points the policy's mask, log_prob and d_log_prob into the workspace; the last is 0 without `gradient`.
LogitPolicyWorkspace carve_logit_policy(const saccade_context* context, saccade_policy_loss_args& policy, int64_t parts,
                                        bool gradient, Carver& carver);

template <class Args>
void require_logit_options(const Args& args) {
  require_size("vocabulary", args.vocabulary, 1, kMaxRows);
  require_positive("temperature", args.temperature);
  require(std::isfinite(args.entropy_coef), "entropy_coef", "a finite number", static_cast<double>(args.entropy_coef));
}

// The operands of policy_loss, and the per-row ones of the logits.
template <class Args>
void require_row_operands(const Args& args, const saccade_policy_loss_args& policy, Operands& operands) {
  require_policy_operands(policy, operands);
  operands.optional_input("policy.log_prob", policy.log_prob, policy.rows, 4);
  operands.input("targets", args.targets, policy.rows, 4);
  operands.optional_output("log_prob", args.log_prob, policy.rows, 4);
  operands.optional_output("entropy", args.entropy, policy.rows, 4);
  operands.optional_output("lse", args.lse, policy.rows, 4);
}

}  // namespace saccade

SACCADE_DECLARE(policy_loss_from_logits, const saccade_policy_loss_from_logits_args& args,
                const saccade_policy_loss_args& policy, const LogitPolicyWorkspace& workspace)
