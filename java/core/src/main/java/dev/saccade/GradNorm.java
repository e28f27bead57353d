package dev.saccade;

import dev.saccade.binding.Saccade;
import dev.saccade.binding.saccade_grad_norm_args;
import dev.saccade.binding.saccade_grad_norm_tensor;
import java.util.List;

/**
 * Global L2 norm over the gradients of many tensors, and the factor that clips it. Squares are
 * added in double precision, in an order that depends on the sizes of the tensors alone.
 */
public final class GradNorm {
  private GradNorm() {}

  /**
   * @param maxNorm the norm that {@link Outputs#scale} clips to; finite, above 0
   */
  public record Options(float maxNorm) {
    /** Clips to norm 1. */
    public static final Options DEFAULT = new Options(1.0f);

    public Options withMaxNorm(float maxNorm) {
      return new Options(maxNorm);
    }
  }

  /**
   * @param norm f32[1]; not finite where a gradient is not
   * @param scale f32[1], min(1, maxNorm / (norm + 1e-6)), NaN where the norm is not finite: as
   *     {@link AdamW.Scalars#gradScale} it clips the gradients, or makes the step be skipped; null
   *     where it is not wanted
   */
  public record Outputs(Tensor norm, Tensor scale) {}

  /**
   * Computes into tensors that the caller gives.
   *
   * @param gradients f32, dense, of any shape; none at all have norm 0
   * @throws InvalidArgumentException if a type, shape or option is wrong, or an output overlaps a
   *     gradient
   */
  public static void forward(
      Context context, List<Tensor> gradients, Options options, Outputs outputs) {
    try (Call call = context.begin("grad_norm");
        var entries = new saccade_grad_norm_tensor(Math.max(1, gradients.size()))) {
      int i = 0;
      for (Tensor gradient : gradients) {
        entries.position(i);
        String name = "entries[" + i++ + "].grad";
        entries.grad(call.ofAnyShape(name, gradient, Types.F32).address()).count(gradient.size());
      }
      entries.position(0);
      var args = call.args(saccade_grad_norm_args.class, saccade_grad_norm_args::new);
      args.tensors(gradients.size())
          .entries(entries.address())
          .norm(call.f32("norm", outputs.norm(), 1))
          .scale(call.optionalF32("scale", outputs.scale(), 1))
          .max_norm(options.maxNorm());
      args.workspace(
          call.workspace(
              Saccade.saccade_grad_norm_workspace(context.handle(), args, call.bytes())));
      call.invoke(Saccade.saccade_grad_norm(context.handle(), args));
    }
  }

  /** Computes into new tensors of {@code scope}: norm and scale. */
  public static Outputs forward(Scope scope, List<Tensor> gradients, Options options) {
    Outputs outputs =
        new Outputs(Tensor.empty(scope, DType.F32, 1), Tensor.empty(scope, DType.F32, 1));
    forward(scope.context(), gradients, options, outputs);
    return outputs;
  }
}
