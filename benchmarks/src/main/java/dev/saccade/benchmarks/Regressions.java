package dev.saccade.benchmarks;

import java.io.IOException;
import java.io.PrintWriter;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;

/**
 * Results of two runs. A time changed if the intervals of the two means (99.9 %) do not meet: by
 * more than the noise of both.
 */
public final class Regressions {
  /** What became of a line. */
  enum Change {
    SLOWER,
    FASTER,
    SAME,
    /** One of the two was measured once, so that nobody knows its noise. */
    UNKNOWN
  }

  /** The same work, on the same engine, twice. */
  record Pair(Result before, Result after) {
    Change change() {
      double noise = before.time().error() + after.time().error();
      double difference = after.time().mean() - before.time().mean();
      if (Double.isNaN(noise) || Double.isNaN(difference)) {
        return Change.UNKNOWN;
      }
      return Math.abs(difference) <= noise
          ? Change.SAME
          : difference > 0 ? Change.SLOWER : Change.FASTER;
    }
  }

  private Regressions() {}

  /** Of results that both have; what did not run in one of them is not there. */
  static List<Pair> pairs(List<Result> before, List<Result> after) {
    Map<String, Result> old = new LinkedHashMap<>();
    before.stream().filter(Result::isRun).forEach(result -> old.put(result.key(), result));
    List<Pair> pairs = new ArrayList<>();
    for (Result result : after) {
      if (result.isRun() && old.containsKey(result.key())) {
        pairs.add(new Pair(old.get(result.key()), result));
      }
    }
    return pairs;
  }

  /**
   * Prints what changed.
   *
   * @return whether nothing got slower
   * @throws IOException if a file cannot be read or is not one of results
   */
  public static boolean compare(Path before, Path after, PrintWriter out) throws IOException {
    List<Result> old = Result.read(before).stream().filter(Result::isRun).toList();
    List<Result> now = Result.read(after).stream().filter(Result::isRun).toList();
    List<Pair> pairs = pairs(old, now);
    out.print(text(pairs, old.size(), now.size()));
    out.flush();
    return pairs.stream().noneMatch(pair -> pair.change() == Change.SLOWER);
  }

  static String text(List<Pair> pairs, int before, int after) {
    List<List<String>> cells = new ArrayList<>();
    cells.add(List.of("", "operation", "engine", "before ms", "after ms", "change"));
    for (Change change : List.of(Change.SLOWER, Change.FASTER, Change.UNKNOWN)) {
      for (Pair pair : pairs) {
        if (pair.change() == change) {
          cells.add(line(change, pair));
        }
      }
    }
    StringBuilder text = new StringBuilder();
    if (cells.size() > 1) {
      text.append(ResultTable.aligned(cells));
    }
    for (Change change : Change.values()) {
      text.append(change == Change.SLOWER ? "" : ", ")
          .append(pairs.stream().filter(pair -> pair.change() == change).count())
          .append(' ')
          .append(
              change == Change.UNKNOWN
                  ? "of unknown noise"
                  : change.name().toLowerCase(Locale.ROOT));
    }
    return text.append(
            "; %d ran only before, %d only after%n"
                .formatted(before - pairs.size(), after - pairs.size()))
        .toString();
  }

  private static List<String> line(Change change, Pair pair) {
    Result.Line line = pair.after.line();
    double ratio = pair.after.time().mean() / pair.before.time().mean();
    return List.of(
        change.name().toLowerCase(Locale.ROOT),
        line.operation() + ", " + line.data() + ", " + line.dtype(),
        pair.after.engine(),
        withError(pair.before.time()),
        withError(pair.after.time()),
        String.format(Locale.ROOT, "%+.1f %%", 100 * (ratio - 1)));
  }

  private static String withError(Result.Time time) {
    return ResultTable.digits(time.mean()) + " ± " + ResultTable.digits(time.error());
  }
}
