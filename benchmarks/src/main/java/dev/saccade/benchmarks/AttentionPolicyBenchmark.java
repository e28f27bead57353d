package dev.saccade.benchmarks;

import org.openjdk.jmh.annotations.Benchmark;
import org.openjdk.jmh.annotations.Param;

/** The attention policy of a layer of Qwen2.5-VL-3B: a response of 256 tokens looks at 2048. */
public class AttentionPolicyBenchmark extends OperationBenchmark {
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
    return Workload.of(
            "§8 attention_policy",
            shape.toString(),
            engine -> engine.attentionPolicy(AttentionInputs.of(shape)))
        .reads(shape.querySize() + shape.keySize())
        .writes(2L * rows + (long) heads * rows + (long) rows * keys)
        .withFlops(shape.productFlops());
  }

  /** Entropy, mass, log-normaliser and map. */
  @Benchmark
  public Object forward() {
    return run();
  }
}
