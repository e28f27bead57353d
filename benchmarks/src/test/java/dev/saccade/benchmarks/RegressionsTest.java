package dev.saccade.benchmarks;

import static org.assertj.core.api.Assertions.assertThat;

import java.io.PrintWriter;
import java.io.StringWriter;
import java.nio.file.Path;
import java.util.List;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class RegressionsTest {
  /** ± 0.1. */
  private static Result result(String operation, double milliseconds) {
    return Results.cpu(operation, "f32", "saccade", milliseconds, 8, 8);
  }

  @Test
  void aChangeIsWhatExceedsTheNoiseOfBoth() {
    var same = new Regressions.Pair(result("a", 1), result("a", 1.19));
    assertThat(same.change()).isEqualTo(Regressions.Change.SAME);
    var slower = new Regressions.Pair(result("a", 1), result("a", 1.21));
    assertThat(slower.change()).isEqualTo(Regressions.Change.SLOWER);
    var faster = new Regressions.Pair(result("a", 1.21), result("a", 1));
    assertThat(faster.change()).isEqualTo(Regressions.Change.FASTER);
    Result once =
        new Result(
            result("a", 9).line(),
            "saccade",
            new Result.Time(9, 9, Double.NaN, Double.NaN),
            1,
            1,
            Result.Conditions.UNKNOWN,
            Results.CPU,
            "");
    assertThat(new Regressions.Pair(result("a", 1), once).change())
        .isEqualTo(Regressions.Change.UNKNOWN);
  }

  @Test
  void filesAreCompared(@TempDir Path folder) throws Exception {
    Path before = folder.resolve("before.csv");
    Path after = folder.resolve("after.csv");
    Result.write(before, List.of(result("a", 1), result("b", 2), result("c", 3)));
    Result.write(
        after,
        List.of(
            result("a", 1.05),
            result("b", 2.5),
            Result.notRun(result("c", 3).line(), "saccade", Results.CPU, "gone")));
    StringWriter out = new StringWriter();
    assertThat(Regressions.compare(before, after, new PrintWriter(out))).isFalse();
    assertThat(out.toString())
        .contains("slower  b, 4 × 8, f32", "2.00 ± 0.100", "+25.0 %")
        .contains("1 slower, 0 faster, 1 same, 0 of unknown noise; 1 ran only before, 0 only")
        .doesNotContain("a, 4 × 8");
    assertThat(Regressions.compare(before, before, new PrintWriter(out))).isTrue();
  }
}
