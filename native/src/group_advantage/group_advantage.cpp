#include "group_advantage/group_advantage.h"

using namespace saccade;

namespace {

int64_t workspace_bytes(const saccade_context* context, const saccade_group_advantage_args& args) {
  SACCADE_IF_CUDA(if (context->gpu) return cuda::group_advantage_workspace(args);)
  (void)context, (void)args;
  return 0;
}

void require_estimator(const saccade_group_advantage_args& args) {
  require_choice("estimator", args.estimator, 5,
                 "GRPO (0), DR_GRPO (1), RLOO (2), BATCH_STD (3) or REINFORCE_PP_BASELINE (4)");
}

}  // namespace

int32_t saccade_group_advantage_workspace(saccade_context* context, const saccade_group_advantage_args* caller,
                                          int64_t* bytes) {
  return run(context, "group_advantage", [&] {
    require_result(bytes);
    const auto args = copy_args(caller);
    require_estimator(args);
    *bytes = workspace_bytes(context, args);
  });
}

int32_t saccade_group_advantage(saccade_context* context, const saccade_group_advantage_args* caller) {
  return run(context, "group_advantage", [&] {
    const auto args = copy_args(caller);
    require_rows("size", args.size);
    require_rows("groups", args.groups);
    require_estimator(args);
    require_size("ddof", args.ddof, 0);
    require(args.eps >= 0.0f && args.eps < INFINITY, "eps", "a finite number of at least 0",
            static_cast<double>(args.eps));
    Operands operands(context);
    operands.input("rewards", args.rewards, args.size, 4);
    operands.offsets("offsets", args.offsets, args.groups, args.size);
    operands.optional_input("valid", args.valid, args.size, 1);
    operands.output("advantage", args.advantage, args.size, 4);
    operands.optional_output("mean", args.mean, args.groups, 4);
    operands.optional_output("std", args.std, args.groups, 4);
    operands.optional_output("degenerate", args.degenerate, args.groups, 1);
    operands.workspace(args.workspace, workspace_bytes(context, args));
    operands.require_disjoint();
    SACCADE_CALL(context, group_advantage, args);
  });
}
