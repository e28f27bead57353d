package dev.saccade.train.experiment;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import dev.saccade.Context;
import dev.saccade.train.Algorithm;
import dev.saccade.train.ConfigTree;
import dev.saccade.train.RunFolder;
import dev.saccade.train.TrainConfig;
import dev.saccade.train.experiment.Experiment.Plan;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.function.BooleanSupplier;
import java.util.regex.Pattern;
import java.util.stream.Stream;
import javax.xml.parsers.DocumentBuilderFactory;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;

class ExperimentTest {
  private static final String FILE =
      """
      title: Rules & < small
      seeds: [1, 2, 3]
      common:
        preset: tiny
        evaluationScenes: 64
        evaluationInterval: 5
        checkpointInterval: 2
        rl: {steps: 4, prompts: 8, minibatches: 2, epochs: 2}
      warmup:
        task: read+count
        sft: {steps: 20, batch: 16}
      teacher:
        model: {width: 48, layers: 2}
        sft: {steps: 10, batch: 16}
      axes:
        task:
          read: {task: read}
          count: {task: count}
        rule:
          base: {rl: {steps: 0}}
          sft: {algorithm: sft}
          grpo: {algorithm: grpo}
          gkd: {algorithm: gkd}
      compare: {rule: [base, grpo]}
      evaluate: [read, count]
      """;

  @TempDir private Path folder;

  private Experiment experiment(String text) throws IOException {
    Path file = folder.resolve("experiment.yaml");
    Files.writeString(file, text);
    return Experiment.read(file, null, ConfigTree.of(Map.of()));
  }

  /** What happens, in order. */
  private static final class Log implements ExperimentRunner.Listener {
    final List<String> begun = new ArrayList<>();
    final List<String> failed = new ArrayList<>();

    @Override
    public void begins(String name) {
      begun.add(name);
    }

    @Override
    public void ended(String name, int finished, int plans) {}

    @Override
    public void failed(String name, Exception reason) {
      failed.add(name + ": " + reason.getMessage());
    }
  }

  private boolean run(Experiment experiment, String out, int jobs, BooleanSupplier stop, Log log)
      throws IOException, InterruptedException {
    return new ExperimentRunner(
            experiment, folder.resolve(out), () -> Context.builder().threads(1).build(), stop, log)
        .run(jobs);
  }

  private String read(String file) throws IOException {
    return Files.readString(folder.resolve(file));
  }

  /** Lines of the archive without what a clock measured, sorted. */
  private List<String> archive(String out) throws IOException {
    return Files.readAllLines(folder.resolve(out + "/results.jsonl")).stream()
        .map(line -> line.replaceAll("\"([a-z]*_?seconds|tokens_per_second)\":[^,}]*", ""))
        .sorted()
        .toList();
  }

  @Test
  void plansAreCombinationsOfChoicesAndSeeds() throws IOException {
    Experiment experiment = experiment(FILE);

    assertThat(experiment.variants())
        .extracting(Experiment.Variant::name)
        .containsExactly(
            "read/base",
            "read/sft",
            "read/grpo",
            "read/gkd",
            "count/base",
            "count/sft",
            "count/grpo",
            "count/gkd");
    assertThat(experiment.plans()).hasSize(24);
    assertThat(experiment.plans().subList(0, 8))
        .extracting(plan -> plan.config().seed())
        .containsOnly(1L);
    assertThat(experiment.plans().stream().map(Plan::key).distinct()).hasSize(24);
    assertThat(experiment.plans().stream().map(Plan::warmup).distinct())
        .as("one for each seed")
        .hasSize(3);
    Plan grpo = experiment.plans().get(2);
    Plan sft = experiment.plans().get(1);
    assertThat(grpo.config().sft().steps()).isZero();
    assertThat(grpo.config().room()).isEqualTo("read+count");
    assertThat(grpo.teacher()).isNull();
    assertThat(grpo.warmup().config().algorithm()).isEqualTo(Algorithm.SFT);
    assertThat(grpo.warmup().config().task()).isEqualTo("read+count");
    // As many optimizer steps, and as many responses in each.
    assertThat(sft.config().sft().steps()).isEqualTo(4 * 2 * 2);
    assertThat(sft.config().sft().batch()).isEqualTo(8 / 2 * 4);
    assertThat(sft.config().task()).isEqualTo("read");
    assertThat(experiment.plans().get(3).teacher().config().model().width()).isEqualTo(48);
  }

