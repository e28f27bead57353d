package dev.saccade.benchmarks;

import org.openjdk.jmh.annotations.Benchmark;
import org.openjdk.jmh.annotations.Param;

/** Group-relative advantages; groups of one size, which makes them a matrix for the others. */
public class GroupAdvantageBenchmark extends OperationBenchmark {
  public static final float EPS = 1e-4f;

  @Param("16384")
  private int groups;

  @Param("64")
  private int members;

  /** Rewards [groups, members]. */
  public record Inputs(int groups, int members, float[] rewards) {}

  Inputs inputs() {
    return new Inputs(groups, members, Data.normal(1, (long) groups * members, 1.0));
  }

  @Override
  protected Workload workload(String method) {
    long size = (long) groups * members;
    return Workload.of(
            "§1 group_advantage",
            "%d groups of %d".formatted(groups, members),
            engine -> engine.groupAdvantage(inputs()))
        .reads(size)
        .writes(size + 2L * groups);
  }

  /** Advantage, mean and deviation. */
  @Benchmark
  public Object forward() {
    return run();
  }
}
