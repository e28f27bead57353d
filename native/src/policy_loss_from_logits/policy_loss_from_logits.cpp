#include "core/call.h"

using namespace saccade;

int32_t saccade_policy_loss_from_logits_workspace(saccade_context* context, const saccade_policy_loss_from_logits_args*,
                                                  int64_t*) {
  return run(context, "policy_loss_from_logits",
             [&] { fail(SACCADE_UNSUPPORTED, "context", "an operation of this backend", "one that it lacks"); });
}

int32_t saccade_policy_loss_from_logits(saccade_context* context, const saccade_policy_loss_from_logits_args*) {
  return run(context, "policy_loss_from_logits",
             [&] { fail(SACCADE_UNSUPPORTED, "context", "an operation of this backend", "one that it lacks"); });
}
