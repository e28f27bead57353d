package dev.saccade.benchmarks;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.nio.file.Path;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.Test;

class PagesTest {
  private static final Path ROOT = Path.of("..");

  /** benchmarks/pages.sh wrote them after the results, and nobody has edited them since. */
  @Test
  void pagesAreThoseOfTheCommittedResults() throws Exception {
    Map<Path, String> pages = Pages.of(ROOT);
    for (Map.Entry<Path, String> page : pages.entrySet()) {
      assertThat(ROOT.resolve(page.getKey()))
          .as("benchmarks/pages.sh makes it")
          .exists()
          .content()
          .isEqualTo(page.getValue());
    }
    assertThat(Pages.drawings(ROOT))
        .allMatch(file -> pages.containsKey(ROOT.relativize(file)), "is of the results");
  }

  @Test
  void withoutResultsThePageSaysSo() {
    assertThat(Pages.performance(Map.of())).contains("No results are committed yet.");
    assertThat(Pages.summary(Map.of())).isBlank();
  }

  @Test
  void aDeviceIsASectionWithItsMachineCeilingsAndStanding() {
    Map<String, List<Result>> results = new LinkedHashMap<>();
    results.put("cpu", Results.SOME);
    assertThat(Pages.performance(results))
        .contains("## A processor\n")
        .contains("A processor, 2 threads, A VM 17, commit abc, 2026-01-02. Ceilings of this run: ")
        .contains("copy 12.5 GB/s")
        .contains("it is slower in copy of 4 × 8 (0.80× by djl)")
        .contains("nd4j not run: no; none (copy of 4 × 8).")
        .doesNotContain("Growth");
    assertThat(Pages.summary(results))
        .contains("| token_log_probs | 4 × 8 | 10.0 ms | 50 % | djl 35.0 ms | 3.50× |")
        .doesNotContain("bf16");
  }

  @Test
  void seriesAreDrawnNotListed() {
    List<Result> series =
        List.of(
            Results.point("§2 a", "saccade", "rows=1", 1, 10, 0),
            Results.point("§2 a", "saccade", "rows=2", 2, 20, 0));
    assertThat(Pages.performance(Map.of("cuda", series)))
        .contains("![a, bf16 against rows](images/scaling-cuda-a-rows.svg)")
        .doesNotContain("| §2 a");
  }

  @Test
  void markersAreNeeded() {
    assertThat(Pages.replace("a" + Pages.BEGIN + "old" + Pages.END + "b", "new"))
        .isEqualTo("a" + Pages.BEGIN + "new" + Pages.END + "b");
    assertThatThrownBy(() -> Pages.replace("text", "new")).hasMessageContaining("markers");
  }
}
