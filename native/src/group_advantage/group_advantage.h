// group_advantage (docs/spec.md §1): rewards of groups of rollouts to advantages, with the groups' statistics.
//
// CPU: statistics in f64, a sweep for the mean and a sweep for the deviations of each group.  The estimators that
// divide by a deviation of the batch first merge the groups' moments (Chan) over fixed slices of the groups, on the
// stack, then walk the groups a second time.
// A group whose rewards are NaN makes its own advantages NaN, and those of the batch where they are divided by a
// deviation of the batch; degenerate groups keep their zeros.
#pragma once

#include "core/call.h"

SACCADE_DECLARE_CPU(void group_advantage(Pool& pool, const saccade_group_advantage_args& args))
