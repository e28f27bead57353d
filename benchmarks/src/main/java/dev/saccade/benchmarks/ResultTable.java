package dev.saccade.benchmarks;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Collection;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.stream.Collectors;

/** The table of benchmarks/README.md, from the results and nothing else. */
public final class ResultTable {
  static final String BEGIN = "<!-- results: made by bench.sh, do not edit -->\n";
  static final String END = "<!-- end of results -->\n";

  private ResultTable() {}

  /**
   * Puts the table between its markers.
   *
   * @param args the results, the file with the markers
   */
  public static void main(String[] args) throws IOException {
    Path readme = Path.of(args[1]);
    Files.writeString(
        readme, replace(Files.readString(readme), markdown(Result.read(Path.of(args[0])))));
  }

  /** {@code text} with {@code table} between the markers. */
  static String replace(String text, String table) {
    int begin = text.indexOf(BEGIN) + BEGIN.length();
    int end = text.indexOf(END);
    if (begin < BEGIN.length() || end < begin) {
      throw new IllegalArgumentException("the markers of the table are missing");
    }
    return text.substring(0, begin) + table + text.substring(end);
  }

  /** A summary and the table; nothing for no results. */
  static String markdown(List<Result> results) {
    if (results.isEmpty()) {
      return "";
    }
    List<String> engines = results.stream().map(Result::engine).distinct().toList();
    Map<String, Line> lines = new LinkedHashMap<>();
    for (Result r : results) {
      String name = r.operation() + (r.dtype().equals("f32") ? "" : ", " + r.dtype());
      lines
          .computeIfAbsent(name + r.data(), key -> new Line(name, r.data(), new LinkedHashMap<>()))
          .results
          .put(r.engine(), r);
    }
    StringBuilder table = new StringBuilder("| operation | data | ");
    engines.forEach(engine -> table.append(engine).append(" ms | "));
    table.append("lead | GB/s | of ceiling |\n|---|---|");
    table.append("---:|".repeat(engines.size() + 3)).append('\n');
    lines.values().forEach(line -> table.append(line.markdown(engines)).append('\n'));
    return "\n" + machine(results) + "\n\n" + standing(lines.values()) + "\n\n" + table + "\n";
  }

  /** The results of one operation on the same data, by engine. */
  private record Line(String name, String data, Map<String, Result> results) {
    /** The time of the fastest other engine over Saccade's; NaN where one of them is missing. */
    double lead() {
      Result own = results.get(Engine.SACCADE);
      double peer =
          results.values().stream()
              .filter(result -> result != own)
              .mapToDouble(Result::milliseconds)
              .min()
              .orElse(Double.NaN);
      return own == null ? Double.NaN : peer / own.milliseconds();
    }

    String markdown(List<String> engines) {
      List<String> cells = new ArrayList<>(List.of(name, data));
      engines.forEach(engine -> cells.add(time(results.get(engine))));
      String lead = times(lead());
      cells.add(lead() < 1 ? "**" + lead + "**" : lead);
      Result own = results.get(Engine.SACCADE);
      cells.add(own == null ? "–" : fixed(1, own.gbPerSecond()));
      cells.add(own == null ? "–" : percent(own.percentOfCeiling()));
      return cells.stream().collect(Collectors.joining(" | ", "| ", " |"));
    }
  }

  private static String machine(List<Result> results) {
    Result any = results.get(0);
    Ceilings ceilings = Ceilings.of(results);
    return "%s, %d threads, %s, commit %s, %s. Ceilings of this run: %s."
        .formatted(
            any.processor(),
            any.threads(),
            any.jvm(),
            any.commit(),
            any.date(),
            "read %s GB/s, copy %s GB/s, products %s GFLOP/s"
                .formatted(
                    fixed(1, ceilings.read() / 1e9),
                    fixed(1, ceilings.copy() / 1e9),
                    fixed(0, ceilings.product() / 1e9)));
  }

  private static String standing(Collection<Line> lines) {
    List<Line> compared = lines.stream().filter(line -> !Double.isNaN(line.lead())).toList();
    List<String> behind =
        compared.stream()
            .filter(line -> line.lead() < 1)
            .map(line -> "%s (%s)".formatted(line.name, times(line.lead())))
            .toList();
    return "Saccade is the fastest in %d of %d lines%s."
        .formatted(
            compared.size() - behind.size(),
            compared.size(),
            behind.isEmpty() ? "" : "; it is behind in " + String.join(", ", behind));
  }

  private static String time(Result result) {
    if (result == null) {
      return "–";
    }
    String time = digits(result.milliseconds());
    return Double.isNaN(result.error()) ? time : time + " ± " + digits(result.error());
  }

  private static String times(double factor) {
    return Double.isNaN(factor) ? "–" : fixed(2, factor) + "×";
  }

  private static String percent(double percent) {
    return Double.isNaN(percent) ? "–" : fixed(0, percent) + " %";
  }

  /** Three digits at least, no fraction beyond them. */
  private static String digits(double x) {
    return fixed(x < 1 ? 3 : x < 10 ? 2 : x < 100 ? 1 : 0, x);
  }

  private static String fixed(int decimals, double x) {
    return String.format(Locale.ROOT, "%." + decimals + "f", x);
  }
}
