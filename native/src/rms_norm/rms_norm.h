// rms_norm: y = x * rstd * weight with rstd = 1/sqrt(mean(x^2) + eps), a row at a time; and its gradient.
//
// Forward: a row is read for its sum of squares and, from the cache, once more for y.  Bytes: one read of x, one write
// of y; with a residual one read of it and one write of x more.
// Backward, with g = dy * weight: dx = rstd * (g - x * rstd^2 * mean(g*x)), d_weight += sum over rows of dy * x * rstd.
// One read of x and dy, one write of dx (and one read of a residual).  d_weight: every fixed block of rows has its
// own partial sum in the workspace; the partial sums are added in f64 in a fixed order.  x * rstd is never
// stored.
#pragma once

#include "core/call.h"

namespace saccade {

// Blocks of rows that share a partial sum of d_weight: large enough to be a task, on a GPU small enough that each
// multiprocessor has some; few enough that the partial sums are small beside x, and at most 4096 rows.
struct RmsNormBlocks {
  int64_t block;  // rows of a block but the last
  int64_t blocks;
  int64_t stride;  // floats from one partial sum to the next: whole cache lines

  RmsNormBlocks(int64_t rows, int64_t columns, bool gpu) {
    constexpr int64_t kElements = 1 << 15, kMaxRowsOfBlock = 1 << 12;
    const int64_t most = gpu ? 512 : 128;
    const int64_t enough = gpu ? 8 : (kElements + columns - 1) / columns, few = (rows + most - 1) / most;
    block = enough > few ? enough : few;
    if (block > kMaxRowsOfBlock) block = kMaxRowsOfBlock;
    blocks = (rows + block - 1) / block;
    stride = (columns + 15) / 16 * 16;
  }
};

}  // namespace saccade

SACCADE_DECLARE(rms_norm, const saccade_rms_norm_args& args)
SACCADE_DECLARE(rms_norm_backward, const saccade_rms_norm_backward_args& args)
