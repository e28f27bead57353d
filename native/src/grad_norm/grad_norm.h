// grad_norm (docs/spec.md §10): global L2 norm over many tensors, and the factor that clips it.
//
// CPU: one read of the gradients, squares and sums in f64, so that no finite f32 gradient overflows or vanishes.  The
// tensors count as one long vector that is cut into blocks of fixed size; the sums of the blocks are added in order.
// Bytes: 4 for every element, once.
#pragma once

#include "core/call.h"

namespace saccade {

constexpr int64_t kGradNormBlock = 1 << 15;  // elements of a task

struct GradNormWorkspace {
  int64_t blocks;
  double* sums;  // [blocks]
};

}  // namespace saccade

SACCADE_DECLARE(grad_norm, const saccade_grad_norm_args& args, const GradNormWorkspace& workspace)
