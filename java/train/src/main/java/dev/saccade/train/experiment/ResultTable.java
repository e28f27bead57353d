package dev.saccade.train.experiment;

import dev.saccade.train.experiment.Archive.Answers;
import dev.saccade.train.experiment.Archive.Result;
import dev.saccade.train.experiment.Experiment.Plan;
import dev.saccade.train.experiment.Experiment.Variant;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Objects;
import java.util.Set;
import java.util.TreeSet;

/**
 * What came out, over seeds: accuracy of every variant on every task that it was asked, and its
 * differences from the baselines, paired by seed.
 */
final class ResultTable {
  private static final String RUN_COLUMNS =
      ",seed,asked,right,scenes,optimizer_steps,responses,seconds,commit,device,begins";

  private final Experiment experiment;

  /** By variant, then seed. */
  private final Map<String, Map<Long, Result>> results = new LinkedHashMap<>();

  private final List<Row> rows = new ArrayList<>();

  /**
   * A variant on a task.
   *
   * @param differences from each baseline, in order; null for itself
   */
  record Row(Variant variant, String task, Statistics accuracy, List<Difference> differences) {}

  /**
   * From a baseline, over the seeds that both have and began with the same policy: another device
   * or build warms up to another.
   *
   * @param accuracy its own less the baseline's
   * @param relative the mean of that in parts of the baseline's mean, as OThink-MR1 has it
   */
  record Difference(Statistics accuracy, double relative) {
    private String text() {
      String text = accuracy.text(true);
      if (accuracy.isSignificant()) {
        text = "**" + text + "**";
      }
      return Double.isFinite(relative)
          ? text + String.format(Locale.ROOT, " (%+.0f %%)", 100 * relative).replace('-', '−')
          : text;
    }
  }

  ResultTable(Experiment experiment, Archive archive) {
    this.experiment = experiment;
    Set<String> tasks = new LinkedHashSet<>();
    for (Plan plan : experiment.plans()) {
      Result result = archive.get(plan);
      if (result != null) {
        results
            .computeIfAbsent(result.variant(), any -> new LinkedHashMap<>())
            .put(result.seed(), result);
        tasks.addAll(result.accuracy().keySet());
      }
    }
    for (String task : tasks) {
      for (Variant variant : experiment.variants()) {
        Map<Long, Double> own = rates(variant.name(), task);
        if (!own.isEmpty()) {
          rows.add(new Row(variant, task, of(own), differences(variant, task, own)));
        }
      }
    }
  }

  List<Row> rows() {
    return rows;
  }

  private Map<Long, Double> rates(String variant, String task) {
    Map<Long, Double> rates = new LinkedHashMap<>();
    results
        .getOrDefault(variant, Map.of())
        .forEach(
            (seed, result) -> {
              Answers answers = result.accuracy().get(task);
              if (answers != null) {
                rates.put(seed, answers.rate());
              }
            });
    return rates;
  }

  private Result of(String variant, long seed) {
    return results.get(variant).get(seed);
  }

  private static Statistics of(Map<Long, Double> values) {
    return Statistics.of(values.values().stream().mapToDouble(Double::doubleValue).toArray());
  }

  private List<Difference> differences(Variant variant, String task, Map<Long, Double> own) {
    List<Difference> differences = new ArrayList<>();
    for (String baseline : experiment.baselines()) {
      String name = variant.nameWith(experiment.axis(), baseline);
      Map<Long, Double> paired = new LinkedHashMap<>();
      Map<Long, Double> theirs = rates(name, task);
      theirs.keySet().retainAll(own.keySet());
      theirs.keySet().removeIf(seed -> !of(name, seed).beginsAs(of(variant.name(), seed)));
      own.forEach(
          (seed, rate) -> {
            if (theirs.containsKey(seed)) {
              paired.put(seed, rate - theirs.get(seed));
            }
          });
      Statistics accuracy = of(paired);
      differences.add(
          name.equals(variant.name())
              ? null
              : new Difference(accuracy, accuracy.mean() / of(theirs).mean()));
    }
    return differences;
  }

