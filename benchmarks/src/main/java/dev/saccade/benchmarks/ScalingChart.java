package dev.saccade.benchmarks;

import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.TreeMap;
import java.util.function.ToDoubleFunction;
import java.util.stream.Collectors;
import java.util.stream.DoubleStream;

/**
 * How time, and memory beyond inputs and outputs, of one operation grow with one size, both axes
 * logarithmic: every engine that was measured, and the time that the bytes or the products need at
 * the ceilings of the run.
 *
 * <p>Drawn without fonts of this machine, so that the same results give the same file everywhere.
 *
 * @param results points of one series: {@link Result.Line#axis} names the size
 */
record ScalingChart(List<Result> results, Ceilings ceilings) {
  private static final String FLOOR = "floor";
  private static final String TEXT = "#57606a";
  private static final String GRID = "#e2e6ea";

  /** Of Okabe and Ito, which colour-blind readers tell apart. */
  private static final Map<String, String> COLOURS =
      Map.of(
          Engine.SACCADE,
          "#0072b2",
          "eager",
          "#d55e00",
          "compiled",
          "#009e73",
          "triton",
          "#aa4499",
          FLOOR,
          "#8b949e");

  private static final int PANEL = 380;
  private static final int HEIGHT = 280;
  private static final int LEFT = 58;
  private static final int RIGHT = PANEL - 22;
  private static final int TOP = 34;
  private static final int BOTTOM = HEIGHT - 68;

  /** The charts of a file of results, by the names of their files. */
  static Map<String, ScalingChart> all(List<Result> results) {
    Ceilings ceilings = Ceilings.of(results);
    Map<String, List<Result>> series = new LinkedHashMap<>();
    for (Result result : results) {
      String axis = result.line().axis();
      if (!axis.isEmpty() && result.isRun() && !result.engine().equals(PythonPeers.CTYPES)) {
        String operation =
            result.line().operation().replaceAll("^§\\d+ ", "").replaceAll(" .*", "");
        String name =
            "scaling-%s-%s-%s"
                .formatted(result.machine().device(), operation, axis.replaceAll("=.*", ""));
        series.computeIfAbsent(name, key -> new ArrayList<>()).add(result);
      }
    }
    Map<String, ScalingChart> charts = new LinkedHashMap<>();
    series.forEach((name, points) -> charts.put(name, new ScalingChart(points, ceilings)));
    return charts;
  }

  String title() {
    Result.Line line = results.get(0).line();
    return "%s, %s".formatted(line.operation().replaceAll("^§\\d+ ", ""), line.dtype());
  }

  String axis() {
    return results.get(0).line().axis().replaceAll("=.*", "");
  }

  private static double size(Result result) {
    return Double.parseDouble(result.line().axis().replaceAll(".*=", ""));
  }

  /**
   * By engine, in the order of tables: value against size. Values that no axis shows are left out.
   */
  private Map<String, TreeMap<Double, Double>> curves(ToDoubleFunction<Result> value) {
    Map<String, TreeMap<Double, Double>> curves = new LinkedHashMap<>();
    for (String engine : ResultTable.engines(results)) {
      TreeMap<Double, Double> curve = new TreeMap<>();
      results.stream()
          .filter(result -> result.engine().equals(engine) && value.applyAsDouble(result) > 0)
          .forEach(result -> curve.put(size(result), value.applyAsDouble(result)));
      if (!curve.isEmpty()) {
        curves.put(engine, curve);
      }
    }
    return curves;
  }

  /** The drawing: time and, where any engine takes some, memory. */
  String svg() {
    Map<String, TreeMap<Double, Double>> time = curves(Result::milliseconds);
    TreeMap<Double, Double> floor = new TreeMap<>();
    for (Result result : results) {
      double seconds = ceilings.seconds(result.line());
      if (seconds > 0) {
        floor.put(size(result), 1e3 * seconds);
      }
    }
    if (!floor.isEmpty()) {
      time.put(FLOOR, floor);
    }
    Map<String, TreeMap<Double, Double>> memory = curves(result -> result.extraBytes() / 1e6);
    int width = memory.isEmpty() ? PANEL : 2 * PANEL;
    StringBuilder svg =
        new StringBuilder(
            """
            <svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %1$d %2$d" width="%1$d" \
            height="%2$d" font-family="sans-serif" font-size="11" fill="%3$s">
            <rect width="%1$d" height="%2$d" fill="#ffffff"/>
            """
                .formatted(width, HEIGHT, TEXT));
    svg.append(panel(0, title() + ": ms", time));
    if (!memory.isEmpty()) {
      svg.append(panel(PANEL, "beyond inputs and outputs: MB", memory));
      svg.append(
          "<text x=\"%d\" y=\"%d\">%s</text>\n".formatted(PANEL + LEFT, HEIGHT - 10, without()));
    }
    return svg.append(legend(time.keySet())).append("</svg>\n").toString();
  }

  /** Who takes no memory at all, which has no place on a logarithmic axis. */
  private String without() {
    String none =
        ResultTable.engines(results).stream()
            .filter(
                engine ->
                    results.stream()
                        .filter(result -> result.engine().equals(engine))
                        .allMatch(result -> result.extraBytes() == 0))
            .collect(Collectors.joining(", "));
    return none.isEmpty() ? "" : none + ": none";
  }

