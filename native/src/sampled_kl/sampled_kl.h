// sampled_kl (docs/spec.md §3): estimators of KL(policy || reference) from the log-probabilities of sampled tokens,
// and their gradient by the policy's log-probability.
//
// Elementwise, value and gradient in one pass; no temporary.  Bytes: 4*R for every input read and output written.
#pragma once

#include "core/call.h"

SACCADE_DECLARE(sampled_kl, const saccade_sampled_kl_args& args)
