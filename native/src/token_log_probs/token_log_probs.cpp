#include "token_log_probs/token_log_probs.h"

using namespace saccade;

int32_t saccade_token_log_probs(saccade_context* context, const saccade_token_log_probs_args* caller) {
  return run(context, "token_log_probs", [&] {
    auto args = copy_args(caller);
    require_rows("rows", args.rows);
    require_size("vocabulary", args.vocabulary, 1, kMaxRows);
    require_positive("temperature", args.temperature);
    const int64_t size = float_size("logits_dtype", args.logits_dtype);
    args.logits_stride = checked_stride("logits_stride", args.logits_stride, args.rows, args.vocabulary);
    Operands operands(context);
    operands.input("logits", args.logits, span(args.rows, args.logits_stride, args.vocabulary), size);
    operands.input("targets", args.targets, args.rows, 4);
    operands.output("log_prob", args.log_prob, args.rows, 4);
    operands.optional_output("entropy", args.entropy, args.rows, 4);
    operands.optional_output("lse", args.lse, args.rows, 4);
    operands.require_disjoint();
    SACCADE_CALL(context, token_log_probs, args);
  });
}

int32_t saccade_token_log_probs_backward(saccade_context* context,
                                         const saccade_token_log_probs_backward_args* caller) {
  return run(context, "token_log_probs_backward", [&] {
    auto args = copy_args(caller);
    require_rows("rows", args.rows);
    require_size("vocabulary", args.vocabulary, 1, kMaxRows);
    require_positive("temperature", args.temperature);
    const int64_t size = float_size("logits_dtype", args.logits_dtype);
    const int64_t d_size = require_gradient_dtype("d_logits_dtype", args.d_logits_dtype, args.logits_dtype,
                                                  "the dtype of the logits, or f32");
    args.logits_stride = checked_stride("logits_stride", args.logits_stride, args.rows, args.vocabulary);
    args.d_logits_stride = checked_stride("d_logits_stride", args.d_logits_stride, args.rows, args.vocabulary);
    const bool in_place = args.d_logits_dtype == args.logits_dtype && args.d_logits_stride == args.logits_stride;
    Operands operands(context);
    operands.input("logits", args.logits, span(args.rows, args.logits_stride, args.vocabulary), size);
    operands.input("targets", args.targets, args.rows, 4);
    operands.optional_input("d_log_prob", args.d_log_prob, args.rows, 4);
    operands.optional_input("d_entropy", args.d_entropy, args.rows, 4);
    operands.output("d_logits", args.d_logits, span(args.rows, args.d_logits_stride, args.vocabulary), d_size,
                    in_place ? "logits" : nullptr);
    operands.require_disjoint();
    SACCADE_CALL(context, token_log_probs_backward, args);
  });
}
