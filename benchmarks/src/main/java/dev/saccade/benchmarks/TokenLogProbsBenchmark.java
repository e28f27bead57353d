package dev.saccade.benchmarks;

import dev.saccade.DType;
import org.openjdk.jmh.annotations.Benchmark;

/** Log-probability, entropy and log-normaliser from logits. */
public class TokenLogProbsBenchmark extends LogitsBenchmark {
  @Override
  protected Workload workload(String method) {
    return switch (method) {
      case "forward" ->
          Workload.of("§2 token_log_probs", shape(), engine -> engine.tokenLogProbs(inputs()))
              .reads(size(), dtype())
              .reads(rows(), DType.I32)
              .writes(3L * rows());
      case "gradient" ->
          Workload.of(
                  "§2 token_log_probs and gradient",
                  shape(),
                  engine -> engine.tokenLogProbsGradient(inputs()))
              .reads(size(), dtype())
              .reads(rows(), DType.I32)
              .reads(rows())
              .writes(rows())
              .writes(size(), dtype());
      default -> throw new IllegalArgumentException(method);
    };
  }

  /** All three. */
  @Benchmark
  public Object forward() {
    return run();
  }

  /** Log-probability, and the gradient with respect to the logits. */
  @Benchmark
  public Object gradient() {
    return run();
  }
}
