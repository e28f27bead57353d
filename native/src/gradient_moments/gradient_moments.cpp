#include "core/call.h"

using namespace saccade;

int32_t saccade_gradient_moments_update(saccade_context* context, const saccade_gradient_moments_update_args*) {
  return run(context, "gradient_moments_update",
             [&] { fail(SACCADE_UNSUPPORTED, "context", "an operation of this backend", "one that it lacks"); });
}

int32_t saccade_gradient_moments_merge(saccade_context* context, const saccade_gradient_moments_merge_args*) {
  return run(context, "gradient_moments_merge",
             [&] { fail(SACCADE_UNSUPPORTED, "context", "an operation of this backend", "one that it lacks"); });
}

int32_t saccade_gradient_moments_report_workspace(saccade_context* context, const saccade_gradient_moments_report_args*,
                                                  int64_t*) {
  return run(context, "gradient_moments_report",
             [&] { fail(SACCADE_UNSUPPORTED, "context", "an operation of this backend", "one that it lacks"); });
}

int32_t saccade_gradient_moments_report(saccade_context* context, const saccade_gradient_moments_report_args*) {
  return run(context, "gradient_moments_report",
             [&] { fail(SACCADE_UNSUPPORTED, "context", "an operation of this backend", "one that it lacks"); });
}