  @Test
  void choicesThatShapeThePolicyHaveTheirOwnWarmUp() throws IOException {
    Experiment experiment =
        experiment(
            FILE.replace(
                "sft: {algorithm: sft}", "sft: {patch: 7, algorithm: sft, rl: {group: 8}}"));

    TrainConfig warmup = experiment.plans().get(1).warmup().config();
    assertThat(warmup.patch()).isEqualTo(7);
    assertThat(warmup.rl().group()).isEqualTo(4);
    assertThat(experiment.plans().stream().map(Plan::warmup).distinct()).hasSize(6);
  }

  @Test
  void everyRunIsDoneOnceAndTheTableComparesThem() throws Exception {
    Experiment experiment = experiment(FILE);
    Log log = new Log();

    assertThat(run(experiment, "out", 2, () -> false, log)).isTrue();

    assertThat(log.failed).isEmpty();
    // A warm-up and a teacher for each seed.
    assertThat(log.begun).hasSize(24 + 3 + 3).doesNotHaveDuplicates();
    assertThat(archive("out")).hasSize(24);
    String table = read("out/table.md");
    assertThat(table).startsWith("| task | rule | asked | accuracy | − base | − grpo | seeds |");
    assertThat(table)
        .containsPattern(
            "\\| read \\| grpo \\| read \\| 0\\.\\d{3} ± 0\\.\\d{3} \\|"
                + " (\\*\\*)?[+−]0\\.\\d{3} ± 0\\.\\d{3}(\\*\\*)? \\([+−]\\d+ %\\) \\|  \\| 3 \\|")
        .containsPattern("\\| count \\| gkd \\| read \\| 0\\.");
    assertThat(table.lines().filter(line -> line.startsWith("| ") && line.endsWith("| 3 |")))
        .hasSize(16);
    // The base of a seed is the same policy whatever task comes next.
    assertThat(accuracy(table, "read", "base", "count"))
        .isEqualTo(accuracy(table, "count", "base", "count"));
    assertThat(read("out/table.csv").lines()).hasSize(1 + 16);
    assertThat(read("out/results.csv").lines()).hasSize(1 + 24 * 2);
    String figure = read("out/figure.svg");
    assertThat(figure).contains("Rules &amp; &lt; small").contains("count · gkd  on read");
    DocumentBuilderFactory.newInstance()
        .newDocumentBuilder()
        .parse(folder.resolve("out/figure.svg").toFile());

    Log again = new Log();
    assertThat(run(experiment, "out", 1, () -> false, again)).isTrue();
    assertThat(again.begun).isEmpty();
    assertThat(read("out/table.md")).isEqualTo(table);

    // The archive alone is enough.
    Files.createDirectories(folder.resolve("copy"));
    String archive = read("out/results.jsonl");
    assertThat(archive.lines()).allMatch(line -> line.contains(",\"device\":\"cpu\","));
    assertThat(read("out/results.csv").lines().skip(1)).allMatch(line -> line.contains(",cpu,"));
    // One that does not say the device, or what runs began with, counts too.
    Files.writeString(
        folder.resolve("copy/results.jsonl"),
        archive.replace(",\"device\":\"cpu\"", "").replaceAll(",\"begins\":\"\\w+\"", ""));
    assertThat(run(experiment, "copy", 1, () -> false, again)).isTrue();
    assertThat(again.begun).isEmpty();
    assertThat(read("copy/table.md")).isEqualTo(table);
  }

  private static String accuracy(String table, String task, String rule, String asked) {
    String start = "| %s | %s | %s |".formatted(task, rule, asked);
    return table
        .lines()
        .filter(line -> line.startsWith(start))
        .map(line -> line.substring(start.length(), line.indexOf('|', start.length())))
        .findFirst()
        .orElseThrow();
  }

  /** Stopped again and again, at any step, as by a budget; and a line that a crash cut short. */
  @Test
  void aStoppedExperimentGoesOnAsIfItWasNot() throws Exception {
    String small = FILE.replace("[1, 2, 3]", "[1, 2]").replaceAll(" *count: .*\n", "");
    Experiment experiment = experiment(small);
    assertThat(run(experiment, "whole", 1, () -> false, new Log())).isTrue();

    boolean done = false;
    for (int part = 0; !done; part++) {
      AtomicInteger asked = new AtomicInteger();
      done = run(experiment, "parts", 1, () -> asked.getAndIncrement() > 23, new Log());
      assertThat(part).isLessThan(60);
      if (part == 6) {
        Path archive = folder.resolve("parts/results.jsonl");
        if (Files.exists(archive) && Files.size(archive) > 100) {
          String text = Files.readString(archive);
          Files.writeString(archive, text.substring(0, text.length() - 60));
        }
      }
    }

    assertThat(archive("parts")).isEqualTo(archive("whole"));
    assertThat(read("parts/table.md")).isEqualTo(read("whole/table.md"));
  }

