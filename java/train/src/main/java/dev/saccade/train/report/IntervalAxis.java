package dev.saccade.train.report;

import dev.saccade.train.task.Proportion;
import java.util.Locale;

/**
 * Draws proportions with their intervals on one axis, for the rows of a table.
 *
 * @param low left end, a multiple of a tenth
 * @param high right end, a multiple of a tenth
 */
record IntervalAxis(double low, double high) {

  private static final int MARGIN = 15;
  private static final int WIDTH = 300;
  private static final double SPAN = WIDTH - 2 * MARGIN;

  /** The smallest axis of tenths that holds a range within [0, 1]. */
  static IntervalAxis around(double low, double high) {
    return new IntervalAxis(Math.floor(10 * low) / 10, Math.ceil(10 * high) / 10);
  }

  /** The labels of the grid, for the head of the table. */
  String header() {
    StringBuilder labels = new StringBuilder();
    for (double value : ticks()) {
      labels.append(
          "<text x=\"%s\" y=\"14\">%s</text>"
              .formatted(position(value), String.format(Locale.ROOT, "%.2f", value)));
    }
    return "<svg viewBox=\"0 0 %s 18\" aria-hidden=\"true\">%s</svg>".formatted(WIDTH, labels);
  }

  /** One row: before above after. */
  String svg(Proportion before, Proportion after) {
    StringBuilder grid = new StringBuilder();
    for (double value : ticks()) {
      grid.append("M%s 0V32".formatted(position(value)));
    }
    return """
    <svg viewBox="0 0 %s 32" role="img" aria-label="Intervals before and after">\
    <path class="grid" d="%s"/>%s%s</svg>\
    """
        .formatted(WIDTH, grid, mark("before", before, 10), mark("after", after, 22));
  }

  private String mark(String type, Proportion share, int y) {
    String bar =
        "<path d=\"M%s %sH%s\"/>".formatted(position(share.low()), y, position(share.high()));
    String point =
        share.n() == 0
            ? ""
            : "<circle cx=\"%s\" cy=\"%s\" r=\"3.5\"/>".formatted(position(share.rate()), y);
    return "<g class=\"%s\">%s%s</g>".formatted(type, bar, point);
  }

  private double[] ticks() {
    return new double[] {low, (low + high) / 2, high};
  }

  private String position(double value) {
    return String.format(Locale.ROOT, "%.1f", MARGIN + SPAN * (value - low) / (high - low));
  }
}
