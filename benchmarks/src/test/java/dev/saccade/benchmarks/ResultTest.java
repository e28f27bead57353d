package dev.saccade.benchmarks;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class ResultTest {
  @TempDir private Path folder;

  @Test
  void csvKeepsResults() throws Exception {
    Result measured =
        new Result(
            new Result.Line("§4 a", "A model", "2 × 3", "bf16", "rows=2", 5, 6, 7e12),
            "eager",
            new Result.Time(1.5, 1.25, 0.125, 1.75),
            93.5,
            1024,
            new Result.Conditions(1980, 700, "power cap and temperature"),
            Results.GPU,
            "");
    List<Result> results =
        List.of(measured, Result.notRun(measured.line(), "triton", Results.GPU, "not, here\n"));
    Path csv = folder.resolve("made/results.csv");
    Result.write(csv, results);
    assertThat(Result.read(csv)).isEqualTo(results);
    assertThat(results.get(1).note()).isEqualTo("not run: not; here");
    assertThat(results.get(1).isRun()).isFalse();
  }

  @Test
  void whatWasMeasuredAgainTakesThePlaceOfTheOld() {
    Result old = Results.cpu("a", "f32", "saccade", 10, 1, 1);
    Result other = Results.cpu("b", "f32", "saccade", 20, 1, 1);
    Result again = Results.cpu("a", "f32", "saccade", 11, 1, 1);
    Result peer = Results.cpu("a", "f32", "djl", 12, 1, 1);
    assertThat(Result.merge(List.of(old, other), List.of(again, peer)))
        .containsExactly(again, other, peer);
  }

  @Test
  void whatDidNotRunLeavesATimeOfTheSameCommit() {
    Result old = Results.cpu("a", "f32", "djl", 10, 1, 1);
    Result failed = Result.notRun(old.line(), "djl", Results.CPU, "no djl");
    assertThat(Result.merge(List.of(old), List.of(failed))).containsExactly(old);
    assertThat(Result.merge(List.of(failed), List.of(old))).containsExactly(old);
    Result later = Result.notRun(old.line(), "djl", Results.ofCommit("def"), "no djl");
    assertThat(Result.merge(List.of(old), List.of(later))).containsExactly(later);
    Result again = Result.notRun(old.line(), "djl", Results.CPU, "still none");
    assertThat(Result.merge(List.of(failed), List.of(again))).containsExactly(again);
  }

  @Test
  void timesAreToldApartByBothErrorsAndBetweenProcesses() {
    assertThat(time(1.19, 0.1).beside(time(1, 0.1))).isEqualTo(Result.Verdict.SAME);
    assertThat(time(1.21, 0.1).beside(time(1, 0.1))).isEqualTo(Result.Verdict.SLOWER);
    assertThat(time(1, 0.1).beside(time(1.21, 0.1))).isEqualTo(Result.Verdict.FASTER);
    assertThat(time(1.019, 0.001).beside(time(1, 0.001))).isEqualTo(Result.Verdict.SAME);
    assertThat(time(1, 0.001).beside(time(1.019, 0.001))).isEqualTo(Result.Verdict.SAME);
    assertThat(time(1.021, 0.001).beside(time(1, 0.001))).isEqualTo(Result.Verdict.SLOWER);
    assertThat(time(9, Double.NaN).beside(time(1, 0.1))).isEqualTo(Result.Verdict.UNKNOWN);
  }

  /** Of a median; a mean beside it says nothing. */
  private static Result time(double median, double error) {
    Result any = Results.cpu("a", "f32", "saccade", 1, 8, 8);
    var time = new Result.Time(median, 5, error, Double.NaN);
    return new Result(
        any.line(), any.engine(), time, 1, 1, any.conditions(), any.machine(), any.note());
  }

  @Test
  void aFileIsReplacedAsAWhole() throws Exception {
    Path csv = folder.resolve("results.csv");
    List<Result> results = List.of(Results.cpu("a", "f32", "saccade", 1, 1, 1));
    Result.write(csv, results);
    Path link = Files.createSymbolicLink(folder.resolve("link.csv"), csv);
    Result.write(link, List.of());
    assertThat(link).isSymbolicLink();
    assertThat(Result.read(csv)).isEmpty();
    Files.createDirectory(folder.resolve(".results.csv.tmp")); // what is written first
    assertThatThrownBy(() -> Result.write(csv, results)).isInstanceOf(IOException.class);
    assertThat(Result.read(csv)).isEmpty();
    assertThat(folder.toFile().list()).containsExactlyInAnyOrder("results.csv", "link.csv");
  }

  @Test
  void otherFilesAndCommasAreRefused() throws Exception {
    Path csv = Files.writeString(folder.resolve("other.csv"), "a,b\n1,2\n");
    assertThatThrownBy(() -> Result.read(csv)).hasMessageContaining("not the header");
    Path shorter = Files.writeString(folder.resolve("short.csv"), Result.HEADER + "\n1,2\n");
    assertThatThrownBy(() -> Result.read(shorter))
        .isInstanceOf(IOException.class)
        .hasMessageContaining("2 fields");
    Path binary = Files.write(folder.resolve("binary.csv"), new byte[] {-1, -2, -3});
    assertThatThrownBy(() -> Result.read(binary)).hasMessageContaining("binary.csv: not a file of");
    assertThatThrownBy(
            () -> Result.write(csv, List.of(Results.cpu("a, b", "f32", "saccade", 1, 1, 1))))
        .hasMessageContaining("comma");
  }

  @Test
  void percentIsOfTheTimeThatTheBytesOrTheProductsNeed() {
    Ceilings ceilings =
        Ceilings.of(
            List.of(
                Results.cpu(GradNormBenchmark.NAME, "f32", "saccade", 10, 200_000_000, 0),
                Results.cpu(AxpbyBenchmark.COPY, "f32", "saccade", 20, 100_000_000, 100_000_000)));
    assertThat(ceilings.percent(Results.cpu("a", "f32", "saccade", 20, 200_000_000, 0)))
        .isEqualTo(50);
    assertThat(ceilings.percent(Results.cpu("b", "f32", "saccade", 40, 100_000_000, 100_000_000)))
        .isCloseTo(50, org.assertj.core.data.Offset.offset(1e-9));
    Ceilings gpu =
        Ceilings.of(
            List.of(
                Results.of(
                    Results.GPU, AxpbyBenchmark.COPY, "f32", "saccade", 1, 1 << 30, 1 << 30, 0),
                Results.of(Results.GPU, GemmBenchmark.CUBLAS, "f32", "saccade", 1, 1, 1, 7e11)));
    assertThat(gpu.read()).isEqualTo(gpu.copy()).isEqualTo(2147483648e3);
    assertThat(gpu.percent(Results.of(Results.GPU, "c", "f32", "saccade", 2, 1, 1, 7e11)))
        .isEqualTo(50);
  }

  @Test
  void launchesTakeTenMillisecondsAtLeast() {
    Ceilings ceilings = new Ceilings(3e12, 3e12, 7e14);
    Workload large = Workload.of("a", "b", null).reads(3_000_000_000L, dev.saccade.DType.U8);
    assertThat(ceilings.launches(large)).isEqualTo(10);
    assertThat(ceilings.launches(Workload.of("a", "b", null).reads(1))).isEqualTo(10_000);
    assertThat(Ceilings.BOUNDS.launches(large)).isEqualTo(34);
    assertThat(new Ceilings(Double.NaN, Double.NaN, 1).launches(large)).isEqualTo(34);
  }
}
