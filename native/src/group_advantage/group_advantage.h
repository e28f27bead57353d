// group_advantage (docs/spec.md §1): rewards of groups of rollouts to advantages, with the groups' statistics.
//
// CPU: statistics in f64, a sweep for the mean and a sweep for the deviations of each group.  The estimators that
// divide by a deviation of the batch first merge the groups' moments (Chan) over fixed slices of the groups, on the
// stack, then walk the groups a second time.
// CUDA: 8 lanes of a warp a group, 32 for long ones, that hold its rewards up to 64 or 256: one launch, one read, one
// write.  The estimators that divide by a deviation of the batch take a launch before it, for the moments of slices of
// the groups. A group whose rewards are NaN makes its own advantages NaN, and those of the batch where they are divided
// by a deviation of the batch; degenerate groups keep their zeros.
#pragma once

#include "core/call.h"

namespace saccade {

// Whether advantages are divided by a deviation of the whole batch.
inline bool divides_by_batch(const saccade_group_advantage_args& args) {
  return args.estimator == SACCADE_ADVANTAGE_BATCH_STD || args.estimator == SACCADE_ADVANTAGE_REINFORCE_PP_BASELINE;
}

namespace cuda {
int64_t group_advantage_workspace(const saccade_group_advantage_args& args);
}

}  // namespace saccade

SACCADE_DECLARE(group_advantage, const saccade_group_advantage_args& args)
