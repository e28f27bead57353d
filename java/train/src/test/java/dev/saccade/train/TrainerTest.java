package dev.saccade.train;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;
import static org.assertj.core.api.Assertions.withinPercentage;

import dev.saccade.Context;
import dev.saccade.train.KlCoefficient.Schedule;
import dev.saccade.train.io.Safetensors;
import dev.saccade.train.model.Transformer;
import dev.saccade.train.report.Report;
import dev.saccade.train.task.TaskMixture;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.function.BooleanSupplier;
import java.util.regex.Pattern;
import java.util.stream.Collectors;
import java.util.stream.IntStream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.condition.EnabledOnOs;
import org.junit.jupiter.api.condition.OS;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.EnumSource;
import org.junit.jupiter.params.provider.ValueSource;

class TrainerTest {
  private static final BooleanSupplier NEVER = () -> false;

  @TempDir private Path folder;

  /** Nobody watches. */
  static final Trainer.Listener QUIET =
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
                "rl.attention.referenceInterval", 2));
  }

  private List<Map<String, Object>> run(String name, TrainConfig config, int threads)
      throws IOException {
    return run(name, config, Context.builder().threads(threads).build());
  }

  /** Closes the context. */
  private List<Map<String, Object>> run(String name, TrainConfig config, Context on)
      throws IOException {
    RunFolder run = RunFolder.create(folder.resolve(name), config);
    try (Context context = on;
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
      copy.keySet().removeIf(name -> name.matches("tokens_per_second|.*_seconds"));
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

  /**
   * Sums differ in their order: a few steps on, that is still in the last digits, once rewards
   * differ. Without, gradients are rounding, which Adam makes steps of.
   */
  @Test
  @OnGpu
  void theFirstStepsOnAGpuAreThoseOnTheProcessor() throws IOException {
    TrainConfig config = shortened(Algorithm.RAL).with("rl.steps", 4);

    List<Map<String, Object>> cpu = run("cpu", config, 2);
    List<Map<String, Object>> gpu = run("gpu", config, Context.cuda(0));

    assertThat(gpu).hasSameSizeAs(cpu);
    assertThat(mean(cpu, "ral", "attention_divergence", 0, 4)).isPositive();
    assertThat(mean(cpu, "ral", "reward", 0, 4)).isBetween(0.1, 0.9);
    for (int i = 0; i < cpu.size(); i++) {
      boolean trains = !"eval".equals(cpu.get(i).get("stage"));
      for (String name : List.of("loss", "attention_divergence", "reward")) {
        if (trains && cpu.get(i).get(name) instanceof Number number) {
          double expected = number.doubleValue();
          assertThat(((Number) gpu.get(i).get(name)).doubleValue())
              .as("%s of row %d", name, i)
              .isCloseTo(expected, within(1e-5 + 2e-3 * Math.abs(expected)));
        }
      }
    }
  }

  @Test
  void lambdaIsWhatTellsRalFromGrpo() throws IOException {
    TrainConfig without = shortened(Algorithm.RAL).with("rl.attention.lambda", 0);

    List<Map<String, Object>> grpo = run("grpo", shortened(Algorithm.GRPO), 2);

    assertThat(mean(run("off", without, 2), "ral", "loss", 0, 7))
        .isEqualTo(mean(grpo, "grpo", "loss", 0, 7));
    assertThat(mean(run("on", shortened(Algorithm.RAL), 2), "ral", "loss", 0, 7))
        .isNotEqualTo(mean(grpo, "grpo", "loss", 0, 7));
  }

  @Test
  void aRunThatWasStoppedGoesOnAsIfItWasNot() throws IOException {
    // The coefficient of the KL is part of what a run must remember.
    TrainConfig config =
        shortened(Algorithm.RAL)
            .with(Map.of("rl.kl.schedule", Schedule.ADAPTIVE, "rl.kl.horizon", 100));
    List<Map<String, Object>> whole = run("whole", config, 2);
    assertThat(coefficients(whole)).doesNotHaveDuplicates();
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

  private static List<Double> coefficients(List<Map<String, Object>> rows) {
    return rows.stream()
        .filter(row -> row.containsKey("kl_coef"))
        .map(row -> (Double) row.get("kl_coef"))
        .toList();
  }

  /** No warm-up, and an optimizer step a rollout batch unless set otherwise. */
  private static TrainConfig withKl(Schedule schedule, Map<String, ?> more) {
    return tiny()
        .with(
            Map.of(
                "algorithm", Algorithm.GRPO,
                "sft.steps", 0,
                "evaluationScenes", 16,
                "rl.kl.schedule", schedule,
                "rl.prompts", 16,
                "rl.minibatches", 1))
        .with(more);
  }

  @ParameterizedTest
  @EnumSource(names = {"GRPO_D", "RISING"})
  void everyOptimizerStepHasTheCoefficientOfItsSchedule(Schedule schedule) throws IOException {
    KlCoefficient kl = new KlCoefficient(schedule, 0, 0, 0.04, 0, 0);
    List<Map<String, Object>> one = run("one", withKl(schedule, Map.of("rl.steps", 10)), 2);
    List<Map<String, Object>> four =
        run(
            "four",
            withKl(schedule, Map.of("rl.steps", 3, "rl.minibatches", 2, "rl.epochs", 2)),
            2);

    assertThat(coefficients(one))
        .isEqualTo(IntStream.range(0, 10).mapToObj(step -> kl.at(step, 10)).toList());
    assertThat(coefficients(four)).hasSize(3);
    for (int rollout = 0; rollout < 3; rollout++) {
      double mean =
          IntStream.range(4 * rollout, 4 * rollout + 4)
              .mapToDouble(step -> kl.at(step, 12))
              .average()
              .orElseThrow();
      assertThat(coefficients(four).get(rollout)).isCloseTo(mean, within(1e-16));
    }
    // Also measured where the coefficient is 0: GRPO_D at step 3, RISING at step 0.
    assertThat(mean(one, "grpo", "kl", 3, 4)).isPositive();
  }

  /** Of two steps that differ in the coefficient of the second only, whose KL is not 0. */
  @Test
  void theLossHasTheCoefficientThatIsRecorded() throws IOException {
    Map<String, ?> twoSteps =
        Map.of("rl.steps", 1, "rl.minibatches", 2, "rl.kl.coef", 0, "rl.kl.max", 40);
    Map<String, Object> without = run("without", withKl(Schedule.CONSTANT, twoSteps), 2).get(1);
    Map<String, Object> with = run("with", withKl(Schedule.RISING, twoSteps), 2).get(1);

    assertThat(without).doesNotContainKeys("kl", "kl_coef");
    assertThat(with).containsEntry("kl_coef", (0 + 20) / 2.0);
    assertThat((double) with.get("kl")).isPositive();
    assertThat((double) with.get("loss") - (double) without.get("loss"))
        .isCloseTo(20 * (double) with.get("kl"), withinPercentage(0.1));
  }

  @Test
  void aRampWithoutRiseIsConstant() throws IOException {
    Map<String, ?> level =
        Map.of("rl.steps", 4, "rl.kl.coef", 0.03, "rl.kl.min", 0.03, "rl.kl.max", 0.03);
    List<Map<String, Object>> constant = run("constant", withKl(Schedule.CONSTANT, level), 2);

    assertThat(coefficients(constant)).containsOnly(0.03);
    assertThat(run("level", withKl(Schedule.GRPO_D, level), 2)).isEqualTo(constant);
  }

  @Test
  void theAdaptiveCoefficientFollowsTheMeasuredKl() throws IOException {
    List<Map<String, Object>> rows =
        run(
            "adaptive",
            withKl(
                Schedule.ADAPTIVE,
                Map.of("rl.steps", 8, "rl.kl.target", 0.003, "rl.kl.horizon", 100)),
            2);

    double expected = 0.02;
    for (Map<String, Object> row : rows) {
      if (row.containsKey("kl_coef")) {
        assertThat((double) row.get("kl_coef")).isEqualTo(expected);
        double error = Math.min(0.2, Math.max(-0.2, (double) row.get("kl") / 0.003 - 1));
        expected *= 1 + error * (16 * 4) / 100;
      }
    }
    assertThat(coefficients(rows)).hasSize(8).doesNotHaveDuplicates();
  }

  /** Questions and answers of several lengths from the warm-up to the pictures. */
  @ParameterizedTest
  @ValueSource(booleans = {false, true})
  void tasksInTurnGiveAReport(boolean thinking) throws IOException {
    TrainConfig config =
        tiny()
            .with(
                Map.of(
                    "task", "sum+compare+count",
                    "cells", 2,
                    "thinking", thinking,
                    "sft.steps", 20,
                    "rl.steps", 3,
                    "rl.prompts", 16,
                    "evaluationScenes", 64));
    RunFolder run = RunFolder.create(folder.resolve("all"), config);
    try (Context context = Context.cpu()) {
      try (Trainer trainer = Trainer.start(context, run, config)) {
        assertThat(trainer.train(QUIET, NEVER)).isTrue();
      }
      String report = Files.readString(RunReport.write(context, run));
      assertThat(report).contains(thinking ? "&lt;think&gt; " : "&lt;answer&gt; ");
      assertThat(report)
          .containsPattern(
              "time of the rollout batches</dt><dd>[0-9.]+ s: question [0-9]+ %, sample [0-9]+ %,"
                  + " score [0-9]+ %, prepare [0-9]+ %, update [0-9]+ %</dd>");
      String pictures =
          Pattern.compile("<figcaption><b>([A-Z].*)</b> <span>truth <b>(.*)</b></span>")
              .matcher(report)
              .results()
              .map(picture -> picture.group(1) + ": " + picture.group(2))
              .collect(Collectors.joining("\n"));
      assertThat(pictures)
          .containsPattern("SUM row[01]: [1-9][0-9]\n")
          .containsPattern("COMPARE row[01] col[01] row[01] col[01]: (first|second)\n")
          .containsPattern("COUNT [0-9]: [0-4]");
    }
    List<String> csv = Files.readAllLines(folder.resolve("all/metrics.csv"));
    assertThat(csv).hasSize(1 + metrics(run).size());
    assertThat(csv.get(0)).startsWith("stage,step,loss,accuracy,");
    assertThat(csv.get(1)).startsWith("sft,1,");
    assertThat(mean(metrics(run), "ral", "response_length", 0, 3))
        .isBetween(1.0, (double) config.responseLength());
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

  /** The device that is always full takes the place of the file that a checkpoint begins as. */
  @Test
  @EnabledOnOs(OS.LINUX)
  void aFullDiskLosesNoFinishedCheckpoint() throws IOException {
    TrainConfig config = shortened(Algorithm.GRPO).with("checkpointInterval", 2);
    List<Map<String, Object>> whole = run("roomy", config, 2);
    RunFolder run = RunFolder.create(folder.resolve("full"), config);
    try (Context context = Context.builder().threads(2).build()) {
      try (Trainer trainer = Trainer.start(context, run, config)) {
        Path beginning = run.latest().resolveSibling(".latest.safetensors.tmp");
        assertThatThrownBy(
                () ->
                    trainer.train(
                        new Trainer.Listener() {
                          @Override
                          public void onStep(
                              Trainer.Stage stage,
                              int step,
                              int steps,
                              Map<String, Object> metrics) {
                            if (stage == Trainer.Stage.RL && step == 4) {
                              try {
                                Files.createSymbolicLink(beginning, Path.of("/dev/full"));
                              } catch (IOException e) {
                                throw new UncheckedIOException(e);
                              }
                            }
                          }

                          @Override
                          public void onEvaluation(
                              Trainer.Stage stage,
                              int step,
                              boolean endOfStage,
                              Evaluator.Result result) {}
                        },
                        NEVER))
            .isInstanceOf(IOException.class)
            .hasMessageContaining("No space left");
      }
      assertThat(Safetensors.open(run.latest()).metadata()).containsEntry("step", "2");
      try (Trainer trainer = Trainer.resume(context, run)) {
        assertThat(trainer.train(QUIET, NEVER)).isTrue();
      }
    }
    assertThat(metrics(run)).isEqualTo(whole);
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
  void aRunFolderSaysOfWhichBuildItIs() throws IOException {
    System.setProperty("saccade.commit", "1234abc");
    try {
      RunFolder.create(folder.resolve("built"), tiny());
    } finally {
      System.clearProperty("saccade.commit");
    }
    assertThat(folder.resolve("built/build.json"))
        .content()
        .contains("\"commit\" : \"1234abc\"", System.getProperty("java.version"));
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
        .hasMessageStartingWith(
            "rl.lambada: is not the name of a value; known here: steps, prompts,");
    assertThatThrownBy(() -> tiny().with("rl.group", 1))
        .isInstanceOf(IllegalArgumentException.class)
        .hasMessage("rl.group: expected 2 or more, got 1");
    assertThatThrownBy(() -> tiny().with("rl.steps", "many"))
        .isInstanceOf(IllegalArgumentException.class)
        .hasMessage("rl.steps: expected an integer, got many");
  }

  @ParameterizedTest
  @CsvSource(
      delimiter = '|',
      value = {
        "CONSTANT | coef      | -1  | 0 or more, got -1.0",
        "CONSTANT | min       | -1  | 0 or more, got -1.0",
        "CONSTANT | target    | NaN | 0 or more, got NaN",
        "GRPO_D   | max       | 0   | a number above 0 with rl.kl.schedule GRPO_D, got 0.0",
        "RISING   | min       | 0.5 | at least rl.kl.min = 0.5, got 0.04",
        "RISING   | max       | Infinity | a number above 0 with rl.kl.schedule RISING, got Infinity",
        "ADAPTIVE | coef      | 0   | a number above 0 with rl.kl.schedule ADAPTIVE, got 0.0",
        "ADAPTIVE | target    | 0   | a number above 0 with rl.kl.schedule ADAPTIVE, got 0.0",
        "ADAPTIVE | horizon   | 127 | at least the 128 responses of an optimizer step, got 127.0",
      })
  void coefficientsOutOfRangeAreRejected(
      Schedule schedule, String name, double value, String message) {
    assertThatThrownBy(
            () -> tiny().with(Map.of("rl.kl.schedule", schedule, "rl.kl." + name, value)))
        .isInstanceOf(IllegalArgumentException.class)
        .hasMessageEndingWith(": expected " + message);
  }

  /** A policy has the tokens of its tasks, and no room for others. */
  @Test
  void aPolicyIsAskedWhatItHasTokensFor() {
    List<String> tasks =
        List.of(
            "count",
            "read",
            "sum",
            "compare",
            "compare+sum",
            "count+read",
            "angle",
            "compare+angle",
            "length+intersections");
    try (Context context = Context.cpu()) {
      OpenBlas.provideTo(context);
      for (String trained : tasks) {
        TrainConfig config = tiny().with(Map.of("cells", 2, "task", trained));
        try (Transformer policy = Transformer.create(context, config.transformer(), 1)) {
          for (String asked : tasks) {
            TaskMixture questions = TaskMixture.parse(asked);
            if (questions.vocabulary() <= policy.vocabulary()) {
              assertThat(new Evaluator(config.asking(questions), 8).evaluate(policy).format().n())
                  .isEqualTo(8);
            } else {
              assertThatThrownBy(() -> config.asking(questions))
                  .isInstanceOf(IllegalArgumentException.class)
                  .hasMessage(
                      "task \"%s\": a policy that was trained on \"%s\" does not know its tokens",
                      asked, trained);
            }
          }
        }
      }
    }
    assertThat(tiny().transformer().vocabulary()).isEqualTo(34);
    assertThatThrownBy(() -> tiny().with("task", "compare"))
        .hasMessage("cells: task \"compare\" needs room for 2 digits, got 1×1 cells");
  }
}
