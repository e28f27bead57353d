/* The header is valid C, and the library answers through it: version, a refusal with its message, one result. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "check.h"
#include "saccade.h"

int main(void) {
  saccade_context* context = 0;
  saccade_context_args create;
  saccade_token_log_probs_args args;
  char error[256];
  float logits[3] = {0.0f, 1.0f, 2.0f}, log_prob = 7.0f, entropy = 7.0f, lse = 7.0f;
  int32_t target = 2;
  double sum = 1.0 + exp(1.0) + exp(2.0);

  CHECK(saccade_abi_version() == SACCADE_ABI_VERSION);

  memset(&create, 0, sizeof create);
  create.struct_size = sizeof create;
  create.device = 9;
  CHECK(saccade_context_create(&create, &context, error, sizeof error) == SACCADE_INVALID_ARGUMENT);
  CHECK(!context && strstr(error, "device"));
  create.device = SACCADE_CPU;
  create.threads = 2;
  CHECK(saccade_context_create(&create, &context, error, sizeof error) == SACCADE_OK);
  CHECK(saccade_context_threads(context) == 2);

  memset(&args, 0, sizeof args);
  args.struct_size = sizeof args;
  args.rows = 1;
  args.vocabulary = 3;
  args.logits = (saccade_address)(uintptr_t)logits;
  args.targets = (saccade_address)(uintptr_t)&target;
  args.log_prob = (saccade_address)(uintptr_t)&log_prob;
  args.entropy = (saccade_address)(uintptr_t)&entropy;
  args.lse = (saccade_address)(uintptr_t)&lse;
  CHECK(saccade_token_log_probs(context, &args) == SACCADE_INVALID_ARGUMENT);
  CHECK(!strcmp(saccade_error_argument(context), "temperature"));
  CHECK(log_prob == 7.0f);
  args.temperature = 1.0f;
  CHECK(saccade_token_log_probs(context, &args) == SACCADE_OK);
  CHECK(!saccade_error_message(context)[0]);
  CHECK(fabs(log_prob - (2.0 - log(sum))) < 1e-6);
  CHECK(fabs(lse - log(sum)) < 1e-6);
  CHECK(fabs(entropy - (log(sum) - (exp(1.0) + 2.0 * exp(2.0)) / sum)) < 1e-6);
  saccade_context_destroy(context);
  return 0;
}
