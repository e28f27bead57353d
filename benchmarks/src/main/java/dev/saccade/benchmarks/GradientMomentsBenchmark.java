package dev.saccade.benchmarks;

import dev.saccade.DType;
import org.openjdk.jmh.annotations.Benchmark;
import org.openjdk.jmh.annotations.Param;

/** One more sample of 16 million gradients in their running mean and squared deviations. */
public class GradientMomentsBenchmark extends OperationBenchmark {
  @Param("16777216")
  private int size;

  /** A sample, and a state of {@code count} samples. */
  public record Inputs(float[] sample, long count, float[] mean, double[] m2) {}

  private Inputs inputs() {
    float[] mean = Data.normal(2, size, 1);
    double[] m2 = new double[size];
    for (int i = 0; i < size; i++) {
      m2[i] = 9 * (double) mean[i] * mean[i];
    }
    return new Inputs(Data.normal(1, size, 1), 10, mean, m2);
  }

  @Override
  protected Workload workload(String method) {
    return Workload.of(
            "§11 gradient_moments",
            "%d".formatted(size),
            engine -> engine.gradientMoments(inputs()))
        .reads(2L * size)
        .reads(size, DType.F64)
        .writes(size)
        .writes(size, DType.F64);
  }

  @Override
  protected String extent() {
    return "size";
  }

  /** Adds a sample. */
  @Benchmark
  public Object update() {
    return run();
  }
}
