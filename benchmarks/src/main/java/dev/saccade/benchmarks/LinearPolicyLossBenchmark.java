package dev.saccade.benchmarks;

import dev.saccade.DType;
import org.openjdk.jmh.annotations.Benchmark;
import org.openjdk.jmh.annotations.Param;

/** GRPO's loss with a KL term from hidden states of Qwen2.5's 0.5B, through its projection. */
public class LinearPolicyLossBenchmark extends OperationBenchmark {
  private static final double DEVIATION = 2;

  /** Of 16 bits: logits and their gradients are rounded too, before they are multiplied again. */
  private static final double ROUNDED = 0x1p-5;

  @Param("128")
  private int rows;

  @Param("151936")
  private int vocabulary;

  @Param("896")
  private int hiddenSize;

  @Param("4")
  private int sequences;

  /** Of hidden states, weight and their gradients. */
  @Param("F32")
  private DType dtype;

  /**
   * @param hidden [rows, hiddenSize]
   * @param weight [vocabulary, hiddenSize]
   * @param targets [rows]
   */
  public record Inputs(
      int rows,
      int vocabulary,
      int hiddenSize,
      float[] hidden,
      float[] weight,
      int[] targets,
      PolicyBatch batch) {}

  private Inputs inputs() {
    float[] hidden = Data.rounded(dtype, Data.normal(1, (long) rows * hiddenSize, 1));
    float[] weight =
        Data.rounded(
            dtype,
            Data.normal(2, (long) vocabulary * hiddenSize, DEVIATION / Math.sqrt(hiddenSize)));
    int[] targets = Data.indices(3, rows, vocabulary);
    float[] logProb = new float[rows]; // about
    for (int r = 0; r < rows; r++) {
      double target = 0;
      double squares = 0;
      for (int d = 0; d < hiddenSize; d++) {
        double h = hidden[r * hiddenSize + d];
        target += h * weight[targets[r] * hiddenSize + d];
        squares += h * h;
      }
      double variance = DEVIATION * DEVIATION * squares / hiddenSize;
      logProb[r] = (float) (target - Math.log(vocabulary) - variance / 2);
    }
    PolicyBatch batch = PolicyBatch.around(logProb, sequences, 1);
    return new Inputs(rows, vocabulary, hiddenSize, hidden, weight, targets, batch);
  }

  @Override
  protected DType dtype() {
    return dtype;
  }

  @Override
  void makeSmall(String method) {
    with("rows", "64").with("sequences", "4").with("vocabulary", "4099");
  }

  @Override
  protected Workload workload(String method) {
    long hidden = (long) rows * hiddenSize;
    long weight = (long) vocabulary * hiddenSize;
    Workload workload =
        Workload.of(
            "§7 linear_policy_loss",
            "%d × %d × %d".formatted(rows, hiddenSize, vocabulary),
            engine -> engine.linearPolicyLoss(inputs()));
    return PolicyBatch.read(workload, rows, sequences)
        .reads(hidden + weight, dtype)
        .reads(rows, DType.I32)
        .writes(1 + rows)
        .writes(hidden + weight, dtype)
        .withTolerance(dtype == DType.F32 ? 1e-3 : ROUNDED)
        .withFlops(3 * 2.0 * rows * weight); // logits, d_hidden, d_weight
  }

  @Override
  protected String extent() {
    return "rows";
  }

  /** Loss, log-probabilities, and the gradients of hidden states and weight. */
  @Benchmark
  public Object gradient() {
    return run();
  }
}
