#include "sampled_kl/sampled_kl.h"

using namespace saccade;

int32_t saccade_sampled_kl(saccade_context* context, const saccade_sampled_kl_args* caller) {
  return run(context, "sampled_kl", [&] {
    const auto args = copy_args(caller);
    require_rows("rows", args.rows);
    require_choice("estimator", args.estimator, 6, "K1 (0), ABS (1), K2 (2), K3 (3), K1_ST (4) or K3_ST (5)");
    require_choice("importance_corrected", args.importance_corrected, 2, "0 or 1");
    Operands operands(context);
    operands.input("log_prob", args.log_prob, args.rows, 4);
    operands.input("ref_log_prob", args.ref_log_prob, args.rows, 4);
    if (args.importance_corrected) operands.input("old_log_prob", args.old_log_prob, args.rows, 4);
    operands.output("kl", args.kl, args.rows, 4);
    operands.optional_output("d_log_prob", args.d_log_prob, args.rows, 4);
    operands.require_disjoint();
    SACCADE_CALL(context, sampled_kl, args);
  });
}
