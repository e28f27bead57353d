// gather_rows: y[out_index[i]] (+)= x[index[i]]; embedding look-up, packing, cache writes.
//
// A copy: one read of the rows named by index, one write (and, accumulated, one read) of the rows named by out_index.
// index and out_index are data: bad values are defused here, never checked on the host.
#pragma once

#include "core/call.h"

SACCADE_DECLARE(gather_rows, const saccade_gather_rows_args& args)
