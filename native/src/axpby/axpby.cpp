#include "axpby/axpby.h"

using namespace saccade;

int32_t saccade_axpby(saccade_context* context, const saccade_axpby_args* caller) {
  return run(context, "axpby", [&] {
    auto args = copy_args(caller);
    require_size("rows", args.rows);
    require_size("columns", args.columns);
    args.x_stride = checked_stride("x_stride", args.x_stride, args.rows, args.columns);
    args.y_stride = checked_stride("y_stride", args.y_stride, args.rows, args.columns);
    Operands operands(context);
    operands.input("x", args.x, span(args.rows, args.x_stride, args.columns), 4);
    operands.output("y", args.y, span(args.rows, args.y_stride, args.columns), 4);
    operands.require_disjoint();
    if (args.x_stride == args.columns && args.y_stride == args.columns) {  // dense: one long row, cut anywhere
      args.columns *= args.rows;
      args.rows = args.columns > 0 ? 1 : 0;
    }
    SACCADE_CALL(context, axpby, args);
  });
}
