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

  /**
   * How near a result is to the time that its bytes, or its products if those take longer, need at
   * the ceilings. A written byte takes what a copied pair takes beyond the read.
   */
  double percent(Result result) {
    double memory = result.bytesRead() / read + result.bytesWritten() * (2 / copy - 1 / read);
    double arithmetic = result.flops() == 0 ? 0 : result.flops() / product;
    return 100 * Math.max(memory, arithmetic) / (result.milliseconds() / 1e3);
  }
}
