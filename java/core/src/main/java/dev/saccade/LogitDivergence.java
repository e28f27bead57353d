package dev.saccade;

import dev.saccade.binding.Saccade;
import dev.saccade.binding.saccade_logit_divergence_args;
import java.util.Set;

/**
 * Exact divergence over the vocabulary between a policy, softmax(logits / temperature), and a
 * reference, softmax(refLogits / temperature), row by row, and its gradient with respect to the
 * policy's logits; the reference is detached.
 *
 * <p>D = β·KL(r‖M) + (1−β)·KL(π‖M) with M = β·r + (1−β)·π for {@link Divergence#JSD} (the
 * generalised Jensen-Shannon divergence of GKD, arXiv 2306.13649), KL(r‖π) for {@link
 * Divergence#FORWARD_KL}, KL(π‖r) for {@link Divergence#REVERSE_KL}; natural logarithms. Policies
 * that differ by 0.1 % give a divergence with a relative error of at most 1e-3.
 *
 * <p>A logit of -inf is a masked token; one masked on both sides counts 0. A token that only one
 * side masks leaves JSD finite; a KL under the other side becomes +inf, with a NaN gradient for the
 * row. A row of nothing but -inf, NaN or +inf in a row of either side: NaN in that row's results.
 */
public final class LogitDivergence {
  private LogitDivergence() {}

  /**
   * @param kind the divergence
   * @param beta weight of the reference in JSD, inside (0, 1); of no meaning for the others
   * @param temperature divides the logits of both sides; finite, above 0
   */
  public record Options(Divergence kind, float beta, float temperature) {
    /** JSD with β = ½, temperature 1. */
    public static final Options DEFAULT = new Options(Divergence.JSD, 0.5f, 1.0f);

    public Options withKind(Divergence kind) {
      return new Options(kind, beta, temperature);
    }

    public Options withBeta(float beta) {
      return new Options(kind, beta, temperature);
    }

    public Options withTemperature(float temperature) {
      return new Options(kind, beta, temperature);
    }
  }

  /**
   * What is compared, and what its gradient is multiplied by.
   *
   * @param logits f32, bf16 or f16 [R, V], of the policy; rows may have a stride
   * @param refLogits [R, V] of the type of the logits; rows may have a stride
   * @param weight f32[R], of a row's divergence in the loss; or null, for 1. A row of weight 0 gets
   *     a gradient of 0, whatever it holds
   * @param gradOutput f32[1] that multiplies the gradient; or null, for 1
   */
  public record Inputs(Tensor logits, Tensor refLogits, Tensor weight, Tensor gradOutput) {
    /** Every row of weight 1. */
    public static Inputs of(Tensor logits, Tensor refLogits) {
      return new Inputs(logits, refLogits, null, null);
    }

    public Inputs withWeight(Tensor weight) {
      return new Inputs(logits, refLogits, weight, gradOutput);
    }

    public Inputs withGradOutput(Tensor gradOutput) {
      return new Inputs(logits, refLogits, weight, gradOutput);
    }
  }

  /**
   * Results; each may be null where it is not wanted.
   *
   * @param divergence f32[R], in nats
   * @param dLogits [R, V] of the type of the logits or f32, ∂(gradOutput·Σ
   *     weight·divergence)/∂logits; may be the logits themselves
   */
  public record Outputs(Tensor divergence, Tensor dLogits) {}

  /**
   * Computes into tensors that the caller gives.
   *
   * @throws InvalidArgumentException if a type, shape or option is wrong, or an output overlaps an
   *     input
   */
  public static void forward(Context context, Inputs inputs, Options options, Outputs outputs) {
    try (Call call = context.begin("logit_divergence")) {
      var args = call.args(saccade_logit_divergence_args.class, saccade_logit_divergence_args::new);
      Tensor logits = call.check("logits", inputs.logits(), DType.FLOAT, -1, -1);
      long rows = logits.shape(0);
      long vocabulary = logits.shape(1);
      Tensor refLogits =
          call.check("ref_logits", inputs.refLogits(), Set.of(logits.dtype()), rows, vocabulary);
      args.rows(rows)
          .vocabulary(vocabulary)
          .logits(logits.address())
          .logits_stride(logits.stride(0))
          .ref_logits(refLogits.address())
          .ref_logits_stride(refLogits.stride(0))
          .dtype(logits.dtype().code())
          .kind(options.kind().code())
          .beta(options.beta())
          .temperature(options.temperature())
          .weight(call.optionalF32("weight", inputs.weight(), rows))
          .divergence(call.optionalF32("divergence", outputs.divergence(), rows))
          .grad_output(call.optionalF32("grad_output", inputs.gradOutput(), 1));
      Tensor dLogits = outputs.dLogits();
      if (dLogits != null) {
        args.d_logits(call.strided("d_logits", dLogits, DType.FLOAT, rows, vocabulary))
            .d_logits_stride(dLogits.stride(0))
            .d_logits_dtype(dLogits.dtype().code());
      }
      call.invoke(Saccade.saccade_logit_divergence(context.handle(), args));
    }
  }

  /**
   * Computes into new tensors of {@code scope}: both results, dLogits of the type of the logits.
   */
  public static Outputs forward(Scope scope, Inputs inputs, Options options) {
    Tensor logits = inputs.logits();
    long[] shape = Call.shapeOf(scope, "logit_divergence", "logits", logits, DType.FLOAT, -1, -1);
    Outputs outputs =
        new Outputs(
            Tensor.empty(scope, DType.F32, shape[0]), Tensor.empty(scope, logits.dtype(), shape));
    forward(scope.context(), inputs, options, outputs);
    return outputs;
  }
}
