package dev.saccade.benchmarks;

import java.util.List;

/** Results of one engine against those of another. */
final class Comparison {
  /** An element of a product of 16-bit numbers may be so much farther off than most are. */
  private static final double WORST = 8;

  private Comparison() {}

  /**
   * Requires that the root mean square of actual - expected is at most tolerance times that of the
   * expected tensor, and |actual - expected| of every element at most eight times the tolerance of
   * |expected| + that root mean square; NaN is never near.
   *
   * @throws IllegalStateException naming the first element that is not, or the tensor
   */
  static void requireNear(List<float[]> expected, List<float[]> actual, double tolerance) {
    if (expected.size() != actual.size()) {
      throw new IllegalStateException(
          expected.size() + " results expected, but there are " + actual.size());
    }
    for (int t = 0; t < expected.size(); t++) {
      requireNear(t, expected.get(t), actual.get(t), tolerance);
    }
  }

  private static void requireNear(int tensor, float[] expected, float[] actual, double tolerance) {
    if (expected.length != actual.length) {
      throw new IllegalStateException(
          "result %d: %d elements expected, but there are %d"
              .formatted(tensor, expected.length, actual.length));
    }
    double squares = 0;
    for (float x : expected) {
      squares += (double) x * x;
    }
    double scale = expected.length == 0 ? 0 : Math.sqrt(squares / expected.length);
    double errors = 0;
    for (int i = 0; i < expected.length; i++) {
      double error = Math.abs((double) actual[i] - expected[i]);
      errors += error * error;
      if (!(error <= WORST * tolerance * (Math.abs(expected[i]) + scale))) {
        throw new IllegalStateException(
            "result %d[%d]: expected %s, got %s (root mean square %.3g, tolerance %.1e)"
                .formatted(tensor, i, expected[i], actual[i], scale, tolerance));
      }
    }
    double off = expected.length == 0 ? 0 : Math.sqrt(errors / expected.length);
    if (!(off <= tolerance * scale)) {
      throw new IllegalStateException(
          "result %d: root mean square %.3g expected, and off by %.3g (tolerance %.1e)"
              .formatted(tensor, scale, off, tolerance));
    }
  }
}
