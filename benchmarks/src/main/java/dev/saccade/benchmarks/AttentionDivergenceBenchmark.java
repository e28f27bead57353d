package dev.saccade.benchmarks;

import dev.saccade.DType;
import org.openjdk.jmh.annotations.Benchmark;
import org.openjdk.jmh.annotations.Param;

/** RAL's loss against a stored map, with the gradients of queries and keys; Qwen2.5-VL-3B. */
public class AttentionDivergenceBenchmark extends OperationBenchmark {
  private static final double ROUNDED = 0x1p-6; // probabilities and their gradients, twice each

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

  /** Whether the log-sum-exps of the attention are there already. */
  @Param("false")
  private boolean lseGiven;

  @Override
  protected DType dtype() {
    return dtype;
  }

  @Override
  protected Workload workload(String method) {
    var shape = new AttentionInputs.Shape(heads, kvHeads, rows, keys, dim);
    long tensors = batch * (shape.querySize() + shape.keySize());
    long all = (long) batch * rows;
    // Scores, dq, dk. With log-sum-exps, on GPUs, the scores thrice: for the mean over heads, for
    // delta and for dS, since nothing keeps an array of heads x rows x keys.
    int products = lseGiven ? 5 : 3;
    Workload workload =
        Workload.of(
                "§8 attention_divergence" + (lseGiven ? " with log-sum-exps" : ""),
                shape.times(batch),
                engine -> engine.attentionDivergence(AttentionInputs.of(shape, dtype)))
            .reads(tensors, dtype)
            .reads(all * keys + all + (lseGiven ? heads * all : 0))
            .writes(tensors, dtype)
            .writes(1)
            .withFlops(products * batch * shape.productFlops());
    if (dtype != DType.F32) {
      workload = workload.withTolerance(ROUNDED);
    }
    return batch == 1 && !lseGiven
        ? workload
        : workload.variant(
            workload.name(),
            engine ->
                engine.attentionDivergence(AttentionInputs.of(shape, dtype), batch, lseGiven));
  }

  @Override
  protected String extent() {
    return "batch";
  }

  /** Loss, dq and dk. */
  @Benchmark
  public Object gradient() {
    return run();
  }
}
