// scatter_add_rows: y[index[i]] += x[i], the adjoint of gather_rows.
//
// Rows of equal index are added in the order of i, and nothing is atomic.  On the CPU a task owns a range of columns
// and walks all i, so that hot rows do not unbalance the tasks; on a GPU a block owns every so many rows of y, and
// lists the i that are for them.  Bytes: one read of x, a read and a write of y for every i; every task, or block,
// reads the index.
#pragma once

#include "core/call.h"

SACCADE_DECLARE(scatter_add_rows, const saccade_scatter_add_rows_args& args)
