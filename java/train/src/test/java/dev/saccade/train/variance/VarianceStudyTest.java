package dev.saccade.train.variance;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import dev.saccade.Context;
import dev.saccade.train.ConfigTree;
import dev.saccade.train.Evaluator;
import dev.saccade.train.RunFolder;
import dev.saccade.train.TrainConfig;
import dev.saccade.train.Trainer;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.stream.Stream;
import javax.xml.parsers.DocumentBuilderFactory;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** A study of a small policy, and of the samples that it wrote. */
class VarianceStudyTest {
  @TempDir private static Path folder;
  private static Context context;
  private static Path checkpoint;

  @BeforeAll
  static void train() throws IOException {
    context = Context.builder().threads(1).build();
    TrainConfig config =
        TrainConfig.preset("tiny").with(Map.of("rl.steps", 0, "evaluationScenes", 8));
    RunFolder run = RunFolder.create(folder.resolve("run"), config);
    try (Trainer trainer = Trainer.start(context, run, config)) {
      trainer.train(
          new Trainer.Listener() {
            @Override
            public void onStep(
                Trainer.Stage stage, int step, int steps, Map<String, Object> metrics) {}

            @Override
            public void onEvaluation(
                Trainer.Stage stage, int step, boolean endOfStage, Evaluator.Result result) {}
          },
          () -> false);
    }
    checkpoint = run.last();
  }

  @AfterAll
  static void close() {
    context.close();
  }

  private static VarianceConfig config(Map<String, Object> more) {
    Map<String, Object> values =
        new LinkedHashMap<>(
            Map.of(
                "prompts", 4,
                "blocks", 4,
                "groups", 3,
                "replicates", 50,
                "setting.group", 4));
    values.putAll(more);
    return VarianceConfig.resolve(List.of(ConfigTree.of(values)));
  }

  private static boolean run(VarianceConfig config, Path out, int blocks) throws IOException {
    int[] left = {blocks};
    return new VarianceStudy(context, checkpoint, config, out)
        .run(done -> {}, () -> left[0]-- == 0);
  }

  /** Without the last column's number of samples. */
  private static Map<String, Double> values(Path out) throws IOException {
    Map<String, Double> values = new LinkedHashMap<>();
    for (String line : Files.readAllLines(out.resolve("results.csv"))) {
      String[] cells = line.split(",", -1);
      if (!cells[7].equals("value") && !cells[7].isEmpty()) {
        values.put(String.join(",", List.of(cells).subList(0, 7)), Double.parseDouble(cells[7]));
      }
    }
    return values;
  }

  @Test
  void samplesThatAStudyWritesGiveItsNumbers() throws IOException {
    Path out = folder.resolve("raw");
    assertThat(run(config(Map.of("raw", 3, "estimators", List.of("none", "rloo"))), out, -1))
        .isTrue();
    Path again = folder.resolve("again");

    new SampleFolder(out.resolve("raw/base")).analyse(context, 4, 50, 1, again, done -> {});

    Map<String, Double> own = values(out);
    Map<String, Double> theirs = values(again);
    int compared = 0;
    for (Map.Entry<String, Double> value : theirs.entrySet()) {
      double expected = own.get(value.getKey());
      assertThat(value.getValue())
          .as(value.getKey())
          .isCloseTo(expected, within(1e-4 * Math.abs(expected) + 1e-9));
      compared++;
    }
    // Heads and layers of six targets, for two estimators and their covariance.
    assertThat(compared).isGreaterThan(200);
    assertThat(own.get("base,,rloo,parameters,all,all,within")).isPositive();
  }

  @Test
  void aStudyThatWasStoppedGivesTheNumbersOfOneThatWasNot() throws IOException {
    VarianceConfig config =
        config(
            Map.of(
                "estimators", List.of("grpo", "ral", "grpo+ral", "positions"),
                "setting.staleness", 1,
                "factors.support", List.of("VISUAL", "ALL"),
                "factors.group", List.of(2),
                "factors.responseLength", List.of(2),
                "factors.visualTokens", List.of(2)));
    Path whole = folder.resolve("whole");
    Path parts = folder.resolve("parts");
    assertThat(run(config, whole, -1)).isTrue();

    assertThat(run(config, parts, 6)).isFalse();
    assertThat(parts.resolve("results.csv")).doesNotExist();
    VarianceConfig read =
        VarianceConfig.resolve(List.of(ConfigTree.read(whole.resolve("config.yaml"))));
    assertThat(run(read, parts, -1)).isTrue();

    for (String file : List.of("results.csv", "config.yaml", "report.html")) {
      assertThat(parts.resolve(file)).hasSameBinaryContentAs(whole.resolve(file));
    }
    // The stale reference has a divergence, and another support another gradient.
    Map<String, Double> values = values(whole);
    String within = ",parameters,all,all,within";
    assertThat(values.get("base,,ral" + within)).isPositive();
    assertThat(values.get("support,VISUAL,ral" + within))
        .isNotEqualTo(values.get("base,,ral" + within));
    assertThat(values.get("base,,all,policy,all,all,effective_share_of_weights"))
        .isBetween(0.5, 0.9999999);
  }

  @Test
  void drawingsAndPageAreWellFormed() throws Exception {
    Path out = folder.resolve("drawn");
    run(config(Map.of("factors.group", List.of(2, 4))), out, -1);
    List<Path> files;
    try (Stream<Path> found = Files.list(out.resolve("figures"))) {
      files = Stream.concat(found, Stream.of(out.resolve("report.html"))).toList();
    }
    assertThat(files.stream().map(file -> file.getFileName().toString()))
        .contains("group-within.svg", "heads-rloo.svg", "scene-rloo.svg", "decomposition.svg");
    for (Path file : files) {
      String text = Files.readString(file).replace("<!DOCTYPE html>\n", "");
      assertThat(text).doesNotContain("NaN").doesNotContain("Infinity");
      DocumentBuilderFactory.newInstance()
          .newDocumentBuilder()
          .parse(new org.xml.sax.InputSource(new java.io.StringReader(text)));
    }
  }

  @Test
  void namesOfTensorsGiveLayerAndHead() {
    assertThat(SampleFolder.part("layer3.head5.q_proj")).isEqualTo(new Layout.Part("q_proj", 3, 5));
    assertThat(SampleFolder.part("model.layers.12.self_attn.q_proj.weight"))
        .isEqualTo(new Layout.Part("model.self_attn.q_proj.weight", 12, 0));
    assertThat(SampleFolder.part("layer_0_head_1")).isEqualTo(new Layout.Part("gradient", 0, 1));
  }

  @Test
  void wrongValuesAreNamed() {
    assertThatThrownBy(() -> config(Map.of("estimators", List.of("ppo"))))
        .hasMessageContaining("estimators: expected none, grpo");
    assertThatThrownBy(() -> config(Map.of("estimators", List.of("kl"))))
        .hasMessageContaining("reference");
    assertThatThrownBy(() -> config(Map.of("factors.group", List.of(1))))
        .hasMessageContaining("group: expected 2 or more, got 1");
    assertThatThrownBy(() -> config(Map.of("factors.size", List.of(1))))
        .hasMessageContaining("factors.size");
    assertThatThrownBy(() -> config(Map.of("blocks", 3)))
        .hasMessageContaining("blocks: expected a divisor of prompts = 4, got 3");
  }
}
