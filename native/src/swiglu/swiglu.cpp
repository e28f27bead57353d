#include "swiglu/swiglu.h"

using namespace saccade;

namespace {

// Elements of y; x has twice as many.
int64_t checked_elements(int64_t rows, int64_t columns) {
  require_rows("rows", rows);
  require_size("columns", columns, 0, kMaxRows);
  checked_product("columns", rows, 2 * columns);
  return rows * columns;
}

}  // namespace

int32_t saccade_swiglu(saccade_context* context, const saccade_swiglu_args* caller) {
  return run(context, "swiglu", [&] {
    const auto args = copy_args(caller);
    const int64_t elements = checked_elements(args.rows, args.columns);
    Operands operands(context);
    operands.input("x", args.x, 2 * elements, 4);
    operands.output("y", args.y, elements, 4);
    operands.require_disjoint();
    SACCADE_CALL(context, swiglu, args);
  });
}

int32_t saccade_swiglu_backward(saccade_context* context, const saccade_swiglu_backward_args* caller) {
  return run(context, "swiglu_backward", [&] {
    const auto args = copy_args(caller);
    const int64_t elements = checked_elements(args.rows, args.columns);
    Operands operands(context);
    operands.input("x", args.x, 2 * elements, 4);
    operands.input("dy", args.dy, elements, 4);
    operands.output("dx", args.dx, 2 * elements, 4, "x");
    operands.require_disjoint();
    SACCADE_CALL(context, swiglu_backward, args);
  });
}