  @Test
  void aRunThatFailsLeavesTheOthers() throws Exception {
    Experiment experiment =
        experiment(
            FILE.replace("[1, 2, 3]", "[1]")
                .replaceAll(" *count: .*\n", "")
                .replace(
                    "grpo: {algorithm: grpo}",
                    "grpo: {rl: {optimizer: {learningRate: 3.0e38, warmup: 0}}}"));
    Log log = new Log();

    assertThat(run(experiment, "out", 2, () -> false, log)).isFalse();

    assertThat(log.failed)
        .singleElement()
        .asString()
        .startsWith("read_grpo-s1-")
        .contains("is not finite");
    assertThat(archive("out")).hasSize(3);
    assertThat(read("out/table.md")).doesNotContain("| read | grpo |").contains("| read | gkd |");
    try (Stream<Path> runs = Files.list(folder.resolve("out/runs"))) {
      assertThat(runs.filter(run -> run.getFileName().toString().startsWith("warmup")))
          .allSatisfy(run -> assertThat(RunFolder.open(run).last()).exists());
    }
  }

  /** Of a hundred questions of {@code read}. */
  private static Archive.Result result(
      Plan plan, String device, String begins, long right, Map<String, Double> metrics) {
    return new Archive.Result(
        plan.key(),
        plan.variant().name(),
        plan.config().seed(),
        "c",
        device,
        begins,
        8,
        128,
        1,
        Map.of("read", new Archive.Answers(right, 100)),
        metrics);
  }

  @Test
  void differencesArePairedBySeed() throws Exception {
    Experiment experiment = experiment(FILE);
    Path file = folder.resolve("paired.jsonl");
    Archive archive = new Archive(file);
    for (Plan plan : experiment.plans()) {
      // Seeds differ widely, rules hardly.
      long base = 20 * plan.config().seed();
      String rule = plan.variant().labels().get("rule");
      if (!rule.equals("sft")) {
        long right = base + (rule.equals("grpo") ? 2 : 0);
        archive.add(result(plan, "cpu", null, right, Map.of()));
      }
    }

    List<ResultTable.Row> rows = new ResultTable(experiment, new Archive(file)).rows();

    assertThat(rows).extracting(row -> row.variant().name()).doesNotContain("read/sft");
    ResultTable.Row grpo = rows.get(1);
    assertThat(grpo.variant().name()).isEqualTo("read/grpo");
    assertThat(grpo.accuracy().mean()).isCloseTo(0.42, within(1e-9));
    assertThat(grpo.accuracy().halfWidth()).isCloseTo(4.3027 * 0.2 / Math.sqrt(3), within(1e-4));
    assertThat(grpo.differences().get(0).accuracy().mean()).isCloseTo(0.02, within(1e-9));
    assertThat(grpo.differences().get(0).accuracy().halfWidth()).isCloseTo(0, within(1e-9));
    assertThat(grpo.differences().get(0).relative()).isCloseTo(0.05, within(1e-9));
    assertThat(grpo.differences().get(1)).isNull();
  }

