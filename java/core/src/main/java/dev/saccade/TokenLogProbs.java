package dev.saccade;

import dev.saccade.binding.Saccade;
import dev.saccade.binding.saccade_token_log_probs_args;
import dev.saccade.binding.saccade_token_log_probs_backward_args;

/**
 * Log-probability of a target token, entropy and log-normaliser of every row of logits, in one read
 * of the logits, and their gradient.
 *
 * <p>With z = logits / temperature: log_prob = z[target] - lse, lse = log Σ exp z, entropy = -Σ p
 * log p, all natural logarithms. A row whose target is {@link Options#ignoreIndex} gives log_prob
 * 0, entropy 0 and no gradient. A logit of -inf is a masked token. A target outside the vocabulary,
 * a row of nothing but -inf, NaN or +inf in a row: NaN in that row's results.
 */
public final class TokenLogProbs {
  private TokenLogProbs() {}

  /**
   * @param temperature divides the logits; finite, above 0
   * @param ignoreIndex the target that marks a row to skip
   */
  public record Options(float temperature, int ignoreIndex) {
    /** Temperature 1, ignore index -100. */
    public static final Options DEFAULT = new Options(1.0f, -100);

    public Options withTemperature(float temperature) {
      return new Options(temperature, ignoreIndex);
    }

    public Options withIgnoreIndex(int ignoreIndex) {
      return new Options(temperature, ignoreIndex);
    }
  }

  /**
   * Results, one value a row.
   *
   * @param logProb f32[R]
   * @param entropy f32[R], or null where it is not wanted
   * @param lse f32[R], or null where it is not wanted
   */
  public record Outputs(Tensor logProb, Tensor entropy, Tensor lse) {}

  /**
   * Computes into tensors that the caller gives.
   *
   * @param logits f32, bf16 or f16 [R, V]; rows may have a stride
   * @param targets i32[R]
   * @throws InvalidArgumentException if a type, shape or option is wrong
   */
  public static void forward(
      Context context, Tensor logits, Tensor targets, Options options, Outputs outputs) {
    try (Call call = context.begin("token_log_probs")) {
      var args = call.args(saccade_token_log_probs_args.class, saccade_token_log_probs_args::new);
      args.logits(call.strided("logits", logits, DType.FLOAT, -1, -1));
      long rows = logits.shape(0);
      args.rows(rows)
          .vocabulary(logits.shape(1))
          .logits_stride(logits.stride(0))
          .logits_dtype(logits.dtype().code())
          .targets(call.i32("targets", targets, rows))
          .ignore_index(options.ignoreIndex())
          .temperature(options.temperature())
          .log_prob(call.f32("log_prob", outputs.logProb(), rows))
          .entropy(call.optionalF32("entropy", outputs.entropy(), rows))
          .lse(call.optionalF32("lse", outputs.lse(), rows));
      call.invoke(Saccade.saccade_token_log_probs(context.handle(), args));
    }
  }

  /** Computes into new tensors of {@code scope}: all three results. */
  public static Outputs forward(Scope scope, Tensor logits, Tensor targets, Options options) {
    long rows = Call.shapeOf(scope, "token_log_probs", "targets", targets, Types.I32, -1)[0];
    Outputs outputs =
        new Outputs(
            Tensor.empty(scope, DType.F32, rows),
            Tensor.empty(scope, DType.F32, rows),
            Tensor.empty(scope, DType.F32, rows));
    forward(scope.context(), logits, targets, options, outputs);
    return outputs;
  }

  /**
   * Gradient with respect to the logits of Σ dLogProb·log_prob + dEntropy·entropy.
   *
   * @param logits f32, bf16 or f16 [R, V], as in the forward pass
   * @param targets i32[R]
   * @param dLogProb f32[R], or null for 0
   * @param dEntropy f32[R], or null for 0
   * @param dLogits out, [R, V] of the type of the logits or f32; may be {@code logits} itself
   * @throws InvalidArgumentException if a type, shape or option is wrong
   */
  public static void backward(
      Context context,
      Tensor logits,
      Tensor targets,
      Options options,
      Tensor dLogProb,
      Tensor dEntropy,
      Tensor dLogits) {
    try (Call call = context.begin("token_log_probs_backward")) {
      var args =
          call.args(
              saccade_token_log_probs_backward_args.class,
              saccade_token_log_probs_backward_args::new);
      args.logits(call.strided("logits", logits, DType.FLOAT, -1, -1));
      long rows = logits.shape(0);
      long vocabulary = logits.shape(1);
      args.rows(rows)
          .vocabulary(vocabulary)
          .logits_stride(logits.stride(0))
          .logits_dtype(logits.dtype().code())
          .targets(call.i32("targets", targets, rows))
          .ignore_index(options.ignoreIndex())
          .temperature(options.temperature())
          .d_log_prob(call.optionalF32("d_log_prob", dLogProb, rows))
          .d_entropy(call.optionalF32("d_entropy", dEntropy, rows))
          .d_logits(call.strided("d_logits", dLogits, DType.FLOAT, rows, vocabulary))
          .d_logits_stride(dLogits.stride(0))
          .d_logits_dtype(dLogits.dtype().code());
      call.invoke(Saccade.saccade_token_log_probs_backward(context.handle(), args));
    }
  }
}
