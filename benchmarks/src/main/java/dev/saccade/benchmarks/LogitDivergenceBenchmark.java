package dev.saccade.benchmarks;

import dev.saccade.Divergence;
import org.openjdk.jmh.annotations.Benchmark;
import org.openjdk.jmh.annotations.Param;

/**
 * JSD, unless another kind is asked for, over the vocabulary between two policies, and its gradient
 * with respect to the logits.
 */
public class LogitDivergenceBenchmark extends LogitsBenchmark {
  @Param("JSD")
  private Divergence kind;

  @Override
  protected Workload workload(String method) {
    Workload workload =
        Workload.of("§4 logit_divergence", shape(), engine -> engine.logitDivergence(inputs()))
            .reads(2 * size(), dtype())
            .reads(rows())
            .writes(rows())
            .writes(size(), dtype())
            .withTolerance(1e-3);
    return kind == Divergence.JSD
        ? workload
        : workload.variant(
            workload.name() + " " + kind, engine -> engine.logitDivergence(inputs(), kind));
  }

  /** Divergence and gradient. */
  @Benchmark
  public Object gradient() {
    return run();
  }
}