  /** Writes table.md, table.csv, results.csv and figure.svg. */
  void write(Path folder) throws IOException {
    Files.writeString(folder.resolve("table.md"), markdown());
    Files.writeString(folder.resolve("table.csv"), csv());
    Files.writeString(folder.resolve("results.csv"), runs());
    Files.writeString(folder.resolve("figure.svg"), new IntervalFigure(experiment, rows).svg());
  }

  String markdown() {
    List<String> head = new ArrayList<>(axes());
    head.add("asked");
    head.add("accuracy");
    experiment.baselines().forEach(baseline -> head.add("− " + baseline));
    head.add("seeds");
    StringBuilder text = new StringBuilder();
    line(text, head);
    List<String> rule = new ArrayList<>();
    for (int i = 0; i < head.size(); i++) {
      rule.add(i <= axes().size() ? "---" : "---:");
    }
    line(text, rule);
    for (Row row : rows) {
      List<String> cells = new ArrayList<>(row.variant.labels().values());
      cells.add(row.task);
      cells.add(row.accuracy.text(false));
      for (Difference difference : row.differences) {
        cells.add(difference == null ? "" : difference.text());
      }
      cells.add(Integer.toString(row.accuracy.n()));
      line(text, cells);
    }
    return text
        + "\nMeans over seeds with 95 % intervals (Student's t); differences are paired by seed, over"
        + " runs that began with the same policy, bold where the interval leaves out 0; in brackets,"
        + " of the other's mean.\n";
  }

  private static void line(StringBuilder text, List<String> cells) {
    text.append("| ").append(String.join(" | ", cells)).append(" |\n");
  }

  private Set<String> axes() {
    return experiment.variants().get(0).labels().keySet();
  }

  private String csv() {
    StringBuilder text = new StringBuilder(String.join(",", axes()));
    text.append(",asked,seeds,accuracy,accuracy_half_width");
    for (String baseline : experiment.baselines()) {
      text.append(",minus_").append(baseline).append(",minus_").append(baseline);
      text.append("_half_width,relative_to_").append(baseline);
    }
    text.append('\n');
    for (Row row : rows) {
      text.append(String.join(",", row.variant.labels().values())).append(',').append(row.task);
      text.append(',').append(row.accuracy.n());
      append(text, row.accuracy);
      for (Difference difference : row.differences) {
        append(text, difference == null ? Statistics.of() : difference.accuracy);
        append(text, difference == null ? Double.NaN : difference.relative);
      }
      text.append('\n');
    }
    return text.toString();
  }

  private static void append(StringBuilder text, Statistics statistics) {
    append(text, statistics.mean());
    append(text, statistics.halfWidth());
  }

  private static void append(StringBuilder text, double value) {
    text.append(',');
    if (Double.isFinite(value)) {
      text.append(String.format(Locale.ROOT, "%.5f", value));
    }
  }

  /** A line for each run and task; a metric whose name another column has is {@code last_}…. */
  private String runs() {
    Set<String> metrics = new TreeSet<>();
    results
        .values()
        .forEach(own -> own.values().forEach(r -> metrics.addAll(r.metrics().keySet())));
    StringBuilder text = new StringBuilder(String.join(",", axes()));
    text.append(RUN_COLUMNS);
    List<String> taken = new ArrayList<>(axes());
    taken.addAll(List.of(RUN_COLUMNS.split(",")));
    metrics.forEach(name -> text.append(taken.contains(name) ? ",last_" : ",").append(name));
    text.append('\n');
    for (Variant variant : experiment.variants()) {
      for (Result run : results.getOrDefault(variant.name(), Map.of()).values()) {
        run.accuracy()
            .forEach(
                (task, answers) -> {
                  text.append(String.join(",", variant.labels().values()));
                  text.append(
                      String.format(
                          Locale.ROOT,
                          ",%d,%s,%d,%d,%d,%d,%.1f,%s,%s,%s",
                          run.seed(),
                          task,
                          answers.right(),
                          answers.scenes(),
                          run.optimizerSteps(),
                          run.responses(),
                          run.seconds(),
                          run.commit(),
                          Objects.requireNonNullElse(run.device(), ""),
                          Objects.requireNonNullElse(run.begins(), "")));
                  for (String name : metrics) {
                    Double value = run.metrics().get(name);
                    text.append(',').append(value == null ? "" : value.toString());
                  }
                  text.append('\n');
                });
      }
    }
    return text.toString();
  }
}
