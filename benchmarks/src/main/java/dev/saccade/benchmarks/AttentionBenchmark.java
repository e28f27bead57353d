package dev.saccade.benchmarks;

import dev.saccade.DType;
import dev.saccade.Precision;
import org.openjdk.jmh.annotations.Benchmark;
import org.openjdk.jmh.annotations.Param;

/** Causal attention of sequences with themselves, equal ones where there are several. */
public class AttentionBenchmark extends OperationBenchmark {
  private static final double ROUNDED = 0x1p-6; // probabilities and their gradients, twice each

  @Param("1")
  private int batch;

  @Param("16")
  private int heads;

  @Param("2")
  private int kvHeads;

  @Param("1024")
  private int rows;

  @Param("128")
  private int dim;

  /** Of the products. */
  @Param("F32")
  private Precision precision;

  @Override
  protected Workload workload(String method) {
    var shape = new AttentionInputs.Shape(heads, kvHeads, rows, rows, dim);
    long query = batch * shape.querySize();
    long key = batch * shape.keySize();
    double flops = batch * shape.productFlops();
    boolean plain = batch == 1 && precision == Precision.F32;
    Workload workload = Workload.of("attention", shape.times(batch), null);
    String suffix = precision == Precision.F32 ? "" : " " + precision;
    workload =
        switch (method) {
          case "forward" ->
              (plain
                      ? workload.on("attention", engine -> engine.attention(inputs(shape)))
                      : workload.variant(
                          "attention" + suffix,
                          engine -> engine.attention(inputs(shape), batch, precision)))
                  .reads(query + 2 * key)
                  .writes(query)
                  .withFlops(2 * flops);
          case "gradient" ->
              (plain
                      ? workload.on(
                          "attention and gradient",
                          engine -> engine.attentionGradient(inputs(shape)))
                      : workload.variant(
                          "attention and gradient" + suffix,
                          engine ->
                              engine.attentionGradient(inputs(shape), batch, precision, true)))
                  .reads(2 * query + 2 * key)
                  .writes(2 * query + 2 * key)
                  .withFlops(6 * flops); // scores, o, dv, dp, dq, dk
          case "backward" ->
              workload
                  .variant(
                      "attention backward" + suffix,
                      engine -> engine.attentionGradient(inputs(shape), batch, precision, false))
                  .reads(3 * query + 2 * key)
                  .writes(query + 2 * key)
                  .withFlops(5 * flops);
          default -> throw new IllegalArgumentException(method);
        };
    return precision == Precision.F32 ? workload : workload.withTolerance(ROUNDED);
  }

  private static AttentionInputs inputs(AttentionInputs.Shape shape) {
    return AttentionInputs.of(shape, DType.F32);
  }

  @Override
  protected String extent() {
    return "batch";
  }

  /** The result. */
  @Benchmark
  public Object forward() {
    return run();
  }

  /** The result, dq, dk and dv. */
  @Benchmark
  public Object gradient() {
    return run();
  }

  /** dq, dk and dv, of the forward pass's results. */
  @Benchmark
  public Object backward() {
    return run();
  }
}
