package dev.saccade.benchmarks;

import java.util.List;

/**
 * What the machine did best in the same run, whichever engine did it: the bounds of a roofline. NaN
 * where the run did not measure it.
 *
 * @param read bytes per second of grad_norm, which only reads
 * @param copy bytes per second, read and written, of a copy
 * @param product operations per second of a product of matrices
 */
record Ceilings(double read, double copy, double product) {
  static Ceilings of(List<Result> results) {
    return new Ceilings(
        1e9 * best(results, GradNormBenchmark.NAME, true),
        1e9 * best(results, AxpbyBenchmark.COPY, true),
        1e9 * best(results, GemmBenchmark.NAME, false));
  }

  private static double best(List<Result> results, String operation, boolean bytes) {
    return results.stream()
        .filter(result -> result.operation().equals(operation))
        .mapToDouble(result -> bytes ? result.gbPerSecond() : result.gflopPerSecond())
        .max()
        .orElse(Double.NaN);
  }

  /** {@link #percent(long, long, double, double)} of a result. */
  double percent(Result result) {
    return percent(
        result.bytesRead(), result.bytesWritten(), result.flops(), result.milliseconds() / 1e3);
  }

  /**
   * How near a time is to that which the bytes, or the products if those take longer, need at the
   * ceilings. A written byte takes what a copied pair takes beyond the read.
   */
  double percent(long bytesRead, long bytesWritten, double flops, double seconds) {
    double memory = bytesRead / read + bytesWritten * (2 / copy - 1 / read);
    double arithmetic = flops == 0 ? 0 : flops / product;
    return 100 * Math.max(memory, arithmetic) / seconds;
  }
}
