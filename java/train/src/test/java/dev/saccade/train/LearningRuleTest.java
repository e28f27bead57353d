package dev.saccade.train;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import dev.saccade.Context;
import dev.saccade.train.report.Report;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.NoSuchFileException;
import java.nio.file.Path;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.EnumSource;
import org.junit.jupiter.params.provider.EnumSource.Mode;
import org.junit.jupiter.params.provider.ValueSource;

/** The rules and their terms, each against the one that it must differ from or agree with. */
class LearningRuleTest {
  @TempDir private static Path folder;

  /** A run gives the same numbers every time: what several tests compare with is run once. */
  private static final Map<TrainConfig, List<Map<String, Object>>> KNOWN = new HashMap<>();

  private static int runs;
  private static Path teacher;

  /** Two layers, a policy that has learned a little, four rollout batches. */
  private static TrainConfig config(Algorithm rule) {
    return TrainConfig.preset("tiny")
        .with(
            Map.of(
                "algorithm", rule,
                "model.layers", 2,
                "sft.steps", 25,
                "sft.batch", 32,
                "rl.steps", 4,
                "rl.prompts", 16,
                "evaluationScenes", 32));
  }

  private static TrainConfig rule(Algorithm rule, Object... values) {
    Map<String, Object> changes = new LinkedHashMap<>();
    changes.put("algorithm", rule);
    for (int i = 0; i < values.length; i += 2) {
      changes.put((String) values[i], values[i + 1]);
    }
    return config(Algorithm.GRPO).with(changes);
  }

  private static Path train(TrainConfig config) throws IOException {
    RunFolder run = RunFolder.create(folder.resolve("run" + runs++), config);
    try (Context context = Context.builder().threads(2).build();
        Trainer trainer = Trainer.start(context, run, config)) {
      assertThat(trainer.train(TrainerTest.QUIET, () -> false)).isTrue();
    }
    return run.root();
  }

  /** The rows of the rule, without what a clock measured and the name of the rule. */
  private static List<Map<String, Object>> rows(TrainConfig config) throws IOException {
    if (!KNOWN.containsKey(config)) {
      KNOWN.put(config, rowsOf(train(config), config));
    }
    return KNOWN.get(config);
  }

  private static List<Map<String, Object>> rowsOf(Path run, TrainConfig config) throws IOException {
    return Report.readMetrics(run.resolve("metrics.jsonl")).stream()
        .filter(row -> config.algorithm().id().equals(row.get("stage")))
        .map(
            row -> {
              Map<String, Object> copy = new LinkedHashMap<>(row);
              copy.keySet().removeIf(name -> name.matches("stage|tokens_per_second|.*_seconds"));
              return copy;
            })
        .toList();
  }

  private static double mean(List<Map<String, Object>> rows, String name) {
    return rows.stream()
        .mapToDouble(row -> ((Number) row.get(name)).doubleValue())
        .average()
        .orElseThrow();
  }

  @ParameterizedTest
  @EnumSource(
      mode = Mode.EXCLUDE,
      names = {"SFT", "GRPO", "GKD"})
  void everyRuleTrainsAndIsNotGrpo(Algorithm rule) throws IOException {
    List<Map<String, Object>> rows = rows(rule(rule, "rl.epochs", 2));

    assertThat(rows).hasSize(4);
    assertThat(rows).allSatisfy(row -> assertThat((double) row.get("grad_norm")).isPositive());
    assertThat(rows).isNotEqualTo(rows(rule(Algorithm.GRPO, "rl.epochs", 2)));
  }

  @Test
  void aRuleIsNothingButItsValues() throws IOException {
    assertThat(
            rows(rule(Algorithm.GRPO, "rl.rounds", 4, "rl.loss.clipHigh", 0.28, "rl.kl.coef", 0)))
        .isEqualTo(rows(rule(Algorithm.DAPO)));
  }

  @Test
  void theWeightsOfTheRewardCount() throws IOException {
    Map<String, Object> first = rows(rule(Algorithm.GRPO)).get(0);
    Map<String, Object> equal =
        rows(rule(Algorithm.GRPO, "rl.reward.accuracy", 1.0, "rl.reward.format", 1.0)).get(0);

    assertThat((double) equal.get("reward"))
        .isCloseTo((double) first.get("accuracy") + (double) first.get("format"), within(1e-6));
  }

