package dev.saccade.benchmarks;

import org.openjdk.jmh.annotations.Benchmark;
import org.openjdk.jmh.annotations.Param;

/** Product of square matrices: the machine's ceiling of arithmetic. */
public class GemmBenchmark extends OperationBenchmark {
  static final String NAME = "gemm";

  @Param("2048")
  private int size;

  /** A and B, [size, size]. */
  public record Inputs(int size, float[] a, float[] b) {}

  @Override
  protected Workload workload(String method) {
    long elements = (long) size * size;
    return Workload.of(
            NAME,
            "%1$d × %1$d × %1$d".formatted(size),
            engine ->
                engine.gemm(
                    new Inputs(size, Data.normal(1, elements, 1), Data.normal(2, elements, 1))))
        .reads(2 * elements)
        .writes(elements)
        .withFlops(2.0 * elements * size);
  }

  /** C = A·B. */
  @Benchmark
  public Object forward() {
    return run();
  }
}
