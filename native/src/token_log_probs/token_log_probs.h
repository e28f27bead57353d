// token_log_probs (docs/spec.md §2): log-probability of a target, entropy and log-normaliser of every row of logits,
// and their gradient.
//
// CPU, forward: one read of the logits.  A row is walked in blocks that stay in the first-level cache: a sweep for the
// block's maximum, a sweep for sum e^(z-m) and sum e^(z-m)(z-m); blocks are joined in f64 by rescaling.
// No row-sized temporary.  Bytes: R*V*sizeof(logits), once.
// CUDA, forward: one block a row, maximum and sums joined online: one read.
// Backward: recomputes the forward statistics, then writes the gradient: two reads, one write.
#pragma once

#include "core/call.h"

SACCADE_DECLARE(token_log_probs, const saccade_token_log_probs_args& args)
SACCADE_DECLARE(token_log_probs_backward, const saccade_token_log_probs_backward_args& args)
