package dev.saccade.train.task;

import java.util.Locale;

/**
 * A share of successes with its Wilson score interval at 95 %.
 *
 * <p>Source: Wilson, "Probable inference, the law of succession, and statistical inference", 1927;
 * without continuity correction.
 *
 * @param successes 0 … n
 * @param n the number of trials; with 0 the rate is NaN and the interval [0, 1]
 */
public record Proportion(long successes, long n) {

  /** The 97.5 % quantile of the standard normal distribution. */
  private static final double Z = 1.959963984540054;

  /**
   * Checks the counts.
   *
   * @throws IllegalArgumentException unless 0 ≤ successes ≤ n
   */
  public Proportion {
    if (successes < 0 || successes > n) {
      throw new IllegalArgumentException(
          "expected 0 ≤ successes ≤ n, got successes %d, n %d".formatted(successes, n));
    }
  }

  /** successes / n, in [0, 1]. */
  public double rate() {
    return (double) successes / n;
  }

  /** The lower end of the interval. */
  public double low() {
    return successes == 0 ? 0 : centre() - halfWidth();
  }

  /** The upper end of the interval. */
  public double high() {
    return successes == n ? 1 : centre() + halfWidth();
  }

  /** The rate and its interval: {@code 0.612 [0.590, 0.633]}. */
  @Override
  public String toString() {
    return String.format(Locale.ROOT, "%.3f [%.3f, %.3f]", rate(), low(), high());
  }

  private double centre() {
    return (successes + Z * Z / 2) / (n + Z * Z);
  }

  private double halfWidth() {
    double failures = n - successes;
    return Z * Math.sqrt(successes * failures / n + Z * Z / 4) / (n + Z * Z);
  }
}
