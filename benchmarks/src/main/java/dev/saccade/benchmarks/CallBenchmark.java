package dev.saccade.benchmarks;

import org.openjdk.jmh.annotations.Benchmark;

/** A call alone: axpby of one element, from Java, without a graph. */
public class CallBenchmark extends OperationBenchmark {
  @Override
  protected Workload workload(String method) {
    return Workload.of(
            "call",
            "axpby of 1",
            engine ->
                engine.axpby(new AxpbyBenchmark.Inputs(1, 1, new float[] {1}, new float[] {2})))
        .reads(2)
        .writes(1);
  }

  @Override
  protected String extent() {
    return null;
  }

  @Override
  protected boolean isRecorded() {
    return false;
  }

  /** Checks, and the way to the device and back. */
  @Benchmark
  public Object overhead() {
    return run();
  }
}
