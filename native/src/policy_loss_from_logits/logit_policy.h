// From rows of logits to the policy-gradient loss and back: what policy_loss_from_logits and linear_policy_loss share.
// They say where a row's logits are, and call the steps in order.
#pragma once

#include "core/logit_rows.h"
#include "core/softmax_row.h"
#include "policy_loss/policy.h"
#include "policy_loss_from_logits/policy_loss_from_logits.h"

namespace saccade::SACCADE_ISA {

struct LogitPolicy {
  template <class Args>
  LogitPolicy(const Args& args, const saccade_policy_loss_args& policy_args, const LogitPolicyWorkspace& workspace_)
      : workspace(workspace_),
        policy(policy_args, workspace_.policy),
        vocabulary(args.vocabulary),
        ignore_index(args.ignore_index),
        inverse(1.0f / args.temperature),
        entropy_coef(args.entropy_coef),
        targets(pointer<const int32_t>(args.targets)),
        mask(workspace_.mask),
        known_log_prob(workspace_.known_log_prob),
        log_prob(pointer<float>(args.log_prob)),
        entropy(pointer<float>(args.entropy)),
        lse(pointer<float>(args.lse)) {}

  const LogitPolicyWorkspace& workspace;
  PolicyLoss policy;
  const int64_t vocabulary;
  const int32_t ignore_index;
  const float inverse, entropy_coef;
  const int32_t* const targets;
  const uint8_t* const mask;
  const float* const known_log_prob;
  float* const log_prob;
  float* const entropy;
  float* const lse;

  // The statistics of every row are needed before the first loss.
  bool two_passes() const { return policy.by_sequence && !known_log_prob; }

  bool active(int64_t r) const { return workspace.active[r] != 0; }

  // Marks the active rows of a block of rows; per-row results of the others.
  void activate(int64_t block) const {
    for (int64_t r = policy.block_begin(block); r < policy.block_end(block); ++r) {
      const bool on = (!mask || mask[r] != 0) && targets[r] != ignore_index;
      workspace.active[r] = on;
      workspace.log_prob[r] = on && known_log_prob ? known_log_prob[r] : 0.0f;
      if (on) continue;
      if (log_prob) log_prob[r] = 0.0f;
      if (entropy) entropy[r] = 0.0f;
      if (lse) lse[r] = 0.0f;
    }
  }

  void activate(Pool& pool) const {
    pool.run(policy.blocks, [&](int64_t block, int) { activate(block); });
  }

  // Statistics and per-row results of an active row.
  template <class T>
  void forward(int64_t r, const T* x) const {
    const SoftmaxRow row = softmax_row(x, vocabulary, inverse);
    const double per_logit = static_cast<double>(inverse), max = static_cast<double>(row.max);
    const double log_sum = row.log_sum();
    const bool bad = targets[r] < 0 || targets[r] >= vocabulary;
    LogitRow& kept = workspace.rows[r];
    kept = {log_sum, row.max, bad ? __builtin_nanf("") : static_cast<float>(row.entropy())};
    if (!known_log_prob)
      workspace.log_prob[r] =
          bad ? __builtin_nanf("")
              : static_cast<float>((static_cast<double>(to_float(x[targets[r]])) - max) * per_logit - log_sum);
    if (log_prob) log_prob[r] = workspace.log_prob[r];
    if (entropy) entropy[r] = kept.entropy;
    if (lse) lse[r] = static_cast<float>(max * per_logit + log_sum);
  }

  // a_t * entropy_coef of an active row.
  double entropy_weight(int64_t r) const {
    if (entropy_coef == 0.0f) return 0.0;
    return policy.weight(workspace.policy.sequences[policy.sequence_of(r)]) * static_cast<double>(entropy_coef);
  }

  double entropy_term(int64_t r) const {
    return entropy_coef == 0.0f ? 0.0 : entropy_weight(r) * static_cast<double>(workspace.rows[r].entropy);
  }

  // The gradient of an active row; dx may be x.
  template <class T, class G>
  void backward(int64_t r, const T* x, G* dx) const {
    const LogitRow& row = workspace.rows[r];
    const float dl = workspace.d_log_prob[r], de = static_cast<float>(-entropy_weight(r) * policy.grad_output);
    if (row.entropy != row.entropy)
      fill_row(dx, vocabulary, __builtin_nanf(""));
    else if (dl == 0.0f && de == 0.0f)
      fill_row(dx, vocabulary, 0.0f);
    else
      softmax_row_gradient(x, dx, vocabulary, inverse, targets[r], row.max, row.log_sum, row.entropy, dl, de);
  }

  // What comes between: losses of the rows [begin, end), which forward() has seen unless the losses are known already
  // for whole sequences.  `part` numbers the range.
  void evaluate(int64_t part, int64_t begin, int64_t end) const {
    if (!policy.by_sequence) workspace.policy.sums[part] = policy.evaluate(begin, end);
    double bonus = 0.0;
    for (int64_t r = begin; r < end; ++r)
      if (active(r)) bonus += entropy_term(r);
    workspace.entropy_sums[part] = bonus;
  }

  void report(int64_t parts) const {
    double bonus = 0.0;
    for (int64_t part = 0; part < parts; ++part) bonus += workspace.entropy_sums[part];
    policy.report(policy.by_sequence ? policy.blocks : parts, bonus);
  }
};

}  // namespace saccade::SACCADE_ISA
