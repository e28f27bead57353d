package dev.saccade;

import dev.saccade.binding.Saccade;
import dev.saccade.binding.saccade_linear_policy_loss_args;
import java.util.Set;

/**
 * {@link PolicyLossFromLogits} of logits = hidden·weightᵀ, fused with that projection: of the [R,
 * V] logits and their gradient at most chunkRows rows exist at a time.
 *
 * <p>The products come from the context's provider ({@link Context#setGemm}, {@link
 * Context#setCublas}). On the CPU only active rows are multiplied. GSPO and GSPO_TOKEN compute the
 * logits twice; once where {@link PolicyLoss.Inputs#logProb} is given.
 *
 * <p>On a GPU 16-bit tensors are multiplied as they are: sums and logits are f32, and the gradient
 * of the logits is rounded to the type before it is multiplied. That of f16 loses what is below
 * 2⁻²⁵: scale the loss by {@link PolicyLoss.Inputs#gradOutput}.
 */
public final class LinearPolicyLoss {
  private LinearPolicyLoss() {}

  /**
   * @param policy as for {@link PolicyLossFromLogits}
   * @param chunkRows active rows whose logits exist at a time; above 0. The workspace holds
   *     chunkRows·(V + D) floats, per-row values, and for 16-bit types an f32 copy of dWeight and,
   *     on the CPU, of a part of the weight, on a GPU chunkRows·V elements more
   */
  public record Options(PolicyLossFromLogits.Options policy, int chunkRows) {
    /** {@link PolicyLossFromLogits.Options#DEFAULT}, chunks of 1024 rows. */
    public static final Options DEFAULT = new Options(PolicyLossFromLogits.Options.DEFAULT, 1024);

    public Options withPolicy(PolicyLossFromLogits.Options policy) {
      return new Options(policy, chunkRows);
    }

    public Options withChunkRows(int chunkRows) {
      return new Options(policy, chunkRows);
    }
  }

  /**
   * @param hidden f32, bf16 or f16 [R, D]; rows may have a stride
   * @param weight [V, D] of the type of hidden; rows may have a stride
   * @param targets i32[R]; outside the vocabulary and not the ignore index: NaN in that row
   * @param policy as {@link PolicyLossFromLogits} takes them
   */
  public record Inputs(Tensor hidden, Tensor weight, Tensor targets, PolicyLoss.Inputs policy) {}

  /**
   * @param values loss and per-row results
   * @param dHidden [R, D] of the type of hidden or f32; null where it is not wanted
   * @param dWeight [V, D] of the type of weight or f32, summed in f32 in either case; null where it
   *     is not wanted
   */
  public record Outputs(PolicyLossFromLogits.Values values, Tensor dHidden, Tensor dWeight) {}

  /**
   * Computes into tensors that the caller gives.
   *
   * @throws InvalidArgumentException if a type, shape, option or the offsets are wrong, or an
   *     output overlaps an input
   * @throws UnsupportedException if the context has no provider of matrix products
   */
  public static void forward(Context context, Inputs inputs, Options options, Outputs outputs) {
    try (Call call = context.begin("linear_policy_loss")) {
      Tensor hidden = inputs.hidden();
      Tensor weight = inputs.weight();
      PolicyLossFromLogits.Options policy = options.policy();
      var args =
          call.args(saccade_linear_policy_loss_args.class, saccade_linear_policy_loss_args::new);
      args.hidden(call.strided("hidden", hidden, DType.FLOAT, -1, -1));
      long rows = hidden.shape(0);
      long size = hidden.shape(1);
      args.weight(call.strided("weight", weight, Set.of(hidden.dtype()), -1, size));
      long vocabulary = weight.shape(0);
      PolicyLossFromLogits.Values values = outputs.values();
      args.policy(PolicyLoss.args(call, rows, inputs.policy(), policy.policy(), values.policy()))
          .vocabulary(vocabulary)
          .hidden_size(size)
          .chunk_rows(options.chunkRows())
          .hidden_stride(hidden.stride(0))
          .weight_stride(weight.stride(0))
          .dtype(hidden.dtype().code())
          .targets(call.i32("targets", inputs.targets(), rows))
          .ignore_index(policy.ignoreIndex())
          .temperature(policy.temperature())
          .entropy_coef(policy.entropyCoef())
          .log_prob(call.optionalF32("log_prob", values.logProb(), rows))
          .entropy(call.optionalF32("entropy", values.entropy(), rows))
          .lse(call.optionalF32("lse", values.lse(), rows));
      Tensor dHidden = outputs.dHidden();
      if (dHidden != null) {
        args.d_hidden(call.strided("d_hidden", dHidden, DType.FLOAT, rows, size))
            .d_hidden_stride(dHidden.stride(0))
            .d_hidden_dtype(dHidden.dtype().code());
      }
      Tensor dWeight = outputs.dWeight();
      if (dWeight != null) {
        args.d_weight(call.strided("d_weight", dWeight, DType.FLOAT, vocabulary, size))
            .d_weight_stride(dWeight.stride(0))
            .d_weight_dtype(dWeight.dtype().code());
      }
      args.workspace(
          call.workspace(
              Saccade.saccade_linear_policy_loss_workspace(context.handle(), args, call.bytes())));
      call.invoke(Saccade.saccade_linear_policy_loss(context.handle(), args));
    }
  }

  /**
   * Computes into new tensors of {@code scope}: every result, the gradients in the type of their
   * tensors; kl only where there is a reference.
   */
  public static Outputs forward(Scope scope, Inputs inputs, Options options) {
    String operation = "linear_policy_loss";
    Tensor hidden = inputs.hidden();
    Tensor weight = inputs.weight();
    long[] shape = Call.shapeOf(scope, operation, "hidden", hidden, DType.FLOAT, -1, -1);
    long[] weightShape =
        Call.shapeOf(scope, operation, "weight", weight, Set.of(hidden.dtype()), -1, shape[1]);
    Outputs outputs =
        new Outputs(
            PolicyLossFromLogits.Values.all(scope, shape[0], inputs.policy()),
            Tensor.empty(scope, hidden.dtype(), shape),
            Tensor.empty(scope, weight.dtype(), weightShape));
    forward(scope.context(), inputs, options, outputs);
    return outputs;
  }
}
