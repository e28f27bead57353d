package dev.saccade;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.fail;

/** Comparison of f32 results with double-precision references. */
final class Near {
  private Near() {}

  /**
   * |got - want| ≤ relative·|want| + absolute for every element; NaN and infinities only where
   * wanted.
   */
  static void assertNear(
      String what, float[] got, double[] want, double relative, double absolute) {
    assertThat(got).as(what).hasSize(want.length);
    for (int i = 0; i < got.length; i++) {
      double error = Math.abs(got[i] - want[i]);
      boolean fits =
          Double.isFinite(want[i])
              ? error <= relative * Math.abs(want[i]) + absolute
              : Double.compare(got[i], want[i]) == 0;
      if (!fits) {
        fail("%s[%d]: got %s, want %s", what, i, got[i], want[i]);
      }
    }
  }

  /** The largest finite magnitude: what gradients are measured against. */
  static double largest(double[] values) {
    double largest = 0;
    for (double value : values) {
      if (Double.isFinite(value)) {
        largest = Math.max(largest, Math.abs(value));
      }
    }
    return largest;
  }

  /**
   * The same bits on the CPU; on a GPU, where the order of a row's sums follows its address, the
   * same but for the rounding of sums.
   */
  static void assertSame(String what, float[] got, float[] want) {
    assertSame(what, got, want, 0);
  }

  /**
   * @param rounding of what {@code got} is made of, in its own units: a log-probability of 8 is
   *     known to 5e-7
   */
  static void assertSame(String what, float[] got, float[] want, double rounding) {
    if (!Contexts.CUDA) {
      assertThat(got).as(what).isEqualTo(want);
      return;
    }
    double[] wanted = new double[want.length];
    for (int i = 0; i < want.length; i++) {
      wanted[i] = want[i];
    }
    assertNear(what, got, wanted, 2e-6, 1e-6 * largest(wanted) + rounding);
  }
}
