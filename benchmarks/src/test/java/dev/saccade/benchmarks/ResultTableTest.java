package dev.saccade.benchmarks;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class ResultTableTest {
  private static Result result(
      String operation, String dtype, String engine, double ms, long read, long written) {
    double gb = (read + written) / (1e6 * ms);
    return new Result(
        operation,
        "4 × 8",
        dtype,
        engine,
        ms,
        0.1,
        read,
        written,
        0,
        gb,
        0,
        50,
        2,
        "A processor",
        "A VM 17",
        "abc",
        "2026-01-02");
  }

  private static final List<Result> RESULTS =
      List.of(
          result("§2 token_log_probs", "f32", "saccade", 10, 200_000_000, 0),
          result("§2 token_log_probs", "f32", "djl", 35, 200_000_000, 0),
          result("§2 token_log_probs", "f32", "nd4j", 120, 200_000_000, 0),
          result("§2 token_log_probs", "bf16", "saccade", 6, 100_000_000, 0),
          result(AxpbyBenchmark.COPY, "f32", "saccade", 20, 100_000_000, 100_000_000),
          result(AxpbyBenchmark.COPY, "f32", "djl", 16, 100_000_000, 100_000_000));

  @Test
  void showsEveryLineAndWhereSaccadeIsBehind() {
    assertThat(ResultTable.markdown(RESULTS))
        .contains("A processor, 2 threads, A VM 17, commit abc, 2026-01-02.")
        .contains("copy 12.5 GB/s")
        .contains("fastest in 1 of 2 lines; it is behind in axpby at b = 0 (0.80×).")
        .contains("| operation | data | saccade ms | djl ms | nd4j ms | lead | GB/s | of ceiling |")
        .contains(
            "| §2 token_log_probs | 4 × 8 | 10.0 ± 0.100 | 35.0 ± 0.100 | 120 ± 0.100 | 3.50× |")
        .contains("| §2 token_log_probs, bf16 | 4 × 8 | 6.00 ± 0.100 | – | – | – | 16.7 | 50 % |")
        .contains("| axpby at b = 0 | 4 × 8 | 20.0 ± 0.100 | 16.0 ± 0.100 | – | **0.80×** |");
  }

  @Test
  void percentIsOfTheTimeThatTheBytesNeed() {
    Ceilings ceilings =
        Ceilings.of(
            List.of(
                result(GradNormBenchmark.NAME, "f32", "saccade", 10, 200_000_000, 0),
                result(AxpbyBenchmark.COPY, "f32", "saccade", 20, 100_000_000, 100_000_000)));
    assertThat(ceilings.percent(result("a", "f32", "saccade", 20, 200_000_000, 0))).isEqualTo(50);
    assertThat(ceilings.percent(result("b", "f32", "saccade", 40, 100_000_000, 100_000_000)))
        .isCloseTo(50, org.assertj.core.data.Offset.offset(1e-9));
  }

  @Test
  void csvKeepsResults(@TempDir Path folder) throws Exception {
    Path csv = folder.resolve("results.csv");
    Result.write(csv, RESULTS);
    assertThat(ResultTable.markdown(Result.read(csv))).isEqualTo(ResultTable.markdown(RESULTS));
  }

  @Test
  void refusesACommaInAField(@TempDir Path folder) {
    assertThatThrownBy(
            () ->
                Result.write(
                    folder.resolve("x.csv"), List.of(result("a, b", "f32", "saccade", 1, 1, 1))))
        .hasMessageContaining("comma");
  }

  /** bench.sh wrote both, and nobody has edited one of them since. */
  @Test
  void readmeShowsTheCommittedResults() throws Exception {
    String readme = Files.readString(Path.of("README.md"));
    String table = ResultTable.markdown(Result.read(Path.of("results/cpu.csv")));
    assertThat(ResultTable.replace(readme, table)).isEqualTo(readme);
  }
}
