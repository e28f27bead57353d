package dev.saccade.benchmarks;

import java.util.ArrayList;
import java.util.Collection;
import java.util.Comparator;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.function.ToDoubleFunction;
import java.util.stream.Collectors;
import java.util.stream.Stream;

/** Tables of results: a line for what was computed, a column for each engine. */
final class ResultTable {
  private static final String NONE = "–";

  private ResultTable() {}

  /** The results of one workload, by engine. */
  record Row(Result.Line line, Map<String, Result> results) {
    static List<Row> of(List<Result> results) {
      Map<String, Row> rows = new LinkedHashMap<>();
      for (Result r : results) {
        rows.computeIfAbsent(r.work(), key -> new Row(r.line(), new LinkedHashMap<>()))
            .results
            .put(r.engine(), r);
      }
      return List.copyOf(rows.values());
    }

    /** The operation, and the type where it is not f32. */
    String name() {
      return line.operation() + (line.dtype().equals("f32") ? "" : ", " + line.dtype());
    }

    String data() {
      return (line.model().isEmpty() ? "" : line.model() + ": ") + line.data();
    }

    /** Saccade's, null where that failed. */
    Result own() {
      Result own = results.get(Engine.SACCADE);
      return own != null && own.isRun() ? own : null;
    }

    /**
     * Saccade's as a peer is to be compared with it, null where that failed: what Python calls runs
     * in the memory that its process has, which on a CPU may be half as fast as another's.
     */
    private Result ownBeside(Result peer) {
      Result called = results.get(PythonPeers.CTYPES);
      boolean inPython = PythonPeers.NAMES.contains(peer.engine());
      return inPython && called != null && called.isRun() ? called : own();
    }

    /** The fastest of the others beside Saccade, null without one. */
    Result fastestPeer() {
      return results.values().stream()
          .filter(r -> r.isRun() && isPeer(r.engine()))
          .min(Comparator.comparingDouble(this::leadOver))
          .orElse(null);
    }

    private double leadOver(Result peer) {
      Result own = ownBeside(peer);
      return own == null ? Double.NaN : peer.milliseconds() / own.milliseconds();
    }

    /** The time of the fastest peer over Saccade's; NaN where one of them is missing. */
    double lead() {
      Result peer = fastestPeer();
      return peer == null ? Double.NaN : leadOver(peer);
    }

    /** Whether Saccade is slower or faster than the fastest peer. */
    Result.Verdict verdict() {
      Result peer = fastestPeer();
      Result own = peer == null ? null : ownBeside(peer);
      return own == null ? Result.Verdict.UNKNOWN : own.beside(peer);
    }

    /** The lead, bold where Saccade is slower. */
    String shownLead() {
      String lead = times(lead());
      return verdict() == Result.Verdict.SLOWER ? "**" + lead + "**" : lead;
    }
  }

  /** Whether an engine is not Saccade, however it is called. */
  static boolean isPeer(String engine) {
    return !engine.equals(Engine.SACCADE) && !engine.equals(PythonPeers.CTYPES);
  }

  /** Every engine of the results, Saccade first. */
  static List<String> engines(List<Result> results) {
    List<String> there = results.stream().map(Result::engine).toList();
    return Stream.of(List.of(Engine.SACCADE), Engine.PEERS, PythonPeers.NAMES)
        .flatMap(List::stream)
        .filter(there::contains)
        .toList();
  }

  // ---------------------------------------------------------------------------------- a terminal

