// logit_divergence (docs/spec.md §4): exact divergence over the vocabulary between a policy and a reference, both given
// as logits, and its gradient with respect to the policy's logits.
//
// CPU: three sweeps over a pair of rows, the first from memory, the others from the second-level cache: the statistics
// of both rows; the divergence and the mean that its gradient needs; the gradient.  FORWARD_KL's gradient needs no mean
// and is written by the second sweep.  No probability is ever stored: no row-sized temporary.
// Exponentials and logarithms per token: 2, then 2 (JSD: and a logarithm), then 1 (JSD: 2 and a logarithm).
// CUDA: the same sweeps, one block a pair of rows, the later ones from the L2 cache where that holds the pairs at work.
// On Hopper clusters keep pairs of long rows in shared memory, and REVERSE_KL too needs two sweeps (resident.cuh).
// Bytes: 2*R*V*sizeof(logits) read, R*V*sizeof(d_logits) written.
#pragma once

#include "core/call.h"

SACCADE_DECLARE(logit_divergence, const saccade_logit_divergence_args& args)
