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

  private static Result notRun(String operation, String why) {
    return Result.notRun(result(operation, 1).line(), "saccade", Results.CPU, why);
  }

  @Test
  void filesAreCompared(@TempDir Path folder) throws Exception {
    Path before = folder.resolve("before.csv");
    Path after = folder.resolve("after.csv");
    Result.write(before, List.of(result("a", 1), result("b", 2), result("c", 3)));
    Result.write(after, List.of(result("a", 1.05), result("b", 2.5), result("d", 1)));
    StringWriter out = new StringWriter();
    assertThat(Regressions.compare(before, after, new PrintWriter(out))).isFalse();
    assertThat(out.toString())
        .contains("slower  b, 4 × 8, f32", "2.00 ± 0.100", "+25.0 %")
        .contains("1 slower, 0 faster, 1 same, 0 of unknown noise, 0 not run now; 1 missing now, ")
        .contains("missing now, 1 ran only now")
        .doesNotContain("a, 4 × 8", "hardware");
    assertThat(Regressions.compare(before, before, new PrintWriter(out))).isTrue();
  }

  @Test
  void whatRanAndDoesNotRunNowIsNamedAndFails(@TempDir Path folder) throws Exception {
    Path before = folder.resolve("before.csv");
    Path after = folder.resolve("after.csv");
    Result.write(before, List.of(result("a", 1), notRun("b", "never")));
    Result.write(after, List.of(notRun("a", "gone"), notRun("b", "never")));
    StringWriter out = new StringWriter();
    assertThat(Regressions.compare(before, after, new PrintWriter(out))).isFalse();
    assertThat(out.toString())
        .contains("a, 4 × 8, f32: saccade not run: gone\n", "1 not run now; 0 missing now")
        .doesNotContain("never");
    Result.write(after, List.of(result("b", 1)));
    assertThat(Regressions.compare(before, after, new PrintWriter(out))).isTrue();
  }

  @Test
  void otherHardwareIsSaidFirst() {
    Result own = result("a", 1);
    Result elsewhere = Results.of(Results.GPU, "a", "f32", "saccade", 1, 8, 8, 0);
    assertThat(Regressions.text(List.of(own), List.of(elsewhere)))
        .startsWith("The hardware differs: A processor before, A GPU after\n");
  }
}
