#include "attention/attention.h"

#include "core/attention_checks.h"
#include "core/attention_layout.h"
#include "core/device.h"

namespace saccade {
namespace {

// Elements of one transposed matrix.
template <class Args>
int64_t transposed(const Args& args) {
  return total_columns(args.keys, args.sequences) * args.kv_heads * args.head_dim;
}

// Sizes that the layout multiplies, and options.
template <class Args>
void check_sizes(const saccade_context* context, const Args& args) {
  require_rows("rows", args.rows);
  require_rows("keys", args.keys);
  require_rows("sequences", args.sequences);
  require_rows("max_keys", args.max_keys);
  require_heads("heads", args.heads, "kv_heads", args.kv_heads, "head_dim", args.head_dim);
  require(std::isfinite(args.scale), "scale", "a finite number", static_cast<double>(args.scale));
  require_precision(context, args.precision);
}

// Whether tiles for Hopper's warpgroups are worth their writing: there are any, and sequences have rows enough to read
// them often.
template <class Args>
bool has_tiles([[maybe_unused]] const saccade_context* context, const Args& args) {
  if (args.precision != SACCADE_PRECISION_BF16 || args.head_dim > 128 || args.rows < 64 * args.sequences ||
      args.keys == 0)
    return false;
  SACCADE_IF_CUDA(if (context->gpu) return cuda::capability_of(*context->gpu) == 90;)
  return false;
}

}  // namespace

AttentionWorkspace attention_layout(const saccade_context* context, const saccade_attention_args& args) {
  Carver carver(args.workspace);
  AttentionWorkspace workspace{};
  if (context->gpu) {
    workspace.packing = carve_packing(args.sequences, carver);
    if (has_tiles(context, args))
      for (uint8_t** tiles : {&workspace.key_tiles, &workspace.value_tiles})
        *tiles = carve_tiles(carver, args.keys, args.sequences, kForwardTile, args.kv_heads, args.head_dim);
  } else {
    workspace.keys = carver.take<float>(transposed(args));
    workspace.scratch = carver.take<float>(context->pool.threads() * kRows * padded(args.max_keys));
  }
  workspace.bytes = carver.bytes();
  return workspace;
}

AttentionBackwardWorkspace attention_backward_layout(const saccade_context* context,
                                                     const saccade_attention_backward_args& args) {
  Carver carver(args.workspace);
  AttentionBackwardWorkspace workspace{};
  workspace.delta = carver.take<float>(args.heads * args.rows);
  if (context->gpu) {
    workspace.packing = carve_packing(args.sequences, carver);
    if (has_tiles(context, args)) {
      for (uint8_t** tiles : {&workspace.key_tiles, &workspace.value_tiles})
        *tiles = carve_tiles(carver, args.keys, args.sequences, kBackwardTile, args.kv_heads, args.head_dim);
      workspace.row_tiles = carve_tiles(carver, args.rows, args.sequences, kBackwardTile, args.heads, args.head_dim,
                                        sizeof(RowStatistics));
      workspace.gradient_tiles =
          carve_tiles(carver, args.rows, args.sequences, kBackwardTile, args.heads, args.head_dim);
    }
  } else {
    workspace.keys = carver.take<float>(transposed(args));
    workspace.values = carver.take<float>(transposed(args));
    workspace.d_keys = carver.take<float>(transposed(args));
    workspace.d_values = carver.take<float>(transposed(args));
    workspace.scratch = carver.take<float>(context->pool.threads() * 2 * kRows * padded(args.max_keys));
  }
  workspace.bytes = carver.bytes();
  return workspace;
}

}  // namespace saccade

using namespace saccade;

int32_t saccade_attention_workspace(saccade_context* context, const saccade_attention_args* caller, int64_t* bytes) {
  return run(context, "attention", [&] {
    require_result(bytes);
    auto args = copy_args(caller);
    check_sizes(context, args);
    args.workspace = 0;
    *bytes = attention_layout(context, args).bytes;
  });
}

