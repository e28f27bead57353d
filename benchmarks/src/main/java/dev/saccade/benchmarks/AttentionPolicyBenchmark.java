package dev.saccade.benchmarks;

import dev.saccade.DType;
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

  /** Equal ones. */
  @Param("1")
  private int batch;

  /** Of queries and keys. */
  @Param("F32")
  private DType dtype;

  @Override
  protected DType dtype() {
    return dtype;
  }

  @Override
  protected Workload workload(String method) {
    var shape = new AttentionInputs.Shape(heads, kvHeads, rows, keys, dim);
    long all = (long) batch * rows;
    Workload workload =
        Workload.of(
                "§8 attention_policy",
                shape.times(batch),
                engine -> engine.attentionPolicy(AttentionInputs.of(shape, dtype)))
            .reads(batch * (shape.querySize() + shape.keySize()), dtype)
            .writes(2 * all + heads * all + all * keys)
            .withFlops(batch * shape.productFlops());
    return batch == 1
        ? workload
        : workload.variant(
            workload.name(),
            engine -> engine.attentionPolicy(AttentionInputs.of(shape, dtype), batch));
  }

  @Override
  protected String extent() {
    return "batch";
  }

  /** Entropy, mass, log-normaliser and map. */
  @Benchmark
  public Object forward() {
    return run();
  }
}
