package dev.saccade;

import dev.saccade.binding.Saccade;
import dev.saccade.binding.saccade_sampled_kl_args;

/**
 * Per-token estimates of KL(π‖ref) from the log-probabilities of sampled tokens, and their gradient
 * with respect to the policy's log-probability; the formulas are those of {@link KlEstimator}.
 *
 * <p>Log-ratios are clamped to ±20 before they are used. NaN in a row gives NaN in that row's value
 * and gradient.
 */
public final class SampledKl {
  private SampledKl() {}

  /**
   * @param estimator value and gradient
   * @param importanceCorrected multiplies the value by ρ = exp(clamp(log_prob - old_log_prob,
   *     ±20)), which makes it an estimate under the current policy from tokens that an old one
   *     sampled; the gradient becomes ρ·(value + gradient)
   */
  public record Options(KlEstimator estimator, boolean importanceCorrected) {
    /** {@link KlEstimator#K3}, not corrected. */
    public static final Options DEFAULT = new Options(KlEstimator.K3, false);

    public Options withEstimator(KlEstimator estimator) {
      return new Options(estimator, importanceCorrected);
    }

    public Options withImportanceCorrected(boolean importanceCorrected) {
      return new Options(estimator, importanceCorrected);
    }
  }

  /**
   * Results, one value a row.
   *
   * @param kl f32[R], in nats
   * @param dLogProb f32[R], ∂kl/∂log_prob, or null where it is not wanted
   */
  public record Outputs(Tensor kl, Tensor dLogProb) {}

  /**
   * Computes into tensors that the caller gives.
   *
   * @param logProb f32[R], natural logarithms, of the policy
   * @param refLogProb f32[R], of the reference
   * @param oldLogProb f32[R], of the policy that sampled; may be null without importance correction
   * @throws InvalidArgumentException if a type or shape is wrong, or an output overlaps an input
   */
  public static void forward(
      Context context,
      Tensor logProb,
      Tensor refLogProb,
      Tensor oldLogProb,
      Options options,
      Outputs outputs) {
    try (Call call = context.begin("sampled_kl")) {
      var args = call.args(saccade_sampled_kl_args.class, saccade_sampled_kl_args::new);
      args.log_prob(call.f32("log_prob", logProb, -1));
      long rows = logProb.shape(0);
      args.rows(rows)
          .ref_log_prob(call.f32("ref_log_prob", refLogProb, rows))
          .old_log_prob(call.optionalF32("old_log_prob", oldLogProb, rows))
          .kl(call.f32("kl", outputs.kl(), rows))
          .d_log_prob(call.optionalF32("d_log_prob", outputs.dLogProb(), rows))
          .estimator(options.estimator().code())
          .importance_corrected(options.importanceCorrected() ? 1 : 0);
      call.invoke(Saccade.saccade_sampled_kl(context.handle(), args));
    }
  }

  /** Computes into new tensors of {@code scope}: value and gradient. */
  public static Outputs forward(
      Scope scope, Tensor logProb, Tensor refLogProb, Tensor oldLogProb, Options options) {
    long rows = Call.shapeOf(scope, "sampled_kl", "log_prob", logProb, Types.F32, -1)[0];
    Outputs outputs =
        new Outputs(Tensor.empty(scope, DType.F32, rows), Tensor.empty(scope, DType.F32, rows));
    forward(scope.context(), logProb, refLogProb, oldLogProb, options, outputs);
    return outputs;
  }
}
