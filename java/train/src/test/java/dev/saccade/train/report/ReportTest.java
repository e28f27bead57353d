package dev.saccade.train.report;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.saccade.train.report.AttentionPicture.Glance;
import dev.saccade.train.report.SummaryRow.Comparison;
import dev.saccade.train.report.SummaryRow.Fact;
import dev.saccade.train.task.Example;
import dev.saccade.train.task.Examples;
import dev.saccade.train.task.Proportion;
import dev.saccade.train.task.TaskMixture;
import dev.saccade.train.task.Vocabulary;
import java.io.ByteArrayInputStream;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Random;
import javax.xml.parsers.DocumentBuilderFactory;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;
import org.w3c.dom.Document;
import org.w3c.dom.Element;
import org.w3c.dom.NodeList;

class ReportTest {

  @TempDir Path folder;

  @Test
  void everySectionIsThere() throws Exception {
    String html = write(data());
    Document page = parse(html);

    assertThat(ids(page, "section"))
        .containsExactly("summary", "curves", "scenes", "configuration");
    assertThat(text(page, "h1")).containsExactly("RAL on 2×2 DigitScenes");
    assertThat(text(page, "b"))
        .contains(
            "Warm-up loss",
            "Reward",
            "Accuracy",
            "KL to the reference, nats",
            "Entropy of the tokens, nats",
            "Attention divergence, nats");
    assertThat(html)
        .contains("<b>0.545</b> <span>[0.523, 0.567]</span> <small>n = 2,000</small>")
        .contains("+0.067")
        .contains("COUNT 6", "✓ right", "✗ wrong", "<b>none</b>")
        .contains("41,300 tokens/s", "learning rate");
    assertThat(page.getElementsByTagName("image").getLength()).isEqualTo(2 * 6);
    assertThat(page.getElementsByTagName("rect").getLength()).isGreaterThan(2 * 6 * 16);
    assertThat(text(page, "span")).contains("largest weight of the pair");
  }

  @Test
  void nothingIsLoadedFromElsewhere() throws IOException {
    String html =
        write(data())
            .replace("xmlns=\"http://www.w3.org/2000/svg\"", "")
            .replace("xmlns=\"http://www.w3.org/1999/xhtml\"", "");

    assertThat(html)
        .doesNotContain("http", "<script", "<link", "@import", "xlink", "src=")
        .doesNotContainPattern("url\\((?!#)")
        .doesNotContainPattern("href=\"(?!data:image/png;base64,)");
  }

  @Test
  void idsAreUniqueAndDrawingMarksAreReplaced() throws Exception {
    String html = write(data());

    assertThat(ids(parse(html), "*")).doesNotHaveDuplicates();
    assertThat(html).doesNotContainPattern("rgb\\(\\d+,2,3\\)").contains("var(--held-out)");
  }

  @Test
  void sameDataGivesTheSameFile() throws IOException {
    assertThat(write(data())).isEqualTo(write(data()));
  }

  @Test
  void textIsEscaped() throws Exception {
    String nasty = "<b onclick=\"x\">1 < 2 & 'so' on\u0000</b>";
    AttentionPicture picture =
        new AttentionPicture(
            new float[4],
            2,
            1,
            nasty,
            nasty,
            new Glance(nasty, new float[1]),
            new Glance("", new float[1]),
            List.of(nasty));
    ReportData data =
        new ReportData(
            nasty,
            List.of(
                new Fact(nasty, nasty),
                new Comparison(nasty, new Proportion(0, 0), new Proportion(1, 1))),
            Map.of(nasty, nasty),
            List.of(Map.of("step", 1, "stage", nasty, "reward", 1e-7)),
            List.of(picture));

    String html = write(data);

    assertThat(text(parse(html), "h1")).containsExactly(nasty.replace('\u0000', '\ufffd'));
    assertThat(html).doesNotContain("<b onclick");
  }

  @Test
  void anEmptyRunStillHasItsSections() throws Exception {
    Document page =
        parse(write(new ReportData("empty", List.of(), Map.of(), List.of(), List.of())));

    assertThat(ids(page, "section"))
        .containsExactly("summary", "curves", "scenes", "configuration");
    assertThat(text(page, "p")).hasSize(4).containsOnly("Nothing recorded.");
  }

  @Test
  void valuesThatAreNotFiniteNumbersAreLeftOut() throws Exception {
    List<Map<String, Object>> metrics = new ArrayList<>();
    metrics.add(Map.of("step", 1, "stage", "grpo", "reward", Double.NaN, "kl", 0.0));
    metrics.add(Map.of("step", 2, "stage", "grpo", "reward", "NaN", "kl", 0.0));
    metrics.add(Map.of("stage", "eval", "accuracy", 0.5));
    metrics.add(Map.of("step", 3));

    assertThat(CurveChart.all(metrics)).extracting(CurveChart::name).containsExactly("kl");
    parse(write(new ReportData("x", List.of(), Map.of(), metrics, List.of())));
  }

