// One vector of the sampled estimators of KL(policy || reference), docs/spec.md §3.
#pragma once

#include "core/lanes.h"

namespace saccade::SACCADE_ISA {

constexpr float kMaxLogRatio = 20.0f;  // logarithms of ratios are clamped to +-this before exp

// NaN stays.
SACCADE_INLINE vfloat clamp_log_ratio(vfloat x) { return clamp(x, -kMaxLogRatio, kMaxLogRatio); }

// Where clamp_log_ratio changed a number.
SACCADE_INLINE vint beyond_log_ratio(vfloat x) { return beyond(x, kMaxLogRatio); }

// An estimate, its derivative by the policy's log-probability, and their sum, which importance correction needs: for K3
// it is -d exactly where the two cancel.
struct KlElement {
  vfloat value;
  vfloat gradient;
  vfloat sum;
};

// expm1 = e^x - 1 and rest = e^x - 1 - x for |x| <= 20, both to a few units in the last place.  Within |x| < 0.3 by the
// series; its first omitted term is below 2^-29 of the sum.
struct Exponential {
  vfloat expm1;
  vfloat rest;
};

SACCADE_INLINE Exponential exponential(vfloat x) {
  vfloat s = x * (1.0f / 40320.0f) + 1.0f / 5040.0f;
  s = s * x + 1.0f / 720.0f;
  s = s * x + 1.0f / 120.0f;
  s = s * x + 1.0f / 24.0f;
  s = s * x + 1.0f / 6.0f;
  s = s * x + 0.5f;
  const vfloat series = x * x * s, far = exp_bounded(x) - 1.0f;
  const vint near = within(x, 0.3f);
  return {select(near, x + series, far), select(near, series, far - x)};
}

// NaN in either log-probability gives a NaN value and a NaN gradient, whatever the estimator.
SACCADE_INLINE KlElement sampled_kl_element(int32_t estimator, vfloat log_prob, vfloat ref_log_prob) {
  const vfloat difference = ref_log_prob - log_prob, d = clamp_log_ratio(difference);
  const auto unless_nan = [&](vfloat x) { return select(d != d, d, x); };
  const auto element = [](vfloat value, vfloat gradient) { return KlElement{value, gradient, value + gradient}; };
  switch (estimator) {
    case SACCADE_KL_K1:
      return element(-d, unless_nan(splat(1.0f)));
    case SACCADE_KL_ABS:
      return element(select(d < 0.0f, -d, d),
                     unless_nan(select(d > 0.0f, splat(-1.0f), select(d < 0.0f, splat(1.0f), splat(0.0f)))));
    case SACCADE_KL_K2:
      return element(0.5f * d * d, -d);
    case SACCADE_KL_K3: {
      const Exponential e = exponential(d);
      const vint clamped = beyond_log_ratio(difference);
      return {e.rest, select(clamped, splat(0.0f), -e.expm1), select(clamped, e.rest, -d)};
    }
    case SACCADE_KL_K1_ST:
      return element(-d, -d);
    default:  // SACCADE_KL_K3_ST
      return element(exponential(d).rest, -d);
  }
}

// The estimate times the ratio rho = exp(log_ratio) of policy and sampling policy, which is differentiated too.
SACCADE_INLINE KlElement corrected_kl_element(int32_t estimator, vfloat log_prob, vfloat ref_log_prob,
                                              vfloat log_ratio) {
  const KlElement kl = sampled_kl_element(estimator, log_prob, ref_log_prob);
  const vfloat ratio = exp_bounded(clamp_log_ratio(log_ratio)), value = ratio * kl.value, gradient = ratio * kl.sum;
  return {value, gradient, value + gradient};
}

}  // namespace saccade::SACCADE_ISA
