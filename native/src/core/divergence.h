// Stable elements of the divergences of docs/spec.md §4 and §8, for probabilities in linear space.
#pragma once

#include "core/lanes.h"

namespace saccade::SACCADE_ISA {

constexpr float kFloor = 0x1p-126f;  // logarithms of probabilities are taken no lower

// log(a / b) of floored a and b: the difference of two logarithms would carry the rounding of both.
SACCADE_INLINE vfloat log_quotient(vfloat a, vfloat b) { return log(at_least(a / b, kFloor)); }

// phi(t) b with t = (a - b) / b: one term of KL(a || b) = sum a log(a/b) - a + b, never negative.
// Within |t| < 1/8 the series; its first omitted term is below 2^-28 of the sum.
SACCADE_INLINE vfloat kl_term(vfloat a, vfloat b) {
  vfloat fa = at_least(a, kFloor), fb = at_least(b, kFloor);
  vfloat difference = a - b;
  vfloat t = difference / fb;
  vfloat s = t * -0.013888889f + 0.017857143f;  // 1/(n(n-1)) for n = 9, 8 ... 2, alternating
  s = s * t - 0.023809524f;
  s = s * t + 0.033333333f;
  s = s * t - 0.05f;
  s = s * t + 0.083333333f;
  s = s * t - 0.16666667f;
  s = s * t + 0.5f;
  vfloat near = fb * t * t * s;
  vfloat far = a * log_quotient(fa, fb) - difference;
  return select((t < 0.125f) & (t > -0.125f), near, far);
}

// log(a / b) with both floored, where a - b = difference: without cancellation where they are close.
SACCADE_INLINE vfloat log_ratio(vfloat a, vfloat b, vfloat difference) {
  vfloat fa = at_least(a, kFloor), fb = at_least(b, kFloor);
  vfloat t = difference / fb;
  vfloat s = t * 0.11111111f - 0.125f;
  s = s * t + 0.14285714f;
  s = s * t - 0.16666667f;
  s = s * t + 0.2f;
  s = s * t - 0.25f;
  s = s * t + 0.33333333f;
  s = s * t - 0.5f;
  s = s * t + 1.0f;
  return select((t < 0.125f) & (t > -0.125f), s * t, log_quotient(fa, fb));
}

}  // namespace saccade::SACCADE_ISA
