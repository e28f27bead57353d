package dev.saccade;

import dev.saccade.binding.Saccade;
import dev.saccade.binding.saccade_policy_loss_from_logits_args;

/**
 * {@link TokenLogProbs}, {@link SampledKl} and {@link PolicyLoss} in one operation, from logits to
 * the gradient of the loss with respect to them, which may take their place.
 *
 * <p>The logits of a row are read once and its gradient is written once. A row is active where its
 * mask is not 0 and its target is not {@link Options#ignoreIndex}; the logits of other rows are not
 * read, and their results and gradients are 0. The loss is that of {@link PolicyLoss} minus Σ
 * a·entropyCoef·entropy, with the aggregation's weights a of the active rows.
 *
 * <p>GSPO and GSPO_TOKEN, whose ratio needs the whole sequence first, read the logits twice; once
 * where {@link PolicyLoss.Inputs#logProb} is given.
 */
public final class PolicyLossFromLogits {
  private PolicyLossFromLogits() {}

  /**
   * @param policy objective, aggregation, KL term
   * @param temperature divides the logits; finite, above 0
   * @param ignoreIndex the target that marks a row as inactive
   * @param entropyCoef weight of the entropy, which is maximised where it is positive; finite, 0
   *     leaves the term out
   */
  public record Options(
      PolicyLoss.Options policy, float temperature, int ignoreIndex, float entropyCoef) {
    /** {@link PolicyLoss.Options#DEFAULT}, temperature 1, ignore index -100, no entropy term. */
    public static final Options DEFAULT = new Options(PolicyLoss.Options.DEFAULT, 1.0f, -100, 0.0f);

    public Options withPolicy(PolicyLoss.Options policy) {
      return new Options(policy, temperature, ignoreIndex, entropyCoef);
    }

    public Options withTemperature(float temperature) {
      return new Options(policy, temperature, ignoreIndex, entropyCoef);
    }

    public Options withIgnoreIndex(int ignoreIndex) {
      return new Options(policy, temperature, ignoreIndex, entropyCoef);
    }

    public Options withEntropyCoef(float entropyCoef) {
      return new Options(policy, temperature, ignoreIndex, entropyCoef);
    }
  }

  /**
   * @param logits f32, bf16 or f16 [R, V]; rows may have a stride
   * @param targets i32[R]; outside the vocabulary and not the ignore index: NaN in that row
   * @param policy as {@link PolicyLoss} takes them, but logProb is usually null: it is computed.
   *     Where it is given it takes the place of what would be computed; gradOutput multiplies the
   *     gradient of the logits
   */
  public record Inputs(Tensor logits, Tensor targets, PolicyLoss.Inputs policy) {}

  /**
   * Loss and per-row results, null where one is not wanted.
   *
   * @param loss f32[1], always wanted
   * @param tokenLoss f32[R], before the aggregation's weights and without the entropy term
   * @param metrics f32[{@link PolicyLoss.Metrics#COUNT}]
   * @param logProb f32[R]
   * @param entropy f32[R]
   * @param lse f32[R], log-normaliser of logits / temperature
   * @param kl f32[R], the KL estimator's value without klCoef; needs refLogProb
   */
  public record Values(
      Tensor loss,
      Tensor tokenLoss,
      Tensor metrics,
      Tensor logProb,
      Tensor entropy,
      Tensor lse,
      Tensor kl) {
    /** Nothing but the loss. */
    public static Values of(Tensor loss) {
      return new Values(loss, null, null, null, null, null, null);
    }

    /** New tensors of {@code scope} for all results; kl only where {@code inputs} allow it. */
    static Values all(Scope scope, long rows, PolicyLoss.Inputs inputs) {
      return new Values(
          Tensor.empty(scope, DType.F32, 1),
          Tensor.empty(scope, DType.F32, rows),
          Tensor.empty(scope, DType.F32, PolicyLoss.Metrics.COUNT),
          Tensor.empty(scope, DType.F32, rows),
          Tensor.empty(scope, DType.F32, rows),
          Tensor.empty(scope, DType.F32, rows),
          inputs.refLogProb() == null ? null : Tensor.empty(scope, DType.F32, rows));
    }

    PolicyLoss.Outputs policy() {
      return new PolicyLoss.Outputs(loss, tokenLoss, null, metrics, kl);
    }
  }

  /**
   * @param values loss and per-row results
   * @param dLogits [R, V] of the type of the logits or f32; may be the logits themselves; null
   *     where it is not wanted
   */
  public record Outputs(Values values, Tensor dLogits) {}

  /**
   * Computes into tensors that the caller gives.
   *
   * @throws InvalidArgumentException if a type, shape, option or the offsets are wrong, or an
   *     output overlaps an input
   */
  public static void forward(Context context, Inputs inputs, Options options, Outputs outputs) {
    try (Call call = context.begin("policy_loss_from_logits")) {
      Tensor logits = inputs.logits();
      var args =
          call.args(
              saccade_policy_loss_from_logits_args.class,
              saccade_policy_loss_from_logits_args::new);
      args.logits(call.strided("logits", logits, DType.FLOAT, -1, -1));
      long rows = logits.shape(0);
      long vocabulary = logits.shape(1);
      Values values = outputs.values();
      args.policy(PolicyLoss.args(call, rows, inputs.policy(), options.policy(), values.policy()))
          .vocabulary(vocabulary)
          .logits_stride(logits.stride(0))
          .logits_dtype(logits.dtype().code())
          .targets(call.i32("targets", inputs.targets(), rows))
          .ignore_index(options.ignoreIndex())
          .temperature(options.temperature())
          .entropy_coef(options.entropyCoef())
          .log_prob(call.optionalF32("log_prob", values.logProb(), rows))
          .entropy(call.optionalF32("entropy", values.entropy(), rows))
          .lse(call.optionalF32("lse", values.lse(), rows));
      Tensor dLogits = outputs.dLogits();
      if (dLogits != null) {
        args.d_logits(call.strided("d_logits", dLogits, DType.FLOAT, rows, vocabulary))
            .d_logits_stride(dLogits.stride(0))
            .d_logits_dtype(dLogits.dtype().code());
      }
      args.workspace(
          call.workspace(
              Saccade.saccade_policy_loss_from_logits_workspace(
                  context.handle(), args, call.bytes())));
      call.invoke(Saccade.saccade_policy_loss_from_logits(context.handle(), args));
    }
  }

  /**
   * Computes into new tensors of {@code scope}: every result, the gradient in the type of the
   * logits; kl only where there is a reference.
   */
  public static Outputs forward(Scope scope, Inputs inputs, Options options) {
    Tensor logits = inputs.logits();
    long[] shape =
        Call.shapeOf(scope, "policy_loss_from_logits", "logits", logits, DType.FLOAT, -1, -1);
    Outputs outputs =
        new Outputs(
            Values.all(scope, shape[0], inputs.policy()),
            Tensor.empty(scope, logits.dtype(), shape));
    forward(scope.context(), inputs, options, outputs);
    return outputs;
  }
}
