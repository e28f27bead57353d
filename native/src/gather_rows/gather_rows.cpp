#include "gather_rows/gather_rows.h"

using namespace saccade;

int32_t saccade_gather_rows(saccade_context* context, const saccade_gather_rows_args* caller) {
  return run(context, "gather_rows", [&] {
    auto args = copy_args(caller);
    require_rows("x_rows", args.x_rows);
    require_rows("y_rows", args.y_rows);
    // Without an index row i is row i: it must be there.
    require_rows("count", args.count);
    if (!args.index) require_size("count", args.count, 0, args.x_rows);
    if (!args.out_index) require_size("count", args.count, 0, args.y_rows);
    require_size("columns", args.columns, 0, kMaxRows);
    require_choice("accumulate", args.accumulate, 2, "0 or 1");
    args.x_stride = checked_stride("x_stride", args.x_stride, args.x_rows, args.columns);
    args.y_stride = checked_stride("y_stride", args.y_stride, args.y_rows, args.columns);
    Operands operands(context);
    operands.input("x", args.x, span(args.x_rows, args.x_stride, args.columns), 4);
    operands.optional_input("index", args.index, args.count, 4);
    operands.optional_input("out_index", args.out_index, args.count, 4);
    operands.output("y", args.y, span(args.y_rows, args.y_stride, args.columns), 4);
    operands.require_disjoint();
    SACCADE_CALL(context, gather_rows, args);
  });
}
