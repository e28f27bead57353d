#include "group_advantage/group_advantage.h"

using namespace saccade;

int32_t saccade_group_advantage(saccade_context* context, const saccade_group_advantage_args* caller) {
  return run(context, "group_advantage", [&] {
    const auto args = copy_args(caller);
    require_rows("size", args.size);
    require_rows("groups", args.groups);
    require_choice("estimator", args.estimator, 5,
                   "GRPO (0), DR_GRPO (1), RLOO (2), BATCH_STD (3) or REINFORCE_PP_BASELINE (4)");
    require_size("ddof", args.ddof, 0);
    require(args.eps >= 0.0f && args.eps < INFINITY, "eps", "a finite number of at least 0",
            static_cast<double>(args.eps));
    require_offsets("offsets", args.offsets, args.groups, args.size);
    Operands operands;
    operands.input("rewards", args.rewards, args.size, 4);
    operands.input("offsets", args.offsets, args.groups + 1, 4);
    operands.optional_input("valid", args.valid, args.size, 1);
    operands.output("advantage", args.advantage, args.size, 4);
    operands.optional_output("mean", args.mean, args.groups, 4);
    operands.optional_output("std", args.std, args.groups, 4);
    operands.optional_output("degenerate", args.degenerate, args.groups, 1);
    operands.require_disjoint();
    SACCADE_CALL_CPU(context, group_advantage(context->pool, args));
  });
}
