#include "policy_loss_from_logits/logit_policy.h"

namespace saccade::SACCADE_ISA {
namespace {

template <class T, class G>
void compute(Pool& pool, const saccade_policy_loss_from_logits_args& args, LogitPolicy& call) {
  const auto logits = [&](int64_t r) { return pointer<const T>(args.logits) + r * args.logits_stride; };
  const auto forward = [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r)
      if (call.active(r)) call.forward(r, logits(r));
  };
  call.activate(pool);
  if (call.two_passes())
    for_logit_tasks(pool, call.policy.args.rows, args.vocabulary,
                    [&](int64_t, int64_t begin, int64_t end) { forward(begin, end); });
  call.policy.count_blocks(pool);
  if (call.policy.by_sequence) call.policy.evaluate_blocks(pool);
  for_logit_tasks(pool, call.policy.args.rows, args.vocabulary, [&](int64_t task, int64_t begin, int64_t end) {
    if (!call.two_passes()) forward(begin, end);
    call.evaluate(task, begin, end);
    if (!args.d_logits) return;
    for (int64_t r = begin; r < end; ++r) {
      G* dx = pointer<G>(args.d_logits) + r * args.d_logits_stride;
      if (call.active(r))
        call.backward(r, logits(r), dx);
      else
        fill_row(dx, args.vocabulary, 0.0f);
    }
  });
  call.report(logit_tasks(call.policy.args.rows, args.vocabulary));
}

}  // namespace

void policy_loss_from_logits(Pool& pool, const saccade_policy_loss_from_logits_args& args,
                             const saccade_policy_loss_args& policy, const LogitPolicyWorkspace& workspace) {
  LogitPolicy call(args, policy, workspace);
  with_float_type(args.logits_dtype, [&](auto logit) {
    using T = decltype(logit);
    if (args.d_logits_dtype == SACCADE_F32)
      compute<T, float>(pool, args, call);
    else
      compute<T, T>(pool, args, call);
  });
}

}  // namespace saccade::SACCADE_ISA
