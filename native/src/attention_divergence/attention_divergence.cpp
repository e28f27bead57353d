#include "attention_divergence/attention_divergence.h"

#include "core/attention_checks.h"

namespace saccade {
namespace {

// A tensor of no rows or no keys may have no address: the other one of its pair says that it is meant.
bool has_ref_policy(const saccade_attention_divergence_args& args) { return args.ref_q || args.ref_k; }

AttentionDivergenceWorkspace layout(const saccade_context* context, const saccade_attention_divergence_args& args) {
  Carver carver(args.workspace);
  const int64_t width = padded(args.max_keys), key_values = args.kv_heads * args.head_dim;
  const bool gradient = wants_gradient(args);
  AttentionDivergenceWorkspace workspace{};
  workspace.divergence = carver.take<float>(args.rows);
  workspace.entropy = carver.take<float>(args.rows);
  workspace.mass = carver.take<float>(args.rows);
  const bool tiles = has_policy_tiles(context, args) && !(has_ref_policy(args) && args.ref_head_dim > 128);
  const bool products = context->gpu && args.dtype != SACCADE_F32;  // on the tensor cores
  const bool by_head = gradient && args.reduction == SACCADE_REDUCTION_NONE;
  workspace.map = carver.take<float>(gradient || products ? args.rows * width : 0);
  workspace.centre = carver.take<AttentionCentre>(gradient && !products ? args.heads * args.rows : 0);
  if (products) {
    workspace.packing = carve_packing(args.sequences, carver);
    if (tiles && gradient) {
      workspace.query_parts = carve_query_parts(carver, args);
      workspace.turn = carver.take<int32_t>(1);
    }
    if (tiles) {
      workspace.tiles = carve_policy(carver, args, args.heads, args.kv_heads, args.head_dim);
      if (has_ref_policy(args))
        workspace.ref_tiles = carve_policy(carver, args, args.ref_heads, args.ref_kv_heads, args.ref_head_dim);
    } else {
      workspace.head_statistics = carver.take<float>(kQueryStatistics * args.heads * args.rows);
      workspace.ref_head_statistics = carver.take<float>(has_ref_policy(args) ? args.ref_heads * args.rows : 0);
      workspace.d_keys = carver.take<float>(by_head ? args.keys * key_values : 0);
    }
    if (has_ref_policy(args)) {
      workspace.ref_rows = rows_at_a_time(args);
      workspace.ref_map = carver.take<float>(workspace.ref_rows * width);
    }
  } else if (context->gpu) {
    workspace.packing = carve_packing(args.sequences, carver);
    workspace.statistics = carve_statistics(args.heads, args.rows, carver);
    workspace.ref_statistics = carve_statistics(has_ref_policy(args) ? args.ref_heads : 0, args.rows, carver);
    workspace.parts = carver.take<RowPart>(KeyParts(args.max_keys).parts * args.rows);
    workspace.row_gradients = carver.take<RowGradient>(gradient ? args.rows : 0);
    workspace.d_keys = carver.take<float>(by_head ? args.keys * key_values : 0);
  } else {
    const int64_t columns = total_columns(args.keys, args.sequences);
    const int64_t blocks = column_blocks(args.keys, args.sequences), threads = context->pool.threads();
    workspace.keys = carver.take<float>(columns * key_values);
    workspace.key_norms = carver.take<float>(blocks * args.kv_heads);
    workspace.ref_keys = carver.take<float>(args.ref_k ? columns * args.ref_kv_heads * args.ref_head_dim : 0);
    workspace.ref_key_norms = carver.take<float>(args.ref_k ? blocks * args.ref_kv_heads : 0);
    workspace.scratch = carver.take<float>(threads * AttentionDivergenceWorkspace::kScratchRows * width);
    workspace.lse = carver.take<double>(gradient ? args.heads * args.rows : 0);
    workspace.d_keys = carver.take<float>(gradient ? columns * key_values : 0);
  }
  workspace.bytes = carver.bytes();
  return workspace;
}

void require_sizes(const saccade_attention_divergence_args& args) {
  require_attention_sizes(args);
  if (has_ref_policy(args))
    require_heads("ref_heads", args.ref_heads, "ref_kv_heads", args.ref_kv_heads, "ref_head_dim", args.ref_head_dim);
}

void require_reference(saccade_attention_divergence_args& args, Operands& operands) {
  if (!args.ref_q != !args.ref_k && args.rows > 0 && args.keys > 0)
    invalid("ref_q, ref_k", "both or neither", "one of them");
  const int references = (args.ref != 0) + has_ref_policy(args) + (args.ref_index != 0);
  if (references > 1 || (references == 0 && args.rows > 0 && args.keys > 0))
    invalid("ref, ref_q and ref_k, ref_index", "exactly one reference", "%d", references);
  if (args.ref) {
    if (args.reduction != SACCADE_REDUCTION_MEAN)
      invalid("ref", "ref_q and ref_k, or ref_index: a stored map is for reduction MEAN", "a map");
    args.ref_stride = require_map(operands, "ref_stride", "ref_dtype", args, args.ref_stride, args.ref_dtype);
    operands.input("ref", args.ref, args.rows * args.ref_stride, args.ref_dtype == SACCADE_F32 ? 4 : 2);
  }
  if (has_ref_policy(args)) {
    const int64_t size = float_size("dtype", args.dtype);
    require(std::isfinite(args.ref_scale), "ref_scale", "a finite number", static_cast<double>(args.ref_scale));
    require_head_range("ref_head_begin, ref_head_end", args.ref_head_begin, args.ref_head_end, args.ref_heads);
    if (args.reduction == SACCADE_REDUCTION_NONE &&
        args.ref_head_end - args.ref_head_begin != args.head_end - args.head_begin)
      invalid("ref_head_begin, ref_head_end", "as many heads as the policy has, for reduction NONE", "%d",
              args.ref_head_end - args.ref_head_begin);
    operands.input("ref_q", args.ref_q,
                   checked_head_strides("ref_q_row_stride", args.ref_q_row_stride, "ref_q_head_stride",
                                        args.ref_q_head_stride, args.rows, args.ref_heads, args.ref_head_dim),
                   size);
    operands.input("ref_k", args.ref_k,
                   checked_head_strides("ref_k_row_stride", args.ref_k_row_stride, "ref_k_head_stride",
                                        args.ref_k_head_stride, args.keys, args.ref_kv_heads, args.ref_head_dim),
                   size);
    operands.optional_input("ref_lse", args.ref_lse, args.ref_heads * args.rows, 4);
  }
  operands.optional_input("ref_index", args.ref_index, args.rows, 4);
}

}  // namespace
}  // namespace saccade

