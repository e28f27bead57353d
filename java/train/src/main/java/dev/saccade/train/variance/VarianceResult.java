package dev.saccade.train.variance;

import dev.saccade.train.report.Html;
import dev.saccade.train.report.SceneFigure;
import dev.saccade.train.variance.Analysis.Row;
import dev.saccade.train.variance.VarianceConfig.Case;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Set;

/**
 * What a study came to, as files: {@code results.csv}, a row for every setting, estimator, target,
 * layer, head and statistic; {@code figures/*.svg}; {@code report.html}, which holds them all.
 *
 * @param title of the page
 * @param configuration as text
 * @param samples groups of a setting
 * @param measured by setting, the first without a factor
 * @param scene to draw on; null where there is none
 */
record VarianceResult(
    String title, String configuration, long samples, List<Measured> measured, Scene scene) {
  private static final List<String> SUMMARY =
      List.of("total", "between", "within", "within_responses", "within_covariance", "snr");

  /** A setting and what it came to. */
  record Measured(Case setting, List<Row> rows) {
    Row find(String estimator, String target, String layer, String head, String statistic) {
      for (Row row : rows) {
        if (row.estimator().equals(estimator)
            && row.target().equals(target)
            && row.layer().equals(layer)
            && row.head().equals(head)
            && row.statistic().equals(statistic)) {
          return row;
        }
      }
      return null;
    }
  }

  /**
   * An image, and for each estimator the variance of the gradient of the keys of its patches.
   *
   * @param canvas [side, side]
   */
  record Scene(float[] canvas, int side, int patchesPerSide, Map<String, float[]> variance) {}

  /** A drawing with its name. */
  private record Figure(String name, String caption, String svg) {}

  void write(Path folder) throws IOException {
    Files.createDirectories(folder.resolve("figures"));
    Files.writeString(folder.resolve("results.csv"), csv());
    List<Figure> figures = figures();
    for (Figure figure : figures) {
      Files.writeString(
          folder.resolve("figures").resolve(figure.name + ".svg"),
          "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n" + figure.svg + "\n");
    }
    Files.writeString(folder.resolve("report.html"), page(figures));
  }

  private Measured base() {
    return measured.get(0);
  }

  private List<String> estimators() {
    Set<String> names = new LinkedHashSet<>();
    for (Row row : base().rows) {
      if (!row.estimator().equals(Analysis.ALL) && !row.estimator().contains("|")) {
        names.add(row.estimator());
      }
    }
    return List.copyOf(names);
  }

  /** Parameters where they are known, else the first target. */
  private String target() {
    for (Row row : base().rows) {
      if (row.target().equals("parameters")) {
        return row.target();
      }
    }
    return base().rows.get(0).target();
  }

  // --------------------------------------------------------------------------------------- tables

  private String csv() {
    StringBuilder text =
        new StringBuilder(
            "factor,setting,estimator,target,layer,head,statistic,value,low,high,samples\n");
    for (Measured own : measured) {
      for (Row row : own.rows) {
        text.append(
            "%s,%s,%s,%s,%s,%s,%s,%s,%s,%s,%d\n"
                .formatted(
                    own.setting.factor().isEmpty() ? "base" : own.setting.factor(),
                    own.setting.value(),
                    row.estimator(),
                    row.target(),
                    row.layer(),
                    row.head(),
                    row.statistic(),
                    cell(row.value()),
                    cell(row.low()),
                    cell(row.high()),
                    samples));
      }
    }
    return text.toString();
  }

  private static String cell(double value) {
    return Double.isNaN(value) ? "" : String.format(Locale.ROOT, "%.6g", value);
  }

  private String page(List<Figure> figures) {
    StringBuilder body = new StringBuilder();
    body.append("<h2>Variance of the gradient of ").append(target()).append("</h2>\n<table><tr>");
    body.append("<th>estimator</th>");
    SUMMARY.forEach(name -> body.append("<th>").append(name.replace('_', ' ')).append("</th>"));
    body.append("</tr>\n");
    for (String estimator : estimators()) {
      body.append("<tr><th>").append(Html.escape(estimator)).append("</th>");
      for (String name : SUMMARY) {
        Row row = base().find(estimator, target(), Analysis.ALL, Analysis.ALL, name);
        body.append("<td>").append(row == null ? "" : text(row)).append("</td>");
      }
      body.append("</tr>\n");
    }
    body.append("</table>\n<p>")
        .append(samples)
        .append(" gradients of groups; 95 % bootstrap intervals over blocks of prompts.</p>\n");
    for (Figure figure : figures) {
      body.append("<figure>\n")
          .append(figure.svg)
          .append("\n<figcaption>")
          .append(Html.escape(figure.caption))
          .append("</figcaption>\n</figure>\n");
    }
    body.append("<h2>Configuration</h2>\n<pre>")
        .append(Html.escape(configuration))
        .append("</pre>\n");
    return """
    <!DOCTYPE html>
    <html xmlns="http://www.w3.org/1999/xhtml" lang="en">
    <head>
    <meta charset="utf-8"/>
    <title>%s</title>
    <style>
    body { font: 15px/1.5 sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem;
      color: #1f2328; background: #fff }
    table { border-collapse: collapse } th, td { padding: .2rem .7rem; text-align: right }
    tr + tr { border-top: 1px solid #e2e6ea } td small { color: #57606a; display: block }
    figure { margin: 2rem 0 } figure svg { max-width: 40rem; width: 100%% }
    figcaption { color: #57606a } pre { font-size: 12px; overflow: auto }
    </style>
    </head>
    <body>
    <h1>Variance of attention gradients</h1>
    <p>%1$s</p>
    %s</body>
    </html>
    """
        .formatted(Html.escape(title), body);
  }

  private static String text(Row row) {
    String interval =
        Double.isNaN(row.low())
            ? ""
            : "<small>%s … %s</small>".formatted(brief(row.low()), brief(row.high()));
    return brief(row.value()) + interval;
  }

  private static String brief(double value) {
    return Double.isNaN(value) ? "–" : Plot.number(value);
  }

  // -------------------------------------------------------------------------------------- figures

  private List<Figure> figures() throws IOException {
    List<Figure> figures = new ArrayList<>();
    figures.add(
        new Figure(
            "decomposition",
            "Shares of the total variance of the gradient of "
                + target()
                + ": between prompts, and within a prompt by response and by what responses share.",
            decomposition()));
    Map<String, List<Measured>> byFactor = new LinkedHashMap<>();
    for (Measured own : measured) {
      if (!own.setting.factor().isEmpty()) {
        byFactor.computeIfAbsent(own.setting.factor(), any -> new ArrayList<>()).add(own);
      }
    }
    for (Map.Entry<String, List<Measured>> factor : byFactor.entrySet()) {
      for (String statistic : List.of("within", "total", "snr")) {
        figures.add(
            new Figure(
                factor.getKey() + "-" + statistic,
                "%s of the gradient of %s against %s%s"
                    .formatted(
                        statistic.equals("snr") ? "Signal-to-noise" : statistic + " variance",
                        target(),
                        factor.getKey(),
                        factor.getKey().equals("group") ? "; dashed: slope −1" : ""),
                curve(factor.getKey(), factor.getValue(), statistic)));
      }
    }
    for (String estimator : estimators()) {
      String file = estimator.replace('+', '-');
      figures.add(
          new Figure(
              "heads-" + file,
              "Total variance (share of the largest head) and signal-to-noise by layer and head, "
                  + estimator,
              heads(estimator)));
      if (scene != null && scene.variance.containsKey(estimator)) {
        figures.add(
            new Figure(
                "scene-" + file,
                "Variance of the gradient of the keys of the patches within the first prompt, last"
                    + " layer, "
                    + estimator,
                SceneFigure.overlay(
                    scene.canvas,
                    scene.side,
                    scene.patchesPerSide,
                    scene.variance.get(estimator),
                    "Variance by patch, " + estimator)));
      }
    }
    return figures;
  }

  private String curve(String factor, List<Measured> own, String statistic) {
    boolean logarithmic = factor.equals("group");
    Plot plot = new Plot(factor, statistic, logarithmic, !statistic.equals("snr"));
    for (String estimator : estimators()) {
      List<Plot.Point> points = new ArrayList<>();
      for (int i = 0; i < own.size(); i++) {
        Row row = own.get(i).find(estimator, target(), Analysis.ALL, Analysis.ALL, statistic);
        String value = own.get(i).setting.value();
        points.add(
            new Plot.Point(
                logarithmic ? Double.parseDouble(value) : i,
                value,
                row.value(),
                row.low(),
                row.high()));
      }
      plot.add(estimator, points);
    }
    return plot.svg(logarithmic && !statistic.equals("snr"));
  }

  private String decomposition() {
    Plot plot = new Plot("", "share of total", false, false);
    for (String part : List.of("between", "within_responses", "within_covariance")) {
      List<Plot.Point> points = new ArrayList<>();
      List<String> names = estimators();
      for (int i = 0; i < names.size(); i++) {
        Row row = base().find(names.get(i), target(), Analysis.ALL, Analysis.ALL, "share_" + part);
        points.add(new Plot.Point(i, names.get(i), row.value(), row.low(), row.high()));
      }
      plot.add(part.replace('_', ' '), points);
    }
    return plot.withoutLines().svg(false);
  }

  /** A map for each target and for variance and signal-to-noise: layers down, heads across. */
  private String heads(String estimator) {
    Map<String, List<Row>> cells = new LinkedHashMap<>();
    for (Row row : base().rows) {
      if (row.estimator().equals(estimator)
          && !row.head().equals(Analysis.ALL)
          && (row.statistic().equals("total") || row.statistic().equals("snr"))) {
        cells
            .computeIfAbsent(row.target() + " " + row.statistic(), any -> new ArrayList<>())
            .add(row);
      }
    }
    StringBuilder svg = new StringBuilder();
    int y = 0;
    int width = 0;
    for (Map.Entry<String, List<Row>> map : cells.entrySet()) {
      double most = map.getValue().stream().mapToDouble(Row::value).max().orElse(0);
      boolean ofSnr = map.getKey().endsWith(" snr");
      int x0 = ofSnr ? 340 : 0;
      svg.append(
          "<text x=\"%d\" y=\"%d\">%s</text>\n".formatted(x0, y + 14, Html.escape(map.getKey())));
      int layers = 0;
      for (Row row : map.getValue()) {
        int layer = Integer.parseInt(row.layer());
        int head = Integer.parseInt(row.head());
        layers = Math.max(layers, layer + 1);
        width = Math.max(width, x0 + 62 * (head + 1));
        svg.append(
            """
            <rect x="%d" y="%d" width="60" height="24" fill="%s"/>
            <text x="%d" y="%d" text-anchor="middle" fill="#fff">%s</text>
            """
                .formatted(
                    x0 + 62 * head,
                    y + 22 + 26 * layer,
                    SceneFigure.colour((float) (most > 0 ? Math.max(0, row.value()) / most : 0)),
                    x0 + 62 * head + 30,
                    y + 39 + 26 * layer,
                    Double.isNaN(row.value()) ? "–" : Plot.number(row.value())));
      }
      if (ofSnr) {
        y += 40 + 26 * layers;
      }
    }
    svg.append(
        "<text x=\"0\" y=\"%d\" fill=\"#57606a\">layers down, heads across</text>\n"
            .formatted(y + 14));
    return Plot.document(Math.max(width, 180), y + 24, svg.toString());
  }
}
