package dev.saccade.train.report;

import java.math.BigDecimal;
import java.math.MathContext;
import java.util.ArrayList;
import java.util.List;

/** Where an axis has lines: at 1, 2 or 5 times powers of ten. */
public final class Ticks {
  private static final double[] DIGITS = {1, 2, 5};

  private Ticks() {}

  /** The distance of lines on a linear axis of this length: at most six. */
  public static double step(double range) {
    double least = range / 6;
    double power = Math.pow(10, Math.floor(Math.log10(least)));
    for (double digit : DIGITS) {
      if (digit * power >= least) {
        return digit * power;
      }
    }
    return 10 * power;
  }

  /** Lines of a linear axis. */
  public static List<Double> linear(double low, double high) {
    double step = step(high - low);
    List<Double> ticks = new ArrayList<>();
    for (double i = Math.ceil(low / step); i * step <= high; i++) {
      ticks.add(i * step);
    }
    return ticks;
  }

  /**
   * Lines of a logarithmic axis: powers of ten alone where there are several; those of a linear one
   * where there are fewer than two.
   *
   * @param low above 0
   */
  public static List<Double> logarithmic(double low, double high) {
    boolean wide = high / low > 300;
    List<Double> ticks = new ArrayList<>();
    for (double power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++) {
      for (double digit : DIGITS) {
        double tick = digit * Math.pow(10, power);
        if (tick >= low && tick <= high && (digit == 1 || !wide)) {
          ticks.add(tick);
        }
      }
    }
    return ticks.size() < 2 ? linear(low, high) : ticks;
  }

  /**
   * A number as one writes it, to three digits: {@code 0.05}, {@code −2}, {@code 1000}, {@code
   * 1E−7}.
   */
  public static String text(double value) {
    BigDecimal rounded = new BigDecimal(value, new MathContext(3)).stripTrailingZeros();
    double size = Math.abs(value);
    String text =
        value == 0 || size >= 1e-4 && size < 1e6 ? rounded.toPlainString() : rounded.toString();
    return text.replace('-', '−');
  }
}