  private String panel(int offset, String title, Map<String, TreeMap<Double, Double>> curves) {
    double[] sizes = results.stream().mapToDouble(ScalingChart::size).sorted().distinct().toArray();
    Scale x = new Scale(sizes[0], sizes[sizes.length - 1], LEFT, RIGHT);
    Scale y =
        Scale.around(
            curves.values().stream().flatMap(c -> c.values().stream()).mapToDouble(v -> v),
            BOTTOM,
            TOP);
    StringBuilder panel =
        new StringBuilder("<g transform=\"translate(%d 0)\">\n".formatted(offset));
    panel.append(
        "<text x=\"%d\" y=\"18\" font-size=\"12\" font-weight=\"bold\">%s</text>\n"
            .formatted(LEFT, title));
    for (double tick : y.ticks()) {
      panel.append(
          "<path d=\"M%d %sH%d\" stroke=\"%s\"/><text x=\"%d\" y=\"%s\" text-anchor=\"end\">%s</text>\n"
              .formatted(
                  LEFT,
                  number(y.at(tick)),
                  RIGHT,
                  GRID,
                  LEFT - 6,
                  number(y.at(tick) + 4),
                  label(tick)));
    }
    double last = Double.NEGATIVE_INFINITY;
    for (double size : sizes) {
      if (x.at(size) - last >= 38) {
        last = x.at(size);
        panel.append(
            "<text x=\"%s\" y=\"%d\" text-anchor=\"middle\">%s</text>\n"
                .formatted(number(last), BOTTOM + 18, label(size)));
      }
    }
    panel.append(
        "<text x=\"%d\" y=\"%d\" text-anchor=\"middle\">%s</text>\n"
            .formatted((LEFT + RIGHT) / 2, BOTTOM + 34, axis()));
    curves.forEach((engine, curve) -> panel.append(curve(engine, curve, x, y)));
    return panel.append("</g>\n").toString();
  }

  private static String curve(String engine, TreeMap<Double, Double> curve, Scale x, Scale y) {
    String colour = colour(engine);
    String points =
        curve.entrySet().stream()
            .map(p -> number(x.at(p.getKey())) + " " + number(y.at(p.getValue())))
            .collect(Collectors.joining("L", "M", ""));
    if (engine.equals(FLOOR)) {
      return "<path d=\"%s\" fill=\"none\" stroke=\"%s\" stroke-width=\"1.5\" stroke-dasharray=\"4 3\"/>\n"
          .formatted(points, colour);
    }
    String dots =
        curve.entrySet().stream()
            .map(
                p ->
                    "<circle cx=\"%s\" cy=\"%s\" r=\"2.5\"/>"
                        .formatted(number(x.at(p.getKey())), number(y.at(p.getValue()))))
            .collect(Collectors.joining());
    return "<path d=\"%s\" fill=\"none\" stroke=\"%s\" stroke-width=\"2\"/><g fill=\"%s\">%s</g>\n"
        .formatted(points, colour, colour, dots);
  }

  private static String legend(Iterable<String> engines) {
    StringBuilder legend = new StringBuilder();
    int x = LEFT;
    for (String engine : engines) {
      String dashes = engine.equals(FLOOR) ? " stroke-dasharray=\"4 3\"" : "";
      legend.append(
          "<path d=\"M%d %dh16\" stroke=\"%s\" stroke-width=\"2\"%s/><text x=\"%d\" y=\"%d\">%s</text>\n"
              .formatted(x, HEIGHT - 14, colour(engine), dashes, x + 21, HEIGHT - 10, engine));
      x += 34 + 6 * engine.length();
    }
    return legend.toString();
  }

  private static String colour(String engine) {
    return COLOURS.getOrDefault(engine, TEXT);
  }

  private static String number(double value) {
    return String.format(Locale.ROOT, "%.1f", value);
  }

  /** Whole where short; else three digits, thousands as k, millions as M. */
  static String label(double value) {
    String unit = value >= 1e6 ? "M" : value >= 1e5 ? "k" : "";
    double scaled = value / (value >= 1e6 ? 1e6 : value >= 1e5 ? 1e3 : 1);
    String digits = String.format(Locale.ROOT, "%.3g", scaled);
    if (scaled >= 1000) {
      digits = String.format(Locale.ROOT, "%.0f", scaled);
    }
    return (digits.contains(".") ? digits.replaceAll("\\.?0+$", "") : digits) + unit;
  }

  /** A logarithmic axis. */
  record Scale(double low, double high, double from, double to) {
    /** Whole ticks around all values. */
    static Scale around(DoubleStream values, double from, double to) {
      double[] sorted = values.sorted().toArray();
      double low = tickBelow(sorted[0]);
      double high = sorted[sorted.length - 1];
      double top = tickBelow(high);
      return new Scale(low, top < high ? next(top) : Math.max(top, next(low)), from, to);
    }

    /** 1, 2 or 5 of a decade. */
    private static double tickBelow(double value) {
      double decade = Math.pow(10, Math.floor(Math.log10(value)));
      double rest = value / decade;
      return (rest >= 5 ? 5 : rest >= 2 ? 2 : 1) * decade;
    }

    private static double next(double tick) {
      double decade = Math.pow(10, Math.floor(Math.log10(tick * 1.001)));
      double digit = Math.round(tick / decade);
      return (digit == 1 ? 2 : digit == 2 ? 5 : 10) * decade;
    }

    double at(double value) {
      return low == high
          ? (from + to) / 2
          : from + (to - from) * Math.log(value / low) / Math.log(high / low);
    }

    /** 1, 2 and 5 of every decade, or its 1 alone where those are many. */
    double[] ticks() {
      List<Double> ticks = new ArrayList<>();
      for (double tick = low; tick <= high * 1.001; tick = next(tick)) {
        ticks.add(tick);
      }
      boolean many = ticks.size() > 7;
      return ticks.stream()
          .mapToDouble(tick -> tick)
          .filter(tick -> !many || Math.abs(Math.log10(tick) - Math.round(Math.log10(tick))) < 1e-3)
          .toArray();
    }
  }
}
