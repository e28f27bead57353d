package dev.saccade.benchmarks;

import java.util.stream.IntStream;
import org.openjdk.jmh.annotations.Benchmark;
import org.openjdk.jmh.annotations.Param;

/** Global norm of 67 million gradients: the machine's ceiling of reading. */
public class GradNormBenchmark extends OperationBenchmark {
  static final String NAME = "§10 grad_norm";

  @Param("64")
  private int tensors;

  @Param("1048576")
  private int elements;

  @Override
  protected Workload workload(String method) {
    return Workload.of(
            NAME,
            "%d tensors of %d".formatted(tensors, elements),
            engine ->
                engine.gradNorm(
                    IntStream.range(0, tensors)
                        .mapToObj(i -> Data.normal(i, elements, 1.0))
                        .toArray(float[][]::new)))
        .reads((long) tensors * elements)
        .writes(2);
  }

  @Override
  protected String extent() {
    return "tensors";
  }

  /** Norm and clipping factor. */
  @Benchmark
  public Object forward() {
    return run();
  }
}
