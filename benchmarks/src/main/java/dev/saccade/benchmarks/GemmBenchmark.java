package dev.saccade.benchmarks;

import dev.saccade.DType;
import org.openjdk.jmh.annotations.Benchmark;
import org.openjdk.jmh.annotations.Param;

/** Products of square matrices: the machine's ceiling of arithmetic. */
public class GemmBenchmark extends OperationBenchmark {
  static final String NAME = "gemm";
  static final String CUBLAS = "cublas product of bf16";

  @Param("2048")
  private int size;

  /** A and B, [size, size]. */
  public record Inputs(int size, float[] a, float[] b) {}

  @Override
  protected Workload workload(String method) {
    long elements = (long) size * size;
    Workload workload =
        Workload.of(
                NAME,
                "%1$d × %1$d × %1$d".formatted(size),
                engine -> engine.gemm(inputs(DType.F32)))
            .withFlops(2.0 * elements * size);
    return switch (method) {
      case "forward" -> workload.reads(2 * elements).writes(elements);
      case "cublas" ->
          workload
              .variant(CUBLAS, engine -> engine.cublasProduct(inputs(DType.BF16)))
              .reads(2 * elements, DType.BF16)
              .writes(elements, DType.BF16)
              .withTolerance(0x1p-8);
      default -> throw new IllegalArgumentException(method);
    };
  }

  private Inputs inputs(DType dtype) {
    long elements = (long) size * size;
    return new Inputs(
        size,
        Data.rounded(dtype, Data.normal(1, elements, 1)),
        Data.rounded(dtype, Data.normal(2, elements, 1)));
  }

  @Override
  protected String extent() {
    return "size";
  }

  /** C = A·B. */
  @Benchmark
  public Object forward() {
    return run();
  }

  /** On a GPU by cuBLAS itself, bf16 sums in f32: its ceiling. {@code gemm} elsewhere. */
  @Benchmark
  public Object cublas() {
    return run();
  }
}
