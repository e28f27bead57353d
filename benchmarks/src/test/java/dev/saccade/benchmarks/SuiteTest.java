package dev.saccade.benchmarks;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.saccade.Device;
import java.io.IOException;
import java.io.PrintWriter;
import java.io.StringWriter;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class SuiteTest {
  private static final Device GPU = Device.cuda(0);

  @TempDir private Path folder;

  private static List<Case> selected(
      Device device, boolean isQuick, boolean isScaling, String... operations) {
    return Suite.selected(
        new Suite.Options(
            List.of(operations), device, 0, isQuick, isScaling, Suite.peers(isScaling), null));
  }

  @Test
  void aQuickRunTakesQuickShapesOfWhatIsAskedForOrTheFirst() {
    assertThat(selected(GPU, false, false, "token_log_probs")).hasSize(4);
    assertThat(selected(GPU, true, false, "token_log_probs"))
        .hasSize(1)
        .allMatch(Case::isQuick, "is quick");
    assertThat(selected(GPU, true, false, "gemm", "token_log_probs")).hasSize(2);
    assertThat(selected(Device.CPU, true, false, "rms_norm"))
        .containsExactly(selected(Device.CPU, false, false, "rms_norm").get(0));
    assertThat(selected(GPU, true, false)).isNotEmpty().allMatch(Case::isQuick, "is quick");
    assertThat(selected(GPU, true, true, "group_advantage"))
        .isEqualTo(selected(GPU, false, true, "group_advantage"))
        .hasSize(5);
  }

  @Test
  void aFileThatCannotKeepResultsIsRefusedBeforeAnythingIsMeasured() throws Exception {
    Path other = Files.writeString(folder.resolve("other.csv"), "a,b\n1,2\n");
    assertRefused(other, "other.csv: the first line is not the header");
    assertThat(other).hasContent("a,b\n1,2\n");
    assertRefused(folder, folder + ": not a file");
    assertRefused(other.resolve("results.csv"), other.toString());
    Path elsewhere = folder.resolve("elsewhere.csv");
    Result.write(elsewhere, List.of(Results.cpu("a", "f32", "saccade", 1, 1, 1)));
    String own = Suite.machine(Device.CPU, 0).hardware();
    assertRefused(
        elsewhere, "elsewhere.csv: expected results of " + own + ", got those of A processor");
  }

  @Test
  void theTableIsPrintedThoughTheFileIsLostOnTheWay() {
    Path csv = folder.resolve("results.csv");
    StringWriter table = new StringWriter();
    StringWriter spoils =
        new StringWriter() {
          @Override
          public void flush() {
            try {
              Files.writeString(csv, "spoilt");
            } catch (IOException e) {
              throw new UncheckedIOException(e);
            }
          }
        };
    assertThatThrownBy(() -> Suite.run(call(csv), new PrintWriter(table), new PrintWriter(spoils)))
        .isInstanceOf(IOException.class)
        .hasMessageContaining("--csv: ");
    assertThat(table.toString()).contains("median ms", "axpby of 1");
    assertThat(csv).hasContent("spoilt");
  }

  private static Suite.Options call(Path csv) {
    return new Suite.Options(List.of("call"), Device.CPU, 0, true, false, List.of(), csv);
  }

  private static void assertRefused(Path csv, String why) {
    StringWriter progress = new StringWriter();
    assertThatThrownBy(
            () -> Suite.run(call(csv), new PrintWriter(progress), new PrintWriter(progress)))
        .hasMessageContaining("--csv: ")
        .hasMessageContaining(why);
    assertThat(progress.toString()).isEmpty();
  }
}
