package dev.saccade.benchmarks;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.TreeSet;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.util.stream.Collectors;
import java.util.stream.Stream;

/**
 * docs/performance.md, its drawings and the short table of README.md: made of the committed results
 * and nothing else, so that a build can tell whether they are in step.
 */
public final class Pages {
  static final String BEGIN = "<!-- performance: made by benchmarks/pages.sh, do not edit -->\n";
  static final String END = "<!-- end of performance -->\n";

  /** Devices that may have results, in the order of the page. */
  private static final List<String> DEVICES = List.of("cuda", "cpu");

  /** What the short table shows: the fused operations, each at its first shape. */
  private static final List<String> SHOWN =
      List.of(
          "§1 group_advantage",
          "§2 token_log_probs",
          "§4 logit_divergence",
          "§6 policy_loss_from_logits",
          "§7 linear_policy_loss",
          "§8 attention_policy",
          "§8 attention_divergence");

  private static final Pattern SECTION = Pattern.compile("§(\\d+) ");

  private Pages() {}

  /**
   * Writes them.
   *
   * @param args the root of the project
   */
  public static void main(String[] args) throws IOException {
    Path root = Path.of(args[0]);
    Map<Path, String> pages = of(root);
    for (Path old : drawings(root)) {
      Files.delete(old);
    }
    for (Map.Entry<Path, String> page : pages.entrySet()) {
      Path file = root.resolve(page.getKey());
      Files.createDirectories(file.getParent());
      Files.writeString(file, page.getValue());
    }
  }

  /** The drawings that there are. */
  static List<Path> drawings(Path root) throws IOException {
    try (Stream<Path> files = Files.list(root.resolve("docs/images"))) {
      return files.filter(f -> f.getFileName().toString().startsWith("scaling-")).toList();
    }
  }

  /** Every file, by its path from the root, and what it should hold. */
  static Map<Path, String> of(Path root) throws IOException {
    Map<String, List<Result>> results = new LinkedHashMap<>();
    for (String device : DEVICES) {
      Path csv = root.resolve("benchmarks/results/" + device + ".csv");
      if (Files.exists(csv)) {
        results.put(device, Result.read(csv));
      }
    }
    Map<Path, String> pages = new TreeMap<>();
    pages.put(Path.of("docs/performance.md"), performance(results));
    String readme = Files.readString(root.resolve("README.md"));
    pages.put(Path.of("README.md"), replace(readme, summary(results)));
    results
        .values()
        .forEach(
            ofDevice ->
                ScalingChart.all(ofDevice)
                    .forEach(
                        (name, chart) ->
                            pages.put(Path.of("docs/images", name + ".svg"), chart.svg())));
    return pages;
  }

  /** {@code text} with {@code content} between the markers. */
  static String replace(String text, String content) {
    int begin = text.indexOf(BEGIN) + BEGIN.length();
    int end = text.indexOf(END);
    if (begin < BEGIN.length() || end < begin) {
      throw new IllegalArgumentException("the markers of the table are missing");
    }
    return text.substring(0, begin) + content + text.substring(end);
  }

  // -------------------------------------------------------------------------------- the long page

  static String performance(Map<String, List<Result>> results) {
    StringBuilder page =
        new StringBuilder(
            """
            # Performance

            <!-- made by benchmarks/pages.sh of benchmarks/results/*.csv, do not edit -->

            What was measured, by `saccade bench`; how, and what is compared, is in
            [benchmarks/README.md](../benchmarks/README.md). *Lead* is the time of the fastest other library over
            Saccade's, of one in Python over that of *ctypes*; where Saccade is slower it is **bold**. Times are told
            apart, as slower or faster, where they differ by more than both errors and by more than %.0f %%. *Of
            ceiling* is the share of the speed at which the same run copied memory or multiplied matrices. *Extra* is
            the most memory beyond inputs and outputs; with other libraries it stands after the time.
            """
                .formatted(100 * Result.BETWEEN_PROCESSES));
    results.values().forEach(ofDevice -> page.append(section(ofDevice)));
    if (results.isEmpty()) {
      page.append("\nNo results are committed yet.\n");
    }
    return page.toString();
  }

  private static String section(List<Result> results) {
    List<Result> lines = lines(results);
    StringBuilder section =
        new StringBuilder("\n## " + results.get(0).machine().hardware() + "\n\n");
    section.append(machine(results)).append('\n');
    String standing = ResultTable.standing(rows(lines), "lines");
    if (!standing.isEmpty()) {
      section.append('\n').append(standing).append('\n');
    }
    String missing = ResultTable.reasons(results).strip();
    if (!missing.isEmpty()) {
      section.append('\n').append(missing.replace("\n", "; ")).append(".\n");
    }
    section.append('\n').append(ResultTable.markdown(lines));
    Map<String, ScalingChart> charts = ScalingChart.all(results);
    if (!charts.isEmpty()) {
      section.append(
          "\n### Growth\n\nThe floor is what the bytes or the products need at the ceilings of the run.\n");
      String growing = ResultTable.standing(rows(points(results)), "points");
      section.append(growing.isEmpty() ? "" : growing + "\n");
      charts.forEach(
          (name, chart) ->
              section.append(
                  "\n![%s against %s](images/%s.svg)\n"
                      .formatted(chart.title(), chart.axis(), name)));
    }
    return section.toString();
  }