  @Test
  void dynamicSamplingLeavesOutGroupsThatTellNothing() throws IOException {
    List<Map<String, Object>> once = rows(rule(Algorithm.DAPO, "rl.rounds", 1));
    List<Map<String, Object>> often = rows(rule(Algorithm.DAPO, "rl.rounds", 12));

    assertThat(mean(once, "degenerate")).isBetween(0.05, 0.95);
    assertThat(once.get(0)).doesNotContainKey("rounds");
    assertThat(often).allSatisfy(row -> assertThat((int) row.get("rounds")).isBetween(1, 12));
    assertThat(often)
        .filteredOn(row -> (int) row.get("rounds") < 12)
        .isNotEmpty()
        .allSatisfy(row -> assertThat(row).containsEntry("degenerate", 0.0));
  }

  /** What a bound leaves is filled with groups that tell nothing: batches keep their size. */
  @Test
  void dynamicSamplingEndsAtItsBound() throws IOException {
    List<Map<String, Object>> rows =
        rows(
            rule(
                Algorithm.DAPO, "rl.rounds", 2, "sft.steps", 0, "rl.optimizer.learningRate", 1e-9));

    assertThat(rows).allSatisfy(row -> assertThat(row).containsEntry("rounds", 2));
    assertThat(rows).allSatisfy(row -> assertThat(row).containsEntry("degenerate", 1.0));
  }

  @ParameterizedTest
  @CsvSource({
    "rl.attention.layers, '[0]'",
    "rl.attention.layers, '[0, 1]'",
    "rl.attention.headEnd, 1",
    "rl.attention.support, VISUAL",
    "rl.attention.support, ALL",
    "rl.attention.entropy, 0.1",
    "rl.attention.warmup, 3",
    "rl.attention.referenceInterval, 2",
  })
  void everyPartOfTheAttentionTermCounts(String name, String value) throws IOException {
    TrainConfig ral = rule(Algorithm.RAL, "rl.attention.lambda", 100);
    assertThat(rows(ral.with(name, ConfigTree.value(value)))).isNotEqualTo(rows(ral));
  }

  @Test
  void theLastLayerIsThatOfTheHighestIndex() throws IOException {
    TrainConfig ral = rule(Algorithm.RAL);
    assertThat(rows(ral.with("rl.attention.layers", List.of(1)))).isEqualTo(rows(ral));
    assertThat(rows(ral.with("rl.attention.layers", List.of(0))))
        .isEqualTo(rows(ral.with("rl.attention.layers", List.of(-2))));
  }

  /** The divergence is not negative: with the entropy alone the loss falls by its mean. */
  @Test
  void theEntropyOfAttentionIsMaximised() throws IOException {
    Object[] off = {"rl.weight", 1e-6, "rl.kl.coef", 0.0, "rl.optimizer.weightDecay", 0.0};
    TrainConfig still = rule(Algorithm.GRPO, off).with("rl.attention.entropy", 1e-9);
    List<Map<String, Object>> before = rows(still);
    List<Map<String, Object>> after =
        rows(still.with(Map.of("rl.attention.entropy", 1.0, "rl.steps", 12)));

    assertThat((double) after.get(11).get("attention_entropy"))
        .isGreaterThan((double) before.get(0).get("attention_entropy") + 0.01);
  }

  // ---------------------------------------------------------------------------------- distillation

  /** A wider, deeper teacher with other heads, which has learned more. */
  private static String teacher() throws IOException {
    if (teacher == null) {
      teacher =
          train(
              config(Algorithm.SFT)
                  .with(
                      Map.of(
                          "sft.steps", 120,
                          "sft.batch", 64,
                          "seed", 11,
                          "model.width", 48,
                          "model.layers", 3,
                          "model.heads", 3,
                          "model.kvHeads", 3,
                          "model.headDim", 24)));
    }
    return teacher.toString();
  }

  @Test
  void theStudentApproachesItsTeacher() throws IOException {
    TrainConfig gkd =
        rule(Algorithm.GKD, "rl.distillation.teacher", teacher(), "rl.steps", 30, "rl.group", 1);
    List<Map<String, Object>> rows = rows(gkd);

    assertThat(mean(rows.subList(25, 30), "logit_divergence"))
        .isLessThan(0.8 * mean(rows.subList(0, 5), "logit_divergence"));
    for (Map<String, Object> row : rows) {
      assertThat((double) row.get("loss"))
          .as("there is nothing else")
          .isCloseTo((double) row.get("logit_divergence"), within(1e-9));
    }
  }

  @ParameterizedTest
  @ValueSource(strings = {"PREVIOUS", "VISUAL"})
  void attentionApproachesTheTeachers(String support) throws IOException {
    TrainConfig attention =
        rule(
            Algorithm.GKD,
            "rl.distillation.teacher",
            teacher(),
            "rl.distillation.mu",
            0.0,
            "rl.distillation.gamma",
            1.0,
            "rl.distillation.layers",
            List.of(-1, 0),
            "rl.attention.layers",
            List.of(-1, 0),
            "rl.attention.support",
            support,
            "rl.steps",
            30);
    List<Map<String, Object>> rows = rows(attention);

    assertThat(mean(rows.subList(25, 30), "teacher_attention_divergence"))
        .isLessThan(0.9 * mean(rows.subList(0, 5), "teacher_attention_divergence"));
    assertThat(rows).allSatisfy(row -> assertThat(row).doesNotContainKey("logit_divergence"));
  }

