// adamw (docs/spec.md §10): one step of Adam with decoupled weight decay over many tensors, on f32 master weights,
// with an optional bf16 copy of the new weights.
//
// CPU: one pass.  The tensors count as one long vector that is cut into blocks of fixed size.
// Bytes: 16 read and 12 written for every element, and 2 for its bf16 copy.
// A skipped step (grad_scale_scalar not finite) changes no weight and no moment and reads no gradient; the bf16 copies
// are written all the same, so that they always hold the weights.
#pragma once

#include "core/call.h"

namespace saccade {

constexpr int64_t kAdamwBlock = 1 << 14;  // elements of a task

}  // namespace saccade

SACCADE_DECLARE(adamw, const saccade_adamw_args& args, int64_t elements)
