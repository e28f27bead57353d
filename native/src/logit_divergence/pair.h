// What logit_divergence asks of a token of two rows of logits.
//
// A divergence is a mean under one of the two rows, p; the other is q.  All that is asked of a token follows from its p
// and its log-ratio y = log q - log p, and y from the difference of the two logits, so that policies close to each
// other keep it to full relative precision:
//
//   KL(p || q)                p K3(y)                       K3(y) = e^y - 1 - y
//   JSD, w the weight of q    p (w G(y) - phi(v))           v = w (e^y - 1), so that M = p (1 + v);
//                                                           G(y) = y e^y - (e^y - 1), phi(v) = (1 + v) log(1 + v) - v
//
// FORWARD_KL is the mean under the reference, REVERSE_KL under the policy, JSD under the one of larger weight.  These
// terms are never negative; they leave out multiples of sum (q - p) = 0, so that an error e of a log-normaliser changes
// their sum by e^2/2 only.  What the sum of q - p then differs from 0 by is e, and e^2/2 is taken off.
// Where y >= kFar, p is nothing beside q, and may be below the range of f32: the terms are those of p = 0.
//
// The gradient with respect to z = logits/temperature is q - p for FORWARD_KL, within about 1e-7 of p where they are
// close; for the others it is policy * (mean - score), score = log r - log policy or log M - log policy, and mean the
// mean of these very scores under the policy, which cancels what error they have in common.
// The gradients of a row sum to 0.  That of a token which holds most of the policy would be a difference of numbers
// that agree in most of their digits: it is taken from the others.
#pragma once

#include "core/lanes.h"

namespace saccade::SACCADE_ISA {

constexpr float kFar = 40.0f;

enum class Form { kForwardKl, kReverseKl, kJsdUnderPolicy, kJsdUnderReference };

constexpr bool is_jsd(Form form) { return form == Form::kJsdUnderPolicy || form == Form::kJsdUnderReference; }
constexpr bool under_policy(Form form) { return form == Form::kReverseKl || form == Form::kJsdUnderPolicy; }

// A row's largest logit and the log-normaliser of its distances from that.
struct Normaliser {
  float max, log_sum;
};

template <Form kForm>
struct Pair {
  Normaliser policy, reference;
  float inverse_temperature;
  float weight;  // of q, for JSD; at most 1/2
  float limit;   // of the divergence's term, in units of q
  // The difference of the log-normalisers in units of logits: an integer, which the larger of the two logits loses
  // without rounding where the rows differ by about a constant; the nearest f32 to the rest, which the difference of
  // the logits loses without rounding where it is about that; and what remains, scaled.
  float whole_p, whole_q, fraction, rest;

  // log_sums: that of the reference less that of the policy, more precisely than their f32 values tell.
  SACCADE_INLINE Pair(Normaliser policy_, Normaliser reference_, double log_sums, float inverse, float beta)
      : policy(policy_),
        reference(reference_),
        inverse_temperature(inverse),
        weight(under_policy(kForm) ? beta : 1.0f - beta),
        limit(is_jsd(kForm) ? -weight * std::log(weight) : 1.0f) {
    const double scale = static_cast<double>(inverse);
    const double maxima = static_cast<double>(reference.max) - static_cast<double>(policy.max);
    const double difference = (under_policy(kForm) ? 1.0 : -1.0) * (maxima + log_sums / scale);
    const double whole = std::rint(difference);
    const bool from_q = std::fabs(q().max) > std::fabs(p().max);
    whole_p = from_q ? 0.0f : static_cast<float>(-whole);
    whole_q = from_q ? static_cast<float>(whole) : 0.0f;
    fraction = static_cast<float>(difference - whole);
    rest = static_cast<float>((difference - whole - static_cast<double>(fraction)) * scale);
  }

  SACCADE_INLINE const Normaliser& p() const { return under_policy(kForm) ? policy : reference; }
  SACCADE_INLINE const Normaliser& q() const { return under_policy(kForm) ? reference : policy; }

  SACCADE_INLINE vfloat probability(const Normaliser& row, vfloat logit) const {
    return exp_scaled((logit - row.max) * (inverse_temperature * kExpScale) - row.log_sum * kExpScale);
  }

  SACCADE_INLINE vfloat difference(vfloat logit_p, vfloat logit_q) const {
    return (logit_q - whole_q) - (logit_p - whole_p);
  }

  // y from the difference, between bounds beyond which nothing changes but KL where q is nothing beside p.  NaN, which
  // is a token masked on both sides, becomes the lower one; p is 0 there.
  SACCADE_INLINE vfloat log_ratio(vfloat difference) const {
    constexpr float kLow = is_jsd(kForm) ? -88.0f : -__FLT_MAX__, kHigh = under_policy(kForm) ? 88.0f : kFar;
    return bounded((difference - fraction) * inverse_temperature - rest, kLow, kHigh);
  }

  struct Term {
    vfloat divergence;  // in units of p
    vfloat change;      // (q - p)/p
    vfloat score;
  };

  SACCADE_INLINE Term term(vfloat y) const {
    const ExpParts e = exp_parts(y);
    if (!is_jsd(kForm)) return {e.k3, e.expm1, y};
    const Log1pParts m = log1p_parts(weight * e.expm1, weight * e.exp + (1.0f - weight));
    return {weight * e.g - m.phi, e.expm1, kForm == Form::kJsdUnderPolicy ? m.log1p : m.log1p - y};
  }

  // Terms of the sums over a row.
  struct Token {
    vfloat divergence;
    vfloat change;  // q - p
    vfloat policy;  // probability
    vfloat score;
  };

  SACCADE_INLINE Token token(vfloat logit_p, vfloat logit_q, vfloat difference) const {
    const vfloat y = log_ratio(difference);
    const Term t = term(y);
    const vfloat p = probability(this->p(), logit_p);
    vfloat divergence = p * t.divergence, q_minus_p = p * t.change;
    const vint far = y >= kFar;
    if (any(far)) {
      const vfloat q = probability(this->q(), logit_q);
      divergence = select(far, limit * q, divergence);
      q_minus_p = select(far, q, q_minus_p);
    }
    return {divergence, q_minus_p, under_policy(kForm) ? p : p + q_minus_p, t.score};
  }

  // The gradient of a token with respect to logits/temperature, but for FORWARD_KL.
  SACCADE_INLINE vfloat gradient(vfloat logit_p, vfloat logit_q, float mean) const {
    const vfloat score = term(log_ratio(difference(logit_p, logit_q))).score;
    return probability(policy, under_policy(kForm) ? logit_p : logit_q) * (mean - score);
  }

  // From the sums over the row: a divergence without what an error of the log-normalisers adds to it.
  SACCADE_INLINE double corrected(double divergence, double change) const {
    const double w = static_cast<double>(weight), curvature = is_jsd(kForm) ? w * (1.0 - w) : 1.0;
    divergence -= 0.5 * curvature * change * change;
    return divergence < 0.0 ? 0.0 : divergence;
  }
};

}  // namespace saccade::SACCADE_ISA
