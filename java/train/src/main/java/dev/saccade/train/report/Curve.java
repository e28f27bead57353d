package dev.saccade.train.report;

import java.util.Arrays;
import java.util.List;
import java.util.Map;

/**
 * Finite values against steps, in the order of the metrics.
 *
 * @param x steps
 * @param y values, as many
 */
record Curve(double[] x, double[] y) {

  private static final int MOST_POINTS = 400;

  /** The rows in which both fields are finite numbers. */
  static Curve of(List<Map<String, Object>> rows, String xField, String yField) {
    double[][] points =
        rows.stream()
            .map(row -> new double[] {number(row, xField), number(row, yField)})
            .filter(point -> Double.isFinite(point[0]) && Double.isFinite(point[1]))
            .toArray(double[][]::new);
    return new Curve(
        Arrays.stream(points).mapToDouble(point -> point[0]).toArray(),
        Arrays.stream(points).mapToDouble(point -> point[1]).toArray());
  }

  /** A field of a metrics row; NaN unless it is a number. */
  static double number(Map<String, Object> row, String field) {
    return row.get(field) instanceof Number number ? number.doubleValue() : Double.NaN;
  }

  int size() {
    return x.length;
  }

  /** The number of points over which {@link #smooth} averages: a twentieth of the curve. */
  int window() {
    return Math.max(1, Math.min(50, size() / 20));
  }

  /**
   * The exponential moving average of span {@link #window}, with the bias of its start removed: s_t
   * = Σ (1−α)^(t−i) y_i / Σ (1−α)^(t−i), α = 2/(window + 1).
   */
  Curve smooth() {
    double keep = 1 - 2.0 / (window() + 1);
    double[] smooth = new double[size()];
    double sum = 0;
    double weight = 0;
    for (int i = 0; i < smooth.length; i++) {
      sum = keep * sum + y[i];
      weight = keep * weight + 1;
      smooth[i] = sum / weight;
    }
    return new Curve(x, smooth);
  }

  /**
   * At most {@value #MOST_POINTS} of the points, evenly spread, the last one always: what a small
   * chart can show.
   */
  Curve thin() {
    int stride = Math.max(1, (size() + MOST_POINTS - 1) / MOST_POINTS);
    int kept = (size() + stride - 1) / stride;
    double[] thinX = new double[kept];
    double[] thinY = new double[kept];
    for (int i = kept - 1, from = size() - 1; i >= 0; i--, from -= stride) {
      thinX[i] = x[from];
      thinY[i] = y[from];
    }
    return new Curve(thinX, thinY);
  }
}
