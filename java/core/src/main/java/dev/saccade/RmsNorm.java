package dev.saccade;

import dev.saccade.binding.Saccade;
import dev.saccade.binding.saccade_rms_norm_args;
import dev.saccade.binding.saccade_rms_norm_backward_args;

/**
 * Normalisation of rows by their root mean square, f32: y = x · rstd · weight with rstd =
 * 1/√(mean(x²) + eps), and its gradient.
 */
public final class RmsNorm {
  private RmsNorm() {}

  /**
   * Results.
   *
   * @param y f32[R, C]; rows may have a stride
   * @param rstd f32[R], which the backward pass takes
   */
  public record Outputs(Tensor y, Tensor rstd) {}

  /**
   * Computes into tensors that the caller gives.
   *
   * @param x f32[R, C], C at least 1; rows may have a stride
   * @param weight f32[C]
   * @param eps added to the mean square; finite, at least 0
   * @throws InvalidArgumentException if a type, shape or option is wrong
   */
  public static void forward(Context context, Tensor x, Tensor weight, float eps, Outputs outputs) {
    forward(context, x, null, weight, eps, outputs);
  }

  /**
   * As above, of x + residual, which x receives.
   *
   * @param x in and out, f32[R, C], C at least 1; rows may have a stride
   * @param residual f32[R, C]; rows may have a stride; null for nothing, and then x is read only
   * @param weight f32[C]
   * @param eps added to the mean square; finite, at least 0
   * @throws InvalidArgumentException if a type, shape or option is wrong
   */
  public static void forward(
      Context context, Tensor x, Tensor residual, Tensor weight, float eps, Outputs outputs) {
    try (Call call = context.begin("rms_norm")) {
      var args = call.args(saccade_rms_norm_args.class, saccade_rms_norm_args::new);
      args.x(call.strided("x", x, Types.F32, -1, -1));
      long rows = x.shape(0);
      long columns = x.shape(1);
      args.rows(rows)
          .columns(columns)
          .x_stride(x.stride(0))
          .weight(call.f32("weight", weight, columns))
          .y(call.strided("y", outputs.y(), Types.F32, rows, columns))
          .y_stride(outputs.y().stride(0))
          .rstd(call.f32("rstd", outputs.rstd(), rows))
          .eps(eps);
      if (residual != null) {
        args.residual(call.strided("residual", residual, Types.F32, rows, columns))
            .residual_stride(residual.stride(0));
      }
      call.invoke(Saccade.saccade_rms_norm(context.handle(), args));
    }
  }

  /** Computes into new tensors of {@code scope}. */
  public static Outputs forward(Scope scope, Tensor x, Tensor weight, float eps) {
    return forward(scope, x, null, weight, eps);
  }

  /** As above, of x + residual, which x receives; residual null for nothing. */
  public static Outputs forward(Scope scope, Tensor x, Tensor residual, Tensor weight, float eps) {
    long[] shape = Call.shapeOf(scope, "rms_norm", "x", x, Types.F32, -1, -1);
    Outputs outputs =
        new Outputs(
            Tensor.empty(scope, DType.F32, shape), Tensor.empty(scope, DType.F32, shape[0]));
    forward(scope.context(), x, residual, weight, eps, outputs);
    return outputs;
  }

  /**
   * Gradient with respect to x and the weight of Σ dy·y.
   *
   * @param x f32[R, C], as in the forward pass
   * @param weight f32[C]
   * @param rstd f32[R], from the forward pass
   * @param dy f32[R, C]; rows may have a stride
   * @param residual f32[R, C]: added to the gradient of x, as where x goes past the norm too; rows
   *     may have a stride; may be {@code dx}; null for nothing
   * @param dx out, f32[R, C]; rows may have a stride
   * @param dWeight in and out, f32[C]: the gradient is added
   * @throws InvalidArgumentException if a type or shape is wrong
   */
  public static void backward(
      Context context,
      Tensor x,
      Tensor weight,
      Tensor rstd,
      Tensor dy,
      Tensor residual,
      Tensor dx,
      Tensor dWeight) {
    try (Call call = context.begin("rms_norm_backward")) {
      var args =
          call.args(saccade_rms_norm_backward_args.class, saccade_rms_norm_backward_args::new);
      args.x(call.strided("x", x, Types.F32, -1, -1));
      long rows = x.shape(0);
      long columns = x.shape(1);
      args.rows(rows)
          .columns(columns)
          .x_stride(x.stride(0))
          .weight(call.f32("weight", weight, columns))
          .rstd(call.f32("rstd", rstd, rows))
          .dy(call.strided("dy", dy, Types.F32, rows, columns))
          .dy_stride(dy.stride(0))
          .dx(call.strided("dx", dx, Types.F32, rows, columns))
          .dx_stride(dx.stride(0))
          .d_weight(call.f32("d_weight", dWeight, columns));
      if (residual != null) {
        args.residual(call.strided("residual", residual, Types.F32, rows, columns))
            .residual_stride(residual.stride(0));
      }
      args.workspace(
          call.workspace(
              Saccade.saccade_rms_norm_backward_workspace(context.handle(), args, call.bytes())));
      call.invoke(Saccade.saccade_rms_norm_backward(context.handle(), args));
    }
  }
}
