package dev.saccade.benchmarks;

import org.openjdk.jmh.annotations.Benchmark;
import org.openjdk.jmh.annotations.Param;

/** Scaled sum, and a copy: the machine's ceiling of reading and writing. */
public class AxpbyBenchmark extends OperationBenchmark {
  public static final float A = 0.5f;
  public static final float B = 0.5f;

  static final String COPY = "copy";

  @Param("8192")
  private int rows;

  @Param("8192")
  private int columns;

  /** [rows, columns]. */
  public record Inputs(int rows, int columns, float[] x, float[] y) {}

  @Override
  protected Workload workload(String method) {
    long size = (long) rows * columns;
    String shape = "%d × %d".formatted(rows, columns);
    return switch (method) {
      case "axpby" ->
          Workload.of("axpby", shape, engine -> engine.axpby(inputs()))
              .reads(2 * size)
              .writes(size);
      case "copy" ->
          Workload.of(COPY, shape, engine -> engine.copy(inputs())).reads(size).writes(size);
      default -> throw new IllegalArgumentException(method);
    };
  }

  private Inputs inputs() {
    long size = (long) rows * columns;
    return new Inputs(rows, columns, Data.normal(1, size, 1), Data.normal(2, size, 1));
  }

  @Override
  protected String extent() {
    return "rows";
  }

  /** y = a·x + b·y. */
  @Benchmark
  public Object axpby() {
    return run();
  }

  /** y = x. */
  @Benchmark
  public Object copy() {
    return run();
  }
}
