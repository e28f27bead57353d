package dev.saccade.train.experiment;

import java.util.Arrays;
import java.util.Locale;
import org.apache.commons.statistics.distribution.TDistribution;

/**
 * A mean over seeds with its interval at 95 % by Student's t distribution.
 *
 * @param n values
 * @param mean NaN where there are none
 * @param halfWidth of the interval; NaN for fewer than two values
 */
public record Statistics(int n, double mean, double halfWidth) {

  /** Of independent values. */
  static Statistics of(double... values) {
    int n = values.length;
    double mean = Arrays.stream(values).average().orElse(Double.NaN);
    if (n < 2) {
      return new Statistics(n, mean, Double.NaN);
    }
    double squares = Arrays.stream(values).map(x -> (x - mean) * (x - mean)).sum();
    double quantile = TDistribution.of(n - 1.0).inverseCumulativeProbability(0.975);
    return new Statistics(n, mean, quantile * Math.sqrt(squares / (n - 1) / n));
  }

  double low() {
    return mean - halfWidth;
  }

  double high() {
    return mean + halfWidth;
  }

  /** Whether the interval leaves out 0. */
  boolean isSignificant() {
    return Math.abs(mean) > halfWidth;
  }

  /** Such as {@code 0.612 ± 0.021}; without an interval, of one value. */
  String text(boolean signed) {
    if (n == 0) {
      return "–";
    }
    String number = String.format(Locale.ROOT, signed ? "%+.3f" : "%.3f", mean).replace('-', '−');
    return Double.isNaN(halfWidth)
        ? number
        : number + String.format(Locale.ROOT, " ± %.3f", halfWidth);
  }
}
