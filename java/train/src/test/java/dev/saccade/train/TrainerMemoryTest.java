package dev.saccade.train;

import static org.assertj.core.api.Assertions.assertThat;

import dev.saccade.Context;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.concurrent.TimeUnit;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;

class TrainerMemoryTest {
  private static final int STEPS = 200;
  private static final int WARM = 50;

  @TempDir private Path folder;

  /**
   * Trains in a JVM whose own memory keeps still, so that growth is native memory: a heap of fixed
   * size that is touched from the start, and no optimizing compiler with its large arenas.
   */
  @Test
  @Timeout(value = 2, unit = TimeUnit.MINUTES)
  void nativeMemoryStaysFlat() throws Exception {
    Path output = folder.resolve("output.txt");
    Process process =
        new ProcessBuilder(
                Path.of(System.getProperty("java.home"), "bin", "java").toString(),
                "--enable-native-access=ALL-UNNAMED",
                "-XX:+UseSerialGC",
                "-Xms128m",
                "-Xmx128m",
                "-XX:+AlwaysPreTouch",
                "-XX:TieredStopAtLevel=1",
                "-Dorg.bytedeco.javacpp.maxPhysicalBytes=0",
                "-cp",
                System.getProperty(
                    "surefire.test.class.path", System.getProperty("java.class.path")),
                Program.class.getName(),
                folder.resolve("run").toString())
            .redirectErrorStream(true)
            .redirectOutput(output.toFile())
            .start();
    assertThat(process.waitFor()).as(Files.readString(output)).isZero();

    List<long[]> steps =
        Files.readAllLines(output).stream()
            .map(line -> Arrays.stream(line.split(" ")).mapToLong(Long::parseLong).toArray())
            .toList();
    assertThat(steps).hasSize(STEPS);
    assertThat(steps).extracting(step -> step[0]).containsOnly(steps.get(0)[0]);
    // 100 KB a step would be seen.
    assertThat(steps.get(STEPS - 1)[1] - steps.get(WARM - 1)[1])
        .isLessThan((STEPS - WARM) * 100_000L);
  }

  /** Prints the live bytes of the context and the resident bytes of the process after each step. */
  static final class Program {
    private Program() {}

    public static void main(String[] args) throws IOException {
      TrainConfig config =
          TrainConfig.preset("tiny")
              .with(
                  Map.of(
                      "sft.steps", 0, "rl.steps", STEPS, "rl.prompts", 32, "evaluationScenes", 64));
      RunFolder run = RunFolder.create(Path.of(args[0]), config);
      try (Context context = Context.builder().threads(2).build();
          Trainer trainer = Trainer.start(context, run, config)) {
        trainer.train(
            new Trainer.Listener() {
              @Override
              public void onStep(
                  Trainer.Stage stage, int step, int steps, Map<String, Object> metrics) {
                System.out.println(context.liveBytes() + " " + resident());
              }

              @Override
              public void onEvaluation(
                  Trainer.Stage stage, int step, boolean endOfStage, Evaluator.Result result) {}
            },
            () -> false);
      }
    }

    private static long resident() {
      try (Stream<String> lines = Files.lines(Path.of("/proc/self/status"))) {
        String line = lines.filter(l -> l.startsWith("VmRSS:")).findFirst().orElseThrow();
        return Long.parseLong(line.replaceAll("[^0-9]", "")) * 1024;
      } catch (IOException e) {
        throw new UncheckedIOException(e);
      }
    }
  }
}
