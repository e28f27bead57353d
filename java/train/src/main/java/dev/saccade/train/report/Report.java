package dev.saccade.train.report;

import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.core.json.JsonReadFeature;
import com.fasterxml.jackson.core.type.TypeReference;
import com.fasterxml.jackson.databind.ObjectReader;
import com.fasterxml.jackson.databind.json.JsonMapper;
import dev.saccade.train.report.SummaryRow.Comparison;
import dev.saccade.train.report.SummaryRow.Fact;
import dev.saccade.train.task.Proportion;
import java.awt.Font;
import java.awt.font.FontRenderContext;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Locale;
import java.util.Map;

/** Writes the report of a run. */
public final class Report {

  private static final ObjectReader ROW =
      JsonMapper.builder()
          .enable(JsonReadFeature.ALLOW_NON_NUMERIC_NUMBERS)
          .build()
          .readerFor(new TypeReference<Map<String, Object>>() {});

  private Report() {}

  /**
   * Writes one HTML file that needs no other: styles, curves and pictures are in it, scripts are
   * not. It is well-formed XML, follows the reader's light or dark theme, and is the same for the
   * same data.
   *
   * @param out the file; missing parent folders are made, an existing file is replaced
   * @throws NoFontsException if this host cannot draw text
   * @throws IOException if it cannot be written
   */
  public static void write(Path out, ReportData data) throws IOException {
    requireFonts();
    String page =
        """
        <!DOCTYPE html>
        <html xmlns="http://www.w3.org/1999/xhtml" lang="en">
        <head>
        <meta charset="utf-8"/>
        <meta name="viewport" content="width=device-width, initial-scale=1"/>
        <meta name="color-scheme" content="light dark"/>
        <title>%s</title>
        <style>
        %s</style>
        </head>
        <body>
        <main>
        <header><h1>%1$s</h1></header>
        %s%s%s%s</main>
        </body>
        </html>
        """;
    write(
        out,
        page.formatted(
            Html.escape(data.title()),
            Style.CSS,
            section("summary", "Summary", summary(data.summary())),
            section("curves", "Curves", curves(data.metrics())),
            section("scenes", "Where the answer looks", scenes(data.pictures())),
            section("configuration", "Configuration", configuration(data.config()))));
  }

  /**
   * Writes each curve of the report as an SVG file of its own, with title and legend, in colours
   * for a white page.
   *
   * @param folder made if missing; existing files of the same names are replaced
   * @return the files
   * @throws IOException if one cannot be written
   */
  public static List<Path> writeCurves(Path folder, List<Map<String, Object>> metrics)
      throws IOException {
    List<Path> files = new ArrayList<>();
    for (CurveChart chart : CurveChart.all(metrics)) {
      Path file = folder.resolve(chart.name() + ".svg");
      write(file, chart.standalone());
      files.add(file);
    }
    return files;
  }

  /**
   * Reads a file of one JSON object a line; blank lines are skipped, NaN and infinities allowed.
   *
   * @throws IOException if it cannot be read, or a line is not a JSON object; the message gives the
   *     line
   */
  public static List<Map<String, Object>> readMetrics(Path jsonl) throws IOException {
    List<Map<String, Object>> rows = new ArrayList<>();
    int number = 0;
    for (String line : Files.readAllLines(jsonl)) {
      number++;
      if (!line.isBlank()) {
        try {
          rows.add(ROW.readValue(line));
        } catch (JsonProcessingException e) {
          throw new IOException(
              "%s, line %s: %s".formatted(jsonl, number, e.getOriginalMessage()), e);
        }
      }
    }
    return rows;
  }

  /** What fails at one letter is the host: errors of many kinds, depending on what it lacks. */
  private static void requireFonts() throws NoFontsException {
    try {
      new Font(Font.SANS_SERIF, Font.PLAIN, 12)
          .getStringBounds("x", new FontRenderContext(null, true, true));
    } catch (LinkageError | InternalError | RuntimeException e) {
      throw new NoFontsException(e);
    }
  }

  private static void write(Path file, String text) throws IOException {
    Path folder = file.toAbsolutePath().getParent();
    if (folder != null) {
      Files.createDirectories(folder);
    }
    Files.writeString(file, text);
  }

  private static String section(String id, String title, String content) {
    String body = content.isEmpty() ? "<p class=\"note\">Nothing recorded.</p>\n" : content;
    return "<section id=\"%s\">\n<h2>%s</h2>\n%s</section>\n".formatted(id, title, body);
  }

