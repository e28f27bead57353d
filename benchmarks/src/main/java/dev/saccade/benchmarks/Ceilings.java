package dev.saccade.benchmarks;

import dev.saccade.Device;
import java.util.List;

/**
 * What the machine did best in the same run, whichever engine did it: the bounds of a roofline. NaN
 * where the run did not measure it.
 *
 * @param read bytes per second of grad_norm, which only reads; of a GPU that of the copy
 * @param copy bytes per second, read and written, of a copy
 * @param product operations per second of a product of matrices; of a GPU that of cuBLAS in bf16
 */
record Ceilings(double read, double copy, double product) {
  /** Beyond any machine: bounds before there are others. */
  static final Ceilings BOUNDS = new Ceilings(1e13, 1e13, 3e15);

  static Ceilings of(List<Result> results) {
    boolean cpu =
        results.stream().anyMatch(r -> r.machine().device().equals(Device.CPU.toString()));
    double copy = 1e9 * best(results, AxpbyBenchmark.COPY, true);
    return new Ceilings(
        cpu ? 1e9 * best(results, GradNormBenchmark.NAME, true) : copy,
        copy,
        1e9 * best(results, cpu ? GemmBenchmark.NAME : GemmBenchmark.CUBLAS, false));
  }

  private static double best(List<Result> results, String operation, boolean bytes) {
    return results.stream()
        .filter(result -> result.line().operation().equals(operation) && result.isRun())
        .mapToDouble(result -> bytes ? result.gbPerSecond() : result.gflopPerSecond())
        .max()
        .orElse(Double.NaN);
  }

  /**
   * Seconds that the bytes, or the products if those take longer, need at the ceilings. A written
   * byte takes what a copied pair takes beyond the read.
   */
  double seconds(long bytesRead, long bytesWritten, double flops) {
    double memory = bytesRead / read + bytesWritten * (2 / copy - 1 / read);
    double arithmetic = flops == 0 ? 0 : flops / product;
    return Math.max(memory, arithmetic);
  }

  double seconds(Workload workload) {
    return seconds(workload.bytesRead(), workload.bytesWritten(), workload.flops());
  }

  double seconds(Result.Line line) {
    return seconds(line.bytesRead(), line.bytesWritten(), line.flops());
  }

  /** How near a time is to {@link #seconds}. */
  double percent(Result result) {
    return 1e5 * seconds(result.line()) / result.milliseconds();
  }

  /** As many operations as take 10 ms at least, since none is faster than its bound. */
  int launches(Workload workload) {
    Ceilings known =
        new Ceilings(or(read, BOUNDS.read), or(copy, BOUNDS.copy), or(product, BOUNDS.product));
    return (int) Math.ceil(LEAST / Math.max(SHORTEST, known.seconds(workload)));
  }

  private static double or(double measured, double bound) {
    return Double.isNaN(measured) ? bound : measured;
  }

  /** Seconds of an invocation. */
  static final double LEAST = 10e-3;

  /** Of a launch. */
  private static final double SHORTEST = 1e-6;
}
