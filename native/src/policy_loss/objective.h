// Objectives of policy_loss (docs/spec.md §5), one lane a row.
#pragma once

#include "policy_loss/policy_loss.h"
#include "sampled_kl/element.h"

namespace saccade::SACCADE_ISA {

// Loss and gradient of tokens before weights and the KL term, and which of them were clipped from below and above.
struct Token {
  vfloat loss;
  vfloat gradient;
  vint clipped_low;
  vint clipped_high;
};

class Objective {
 public:
  SACCADE_INLINE explicit Objective(const saccade_policy_loss_args& args)
      : objective_(args.objective),
        lowest_(1.0f - args.clip_low),
        highest_(1.0f + args.clip_high),
        dual_clip_(args.dual_clip),
        delta_(args.delta),
        tau_pos_(args.tau_pos),
        tau_neg_(args.tau_neg) {}

  // `saturated` where the logarithm of the ratio was clamped.
  SACCADE_INLINE Token token(vfloat log_prob, vfloat ratio, vint saturated, vfloat advantage) const {
    switch (objective_) {
      case SACCADE_OBJECTIVE_CISPO: {
        const vfloat weight = clamp(ratio, lowest_, highest_) * advantage;
        return {-weight * log_prob, -weight, ratio<lowest_, ratio> highest_};
      }
      case SACCADE_OBJECTIVE_SAPO: {
        const vfloat tau = select(advantage > 0.0f, splat(tau_pos_), splat(tau_neg_));
        const vfloat y = tau * (ratio - 1.0f);
        const vfloat e = exp(select(y > 0.0f, -y, y)), one = splat(1.0f), inverse = one / (one + e);
        const vfloat sigmoid = select(y > 0.0f, one, e) * inverse, slope = e * inverse * inverse;
        const vfloat gradient = -4.0f * slope * ratio * advantage;
        return {-4.0f / tau * sigmoid * advantage, select(saturated, splat(0.0f), gradient), vint{}, vint{}};
      }
      case SACCADE_OBJECTIVE_REINFORCE:
        return {-advantage * log_prob, select(log_prob != log_prob, log_prob, -advantage), vint{}, vint{}};
      default:
        return clipped(ratio, saturated, advantage);
    }
  }

 private:
  SACCADE_INLINE Token clipped(vfloat ratio, vint saturated, vfloat advantage) const {
    const vint negative = advantage < 0.0f;
    Token token;
    token.clipped_low = negative & (ratio < lowest_);
    token.clipped_high = (advantage > 0.0f) & (ratio > highest_);
    vfloat bounded = ratio;
    if (delta_ > 0.0f) {
      bounded = at_most(ratio, delta_);
      token.clipped_high |= negative & (ratio > delta_);
    }
    token.loss = max_nan(-bounded * advantage, -clamp(ratio, lowest_, highest_) * advantage);
    if (dual_clip_ > 0.0f) {
      const vfloat bound = -dual_clip_ * advantage;
      const vint binds = negative & (token.loss > bound);
      token.loss = select(binds, bound, token.loss);
      token.clipped_high |= binds;
    }
    token.gradient = select(token.clipped_low | token.clipped_high | saturated, splat(0.0f), -ratio * advantage);
    return token;
  }

  const int32_t objective_;
  const float lowest_, highest_, dual_clip_, delta_, tau_pos_, tau_neg_;
};

// a_t of the active rows of a sequence that has `active` of them, of `active_rows` in all; finite also where there are
// none.
SACCADE_INLINE double row_weight(const saccade_policy_loss_args& args, int64_t active, int64_t active_rows) {
  if (active == 0) return 0.0;
  const double sequences = static_cast<double>(args.sequences);
  const auto over = [&](double usual) { return args.normalizer > 0.0f ? static_cast<double>(args.normalizer) : usual; };
  switch (args.aggregation) {
    case SACCADE_AGGREGATION_TOKEN_MEAN:
      return 1.0 / over(static_cast<double>(active_rows));
    case SACCADE_AGGREGATION_SEQ_MEAN_TOKEN_MEAN:
      return 1.0 / (static_cast<double>(active) * over(sequences));
    case SACCADE_AGGREGATION_SEQ_MEAN_TOKEN_SUM:
      return 1.0 / over(sequences);
    default:
      return 1.0 / over(static_cast<double>(args.constant));
  }
}

}  // namespace saccade::SACCADE_ISA
