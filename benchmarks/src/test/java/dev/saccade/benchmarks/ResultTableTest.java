package dev.saccade.benchmarks;

import static org.assertj.core.api.Assertions.assertThat;

import java.util.List;
import org.junit.jupiter.api.Test;

class ResultTableTest {
  @Test
  void markdownShowsEveryLineAndWhereSaccadeIsBehind() {
    assertThat(ResultTable.markdown(Results.SOME))
        .contains("| operation | data | saccade ms | rate | of ceiling | djl ms | nd4j ms | lead |")
        .contains(
            "| §2 token_log_probs | 4 × 8 | 10.0 ± 0.100 | 20.0 GB/s | 50 % | 35.0 ± 0.100"
                + " | 120 ± 0.100 | 3.50× |")
        .contains("| §2 token_log_probs, bf16 | 4 × 8 | 6.00 ± 0.100 | 16.7 GB/s | 50 % | – | – |")
        .contains("| 16.0 ± 0.100 | not run | **0.80×** |");
    assertThat(ResultTable.standing(ResultTable.Row.of(Results.SOME), "lines"))
        .isEqualTo(
            "Saccade is the fastest in 1 of 2 lines; it is slower in copy of 4 × 8 (0.80× by djl).");
  }

  @Test
  void timesThatAreNotToldApartAreNeitherAheadNorBehind() {
    List<Result> results =
        List.of(
            Results.cpu("a", "f32", "saccade", 10.1, 1, 1),
            Results.cpu("a", "f32", "djl", 10, 1, 1),
            Results.cpu("b", "f32", "saccade", 10, 1, 1),
            Results.cpu("b", "f32", "djl", 20, 1, 1));
    assertThat(ResultTable.standing(ResultTable.Row.of(results), "lines"))
        .isEqualTo("Saccade is the fastest in 1 of 2 lines, not told apart from another in 1.");
    assertThat(ResultTable.markdown(results)).contains("| 0.99× |").doesNotContain("**");
    assertThat(ResultTable.standing(ResultTable.Row.of(results.subList(2, 4)), "lines"))
        .isEqualTo("Saccade is the fastest in 1 of 1 lines.");
  }

  @Test
  void whatPythonRunsIsBesideWhatPythonCalls() {
    List<Result> results =
        List.of(
            Results.cpu("a", "f32", "saccade", 10, 1, 1),
            Results.cpu("a", "f32", "djl", 15, 1, 1),
            Results.cpu("a", "f32", "compiled", 18, 1, 1),
            Results.cpu("a", "f32", PythonPeers.CTYPES, 20, 1, 1));
    ResultTable.Row row = ResultTable.Row.of(results).get(0);
    assertThat(row.fastestPeer().engine()).isEqualTo("compiled");
    assertThat(row.shownLead()).isEqualTo("**0.90×**");
    assertThat(ResultTable.Row.of(results.subList(0, 3)).get(0).shownLead()).isEqualTo("1.50×");
  }

  @Test
  void aTerminalShowsTheSameAndWhyAPeerIsMissing() {
    String text = ResultTable.text(Results.SOME);
    assertThat(text.lines().toList())
        .hasSize(5)
        .anySatisfy(
            line -> assertThat(line).startsWith("copy").contains("20.0", "10.0 GB/s", "not run"));
    assertThat(text).contains("nd4j not run: no; none (copy of 4 × 8)\n").doesNotContain("SM MHz");
  }

  @Test
  void clocksAndCallersThatDisagreeAreNamed() {
    Result own = Results.of(Results.GPU, "a", "f32", "saccade", 1, 8, 8, 0);
    Result other = Results.of(Results.GPU, "b", "f32", "saccade", 1, 8, 8, 0);
    Result called = Results.of(Results.GPU, "b", "f32", PythonPeers.CTYPES, 1.04, 8, 8, 0);
    assertThat(
            ResultTable.text(
                List.of(Results.withEvents(own, 0.985), Results.withEvents(other, 0.97), called)))
        .contains(
            "events of the GPU and JMH's clock agree within 2 % in 1 of 2 lines;"
                + " not in b of 4 × 8 (-3.0 %)")
        .contains("calls by ctypes and from Java agree within 3 % in 0 of 1 lines")
        .contains("SM MHz");
    assertThat(ResultTable.text(List.of(own))).doesNotContain("agree");
  }

  @Test
  void ratesAreOfWhatBoundsTheWork() {
    Result gemm = Results.of(Results.GPU, "gemm", "f32", "saccade", 1, 1000, 1000, 7e11);
    assertThat(ResultTable.rate(gemm)).isEqualTo("700.0 TFLOP/s");
    Result read = Results.of(Results.GPU, "read", "f32", "saccade", 1, 3_000_000_000L, 0, 1e9);
    assertThat(ResultTable.rate(read)).isEqualTo("3000 GB/s");
    assertThat(ResultTable.bytes(0)).isEqualTo("0 B");
    assertThat(ResultTable.bytes(1_234_567)).isEqualTo("1.2 MB");
    assertThat(ResultTable.bytes(11.9e9)).isEqualTo("11.9 GB");
    assertThat(ResultTable.bytes(Double.NaN)).isEqualTo("–");
  }
}