  @Test
  void theCoefficientOfTheKlIsDrawnWhereItChanges() {
    List<Map<String, Object>> metrics = new ArrayList<>();
    for (int step = 1; step <= 3; step++) {
      metrics.add(Map.of("step", step, "stage", "ral", "kl", 0.1, "kl_coef", 0.02));
    }
    assertThat(CurveChart.all(metrics)).extracting(CurveChart::name).containsExactly("kl");

    metrics.add(Map.of("step", 4, "stage", "ral", "kl", 0.1, "kl_coef", 0.03));
    assertThat(CurveChart.all(metrics))
        .extracting(CurveChart::name)
        .containsExactly("kl", "kl_coef");
  }

  /** Also one that no page knows by name; but neither places in time nor what stays the same. */
  @Test
  void everyMetricThatChangesHasACurve() {
    List<Map<String, Object>> metrics = new ArrayList<>();
    for (int step = 1; step <= 3; step++) {
      metrics.add(
          Map.of("step", step, "stage", "sft", "loss", 1.0 / step, "grad_norm", 0.1 * step));
      metrics.add(
          Map.of(
              "step",
              step,
              "stage",
              "grpo",
              "loss",
              0.1 * step,
              "grad_norm",
              0.3 * step,
              "new_metric",
              step,
              "ratio",
              1,
              "update_seconds",
              0.1 * step));
    }
    assertThat(CurveChart.all(metrics))
        .extracting(chart -> chart.name() + ": " + chart.title() + " of " + chart.stages().keySet())
        .containsExactly(
            "loss: Warm-up loss of [SFT]",
            "rule_loss: Loss of [GRPO]",
            "grad_norm: Norm of the gradient of [GRPO]",
            "new_metric: new metric of [GRPO]",
            "warm_up_grad_norm: Warm-up: Norm of the gradient of [SFT]");
  }

  @Test
  void heldOutPointsAreEnoughForAChart() throws Exception {
    List<Map<String, Object>> metrics =
        List.of(Map.of("step", 9, "stage", "eval", "accuracy", 0.5, "policy_step", 0));

    assertThat(CurveChart.all(metrics)).extracting(CurveChart::name).containsExactly("accuracy");
    parse(write(new ReportData("x", List.of(), Map.of(), metrics, List.of())));
  }

  @Test
  void curvesAreFilesOfTheirOwn() throws Exception {
    List<Path> files = Report.writeCurves(folder.resolve("a/curves"), metrics());

    assertThat(files)
        .extracting(file -> file.getFileName().toString())
        .containsExactly(
            "loss.svg",
            "reward.svg",
            "accuracy.svg",
            "kl.svg",
            "entropy.svg",
            "attention_divergence.svg");
    for (Path file : files) {
      String svg = Files.readString(file);
      parse(svg);
      assertThat(svg).doesNotContain("var(", "DOCTYPE").contains("#ffffff");
    }
  }

  @ParameterizedTest
  @ValueSource(strings = {"de-DE", "ar-EG-u-nu-arab", "tr-TR"})
  void localeDoesNotMatter(String locale) throws IOException {
    String expected = write(data());
    Locale before = Locale.getDefault();
    Locale.setDefault(Locale.forLanguageTag(locale));
    try {
      assertThat(write(data())).isEqualTo(expected);
    } finally {
      Locale.setDefault(before);
    }
  }

  @Test
  void metricsAreReadLineByLine() throws IOException {
    Path file = folder.resolve("metrics.jsonl");
    Files.writeString(
        file,
        """
        {"step": 1, "stage": "grpo", "reward": 0.5, "kl": NaN}

        {"step": 2, "stage": "grpo", "reward": 0.75}
        """);

    List<Map<String, Object>> rows = Report.readMetrics(file);

    assertThat(rows).hasSize(2);
    assertThat(Curve.of(rows, "step", "reward").y()).containsExactly(0.5, 0.75);
    assertThat(Curve.of(rows, "step", "kl").size()).isZero();
  }

  @Test
  void brokenMetricsAreRejectedWithTheirLine() throws IOException {
    Path file = folder.resolve("metrics.jsonl");
    Files.writeString(file, "{\"step\": 1}\n{\"step\": 2, \"rew");

    assertThatThrownBy(() -> Report.readMetrics(file))
        .isInstanceOf(IOException.class)
        .hasMessageStartingWith(file + ", line 2: ");
  }

  @Test
  void intervalsShareAnAxisOfTenths() {
    assertThat(IntervalAxis.around(0.38, 0.612)).isEqualTo(new IntervalAxis(0.3, 0.7));
    assertThat(IntervalAxis.around(0, 1)).isEqualTo(new IntervalAxis(0, 1));
  }

  @Test
  void picturesMustFit() {
    Glance one = new Glance("1", new float[1]);
    Glance four = new Glance("1", new float[4]);

    assertThatThrownBy(
            () -> new AttentionPicture(new float[9], 3, 2, "", "", four, four, List.of()))
        .isInstanceOf(IllegalArgumentException.class)
        .hasMessage("patchesPerSide must divide side 3, got 2");
    assertThatThrownBy(
            () -> new AttentionPicture(new float[9], 4, 2, "", "", four, four, List.of()))
        .hasMessage("canvas: expected 16 values, got 9");
    assertThatThrownBy(
            () -> new AttentionPicture(new float[16], 4, 2, "", "", four, one, List.of()))
        .hasMessage("after.attention: expected 4 values, got 1");
  }

