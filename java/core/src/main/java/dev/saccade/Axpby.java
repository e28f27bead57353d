package dev.saccade;

import dev.saccade.binding.Saccade;
import dev.saccade.binding.saccade_axpby_args;

/**
 * Scaled sum, f32: y = a·x + b·y. Copies, residual sums, accumulation of gradients, moving averages
 * of weights.
 */
public final class Axpby {
  private Axpby() {}

  /**
   * Computes into y.
   *
   * @param a multiplies x
   * @param x f32[R, C], whose rows may have a stride, or dense of any shape
   * @param b multiplies what y holds; at 0 y is not read
   * @param y in and out, f32 of the shape of x; does not overlap x
   * @throws InvalidArgumentException if a type or shape is wrong
   */
  public static void apply(Context context, float a, Tensor x, float b, Tensor y) {
    try (Call call = context.begin("axpby")) {
      var args = call.args(saccade_axpby_args.class, saccade_axpby_args::new);
      args.a(a).b(b);
      if (x != null && x.rank() == 2) {
        args.x(call.strided("x", x, Types.F32, -1, -1));
        args.y(call.strided("y", y, Types.F32, x.shape()))
            .rows(x.shape(0))
            .columns(x.shape(1))
            .x_stride(x.stride(0))
            .y_stride(y.stride(0));
      } else {
        args.x(call.ofAnyShape("x", x, Types.F32).address());
        args.y(call.f32("y", y, x.shape())).rows(1).columns(x.size());
      }
      call.invoke(Saccade.saccade_axpby(context.handle(), args));
    }
  }
}
