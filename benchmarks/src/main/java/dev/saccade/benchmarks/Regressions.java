package dev.saccade.benchmarks;

import dev.saccade.benchmarks.Result.Verdict;
import java.io.IOException;
import java.io.PrintWriter;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.stream.Collectors;

/** Results of two runs: which times {@link Result#beside} tells apart, and what is not run now. */
public final class Regressions {
  /** The same work, on the same engine, twice; it ran before. */
  record Pair(Result before, Result after) {
    Verdict change() {
      return after.beside(before);
    }
  }

  private Regressions() {}

  /** Of results that both have and that ran before. */
  static List<Pair> pairs(List<Result> before, List<Result> after) {
    Map<String, Result> old = new LinkedHashMap<>();
    before.stream().filter(Result::isRun).forEach(result -> old.put(result.key(), result));
    return after.stream()
        .filter(result -> old.containsKey(result.key()))
        .map(result -> new Pair(old.get(result.key()), result))
        .toList();
  }

  /**
   * Prints what changed.
   *
   * @return whether nothing got slower, and all of the second file ran that ran before
   * @throws IOException if a file cannot be read or is not one of results
   */
  public static boolean compare(Path before, Path after, PrintWriter out) throws IOException {
    List<Result> old = Result.read(before);
    List<Result> now = Result.read(after);
    out.print(text(old, now));
    out.flush();
    return pairs(old, now).stream()
        .allMatch(pair -> pair.after.isRun() && pair.change() != Verdict.SLOWER);
  }

  static String text(List<Result> before, List<Result> after) {
    List<Pair> all = pairs(before, after);
    List<Pair> pairs = all.stream().filter(pair -> pair.after.isRun()).toList();
    List<Pair> failed = all.stream().filter(pair -> !pair.after.isRun()).toList();
    StringBuilder text = new StringBuilder();
    if (!hardware(before).equals(hardware(after))) {
      text.append(
          "The hardware differs: %s before, %s after%n"
              .formatted(hardware(before), hardware(after)));
    }
    List<List<String>> cells = new ArrayList<>();
    cells.add(List.of("", "operation", "engine", "before ms", "after ms", "change"));
    for (Verdict change : List.of(Verdict.SLOWER, Verdict.FASTER, Verdict.UNKNOWN)) {
      for (Pair pair : pairs) {
        if (pair.change() == change) {
          cells.add(line(change, pair));
        }
      }
    }
    if (cells.size() > 1) {
      text.append(ResultTable.aligned(cells));
    }
    for (Pair pair : failed) {
      text.append(
          "%s: %s %s%n".formatted(name(pair.after), pair.after.engine(), pair.after.note()));
    }
    for (Verdict change : Verdict.values()) {
      text.append(pairs.stream().filter(pair -> pair.change() == change).count())
          .append(' ')
          .append(
              change == Verdict.UNKNOWN
                  ? "of unknown noise"
                  : change.name().toLowerCase(Locale.ROOT))
          .append(", ");
    }
    return text.append(
            "%d not run now; %d missing now, %d ran only now%n"
                .formatted(
                    failed.size(),
                    before.stream().filter(Result::isRun).count() - all.size(),
                    after.stream().filter(Result::isRun).count() - pairs.size()))
        .toString();
  }

  private static String hardware(List<Result> results) {
    return results.stream()
        .map(result -> result.machine().hardware())
        .distinct()
        .sorted()
        .collect(Collectors.joining(" and "));
  }

  private static List<String> line(Verdict change, Pair pair) {
    double ratio = pair.after.milliseconds() / pair.before.milliseconds();
    return List.of(
        change.name().toLowerCase(Locale.ROOT),
        name(pair.after),
        pair.after.engine(),
        withError(pair.before),
        withError(pair.after),
        String.format(Locale.ROOT, "%+.1f %%", 100 * (ratio - 1)));
  }

  private static String name(Result result) {
    Result.Line line = result.line();
    return line.operation() + ", " + line.data() + ", " + line.dtype();
  }

  private static String withError(Result result) {
    return ResultTable.digits(result.milliseconds())
        + " ± "
        + ResultTable.digits(result.time().error());
  }
}
