#include "sample_tokens/sample_tokens.h"

using namespace saccade;

int32_t saccade_sample_tokens(saccade_context* context, const saccade_sample_tokens_args* caller) {
  return run(context, "sample_tokens", [&] {
    auto args = copy_args(caller);
    require_rows("rows", args.rows);
    require_size("vocabulary", args.vocabulary, 1, kMaxRows);
    require(args.temperature >= 0.0f && args.temperature < INFINITY, "temperature", "a finite number of at least 0",
            static_cast<double>(args.temperature));
    require(args.top_p >= 0.0f && args.top_p <= 1.0f, "top_p", "0 (off) or a number in (0, 1]",
            static_cast<double>(args.top_p));
    const int64_t size = float_size("logits_dtype", args.logits_dtype);
    args.logits_stride = checked_stride("logits_stride", args.logits_stride, args.rows, args.vocabulary);
    Operands operands(context);
    operands.input("logits", args.logits, span(args.rows, args.logits_stride, args.vocabulary), size);
    operands.optional_input("offset_scalar", args.offset_scalar, 1, 8);
    operands.optional_input("stream", args.stream, args.rows, 4);
    operands.output("tokens", args.tokens, args.rows, 4);
    operands.require_disjoint();
    SACCADE_CALL(context, sample_tokens, args);
  });
}
