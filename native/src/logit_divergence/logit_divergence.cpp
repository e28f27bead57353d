#include "core/call.h"

using namespace saccade;

int32_t saccade_logit_divergence(saccade_context* context, const saccade_logit_divergence_args*) {
  return run(context, "logit_divergence",
             [&] { fail(SACCADE_UNSUPPORTED, "context", "an operation of this backend", "one that it lacks"); });
}
