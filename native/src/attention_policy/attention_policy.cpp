#include "attention_policy/attention_policy.h"

#include "core/attention_checks.h"

namespace saccade {
namespace {

AttentionPolicyWorkspace layout(const saccade_context* context, const saccade_attention_policy_args& args) {
  Carver carver(args.workspace);
  AttentionPolicyWorkspace workspace{};
  if (context->gpu && args.dtype != SACCADE_F32) {
    workspace.packing = carve_packing(args.sequences, carver);
    if (has_policy_tiles(context, args))
      workspace.tiles = carve_policy(carver, args, args.heads, args.kv_heads, args.head_dim);
    else
      workspace.head_statistics = carver.take<float>(args.heads * args.rows);
    workspace.sum_rows = rows_at_a_time(args);
    workspace.head_sums = carver.take<float>(workspace.sum_rows * padded(args.max_keys));
  } else if (context->gpu) {
    workspace.packing = carve_packing(args.sequences, carver);
    workspace.statistics = carve_statistics(args.heads, args.rows, carver);
    workspace.entropies = carver.take<double>(KeyParts(args.max_keys).parts * args.rows);
    workspace.sums = carver.take<double>(2 * args.rows);
  } else {
    const int64_t threads = context->pool.threads();
    workspace.keys = carver.take<float>(total_columns(args.keys, args.sequences) * args.kv_heads * args.head_dim);
    workspace.key_norms = carver.take<float>(column_blocks(args.keys, args.sequences) * args.kv_heads);
    workspace.scratch = carver.take<float>(threads * AttentionPolicyWorkspace::kScratchRows * padded(args.max_keys));
  }
  workspace.bytes = carver.bytes();
  return workspace;
}

}  // namespace
}  // namespace saccade

using namespace saccade;

int32_t saccade_attention_policy_workspace(saccade_context* context, const saccade_attention_policy_args* caller,
                                           int64_t* bytes) {
  return run(context, "attention_policy", [&] {
    require_result(bytes);
    auto args = copy_args(caller);
    require_attention_sizes(args);
    args.workspace = 0;
    *bytes = layout(context, args).bytes;
  });
}

int32_t saccade_attention_policy(saccade_context* context, const saccade_attention_policy_args* caller) {
  return run(context, "attention_policy", [&] {
    auto args = copy_args(caller);
    Operands operands(context);
    require_attention_policy(args, operands);
    operands.optional_output("entropy", args.entropy, args.rows, 4);
    operands.optional_output("mass", args.mass, args.rows, 4);
    operands.optional_output("lse", args.lse, args.heads * args.rows, 4);
    if (args.map) {
      if (args.reduction != SACCADE_REDUCTION_MEAN)
        invalid("map", "no map: reduction NONE has a policy for every head", "a map");
      args.map_stride = require_map(operands, "map_stride", "map_dtype", args, args.map_stride, args.map_dtype);
      operands.output("map", args.map, args.rows * args.map_stride, args.map_dtype == SACCADE_F32 ? 4 : 2);
    }
    const AttentionPolicyWorkspace workspace = layout(context, args);
    operands.workspace(args.workspace, workspace.bytes);
    operands.require_disjoint();
    SACCADE_CALL(context, attention_policy, args, workspace);
  });
}
