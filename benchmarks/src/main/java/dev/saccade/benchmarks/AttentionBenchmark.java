package dev.saccade.benchmarks;

import org.openjdk.jmh.annotations.Benchmark;
import org.openjdk.jmh.annotations.Param;

/** Causal attention of a sequence with itself. */
public class AttentionBenchmark extends OperationBenchmark {
  @Param("16")
  private int heads;

  @Param("2")
  private int kvHeads;

  @Param("1024")
  private int rows;

  @Param("128")
  private int dim;

  @Override
  protected Workload workload(String method) {
    var shape = new AttentionInputs.Shape(heads, kvHeads, rows, rows, dim);
    long query = shape.querySize();
    long key = shape.keySize();
    return switch (method) {
      case "forward" ->
          Workload.of(
                  "attention",
                  shape.toString(),
                  engine -> engine.attention(AttentionInputs.of(shape)))
              .reads(query + 2 * key)
              .writes(query)
              .withFlops(2 * shape.productFlops());
      case "gradient" ->
          Workload.of(
                  "attention and gradient",
                  shape.toString(),
                  engine -> engine.attentionGradient(AttentionInputs.of(shape)))
              .reads(2 * query + 2 * key)
              .writes(2 * query + 2 * key)
              .withFlops(6 * shape.productFlops()); // scores, o, dv, dp, dq, dk
      default -> throw new IllegalArgumentException(method);
    };
  }

  /** The result. */
  @Benchmark
  public Object forward() {
    return run();
  }

  /** The result, dq, dk and dv. */
  @Benchmark
  public Object gradient() {
    return run();
  }
}
