package dev.saccade.benchmarks;

import org.openjdk.jmh.annotations.Benchmark;
import org.openjdk.jmh.annotations.Param;

/** The K3 estimate of KL and its gradient, of 8 million tokens. */
public class SampledKlBenchmark extends OperationBenchmark {
  @Param("8388608")
  private int rows;

  /** Log-probabilities of the policy and the reference. */
  public record Inputs(float[] logProb, float[] refLogProb) {}

  private Inputs inputs() {
    float[] logProb = Data.normal(1, rows, -3, 1);
    return new Inputs(logProb, Data.near(2, logProb, 0.3));
  }

  @Override
  protected Workload workload(String method) {
    return Workload.of("§3 sampled_kl", "%d".formatted(rows), engine -> engine.sampledKl(inputs()))
        .reads(2L * rows)
        .writes(2L * rows);
  }

  @Override
  protected String extent() {
    return "rows";
  }

  /** Value and gradient. */
  @Benchmark
  public Object gradient() {
    return run();
  }
}