  private static String summary(List<SummaryRow> rows) {
    List<Comparison> comparisons = new ArrayList<>();
    StringBuilder facts = new StringBuilder();
    for (SummaryRow row : rows) {
      if (row instanceof Comparison comparison) {
        comparisons.add(comparison);
      } else if (row instanceof Fact fact) {
        facts.append(
            "<div><dt>%s</dt><dd>%s</dd></div>\n"
                .formatted(Html.escape(fact.label()), Html.escape(fact.value())));
      }
    }
    return (comparisons.isEmpty() ? "" : comparisons(comparisons))
        + (facts.isEmpty() ? "" : "<dl>\n" + facts + "</dl>\n");
  }

  private static String comparisons(List<Comparison> rows) {
    double low =
        rows.stream().mapToDouble(r -> Math.min(r.before().low(), r.after().low())).min().orElse(0);
    double high =
        rows.stream()
            .mapToDouble(r -> Math.max(r.before().high(), r.after().high()))
            .max()
            .orElse(1);
    IntervalAxis axis = IntervalAxis.around(low, high);
    StringBuilder body = new StringBuilder();
    for (Comparison row : rows) {
      body.append(
          """
          <tr><th>%s</th><td class="number">%s</td><td class="number">%s</td>\
          <td class="number">%s</td><td class="interval">%s</td></tr>
          """
              .formatted(
                  Html.escape(row.label()),
                  proportion(row.before()),
                  proportion(row.after()),
                  decimal("%+.3f", row.after().rate() - row.before().rate()).replace('-', '−'),
                  axis.svg(row.before(), row.after())));
    }
    return """
    <div class="wide"><table>
    <thead><tr><th>share of held-out questions</th><th>before</th><th>after</th>\
    <th>change</th><th class="interval">%s</th></tr></thead>
    <tbody>
    %s</tbody>
    </table></div>
    <p class="note">In brackets, and as bars: Wilson intervals at 95 %%. \
    Open circle before training, filled circle after.</p>
    """
        .formatted(axis.header(), body);
  }

  private static String proportion(Proportion share) {
    return "<b>%s</b> <span>[%s, %s]</span> <small>n = %s</small>"
        .formatted(
            decimal("%.3f", share.rate()),
            decimal("%.3f", share.low()),
            decimal("%.3f", share.high()),
            decimal("%,d", share.n()));
  }

  private static String decimal(String format, Number value) {
    boolean undefined = Double.isNaN(value.doubleValue());
    return undefined ? "–" : String.format(Locale.ROOT, format, value);
  }

  private static String curves(List<Map<String, Object>> metrics) throws IOException {
    StringBuilder html = new StringBuilder();
    for (CurveChart chart : CurveChart.all(metrics)) {
      html.append("<figure>\n<figcaption><b>%s</b>".formatted(Html.escape(chart.title())));
      for (CurveChart.Key key : chart.legend()) {
        html.append(
            " <span class=\"key\"><i class=\"%s\" style=\"background:%s\"></i>%s</span>"
                .formatted(
                    key.point() ? "point" : "line", key.ink().themed(), Html.escape(key.label())));
      }
      html.append("</figcaption>\n").append(chart.inline()).append("</figure>\n");
    }
    return html.isEmpty()
        ? ""
        : """
        <div class="curves">
        %s</div>
        <p class="note">Against the training step. Faint: every step; strong: exponential moving \
        average over a twentieth of the curve, 50 steps at most.</p>
        """
            .formatted(html);
  }

  private static String scenes(List<AttentionPicture> pictures) throws IOException {
    if (pictures.isEmpty()) {
      return "";
    }
    StringBuilder html = new StringBuilder("<div class=\"scenes\">\n");
    for (AttentionPicture picture : pictures) {
      html.append(SceneFigure.html(picture));
    }
    return html
        + "</div>\n"
        + SceneFigure.legend()
        + "<p class=\"note\">Colour: attention of the answer on each patch, mean over its tokens.</p>\n";
  }

  private static String configuration(Map<String, String> config) {
    if (config.isEmpty()) {
      return "";
    }
    StringBuilder html = new StringBuilder("<table class=\"settings\"><tbody>\n");
    config.forEach(
        (name, value) ->
            html.append(
                "<tr><th>%s</th><td>%s</td></tr>\n"
                    .formatted(Html.escape(name), Html.escape(value))));
    return html + "</tbody></table>\n";
  }
}
