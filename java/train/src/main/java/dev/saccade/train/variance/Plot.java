package dev.saccade.train.variance;

import dev.saccade.train.report.Html;
import dev.saccade.train.report.Ticks;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;

/** Curves with intervals against numbers or names, as SVG. */
final class Plot {
  private static final int WIDTH = 560;
  private static final int HEIGHT = 340;
  private static final int LEFT = 72;
  private static final int RIGHT = 16;
  private static final int TOP = 16;
  private static final int BOTTOM = 84;

  /** Colours that colour-blind readers tell apart (Okabe and Ito, Tol). */
  private static final String[] COLOURS = {
    "#0072b2", "#009e73", "#aa4499", "#7d6b00", "#882255", "#444b54", "#d55e00", "#332288"
  };

  private final String xTitle;
  private final String yTitle;
  private final boolean xLog;
  private final boolean yLog;
  private boolean lines = true;
  private final Map<String, List<Point>> curves = new LinkedHashMap<>();

  /**
   * @param label of x
   * @param low end of the interval; NaN where there is none
   */
  record Point(double x, String label, double y, double low, double high) {}

  Plot(String xTitle, String yTitle, boolean xLog, boolean yLog) {
    this.xTitle = xTitle;
    this.yTitle = yTitle;
    this.xLog = xLog;
    this.yLog = yLog;
  }

  void add(String name, List<Point> points) {
    curves.put(name, points.stream().filter(p -> Double.isFinite(y(p.y))).toList());
  }

  /** Points alone. */
  Plot withoutLines() {
    lines = false;
    return this;
  }

  private double x(double value) {
    return xLog ? Math.log10(value) : value;
  }

  private double y(double value) {
    return yLog ? Math.log10(value) : value;
  }

  /**
   * The drawing.
   *
   * @param slope whether a line of slope −1 through the first point is drawn
   */
  String svg(boolean slope) {
    List<Point> all = new ArrayList<>();
    curves.values().forEach(all::addAll);
    if (all.isEmpty()) {
      return document(WIDTH, 40, "<text x=\"8\" y=\"24\">no values</text>");
    }
    double[] xs = range(all.stream().mapToDouble(p -> x(p.x)).toArray(), 0.06);
    double[] ys =
        range(
            all.stream()
                .flatMapToDouble(p -> java.util.stream.DoubleStream.of(y(p.y), y(p.low), y(p.high)))
                .filter(Double::isFinite)
                .toArray(),
            0.05);
    StringBuilder svg = new StringBuilder();
    axes(svg, all, xs, ys);
    int c = 0;
    for (Map.Entry<String, List<Point>> curve : curves.entrySet()) {
      draw(svg, curve.getKey(), curve.getValue(), c++, xs, ys);
    }
    if (slope && !curves.values().iterator().next().isEmpty()) {
      Point first = curves.values().iterator().next().get(0);
      double drop = Math.min(xs[1] - x(first.x), y(first.y) - ys[0]);
      svg.append(
          "<line x1=\"%s\" y1=\"%s\" x2=\"%s\" y2=\"%s\" stroke=\"#1f2328\" stroke-dasharray=\"5 4\"/>\n"
              .formatted(
                  placeX(x(first.x), xs),
                  placeY(y(first.y), ys),
                  placeX(x(first.x) + drop, xs),
                  placeY(y(first.y) - drop, ys)));
    }
    return document(WIDTH, HEIGHT + 18 * ((curves.size() - 1) / 4), svg.toString());
  }

