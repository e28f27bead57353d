package dev.saccade.benchmarks;

import org.openjdk.jmh.annotations.Benchmark;
import org.openjdk.jmh.annotations.Param;

/** RAL's loss against a stored map, with the gradients of queries and keys; Qwen2.5-VL-3B. */
public class AttentionDivergenceBenchmark extends OperationBenchmark {
  @Param("16")
  private int heads;

  @Param("2")
  private int kvHeads;

  @Param("256")
  private int rows;

  @Param("2048")
  private int keys;

  @Param("128")
  private int dim;

  AttentionInputs.Shape inputShape() {
    return new AttentionInputs.Shape(heads, kvHeads, rows, keys, dim);
  }

  @Override
  protected Workload workload(String method) {
    AttentionInputs.Shape shape = inputShape();
    long tensors = shape.querySize() + shape.keySize();
    return Workload.of(
            "§8 attention_divergence",
            shape.toString(),
            engine -> engine.attentionDivergence(AttentionInputs.of(shape)))
        .reads(tensors + (long) rows * keys + rows)
        .writes(tensors + 1)
        .withFlops(3 * shape.productFlops()); // scores, dq, dk
  }

  /** Loss, dq and dk. */
  @Benchmark
  public Object gradient() {
    return run();
  }
}
