package dev.saccade.train;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.saccade.Context;
import dev.saccade.train.report.Report;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.function.BooleanSupplier;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class TrainerTest {
  private static final BooleanSupplier NEVER = () -> false;

  @TempDir private Path folder;

  /** Nobody watches. */
  private static final Trainer.Listener QUIET =
      new Trainer.Listener() {
        @Override
        public void onStep(Trainer.Stage stage, int step, int steps, Map<String, Object> metrics) {}

        @Override
        public void onEvaluation(
            Trainer.Stage stage, int step, boolean endOfStage, Evaluator.Result result) {}
      };

  private static TrainConfig tiny() {
    return TrainConfig.preset("tiny");
  }

  /** A few steps of each stage, with a reference that goes stale. */
  private static TrainConfig shortened(Algorithm algorithm) {
    return tiny()
        .with(
            Map.of(
                "algorithm", algorithm,
                "sft.steps", 60,
                "sft.batch", 32,
                "rl.steps", 7,
                "rl.prompts", 16,
                "rl.epochs", 2,
                "rl.referenceInterval", 2));
  }

  private List<Map<String, Object>> run(String name, TrainConfig config, int threads)
      throws IOException {
    RunFolder run = RunFolder.create(folder.resolve(name), config);
    try (Context context = Context.builder().threads(threads).build();
        Trainer trainer = Trainer.start(context, run, config)) {
      assertThat(trainer.train(QUIET, NEVER)).isTrue();
    }
    return metrics(run);
  }

  /** The metrics without what a clock measured. */
  private static List<Map<String, Object>> metrics(RunFolder run) throws IOException {
    List<Map<String, Object>> rows = new ArrayList<>();
    for (Map<String, Object> row : Report.readMetrics(run.metrics())) {
      Map<String, Object> copy = new java.util.LinkedHashMap<>(row);
      copy.remove("tokens_per_second");
      rows.add(copy);
    }
    return rows;
  }

  private static double mean(
      List<Map<String, Object>> rows, String stage, String name, int from, int to) {
    return rows.stream()
        .filter(row -> stage.equals(row.get("stage")))
        .filter(row -> (int) row.get("step") > from && (int) row.get("step") <= to)
        .mapToDouble(row -> ((Number) row.get(name)).doubleValue())
        .average()
        .orElseThrow();
  }

  @Test
  void rewardRisesFarBeyondItsNoise() throws IOException {
    List<Map<String, Object>> rows = run("rises", tiny(), 2);

    double first = mean(rows, "ral", "reward", 0, 10);
    double last = mean(rows, "ral", "reward", 70, 80);
    // 256 responses a step, ten steps: the standard error of a mean is below 0.01.
    assertThat(last).isGreaterThan(first + 0.1);
    assertThat(mean(rows, "ral", "format", 70, 80)).isGreaterThan(0.95);
    assertThat(mean(rows, "sft", "loss", 50, 60)).isLessThan(mean(rows, "sft", "loss", 0, 10) / 2);
    assertThat(mean(rows, "ral", "attention_divergence", 0, 80)).isPositive();
    assertThat(mean(rows, "ral", "kl", 70, 80)).isPositive();
    List<Map<String, Object>> evaluations =
        rows.stream().filter(row -> "eval".equals(row.get("stage"))).toList();
    assertThat(evaluations).first().extracting("after").isEqualTo("sft");
    assertThat((double) evaluations.get(evaluations.size() - 1).get("accuracy"))
        .isGreaterThan((double) evaluations.get(0).get("accuracy"));
  }

  @Test
  void theSameSeedGivesTheSameNumbersWhateverTheThreads() throws IOException {
    TrainConfig config = shortened(Algorithm.RAL);

    List<Map<String, Object>> first = run("a", config, 1);

    assertThat(run("b", config, 3)).isEqualTo(first);
    assertThat(run("c", config.with("seed", 2), 1)).isNotEqualTo(first);
  }

  @Test
  void lambdaIsWhatTellsRalFromGrpo() throws IOException {
    TrainConfig without = shortened(Algorithm.RAL).with("rl.lambda", 0);

    List<Map<String, Object>> grpo = run("grpo", shortened(Algorithm.GRPO), 2);

    assertThat(mean(run("off", without, 2), "ral", "loss", 0, 7))
        .isEqualTo(mean(grpo, "grpo", "loss", 0, 7));
    assertThat(mean(run("on", shortened(Algorithm.RAL), 2), "ral", "loss", 0, 7))
        .isNotEqualTo(mean(grpo, "grpo", "loss", 0, 7));
  }

  @Test
  void aRunThatWasStoppedGoesOnAsIfItWasNot() throws IOException {
    TrainConfig config = shortened(Algorithm.RAL);
    List<Map<String, Object>> whole = run("whole", config, 2);
    RunFolder run = RunFolder.create(folder.resolve("stopped"), config);

    // Stopped every four steps: in both stages, at a stale reference and at a fresh one.
    boolean finished = false;
    try (Context context = Context.builder().threads(2).build()) {
      for (int part = 0; !finished; part++) {
        int[] asked = {0};
        try (Trainer trainer =
            part == 0 ? Trainer.start(context, run, config) : Trainer.resume(context, run)) {
          finished = trainer.train(QUIET, () -> asked[0]++ == 4);
        }
        assertThat(part).isLessThan(40);
      }
    }

    assertThat(metrics(run)).isEqualTo(whole);
    assertThat(Files.readAllBytes(run.last()))
        .isEqualTo(Files.readAllBytes(folder.resolve("whole/checkpoints/final.safetensors")));
  }

  @Test
  void metricsAfterTheCheckpointAreForgottenOnResume() throws IOException {
    TrainConfig config = shortened(Algorithm.GRPO);
    RunFolder run = RunFolder.create(folder.resolve("torn"), config);
    try (Context context = Context.cpu()) {
      int[] asked = {0};
      try (Trainer trainer = Trainer.start(context, run, config)) {
        trainer.train(QUIET, () -> asked[0]++ == 3);
      }
      Files.writeString(
          run.metrics(), Files.readString(run.metrics()) + "{\"stage\":\"sft\",\"step\":4,\"lo");
      try (Trainer trainer = Trainer.resume(context, run)) {
        assertThat(Files.readAllLines(run.metrics())).hasSize(3);
      }
    }
  }

  @Test
  void tensorsOfAStepAreFreed() throws IOException {
    TrainConfig config = shortened(Algorithm.RAL);
    RunFolder run = RunFolder.create(folder.resolve("memory"), config);
    long[] live = new long[2];
    try (Context context = Context.cpu();
        Trainer trainer = Trainer.start(context, run, config)) {
      trainer.train(
          new Trainer.Listener() {
            @Override
            public void onStep(
                Trainer.Stage stage, int step, int steps, Map<String, Object> metrics) {
              if (stage == Trainer.Stage.RL && (step == 2 || step == 7)) {
                live[step == 2 ? 0 : 1] = context.liveBytes();
              }
            }

            @Override
            public void onEvaluation(
                Trainer.Stage stage, int step, boolean endOfStage, Evaluator.Result result) {}
          },
          NEVER);
    }
    assertThat(live[1]).isEqualTo(live[0]).isPositive();
  }

  @Test
  void aDamagedRunIsRefusedByName() throws IOException {
    TrainConfig config = shortened(Algorithm.GRPO);
    RunFolder run = RunFolder.create(folder.resolve("damaged"), config);
    try (Context context = Context.cpu()) {
      try (Trainer trainer = Trainer.start(context, run, config)) {
        assertThatThrownBy(() -> Trainer.resume(context, run))
            .isInstanceOf(IOException.class)
            .hasMessageContaining("is in use");
        trainer.train(QUIET, () -> true);
      }
      Files.writeString(run.config(), config.with("seed", 77).toJson());
      assertThatThrownBy(() -> Trainer.resume(context, run))
          .isInstanceOf(IOException.class)
          .hasMessageContaining("is not the configuration that");
      Files.writeString(run.config(), config.toJson().substring(0, 40));
      assertThatThrownBy(() -> Trainer.resume(context, run))
          .isInstanceOf(IOException.class)
          .hasMessageContaining("config.json: configuration: ");
    }
  }

  @Test
  void aRunIsNeverOverwritten() throws IOException {
    RunFolder.create(folder.resolve("once"), tiny());
    assertThatThrownBy(() -> RunFolder.create(folder.resolve("once"), tiny()))
        .isInstanceOf(IOException.class)
        .hasMessageContaining("holds a run already");
  }

  @Test
  void aConfigurationSurvivesJson() {
    for (String name : TrainConfig.PRESETS) {
      TrainConfig config = TrainConfig.preset(name);
      assertThat(TrainConfig.fromJson(config.toJson())).isEqualTo(config);
    }
    assertThatThrownBy(() -> TrainConfig.fromJson("{\"cells\": 2}"))
        .isInstanceOf(IllegalArgumentException.class);
    assertThatThrownBy(() -> tiny().with("rl.lambada", 1))
        .hasMessage("rl.lambada: is not the name of a value");
    assertThatThrownBy(() -> tiny().with("rl.group", 1))
        .isInstanceOf(IllegalArgumentException.class)
        .hasMessage("rl.group: expected 2 or more, got 1");
    assertThatThrownBy(() -> tiny().with("rl.steps", "many"))
        .isInstanceOf(IllegalArgumentException.class)
        .hasMessageStartingWith("configuration: ");
  }
}