  /** For a terminal, with what was sampled of a GPU and how far clocks and callers agree. */
  static String text(List<Result> results) {
    boolean gpu = results.stream().anyMatch(r -> r.machine().device().equals("cuda"));
    List<String> peers = engines(results).stream().filter(e -> !e.equals(Engine.SACCADE)).toList();
    List<List<String>> cells = new ArrayList<>();
    List<String> head =
        new ArrayList<>(
            List.of("operation", "data", "median ms", "± ms", "rate", "of ceiling", "extra"));
    if (gpu) {
      head.addAll(List.of("events ms", "SM MHz", "cap W", "throttle"));
    }
    head.addAll(peers);
    cells.add(head);
    for (Row row : Row.of(results)) {
      Result own = row.results().get(Engine.SACCADE);
      List<String> line = new ArrayList<>(List.of(row.name(), row.data()));
      line.add(own == null ? NONE : own.isRun() ? digits(own.milliseconds()) : "not run");
      line.add(own == null ? NONE : digits(own.time().error()));
      line.add(own == null || !own.isRun() ? NONE : rate(own));
      line.add(own == null ? NONE : percent(own.percentOfCeiling()));
      line.add(own == null ? NONE : bytes(own.extraBytes()));
      if (gpu) {
        line.add(own == null ? NONE : digits(own.time().events()));
        line.add(own == null ? NONE : fixed(0, own.conditions().megahertz()));
        line.add(own == null ? NONE : fixed(0, own.conditions().watts()));
        line.add(own == null ? NONE : own.conditions().throttle());
      }
      for (String peer : peers) {
        Result r = row.results().get(peer);
        line.add(r == null ? NONE : r.isRun() ? digits(r.milliseconds()) : "not run");
      }
      cells.add(line);
    }
    return aligned(cells)
        + agreement(
            results,
            "events of the GPU and JMH's clock",
            r -> r.engine().equals(Engine.SACCADE) ? r.time().events() : Double.NaN,
            Suite.EVENTS_AGREE)
        + agreement(
            results,
            "calls by ctypes and from Java",
            r -> r.engine().equals(PythonPeers.CTYPES) ? r.milliseconds() : Double.NaN,
            Suite.CALLERS_AGREE)
        + reasons(results);
  }

  /** Columns as wide as their cells; all but the first two to the right. */
  static String aligned(List<List<String>> cells) {
    StringBuilder text = new StringBuilder();
    for (List<String> line : cells) {
      StringBuilder padded = new StringBuilder();
      for (int c = 0; c < line.size(); c++) {
        int column = c;
        int width = cells.stream().mapToInt(other -> other.get(column).length()).max().orElse(0);
        String space = " ".repeat(width - line.get(c).length());
        padded.append(c < 2 ? line.get(c) + space : space + line.get(c)).append("  ");
      }
      text.append(padded.toString().stripTrailing()).append('\n');
    }
    return text.toString();
  }

  /** How many lines agree with Saccade's own time, and which do not. */
  static String agreement(
      List<Result> results, String what, ToDoubleFunction<Result> time, double within) {
    Map<String, Result> own =
        results.stream()
            .filter(r -> r.engine().equals(Engine.SACCADE) && r.isRun())
            .collect(Collectors.toMap(Result::work, r -> r, (a, b) -> b));
    int compared = 0;
    List<String> apart = new ArrayList<>();
    for (Result r : results) {
      double other = time.applyAsDouble(r);
      if (Double.isNaN(other) || !own.containsKey(r.work())) {
        continue;
      }
      compared++;
      double difference = other / own.get(r.work()).milliseconds() - 1;
      if (!(Math.abs(difference) <= within)) {
        apart.add(
            "%s of %s (%+.1f %%)"
                .formatted(r.line().operation(), r.line().data(), 100 * difference));
      }
    }
    return compared == 0
        ? ""
        : "%s agree within %.0f %% in %d of %d lines%s%n"
            .formatted(
                what,
                100 * within,
                compared - apart.size(),
                compared,
                apart.isEmpty() ? "" : "; not in " + String.join(", ", apart));
  }

  /** Why which engines were not run, and in which line, or how many. */
  static String reasons(List<Result> results) {
    Map<String, List<String>> lines = new LinkedHashMap<>();
    results.stream()
        .filter(r -> !r.isRun())
        .forEach(
            r ->
                lines
                    .computeIfAbsent(r.engine() + " " + r.note(), key -> new ArrayList<>())
                    .add(r.line().operation() + " of " + r.line().data()));
    return lines.entrySet().stream()
        .map(
            e ->
                "%s (%s)\n"
                    .formatted(
                        e.getKey(),
                        e.getValue().size() == 1
                            ? e.getValue().get(0)
                            : e.getValue().size() + " lines"))
        .collect(Collectors.joining());
  }

  // ------------------------------------------------------------------------------------ Markdown

