#include "rms_norm/rms_norm.h"

using namespace saccade;

namespace {

float* take_partials(const saccade_context* context, Carver& carver, int64_t rows, int64_t columns) {
  const RmsNormBlocks blocks(rows, columns, context->gpu);
  return carver.take<float>(checked_product("workspace", blocks.blocks, blocks.stride));
}

void require_sizes(int64_t rows, int64_t columns) {
  require_rows("rows", rows);
  require_size("columns", columns, 1, kMaxRows);
}

}  // namespace

int32_t saccade_rms_norm(saccade_context* context, const saccade_rms_norm_args* caller) {
  return run(context, "rms_norm", [&] {
    auto args = copy_args(caller);
    require_sizes(args.rows, args.columns);
    require(args.eps >= 0.0f && args.eps < INFINITY, "eps", "a finite number of at least 0",
            static_cast<double>(args.eps));
    args.x_stride = checked_stride("x_stride", args.x_stride, args.rows, args.columns);
    args.y_stride = checked_stride("y_stride", args.y_stride, args.rows, args.columns);
    args.residual_stride = checked_stride("residual_stride", args.residual_stride, args.rows, args.columns);
    Operands operands(context);
    const auto x = span(args.rows, args.x_stride, args.columns);
    args.residual ? operands.output("x", args.x, x, 4) : operands.input("x", args.x, x, 4);
    operands.optional_input("residual", args.residual, span(args.rows, args.residual_stride, args.columns), 4);
    operands.input("weight", args.weight, args.columns, 4);
    operands.output("y", args.y, span(args.rows, args.y_stride, args.columns), 4);
    operands.output("rstd", args.rstd, args.rows, 4);
    operands.require_disjoint();
    SACCADE_CALL(context, rms_norm, args);
  });
}

int32_t saccade_rms_norm_backward_workspace(saccade_context* context, const saccade_rms_norm_backward_args* caller,
                                            int64_t* bytes) {
  return run(context, "rms_norm_backward", [&] {
    const auto args = copy_args(caller);
    require_sizes(args.rows, args.columns);
    require_result(bytes);
    Carver carver(0);
    take_partials(context, carver, args.rows, args.columns);
    *bytes = carver.bytes();
  });
}

int32_t saccade_rms_norm_backward(saccade_context* context, const saccade_rms_norm_backward_args* caller) {
  return run(context, "rms_norm_backward", [&] {
    auto args = copy_args(caller);
    require_sizes(args.rows, args.columns);
    args.x_stride = checked_stride("x_stride", args.x_stride, args.rows, args.columns);
    args.dy_stride = checked_stride("dy_stride", args.dy_stride, args.rows, args.columns);
    args.dx_stride = checked_stride("dx_stride", args.dx_stride, args.rows, args.columns);
    args.residual_stride = checked_stride("residual_stride", args.residual_stride, args.rows, args.columns);
    if (args.residual && args.residual == args.dx && args.residual_stride != args.dx_stride)
      invalid("residual_stride", "that of dx, which it is", "%lld", static_cast<long long>(args.residual_stride));
    Operands operands(context);
    operands.input("x", args.x, span(args.rows, args.x_stride, args.columns), 4);
    operands.input("weight", args.weight, args.columns, 4);
    operands.input("rstd", args.rstd, args.rows, 4);
    operands.input("dy", args.dy, span(args.rows, args.dy_stride, args.columns), 4);
    operands.optional_input("residual", args.residual, span(args.rows, args.residual_stride, args.columns), 4);
    operands.output("dx", args.dx, span(args.rows, args.dx_stride, args.columns), 4, "residual");
    operands.output("d_weight", args.d_weight, args.columns, 4);
    Carver carver(args.workspace);
    take_partials(context, carver, args.rows, args.columns);
    operands.workspace(args.workspace, carver.bytes());
    operands.require_disjoint();
    SACCADE_CALL(context, rms_norm_backward, args);
  });
}
