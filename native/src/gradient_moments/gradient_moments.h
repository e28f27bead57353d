// gradient_moments (docs/spec.md §11): mean and sum of squared deviations of gradient samples, element by element:
// adding samples, adding another state (Chan), and what the state says of segments.
//
// Adding R samples takes two sums of d = x - origin in f64: mean' = origin + sum d / count', and m2 grows by
// sum d^2 - (sum d)^2 / count'.  The origin is the mean so far, or the first sample where there is none: then the
// second term is at most 1 - 1/(R + 1) of the first, and what cancels costs a factor of R + 1 of f64's precision at
// most.
//
// CPU: every element is computed in f64 and rounded once, to the state's f32 mean and f64 m2; no element sees another
// one.  The report cuts the elements into blocks of fixed size, whatever the segments are: a huge segment is spread
// over many tasks, and a task takes many tiny ones.  The sums of what a block holds of a segment are kept in the
// workspace and added in order.
// Bytes an element: update 12 read and 12 written, the samples, and 4 written of their sum; merge 24 read and 12
// written; report 12 read.
#pragma once

#include "core/call.h"

namespace saccade {

constexpr int64_t kMomentsBlock = 1 << 14;  // elements (in the report's last step, segments) of a task

// Of the elements that a block and a segment share.
struct MomentSums {
  double mean_sq, m2;
};

}  // namespace saccade

SACCADE_DECLARE(gradient_moments_update, const saccade_gradient_moments_update_args& args)
SACCADE_DECLARE(gradient_moments_merge, const saccade_gradient_moments_merge_args& args)
SACCADE_DECLARE(gradient_moments_report, const saccade_gradient_moments_report_args& args, MomentSums* sums)
