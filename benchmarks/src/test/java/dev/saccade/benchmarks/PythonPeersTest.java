package dev.saccade.benchmarks;

import static org.assertj.core.api.Assertions.assertThat;
import static org.junit.jupiter.api.Assumptions.assumeTrue;

import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import org.bytedeco.javacpp.Pointer;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class PythonPeersTest {
  private static final ObjectMapper JSON = new ObjectMapper();

  @TempDir private Path folder;

  private static PythonPeers.Item item() {
    Case work = Cases.logits("LogitDivergence", "gradient", 4096, Model.LLAMA_3);
    OperationBenchmark measured = work.instance();
    measured.shrink();
    return new PythonPeers.Item(work, measured, Suite.line(work, measured, 4096), Results.GPU, 7);
  }

  @Test
  void aPeerIsAskedForTheShapeThatWasMeasured() {
    assertThat(PythonPeers.request(3, item()))
        .containsEntry("id", 3)
        .containsEntry("operation", "logit_divergence")
        .containsEntry("method", "gradient")
        .containsEntry("dtype", "bf16")
        .containsEntry("copies", 1)
        .containsEntry("launches", 7)
        .extracting("parameters")
        .asString()
        .contains("rows=2048", "vocabulary=128256", "kind=JSD");
    assertThat(item().line().data()).isEqualTo("2048 × 128256 (rows 4096 did not fit)");
  }

  @Test
  void answersAreResults() throws IOException {
    List<PythonPeers.Item> items = List.of(item());
    Result measured =
        PythonPeers.result(
            items,
            JSON.readTree(
                "{\"id\": 0, \"engine\": \"compiled\", \"times_ms\": [3, 1, 2, 2, 2],"
                    + " \"event_ms\": 1.9, \"extra_bytes\": 77}"),
            "PyTorch 2",
            null);
    assertThat(measured.time().median()).isEqualTo(2);
    assertThat(measured.time().error()).isBetween(2.5, 2.9); // t of 4 degrees of freedom: 8.61
    assertThat(measured.time().events()).isEqualTo(1.9);
    assertThat(measured.extraBytes()).isEqualTo(77);
    assertThat(measured.machine().software()).isEqualTo("PyTorch 2");
    assertThat(measured.line()).isSameAs(items.get(0).line());
    Result missing =
        PythonPeers.result(
            items,
            JSON.readTree("{\"id\": 0, \"engine\": \"triton\", \"note\": \"no, none\"}"),
            "",
            null);
    assertThat(missing.isRun()).isFalse();
    assertThat(missing.note()).isEqualTo("not run: no; none");
  }

  /** ctypes reads the header as the compiler of the binding does. */
  @Test
  void structsHaveTheSizesOfTheBinding() throws Exception {
    PythonPeers.unpack(folder);
    Process python;
    try {
      python =
          new ProcessBuilder("python3", "saccade_library.py", "saccade.h")
              .directory(folder.toFile())
              .redirectError(ProcessBuilder.Redirect.INHERIT)
              .start();
    } catch (IOException e) {
      assumeTrue(false, "no python3");
      return;
    }
    List<String> lines = new String(python.getInputStream().readAllBytes()).lines().toList();
    assertThat(python.waitFor()).isZero();
    assertThat(lines).hasSizeGreaterThan(25);
    for (String line : lines) {
      String[] nameAndSize = line.split(" ");
      Class<?> type = Class.forName("dev.saccade.binding." + nameAndSize[0]);
      try (Pointer struct = (Pointer) type.getConstructor().newInstance()) {
        assertThat(struct.sizeof()).as(line).isEqualTo(Integer.parseInt(nameAndSize[1]));
      }
    }
  }

  @Test
  void everyOperationIsOneOfPythonsToo() throws Exception {
    PythonPeers.unpack(folder);
    String python = Files.readString(folder.resolve("operations.py"));
    Suite.operations(dev.saccade.Device.cuda(0), false).stream()
        .filter(operation -> !operation.equals("call"))
        .forEach(operation -> assertThat(python).contains("\"" + operation + "\": "));
  }
}
