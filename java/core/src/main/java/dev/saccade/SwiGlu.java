package dev.saccade;

import dev.saccade.binding.Saccade;
import dev.saccade.binding.saccade_swiglu_args;
import dev.saccade.binding.saccade_swiglu_backward_args;

/**
 * Gated activation of a feed-forward layer, f32: y = silu(gate) · up with silu(g) = g/(1 + e^-g),
 * gate the first half of x's columns and up the second, and its gradient.
 */
public final class SwiGlu {
  private SwiGlu() {}

  /**
   * Computes into a tensor that the caller gives.
   *
   * @param x f32[R, 2C], dense
   * @param y out, f32[R, C], dense
   * @throws InvalidArgumentException if a type or shape is wrong
   */
  public static void forward(Context context, Tensor x, Tensor y) {
    try (Call call = context.begin("swiglu")) {
      var args = call.args(saccade_swiglu_args.class, saccade_swiglu_args::new);
      args.y(call.f32("y", y, -1, -1));
      long rows = y.shape(0);
      long columns = y.shape(1);
      args.rows(rows).columns(columns).x(call.f32("x", x, rows, 2 * columns));
      call.invoke(Saccade.saccade_swiglu(context.handle(), args));
    }
  }

  /** Computes into a new tensor f32[R, C] of {@code scope}. */
  public static Tensor forward(Scope scope, Tensor x) {
    long[] shape = Call.shapeOf(scope, "swiglu", "x", x, Types.F32, -1, -1);
    Tensor y = Tensor.empty(scope, DType.F32, shape[0], shape[1] / 2);
    forward(scope.context(), x, y);
    return y;
  }

  /**
   * Gradient with respect to x of Σ dy·y.
   *
   * @param x f32[R, 2C], dense, as in the forward pass
   * @param dy f32[R, C], dense
   * @param dx out, f32[R, 2C], dense; may be {@code x} itself
   * @throws InvalidArgumentException if a type or shape is wrong
   */
  public static void backward(Context context, Tensor x, Tensor dy, Tensor dx) {
    try (Call call = context.begin("swiglu_backward")) {
      var args = call.args(saccade_swiglu_backward_args.class, saccade_swiglu_backward_args::new);
      args.dy(call.f32("dy", dy, -1, -1));
      long rows = dy.shape(0);
      long columns = dy.shape(1);
      args.rows(rows)
          .columns(columns)
          .x(call.f32("x", x, rows, 2 * columns))
          .dx(call.f32("dx", dx, rows, 2 * columns));
      call.invoke(Saccade.saccade_swiglu_backward(context.handle(), args));
    }
  }
}
