package dev.saccade.train.experiment;

import dev.saccade.train.experiment.ResultTable.Row;
import dev.saccade.train.report.Html;
import dev.saccade.train.report.Ticks;
import java.util.List;
import java.util.Locale;

/**
 * Means with their intervals as dots and bars, a line for each row of a table: accuracies at the
 * left, differences from the first baseline at the right.
 */
final class IntervalFigure {
  private static final int ROW = 22;
  private static final int HEAD = 54;
  private static final int FOOT = 30;
  private static final int PLOT = 300;
  private static final int GAP = 40;
  private static final int LETTER = 7;
  private static final String[] COLOURS = {
    "#0072b2", "#009e73", "#aa4499", "#d55e00", "#57606a", "#7d6b00", "#332288", "#882255"
  };

  private final Experiment experiment;
  private final List<Row> rows;

  IntervalFigure(Experiment experiment, List<Row> rows) {
    this.experiment = experiment;
    this.rows = rows;
  }

  private static String label(Row row) {
    return row.variant().name().replace("/", " · ") + "  on " + row.task();
  }

  /** An SVG file. */
  String svg() {
    boolean compares = !experiment.baselines().isEmpty();
    int left = 20 + LETTER * rows.stream().mapToInt(row -> label(row).length()).max().orElse(0);
    int width = left + PLOT + (compares ? GAP + PLOT : 0) + 30;
    int height = HEAD + ROW * rows.size() + FOOT;
    StringBuilder svg = new StringBuilder();
    svg.append(
        """
        <svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %1$d %2$d" \
        font-family="sans-serif" font-size="12">
        <rect width="100%%" height="100%%" fill="#ffffff"/>
        <text x="12" y="20" font-size="14" font-weight="bold">%s</text>
        """
            .formatted(width, height, Html.escape(experiment.title())));
    String task = null;
    for (int i = 0; i < rows.size(); i++) {
      int y = HEAD + ROW * i + ROW / 2;
      if (!rows.get(i).task().equals(task)) {
        task = rows.get(i).task();
        if (i > 0) {
          svg.append(
              "<line x1=\"12\" x2=\"%d\" y1=\"%d\" y2=\"%2$d\" stroke=\"#c4c9cf\"/>\n"
                  .formatted(width - 12, y - ROW / 2));
        }
      }
      svg.append(
          "<text x=\"%d\" y=\"%d\" text-anchor=\"end\">%s</text>\n"
              .formatted(left - 8, y + 4, Html.escape(label(rows.get(i)))));
    }
    panel(
        svg,
        left,
        "accuracy, 95 % interval over seeds",
        rows.stream().map(Row::accuracy).toList(),
        false);
    if (compares) {
      panel(
          svg,
          left + PLOT + GAP,
          "difference from " + experiment.baselines().get(0) + ", paired by seed",
          rows.stream()
              .map(row -> row.differences().get(0))
              .map(difference -> difference == null ? null : difference.accuracy())
              .toList(),
          true);
    }
    return svg + "</svg>\n";
  }

  private void panel(
      StringBuilder svg, int left, String title, List<Statistics> values, boolean aroundZero) {
    double low = aroundZero ? 0 : 1;
    double high = 0;
    for (Statistics value : values) {
      if (value != null && value.n() > 0) {
        double half = Double.isNaN(value.halfWidth()) ? 0 : value.halfWidth();
        low = Math.min(low, value.mean() - half);
        high = Math.max(high, value.mean() + half);
        if (!aroundZero) {
          low = Math.max(low, 0);
          high = Math.min(high, 1);
        }
      }
    }
    double step = Ticks.step(Math.max(high - low, 1e-3));
    low = Math.floor(low / step) * step;
    high = Math.max(low + step, Math.ceil(high / step) * step);
    int bottom = HEAD + ROW * rows.size();
    svg.append(
        "<text x=\"%d\" y=\"%d\" fill=\"#57606a\">%s</text>\n"
            .formatted(left, HEAD - 12, Html.escape(title)));
    for (int i = 0; i <= Math.round((high - low) / step); i++) {
      double tick = low + i * step;
      String stroke = aroundZero && Math.abs(tick) < step / 2 ? "#57606a" : "#e2e6ea";
      String x = place(tick, low, high, left);
      svg.append(
          """
          <line x1="%s" x2="%1$s" y1="%d" y2="%d" stroke="%s"/>
          <text x="%1$s" y="%d" text-anchor="middle" fill="#57606a">%s</text>
          """
              .formatted(
                  x,
                  HEAD - 4,
                  bottom,
                  stroke,
                  bottom + 18,
                  Ticks.text(Math.rint(tick / step) * step)));
    }
    for (int i = 0; i < values.size(); i++) {
      Statistics value = values.get(i);
      if (value == null || value.n() == 0) {
        continue;
      }
      int y = HEAD + ROW * i + ROW / 2;
      String colour = colour(rows.get(i));
      if (!Double.isNaN(value.halfWidth())) {
        svg.append(
            "<line x1=\"%s\" x2=\"%s\" y1=\"%d\" y2=\"%3$d\" stroke=\"%s\" stroke-width=\"2\"/>\n"
                .formatted(
                    place(Math.max(value.low(), low), low, high, left),
                    place(Math.min(value.high(), high), low, high, left),
                    y,
                    colour));
      }
      svg.append(
          "<circle cx=\"%s\" cy=\"%d\" r=\"4\" fill=\"%s\"/>\n"
              .formatted(place(value.mean(), low, high, left), y, colour));
    }
  }

  /** One colour for each choice on the last axis, in turn. */
  private String colour(Row row) {
    List<String> choices =
        experiment.variants().stream().map(variant -> last(variant)).distinct().toList();
    return COLOURS[choices.indexOf(last(row.variant())) % COLOURS.length];
  }

  private static String last(Experiment.Variant variant) {
    List<String> labels = List.copyOf(variant.labels().values());
    return labels.get(labels.size() - 1);
  }

  private static String place(double value, double low, double high, int left) {
    return String.format(Locale.ROOT, "%.1f", left + PLOT * (value - low) / (high - low));
  }
}