  /**
   * Another build may warm up to another policy; where an archive does not say, a GPU and a
   * processor do.
   */
  @ParameterizedTest
  @ValueSource(booleans = {true, false})
  void runsThatBeganWithOtherPoliciesAreNoPairs(boolean says) throws Exception {
    Experiment experiment = experiment(FILE);
    Path file = folder.resolve("devices.jsonl");
    Archive archive = new Archive(file);
    for (Plan plan : experiment.plans()) {
      long seed = plan.config().seed();
      boolean grpo = plan.variant().labels().get("rule").equals("grpo");
      String device = seed == 1 ? "cpu" : seed == 2 && grpo ? "cuda:1" : "cuda:0";
      archive.add(
          result(
              plan,
              grpo && seed == 3 && !says ? "cpu" : device,
              !says ? null : grpo && seed == 3 ? "b" : "a",
              10 * seed + (grpo ? seed : 0),
              Map.of("rule", 0.5, "entropy", 0.25)));
    }
    ResultTable table = new ResultTable(experiment, new Archive(file));
    ResultTable.Row grpo = table.rows().get(2);
    assertThat(grpo.variant().name()).isEqualTo("read/grpo");
    assertThat(grpo.accuracy().n()).isEqualTo(3);
    assertThat(grpo.differences().get(0).accuracy().n()).isEqualTo(2);
    assertThat(grpo.differences().get(0).accuracy().mean()).isCloseTo(0.015, within(1e-9));
    assertThat(grpo.differences().get(0).relative()).isCloseTo(0.1, within(1e-9));

    // A metric of the name of an axis has a column of its own.
    table.write(folder);
    assertThat(read("results.csv"))
        .startsWith("task,rule,seed,asked,")
        .containsPattern("device,begins,entropy,last_rule\n");
  }

  /** What is finished is not asked again: that needs another folder. */
  @Test
  void otherQuestionsNeedAnotherFolder() throws Exception {
    Experiment few = experiment(FILE.replace("evaluate: [read, count]", "evaluate: [read]"));
    Files.createDirectories(folder.resolve("asked"));
    Archive archive = new Archive(folder.resolve("asked/results.jsonl"));
    for (Plan plan : few.plans()) {
      archive.add(result(plan, "cpu", null, 1, Map.of()));
    }
    assertThat(run(few, "asked", 1, () -> false, new Log())).isTrue();
    Experiment more = experiment(FILE);
    boolean isSame = more.plans().get(0).key().equals(few.plans().get(0).key());
    assertThat(isSame).as("asking does not change how a policy is trained").isTrue();
    assertThatThrownBy(() -> run(more, "asked", 1, () -> false, new Log()))
        .isInstanceOf(IllegalArgumentException.class)
        .hasMessage(
            "evaluate: expected what finished runs in %s were asked, [read], or another --out; got [read, count]"
                .formatted(folder.resolve("asked")));
  }

  @Test
  void seedsOfTheCommandLineDifferToo() throws Exception {
    Path file = folder.resolve("seeds.yaml");
    Files.writeString(file, FILE);
    assertThatThrownBy(() -> Experiment.read(file, List.of(1L, 1L), ConfigTree.of(Map.of())))
        .isInstanceOf(IllegalArgumentException.class)
        .hasMessage("--seeds: expected integers that differ, got [1, 1]");
  }

  @ParameterizedTest
  @CsvSource(
      delimiter = '|',
      value = {
        "seeds: [1, 2, 3]       | seeds: [1, 1]            | seeds: expected integers that differ, got [1,1]",
        "seeds: [1, 2, 3]       | seeds: []                | seeds: expected a list of one or more, got none",
        "seeds: [1, 2, 3]       | sedes: [1]               | sedes: is not the name of a value; known here: title, seeds, evaluate, common, warmup,",
        "read: {task: read}     | read: {task: raed}       | unknown task \"raed\"",
        "read: {task: read}     | read: {taks: read}       | taks: is not the name of a value; known here: ",
        "read: {task: read}     | read: 3                  | axes.task.read: expected a mapping, got 3",
        "rule: [base, grpo]     | rule: [bsae]             | compare.rule: expected choices of that axis, got bsae",
        "rule: [base, grpo]     | rule: base               | compare.rule: expected a list, got \"base\"",
        "evaluate: [read, count] | evaluate: [raed]        | unknown task \"raed\"",
        "batch: 16}             | batch: 0}                | sft.batch: expected 1 or more, got 0",
      })
  void mistakesAreNamed(String right, String wrong, String message) {
    assertThat(FILE).contains(right);
    assertThatThrownBy(() -> experiment(FILE.replaceFirst(Pattern.quote(right), wrong)))
        .isInstanceOf(IllegalArgumentException.class)
        .hasMessageStartingWith(message);
  }

  @Test
  void whoDistilsNeedsATeacher() {
    assertThatThrownBy(() -> experiment(FILE.replaceFirst("(?s)teacher:.*?axes", "axes")))
        .hasMessage("teacher: expected one for read/gkd, which distils, got none");
    assertThatThrownBy(() -> experiment("title: nothing\nseeds: [1]\n"))
        .hasMessage("axes: expected an axis or more, got none");
  }
}
