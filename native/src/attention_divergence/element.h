// What a divergence of docs/spec.md §8 is made of, element by element, for probabilities.
#pragma once

#include "core/divergence.h"

namespace saccade::SACCADE_ISA {

// One divergence at one element: its value, never negative, and its derivative with respect to p without the constant
// that the renormalisation takes away.
struct Element {
  vfloat value, derivative;
};

SACCADE_INLINE Element element_of(int32_t kind, float beta, vfloat p, vfloat r, vfloat policy) {
  if (kind == SACCADE_DIVERGENCE_FORWARD_KL) {
    // Below the floor the logarithm is constant; `policy` is the sum that p is a multiple of, never r / 0.
    const vint live = (p >= splat(kFloor)) & (policy >= splat(kFloor));
    return {kl_term(r, p), select(live, -r / p, splat(0.0f))};
  }
  if (kind == SACCADE_DIVERGENCE_REVERSE_KL) return {kl_term(p, r), log_ratio(p, r, p - r)};
  const vfloat m = beta * r + (1.0f - beta) * p;
  return {beta * kl_term(r, m) + (1.0f - beta) * kl_term(p, m), (1.0f - beta) * log_ratio(p, m, beta * (p - r))};
}

}  // namespace saccade::SACCADE_ISA