  private String write(ReportData data) throws IOException {
    Path file = folder.resolve("run/report.html");
    Report.write(file, data);
    return Files.readString(file);
  }

  private static ReportData data() {
    Map<String, String> config = new LinkedHashMap<>();
    config.put("method", "RAL, λ = 2");
    config.put("cells", "2×2");
    config.put("tasks", "count+read");
    config.put("policy", "3 layers, width 96, 4 heads, 0.31 M parameters");
    config.put("group size", "16");
    config.put("learning rate", "3e-4");
    config.put("backend", "cpu");
    config.put("seed", "1");
    return new ReportData(
        "RAL on 2×2 DigitScenes",
        List.of(
            new Comparison(
                "COUNT accuracy", new Proportion(1090, 2000), new Proportion(1224, 2000)),
            new Comparison("READ accuracy", new Proportion(961, 2000), new Proportion(802, 2000)),
            new Comparison("exact format", new Proportion(1993, 2000), new Proportion(2000, 2000)),
            new Fact("Throughput", "41,300 tokens/s"),
            new Fact("Training time", "3 min 52 s"),
            new Fact("Responses", "512,000")),
        config,
        metrics(),
        pictures());
  }

  private static List<Map<String, Object>> metrics() {
    Random random = new Random(1);
    List<Map<String, Object>> rows = new ArrayList<>();
    for (int step = 1; step <= 300; step++) {
      rows.add(
          Map.of(
              "step",
              step,
              "stage",
              "sft",
              "loss",
              2.3 * Math.exp(-step / 90.0) + 0.3 + 0.08 * random.nextGaussian()));
    }
    for (int step = 1; step <= 1000; step++) {
      double rise = 1 - Math.exp(-step / 300.0);
      double accuracy = 0.54 + 0.1 * rise + 0.04 * random.nextGaussian();
      rows.add(
          Map.of(
              "step",
              step,
              "stage",
              "ral",
              "accuracy",
              accuracy,
              "reward",
              0.9 * accuracy + 0.1,
              "kl",
              0.004 * rise * (1 + 0.3 * random.nextGaussian()),
              "entropy",
              1.1 - 0.4 * rise + 0.03 * random.nextGaussian(),
              "attention_divergence",
              1e-4 * rise * Math.exp(0.4 * random.nextGaussian()),
              "tokens_per_second",
              41_300));
      if (step % 200 == 0 || step == 1) {
        Proportion share = new Proportion(Math.round(2000 * (0.54 + 0.085 * rise)), 2000);
        rows.add(
            Map.of(
                "step",
                step,
                "stage",
                "eval",
                "policy_step",
                step == 1 ? 0 : step,
                "accuracy",
                share.rate(),
                "accuracy_low",
                share.low(),
                "accuracy_high",
                share.high()));
      }
    }
    return rows;
  }

  private static List<AttentionPicture> pictures() {
    Random random = new Random(2);
    List<AttentionPicture> pictures = new ArrayList<>();
    for (Example example : Examples.training(2, 1, TaskMixture.parse("count+read")).heldOut(6)) {
      float[] before = new float[16];
      float[] after = new float[16];
      for (int i = 0; i < 16; i++) {
        before[i] = 0.03f + 0.05f * random.nextFloat();
        after[i] = (float) Math.pow(random.nextFloat(), 4) / 4;
      }
      String truth = Vocabulary.decode(example.truth());
      pictures.add(
          new AttentionPicture(
              example.image().canvas(),
              example.image().side(),
              4,
              Vocabulary.decode(example.question()),
              truth,
              new Glance(
                  pictures.size() % 3 == 0 ? truth : pictures.size() == 1 ? "" : "7", before),
              new Glance(pictures.size() == 4 ? "1" : truth, after),
              List.of()));
    }
    return pictures;
  }

  private static Document parse(String xml) throws Exception {
    return DocumentBuilderFactory.newInstance()
        .newDocumentBuilder()
        .parse(new ByteArrayInputStream(xml.getBytes(StandardCharsets.UTF_8)));
  }

  private static List<String> ids(Document page, String tag) {
    return elements(page, tag).stream()
        .filter(element -> element.hasAttribute("id"))
        .map(element -> element.getAttribute("id"))
        .toList();
  }

  private static List<String> text(Document page, String tag) {
    return elements(page, tag).stream().map(Element::getTextContent).toList();
  }

  private static List<Element> elements(Document page, String tag) {
    NodeList nodes = page.getElementsByTagName(tag);
    List<Element> elements = new ArrayList<>();
    for (int i = 0; i < nodes.getLength(); i++) {
      elements.add((Element) nodes.item(i));
    }
    return elements;
  }
}