  private void axes(StringBuilder svg, List<Point> all, double[] xs, double[] ys) {
    List<Double> ticks =
        yLog
            ? Ticks.logarithmic(Math.pow(10, ys[0]), Math.pow(10, ys[1]))
            : Ticks.linear(ys[0], ys[1]);
    for (double tick : ticks) {
      double at = y(tick);
      svg.append(
          """
          <line x1="%d" x2="%d" y1="%s" y2="%3$s" stroke="#e2e6ea"/>
          <text x="%d" y="%s" text-anchor="end" fill="#57606a">%s</text>
          """
              .formatted(
                  LEFT, WIDTH - RIGHT, placeY(at, ys), LEFT - 6, placeY(at, ys), Ticks.text(tick)));
    }
    Map<Double, String> labels = new LinkedHashMap<>();
    all.forEach(p -> labels.putIfAbsent(p.x, p.label));
    labels.forEach(
        (at, label) ->
            svg.append(
                "<text x=\"%s\" y=\"%d\" text-anchor=\"middle\" fill=\"#57606a\">%s</text>\n"
                    .formatted(placeX(x(at), xs), HEIGHT - BOTTOM + 18, Html.escape(label))));
    svg.append(
        "<text x=\"%d\" y=\"%d\" text-anchor=\"middle\">%s</text>\n"
            .formatted((LEFT + WIDTH - RIGHT) / 2, HEIGHT - BOTTOM + 38, Html.escape(xTitle)));
    svg.append(
        "<text transform=\"translate(14 %d) rotate(-90)\" text-anchor=\"middle\">%s</text>\n"
            .formatted((TOP + HEIGHT - BOTTOM) / 2, Html.escape(yTitle)));
  }

  private void draw(
      StringBuilder svg, String name, List<Point> points, int c, double[] xs, double[] ys) {
    String colour = COLOURS[c % COLOURS.length];
    // Beside each other where they would hide each other.
    double shift = lines ? 0 : 9 * (c - (curves.size() - 1) / 2.0);
    StringBuilder path = new StringBuilder();
    for (Point point : points) {
      double px = pixelX(x(point.x), xs) + shift;
      path.append(path.length() == 0 ? "M" : "L")
          .append("%s %s".formatted(decimal(px), placeY(y(point.y), ys)));
      if (Double.isFinite(y(point.low)) && Double.isFinite(y(point.high))) {
        svg.append(
            "<line x1=\"%s\" x2=\"%1$s\" y1=\"%s\" y2=\"%s\" stroke=\"%s\" stroke-width=\"1.5\"/>\n"
                .formatted(
                    decimal(px), placeY(y(point.low), ys), placeY(y(point.high), ys), colour));
      }
      svg.append(
          "<circle cx=\"%s\" cy=\"%s\" r=\"3.5\" fill=\"%s\"><title>%s %s: %s</title></circle>\n"
              .formatted(
                  decimal(px),
                  placeY(y(point.y), ys),
                  colour,
                  Html.escape(name),
                  Html.escape(point.label),
                  number(point.y)));
    }
    if (lines && points.size() > 1) {
      svg.append(
          "<path d=\"%s\" fill=\"none\" stroke=\"%s\" stroke-width=\"2\"/>\n"
              .formatted(path, colour));
    }
    int left = LEFT + c % 4 * 122;
    int top = HEIGHT - 22 + c / 4 * 18;
    svg.append(
        "<circle cx=\"%d\" cy=\"%d\" r=\"4\" fill=\"%s\"/><text x=\"%d\" y=\"%d\">%s</text>\n"
            .formatted(left, top - 4, colour, left + 9, top, Html.escape(name)));
  }

  private static double[] range(double[] values, double margin) {
    double low = Double.POSITIVE_INFINITY;
    double high = Double.NEGATIVE_INFINITY;
    for (double value : values) {
      low = Math.min(low, value);
      high = Math.max(high, value);
    }
    double room = high > low ? margin * (high - low) : Math.max(0.5, Math.abs(high) / 2);
    return new double[] {low - room, high + room};
  }

  private static double pixelX(double value, double[] range) {
    return LEFT + (WIDTH - LEFT - RIGHT) * (value - range[0]) / (range[1] - range[0]);
  }

  private static String placeX(double value, double[] range) {
    return decimal(pixelX(value, range));
  }

  private static String placeY(double value, double[] range) {
    double share = (value - range[0]) / (range[1] - range[0]);
    return decimal(HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * share);
  }

  private static String decimal(double value) {
    return String.format(Locale.ROOT, "%.1f", value);
  }

  /** Three digits. */
  static String number(double value) {
    double size = Math.abs(value);
    return String.format(
        Locale.ROOT, size == 0 || size >= 0.01 && size < 1000 ? "%.3f" : "%.2e", value);
  }

  /** An SVG element. */
  static String document(int width, int height, String content) {
    return """
    <svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" \
    font-size="12">
    <rect width="100%%" height="100%%" fill="#fff"/>
    %s</svg>"""
        .formatted(width, height, content);
  }
}