int32_t saccade_attention(saccade_context* context, const saccade_attention_args* caller) {
  return run(context, "attention", [&] {
    auto args = copy_args(caller);
    check_sizes(context, args);
    const auto strides = [&](const char* row, int64_t& row_stride, const char* head, int64_t& head_stride, int64_t rows,
                             int64_t heads) {
      return checked_head_strides(row, row_stride, head, head_stride, rows, heads, args.head_dim);
    };
    Operands operands(context);
    operands.input(
        "q", args.q,
        strides("q_row_stride", args.q_row_stride, "q_head_stride", args.q_head_stride, args.rows, args.heads), 4);
    operands.input(
        "k", args.k,
        strides("k_row_stride", args.k_row_stride, "k_head_stride", args.k_head_stride, args.keys, args.kv_heads), 4);
    operands.input(
        "v", args.v,
        strides("v_row_stride", args.v_row_stride, "v_head_stride", args.v_head_stride, args.keys, args.kv_heads), 4);
    operands.output(
        "o", args.o,
        strides("o_row_stride", args.o_row_stride, "o_head_stride", args.o_head_stride, args.rows, args.heads), 4);
    operands.optional_output("lse", args.lse, args.heads * args.rows, 4);
    require_packing(operands, args.offsets_q, args.offsets_k, args.lengths_k, args.sequences, args.rows, args.keys,
                    args.max_keys);
    const AttentionWorkspace workspace = attention_layout(context, args);
    operands.workspace(args.workspace, workspace.bytes);
    operands.require_disjoint();
    SACCADE_CALL(context, attention, args, workspace);
  });
}

int32_t saccade_attention_backward_workspace(saccade_context* context, const saccade_attention_backward_args* caller,
                                             int64_t* bytes) {
  return run(context, "attention_backward", [&] {
    require_result(bytes);
    auto args = copy_args(caller);
    check_sizes(context, args);
    args.workspace = 0;
    *bytes = attention_backward_layout(context, args).bytes;
  });
}

int32_t saccade_attention_backward(saccade_context* context, const saccade_attention_backward_args* caller) {
  return run(context, "attention_backward", [&] {
    auto args = copy_args(caller);
    check_sizes(context, args);
    const auto strides = [&](const char* row, int64_t& row_stride, const char* head, int64_t& head_stride, int64_t rows,
                             int64_t heads) {
      return checked_head_strides(row, row_stride, head, head_stride, rows, heads, args.head_dim);
    };
    const int64_t rows = args.rows, keys = args.keys, heads = args.heads, kv = args.kv_heads;
    Operands operands(context);
    operands.input("q", args.q,
                   strides("q_row_stride", args.q_row_stride, "q_head_stride", args.q_head_stride, rows, heads), 4);
    operands.input("k", args.k,
                   strides("k_row_stride", args.k_row_stride, "k_head_stride", args.k_head_stride, keys, kv), 4);
    operands.input("v", args.v,
                   strides("v_row_stride", args.v_row_stride, "v_head_stride", args.v_head_stride, keys, kv), 4);
    operands.input("o", args.o,
                   strides("o_row_stride", args.o_row_stride, "o_head_stride", args.o_head_stride, rows, heads), 4);
    operands.input("d_o", args.d_o,
                   strides("d_o_row_stride", args.d_o_row_stride, "d_o_head_stride", args.d_o_head_stride, rows, heads),
                   4);
    operands.input("lse", args.lse, heads * rows, 4);
    operands.output("dq", args.dq,
                    strides("dq_row_stride", args.dq_row_stride, "dq_head_stride", args.dq_head_stride, rows, heads),
                    4);
    operands.output("dk", args.dk,
                    strides("dk_row_stride", args.dk_row_stride, "dk_head_stride", args.dk_head_stride, keys, kv), 4);
    operands.output("dv", args.dv,
                    strides("dv_row_stride", args.dv_row_stride, "dv_head_stride", args.dv_head_stride, keys, kv), 4);
    require_packing(operands, args.offsets_q, args.offsets_k, 0, args.sequences, rows, keys, args.max_keys);
    const AttentionBackwardWorkspace workspace = attention_backward_layout(context, args);
    operands.workspace(args.workspace, workspace.bytes);
    operands.require_disjoint();
    SACCADE_CALL(context, attention_backward, args, workspace);
  });
}
