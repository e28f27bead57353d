package dev.saccade.benchmarks;

import java.util.List;

/** Results of one engine against those of another. */
final class Comparison {
  private Comparison() {}

  /**
   * Requires |actual - expected| ≤ tolerance · (|expected| + root mean square of the expected
   * tensor) of every element; NaN is never near.
   *
   * @throws IllegalStateException naming the first element that is not
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
    for (int i = 0; i < expected.length; i++) {
      double error = Math.abs((double) actual[i] - expected[i]);
      if (!(error <= tolerance * (Math.abs(expected[i]) + scale))) {
        throw new IllegalStateException(
            "result %d[%d]: expected %s, got %s (root mean square %.3g, tolerance %.1e)"
                .formatted(tensor, i, expected[i], actual[i], scale, tolerance));
      }
    }
  }
}
