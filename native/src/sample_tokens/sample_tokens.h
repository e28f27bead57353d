// sample_tokens: one token a row from softmax(logits / temperature), or from its nucleus (top_p).
//
// The uniform number of a row is u = (w1:w0 >> 11) * 2^-53 in [0,1), from the first two words of Philox4x32-10 with key
// (seed low, seed high) and counter (offset low, offset high, stream low, stream high), the stream sign-extended to 64
// bits.  It depends on nothing else: not on the batch, the row's place in it, or the thread.
// The nucleus is all tokens of at least a cutoff, the largest logit at which their probability reaches top_p.  No row
// is sorted: the cutoff is selected digit by digit, from the probability that logits of each digit hold. At temperature
// 0 the random numbers are not used, nor is top_p.
//
// CPU.  A row is read for its maximum, for its normaliser, and again up to the token drawn, in blocks whose sums are
// added in f64; top_p adds a sweep for each of three digits, the last two of which look at few tokens.  The later reads
// come from the cache, and probabilities are not stored.
// CUDA.  One block a row: a read from memory for the maximum, one from the L2 cache for the probability of each of up
// to 1024 tiles, and one of the tile that holds the token; top_p adds a read for each digit of 10 bits (two, of 16-bit
// logits), whose probabilities are added as integers, so that their order does not matter.
// Bytes: R*V*sizeof(logits), once.
#pragma once

#include "core/call.h"

SACCADE_DECLARE(sample_tokens, const saccade_sample_tokens_args& args)
