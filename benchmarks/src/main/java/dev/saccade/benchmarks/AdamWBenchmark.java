package dev.saccade.benchmarks;

import dev.saccade.DType;
import java.util.stream.IntStream;
import org.openjdk.jmh.annotations.Benchmark;
import org.openjdk.jmh.annotations.Param;

/** A step of AdamW over 16 million weights in many tensors. */
public class AdamWBenchmark extends OperationBenchmark {
  public static final float LR = 1e-3f;
  public static final float BETA1 = 0.9f;
  public static final float BETA2 = 0.999f;
  public static final float EPS = 1e-8f;
  public static final float WEIGHT_DECAY = 0.01f;

  @Param("64")
  private int tensors;

  @Param("262144")
  private int elements;

  /** Whether the step also writes the weights as bf16. */
  @Param("false")
  private boolean bf16Copies;

  /** Weights and gradients of each tensor; the moments start at 0. */
  public record Inputs(float[][] params, float[][] grads) {}

  /** Gradients stay away from 0, around which engines differ in where they put eps. */
  private float[][] normal(long seed, double mean, double deviation) {
    return IntStream.range(0, tensors)
        .mapToObj(i -> Data.normal(seed + i, elements, mean, deviation))
        .toArray(float[][]::new);
  }

  private Inputs inputs() {
    return new Inputs(normal(1, 0, 1), normal(1000, 1, 0.1));
  }

  @Override
  protected Workload workload(String method) {
    long size = (long) tensors * elements;
    Workload workload =
        Workload.of(
                "§10 adamw",
                "%d tensors of %d".formatted(tensors, elements),
                engine -> engine.adamW(inputs()))
            .reads(4 * size)
            .writes(3 * size)
            .withTolerance(1e-5);
    return bf16Copies
        ? workload
            .variant(workload.name() + " with bf16 copies", engine -> engine.adamW(inputs(), true))
            .writes(size, DType.BF16)
        : workload;
  }

  @Override
  protected String extent() {
    return "tensors";
  }

  /** One step. */
  @Benchmark
  public Object step() {
    return run();
  }
}
