package dev.saccade.benchmarks;

import org.openjdk.jmh.annotations.Benchmark;
import org.openjdk.jmh.annotations.Param;

/** Gated activation of a feed-forward layer. */
public class SwiGluBenchmark extends OperationBenchmark {
  @Param("4096")
  private int rows;

  @Param("8192")
  private int columns;

  /** x [rows, 2·columns] and dy [rows, columns]. */
  public record Inputs(int rows, int columns, float[] x, float[] dy) {}

  @Override
  protected Workload workload(String method) {
    long size = (long) rows * columns;
    String shape = "%d × 2·%d".formatted(rows, columns);
    return switch (method) {
      case "forward" ->
          Workload.of("swiglu", shape, engine -> engine.swiGlu(inputs()))
              .reads(2 * size)
              .writes(size);
      case "gradient" ->
          Workload.of("swiglu and gradient", shape, engine -> engine.swiGluGradient(inputs()))
              .reads(3 * size)
              .writes(3 * size);
      default -> throw new IllegalArgumentException(method);
    };
  }

  private Inputs inputs() {
    long size = (long) rows * columns;
    return new Inputs(rows, columns, Data.normal(1, 2 * size, 1), Data.normal(2, size, 1));
  }

  @Override
  protected String extent() {
    return "rows";
  }

  /** y. */
  @Benchmark
  public Object forward() {
    return run();
  }

  /** y and dx. */
  @Benchmark
  public Object gradient() {
    return run();
  }
}
