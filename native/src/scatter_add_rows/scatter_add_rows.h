// scatter_add_rows: y[index[i]] += x[i], the adjoint of gather_rows.
//
// A task owns a range of columns and walks all i in order: rows of equal index are added in the order of i whatever
// the thread count, hot rows do not unbalance the tasks, and nothing is atomic.  Bytes: one read of x, a read and a
// write of y for every i; the index is read by every task.
#pragma once

#include "core/call.h"

SACCADE_DECLARE(scatter_add_rows, const saccade_scatter_add_rows_args& args)
