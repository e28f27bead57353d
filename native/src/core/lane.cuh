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

// Bounds that keep NaN in x.
SACCADE_INLINE vfloat at_least(vfloat x, float low) { return x < low ? low : x; }
SACCADE_INLINE vfloat at_most(vfloat x, float high) { return x > high ? high : x; }

SACCADE_INLINE vfloat exp(vfloat x) { return expf(x); }
SACCADE_INLINE vfloat log(vfloat x) { return logf(x); }

}  // namespace saccade::cuda
