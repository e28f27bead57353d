// core/simd.h for the CUDA backend, where a lane is a thread: what formulas written for both backends use.
#pragma once

#include <cmath>
#include <cstdint>

#include "saccade.h"

#define SACCADE_INLINE __device__ __forceinline__

namespace saccade::cuda {

using vfloat = float;
using vint = bool;

SACCADE_INLINE vfloat splat(float x) { return x; }
SACCADE_INLINE vfloat select(vint mask, vfloat a, vfloat b) { return mask ? a : b; }
SACCADE_INLINE bool any(vint mask) { return mask; }

// Bounds that keep NaN in x.
SACCADE_INLINE vfloat at_least(vfloat x, float low) { return x < low ? low : x; }
SACCADE_INLINE vfloat at_most(vfloat x, float high) { return x > high ? high : x; }

// Whether x is farther than `bound` from 0, or nearer; NaN is neither.
SACCADE_INLINE vint beyond(vfloat x, float bound) { return fabsf(x) > bound; }
SACCADE_INLINE vint within(vfloat x, float bound) { return fabsf(x) < bound; }

// Between two bounds; the lower one for NaN.
SACCADE_INLINE vfloat bounded(vfloat x, float low, float high) { return fminf(fmaxf(x, low), high); }

// The larger; NaN where either is NaN.
SACCADE_INLINE float max_nan(float a, float b) {
  float y;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(y) : "f"(a), "f"(b));
  return y;
}

// Between two bounds; NaN stays.
SACCADE_INLINE float clamp(float x, float low, float high) {
  float y;
  asm("min.NaN.f32 %0, %1, %2;" : "=f"(y) : "f"(max_nan(x, low)), "f"(high));
  return y;
}

SACCADE_INLINE vfloat exp(vfloat x) { return expf(x); }
SACCADE_INLINE vfloat log(vfloat x) { return logf(x); }

constexpr float kLog2E = 1.44269504088896341f, kLog2 = 0.693147180559945309f;

// 2^x within 2 ulp; below 2^-126: 0.
SACCADE_INLINE float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// e^x within some 3e-7 of it for |x| up to 80.
SACCADE_INLINE float exp_bounded(float x) {
  const float y = x * kLog2E, e = exp2_fast(y), excess = fmaf(x, -kLog2E, y);
  return fmaf(e, excess * -kLog2, e);
}

// Logarithm to base 2 of a normal number: within 2^-22 from 1/2 to 2, within 2 ulp elsewhere.
SACCADE_INLINE float log2_fast(float x) {
  float y;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// exp_scaled(kExpScale * x) is e^x: the unit of exponents that the backend's exponential takes.
constexpr float kExpScale = kLog2E;
SACCADE_INLINE vfloat exp_scaled(vfloat x) { return exp2_fast(x); }

// e^x, e^x - 1, K3(x) = e^x - 1 - x and G(x) = x e^x - (e^x - 1) for x up to 88: each within some 1e-6 of it, by a
// polynomial where |x| is small.
struct ExpParts {
  vfloat exp, expm1, k3, g;
};

SACCADE_INLINE ExpParts exp_parts(vfloat x) {
  float p = 1.98756915e-4f * x + 1.39819994e-3f;
  p = p * x + 8.33345212e-3f;
  p = p * x + 4.16657962e-2f;
  p = p * x + 1.66666657e-1f;
  p = p * x + 0.5f;
  const float tail = p * (x * x), e = exp2_fast(x * kLog2E);
  const bool near = fabsf(x) < 0.5f * kLog2;
  ExpParts parts;
  parts.exp = e;
  parts.expm1 = near ? tail + x : e - 1.0f;
  parts.k3 = near ? tail : parts.expm1 - x;
  parts.g = near ? x * parts.expm1 - tail : x * e - parts.expm1;
  return parts;
}

// log(1 + x) and phi(x) = (1 + x) log(1 + x) - x, each within some 1e-6 of it, by a polynomial where |x| is small; the
// caller gives 1 + x >= 2^-126 as precisely as it has it.
struct Log1pParts {
  vfloat log1p, phi;
};

SACCADE_INLINE Log1pParts log1p_parts(vfloat x, vfloat one_plus_x) {
  float p = 7.0376836292e-2f * x - 1.1514610310e-1f;
  p = p * x + 1.1676998740e-1f;
  p = p * x - 1.2420140846e-1f;
  p = p * x + 1.4249322787e-1f;
  p = p * x - 1.6668057665e-1f;
  p = p * x + 2.0000714765e-1f;
  p = p * x - 2.4999993993e-1f;
  p = p * x + 3.3333331174e-1f;
  const float z = x * x, tail = x * z * p - 0.5f * z;
  const bool near = one_plus_x > 0.70710678f && one_plus_x < 1.41421356f;
  Log1pParts parts;
  parts.log1p = near ? x + tail : log2_fast(one_plus_x) * kLog2;
  parts.phi = near ? z + one_plus_x * tail : one_plus_x * parts.log1p - x;
  return parts;
}

}  // namespace saccade::cuda
