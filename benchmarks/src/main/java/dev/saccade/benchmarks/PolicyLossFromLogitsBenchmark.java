package dev.saccade.benchmarks;

import dev.saccade.DType;
import org.openjdk.jmh.annotations.Benchmark;
import org.openjdk.jmh.annotations.Param;

/** GRPO's loss with a KL term from the logits, and its gradient with respect to them. */
public class PolicyLossFromLogitsBenchmark extends LogitsBenchmark {
  @Param("4")
  private int sequences;

  @Override
  protected Workload workload(String method) {
    // Rows that were halved may no longer be so many equal sequences.
    int equal = rows() % sequences == 0 ? sequences : 1;
    Workload workload =
        Workload.of(
            "§6 policy_loss_from_logits",
            shape(),
            engine -> {
              Inputs in = inputs();
              return engine.policyLossFromLogits(
                  in, PolicyBatch.around(in.nearLogProb(), equal, 1));
            });
    return PolicyBatch.read(workload, rows(), equal)
        .reads(size(), dtype())
        .reads(rows(), DType.I32)
        .writes(1 + rows())
        .writes(size(), dtype())
        .withTolerance(1e-3);
  }

  /** Loss, log-probabilities and gradient. */
  @Benchmark
  public Object gradient() {
    return run();
  }
}
