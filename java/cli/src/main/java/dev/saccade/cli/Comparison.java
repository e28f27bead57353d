package dev.saccade.cli;

import dev.saccade.train.io.Safetensors;
import java.util.Arrays;
import java.util.Locale;

/**
 * How far a result is from what a case expects, at the element that comes closest to what is
 * allowed or exceeds it most.
 *
 * <p>An element passes where |got − want| ≤ 1e-12 + rtol·|want| + a. For gradients ({@code dq},
 * {@code dk}, names that begin with {@code d_}) a = row_atol · the largest finite |want| of the
 * element's row (last dimension; of a one-dimensional tensor: of the tensor); for all else a =
 * atol. NaN fails; an infinity passes where the same is wanted.
 *
 * @param passes whether every element passes
 * @param error |got − want| at the worst element; NaN where either is
 * @param allowed what the rule allows there
 * @param index of the worst element; empty for a tensor without elements
 * @param got the result there
 * @param want the expectation there
 */
record Comparison(
    boolean passes, double error, double allowed, long[] index, double got, double want) {

  /** Tolerances of a case, from its metadata. */
  record Tolerances(double rtol, double atol, double rowAtol) {
    /**
     * Reads {@code rtol}, {@code atol} and {@code row_atol}.
     *
     * @throws CliException if one is missing or not a number, 0 or more
     */
    static Tolerances of(Safetensors file) {
      return new Tolerances(read(file, "rtol"), read(file, "atol"), read(file, "row_atol"));
    }

    private static double read(Safetensors file, String key) {
      String text = file.metadata().get(key);
      if (text == null) {
        throw new CliException("metadata " + key + " is missing");
      }
      try {
        double value = Double.parseDouble(text);
        if (value >= 0) {
          return value;
        }
      } catch (NumberFormatException e) {
        // reported below
      }
      throw new CliException(
          "metadata " + key + ": expected a number, 0 or more, got \"" + text + "\"");
    }
  }

  /** Whether a result's tolerance is relative to its row. */
  static boolean isGradient(String name) {
    return name.equals("dq") || name.equals("dk") || name.startsWith("d_");
  }

  /**
   * Compares results of one shape, given row by row.
   *
   * @param name of the result, without {@code out.}
   */
  static Comparison of(
      String name, double[] got, double[] want, long[] shape, Tolerances tolerances) {
    int width = shape.length == 0 ? 1 : (int) shape[shape.length - 1];
    int worst = -1;
    double worstRatio = -1;
    double worstAllowed = 0;
    boolean passes = true;
    for (int row = 0; row < want.length; row += width) {
      double a =
          isGradient(name) ? tolerances.rowAtol * largest(want, row, row + width) : tolerances.atol;
      for (int i = row; i < row + width; i++) {
        double allowed =
            Double.isInfinite(want[i]) ? 0 : 1e-12 + tolerances.rtol * Math.abs(want[i]) + a;
        double error = error(got[i], want[i]);
        passes &= error <= allowed;
        double ratio = error == 0 ? 0 : error / allowed;
        // NaN counts as worse than any number.
        if (worst < 0 || !(ratio <= worstRatio) && !Double.isNaN(worstRatio)) {
          worst = i;
          worstRatio = ratio;
          worstAllowed = allowed;
        }
      }
    }
    if (worst < 0) {
      return new Comparison(true, 0, 0, new long[0], 0, 0);
    }
    return new Comparison(
        passes,
        error(got[worst], want[worst]),
        worstAllowed,
        index(worst, shape),
        got[worst],
        want[worst]);
  }

  private static double error(double got, double want) {
    return got == want ? 0 : Math.abs(got - want);
  }

  private static double largest(double[] values, int begin, int end) {
    double largest = 0;
    for (int i = begin; i < end; i++) {
      if (!Double.isInfinite(values[i])) {
        largest = Math.max(largest, Math.abs(values[i]));
      }
    }
    return largest;
  }

  private static long[] index(int flat, long[] shape) {
    long[] index = new long[shape.length];
    long rest = flat;
    for (int d = shape.length - 1; d >= 0; d--) {
      index[d] = rest % shape[d];
      rest /= shape[d];
    }
    return index;
  }

  /** Error, allowance and their ratio, and where they are; for a failure, the values too. */
  @Override
  public String toString() {
    if (index.length == 0 && allowed == 0) {
      return "no elements";
    }
    String place = index.length == 0 ? "" : " at " + Arrays.toString(index);
    String numbers =
        String.format(
            Locale.ROOT,
            "error %-8s allowed %-8s %6s%s",
            number(error),
            number(allowed),
            percent(),
            place);
    return passes ? numbers : numbers + ": got " + (float) got + ", want " + (float) want;
  }

  private String percent() {
    double percent = 100 * (error == 0 ? 0 : error / allowed);
    if (Double.isNaN(percent)) {
      return "NaN";
    }
    if (percent >= 1e6) {
      return ">10^6 %";
    }
    return String.format(Locale.ROOT, percent < 10 ? "%.1f %%" : "%.0f %%", percent);
  }

  private static String number(double value) {
    return value == 0 ? "0" : String.format(Locale.ROOT, "%.2e", value);
  }
}
