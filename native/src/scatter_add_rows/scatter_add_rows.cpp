#include "scatter_add_rows/scatter_add_rows.h"

using namespace saccade;

int32_t saccade_scatter_add_rows(saccade_context* context, const saccade_scatter_add_rows_args* caller) {
  return run(context, "scatter_add_rows", [&] {
    auto args = copy_args(caller);
    require_rows("count", args.count);
    require_rows("y_rows", args.y_rows);
    require_size("columns", args.columns, 0, kMaxRows);
    args.x_stride = checked_stride("x_stride", args.x_stride, args.count, args.columns);
    args.y_stride = checked_stride("y_stride", args.y_stride, args.y_rows, args.columns);
    Operands operands(context);
    operands.input("x", args.x, span(args.count, args.x_stride, args.columns), 4);
    operands.input("index", args.index, args.count, 4);
    operands.output("y", args.y, span(args.y_rows, args.y_stride, args.columns), 4);
    operands.require_disjoint();
    SACCADE_CALL(context, scatter_add_rows, args);
  });
}
