// sample_tokens: one token a row from softmax(logits / temperature).
//
// The uniform number of a row is u = (w1:w0 >> 11) * 2^-53 in [0,1), from the first two words of Philox4x32-10 with key
// (seed low, seed high) and counter (offset low, offset high, stream low, stream high), the stream sign-extended to 64
// bits.  It depends on nothing else: not on the batch, the row's place in it, or the thread.
// A row is read for its maximum, for its normaliser, and again up to the token drawn, in blocks whose sums are added in
// f64; the later reads come from the cache, and probabilities are not stored.  At temperature 0 the random numbers are
// not used.
#pragma once

#include "core/call.h"

SACCADE_DECLARE_CPU(void sample_tokens(Pool& pool, const saccade_sample_tokens_args& args))
