package dev.saccade;

import dev.saccade.binding.Saccade;
import dev.saccade.binding.saccade_group_advantage_args;

/**
 * Turns the rewards of groups of rollouts, each group the answers to one prompt, into advantages.
 *
 * <p>Groups are packed and may differ in size; an empty one is legal. A group whose valid rewards
 * are all equal, or that has fewer than two, is <i>degenerate</i>: it tells nothing, its advantages
 * are exactly 0 and so is its deviation. Invalid members get 0 and enter no statistic, whatever
 * their reward holds. NaN in a reward reaches the advantages of its group, and those of all groups
 * where the estimator divides by a deviation of the batch.
 */
public final class GroupAdvantage {
  private GroupAdvantage() {}

  /**
   * With r a reward, and n, m and s the number, mean and deviation of its group's valid rewards.
   */
  public enum Estimator {
    /** (r - m) / (s + eps): DeepSeekMath, arXiv 2402.03300. */
    GRPO,
    /** r - m: "Understanding R1-Zero-like training", arXiv 2503.20783. */
    DR_GRPO,
    /** r - the mean of the group's other rewards = (r - m)·n/(n - 1). */
    RLOO,
    /** (r - m) / (deviation of all valid rewards of the batch + eps). */
    BATCH_STD,
    /** a / (deviation of all a of the batch + eps) with a = r - m. */
    REINFORCE_PP_BASELINE;

    /** {@code saccade_advantage_estimator} of the C ABI. */
    int code() {
      return ordinal();
    }
  }

  /**
   * @param estimator how rewards become advantages
   * @param eps added to deviations; finite, 0 or more
   * @param ddof deviations are √(Σ(r - m)²/(n - ddof)), 0 where n ≤ ddof; 0 or more
   */
  public record Options(Estimator estimator, float eps, int ddof) {
    /** {@link Estimator#GRPO}, eps 1e-4, ddof 1. */
    public static final Options DEFAULT = new Options(Estimator.GRPO, 1e-4f, 1);

    public Options withEstimator(Estimator estimator) {
      return new Options(estimator, eps, ddof);
    }

    public Options withEps(float eps) {
      return new Options(estimator, eps, ddof);
    }

    public Options withDdof(int ddof) {
      return new Options(estimator, eps, ddof);
    }
  }

  /**
   * @param advantage f32[B], one for each reward
   * @param mean f32[N], of each group's valid rewards, 0 where there are none; or null where it is
   *     not wanted
   * @param std f32[N], deviation of each group, or null where it is not wanted
   * @param degenerate u8[N], 1 or 0, or null where it is not wanted
   */
  public record Outputs(Tensor advantage, Tensor mean, Tensor std, Tensor degenerate) {}

  /**
   * Computes into tensors that the caller gives.
   *
   * @param rewards f32[B]
   * @param offsets i32[N + 1], from 0, non-decreasing, ending at B: group g owns rewards offsets[g]
   *     … offsets[g + 1] - 1
   * @param valid u8[B], 0 marks a member to leave out; null where all are valid
   * @throws InvalidArgumentException if a type, shape, option or the offsets are wrong, or an
   *     output overlaps an input
   */
  public static void forward(
      Context context,
      Tensor rewards,
      Tensor offsets,
      Tensor valid,
      Options options,
      Outputs outputs) {
    try (Call call = context.begin("group_advantage")) {
      var args = call.args(saccade_group_advantage_args.class, saccade_group_advantage_args::new);
      args.rewards(call.f32("rewards", rewards, -1));
      long size = rewards.shape(0);
      long groups = call.sequences("offsets", offsets, Types.I32);
      args.size(size)
          .groups(groups)
          .offsets(offsets.address())
          .valid(call.optionalU8("valid", valid, size))
          .advantage(call.f32("advantage", outputs.advantage(), size))
          .mean(call.optionalF32("mean", outputs.mean(), groups))
          .std(call.optionalF32("std", outputs.std(), groups))
          .degenerate(call.optionalU8("degenerate", outputs.degenerate(), groups))
          .estimator(options.estimator().code())
          .ddof(options.ddof())
          .eps(options.eps());
      args.workspace(
          call.workspace(
              Saccade.saccade_group_advantage_workspace(context.handle(), args, call.bytes())));
      call.invoke(Saccade.saccade_group_advantage(context.handle(), args));
    }
  }

  /** Computes into new tensors of {@code scope}: all four results. */
  public static Outputs forward(
      Scope scope, Tensor rewards, Tensor offsets, Tensor valid, Options options) {
    long size = Call.shapeOf(scope, "group_advantage", "rewards", rewards, Types.F32, -1)[0];
    long offset = Call.shapeOf(scope, "group_advantage", "offsets", offsets, Types.I32, -1)[0];
    long groups = Math.max(0, offset - 1);
    Outputs outputs =
        new Outputs(
            Tensor.empty(scope, DType.F32, size),
            Tensor.empty(scope, DType.F32, groups),
            Tensor.empty(scope, DType.F32, groups),
            Tensor.empty(scope, DType.U8, groups));
    forward(scope.context(), rewards, offsets, valid, options, outputs);
    return outputs;
  }
}