  /**
   * Where Saccade stands, in a sentence; nothing where there is nobody to compare with.
   *
   * @param what a row is called
   */
  static String standing(Collection<Row> rows, String what) {
    List<Row> compared = rows.stream().filter(row -> !Double.isNaN(row.lead())).toList();
    if (compared.isEmpty()) {
      return "";
    }
    List<String> behind =
        compared.stream()
            .filter(row -> row.verdict() == Result.Verdict.SLOWER)
            .map(
                row ->
                    "%s of %s (%s by %s)"
                        .formatted(
                            row.name().replaceFirst("^§\\d+ ", ""),
                            row.data(),
                            times(row.lead()),
                            row.fastestPeer().engine()))
            .toList();
    long ahead = compared.stream().filter(row -> row.verdict() == Result.Verdict.FASTER).count();
    long level = compared.size() - ahead - behind.size();
    return "Saccade is the fastest in %d of %d %s%s%s."
        .formatted(
            ahead,
            compared.size(),
            what,
            level == 0 ? "" : ", not told apart from another in " + level,
            behind.isEmpty() ? "" : "; it is slower in " + String.join(", ", behind));
  }

  /** The table; nothing for no results. */
  static String markdown(List<Result> results) {
    if (results.isEmpty()) {
      return "";
    }
    List<String> peers = engines(results).stream().filter(e -> !e.equals(Engine.SACCADE)).toList();
    boolean memory = results.stream().anyMatch(r -> !Double.isNaN(r.extraBytes()));
    StringBuilder table =
        new StringBuilder("| operation | data | saccade ms | rate | of ceiling |");
    table.append(memory ? " extra |" : "");
    peers.forEach(peer -> table.append(' ').append(peer).append(" ms |"));
    table.append(" lead |\n|---|---|");
    table.append("---:|".repeat(peers.size() + (memory ? 5 : 4))).append('\n');
    for (Row row : Row.of(results)) {
      Result own = row.own();
      List<String> cells = new ArrayList<>(List.of(row.name(), row.data()));
      cells.add(time(row.results().get(Engine.SACCADE), false));
      cells.add(own == null ? NONE : rate(own));
      cells.add(own == null ? NONE : percent(own.percentOfCeiling()));
      if (memory) {
        cells.add(own == null ? NONE : bytes(own.extraBytes()));
      }
      peers.forEach(peer -> cells.add(time(row.results().get(peer), memory)));
      cells.add(row.shownLead());
      table.append(cells.stream().collect(Collectors.joining(" | ", "| ", " |\n")));
    }
    return table.toString();
  }

  private static String time(Result result, boolean withMemory) {
    if (result == null) {
      return NONE;
    }
    if (!result.isRun()) {
      return "not run";
    }
    String time = digits(result.milliseconds());
    double error = result.time().error();
    return (Double.isNaN(error) ? time : time + " ± " + digits(error))
        + (withMemory && !Double.isNaN(result.extraBytes())
            ? "; " + bytes(result.extraBytes())
            : "");
  }

  // --------------------------------------------------------------------------------------- units

  /** TFLOP/s where products of matrices take the longer, else GB/s. */
  static String rate(Result result) {
    Result.Line line = result.line();
    double intensity = line.flops() / Math.max(1, line.bytesRead() + line.bytesWritten());
    double gflops = result.gflopPerSecond();
    if (intensity < MOST_OF_MEMORY) {
      double gb = result.gbPerSecond();
      return fixed(gb < 100 ? 1 : 0, gb) + " GB/s";
    }
    return gflops < 1000 ? fixed(0, gflops) + " GFLOP/s" : fixed(1, gflops / 1e3) + " TFLOP/s";
  }

  /** Operations a byte at which any machine is bound by its memory. */
  private static final double MOST_OF_MEMORY = 8;

  static String bytes(double bytes) {
    if (Double.isNaN(bytes)) {
      return NONE;
    }
    String[] units = {"B", "kB", "MB", "GB"};
    int unit = 0;
    while (bytes >= 1000 && unit < 3) {
      bytes /= 1000;
      unit++;
    }
    return fixed(unit == 0 || bytes >= 100 ? 0 : 1, bytes) + " " + units[unit];
  }

  static String times(double factor) {
    return Double.isNaN(factor) ? NONE : fixed(2, factor) + "×";
  }

  static String percent(double percent) {
    return Double.isNaN(percent) ? NONE : fixed(0, percent) + " %";
  }

  /** Three digits at least, no fraction beyond them. */
  static String digits(double x) {
    return fixed(x < 0.01 ? 5 : x < 0.1 ? 4 : x < 1 ? 3 : x < 10 ? 2 : x < 100 ? 1 : 0, x);
  }

  static String fixed(int decimals, double x) {
    return Double.isNaN(x) ? NONE : String.format(Locale.ROOT, "%." + decimals + "f", x);
  }
}
