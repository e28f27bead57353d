// swiglu: y = silu(gate) * up = gate * sigmoid(gate) * up, the halves of x's columns; and its gradient.
//
// Elementwise: one read of x (and dy), one write of y (dx).  The sigmoid is e^-|gate| based, so that neither it nor its
// complement overflows or cancels; the backward pass computes it anew instead of reading it.
#pragma once

#include "core/call.h"

SACCADE_DECLARE(swiglu, const saccade_swiglu_args& args)
SACCADE_DECLARE(swiglu_backward, const saccade_swiglu_backward_args& args)