  /** The results that are no points of a series, by the sections of the specification. */
  private static List<Result> lines(List<Result> results) {
    return results.stream()
        .filter(result -> result.line().axis().isEmpty())
        .sorted(Comparator.comparingInt(Pages::section))
        .toList();
  }

  private static List<Result> points(List<Result> results) {
    return results.stream().filter(result -> !result.line().axis().isEmpty()).toList();
  }

  private static int section(Result result) {
    Matcher number = SECTION.matcher(result.line().operation());
    return number.lookingAt() ? Integer.parseInt(number.group(1)) : Integer.MAX_VALUE;
  }

  private static List<ResultTable.Row> rows(List<Result> results) {
    return ResultTable.Row.of(results);
  }

  /** What the results were measured with. */
  static String machine(List<Result> results) {
    Result.Machine any = results.get(0).machine();
    boolean gpu = any.device().equals("cuda");
    List<String> parts = new ArrayList<>();
    parts.add(any.hardware());
    if (gpu) {
      parts.add("driver " + any.driver());
      parts.add("CUDA " + any.cuda());
      parts.add(conditions(results));
    } else {
      parts.add(any.threads() + " threads");
    }
    parts.add(distinct(results, Result.Machine::software));
    parts.add("commit " + distinct(results, Result.Machine::commit));
    parts.add(distinct(results, Result.Machine::date));
    Ceilings ceilings = Ceilings.of(results);
    String reached =
        gpu
            ? "copy %s GB/s, products %s TFLOP/s"
                .formatted(
                    ResultTable.fixed(0, ceilings.copy() / 1e9),
                    ResultTable.fixed(0, ceilings.product() / 1e12))
            : "read %s GB/s, copy %s GB/s, products %s GFLOP/s"
                .formatted(
                    ResultTable.fixed(1, ceilings.read() / 1e9),
                    ResultTable.fixed(1, ceilings.copy() / 1e9),
                    ResultTable.fixed(0, ceilings.product() / 1e9));
    return parts.stream().filter(part -> !part.isBlank()).collect(Collectors.joining(", "))
        + ". Ceilings of this run: "
        + reached
        + ".";
  }

  private static String distinct(
      List<Result> results, java.util.function.Function<Result.Machine, String> of) {
    return results.stream()
        .map(Result::machine)
        .map(of)
        .filter(text -> !text.isBlank())
        .distinct()
        .collect(Collectors.joining(" and "));
  }

  /** Clocks, power caps and reasons to throttle, over all lines. */
  private static String conditions(List<Result> results) {
    double[] clocks =
        results.stream()
            .mapToDouble(result -> result.conditions().megahertz())
            .filter(clock -> !Double.isNaN(clock))
            .sorted()
            .toArray();
    if (clocks.length == 0) {
      return "";
    }
    TreeSet<String> caps = new TreeSet<>();
    TreeSet<String> reasons = new TreeSet<>();
    for (Result result : results) {
      if (!Double.isNaN(result.conditions().watts())) {
        caps.add(ResultTable.fixed(0, result.conditions().watts()));
      }
      if (!result.conditions().throttle().isEmpty()) {
        reasons.add(result.conditions().throttle());
      }
    }
    return "SM clock %s – %s MHz while measured, cap %s W, throttled by: %s"
        .formatted(
            ResultTable.fixed(0, clocks[0]),
            ResultTable.fixed(0, clocks[clocks.length - 1]),
            String.join("/", caps),
            String.join("; ", reasons));
  }

  // ------------------------------------------------------------------------------- the short table

  /** A table for each device. */
  static String summary(Map<String, List<Result>> results) {
    StringBuilder text = new StringBuilder();
    for (List<Result> ofDevice : results.values()) {
      List<ResultTable.Row> rows = rows(lines(ofDevice));
      text.append('\n').append(ofDevice.get(0).machine().hardware()).append(":\n\n");
      text.append("| operation | data | time | of ceiling | fastest other | lead |\n");
      text.append("|---|---|---:|---:|---:|---:|\n");
      for (String operation : SHOWN) {
        rows.stream()
            .filter(row -> row.line().operation().startsWith(operation) && row.own() != null)
            .filter(row -> isWord(row.line().operation(), operation))
            .findFirst()
            .ifPresent(row -> text.append(line(row)));
      }
      String standing = ResultTable.standing(rows, "lines");
      text.append(standing.isEmpty() ? "" : "\n" + standing + "\n");
    }
    return text.append('\n').toString();
  }

  private static boolean isWord(String name, String operation) {
    return name.length() == operation.length() || name.charAt(operation.length()) == ' ';
  }

  private static String line(ResultTable.Row row) {
    Result own = row.own();
    Result peer = row.fastestPeer();
    return "| %s | %s | %s | %s | %s | %s |\n"
        .formatted(
            row.name().replaceFirst("^§\\d+ ", ""),
            row.data(),
            ResultTable.digits(own.milliseconds()) + " ms",
            ResultTable.percent(own.percentOfCeiling()),
            peer == null
                ? "–"
                : peer.engine() + " " + ResultTable.digits(peer.milliseconds()) + " ms",
            row.shownLead());
  }
}
