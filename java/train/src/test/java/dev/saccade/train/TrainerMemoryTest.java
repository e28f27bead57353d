package dev.saccade.train;

import static org.assertj.core.api.Assertions.assertThat;

import dev.saccade.Context;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.concurrent.TimeUnit;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;

class TrainerMemoryTest {
  private static final int STEPS = 200;
  private static final int WARM = 50;

  @TempDir private Path folder;

  @Test
  @Timeout(value = 2, unit = TimeUnit.MINUTES)
  void nativeMemoryStaysFlat() throws Exception {
    List<String> lines = StillJvm.run(Program.class, folder, folder.resolve("run").toString());
    List<long[]> steps =
        lines.stream()
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
                try {
                  System.out.println(context.liveBytes() + " " + StillJvm.residentBytes());
                } catch (IOException e) {
                  throw new UncheckedIOException(e);
                }
              }

              @Override
              public void onEvaluation(
                  Trainer.Stage stage, int step, boolean endOfStage, Evaluator.Result result) {}
            },
            () -> false);
      }
    }
  }
}
