#include "core/call.h"

using namespace saccade;

int32_t saccade_linear_policy_loss_workspace(saccade_context* context, const saccade_linear_policy_loss_args*,
                                             int64_t*) {
  return run(context, "linear_policy_loss",
             [&] { fail(SACCADE_UNSUPPORTED, "context", "an operation of this backend", "one that it lacks"); });
}

int32_t saccade_linear_policy_loss(saccade_context* context, const saccade_linear_policy_loss_args*) {
  return run(context, "linear_policy_loss",
             [&] { fail(SACCADE_UNSUPPORTED, "context", "an operation of this backend", "one that it lacks"); });
}
