package dev.saccade.benchmarks;

import org.openjdk.jmh.annotations.Benchmark;
import org.openjdk.jmh.annotations.Param;

/** GRPO's loss with a KL term from log-probabilities of 8 million tokens, and its gradient. */
public class PolicyLossBenchmark extends OperationBenchmark {
  @Param("8192")
  private int sequences;

  @Param("1024")
  private int length;

  @Override
  protected Workload workload(String method) {
    long rows = (long) sequences * length;
    Workload workload =
        Workload.of(
            "§5 policy_loss",
            "%d sequences of %d".formatted(sequences, length),
            engine -> {
              float[] logProb = Data.normal(1, rows, -3, 1);
              return engine.policyLoss(PolicyBatch.around(logProb, sequences, 0.9), logProb);
            });
    return PolicyBatch.read(workload, rows, sequences).reads(rows).writes(1 + rows);
  }

  @Override
  protected String extent() {
    return "sequences";
  }

  /** Loss and gradient. */
  @Benchmark
  public Object gradient() {
    return run();
  }
}