  @Test
  void distillationGoesWithRewards() throws IOException {
    List<Map<String, Object>> rows =
        rows(
            rule(
                Algorithm.RAL,
                "rl.distillation.teacher",
                teacher(),
                "rl.distillation.mu",
                0.5,
                "rl.distillation.gamma",
                0.5));

    assertThat(rows.get(0))
        .containsKeys(
            "attention_divergence", "teacher_attention_divergence", "logit_divergence", "kl");
    assertThat(rows).isNotEqualTo(rows(rule(Algorithm.RAL)));
  }

  @Test
  void teachersThatDoNotFitAreRefusedByName() throws IOException {
    String teacher = teacher();
    TrainConfig gkd = rule(Algorithm.GKD, "rl.distillation.teacher", teacher);

    assertThatThrownBy(() -> train(gkd.with(Map.of("cells", 2, "task", "sum"))))
        .isInstanceOf(IOException.class)
        .hasMessage(
            "rl.distillation.teacher: %s: tokens: expected 35, as the policy has, got 34"
                .formatted(teacher));
    assertThatThrownBy(() -> train(gkd.with("cells", 2)))
        .hasMessageMatching(".*: expected [0-9]+ positions or more, got [0-9]+");
    assertThatThrownBy(
            () ->
                train(
                    gkd.with(
                        Map.of("rl.distillation.gamma", 1, "rl.distillation.layers", List.of(3)))))
        .isInstanceOf(IOException.class)
        .hasMessage(
            "rl.distillation.layers: expected each -3 to 2, got [3]; layers of the teacher: 3");
    assertThatThrownBy(
            () ->
                gkd.with(
                    Map.of("rl.distillation.gamma", 1, "rl.distillation.layers", List.of(1, 2))))
        .hasMessage(
            "rl.distillation.layers: expected one for each of rl.attention.layers = [-1],"
                + " got [1, 2]");
  }

  @Test
  void aRunThatCannotBeginLeavesNothing() throws IOException {
    Path root = folder.resolve("free");
    Path others = Files.createDirectories(folder.resolve("others"));
    for (String name : List.of("rl.distillation.teacher", "sft.from")) {
      TrainConfig config = rule(Algorithm.GKD, "rl.distillation.teacher", teacher(), name, "none");
      try (Context context = Context.cpu()) {
        for (Path run : List.of(root, others)) {
          assertThatThrownBy(() -> Trainer.start(context, RunFolder.create(run, config), config))
              .isInstanceOf(IOException.class)
              .hasMessage(name + ": none")
              .hasCauseInstanceOf(NoSuchFileException.class);
        }
      }
      assertThat(root).doesNotExist();
      assertThat(others).as("was there before").isEmptyDirectory();
    }
  }

  // ---------------------------------------------------------------------------- beginnings,
  // numbers

  @Test
  void aRunBeginsWithThePolicyOfAnother() throws IOException {
    TrainConfig whole = config(Algorithm.GRPO);
    Path base = train(whole.with("algorithm", Algorithm.SFT));

    TrainConfig rest = whole.with(Map.of("sft.from", base.toString(), "sft.steps", 0));

    Path run = train(rest);
    assertThat(Report.readMetrics(run.resolve("metrics.jsonl")).get(0).get("accuracy"))
        .isEqualTo(last(Report.readMetrics(base.resolve("metrics.jsonl"))).get("accuracy"));
    assertThat(rowsOf(run, rest)).isEqualTo(rows(whole));
    assertThatThrownBy(() -> train(rest.with("model.width", 48)))
        .isInstanceOf(IOException.class)
        .hasMessageContaining("sft.from: ")
        .hasMessageContaining("expected TransformerConfig[vocabulary=34")
        .hasMessageContaining("width=32");
  }

  private static Map<String, Object> last(List<Map<String, Object>> rows) {
    return rows.get(rows.size() - 1);
  }

