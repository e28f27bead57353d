package dev.saccade.benchmarks;

import org.openjdk.jmh.annotations.Benchmark;

/** JSD over the vocabulary between two policies, and its gradient with respect to the logits. */
public class LogitDivergenceBenchmark extends LogitsBenchmark {
  @Override
  protected Workload workload(String method) {
    return Workload.of("§4 logit_divergence", shape(), engine -> engine.logitDivergence(inputs()))
        .reads(2 * size(), dtype())
        .reads(rows())
        .writes(rows())
        .writes(size(), dtype())
        .withTolerance(1e-3);
  }

  /** Divergence and gradient. */
  @Benchmark
  public Object gradient() {
    return run();
  }
}
