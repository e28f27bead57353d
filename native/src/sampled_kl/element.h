// One vector of the sampled estimators of KL(policy || reference), docs/spec.md §3.
#pragma once

#include "core/simd.h"

namespace saccade::SACCADE_ISA {

constexpr float kMaxLogRatio = 20.0f;  // logarithms of ratios are clamped to +-this before exp

SACCADE_INLINE vfloat clamp_log_ratio(vfloat x) { return at_most(at_least(x, -kMaxLogRatio), kMaxLogRatio); }

// Where clamp_log_ratio changed a number.
SACCADE_INLINE vint beyond_log_ratio(vfloat x) { return (x > kMaxLogRatio) | (x < -kMaxLogRatio); }

// An estimate and its derivative by the policy's log-probability.
struct KlElement {
  vfloat value;
  vfloat gradient;
};

// e^x - 1 - x for |x| <= 20.  Within |x| < 0.3 the series; its first omitted term is below 2^-29 of the sum.
SACCADE_INLINE vfloat exp_minus_line(vfloat x) {
  vfloat s = x * (1.0f / 40320.0f) + 1.0f / 5040.0f;
  s = s * x + 1.0f / 720.0f;
  s = s * x + 1.0f / 120.0f;
  s = s * x + 1.0f / 24.0f;
  s = s * x + 1.0f / 6.0f;
  s = s * x + 0.5f;
  return select((x < 0.3f) & (x > -0.3f), x * x * s, exp(x) - 1.0f - x);
}

// NaN in either log-probability gives a NaN value and a NaN gradient, whatever the estimator.
SACCADE_INLINE KlElement sampled_kl_element(int32_t estimator, vfloat log_prob, vfloat ref_log_prob) {
  const vfloat difference = ref_log_prob - log_prob, d = clamp_log_ratio(difference);
  const auto unless_nan = [&](vfloat x) { return select(d != d, d, x); };
  switch (estimator) {
    case SACCADE_KL_K1:
      return {-d, unless_nan(splat(1.0f))};
    case SACCADE_KL_ABS: {
      const vfloat sign = select(d > 0.0f, splat(1.0f), select(d < 0.0f, splat(-1.0f), splat(0.0f)));
      return {select(d < 0.0f, -d, d), unless_nan(-sign)};
    }
    case SACCADE_KL_K2:
      return {0.5f * d * d, -d};
    case SACCADE_KL_K3: {
      const vfloat value = exp_minus_line(d);
      return {value, select(beyond_log_ratio(difference), splat(0.0f), -(value + d))};
    }
    case SACCADE_KL_K1_ST:
      return {-d, -d};
    default:  // SACCADE_KL_K3_ST
      return {exp_minus_line(d), -d};
  }
}

}  // namespace saccade::SACCADE_ISA
