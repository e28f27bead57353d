package dev.saccade.reference;

import dev.saccade.GroupAdvantage.Estimator;
import java.util.Arrays;
import java.util.stream.IntStream;

/** {@code group_advantage} in double precision, from its definition. */
public final class GroupAdvantageReference {
  /** One for each reward. */
  public final double[] advantage;

  /** One for each group. */
  public final double[] mean;

  /** One for each group. */
  public final double[] std;

  /** One for each group. */
  public final boolean[] degenerate;

  /** Computes all results; {@code valid} may be null. */
  public GroupAdvantageReference(
      float[] rewards, int[] offsets, byte[] valid, Estimator estimator, double eps, int ddof) {
    int groups = offsets.length - 1;
    advantage = new double[rewards.length];
    mean = new double[groups];
    std = new double[groups];
    degenerate = new boolean[groups];
    double[] centred = new double[rewards.length];
    for (int g = 0; g < groups; g++) {
      int[] members = members(offsets[g], offsets[g + 1], valid);
      double[] r = Arrays.stream(members).mapToDouble(i -> rewards[i]).toArray();
      mean[g] = Arrays.stream(r).average().orElse(0);
      degenerate[g] = r.length < 2 || Arrays.stream(r).allMatch(x -> x == r[0]);
      if (degenerate[g]) {
        continue;
      }
      std[g] = deviation(r, ddof);
      double sum = Arrays.stream(r).sum();
      for (int i : members) {
        centred[i] = rewards[i] - mean[g];
        double others = (sum - rewards[i]) / (r.length - 1);
        advantage[i] = estimator == Estimator.RLOO ? rewards[i] - others : centred[i];
        if (estimator == Estimator.GRPO) {
          advantage[i] /= std[g] + eps;
        }
      }
    }
    if (estimator == Estimator.BATCH_STD || estimator == Estimator.REINFORCE_PP_BASELINE) {
      double[] all =
          Arrays.stream(members(0, rewards.length, valid))
              .mapToDouble(i -> estimator == Estimator.BATCH_STD ? rewards[i] : centred[i])
              .toArray();
      double divisor = deviation(all, ddof) + eps;
      for (int i = 0; i < advantage.length; i++) {
        advantage[i] = centred[i] == 0 ? 0 : centred[i] / divisor;
      }
    }
  }

  private static int[] members(int begin, int end, byte[] valid) {
    return IntStream.range(begin, end).filter(i -> valid == null || valid[i] != 0).toArray();
  }

  private static double deviation(double[] x, int ddof) {
    if (x.length <= ddof) {
      return 0;
    }
    double mean = Arrays.stream(x).sum() / x.length;
    return Math.sqrt(Arrays.stream(x).map(v -> (v - mean) * (v - mean)).sum() / (x.length - ddof));
  }
}