using namespace saccade;

int32_t saccade_attention_divergence_workspace(saccade_context* context,
                                               const saccade_attention_divergence_args* caller, int64_t* bytes) {
  return run(context, "attention_divergence", [&] {
    require_result(bytes);
    auto args = copy_args(caller);
    require_sizes(args);
    args.workspace = 0;
    *bytes = layout(context, args).bytes;
  });
}

int32_t saccade_attention_divergence(saccade_context* context, const saccade_attention_divergence_args* caller) {
  return run(context, "attention_divergence", [&] {
    auto args = copy_args(caller);
    require_sizes(args);
    require_choice("kind", args.kind, 3, "JSD (0), FORWARD_KL (1) or REVERSE_KL (2)");
    if (args.kind == SACCADE_DIVERGENCE_JSD)
      require(args.beta > 0.0f && args.beta < 1.0f, "beta", "a number inside (0, 1)", static_cast<double>(args.beta));
    Operands operands(context);
    require_attention_policy(args, operands);
    require_reference(args, operands);
    operands.optional_input("lse", args.lse, args.heads * args.rows, 4);
    operands.optional_input("weight", args.weight, args.rows, 4);
    operands.optional_input("entropy_weight", args.entropy_weight, args.rows, 4);
    operands.optional_input("grad_output", args.grad_output, 1, 4);
    operands.optional_output("loss", args.loss, 1, 4);
    operands.optional_output("divergence", args.divergence, args.rows, 4);
    operands.optional_output("entropy", args.entropy, args.rows, 4);
    operands.optional_output("mass", args.mass, args.rows, 4);
    if (!args.dq != !args.dk && args.rows > 0 && args.keys > 0) invalid("dq, dk", "both or neither", "one of them");
    if (args.dscore_sq && !wants_gradient(args) && args.rows > 0)
      invalid("dscore_sq", "dq and dk beside it", "no gradient");
    if (wants_gradient(args)) {
      const int64_t size = float_size("grad_dtype", args.grad_dtype);
      if (args.grad_dtype != args.dtype && args.grad_dtype != SACCADE_F32)
        invalid("grad_dtype", "the dtype of q, or f32", "%d", args.grad_dtype);
      operands.output("dq", args.dq,
                      checked_head_strides("dq_row_stride", args.dq_row_stride, "dq_head_stride", args.dq_head_stride,
                                           args.rows, args.heads, args.head_dim),
                      size);
      operands.output("dk", args.dk,
                      checked_head_strides("dk_row_stride", args.dk_row_stride, "dk_head_stride", args.dk_head_stride,
                                           args.keys, args.kv_heads, args.head_dim),
                      size);
      operands.optional_output("dscore_sq", args.dscore_sq, args.heads * args.rows, 4);
    }
    const AttentionDivergenceWorkspace workspace = layout(context, args);
    operands.workspace(args.workspace, workspace.bytes);
    operands.require_disjoint();
    SACCADE_CALL(context, attention_divergence, args, workspace);
  });
}
