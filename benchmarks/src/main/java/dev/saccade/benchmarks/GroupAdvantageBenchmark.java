package dev.saccade.benchmarks;

import dev.saccade.GroupAdvantage;
import org.openjdk.jmh.annotations.Benchmark;
import org.openjdk.jmh.annotations.Param;

/** Group-relative advantages; groups of one size, which makes them a matrix for the others. */
public class GroupAdvantageBenchmark extends OperationBenchmark {
  public static final float EPS = 1e-4f;

  @Param("16384")
  private int groups;

  @Param("64")
  private int members;

  @Param("GRPO")
  private GroupAdvantage.Estimator estimator;

  /** Rewards [groups, members]. */
  public record Inputs(int groups, int members, float[] rewards) {}

  private Inputs inputs() {
    return new Inputs(groups, members, Data.normal(1, (long) groups * members, 1.0));
  }

  @Override
  protected Workload workload(String method) {
    long size = (long) groups * members;
    Workload workload =
        Workload.of(
                "§1 group_advantage",
                "%d groups of %d".formatted(groups, members),
                engine -> engine.groupAdvantage(inputs()))
            .reads(size)
            .writes(size + 2L * groups);
    return estimator == GroupAdvantage.Estimator.GRPO
        ? workload
        : workload.variant(
            workload.name() + " " + estimator,
            engine -> engine.groupAdvantage(inputs(), estimator));
  }

  @Override
  protected String extent() {
    return "groups";
  }

  /** Advantage, mean and deviation. */
  @Benchmark
  public Object forward() {
    return run();
  }
}
