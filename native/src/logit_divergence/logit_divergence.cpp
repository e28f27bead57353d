#include "logit_divergence/logit_divergence.h"

using namespace saccade;

int32_t saccade_logit_divergence(saccade_context* context, const saccade_logit_divergence_args* caller) {
  return run(context, "logit_divergence", [&] {
    auto args = copy_args(caller);
    require_rows("rows", args.rows);
    require_size("vocabulary", args.vocabulary, 1, kMaxRows);
    require_choice("kind", args.kind, 3, "JSD (0), FORWARD_KL (1) or REVERSE_KL (2)");
    if (args.kind == SACCADE_DIVERGENCE_JSD)
      require(args.beta > 0.0f && args.beta < 1.0f, "beta", "a number inside (0, 1)", static_cast<double>(args.beta));
    require_positive("temperature", args.temperature);
    const int64_t size = float_size("dtype", args.dtype);
    args.logits_stride = checked_stride("logits_stride", args.logits_stride, args.rows, args.vocabulary);
    args.ref_logits_stride = checked_stride("ref_logits_stride", args.ref_logits_stride, args.rows, args.vocabulary);
    Operands operands(context);
    operands.input("logits", args.logits, span(args.rows, args.logits_stride, args.vocabulary), size);
    operands.input("ref_logits", args.ref_logits, span(args.rows, args.ref_logits_stride, args.vocabulary), size);
    operands.optional_input("weight", args.weight, args.rows, 4);
    operands.optional_input("grad_output", args.grad_output, 1, 4);
    operands.optional_output("divergence", args.divergence, args.rows, 4);
    if (args.d_logits) {
      const int64_t d_size = float_size("d_logits_dtype", args.d_logits_dtype);
      if (args.d_logits_dtype != args.dtype && args.d_logits_dtype != SACCADE_F32)
        invalid("d_logits_dtype", "the dtype of the logits, or f32", "%d", args.d_logits_dtype);
      args.d_logits_stride = checked_stride("d_logits_stride", args.d_logits_stride, args.rows, args.vocabulary);
      const bool in_place = args.d_logits_dtype == args.dtype && args.d_logits_stride == args.logits_stride;
      operands.output("d_logits", args.d_logits, span(args.rows, args.d_logits_stride, args.vocabulary), d_size,
                      in_place ? "logits" : nullptr);
    }
    operands.require_disjoint();
    SACCADE_CALL(context, logit_divergence, args);
  });
}