  @ParameterizedTest
  @CsvSource(
      delimiter = '|',
      value = {
        "rl.rounds                       | 0         | 1 or more, got 0",
        "rl.weight                       | -1        | 0 or more, got -1.0",
        "rl.weight                       | 0         | above 0 with a KL term (rl.kl), whose weight it is too, got 0.0",
        "rl.reward.format                | -1        | 0 or more, got -1.0",
        "rl.optimizer.learningRate       | 0         | a number above 0, got 0.0",
        "sft.optimizer.finalFraction     | 2         | a number from 0 to 1, got 2.0",
        "rl.loss.clipLow                 | 1.5       | a number from 0 to 1, got 1.5",
        "rl.loss.clipHigh                | Infinity  | 0 or more, got Infinity",
        "rl.loss.dualClip                | 0.5       | 0 or, with rl.loss.objective PPO_CLIP, GSPO or GSPO_TOKEN, above 1, got 0.5",
        "rl.loss.delta                   | 1.1       | 0 or, with rl.loss.objective PPO_CLIP, GSPO or GSPO_TOKEN, at least 1 + rl.loss.clipHigh, got 1.1",
        "rl.loss.tauPos                  | 0         | a number above 0, got 0.0",
        "rl.loss.entropy                 | NaN       | a number, got NaN",
        "rl.attention.lambda             | -1        | 0 or more, got -1.0",
        "rl.attention.warmup             | -1        | 0 or more, got -1",
        "rl.attention.layers             | []        | a layer or more, got []",
        "rl.attention.layers             | [1, 1]    | layers that differ, got [1, 1]",
        "rl.attention.layers             | [1, -1]   | layers that differ, got [1, -1], which are [1, 1]",
        "rl.attention.layers             | 0         | a list in brackets, such as [0], got 0",
        "rl.attention.layers             | ''        | a list in brackets, got nothing",
        "rl.distillation.layers          | ~         | a list in brackets, got nothing",
        "rl.attention.support            | ''        | one of ALL, PREVIOUS, VISUAL, got nothing",
        "rl.loss.objective               | ''        | one of PPO_CLIP, GSPO, GSPO_TOKEN, CISPO, SAPO, REINFORCE, got nothing",
        "rl.loss.objective               | '\"\"'      | one of PPO_CLIP, GSPO, GSPO_TOKEN, CISPO, SAPO, REINFORCE, got \"\"",
        "rl.advantage                    | ~         | one of GRPO, DR_GRPO, RLOO, BATCH_STD, REINFORCE_PP_BASELINE, got nothing",
        "rl.kl.schedule                  | ''        | one of CONSTANT, GRPO_D, RISING, ADAPTIVE, got nothing",
        "rl.kl                           | ''        | a mapping, got nothing",
        "rl.steps                        | ''        | an integer, got nothing",
        "precision                       | ''        | one of F32, TF32, BF16, got nothing",
        "algorithm                       | ''        | one of SFT, GRPO, DR_GRPO, RLOO, DAPO, GSPO, CISPO, SAPO, GRPO_D, RAL, GKD, got nothing",
        "task                            | ''        | a text, got nothing",
        "task                            | [a, b]    | a text, got [\"a\",\"b\"]",
        "rl.attention.layers             | [2]       | each -2 to 1, got [2]",
        "rl.attention.headBegin          | 2         | 0 to 1, got 2",
        "rl.attention.headEnd            | 3         | -1, or above rl.attention.headBegin and at most 2, got 3",
        "rl.attention.referenceInterval  | 0         | 1 or more, got 0",
        "rl.distillation.beta            | 1         | a number between 0 and 1, got 1.0",
        "rl.distillation.mu              | -1        | 0 or more, got -1.0",
        "model.kvHeads                   | 3         | a divisor of model.heads = 2, got 3",
        "patch                           | 5         | a divisor of the image's side 28, got 5",
        "sft.targetAccuracy              | 0         | a number above 0, got 0.0",
      })
  void valuesOutOfRangeAreRejectedByName(String name, String value, String message) {
    assertThatThrownBy(() -> config(Algorithm.GRPO).with(name, ConfigTree.value(value)))
        .isInstanceOf(IllegalArgumentException.class)
        .hasMessage(name + ": expected " + message);
  }

  @ParameterizedTest
  @ValueSource(strings = {"room", "sft.task", "sft.from", "rl.distillation.teacher"})
  void whatMayBeMissingMayBeEmpty(String name) {
    TrainConfig config = config(Algorithm.GRPO);
    assertThat(config.with(name, "read").with(name, ConfigTree.value(""))).isEqualTo(config);
    assertThat(TrainConfig.fromJson(config.toJson())).isEqualTo(config);
  }

  @Test
  void aRecordedConfigurationIsWhole() {
    String json = config(Algorithm.GRPO).toJson();
    assertThatThrownBy(() -> TrainConfig.fromJson(json.replace("\"F32\"", "null")))
        .hasMessage("precision: expected one of F32, TF32, BF16, got nothing");
    assertThatThrownBy(
            () -> TrainConfig.fromJson(json.replaceAll("\"kl\" : \\{[^}]*}", "\"kl\": null")))
        .hasMessage("rl.kl: expected a mapping, got nothing");
  }
}
