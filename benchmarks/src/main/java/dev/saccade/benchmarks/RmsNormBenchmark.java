package dev.saccade.benchmarks;

import org.openjdk.jmh.annotations.Benchmark;
import org.openjdk.jmh.annotations.Param;

/** Normalisation of the hidden states of 8192 tokens. */
public class RmsNormBenchmark extends OperationBenchmark {
  public static final float EPS = 1e-6f;

  @Param("8192")
  private int rows;

  @Param("4096")
  private int columns;

  /** x and dy [rows, columns], weight [columns]. */
  public record Inputs(int rows, int columns, float[] x, float[] weight, float[] dy) {}

  @Override
  protected Workload workload(String method) {
    long size = (long) rows * columns;
    String shape = "%d × %d".formatted(rows, columns);
    return switch (method) {
      case "forward" ->
          Workload.of("rms_norm", shape, engine -> engine.rmsNorm(inputs()))
              .reads(size + columns)
              .writes(size);
      case "gradient" ->
          Workload.of("rms_norm and gradient", shape, engine -> engine.rmsNormGradient(inputs()))
              .reads(2 * size + columns)
              .writes(2 * size + columns);
      default -> throw new IllegalArgumentException(method);
    };
  }

  private Inputs inputs() {
    long size = (long) rows * columns;
    return new Inputs(
        rows,
        columns,
        Data.normal(1, size, 1),
        Data.normal(2, columns, 1, 0.1),
        Data.normal(3, size, 1));
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

  /** y, dx and the gradient of the weight. */
  @Benchmark
  public Object gradient() {
    return run();
  }
}
